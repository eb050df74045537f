//! Looks one value up in a JSON text by a JSON pointer (RFC 6901), without reading the rest into memory.
//!
//! Never changes the text, never follows a pointer into an array.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The string or number that the first pointer leads to which leads to one: a number as it is written.
pub(super) fn find(data: &str, pointers: &[String]) -> Option<String> {
    pointers.iter().find_map(|pointer| {
        let mut value = data;
        for token in pointer.split('/').skip(1) {
            let name = token.replace("~1", "/").replace("~0", "~");
            value = member(value, &name)?;
        }
        match value.as_bytes().first()? {
            b'"' => serde_json::from_str(value).ok(),
            b'-' | b'0'..=b'9' => Some(value.to_owned()),
            _ => None,
        }
    })
}

/// The text of a member of the object `text`; of the last one where it is given twice.
fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut json = serde_json::Deserializer::from_str(text);
    Wanted(name).deserialize(&mut json).ok()?.map(RawValue::get)
}

struct Wanted<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Name(name)) = map.next_key()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_lead_to_strings_and_numbers() {
        let data = r#"{"id":"txn_1", "n":12.50, "card":{"id":"c\u00e9","a/b":7}, "none":null, "list":["x"], "id2":""}"#;
        for (pointers, expect) in [
            (&["/id"][..], Some("txn_1")),
            (&["/card/id"], Some("cé")),
            (&["/card/a~1b"], Some("7")),
            (&["/n"], Some("12.50")),
            (&["/absent", "/id"], Some("txn_1")),
            (&["/none", "/list", "/list/0", "/card", "/id/x"], None),
            (&["/id2"], Some("")),
            (&[], None),
        ] {
            let pointers: Vec<String> = pointers.iter().map(|&p| p.to_owned()).collect();
            assert_eq!(find(data, &pointers).as_deref(), expect, "{pointers:?}");
        }
        assert_eq!(find("[1]", &["/0".to_owned()]), None);
    }
}
