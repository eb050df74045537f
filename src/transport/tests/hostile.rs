//! Receivers that drip, flood, lie, or fall silent.
//!
//! Never trusts that an attempt ends: every one of these would hang or swell without its bound.

use super::receiver::{OK, Receiver};
use super::*;

async fn fails(answer: impl Into<Vec<u8>>, error: ErrorCode) {
    let answer = answer.into();
    let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
    let receiver = Receiver::start(move |peer| peer.answer_once(&answer));
    let attempt = try_once(Limits { timeout_ms: 5_000, ..Limits::default() }, &receiver.url()).await;
    assert_eq!(attempt.outcome.error(), Some(error), "{shown:?}: {attempt:?}");
}

/// Delivered all the same; `truncated` says whether the answer was kept whole.
async fn delivers(answer: impl Into<Vec<u8>>, truncated: bool) {
    let answer = answer.into();
    let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
    let receiver = Receiver::start(move |peer| {
        peer.read_request();
        peer.write(&answer);
        peer.half_close();
        peer.wait_for_close();
    });
    let transport = transport(hasty());
    let attempt = send(&transport, parcel(endpoint(&receiver.url()))).await;
    assert_eq!(attempt.outcome, Outcome::Success { status: 200 }, "{shown:?}: {attempt:?}");
    assert_eq!(attempt.response.unwrap().truncated, truncated, "{shown:?}");
}

#[tokio::test]
async fn interim_answers_are_bounded() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let ok = std::str::from_utf8(OK).unwrap();
    delivers(format!("{}{ok}", interim.repeat(8)), false).await;
    fails(format!("{}{ok}", interim.repeat(9)), ErrorCode::ProtocolError).await;
    let fat = format!("HTTP/1.1 102 Processing\r\nX: {}\r\n\r\n", "x".repeat(15_000));
    delivers(format!("{}{ok}", fat.repeat(4)), false).await;
    fails(format!("{}{ok}", fat.repeat(5)), ErrorCode::ProtocolError).await;
}

#[tokio::test]
async fn a_flood_of_interim_answers_is_cut() {
    let receiver = Receiver::start(|peer| {
        peer.read_request();
        let flood = b"HTTP/1.1 103 x\r\n\r\n".repeat(100);
        while peer.write(&flood) {}
    });
    let attempt = try_once(Limits::default(), &receiver.url()).await;
    assert_failed(&attempt, ErrorCode::ProtocolError);
}

#[tokio::test]
async fn switching_protocols_unasked_is_a_failure() {
    let receiver = Receiver::answering("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let transport = transport(hasty());
    for turn in 1..=2 {
        let attempt = send(&transport, parcel(endpoint(&receiver.url()))).await;
        assert_failed(&attempt, ErrorCode::ProtocolError);
        assert_eq!((attempt.outcome.status(), receiver.accepted()), (Some(101), turn));
    }
}

#[tokio::test]
async fn a_head_has_a_largest_size() {
    let head = |len: usize| format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(len));
    delivers(head(15_000), true).await; // kept only in part
    fails(head(17_000), ErrorCode::ResponseTooLarge).await;
    let headers = |count: usize| (0..count).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
    delivers(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", headers(99)), false).await;
    fails(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", headers(100)), ErrorCode::ResponseTooLarge).await;
    fails(format!("HTTP/1.1 200 {}", "x".repeat(100_000)), ErrorCode::ResponseTooLarge).await;
}

#[tokio::test]
async fn an_endless_head_is_cut() {
    let receiver = Receiver::start(|peer| {
        peer.read_request();
        peer.write(b"HTTP/1.1 200 OK\r\n");
        while peer.write(b"X-More: and more\r\n") {}
    });
    assert_failed(&try_once(Limits::default(), &receiver.url()).await, ErrorCode::ResponseTooLarge);
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_error() {
    for answer in [
        &b"hello\r\n\r\n"[..],
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 000 x\r\n\r\n",
        b"HTTP/1.1 1000 x\r\n\r\n",
        b"HTTP/1.1 20 x\r\n\r\n",
        b"HTTP/1.1 -20 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\x00\x04\x00\x10\x00\x00\x00\x06\x00\x00\x40\x00",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        fails(answer, ErrorCode::ProtocolError).await;
    }
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    for said in [&b""[..], b"HTTP/1.1 200 OK\r\nX: y\r\n", b"HTTP/1.1 103 x\r\n\r\n"] {
        let receiver = Receiver::start(move |peer| peer.answer_once(said));
        let attempt = try_once(hasty(), &receiver.url()).await;
        assert_failed(&attempt, ErrorCode::Timeout);
        assert!(attempt.sent.is_some() && attempt.response.is_none());
        assert!((300..5_000).contains(&attempt.duration_ms), "{}", attempt.duration_ms);
    }
}

#[tokio::test]
async fn a_dripping_head_does_not_move_the_deadline() {
    let receiver = Receiver::start(|peer| {
        peer.read_request();
        peer.write(b"HTTP/1.1 200 OK\r\nX: ");
        while peer.write(b"x") {
            std::thread::sleep(Duration::from_millis(20)); // the drip itself
        }
    });
    let attempt = try_once(hasty(), &receiver.url()).await;
    assert_failed(&attempt, ErrorCode::Timeout);
    assert!((300..5_000).contains(&attempt.duration_ms), "{}", attempt.duration_ms);
}

#[tokio::test]
async fn a_receiver_that_never_reads_ends_at_the_deadline() {
    let receiver = Receiver::start(|peer| {
        std::thread::park_timeout(PATIENCE);
        peer.close();
    });
    let payload = Bytes::from(vec![b'x'; 32 * 1024 * 1024]);
    let attempt = send(&transport(hasty()), Parcel { payload, ..parcel(endpoint(&receiver.url())) }).await;
    assert_failed(&attempt, ErrorCode::Timeout);
}

#[tokio::test]
async fn a_head_in_time_is_success_however_slow_the_body() {
    let receiver = Receiver::start(|peer| {
        peer.read_request();
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun");
        while peer.write(b"x") {
            std::thread::sleep(Duration::from_millis(20)); // the drip itself
        }
    });
    let transport = transport(hasty());
    for turn in 1..=2 {
        let attempt = send(&transport, parcel(endpoint(&receiver.url()))).await;
        assert_delivered(&attempt);
        let response = attempt.response.unwrap();
        assert!(response.truncated && response.body.starts_with(b"begun"));
        assert_eq!(receiver.accepted(), turn, "a body that was not read ends its connection");
    }
}

#[tokio::test]
async fn an_endless_body_is_cut_and_its_connection_closed() {
    for (framing, chunk) in [
        ("Transfer-Encoding: chunked", format!("4000\r\n{}\r\n", "x".repeat(0x4000))),
        ("Content-Length: 1000000000", "x".repeat(0x4000)),
        ("Connection: close", "x".repeat(0x4000)),
    ] {
        let (said, heard) = std::sync::mpsc::channel();
        let receiver = Receiver::start(move |peer| {
            peer.read_request();
            peer.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes());
            while peer.write(chunk.as_bytes()) {}
            said.send(()).unwrap();
        });
        let transport = transport(Limits { body_timeout_ms: 10_000, ..Limits::default() });
        let attempt = send(&transport, parcel(endpoint(&receiver.url()))).await;
        assert_delivered(&attempt);
        let response = attempt.response.unwrap();
        assert_eq!((response.body.len(), response.truncated), (4096, true));
        assert_eq!(transport.idle_connections(), 0);
        heard.recv_timeout(PATIENCE).expect("the connection was closed");
    }
}

#[tokio::test]
async fn a_broken_body_does_not_undo_a_delivery() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;{}\r\nok\r\n0\r\n\r\n", "x".repeat(20_000)),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{}\r\n",
            "A: b\r\n".repeat(5_000)
        ),
    ] {
        delivers(answer, true).await;
    }
    delivers("HTTP/1.1 200 OK\r\n\r\nuntil the end", false).await;
}

#[tokio::test]
async fn closing_before_the_status_is_a_reset() {
    for half in [true, false] {
        for said in [&b""[..], b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 103 x\r\n\r\n"] {
            let receiver = Receiver::start(move |peer| {
                peer.read_request();
                peer.write(said);
                if half {
                    peer.half_close()
                } else {
                    peer.close()
                }
                peer.wait_for_close();
            });
            let attempt = try_once(hasty(), &receiver.url()).await;
            assert_failed(&attempt, ErrorCode::ConnectReset);
            assert!(attempt.sent.is_some(), "it may have arrived");
        }
    }
}
