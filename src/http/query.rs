//! Reads a query string, or a form, parameter by parameter and collects every fault.
//!
//! Never guesses: an unknown, repeated or unreadable parameter is refused, so that a typing error cannot widen a
//! filter.

use std::borrow::Cow;
use std::str::FromStr;

use hyper::StatusCode;
use url::form_urlencoded;

use super::problem::{FieldError, Problem};
use super::route::percent_decode;

/// The parameters that nobody has taken yet, and the faults so far. Readers never fail; [`Query::finish`] does.
pub struct Query<'a> {
    parameters: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    faults: Vec<FieldError>,
}

impl<'a> Query<'a> {
    /// From `a=1&b=2`, percent-decoded. What is not percent-encoded UTF-8 is noted as a fault.
    pub fn parse(text: &'a str) -> Query<'a> {
        let mut query = Query { parameters: Vec::new(), faults: Vec::new() };
        for piece in text.split('&') {
            for (name, value) in form_urlencoded::parse(piece.as_bytes()) {
                if percent_decode(piece).is_some() {
                    query.parameters.push((name, value));
                } else {
                    query.fault(name, "invalid_parameter", "is not percent-encoded UTF-8.");
                }
            }
        }
        query
    }

    /// A parameter that may be given once.
    pub fn one(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let mut values = self.all(name);
        if values.len() > 1 {
            self.fault(name, "duplicate_parameter", "may be given only once.");
        }
        values.pop()
    }

    /// A parameter that may be given many times, in order.
    pub fn all(&mut self, name: &str) -> Vec<Cow<'a, str>> {
        self.parameters.extract_if(.., |(known, _)| known == name).map(|(_, value)| value).collect()
    }

    /// A parameter of a type. `must` says what would be right: `must be a number from 1 to 250.`
    pub fn parsed<T: FromStr>(&mut self, name: &str, must: &str) -> Option<T> {
        let value = self.one(name)?;
        let parsed = value.parse().ok();
        if parsed.is_none() {
            self.fault(name, "invalid_parameter", must);
        }
        parsed
    }

    /// Like [`Query::parsed`], for a parameter that may be given many times.
    pub fn all_parsed<T: FromStr>(&mut self, name: &str, must: &str) -> Vec<T> {
        let values = self.all(name);
        let parsed: Vec<T> = values.iter().filter_map(|value| value.parse().ok()).collect();
        if parsed.len() < values.len() {
            self.fault(name, "invalid_parameter", must);
        }
        parsed
    }

    /// `limit`, the most that a page holds: 1 to `max`.
    pub fn limit(&mut self, default: usize, max: usize) -> usize {
        let must = format!("must be a number from 1 to {max}.");
        let limit = self.parsed::<usize>("limit", &must).unwrap_or(default);
        if !(1..=max).contains(&limit) {
            self.fault("limit", "invalid_parameter", must);
        }
        limit
    }

    /// Notes a fault that the caller found.
    pub fn fault(&mut self, name: impl Into<String>, code: &'static str, detail: impl Into<String>) {
        self.faults.push(FieldError { field: name.into(), code, detail: detail.into() });
    }

    /// 400 with all faults, among them one `unknown_parameter` for each parameter that nobody took.
    pub fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.parameters) {
            self.fault(name, "unknown_parameter", "is not a parameter of this request.");
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        Err(Problem::of_faults(StatusCode::BAD_REQUEST, self.faults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_typed_and_repeatable() {
        let mut query = Query::parse("status=failed&status=retrying&created%5Bgte%5D=2024-01-01&limit=50&q=a+b%26");
        assert_eq!(query.all("status"), ["failed", "retrying"]);
        assert_eq!(query.one("created[gte]").as_deref(), Some("2024-01-01"));
        assert_eq!(query.parsed::<u32>("limit", "must be a number."), Some(50));
        assert_eq!(query.one("q").as_deref(), Some("a b&"));
        assert_eq!(query.one("absent"), None);
        assert!(query.finish().is_ok());
    }

    #[test]
    fn unknown_repeated_and_wrong_parameters_are_named() {
        let mut query = Query::parse("limit=x&order=a&order=b&n=1&n=y&statu=failed&q=%ff&100%=1");
        query.parsed::<u32>("limit", "must be a number.");
        query.one("order");
        query.all_parsed::<u32>("n", "must be a number.");
        let problem = query.finish().expect_err("full of faults");
        assert_eq!(problem.status, 400);
        let faults: Vec<_> = problem.errors.iter().map(|e| (e.field.as_str(), e.code)).collect();
        assert_eq!(
            faults,
            [
                ("q", "invalid_parameter"),
                ("100%", "invalid_parameter"),
                ("limit", "invalid_parameter"),
                ("order", "duplicate_parameter"),
                ("n", "invalid_parameter"),
                ("statu", "unknown_parameter"),
            ]
        );
    }
}
