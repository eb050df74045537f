//! Puts the layers of the configuration over each other and finds every fault, with where it came from.
//!
//! Never stops at the first fault, and never repeats the value of a secret, nor that of a key that is not known: it
//! may be a secret under a mistyped name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::{Config, MANUAL, bounds};

const ENVIRONMENT_PREFIX: &str = "POSTHASTE__";
const SECRET_KEYS: [&str; 1] = ["auth.operator_key"];

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Such as `delivery.timeout`; empty where a whole file is wrong.
    pub key: String,
    /// As it was written; empty where it does not matter or may be secret.
    pub value: String,
    /// `posthaste.toml:12`, a variable or a flag; empty where it is a combination.
    pub origin: String,
    /// What is wrong and what to write instead.
    pub detail: String,
}

/// Everything that is wrong, at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

/// The variables of this process that belong to the configuration.
pub fn environment() -> Vec<(String, String)> {
    let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
    let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    all.filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect()
}

/// One value that somebody set.
struct Setting {
    key: String,
    /// As it was written, for people.
    text: String,
    value: Result<Value, String>,
    origin: String,
}

/// See [`Config::load`].
pub(super) fn merge(
    presets: &[(&str, &str, String)],
    file: Option<&Path>,
    environment: &[(String, String)],
    flags: &[(&str, &str, String)],
) -> Result<Config, Faults> {
    let manual: Table = MANUAL.parse().expect("the manual is TOML");
    let known = leaves(&manual);
    let mut faults = Vec::new();
    let typed = |(name, key, text): &(&str, &str, String)| {
        from_text(&known, (*key).to_owned(), text.clone(), (*name).to_owned())
    };
    let mut settings: Vec<Setting> = presets.iter().map(typed).collect();
    settings.extend(file.map(|path| from_file(path, &mut faults)).unwrap_or_default());
    let variables = environment.iter().filter_map(|(name, text)| {
        let key = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_lowercase().replace("__", ".");
        Some(from_text(&known, key, text.clone(), name.clone()))
    });
    settings.extend(variables);
    settings.extend(flags.iter().map(typed));
    let mut merged = manual.clone();
    let mut origins = BTreeMap::new();
    for setting in settings {
        match accept(&manual, &known, &setting) {
            Ok(value) => {
                set(&mut merged, &setting.key, value);
                origins.insert(setting.key, setting.origin);
            }
            Err(detail) => faults.push(Fault {
                value: if may_be_shown(&known, &setting.key) { setting.text } else { String::new() },
                key: setting.key,
                origin: setting.origin,
                detail,
            }),
        }
    }
    let config: Config = merged.try_into().expect("values that are right one by one are right together");
    faults.extend(bounds::combinations(&config).into_iter().map(|(key, detail)| {
        let origin = origins.get(&key).cloned().unwrap_or_default();
        Fault { key, value: String::new(), origin, detail }
    }));
    if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
}

fn may_be_shown(known: &BTreeMap<String, Value>, key: &str) -> bool {
    known.contains_key(key) && !SECRET_KEYS.contains(&key)
}

/// The value, where it is right on its own: in a configuration where all else is as in the manual.
fn accept(manual: &Table, known: &BTreeMap<String, Value>, setting: &Setting) -> Result<Value, String> {
    let Some(default) = known.get(&setting.key) else {
        return Err(unknown(known, &setting.key));
    };
    let value = setting.value.clone()?;
    if SECRET_KEYS.contains(&setting.key.as_str()) && !value.is_str() {
        return Err("must be a string".to_owned());
    }
    let mut alone = manual.clone();
    set(&mut alone, &setting.key, value.clone());
    let refused = |e: toml::de::Error| format!("{} (the default is {})", e.message(), show(default));
    let config: Config = alone.try_into().map_err(refused)?;
    match bounds::of_single_keys(&config).into_iter().next() {
        Some((_, detail)) => Err(detail),
        None => Ok(value),
    }
}

/// A value as one would write it.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Datetime(_) | Value::Table(_) => String::new(),
    }
}

fn unknown(known: &BTreeMap<String, Value>, key: &str) -> String {
    let names_in = |section: &str| -> Vec<&str> {
        let below = known.keys().filter_map(|k| k.strip_prefix(section)?.strip_prefix('.'));
        below.filter(|name| !name.contains('.')).collect()
    };
    let section = key.rsplit_once('.').map_or("", |(section, _)| section);
    if !names_in(key).is_empty() {
        return format!("is a section; its keys are {}", names_in(key).join(", "));
    }
    if !names_in(section).is_empty() {
        return format!("is no key; those of [{section}] are {}", names_in(section).join(", "));
    }
    let mut sections: Vec<&str> = known.keys().filter_map(|k| Some(k.split_once('.')?.0)).collect();
    sections.dedup();
    format!("is no key; the sections are {}", sections.join(", "))
}

/// All settings of a file. A file that cannot be read or is no TOML is one fault.
fn from_file(path: &Path, faults: &mut Vec<Fault>) -> Vec<Setting> {
    let name = path.display().to_string();
    let mut give_up = |origin: String, detail: String| {
        faults.push(Fault { key: String::new(), value: String::new(), origin, detail });
        Vec::new()
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return give_up(name, format!("cannot be read: {error}")),
    };
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let (table, spans) = match (text.parse::<Table>(), DeTable::parse(&text)) {
        (Ok(table), Ok(spans)) => (table, spans),
        (Err(error), _) | (_, Err(error)) => {
            let at = error.span().map_or(0, |span| span.start);
            return give_up(format!("{name}:{}", line(at)), error.message().to_owned());
        }
    };
    let mut places = BTreeMap::new();
    spans_of("", spans.get_ref(), &mut places);
    let values = leaves(&table).into_iter();
    let mut values: Vec<_> =
        values.map(|(key, value)| (places.get(&key).cloned().unwrap_or_default(), key, value)).collect();
    values.sort_by_key(|(span, ..)| span.start);
    let settings = values.into_iter().map(|(span, key, value)| {
        let written = text.get(span.clone()).unwrap_or_default().to_owned();
        Setting { origin: format!("{name}:{}", line(span.start)), text: written, value: Ok(value), key }
    });
    settings.collect()
}

/// A setting from plain text. What it should look like is seen from the manual's value.
fn from_text(known: &BTreeMap<String, Value>, key: String, text: String, origin: String) -> Setting {
    let value = match known.get(&key) {
        Some(Value::Array(items)) => list(items, &text),
        Some(example) => scalar(example, &text),
        None => Ok(Value::String(text.clone())),
    };
    Setting { key, text, value, origin }
}

/// `a,b`; empty: an empty list. Numbers where the manual's list has some.
fn list(example: &[Value], text: &str) -> Result<Value, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let is_text = example.iter().any(Value::is_str);
    let item = |part: &str| part.parse().map(Value::Integer).ok().filter(|_| !is_text);
    Ok(Value::Array(parts.map(|part| item(part).unwrap_or_else(|| part.into())).collect()))
}

fn scalar(example: &Value, text: &str) -> Result<Value, String> {
    let parsed = match example {
        Value::Integer(_) => text.parse().ok().map(Value::Integer),
        Value::Float(_) => text.parse().ok().map(Value::Float),
        Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
        _ => Some(text.into()),
    };
    parsed.ok_or_else(|| match example {
        Value::Boolean(_) => "must be true or false".to_owned(),
        _ => "must be a number".to_owned(),
    })
}

/// Every value that is no table, by its dotted key.
pub(super) fn leaves(table: &Table) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut waiting: Vec<(String, &Table)> = vec![(String::new(), table)];
    while let Some((prefix, table)) = waiting.pop() {
        for (name, value) in table {
            match value {
                Value::Table(inner) => waiting.push((format!("{prefix}{name}."), inner)),
                value => drop(found.insert(format!("{prefix}{name}"), value.clone())),
            }
        }
    }
    found
}

fn spans_of(prefix: &str, table: &DeTable<'_>, places: &mut BTreeMap<String, std::ops::Range<usize>>) {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => spans_of(&format!("{key}."), inner, places),
            _ => drop(places.insert(key, value.span())),
        }
    }
}

fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((section, rest)) => {
            let inner = table.get_mut(section).and_then(Value::as_table_mut);
            set(inner.expect("only known keys are set"), rest, value);
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Fault::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// `posthaste.toml:12: delivery.timeout = 10: …`
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = if self.value.is_empty() { self.key.clone() } else { format!("{} = {}", self.key, self.value) };
        let parts = [self.origin.as_str(), &setting, &self.detail];
        f.write_str(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": "))
    }
}
