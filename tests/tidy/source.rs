//! Rust source as text: what is code in it, which names it uses, how long its functions are.
//!
//! Never parses more than the rules need: no types, no macros.

use std::collections::BTreeSet;

/// One file of Rust.
pub(super) struct Source {
    /// From the repository's root.
    pub(super) path: String,
    pub(super) text: String,
    /// `text` with comments and literals blanked out, byte for byte.
    pub(super) code: String,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    pub(super) fn fault(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }

    /// `http` of `src/http.rs` and `src/http/route.rs`; none of the crate's roots.
    pub(super) fn module(&self) -> Option<&str> {
        let name = self.path.strip_prefix("src/")?.split('/').next()?;
        let name = name.strip_suffix(".rs").unwrap_or(name);
        (!matches!(name, "lib" | "main")).then_some(name)
    }

    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs")
    }

    /// Starts a crate: nothing has to declare it.
    pub(super) fn is_root(&self) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        match parts[..] {
            ["src", file] => matches!(file, "lib.rs" | "main.rs"),
            ["tests" | "benches", _] => true,
            ["tests" | "benches", _, file] => file == "main.rs",
            _ => false,
        }
    }

    /// Where the files may be that this one declares.
    pub(super) fn children(&self) -> Vec<String> {
        let (directory, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let directory = match file {
            _ if self.is_root() || file == "mod.rs" => directory.to_owned(),
            _ => self.path.trim_end_matches(".rs").to_owned(),
        };
        let declared = words(&self.code, "mod").filter_map(|at| {
            let name = identifier(self.code[at + 3..].trim_start());
            let rest = self.code[at + 3..].trim_start()[name.len()..].trim_start();
            rest.starts_with(';').then_some(name)
        });
        let beside = self.text.lines().filter_map(|line| line.strip_prefix("#[path = \"../")?.strip_suffix("\"]"));
        let parent = directory.rsplit_once('/').map_or("", |(parent, _)| parent);
        declared
            .flat_map(|name| [format!("{directory}/{name}.rs"), format!("{directory}/{name}/mod.rs")])
            .chain(beside.map(|path| format!("{parent}/{path}")))
            .collect()
    }

    /// The code without its tests.
    pub(super) fn production(&self) -> String {
        let mut code = if self.is_test() { String::new() } else { self.code.clone() };
        while let Some(start) = code.find("#[cfg(test)]\nmod ") {
            let open = start + code[start..].find(['{', ';']).unwrap_or(0);
            let end = if code[open..].starts_with('{') { closing(&code, open) } else { open };
            let blanked: String = code[start..=end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
            code.replace_range(start..=end, &blanked);
        }
        code
    }

    /// The top-level modules that this file names, with lines.
    pub(super) fn modules_named(&self) -> Vec<(&str, usize)> {
        let mut named = paths_after(&self.code, "crate");
        let is_module_root = self.path.matches('/').count() == 1 || self.path.ends_with("/mod.rs");
        if is_module_root && self.path.matches('/').count() <= 2 {
            named.extend(paths_after(&self.code, "super"));
        }
        named.into_iter().map(|at| (identifier(&self.code[at..]), self.line(at))).collect()
    }

    /// Name, first line and length of every function with a body.
    pub(super) fn functions(&self) -> Vec<(&str, usize, usize)> {
        let mut functions = Vec::new();
        for at in words(&self.code, "fn") {
            let name = identifier(self.code[at + 2..].trim_start());
            let mut depth = 0;
            let body = self.code[at..].bytes().position(|byte| {
                match byte {
                    b'(' | b'[' => depth += 1,
                    b')' | b']' => depth -= 1,
                    _ => {}
                }
                depth == 0 && matches!(byte, b'{' | b';')
            });
            let Some(open) = body.map(|b| at + b).filter(|b| self.code[*b..].starts_with('{') && !name.is_empty())
            else {
                continue;
            };
            let length = self.line(closing(&self.code, open)) - self.line(at) + 1;
            functions.push((name, self.line(at), length));
        }
        functions
    }

    /// The lines of `code`, which is this file's or made from it, that have `word` in them.
    pub(super) fn lines_with(&self, code: &str, word: &str) -> BTreeSet<usize> {
        words(code, word).map(|at| self.line(at)).collect()
    }

    fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }
}

/// Where `word` stands and is not a part of a longer word.
fn words(code: &str, word: &str) -> impl Iterator<Item = usize> {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (may_grow_left, may_grow_right) = (is_part(word.chars().next()), is_part(word.chars().next_back()));
    let places = code.match_indices(word).map(|(at, _)| at);
    places.filter(move |at| {
        let (before, after) = (code[..*at].chars().next_back(), code[at + word.len()..].chars().next());
        let is_longer = (may_grow_left && is_part(before)) || (may_grow_right && is_part(after));
        !is_longer
    })
}

fn identifier(code: &str) -> &str {
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    &code[..end]
}

/// Where the names stand that follow `prefix::`, also in `prefix::{a, b::c}`.
fn paths_after(code: &str, prefix: &str) -> Vec<usize> {
    let mut places = Vec::new();
    for at in words(code, prefix) {
        let Some(rest) = code[at + prefix.len()..].strip_prefix("::") else {
            continue;
        };
        let start = code.len() - rest.len();
        if !rest.starts_with('{') {
            places.push(start);
            continue;
        }
        let (end, mut depth, mut expects_name) = (closing(code, start), 0, false);
        for (i, byte) in code.bytes().enumerate().take(end).skip(start) {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ if expects_name && depth == 1 && !byte.is_ascii_whitespace() => places.push(i),
                _ => {}
            }
            let begins_name = matches!(byte, b'{' | b',') && depth == 1;
            expects_name = begins_name || (expects_name && byte.is_ascii_whitespace());
        }
    }
    places
}

/// Where the brace at `open` is closed; the end where it is not.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    let end = code[open..].bytes().position(|byte| {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    end.map_or(code.len() - 1, |end| open + end)
}

/// Comments and literals become spaces; line breaks stay.
fn blank(text: &str) -> String {
    let mut code = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        let end = at + length_to_blank(text, at);
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(code).expect("literals and comments are blanked whole")
}

/// The length of the comment or literal that starts at `at`; 0 where none does.
fn length_to_blank(text: &str, at: usize) -> usize {
    let Some(rest) = text.get(at..) else {
        return 0;
    };
    let through = |pattern: &str, from: usize| {
        rest.get(from..).and_then(|r| r.find(pattern)).map_or(rest.len(), |p| from + p + pattern.len())
    };
    match rest.as_bytes() {
        [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest.as_bytes()),
        [b'r', b'"' | b'#', ..] if !text[..at].ends_with(|c: char| (c.is_alphanumeric() && c != 'b') || c == '_') => {
            let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
            let is_string = rest[1 + hashes..].starts_with('"');
            if is_string { through(&format!("\"{}", "#".repeat(hashes)), 2 + hashes) } else { 0 }
        }
        [b'"', ..] => quoted(rest.as_bytes(), b'"'),
        [b'\'', b'\\', ..] => quoted(rest.as_bytes(), b'\''),
        [b'\'', ..] => {
            let mut chars = rest.chars().skip(1);
            let width = chars.next().map_or(0, char::len_utf8);
            if chars.next() == Some('\'') { width + 2 } else { 0 }
        }
        _ => 0,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}
