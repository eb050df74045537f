//! What an honest client sees.
//!
//! Never tests limits: `hostile` does.

use super::*;

#[tokio::test]
async fn one_connection_serves_many_requests_in_order() {
    let rig = Rig::start(Limits::default()).await;
    let mut client = rig.connect().await;
    for name in ["a", "b", "c"] {
        client.send(format!("GET /hello/{name}?x=1 HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        let answer = client.answer().await;
        assert!(answer.ends_with(&format!("\"hello {name} Some(\\\"x=1\\\")\"")), "{answer}");
    }
    let pipeline: String = (0..1000).map(|i| format!("GET /hello/{i} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    let last = "GET /hello/last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    client.send(pipeline + last).await;
    let answers = client.rest().await;
    assert_eq!(statuses(&answers), [200; 1001]);
    let order = ["\"hello 0 None\"", "\"hello 999 None\"", "\"hello last None\""];
    let places: Vec<_> = order.iter().map(|body| answers.find(body).expect("answered")).collect();
    assert!(places.is_sorted());
    rig.stop().await;
}

#[tokio::test]
async fn every_answer_has_an_id_and_is_not_cached() {
    let rig = Rig::start(Limits::default()).await;
    for (sent, kept) in [
        ("Request-Id: abc_DEF-123\r\n".to_owned(), true),
        (format!("Request-Id: {}\r\n", "x".repeat(64)), true),
        (format!("Request-Id: {}\r\n", "x".repeat(65)), false),
        ("Request-Id: a b\r\n".to_owned(), false),
        ("Request-Id: \r\n".to_owned(), false),
        (String::new(), false),
    ] {
        for path in ["/hello/a", "/nowhere", "/panic"] {
            let answer =
                rig.exchange(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{sent}Connection: close\r\n\r\n")).await;
            let id = header(&answer, "request-id").expect("an id");
            assert_eq!(sent.contains(&format!("Request-Id: {id}\r\n")), kept, "{sent} gave {id}");
            assert!(!id.is_empty());
            assert_eq!(header(&answer, "cache-control"), Some("no-store"));
            assert_eq!(header(&answer, "x-content-type-options"), Some("nosniff"));
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn problems_look_like_rfc_9457() {
    let rig = Rig::start(Limits::default()).await;
    let request =
        "POST /json HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 19\r\n\r\n{\"nam\":1,\"name\":2 }";
    let answer = rig.exchange(request).await;
    assert_eq!(header(&answer, "content-type"), Some("application/problem+json"));
    assert_eq!(
        body_json(&answer),
        serde_json::json!({
            "type": "urn:posthaste:problem:wrong_type",
            "title": "Wrong type",
            "status": 422,
            "code": "wrong_type",
            "detail": "2 parts of the request are wrong; see errors.",
            "errors": [
                {"field": "name", "code": "wrong_type", "detail": "must be a string."},
                {"field": "nam", "code": "unknown_field", "detail": "is not a field of this request."},
            ],
        })
    );
    rig.stop().await;
}

#[tokio::test]
async fn requests_get_the_answers_that_http_foresees() {
    let rig = Rig::start(Limits::default()).await;
    for (request, status, expect) in [
        ("GET /nowhere", 404, "not_found"),
        ("DELETE /hello/a", 405, "allow: GET, HEAD"),
        ("OPTIONS *", 404, "not_found"),
        ("GET /hello/%ff", 400, "invalid_path"),
        ("GET /busy", 503, "retry-after: 7"),
        ("GET /panic", 500, "internal"),
        ("GET /key", 401, "www-authenticate: Bearer"),
        ("GET http://h/hello/absolute", 200, "hello absolute"),
    ] {
        let answer = rig.exchange(format!("{request} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(statuses(&answer), [status], "{request}");
        assert!(answer.contains(expect), "{request}: {answer}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let rig = Rig::start(Limits::default()).await;
    let get = rig.exchange("GET /hello/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    let head = rig.exchange("HEAD /hello/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&head), [200]);
    assert_eq!(header(&head, "content-length"), header(&get, "content-length"));
    assert!(head.ends_with("\r\n\r\n"));
    rig.stop().await;
}

#[tokio::test]
async fn a_key_is_a_single_bearer_token() {
    let rig = Rig::start(Limits::default()).await;
    for (headers, status) in [
        ("Authorization: Bearer abc\r\n", 200),
        ("authorization: bearer abc\r\n", 200),
        ("", 401),
        ("Authorization: Bearer\r\n", 401),
        ("Authorization: Bearer  \r\n", 401),
        ("Authorization: Basic abc\r\n", 401),
        ("Authorization: Bearer a b\r\n", 401),
        ("Authorization: Bearer abc\r\nAuthorization: Bearer abc\r\n", 401),
        ("Authorization: Bearer \u{e9}\r\n", 401),
    ] {
        let answer = rig.exchange(format!("GET /key HTTP/1.1\r\nHost: h\r\n{headers}Connection: close\r\n\r\n")).await;
        assert_eq!(statuses(&answer), [status], "{headers}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn json_bodies_are_told_by_their_type() {
    let rig = Rig::start(Limits::default()).await;
    for (headers, status) in [
        ("", 201),
        ("Content-Type: application/json\r\n", 201),
        ("Content-Type: Application/JSON; charset=UTF-8\r\n", 201),
        ("Content-Type: application/json; charset=latin-1\r\n", 415),
        ("Content-Type: application/x-www-form-urlencoded\r\n", 415),
        ("Content-Type: text/plain\r\n", 415),
        ("Content-Encoding: gzip\r\n", 415),
        ("Content-Encoding: identity\r\n", 201),
    ] {
        let body = "{\"name\":\"x\"}";
        let length = body.len();
        let head = format!("POST /json HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n");
        let answer = rig.exchange(format!("{head}{headers}\r\n{body}")).await;
        assert_eq!(statuses(&answer), [status], "{headers}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let rig = Rig::start(Limits::default()).await;
    let mut client = rig.connect().await;
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    assert!(client.answer().await.starts_with("HTTP/1.1 100 "));
    client.send("ok").await;
    assert!(client.answer().await.ends_with("\r\n\r\nok"));
    rig.stop().await;
}
