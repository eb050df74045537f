//! What a merchant asks for in its config, judged field by field: URL, event types, signing secret, grace.
//!
//! Never knows whether it was asked in JSON or in a form.

use super::egress;
use crate::model::{EventType, EventTypes, Secret};

/// How long a replaced secret goes on signing where the merchant does not say.
pub const SECRET_GRACE_S: u64 = 86_400;

/// The longest grace that a merchant can ask for.
pub const SECRET_GRACE_S_MAX: u64 = 7 * 86_400;

/// What is wrong with a field, as a sentence whose subject is the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, with a place inside it where that helps.
    pub field: String,
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

/// The URL as it is stored.
pub fn url(text: &str, rules: &egress::Rules) -> Result<String, Fault> {
    egress::target(text, rules).map(|target| target.url).map_err(|wrong| fault("url", wrong.code(), wrong.to_string()))
}

/// The types of a list. Every word that is no type is a fault of its own.
pub fn event_types(words: &[impl AsRef<str>]) -> Result<EventTypes, Vec<Fault>> {
    let mut faults = Vec::new();
    if words.is_empty() {
        let detail = "must not be empty. Name at least one type, or \"all\"; to pause delivery set enabled to false.";
        faults.push(fault("event_types", "empty_event_types", detail));
    }
    let mut types = Vec::with_capacity(words.len());
    for (i, word) in words.iter().enumerate() {
        match word.as_ref().parse::<EventType>() {
            Ok(event_type) => types.push(event_type),
            Err(_) => {
                let detail = format!("must be one of {}.", known_types());
                faults.push(fault(format!("event_types[{i}]"), "unknown_event_type", detail));
            }
        }
    }
    if faults.is_empty() { EventTypes::only(types).ok_or(faults) } else { Err(faults) }
}

/// The types, for sentences.
pub fn known_types() -> String {
    EventType::ALL.map(EventType::as_str).join(", ")
}

/// A new signing secret.
pub fn secret(text: &str) -> Result<Secret, Fault> {
    Secret::new(text).ok_or_else(|| {
        let detail = format!("must have 1 to {} bytes; null removes it.", Secret::LEN_MAX);
        fault("secret", "invalid_length", detail)
    })
}

fn fault(field: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Fault {
    Fault { field: field.into(), code, detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_types_is_taken_whole_or_not_at_all() {
        assert_eq!(event_types(&["card_state"]), Ok(EventTypes::only([EventType::CardState]).unwrap()));
        let none: [&str; 0] = [];
        assert_eq!(event_types(&none).unwrap_err()[0].code, "empty_event_types");
        let faults = event_types(&["card_state", "card", "all"]).unwrap_err();
        assert_eq!(
            faults.iter().map(|fault| fault.field.as_str()).collect::<Vec<_>>(),
            ["event_types[1]", "event_types[2]"]
        );
    }

    #[test]
    fn a_url_is_named_by_the_rule_that_it_breaks() {
        for (text, code) in [
            ("", "url_invalid"),
            ("http://example.com/", "url_scheme"),
            ("https://a:b@example.com/", "url_userinfo"),
            ("https://10.0.0.1/", "destination_not_allowed"),
        ] {
            assert_eq!(url(text, &egress::Rules::default()).unwrap_err().code, code, "{text}");
        }
        assert!(url("https://example.com/hook", &egress::Rules::default()).is_ok());
    }
}
