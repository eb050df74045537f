//! What helps to build a receiver: test events, the signature debugger, receivers to copy.
//!
//! Never sends anything but through the same outbox and the same rules as every event.

use std::sync::Arc;

use askama::Template;
use bytes::Bytes;

use super::examples::example;
use super::page::{Frame, Tab, page};
use super::visitor::Visitor;
use super::{Dashboard, HOME, Stop, words};
use crate::http::{Form, Request, Response, StatusCode, response};
use crate::model::{EventId, EventType};
use crate::outbox::{Acceptance, Refusal, Submission};
use crate::policy::diagnosis::{self, Body, Case, Diagnosis, Key, Writing};

/// A body with every byte percent-encoded.
const DEBUGGER_BYTES_MAX: usize = 1 << 20;

#[derive(Template)]
#[template(path = "tools.html", config = "src/dashboard/templates.toml")]
struct ToolsPage {
    frame: Frame,
    has_webhook: bool,
    examples: Vec<Example>,
    question: Asked,
    verdict: Option<Verdict>,
    snippets: [(&'static str, &'static str, &'static str); 5],
}

struct Example {
    name: &'static str,
    trigger: &'static str,
    payload: String,
    is_selected: bool,
    is_first: bool,
}

/// The signature debugger's form as it was sent.
#[derive(Default)]
struct Asked {
    body: String,
    signature: String,
    secret: String,
    event: String,
}

/// What the debugger says.
struct Verdict {
    is_good: bool,
    title: &'static str,
    remarks: Vec<String>,
}

/// Name, how to run it, text. Each is run against the product by its tests.
const SNIPPETS: [(&str, &str, &str); 5] = [
    ("Node.js", "node receiver.mjs", include_str!("snippets/receiver.mjs")),
    ("Python", "python3 receiver.py", include_str!("snippets/receiver.py")),
    ("Go", "go run receiver.go", include_str!("snippets/receiver.go")),
    ("PHP", "php -S 0.0.0.0:8000 receiver.php", include_str!("snippets/receiver.php")),
    ("Java", "java Receiver.java", include_str!("snippets/Receiver.java")),
];

pub(super) async fn show(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let visitor = dashboard.visitor(&request)?;
    let done = request.query().one("done");
    Ok(shown(&dashboard, &visitor, done.as_deref(), Asked::default(), None))
}

fn shown(
    dashboard: &Dashboard,
    visitor: &Visitor,
    done: Option<&str>,
    question: Asked,
    verdict: Option<Verdict>,
) -> Response {
    let endpoint = dashboard.engine.registry.endpoint_of(&visitor.visit.merchant);
    let selected = |event_type| endpoint.as_ref().is_none_or(|endpoint| endpoint.event_types.contains(event_type));
    let first = EventType::ALL.into_iter().find(|event_type| selected(*event_type));
    let examples = EventType::ALL.map(|event_type| Example {
        name: event_type.as_str(),
        trigger: words::trigger(event_type),
        payload: words::indented(&example(event_type, 1, dashboard.clock.now()).1),
        is_selected: selected(event_type),
        is_first: first == Some(event_type),
    });
    let tools = ToolsPage {
        frame: Frame::new(visitor, Tab::Tools, done),
        has_webhook: endpoint.is_some(),
        examples: examples.into(),
        question,
        verdict,
        snippets: SNIPPETS,
    };
    page(StatusCode::OK, &tools)
}

/// An event like any other, but for its ids.
pub(super) async fn send_test(dashboard: Arc<Dashboard>, mut request: Request) -> Result<Response, Stop> {
    let (visitor, form) = dashboard.action(&mut request).await?;
    let merchant = &visitor.visit.merchant;
    if dashboard.engine.registry.endpoint_of(merchant).is_none() {
        return Ok(response::see_other(&format!("{HOME}?done=no_webhook")));
    }
    let event_type: EventType = form.text("event_type").parse().map_err(|_| {
        let text = "Choose which type of event to send.";
        Stop::sorry(StatusCode::UNPROCESSABLE_ENTITY, "No event type", text)
    })?;
    let now = dashboard.clock.now();
    let (id, payload) = example(event_type, dashboard.entropy.number() as u32, now);
    let submission = Submission {
        merchant: merchant.clone(),
        event_type,
        resource_id: Some(id.into()),
        traceparent: None,
        occurred_at: Some(now),
        payload: Bytes::from(payload),
        idempotency: None,
        endpoints: Vec::new(),
    };
    let receipt = dashboard.engine.outbox.submit(submission);
    match dashboard.engine.outbox.committed(receipt).await {
        Ok(Acceptance::Fresh { id, .. } | Acceptance::Duplicate { id, .. }) => {
            Ok(response::see_other(&format!("{HOME}/events/{id}?done=test_sent")))
        }
        Ok(Acceptance::Conflict) => unreachable!("a test event has no idempotency key"),
        Err(Refusal::Overloaded | Refusal::DiskFull) => {
            let text = "The service is busy and takes no test events at this moment. Try again in a minute.";
            Err(Stop::sorry(StatusCode::SERVICE_UNAVAILABLE, "Busy", text))
        }
        Err(Refusal::TooLarge | Refusal::Unreadable | Refusal::Mending | Refusal::Stopped) => Err(Stop::stopping()),
    }
}

pub(super) async fn debug_signature(dashboard: Arc<Dashboard>, mut request: Request) -> Result<Response, Stop> {
    let (visitor, form) = dashboard.form_of(&mut request, DEBUGGER_BYTES_MAX).await?;
    let question = Asked::of(&form);
    let merchant = &visitor.visit.merchant;
    let endpoint = dashboard.engine.registry.endpoint_of(merchant);
    let sent = match question.event.parse::<EventId>() {
        Ok(id) => {
            let dossier =
                dashboard.engine.history.dossier(merchant, id).await.map_err(|error| Stop::unreadable(&error))?;
            dossier.map(|dossier| dossier.event.payload)
        }
        Err(_) => None,
    };
    let now = dashboard.clock.now();
    let previous = endpoint.iter().flat_map(|endpoint| endpoint.old_secrets_at(now)).map(|old| &old.secret);
    let previous: Vec<_> = previous.collect();
    let case = Case {
        body: &question.body,
        signature: &question.signature,
        used: Some(question.secret.as_str()).filter(|secret| !secret.is_empty()),
        current: endpoint.as_ref().and_then(|endpoint| endpoint.secret.as_ref()),
        previous: &previous,
        sent: sent.as_deref(),
    };
    let mut verdict = verdict(&case, &diagnosis::diagnose(&case));
    if !question.event.is_empty() && sent.is_none() {
        verdict
            .remarks
            .push("There is no event with this id in your history, so its bytes could not be compared.".into());
    }
    // The secret is not sent back: it need not be on the page.
    let question = Asked { secret: String::new(), ..question };
    Ok(shown(&dashboard, &visitor, None, question, Some(verdict)))
}

impl Asked {
    /// A text area sends CR LF for each line break, whatever was pasted.
    fn of(form: &Form) -> Asked {
        Asked {
            body: form.text("body").replace("\r\n", "\n"),
            signature: form.text("signature").trim().to_owned(),
            secret: form.text("secret").to_owned(),
            event: form.text("event").trim().to_owned(),
        }
    }
}

fn verdict(case: &Case<'_>, found: &Diagnosis) -> Verdict {
    let mut remarks = Vec::new();
    remarks.extend(writing_remark(found.writing).map(str::to_owned));
    let title = match found.fit {
        Some((key, body)) => {
            remarks.extend(key_remark(key).map(str::to_owned));
            remarks.extend(body_remark(body).map(str::to_owned));
            match (found.writing, key, body) {
                (Writing::Hex, Key::Current, Body::AsGiven) => "The signature matches",
                (Writing::Hex, Key::Previous, Body::AsGiven) => "The signature matches a previous secret",
                _ => "Found it: the signature matches once this is mended",
            }
        }
        None if case.current.is_none() && case.used.is_none() => {
            remarks.push(
                "No signing secret is set, so requests are not signed. Set one, or enter the one you use.".into(),
            );
            "There is no secret to check with"
        }
        None => {
            remarks.extend(mismatch_remarks(case, found));
            "The signature does not match"
        }
    };
    if found.uses_current == Some(false) && !matches!(found.fit, Some((Key::Current, _))) {
        remarks
            .push("The secret that you use is not the one that is configured. Set the same one on both sides.".into());
    } else if found.uses_current == Some(false) {
        remarks.push(
            "The request was signed with the configured secret, but the secret that you use is another one: your \
             receiver has the wrong secret."
                .into(),
        );
    }
    if let Some(at) = found.differs_at {
        remarks.push(format!("Your body differs from the bytes that we sent, first at byte {at}."));
    }
    let is_good = remarks.is_empty() && found.fit.is_some();
    if is_good {
        remarks
            .push("Body, header and secret belong together. If your receiver still refuses it, compare there.".into());
    }
    Verdict { is_good, title, remarks }
}

fn mismatch_remarks(case: &Case<'_>, found: &Diagnosis) -> Vec<String> {
    let mut remarks = Vec::new();
    if found.writing == Writing::Other {
        return remarks;
    }
    if case.sent.is_none() {
        remarks.push(
            "No usual slip explains it. Enter the event id (header webhook-id), too: then the body is compared with the \
             exact bytes that we sent."
                .to_owned(),
        );
    } else {
        remarks.push(
            "Not even the exact bytes of this event give this signature with a secret that is known here. The header \
             belongs to another event, or was made with a secret that was replaced."
                .to_owned(),
        );
    }
    remarks
}

const fn writing_remark(writing: Writing) -> Option<&'static str> {
    match writing {
        Writing::Hex => None,
        Writing::Prefixed => Some("There is a “sha256=” before the digits: compare only the 64 hex digits."),
        Writing::Base64 => Some("This is base64. X-Webhook-Signature is hexadecimal: encode your digest as hex."),
        Writing::Standard => Some(
            "This is the webhook-signature of Standard Webhooks, which signs id.timestamp.body. Paste X-Webhook-Signature \
             here, or check this one with a Standard Webhooks library.",
        ),
        Writing::Other => Some("This is no signature: X-Webhook-Signature has 64 hex digits."),
    }
}

const fn key_remark(key: Key) -> Option<&'static str> {
    match key {
        Key::Current => None,
        Key::Previous => Some(
            "It was made with a previous secret, which goes on signing for a while: in X-Webhook-Signature-Previous, which \
             holds the signature of the oldest one, and in webhook-signature, which holds those of all. Use the current \
             secret for X-Webhook-Signature.",
        ),
        Key::Used => Some("It was made with the secret that you entered."),
        Key::Untrimmed => Some("There is white space around the secret: trim it where your receiver reads it."),
        Key::Decoded => Some(
            "The secret was base64-decoded before use. That is right for webhook-signature; for X-Webhook-Signature the key \
             is the whole text, whsec_ included.",
        ),
    }
}

const fn body_remark(body: Body) -> Option<&'static str> {
    match body {
        Body::AsGiven => None,
        Body::AsSent => Some(
            "The signature belongs to the bytes that we sent, but your body is not the same. Something changed it before it \
             was checked: sign the raw request body, before any parser touches it.",
        ),
        Body::WithoutEnd => Some("Your body has white space or a line break at its end that was not sent."),
        Body::WithNewline => Some("A line break was added to the end of the body before it was signed."),
        Body::OtherLineEndings => Some("The line endings of the body were changed."),
        Body::WithoutMark => Some("There is a byte order mark before your body that was not sent."),
        Body::Reserialised => Some(
            "The body was parsed and serialised again, which changed its bytes. Verify the raw request body, before any JSON \
             parser touches it.",
        ),
    }
}
