//! What the merchant receives is byte for byte what the producer gave, however odd its JSON is.
//!
//! Never compares values: bytes only.

use crate::harness::{Appliance, Receiver};

fn event(merchant: &str, resource: &str) -> Vec<u8> {
    format!(r#"{{"type":"card_transaction","merchant_id":"{merchant}","data":{resource}}}"#).into_bytes()
}

fn hostile() -> Vec<String> {
    let mut bodies: Vec<String> = [
        "{}",
        "{ }",
        "{\n\t\"a\" :\r\n 1 }",
        r#"{"b":1,"a":2}"#,
        r#"{"a":1,"a":2,"a":1}"#,
        r#"{"n":1e400,"m":-1E-400,"k":0.10,"l":-0,"j":1E+2,"i":100000000000000000000000000001}"#,
        r#"{"n":0.1000000000000000055511151231257827,"m":12.50,"k":-0.0e-0}"#,
        r#"{"s":"\u0000\u001f\u007f\u2028\u2029\ud83d\ude00"}"#,
        "{\"s\":\"\u{2028}\u{2029}\u{feff}\u{1f600}e\u{301}\u{7f}\"}",
        r#"{"s":"\/\\\"\b\f\n\r\t/"}"#,
        r#"{"\u0061":1,"é":2,"":3}"#,
        r#"{"s":"</script><script>alert(1)</script>"}"#,
        r#"{"a":[[],[[]],{},null,true,false]}"#,
        r#"{"data":{"data":{"data":"}}}"}}}"#,
        r#"{"s":"{\"type\":\"x\",\"data\":{}}"}"#,
    ]
    .map(str::to_owned)
    .to_vec();
    bodies.push(format!(r#"{{"deep":{}{}}}"#, "[".repeat(100), "]".repeat(100)));
    bodies.push(format!(
        r#"{{"keys":{{{}}}}}"#,
        (0..2000).map(|n| format!(r#""k{n}":{n}"#)).collect::<Vec<_>>().join(",")
    ));
    bodies
}

#[test]
fn hostile_json_arrives_as_it_was_given() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let mut producer = appliance.producer();
    for (n, resource) in hostile().iter().enumerate() {
        let headers = [("content-type", "application/json")];
        let accepted = producer.send("POST", "/v1/events", &headers, &event("acme", resource)).expect(202);
        let received = receiver.nth(n);
        assert_eq!(String::from_utf8_lossy(&received.body), *resource);
        let shown = merchant.api.get(&format!("/api/v2/webhooks/events/{}", accepted["id"].as_str().expect("an id")));
        assert!(shown.text().contains(&format!(r#""payload":{resource}"#)), "{resource} in {}", shown.text());
    }
}

#[test]
fn hostile_json_arrives_from_a_batch_too() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    appliance.merchant_at("acme", &receiver);
    // A line of a batch has no line breaks of its own.
    let resources: Vec<String> = hostile().into_iter().filter(|resource| !resource.contains('\n')).collect();
    let lines: Vec<Vec<u8>> = resources.iter().map(|resource| event("acme", resource)).collect();
    let headers = [("content-type", "application/x-ndjson")];
    let answer = appliance.producer().send("POST", "/v1/events/batch", &headers, &lines.join(&b'\n'));
    assert!(answer.lines().iter().all(|line| line["status"] == 202), "{}", answer.text());
    let mut arrived: Vec<Vec<u8>> = receiver.wait_for(resources.len()).into_iter().map(|r| r.body).collect();
    let mut given: Vec<Vec<u8>> = resources.into_iter().map(String::into_bytes).collect();
    arrived.sort();
    given.sort();
    assert_eq!(arrived, given);
}

#[test]
fn the_largest_event_arrives_whole_and_one_byte_more_is_refused() {
    const BODY_BYTES_MAX: usize = 256 << 10;
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    appliance.merchant_at("acme", &receiver);
    let frame = event("acme", r#"{"s":""}"#).len();
    let sized = |length: usize| event("acme", &format!(r#"{{"s":"{}"}}"#, "x".repeat(length - frame)));
    let headers = [("content-type", "application/json")];
    let largest = sized(BODY_BYTES_MAX);
    assert_eq!(largest.len(), BODY_BYTES_MAX);
    appliance.producer().send("POST", "/v1/events", &headers, &largest).expect(202);
    let received = receiver.first();
    assert_eq!(received.body.len(), BODY_BYTES_MAX - frame + r#"{"s":""}"#.len());
    assert!(received.body.starts_with(br#"{"s":"xx"#) && received.body.ends_with(br#"xx"}"#));
    let refused = appliance.producer().send("POST", "/v1/events", &headers, &sized(BODY_BYTES_MAX + 1));
    assert_eq!(refused.expect(413)["code"], "body_too_large");
    assert_eq!(receiver.count(), 1);
}
