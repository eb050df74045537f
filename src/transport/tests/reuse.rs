//! Which connections serve a second request, and which must not.
//!
//! Never counts requests where it can count connections.

use std::sync::mpsc;

use super::receiver::{OK, Receiver};
use super::*;

/// Two attempts, one after the other, with one transport.
async fn twice(transport: &HyperTransport, receiver: &Receiver) -> [Attempt; 2] {
    let one = send(transport, parcel(endpoint(&receiver.url()))).await;
    let two = send(transport, parcel(endpoint(&receiver.url()))).await;
    [one, two]
}

/// Lets the runtime look at its sockets once: a task that yields runs again after the next look.
async fn look_at_sockets() {
    tokio::task::yield_now().await;
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    for answer in [
        "Content-Length: 2\r\n\r\nok",
        "Content-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let receiver = Receiver::answering(format!("HTTP/1.1 200 OK\r\n{answer}"));
        let transport = transport(Limits::default());
        for turn in 0..5 {
            let attempt = send(&transport, parcel(endpoint(&receiver.url()))).await;
            assert_delivered(&attempt);
            assert_eq!(attempt.phases.connect_us.is_some(), turn == 0, "a reused connection is not opened");
            assert_eq!(transport.idle_connections(), 1);
        }
        assert_eq!((receiver.accepted(), receiver.requests().len()), (1, 5), "{answer:?}");
    }
}

#[tokio::test]
async fn endpoints_never_share_a_connection() {
    let receiver = Receiver::answering(OK);
    let transport = transport(Limits::default());
    for (id, accepted) in [(1, 1), (2, 2), (1, 2), (2, 2), (3, 3)] {
        let endpoint = Endpoint { id: EndpointId(id), ..endpoint(&receiver.url()) };
        assert_delivered(&send(&transport, parcel(endpoint)).await);
        assert_eq!(receiver.accepted(), accepted);
    }
}

#[tokio::test]
async fn an_unclear_or_final_answer_ends_its_connection() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nX: y\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 POISON\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 POISON\r\nContent-Length: 0\r\n\r\n",
    ] {
        let receiver = Receiver::answering(answer);
        let transport = transport(Limits::default());
        for attempt in twice(&transport, &receiver).await {
            assert_delivered(&attempt);
        }
        assert_eq!(receiver.accepted(), 2, "{answer:?}");
        assert_eq!(transport.idle_connections(), 0, "{answer:?}");
    }
}

#[tokio::test]
async fn a_204_with_a_body_poisons_nobody() {
    let receiver = Receiver::answering("HTTP/1.1 204 x\r\nContent-Length: 4\r\n\r\nHTTP/1.1 500 POISON\r\n\r\n");
    for attempt in twice(&transport(Limits::default()), &receiver).await {
        assert_eq!(attempt.outcome, Outcome::Success { status: 204 });
    }
    assert_eq!(receiver.accepted(), 2);
}

#[tokio::test]
async fn late_bytes_poison_nobody() {
    let (said, heard) = mpsc::channel();
    let receiver = Receiver::start(move |peer| {
        peer.read_request();
        peer.write(OK);
        // The transport has the answer once it puts the connection away; then comes what nobody asked for.
        peer.write(b"HTTP/1.1 500 POISON\r\nContent-Length: 0\r\n\r\n");
        said.send(()).unwrap();
        peer.wait_for_close();
    });
    let transport = transport(Limits::default());
    for turn in 1..=5 {
        assert_delivered(&send(&transport, parcel(endpoint(&receiver.url()))).await);
        heard.recv().unwrap();
        look_at_sockets().await;
        assert_eq!(receiver.accepted(), turn);
    }
}

#[tokio::test]
async fn a_connection_that_died_idle_costs_nothing() {
    let (said, heard) = mpsc::channel();
    let receiver = Receiver::start(move |peer| {
        peer.read_request();
        peer.write(OK);
        peer.close();
        said.send(()).unwrap();
    });
    let transport = transport(Limits::default());
    for turn in 1..=5 {
        let attempt = send(&transport, parcel(endpoint(&receiver.url()))).await;
        assert_delivered(&attempt);
        assert!(attempt.phases.connect_us.is_some());
        heard.recv().unwrap();
        look_at_sockets().await;
        assert_eq!(receiver.requests().len(), turn, "each request arrived once");
    }
}

#[tokio::test]
async fn a_written_request_is_never_written_again() {
    let receiver = Receiver::start(|peer| {
        peer.read_request();
        peer.write(OK);
        peer.read_request();
        peer.close();
    });
    let [one, two] = twice(&transport(Limits::default()), &receiver).await;
    assert_delivered(&one);
    assert_failed(&two, ErrorCode::ConnectReset);
    assert!(two.sent.is_some());
    assert_eq!((receiver.accepted(), receiver.requests().len()), (1, 2));
}

#[tokio::test]
async fn old_and_used_up_connections_are_replaced() {
    let check = async |limits: Limits, accepted: usize| {
        let receiver = Receiver::answering(OK);
        let transport = transport(limits);
        for _ in 0..4 {
            assert_delivered(&send(&transport, parcel(endpoint(&receiver.url()))).await);
        }
        assert_eq!(receiver.accepted(), accepted, "{limits:?}");
    };
    check(Limits { uses_max: 2, ..Limits::default() }, 2).await;
    check(Limits { uses_max: 1, ..Limits::default() }, 4).await;
    check(Limits { idle_ms: 0, ..Limits::default() }, 4).await;
    check(Limits { age_ms: 0, ..Limits::default() }, 4).await;
    check(Limits { idle_per_endpoint_max: 0, ..Limits::default() }, 4).await;
    check(Limits { idle_max: 0, ..Limits::default() }, 4).await;
}

#[tokio::test]
async fn the_connection_idle_for_longest_makes_room() {
    let receiver = Receiver::answering(OK);
    let transport = transport(Limits { idle_max: 2, ..Limits::default() });
    for (id, accepted) in [(1, 1), (2, 2), (1, 2), (3, 3), (1, 3), (2, 4), (3, 5)] {
        let endpoint = Endpoint { id: EndpointId(id), ..endpoint(&receiver.url()) };
        assert_delivered(&send(&transport, parcel(endpoint)).await);
        assert_eq!(receiver.accepted(), accepted, "endpoint {id}");
        assert!(transport.idle_connections() <= 2);
    }
}

#[tokio::test]
async fn an_endpoint_keeps_no_more_than_its_share() {
    let receiver = Receiver::answering(OK);
    let transport = transport(Limits { idle_per_endpoint_max: 2, ..Limits::default() });
    let attempts = (0..5).map(|_| send(&transport, parcel(endpoint(&receiver.url()))));
    let mut attempts: Vec<_> = attempts.map(Box::pin).collect();
    let all = std::future::poll_fn(|cx| {
        attempts.retain_mut(|attempt| attempt.as_mut().poll(cx).is_pending());
        if attempts.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    });
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert_eq!(receiver.accepted(), 5, "attempts under way do not share");
    assert_eq!(transport.idle_connections(), 2);
}

#[tokio::test]
async fn a_sweep_closes_what_is_dead_or_stale() {
    let receiver = Receiver::start(|peer| {
        peer.read_request();
        peer.write(OK);
        peer.close();
    });
    let transport = transport(Limits::default());
    assert_delivered(&send(&transport, parcel(endpoint(&receiver.url()))).await);
    let swept = async {
        while transport.idle_connections() > 0 {
            look_at_sockets().await;
            transport.sweep();
        }
    };
    tokio::time::timeout(PATIENCE, swept).await.expect("the receiver has closed the connection");

    let living = Receiver::answering(OK);
    assert_delivered(&send(&transport, parcel(endpoint(&living.url()))).await);
    transport.sweep();
    assert_eq!(transport.idle_connections(), 1, "a sweep leaves living connections alone");
    assert_delivered(&send(&transport, parcel(endpoint(&living.url()))).await);
    assert_eq!(living.accepted(), 1);
}

#[tokio::test]
async fn an_abandoned_attempt_closes_its_connection() {
    let (said, heard) = tokio::sync::mpsc::unbounded_channel();
    let receiver = Receiver::start(move |peer| {
        peer.read_request();
        said.send("asked").unwrap();
        peer.wait_for_close();
        said.send("closed").unwrap();
    });
    let mut heard = heard;
    let transport = transport(Limits::default());
    let mut attempt = Box::pin(transport.send(parcel(endpoint(&receiver.url()))));
    tokio::select! {
        _ = &mut attempt => panic!("nobody has answered"),
        word = heard.recv() => assert_eq!(word, Some("asked")),
    }
    drop(attempt);
    assert_eq!(tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap(), Some("closed"));
}
