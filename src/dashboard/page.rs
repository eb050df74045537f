//! What all pages have in common: the frame around them, and the headers that guard them.
//!
//! Never lets a page run, load or be framed by anything that is not ours.

use askama::Template;

use super::visitor::Visitor;
use super::{Dashboard, HOME, Stop};
use crate::http::{HeaderName, HeaderValue, Response, StatusCode, header, response};

/// What stands around the content of a page.
pub(super) struct Frame {
    pub(super) merchant: String,
    pub(super) form_token: String,
    pub(super) tab: Tab,
    pub(super) notice: Option<Notice>,
}

/// Which part of the settings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Setup,
    Events,
}

/// What was just done, or not.
#[derive(Clone, Copy)]
pub(super) struct Notice {
    pub(super) text: &'static str,
    pub(super) is_bad: bool,
}

impl Frame {
    /// `done` is what the page before left in the query: one of our own words, or nothing.
    pub(super) fn new(visitor: &Visitor, tab: Tab, done: Option<&str>) -> Frame {
        Frame {
            merchant: visitor.visit.merchant.to_string(),
            form_token: visitor.visit.form_token().to_owned(),
            tab,
            notice: done.and_then(notice),
        }
    }

    pub(super) fn is_tab(&self, tab: &str) -> bool {
        tab == match self.tab {
            Tab::Setup => "setup",
            Tab::Events => "events",
        }
    }
}

fn notice(done: &str) -> Option<Notice> {
    let good = |text| Some(Notice { text, is_bad: false });
    let bad = |text| Some(Notice { text, is_bad: true });
    match done {
        "created" => good("Webhook created. Send a test event to see it arrive."),
        "saved" => good("Saved. Deliveries use it from this moment on."),
        "paused" => good("Delivery is paused. Events are kept and wait."),
        "resumed" => good("Delivery is on. What waited leaves now."),
        "deleted" => good("The webhook is deleted. What waited is canceled; the history stays."),
        "queued" => good("Queued. The attempt follows as soon as it is your endpoint's turn."),
        "under_way" => good("An attempt of this event is under way this moment."),
        "test_sent" => good("This is your test event. Its first attempt follows at once."),
        "recovering" => good("The recovery has begun."),
        "recovery_canceled" => good("The recovery is canceled. What was queued already is still delivered."),
        "no_webhook" => bad("No webhook is configured, so there is nowhere to send it. Create one first."),
        "changed_meanwhile" => bad("The webhook was changed meanwhile. Look again, then decide."),
        _ => None,
    }
}

#[derive(Template)]
#[template(path = "sorry.html", config = "src/dashboard/templates.toml")]
struct Sorry<'a> {
    title: &'a str,
    text: &'a str,
    home: &'a str,
}

/// A page.
pub(super) fn page(status: StatusCode, template: &impl Template) -> Response {
    response::html(status, template.render().expect("rendering into memory succeeds"))
}

pub(super) fn stopped(stop: Stop) -> Response {
    match stop {
        Stop::SignIn => response::see_other("/sign-in"),
        Stop::Problem(problem) => {
            let sorry = Sorry { title: "That did not work", text: &problem.detail, home: HOME };
            let mut answer = page(problem.status, &sorry);
            // Whatever ends or holds off the client's connection must reach it.
            answer.headers_mut().extend(problem.into_response().into_parts().0.headers.into_iter().filter_map(
                |(name, value)| {
                    let name = name.filter(|name| *name == header::CONNECTION || *name == header::RETRY_AFTER)?;
                    Some((name, value))
                },
            ));
            answer
        }
        Stop::Sorry { status, title, text } => page(status, &Sorry { title, text: &text, home: HOME }),
    }
}

/// With the headers that keep a browser from doing anything but showing the page.
pub(super) fn guarded(dashboard: &Dashboard, mut response: Response) -> Response {
    let ancestors =
        if dashboard.frame_ancestors.is_empty() { "'none'".to_owned() } else { dashboard.frame_ancestors.join(" ") };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors {ancestors}; require-trusted-types-for 'script'; \
         trusted-types 'none'"
    );
    let headers = response.headers_mut();
    let policy = HeaderValue::try_from(policy).expect("origins are visible ASCII");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    if dashboard.frame_ancestors.is_empty() {
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    }
    for (name, value) in [
        // Not `no-referrer`: with that, forms of our own would come from the origin `null`.
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=()"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}
