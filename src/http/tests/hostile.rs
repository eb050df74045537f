//! What a hostile or broken client sees, as raw bytes (reliability.md S44 to S50).
//!
//! Never needs more than small limits and patience for them.

use super::*;

const TOO_LARGE: usize = BODY_MAX + 1;

#[tokio::test]
async fn bad_framing_is_refused_and_ends_the_connection() {
    let rig = Rig::start(Limits::default()).await;
    let many_headers: String = (0..70).map(|i| format!("X-{i}: 1\r\n")).collect();
    for (name, request, status) in [
        ("no host", "GET /hello/a HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("two hosts", "GET /hello/a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n".into(), 400),
        ("two hosts in one", "GET /hello/a HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), 400),
        ("empty host", "GET /hello/a HTTP/1.1\r\nHost:\r\n\r\n".into(), 400),
        ("host with a path", "GET /hello/a HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), 400),
        ("host with a user", "GET /hello/a HTTP/1.1\r\nHost: u@a\r\n\r\n".into(), 400),
        ("unknown coding", "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("identity coding", "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("identity only", "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n".into(), 400),
        ("coding twice", "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("coding in HTTP/1.0", "POST /echo HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("two lengths", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".into(), 400),
        ("length list", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\na".into(), 400),
        ("length with a sign", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\na".into(), 400),
        ("length in words", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1e18\r\n\r\n".into(), 400),
        ("space before colon", "GET /hello/a HTTP/1.1\r\nHost : h\r\n\r\n".into(), 400),
        ("folded header", "GET /hello/a HTTP/1.1\r\nHost: h\r\nX: 1\r\n 2\r\n\r\n".into(), 400),
        ("nul in a header", "GET /hello/a HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n".into(), 400),
        ("bare CR", "GET /hello/a HTTP/1.1\r\nHost: h\rX: 1\r\n\r\n".into(), 400),
        ("not HTTP", "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03\r\n\r\n".into(), 400),
        ("connect", "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n".into(), 400),
        ("bad chunk", "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n".into(), 400),
        ("long URI", format!("GET /hello/{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(2048)), 414),
        ("very long URI", format!("GET /hello/{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(70_000)), 431),
        ("many headers", format!("GET /hello/a HTTP/1.1\r\nHost: h\r\n{many_headers}\r\n"), 431),
        ("large header", format!("GET /hello/a HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "a".repeat(500_000)), 431),
    ] {
        let answers = rig.exchange(request + "GET /hello/smuggled HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(statuses(&answers), [status], "{name}: {answers}");
        assert!(!answers.contains("smuggled"), "{name}: {answers}");
        assert!(header(&answers, "request-id").is_some(), "{name}: {answers}");
        assert_eq!(header(&answers, "cache-control"), Some("no-store"), "{name}: {answers}");
        assert_eq!(body_json(&answers)["status"], status, "{name}: {answers}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn what_follows_a_request_and_is_none_is_refused_like_the_first() {
    let rig = Rig::start(Limits::default()).await;
    let request = "GET /hello/a HTTP/1.1\r\nHost: h\r\n\r\n";
    let at_once = rig.exchange(format!("{request}{request}nonsense\r\n\r\n")).await;
    let mut client = rig.connect().await;
    client.send(request).await;
    let first = client.answer().await;
    client.send(request).await;
    let second = client.answer().await;
    client.send("nonsense\r\n\r\n").await;
    let one_by_one = [first, second, client.rest().await].concat();
    for answers in [at_once, one_by_one] {
        assert_eq!(statuses(&answers), [200, 200, 400], "{answers}");
        let last = &answers[answers.rfind("HTTP/1.1 400").expect("it is there")..];
        assert!(header(last, "request-id").is_some(), "{last}");
        assert_eq!(body_json(last)["code"], "malformed_request", "{last}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn what_is_just_within_the_limits_is_served() {
    let rig = Rig::start(Limits::default()).await;
    let headers: String = (0..62).map(|i| format!("X-{i}: 1\r\n")).collect();
    let path = format!("/hello/{}", "a".repeat(2048 - "/hello/".len()));
    for (name, request) in [
        ("URI", format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")),
        ("headers", format!("GET /hello/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n")),
        ("head", format!("GET /hello/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: {}\r\n\r\n", "a".repeat(16_000))),
        ("old HTTP", "GET /hello/a HTTP/1.0\r\n\r\n".to_owned()),
        ("host with a port", "GET /hello/a HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: close\r\n\r\n".to_owned()),
    ] {
        let answer = rig.exchange(request).await;
        assert!(answer.contains(" 200 OK"), "{name}: {answer}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn length_beside_chunks_ends_the_connection() {
    let rig = Rig::start(Limits::default()).await;
    for headers in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"]
    {
        let smuggled = "GET /hello/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
        let answers = rig.exchange(format!("POST /echo HTTP/1.1\r\nHost: h\r\n{headers}\r\n0\r\n\r\n{smuggled}")).await;
        assert_eq!(statuses(&answers), [200], "{answers}");
        assert!(!answers.contains("smuggled"));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_read() {
    let rig = Rig::start(Limits::default()).await;
    let body = "x".repeat(BODY_MAX);
    for (framing, sent) in [
        (format!("Content-Length: {BODY_MAX}"), body.clone()),
        ("Transfer-Encoding: chunked".to_owned(), format!("{BODY_MAX:x}\r\n{body}\r\n0\r\n\r\n")),
    ] {
        let answer = rig
            .exchange(format!("POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{framing}\r\n\r\n{sent}"))
            .await;
        assert_eq!(statuses(&answer), [200], "{framing}");
        assert!(answer.ends_with(&body));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_not_reset() {
    let rig = Rig::start(Limits::default()).await;
    let body = "x".repeat(TOO_LARGE);
    let chunks = format!("8000\r\n{}\r\n", "x".repeat(0x8000)).repeat(9);
    for (name, framing, sent) in [
        ("announced", format!("Content-Length: {TOO_LARGE}"), body.as_str()),
        ("announced and enormous", "Content-Length: 1000000000000000000".to_owned(), body.as_str()),
        ("announced and awaited", format!("Expect: 100-continue\r\nContent-Length: {TOO_LARGE}"), ""),
        ("chunked without end", "Transfer-Encoding: chunked".to_owned(), chunks.as_str()),
    ] {
        let answer = rig.exchange(format!("POST /echo HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n{sent}")).await;
        assert_eq!(statuses(&answer), [413], "{name}: {answer}");
        assert_eq!(body_json(&answer)["code"], "body_too_large", "{name}");
        assert_eq!(header(&answer, "connection"), Some("close"), "{name}");
        assert!(!answer.contains("100 Continue"), "{name}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_answer_before_the_body_reaches_a_client_that_goes_on_sending() {
    let rig = Rig::start(Limits::default()).await;
    let body = "x".repeat(800_000);
    let answer =
        rig.exchange(format!("POST /ignore HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\n{body}")).await;
    assert_eq!(statuses(&answer), [204]);
    rig.stop().await;
}

#[tokio::test]
async fn bodies_in_memory_are_bounded_over_all_connections() {
    let rig = Rig::start(Limits { body_bytes_in_flight_max: 1000, ..Limits::default() }).await;
    let request = |length: usize, sent: usize| {
        let body = "x".repeat(sent);
        format!("POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    assert_eq!(statuses(&rig.exchange(request(1000, 1000)).await), [200]);
    let refused = rig.exchange(request(1001, 1001)).await;
    assert_eq!(statuses(&refused), [503]);
    assert_eq!(header(&refused, "retry-after"), Some("1"));
    assert_eq!(statuses(&rig.exchange(request(1000, 1000)).await), [200], "a refused body is forgotten");
    rig.stop().await;
}

#[tokio::test]
async fn a_body_that_drips_times_out() {
    let rig = Rig::start(Limits { body_timeout_ms: 150, ..Limits::default() }).await;
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let mut client = rig.connect().await;
        client.send(format!("POST /echo HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n")).await;
        client.send("1").await;
        let answer = client.rest().await;
        assert_eq!(statuses(&answer), [408], "{framing}: {answer}");
        assert_eq!(body_json(&answer)["code"], "body_timeout");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_is_silent_or_drips_is_closed() {
    let short = 150;
    let long = 3_600_000;
    for (name, limits, sent, expect) in [
        ("silent", Limits { head_timeout_ms: short, keep_alive_idle_ms: long, ..Limits::default() }, "", 0),
        (
            "half a head",
            Limits { head_timeout_ms: short, keep_alive_idle_ms: long, ..Limits::default() },
            "GET / HT",
            0,
        ),
        (
            "silent after an answer",
            Limits { head_timeout_ms: long, keep_alive_idle_ms: short, ..Limits::default() },
            "GET /hello/a HTTP/1.1\r\nHost: h\r\n\r\n",
            1,
        ),
    ] {
        let rig = Rig::start(limits).await;
        let answers = rig.exchange(sent).await;
        assert_eq!(statuses(&answers).len(), expect, "{name}: {answers}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_head_that_begins_after_a_pause_has_the_short_deadline() {
    let rig = Rig::start(Limits { head_timeout_ms: 150, keep_alive_idle_ms: 3_600_000, ..Limits::default() }).await;
    let mut client = rig.connect().await;
    client.send("GET /hello/a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    client.answer().await;
    client.send("GET /hello/b HT").await;
    assert_eq!(client.rest().await, "");
    rig.stop().await;
}

#[tokio::test]
async fn a_slow_handler_is_not_taken_for_a_silent_client() {
    let limits = Limits { head_timeout_ms: 50, keep_alive_idle_ms: 50, ..Limits::default() };
    let rig = Rig::start(limits).await;
    let mut client = rig.connect().await;
    client.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await;
    rig.stage.entered.notified().await;
    let mut idle = rig.connect().await;
    assert_eq!(idle.rest().await, "", "an idle connection ends meanwhile");
    rig.stage.release.notify_one();
    assert!(client.answer().await.ends_with("\"done\""));
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed() {
    let rig = Rig::start(Limits { write_timeout_ms: 150, ..Limits::default() }).await;
    let mut client = rig.connect().await;
    client.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut first = [0; 1];
    client.0.read_exact(&mut first).await.expect("an answer begins");
    let drained = rig.stop().await;
    assert_eq!(drained.abandoned, 0, "the connection ended by itself, long before the drain's own end");
}
