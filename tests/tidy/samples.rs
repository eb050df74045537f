//! Bad samples for every rule, and good ones that look bad.
//!
//! Never reads the repository.

use super::*;

/// The faults of `rule` contain `expect` each, in order, and there are no more.
fn check(name: &str, faults: Vec<String>, expect: &[&str]) {
    assert_eq!(faults.len(), expect.len(), "{name}: {faults:#?}");
    for (fault, part) in faults.iter().zip(expect) {
        assert!(fault.contains(part), "{name}: {fault:?} does not say {part:?}");
    }
}

#[test]
fn floors_hold_against() {
    for (name, files, expect) in [
        (
            "a higher floor",
            &[("src/model/id.rs", "//! x\nuse crate::store::Store;")][..],
            &["src/model/id.rs:2: `model` names `store`"][..],
        ),
        (
            "a group",
            &[("src/policy/mod.rs", "use crate::{\n  model::{api, x},\n  http::Limits,\n};")],
            &["src/policy/mod.rs:3: `policy` names `http`"],
        ),
        ("a path in code", &[("src/store/mod.rs", "fn f() {\n crate::engine::run() }")], &["src/store/mod.rs:2: "]),
        ("super at the root", &[("src/store/mod.rs", "use super::engine;")], &["names `engine`"]),
        ("super in a file", &[("src/clock.rs", "use super::{model, http};")], &["names `http`"]),
        ("another surface", &[("src/ingest/mod.rs", "use crate::api::x;")], &["another surface"]),
        ("a surface at the store", &[("src/admin.rs", "use crate::store::x;")], &["not for surfaces"]),
        ("no floor", &[("src/stuff.rs", "")], &["`stuff` has no floor"]),
        (
            "a cycle",
            &[
                ("src/outbox.rs", "use crate::history;"),
                ("src/history.rs", "use crate::engine;"),
                ("src/engine.rs", "use crate::outbox;"),
            ],
            &["src/engine: ", "src/history: ", "src/outbox: "],
        ),
        (
            "good",
            &[
                ("src/engine/mod.rs", "use crate::outbox; // crate::http\nconst X: &str = \"crate::http\";"),
                ("src/outbox.rs", "use crate::{model, store};\npub(crate) fn f() {}"),
                ("src/main.rs", "use posthaste::cli;"),
                ("src/api/mod.rs", "use crate::{http::Request, registry, api::x};"),
                ("src/api/list.rs", "use super::store::Row;"),
            ],
            &[],
        ),
    ] {
        let sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        check(name, floor_faults(&sources), expect);
    }
}

#[test]
fn the_core_holds_against() {
    for (path, text, expect) in [
        ("src/shard/mod.rs", "async fn f() {}", &["src/shard/mod.rs:1: `async`"][..]),
        ("src/shard/mod.rs", "use std::collections::HashMap;", &["HashMap"]),
        (
            "src/policy/retry.rs",
            "\nfn f() { std::time::Instant::now(); rand::random(); }",
            &["retry.rs:2: `Instant`", "`rand`"],
        ),
        ("src/policy/retry.rs", "use std::io::Write;", &["std::io"]),
        (
            "src/model/id.rs",
            "use tokio::x;\n#[cfg(test)]\nmod tests { }\nuse std::fs;",
            &["`tokio`", "id.rs:4: `std::fs`"],
        ),
        ("src/model/id.rs", "// HashMap\nfn random_async() { \"tokio\"; InstantLike; }", &[]),
        ("src/model/id.rs", "#[cfg(test)]\nmod tests {\n  use std::collections::HashMap;\n}", &[]),
        ("src/shard/tests.rs", "use std::collections::HashMap;", &[]),
        ("src/engine/mod.rs", "async fn f() {}", &[]),
    ] {
        check(path, core_faults(&[Source::new(path, text)]), expect);
    }
}

#[test]
fn shapes_hold_against() {
    let long_file = "//! x\n".repeat(FILE_LINES_MAX + 1);
    let function =
        |lines: usize| format!("//! x\nfn f<'a>(x: [u8; 3]) -> &'a str {{{}}}\nfn g();", "\n".repeat(lines - 1));
    let (fits, long) = (function(FUNCTION_LINES_MAX), function(FUNCTION_LINES_MAX + 1));
    let tricky =
        format!("//! x\nfn f() {{ '{{'; \"}}\"; r#\"\"}}\"#; /* {{ /* */ */ b'}}'; '\\''; }}\n{}", "\n".repeat(80));
    for (name, path, text, expect) in [
        ("no document", "src/a.rs", "fn f() {}", &["src/a.rs:1: begin with"][..]),
        ("an empty document", "src/a.rs", "//!\nfn f() {}", &["begin with"]),
        ("a long file", "tests/a.rs", &long_file, &["601 lines"]),
        ("a long main", "src/main.rs", &"//! x\n".repeat(121), &["table of contents"]),
        ("a long function", "src/a.rs", &long, &["src/a.rs:2: `fn f` has 71 lines"]),
        ("a function that fits", "src/a.rs", &fits, &[]),
        ("braces in literals", "src/a.rs", &tricky, &[]),
    ] {
        check(name, shape_faults(&Source::new(path, text)), expect);
    }
}

#[test]
fn words_hold_against() {
    for (path, text, expect) in [
        ("src/http/utils.rs", "", &["`utils` says nothing"][..]),
        ("tests/common.rs", "", &["`common` says nothing"]),
        ("src/a.rs", "#[allow(dead_code)]", &["expect"]),
        ("benches/a.rs", "#![allow(dead_code)]", &["expect"]),
        ("src/a.rs", "\nuse super::super::x;", &["src/a.rs:2: say"]),
        ("src/a/b.rs", "println!(); eprintln!(); dbg!(1);", &["`println!`", "`eprintln!`", "`dbg!`"]),
        ("src/a/b.rs", "// println!()\nmy_println!(); \"#[allow(x)]\"; super::x;", &[]),
        ("src/cli/mod.rs", "println!();", &[]),
        ("src/main.rs", "eprintln!();", &[]),
    ] {
        check(path, word_faults(&Source::new(path, text)), expect);
    }
}

#[test]
fn spawns_are_counted() {
    let sources = [
        Source::new(
            "src/a.rs",
            "tokio::spawn(x);\n// tokio::spawn(y)\n#[cfg(test)]\nmod tests { fn f() { tokio::spawn(z); } }",
        ),
        Source::new("src/b.rs", "\ntokio::spawn(x);"),
    ];
    check("at the limit", spawn_faults(&sources, 2), &[]);
    check("above", spawn_faults(&sources, 1), &["src/a.rs:1, src/b.rs:2: 2 calls"]);
}

#[test]
fn dead_files_are_found() {
    let files = [
        ("src/lib.rs", "pub mod a;\nmod b;\n// mod commented;"),
        ("src/main.rs", "fn main() {}"),
        ("src/a.rs", "mod c;"),
        ("src/a/c.rs", ""),
        ("src/b/mod.rs", "mod d;\nmod inline { }"),
        ("src/b/d.rs", ""),
        ("src/b/inline.rs", ""),
        ("src/commented.rs", ""),
        ("src/b/e/mod.rs", ""),
        ("tests/one.rs", ""),
        ("tests/two/main.rs", "mod part;"),
        ("tests/two/part.rs", ""),
        ("tests/two/lost.rs", ""),
    ];
    let sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    let expect = ["src/b/inline.rs", "src/commented.rs", "src/b/e/mod.rs", "tests/two/lost.rs"];
    check("dead", dead_files(&sources), &expect);
}

#[test]
fn dependencies_are_counted_and_explained() {
    let manifest = "[dependencies]\na = \"1\" # the first one\nb = { version = \"1\" }\nc = \"1\" # x\n\n[dev-dependencies]\nd = \"1\"\n[profile.dev]\ne = 1\n";
    let expect = ["Cargo.toml:3: ", "Cargo.toml:4: ", "Cargo.toml:7: ", "3 dependencies, 2 at most"];
    check("all", dependency_faults(manifest, 2), &expect);
    check("good", dependency_faults("[dependencies]\na = \"1\" # the first one\n", 1), &[]);
}

#[test]
fn strangers_at_the_top_level_are_found() {
    for (name, is_known) in [("src", true), (".ci", true), ("target", true), ("scripts", false), ("TODO.md", false)] {
        assert_eq!(top_level_fault(name).is_none(), is_known, "{name}");
    }
}
