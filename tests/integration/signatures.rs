//! Signatures as receivers check them: by hand, by the reference library, by published vectors, by `verify`.
//!
//! Never uses the product's own code to check the product.

use std::io::Write as _;
use std::process::{Command, Stdio};

use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::http::HeaderMap;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::{Appliance, Merchant, Received, Receiver};

/// Lower-case hex of HMAC-SHA256.
pub(crate) fn hex_hmac(key: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn standard_headers(received: &Received) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(name, received.header(name).expect("the triple is there").parse().expect("a header value"));
    }
    headers
}

fn verifies(verifier: &standardwebhooks::Webhook, received: &Received) -> bool {
    verifier.verify(&received.body, &standard_headers(received)).is_ok()
}

#[test]
fn the_published_vectors_hold() {
    // RFC 4231, test cases 1 and 2.
    assert_eq!(hex_hmac(&[0x0b; 20], b"Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    assert_eq!(
        hex_hmac(b"Jefe", b"what do ya want for nothing?"),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
    // GitHub's documentation, "Validating webhook deliveries".
    assert_eq!(
        hex_hmac(b"It's a Secret to Everybody", b"Hello, World!"),
        "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    );
    // The product signs the same bytes in the same way.
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "secret": "Jefe" }));
    appliance.submit(&merchant, "card_state", &json!({ "a": "what do ya want for nothing?" }));
    let received = receiver.first();
    assert_eq!(received.header("x-webhook-signature"), Some(hex_hmac(b"Jefe", &received.body).as_str()));
}

#[test]
fn the_reference_library_verifies_every_kind_of_secret() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    for (n, secret) in
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "plain words", "whsec_not base64", "ключ"].iter().enumerate()
    {
        merchant.configure(&json!({ "url": receiver.url(), "secret": secret, "secret_grace_seconds": 0 }));
        appliance.submit(&merchant, "card_state", &json!({ "n": n }));
        let received = receiver.nth(n);
        let verifier = match n {
            0 => standardwebhooks::Webhook::new(secret).expect("base64"),
            _ => standardwebhooks::Webhook::from_bytes(secret.as_bytes().to_vec()).expect("any bytes"),
        };
        assert!(verifies(&verifier, &received), "{secret}");
        assert!(!received.id().contains('.'));
        let other = standardwebhooks::Webhook::from_bytes(b"another".to_vec()).expect("any bytes");
        assert!(!verifies(&other, &received), "another secret does not fit");
        let tampered = Received { body: b"{}".to_vec(), ..received };
        assert!(!verifies(&verifier, &tampered), "another body does not fit");
    }
}

#[test]
fn a_replaced_secret_signs_beside_the_new_one_during_its_grace() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "secret": "the old one" }));
    merchant.configure(&json!({ "url": receiver.url(), "secret": "the new one" }));
    appliance.submit(&merchant, "card_state", &json!({}));
    let received = receiver.first();
    assert_eq!(received.header("x-webhook-signature"), Some(hex_hmac(b"the new one", &received.body).as_str()));
    assert_eq!(
        received.header("x-webhook-signature-previous"),
        Some(hex_hmac(b"the old one", &received.body).as_str())
    );
    assert_eq!(received.header("webhook-signature").expect("signed").split(' ').count(), 2);
    for secret in ["the old one", "the new one"] {
        let verifier = standardwebhooks::Webhook::from_bytes(secret.as_bytes().to_vec()).expect("any bytes");
        assert!(verifies(&verifier, &received), "{secret}");
    }
    merchant.configure(&json!({ "url": receiver.url(), "secret": "the third", "secret_grace_seconds": 0 }));
    appliance.submit(&merchant, "card_state", &json!({}));
    let received = receiver.wait_for(2).swap_remove(1);
    assert_eq!(received.header("x-webhook-signature-previous"), None, "no grace was asked for");
    assert_eq!(received.header("webhook-signature").expect("signed").split(' ').count(), 1);
}

#[test]
fn a_secret_that_is_replaced_twice_in_a_day_signs_to_the_end_of_its_grace() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    let signed_with = |merchant: &mut Merchant, n: usize, secrets: &[&str]| {
        for secret in secrets {
            merchant.configure(&json!({ "url": receiver.url(), "secret": secret }));
        }
        appliance.submit(merchant, "card_state", &json!({ "n": n }));
        receiver.nth(n)
    };
    let fits = |received: &Received, secret: &str| {
        let verifier = standardwebhooks::Webhook::from_bytes(secret.as_bytes().to_vec()).expect("any bytes");
        verifies(&verifier, received)
    };
    let simple = |received: &Received, name: &str, secret: &str| {
        assert_eq!(received.header(name), Some(hex_hmac(secret.as_bytes(), &received.body).as_str()), "{name}");
    };
    let received = signed_with(&mut merchant, 0, &["first", "a typo", "third"]);
    simple(&received, "x-webhook-signature", "third");
    simple(&received, "x-webhook-signature-previous", "first");
    assert!(["first", "a typo", "third"].iter().all(|secret| fits(&received, secret)));
    let back = signed_with(&mut merchant, 1, &["a typo"]);
    simple(&back, "x-webhook-signature", "a typo");
    simple(&back, "x-webhook-signature-previous", "first");
    assert_eq!(back.header("webhook-signature").expect("signed").split(' ').count(), 3, "none signs twice");
    let many = signed_with(&mut merchant, 2, &["4th", "5th", "6th"]);
    simple(&many, "x-webhook-signature-previous", "third");
    assert!(["third", "a typo", "4th", "5th", "6th"].iter().all(|secret| fits(&many, secret)));
    assert!(!fits(&many, "first"), "of the old ones there are at most four");
    let event = merchant.wait_for_status(many.id(), "delivered");
    let shown = event["attempts"][0]["request_headers"].as_array().expect("a list");
    assert!(shown.contains(&json!(["webhook-signature", many.header("webhook-signature")])), "{shown:?}");
}

#[test]
fn a_put_without_a_secret_keeps_it() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "secret": "kept" }));
    let shown = merchant.configure(&json!({ "url": receiver.url(), "event_types": ["card_state"] }));
    assert_eq!(shown["secret_set"], true);
    appliance.submit(&merchant, "card_state", &json!({}));
    let received = receiver.first();
    assert_eq!(received.header("x-webhook-signature"), Some(hex_hmac(b"kept", &received.body).as_str()));
}

#[test]
fn the_history_shows_the_signature_that_was_sent() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "secret": "s" }));
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "delivered");
    let received = receiver.first();
    let shown = event["attempts"][0]["request_headers"].as_array().expect("a list");
    for name in ["x-webhook-signature", "webhook-id", "webhook-timestamp", "webhook-signature", "x-webhook-attempt"] {
        let value = shown.iter().find(|pair| pair[0] == name).map(|pair| pair[1].as_str().expect("text"));
        assert_eq!(value, received.header(name), "{name}");
    }
    let agent = shown.iter().find(|pair| pair[0] == "user-agent");
    assert_eq!(agent, None, "which version has sent it is not kept");
    let unlike = |pair: &&Value| received.header(pair[0].as_str().expect("text")) != pair[1].as_str();
    assert_eq!(shown.iter().find(unlike), None, "all that is shown was sent");
}

#[test]
fn the_command_verify_agrees_with_what_was_sent() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "secret": "s3cret" }));
    appliance.submit(&merchant, "card_state", &json!({ "a": 1 }));
    let received = receiver.first();
    let run = |more: &[&str], secret: &str, body: &[u8]| {
        let header = |name: &str| received.header(name).expect("it is signed").to_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.args(["verify", "--signature", &header("x-webhook-signature")]);
        command.args(["--standard", &header("webhook-signature"), "--id", &header("webhook-id")]);
        command.args(["--timestamp", &header("webhook-timestamp")]).args(more).env("POSTHASTE_SECRET", secret);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary is built");
        // Where the command line is wrong it ends before it reads.
        let _ = child.stdin.take().expect("it is piped").write_all(body);
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let verify = |secret: &str, body: &[u8]| run(&[], secret, body);
    assert_eq!(verify("s3cret", &received.body).0, Some(0));
    let file = appliance.dir().join("secret");
    std::fs::write(&file, "s3cret\n").expect("written");
    let file = file.display().to_string();
    assert_eq!(run(&["--secret-file", &file], "another", &received.body).0, Some(0), "the file named is what counts");
    let (code, why) = run(&["--secret", "s3cret"], "s3cret", &received.body);
    assert_eq!(code, Some(2), "a secret is no argument: {why}");
    assert!(!why.contains("s3cret"), "{why}");
    let (code, why) = verify("s3cret", &[received.body.as_slice(), b"\n"].concat());
    assert_eq!(code, Some(1));
    assert!(why.contains("newline"), "{why}");
    let (code, why) = verify("another", &received.body);
    assert_eq!(code, Some(1));
    assert!(why.contains("does not fit") && !why.contains("another\""), "{why}");
}
