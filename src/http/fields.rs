//! Reads one JSON object member by member and collects every fault, so that a client learns them all at once.
//!
//! Never rewrites a member: `required_raw` gives its bytes as they came. Never recurses over the input.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::problem::{FieldError, Problem};
use hyper::StatusCode;

/// The deepest nesting that is accepted; serde_json refuses to read deeper values later.
const DEPTH_MAX: usize = 127;

/// Members of one object, and items of one list, that are looked at. No request has a quarter of it; each is compared
/// with all before it, and each can be a fault of its own.
const MEMBERS_MAX: usize = 64;

/// The members of a JSON object that nobody has taken yet, and the faults so far.
///
/// Readers never fail: a missing or wrong member is noted and nothing returned in its place, which nobody
/// sees because [`Fields::finish`] then fails. JSON `null` counts as absent, but for
/// [`Fields::nullable_str`].
pub struct Fields<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    faults: Vec<FieldError>,
}

/// One word or a list of words: `"all"` or `["a", "b"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words<'a> {
    /// A string.
    One(Cow<'a, str>),
    /// An array of strings, which may be empty.
    Many(Vec<Cow<'a, str>>),
}

impl<'a> Fields<'a> {
    /// Reads `text`, which must be one JSON object. 400 `not_utf8`, `invalid_json` with line and column, or
    /// `too_deep`; 422 `wrong_type` where it is JSON but no object, `too_many_fields` where it has too many members.
    /// A repeated member is noted as a fault.
    pub fn parse(text: &'a [u8]) -> Result<Fields<'a>, Problem> {
        let text = std::str::from_utf8(text)
            .map_err(|e| Problem::bad_request("not_utf8", format!("Byte {} is not UTF-8.", e.valid_up_to())))?;
        if is_too_deep(text.as_bytes()) {
            let detail = format!("The JSON is nested deeper than {DEPTH_MAX} levels.");
            return Err(Problem::bad_request("too_deep", detail));
        }
        let Members { all, are_more } = serde_json::from_str(text).map_err(|e| match e.classify() {
            Category::Data => Problem::unprocessable("", "wrong_type", "must be a JSON object."),
            Category::Syntax | Category::Eof | Category::Io => {
                let detail = format!("The JSON is broken at line {}, column {}.", e.line(), e.column());
                Problem::bad_request("invalid_json", detail)
            }
        })?;
        if are_more {
            let detail = format!("must have at most {MEMBERS_MAX} fields.");
            return Err(Problem::unprocessable("", "too_many_fields", detail));
        }
        let mut fields = Fields { members: Vec::with_capacity(all.len()), faults: Vec::new() };
        for (name, value) in all {
            if fields.members.iter().any(|(known, _)| *known == name) {
                fields.fault(name, "duplicate_field", "is given twice.");
            } else {
                fields.members.push((name, value));
            }
        }
        Ok(fields)
    }

    /// A string that must be there; `None` once its fault is noted.
    pub fn required_str(&mut self, name: &str) -> Option<Cow<'a, str>> {
        match self.take(name) {
            Some(value) => self.string(name, value),
            None => self.missing(name),
        }
    }

    /// A string.
    pub fn optional_str(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let value = self.take(name)?;
        self.string(name, value)
    }

    /// A string that can also be removed: `None` is absent, `Some(None)` is `null`.
    pub fn nullable_str(&mut self, name: &str) -> Option<Option<Cow<'a, str>>> {
        let value = self.take_or_null(name)?;
        if value.get() == "null" {
            return Some(None);
        }
        self.string(name, value).map(Some)
    }

    /// A boolean.
    pub fn optional_bool(&mut self, name: &str) -> Option<bool> {
        let value = self.take(name)?;
        self.typed(name, value, "must be true or false.")
    }

    /// A whole number, at most `max`.
    pub fn optional_u64(&mut self, name: &str, max: u64) -> Option<u64> {
        let value = self.take(name)?;
        let number: u64 = self.typed(name, value, "must be a whole number, 0 or more.")?;
        if number > max {
            self.fault(name, "out_of_range", format!("must be at most {max}."));
            return None;
        }
        Some(number)
    }

    /// A string or an array of strings.
    pub fn optional_words(&mut self, name: &str) -> Option<Words<'a>> {
        let value = self.take(name)?;
        if !value.get().starts_with('[') {
            return self.string(name, value).map(Words::One);
        }
        let items: Vec<&'a RawValue> = self.typed(name, value, "must be an array.")?;
        if items.len() > MEMBERS_MAX {
            self.fault(name, "too_many_items", format!("must have at most {MEMBERS_MAX} items."));
            return None;
        }
        let mut words = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            words.extend(self.string(&format!("{name}[{i}]"), item));
        }
        Some(Words::Many(words))
    }

    /// Exactly the bytes of a member that must be there, `null` included. Placeholder: empty.
    pub fn required_raw(&mut self, name: &str) -> &'a str {
        match self.take_or_null(name) {
            Some(value) => value.get(),
            None => self.missing(name),
        }
    }

    /// Notes a fault that the caller found.
    pub fn fault(&mut self, field: impl Into<String>, code: &'static str, detail: impl Into<String>) {
        self.faults.push(FieldError { field: field.into(), code, detail: detail.into() });
    }

    /// 422 with all faults, among them one `unknown_field` for each member that nobody took.
    pub fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.members) {
            self.fault(name, "unknown_field", "is not a field of this request.");
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        Err(Problem::of_faults(StatusCode::UNPROCESSABLE_ENTITY, self.faults))
    }

    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        self.take_or_null(name).filter(|value| value.get() != "null")
    }

    fn take_or_null(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.members.iter().position(|(known, _)| known == name)?;
        Some(self.members.remove(at).1)
    }

    fn missing<T: Default>(&mut self, name: &str) -> T {
        self.fault(name, "missing_field", "is missing.");
        T::default()
    }

    fn string(&mut self, name: &str, value: &'a RawValue) -> Option<Cow<'a, str>> {
        if !value.get().starts_with('"') {
            self.fault(name, "wrong_type", "must be a string.");
            return None;
        }
        let text: Option<Text<'a>> = serde_json::from_str(value.get()).ok();
        if text.is_none() {
            self.fault(name, "invalid_unicode", "holds an escape that is no Unicode character.");
        }
        text.map(|Text(text)| text)
    }

    fn typed<T: Deserialize<'a>>(&mut self, name: &str, value: &'a RawValue, detail: &str) -> Option<T> {
        let typed = serde_json::from_str(value.get()).ok();
        if typed.is_none() {
            self.fault(name, "wrong_type", detail);
        }
        typed
    }
}

/// A string borrowed from the input wherever it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object as it stands: in order, repeated names and all.
struct Members<'a> {
    all: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// More than [`MEMBERS_MAX`] stand there; the rest was only read over.
    are_more: bool,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Members { all: Vec::new(), are_more: false };
                while let Some(Text(name)) = map.next_key()? {
                    let value = map.next_value()?;
                    members.are_more = members.all.len() == MEMBERS_MAX;
                    if members.are_more {
                        // To its end, so that what is broken behind it is still said to be broken.
                        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                        break;
                    }
                    members.all.push((name, value));
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// Whether brackets outside of strings nest too deep. Works on broken JSON too, where it only has to end.
fn is_too_deep(text: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(problem: &Problem) -> Vec<(&str, &str)> {
        problem.errors.iter().map(|e| (e.field.as_str(), e.code)).collect()
    }

    #[test]
    fn members_are_read_by_type_and_bytes_stay_as_they_came() {
        let text = br#" {"url":"h\u00e9","on":true,"n":7,"none":null,"kinds":["a","\n"],"one":"all","data": {"b":1, "a":1.0} } "#;
        let mut fields = Fields::parse(text).expect("an object");
        assert_eq!(fields.required_str("url").as_deref(), Some("hé"));
        assert_eq!(fields.optional_bool("on"), Some(true));
        assert_eq!(fields.optional_u64("n", 7), Some(7));
        assert_eq!(fields.optional_str("absent"), None);
        assert_eq!(fields.nullable_str("none"), Some(None));
        assert_eq!(fields.nullable_str("absent"), None);
        assert_eq!(fields.optional_words("kinds"), Some(Words::Many(vec!["a".into(), "\n".into()])));
        assert_eq!(fields.optional_words("one"), Some(Words::One("all".into())));
        assert_eq!(fields.required_raw("data"), r#"{"b":1, "a":1.0}"#);
        assert!(fields.finish().is_ok());
    }

    #[test]
    fn all_faults_come_together() {
        let text = br#"{"url":1,"on":"yes","n":8,"kinds":["a",2],"u":"\ud800","extra":1,"extra":2}"#;
        let mut fields = Fields::parse(text).expect("an object");
        fields.required_str("url");
        fields.required_str("absent");
        fields.required_raw("data");
        fields.optional_bool("on");
        fields.optional_u64("n", 7);
        fields.optional_words("kinds");
        fields.optional_str("u");
        fields.fault("url", "invalid_url", "is no URL.");
        let problem = fields.finish().expect_err("full of faults");
        assert_eq!(problem.status, 422);
        assert_eq!(problem.code, "duplicate_field");
        assert_eq!(
            faults(&problem),
            [
                ("extra", "duplicate_field"),
                ("url", "wrong_type"),
                ("absent", "missing_field"),
                ("data", "missing_field"),
                ("on", "wrong_type"),
                ("n", "out_of_range"),
                ("kinds[1]", "wrong_type"),
                ("u", "invalid_unicode"),
                ("url", "invalid_url"),
                ("extra", "unknown_field"),
            ]
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let deep = "[".repeat(100_000);
        let deep_member = format!("{{\"data\":{}1{}}}", "[".repeat(127), "]".repeat(127));
        for (text, status, code) in [
            (&b""[..], 400, "invalid_json"),
            (b"{", 400, "invalid_json"),
            (b"{\"a\":NaN}", 400, "invalid_json"),
            (b"{\"a\":1,}", 400, "invalid_json"),
            (b"{\"a\":01}", 400, "invalid_json"),
            (b"{} {}", 400, "invalid_json"),
            (b"\xef\xbb\xbf{}", 400, "invalid_json"),
            (b"{\"\\ud800\":1}", 400, "invalid_json"),
            (b"{\"a\":\"\xff\"}", 400, "not_utf8"),
            (b"[]", 422, "wrong_type"),
            (b"\"a\"", 422, "wrong_type"),
            (b"null", 422, "wrong_type"),
            (deep.as_bytes(), 400, "too_deep"),
            (deep_member.as_bytes(), 400, "too_deep"),
        ] {
            let problem = Fields::parse(text).err().unwrap_or_else(|| panic!("{code} must be refused"));
            assert_eq!((problem.status.as_u16(), problem.code), (status, code), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn more_members_than_any_request_has_are_one_fault() {
        let object = |count: usize| {
            let members: Vec<String> = (0..count).map(|n| format!("\"m{n}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        let many = object(MEMBERS_MAX);
        let fits = Fields::parse(many.as_bytes()).expect("as many as are looked at");
        assert_eq!(fits.finish().expect_err("none is known").errors.len(), MEMBERS_MAX);
        for count in [MEMBERS_MAX + 1, 100_000] {
            let problem = Fields::parse(object(count).as_bytes()).err().expect("too many");
            assert_eq!((problem.status.as_u16(), faults(&problem)), (422, vec![("", "too_many_fields")]));
        }
        let broken = object(100_000).replace("m99999\":0", "m99999\":x");
        assert_eq!(Fields::parse(broken.as_bytes()).err().expect("broken").code, "invalid_json");
        let list = format!("{{\"kinds\":[{}0]}}", "0,".repeat(MEMBERS_MAX));
        let mut fields = Fields::parse(list.as_bytes()).expect("an object");
        assert_eq!(fields.optional_words("kinds"), None);
        assert_eq!(faults(&fields.finish().expect_err("too many")), [("kinds", "too_many_items")]);
    }

    #[test]
    fn odd_but_legal_json_passes_through_untouched() {
        let nested = format!("{}1{}", "[".repeat(126), "]".repeat(126));
        for data in [r#""\ud800""#, "1e400", r#"{"a":1,"a":2}"#, r#""]]]]\"[[""#, "null", nested.as_str()] {
            let text = format!("{{\"data\":{data}}}");
            let mut fields = Fields::parse(text.as_bytes()).expect(data);
            assert_eq!(fields.required_raw("data"), data);
            assert!(fields.finish().is_ok());
        }
    }

    #[test]
    fn a_syntax_error_says_where() {
        let problem = Fields::parse(b"{\n  \"a\": x}").err().expect("broken");
        assert_eq!(problem.detail, "The JSON is broken at line 2, column 8.");
    }
}
