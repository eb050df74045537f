//! What the merchant receives, byte by byte, and what is kept of the answer.
//!
//! Never reads a request through a parser that could mend it.

use super::receiver::{OK, Receiver};
use super::*;
use crate::clock::Clock;
use crate::policy::signature::{self, StandardHeaders};

#[tokio::test]
async fn the_request_is_exactly_as_documented() {
    let receiver = Receiver::answering(OK);
    let mut endpoint = endpoint(&format!("http://{}/hooks/a%20b?x=1&y=%2F", receiver.address));
    endpoint.old_secrets = grace("old secret");
    let mut parcel = parcel(endpoint);
    parcel.number = 3;
    parcel.traceparent = Some(Arc::from("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    let body = parcel.payload.clone();
    let attempt = send(&transport(Limits::default()), parcel.clone()).await;
    assert_delivered(&attempt);

    let sent = attempt.sent.unwrap();
    let requests = receiver.requests();
    let new = Secret::new("new secret").unwrap();
    let old = Secret::new("old secret").unwrap();
    let simple = |secret: &Secret| {
        let value = requests[0].head.lines().filter_map(|line| line.split_once(": "));
        let mut values = value
            .filter(|(name, value)| name.starts_with("X-Webhook-Signature") && signature::verify(secret, &body, value));
        values.next().expect("one signature fits").1.to_owned()
    };
    let expect = [
        "POST /hooks/a%20b?x=1&y=%2F HTTP/1.1".to_owned(),
        format!("Host: {}", receiver.address),
        "Content-Type: application/json".to_owned(),
        "User-Agent: Posthaste/0.1.0".to_owned(),
        format!("X-Webhook-Signature: {}", simple(&new)),
        format!("X-Webhook-Signature-Previous: {}", simple(&old)),
        "X-Webhook-Event: card_transaction".to_owned(),
        "X-Webhook-Attempt: 3".to_owned(),
        "X-Webhook-Sequence: 1042".to_owned(),
        format!("Webhook-Id: {}", parcel.event),
        format!("Webhook-Timestamp: {}", sent.timestamp_s),
        format!("Webhook-Signature: {}", signature::standard(&sent).unwrap()),
        "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        "Accept-Encoding: identity".to_owned(),
        format!("Content-Length: {}", body.len()),
    ];
    assert_eq!(requests[0].head, format!("{}\r\n\r\n", expect.join("\r\n")));
    assert_eq!(requests[0].body, body);

    let headers = StandardHeaders {
        id: requests[0].header("webhook-id").unwrap(),
        timestamp: requests[0].header("webhook-timestamp").unwrap(),
        signature: requests[0].header("webhook-signature").unwrap(),
    };
    for secret in [&new, &old] {
        assert_eq!(signature::verify_standard(secret, headers, &body, SystemClock.now(), 30), Ok(()));
    }
}

#[tokio::test]
async fn without_a_secret_nothing_is_signed() {
    let receiver = Receiver::answering(OK);
    let unsigned = Endpoint { secret: None, old_secrets: grace("old"), ..endpoint(&receiver.url()) };
    let attempt = send(&transport(Limits::default()), parcel(unsigned)).await;
    assert_delivered(&attempt);
    let request = &receiver.requests()[0];
    for name in ["x-webhook-signature", "x-webhook-signature-previous", "webhook-signature", "traceparent"] {
        assert_eq!(request.header(name), None, "{name}");
    }
    assert!(request.header("webhook-id").is_some() && request.header("webhook-timestamp").is_some());
}

#[tokio::test]
async fn the_payload_leaves_as_it_came() {
    let receiver = Receiver::answering(OK);
    let transport = transport(Limits::default());
    let large: Vec<u8> = (0..256 * 1024).map(|at: u32| at.to_le_bytes()[at as usize % 3]).collect();
    let payloads: [&[u8]; 6] = [
        b"",
        b"{}",
        br#" { "a" : 1.0e400, "a": "\u0000\ud800", "z":{"__proto__":[]} } "#,
        "{\"é\":\"\u{202e}\u{feff}\r\n\0\"}".as_bytes(),
        b"\xff\xfe\x00POST / HTTP/1.1\r\n\r\n",
        &large,
    ];
    for payload in payloads {
        let parcel = Parcel { payload: Bytes::copy_from_slice(payload), ..parcel(endpoint(&receiver.url())) };
        assert_delivered(&send(&transport, parcel).await);
        let requests = receiver.requests();
        assert!(requests.last().unwrap().body == payload, "{} bytes", payload.len());
    }
}

#[tokio::test]
async fn a_status_means_what_it_says() {
    let check = async |status: u16, expect: Option<ErrorCode>| {
        let receiver = Receiver::answering(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n"));
        let attempt = try_once(Limits::default(), &receiver.url()).await;
        assert_eq!((attempt.outcome.status(), attempt.outcome.error()), (Some(status), expect), "{attempt:?}");
        assert!(attempt.sent.is_some() && attempt.response.is_some());
        assert!(attempt.phases.connect_us.is_some() && attempt.phases.head_us.is_some());
        assert_eq!((attempt.phases.dns_us, attempt.phases.tls_us), (None, None));
    };
    for status in [200, 201, 202, 299] {
        check(status, None).await;
    }
    for status in [400, 401, 404, 429, 500, 503, 599, 600, 999] {
        check(status, Some(ErrorCode::HttpStatus)).await;
    }
    check(410, Some(ErrorCode::Gone)).await;
}

#[tokio::test]
async fn a_204_needs_no_body() {
    let receiver = Receiver::answering("HTTP/1.1 204 No Content\r\n\r\n");
    let transport = transport(Limits::default());
    for _ in 0..2 {
        let attempt = send(&transport, parcel(endpoint(&receiver.url()))).await;
        assert_eq!(attempt.outcome, Outcome::Success { status: 204 });
        assert!(!attempt.response.unwrap().truncated);
    }
    assert_eq!(receiver.accepted(), 1);
}

#[tokio::test]
async fn redirects_are_never_followed() {
    let canary = Receiver::answering(OK);
    for status in [301, 302, 303, 307, 308] {
        let location = canary.url();
        let receiver =
            Receiver::answering(format!("HTTP/1.1 {status} x\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"));
        let attempt = try_once(Limits::default(), &receiver.url()).await;
        assert_failed(&attempt, ErrorCode::Redirect);
        let kept = (String::from("location"), location.into_bytes());
        assert!(attempt.response.unwrap().headers.contains(&kept));
    }
    assert_eq!(canary.accepted(), 0);
}

#[tokio::test]
async fn retry_after_is_read() {
    let receiver = Receiver::answering("HTTP/1.1 503 x\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n");
    let attempt = try_once(Limits::default(), &receiver.url()).await;
    assert!(matches!(attempt.outcome, Outcome::Failure { retry_after_ms: Some(120_000), .. }), "{attempt:?}");
}

#[tokio::test]
async fn the_answer_is_kept_up_to_its_bound() {
    let check = async |len: usize, truncated: bool| {
        let body = "x".repeat(len);
        let receiver = Receiver::answering(format!("HTTP/1.1 500 x\r\nX-A: b\r\nContent-Length: {len}\r\n\r\n{body}"));
        let response = try_once(Limits::default(), &receiver.url()).await.response.unwrap();
        assert_eq!(response.body, body[..len.min(4096)], "{len}");
        assert_eq!(response.truncated, truncated, "{len}");
        assert_eq!(response.headers[0], ("x-a".to_owned(), b"b".to_vec()));
    };
    check(0, false).await;
    check(4096, false).await;
    check(4097, true).await;
    check(100_000, true).await;
}

#[tokio::test]
async fn a_compressed_body_stays_compressed() {
    let receiver =
        Receiver::answering(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\xff");
    let attempt = try_once(Limits::default(), &receiver.url()).await;
    assert_delivered(&attempt);
    assert_eq!(attempt.response.unwrap().body, &b"\x1f\x8b\x08\xff"[..]);
}

#[tokio::test]
async fn nobody_listening_is_a_refusal() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let attempt = try_once(Limits::default(), &format!("http://{closed}/")).await;
    assert_failed(&attempt, ErrorCode::ConnectRefused);
    assert!(attempt.sent.is_none() && attempt.response.is_none());
}

#[tokio::test]
async fn a_stored_url_is_judged_again() {
    let canary = Receiver::answering(OK);
    let strict = HyperTransport::new(Settings { rules: Rules::default(), ..settings(Limits::default()) }).unwrap();
    for url in [canary.url(), canary.url().replace("http", "https"), "https://localhost/".into(), "nonsense".into()] {
        assert_failed(&send(&strict, parcel(endpoint(&url))).await, ErrorCode::BlockedDestination);
    }
    assert_eq!(canary.accepted(), 0);
}
