//! Times, states and faults in words for people.
//!
//! Never says less than the merchant can act on.

use crate::model::{DisabledReason, EndpointState, ErrorCode, EventType, Standing, Status, Timestamp};

/// Of an event of which the disk has lost a part.
pub(super) const DAMAGED: &str =
    "Part of what was kept of this event cannot be read any more. Whoever runs this service has been told.";

/// `2026-01-31 12:00:00`, UTC.
pub(super) fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{} {}", &text[..10], &text[11..19])
}

/// As `datetime-local` inputs want it.
pub(super) fn input_moment(at: Timestamp) -> String {
    at.to_string()[..19].to_owned()
}

/// What a `datetime-local` input holds, in UTC; seconds may be left out.
pub(super) fn parse_moment(text: &str) -> Option<Timestamp> {
    [format!("{text}Z"), format!("{text}:00Z"), text.to_owned()].iter().find_map(|text| Timestamp::parse(text))
}

/// `850 ms`, `2.4 s`, `3 min`, `5 h 12 min`, `3 d 4 h`.
pub(super) fn duration(ms: u64) -> String {
    let (s, min) = (ms / 1000, ms / 60_000);
    match (ms, s, min) {
        (0..1_000, _, _) => format!("{ms} ms"),
        (1_000..10_000, _, _) if ms % 1000 >= 100 => format!("{s}.{} s", ms % 1000 / 100),
        (_, 0..60, _) => format!("{s} s"),
        (_, _, 0..60) => format!("{min} min"),
        (_, _, 60..1_440) => format!("{} h {} min", min / 60, min % 60),
        _ => format!("{} d {} h", min / 1_440, min % 1_440 / 60),
    }
}

/// How far from now: `3 min ago`, `in 5 s`.
pub(super) fn distance(at: Timestamp, now: Timestamp) -> String {
    match at <= now {
        true if now.since_ms(at) < 1_000 => "just now".to_owned(),
        true => format!("{} ago", duration(now.since_ms(at))),
        false if at.since_ms(now) < 1_000 => "now".to_owned(),
        false => format!("in {}", duration(at.since_ms(now))),
    }
}

/// A status with a capital.
pub(super) const fn status(status: Status) -> &'static str {
    match status {
        Status::Pending => "Pending",
        Status::Retrying => "Retrying",
        Status::Delivered => "Delivered",
        Status::Failed => "Failed",
        Status::Canceled => "Canceled",
        Status::Skipped => "Skipped",
    }
}

/// What a status means for this event; `expired`: it failed because it waited for too long.
pub(super) const fn status_meaning(status: Status, expired: bool) -> &'static str {
    match status {
        Status::Failed if expired => {
            "It could not be sent for so long that it was given up. Resend it if it still matters."
        }
        Status::Pending => "Accepted; the first attempt is not finished, or delivery is paused.",
        Status::Retrying => "At least one attempt failed; another one follows.",
        Status::Delivered => "Your endpoint answered 2xx.",
        Status::Failed => "Every attempt of the schedule failed. Resend it once your endpoint is well.",
        Status::Canceled => "The webhook was deleted while this event waited.",
        Status::Skipped => "When it came there was no webhook, or its type was not selected.",
    }
}

/// Whether deliveries leave, and what follows where they do not.
pub(super) const fn standing(standing: Standing) -> (&'static str, Option<&'static str>) {
    match standing {
        Standing::Own(EndpointState::Active) => ("Active", None),
        Standing::Own(EndpointState::Paused) => {
            ("Paused", Some("Delivery is switched off. Events are kept and wait until you resume."))
        }
        Standing::Own(EndpointState::Disabled(DisabledReason::Failing)) => (
            "Disabled",
            Some(
                "For days every attempt failed, so delivery was switched off. Events are kept and wait. See what your \
                 endpoint answers, then resume.",
            ),
        ),
        Standing::Own(EndpointState::Disabled(DisabledReason::Gone)) => (
            "Disabled",
            Some(
                "Your endpoint answered 410 Gone, so delivery was switched off. Events are kept and wait. Check the URL, \
                 then resume.",
            ),
        ),
        Standing::Held => (
            "Paused",
            Some("Your provider holds deliveries back at this moment. Events are kept and wait; nothing is lost."),
        ),
    }
}

/// What triggers an event type, in the words of the manual.
pub(super) const fn trigger(event_type: EventType) -> &'static str {
    match event_type {
        EventType::CardTransaction => "Transaction created, confirmed, cleared or its status changed on a card",
        EventType::AccountTransaction => "Account transaction created, confirmed, cleared or its status changed",
        EventType::AccountTopup => "Top-up received, confirmed or its status changed on an account",
        EventType::CardState => "Card created or its status changed",
    }
}

/// What went wrong in an attempt, and what to do about it.
pub(super) const fn fault(error: ErrorCode) -> (&'static str, &'static str) {
    match error {
        ErrorCode::Dns => (
            "The host name of your URL could not be resolved.",
            "Check the name's DNS records, and that they are visible from the public internet.",
        ),
        ErrorCode::ConnectRefused => (
            "Your host refused the connection.",
            "Check that the server is running and listens on the port of your URL.",
        ),
        ErrorCode::ConnectTimeout => {
            ("No connection could be made in time.", "Check firewalls and the address: the host did not answer at all.")
        }
        ErrorCode::ConnectReset => (
            "The connection was closed before an answer came.",
            "Look for crashes and restarts, and for proxies that close connections early.",
        ),
        ErrorCode::TlsExpired => {
            ("Your certificate has expired or is not yet valid.", "Renew it, and check the server's clock.")
        }
        ErrorCode::TlsName => {
            ("Your certificate is for another host name.", "Use a certificate that names the host of your URL.")
        }
        ErrorCode::TlsUntrusted => (
            "Your certificate's issuer is not trusted.",
            "Use a public certificate authority, and send the intermediate certificates, too.",
        ),
        ErrorCode::TlsProtocol => {
            ("No TLS session could be agreed.", "Allow TLS 1.2 or 1.3, and check that the port speaks TLS at all.")
        }
        ErrorCode::BlockedDestination => (
            "Your host resolves to an address that deliveries must not go to.",
            "Point the name to a public address: private and local ones are not reached.",
        ),
        ErrorCode::Timeout => ("No answer came within 10 seconds.", "Answer 2xx first and do the work afterwards."),
        ErrorCode::HttpStatus => (
            "Your endpoint answered with a status that is not 2xx.",
            "Your server's log around this time says why. Answer 2xx once you have stored the event.",
        ),
        ErrorCode::Redirect => (
            "Your endpoint answered with a redirect; redirects are not followed.",
            "Enter the final URL as your endpoint.",
        ),
        ErrorCode::ProtocolError => {
            ("The answer is not HTTP/1.1 as it should be.", "Check what listens on this port, and any proxy before it.")
        }
        ErrorCode::ResponseTooLarge => {
            ("The head of the answer is larger than allowed.", "Send fewer or shorter headers.")
        }
        ErrorCode::Gone => (
            "Your endpoint answered 410 Gone: it wants no more.",
            "Delivery is switched off. Save a URL that is there, or resume delivery.",
        ),
    }
}

/// JSON with line breaks and indentation; every other byte as it is. What is no JSON comes back as it was.
pub(super) fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if in_string {
            text.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '{' | '[' => {
                text.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(close) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    text.push(close);
                } else {
                    depth += 1;
                    new_line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => {
                in_string = c == '"';
                text.push(c);
            }
        }
    }
    text
}

/// No deeper than can be read; a payload may be nested a hundred levels deep.
fn new_line(text: &mut String, depth: usize) {
    const DEPTH_SHOWN_MAX: usize = 20;
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth.min(DEPTH_SHOWN_MAX)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_long_as_they_need_to_be() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (1_250, "1.2 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (3_600_000, "1 h 0 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn indenting_changes_nothing_but_white_space() {
        let json = r#"{"a":[1,{"b":"x, {\"y\": \\"},[]],"c" : {} ,"d":null}"#;
        let text = indented(json);
        assert_eq!(text.lines().nth(1), Some("  \"a\": ["));
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&text), value(json));
        assert!(indented("}}}]]]").lines().count() > 3, "what is no JSON does no harm");
    }

    #[test]
    fn moments_are_read_as_browsers_write_them() {
        let at = Timestamp::from_ms(1_700_000_000_000);
        assert_eq!(parse_moment("2023-11-14T22:13:20"), Some(at));
        assert_eq!(parse_moment(&input_moment(at)), Some(at));
        assert_eq!(parse_moment("2023-11-14T22:13"), Some(Timestamp::from_ms(1_699_999_980_000)));
        assert_eq!(parse_moment("yesterday"), None);
        assert_eq!(moment(at), "2023-11-14 22:13:20");
    }
}
