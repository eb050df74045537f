//! The configuration: the manual in step with the types, every layer, every kind of fault.
//!
//! Never changes this process's environment: variables are handed in.

use std::path::PathBuf;

use toml::{Table, Value};

use super::layers::leaves;
use super::*;

const KEY: &str = "an-operator-key-of-more-than-32-characters";

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("posthaste.toml");
    std::fs::write(&path, text).expect("written");
    (directory, path)
}

/// The faults of a file with this text and these variables, as people see them, without the directory.
fn faults(text: &str, pairs: &[(&str, &str)]) -> Vec<String> {
    let (directory, path) = file(text);
    let faults = Config::load(&[], Some(&path), &variables(pairs), &[]).expect_err("something is wrong");
    let directory = format!("{}/", directory.path().display());
    faults.to_string().lines().map(|line| line.replace(&directory, "")).collect()
}

fn check(text: &str, pairs: &[(&str, &str)], expect: &[&str]) {
    let faults = faults(text, pairs);
    assert_eq!(faults.len(), expect.len(), "{text}: {faults:#?}");
    for (fault, expect) in faults.iter().zip(expect) {
        assert!(fault.starts_with(expect), "{fault:?} does not start with {expect:?}");
    }
}

#[test]
fn nothing_set_is_what_the_manual_says() {
    let config = Config::load(&[], None, &[], &[]).expect("the manual is right");
    assert_eq!(config, Config::default());
    assert_eq!(config.public.limits(), http::Limits::default(), "the module's own defaults are the manual's");
    assert_eq!(config.public.tls(), None);
    assert_eq!(config.delivery.retry_schedule_ms.len(), 9);
    assert_eq!(config.events.card_state.card, ["/card_id", "/id"]);
    assert_eq!(config.auth.operator_key, None);
}

#[test]
fn every_key_of_the_types_is_in_the_manual_and_the_other_way_round() {
    let manual: Table = MANUAL.parse().expect("TOML");
    let keys = leaves(&manual);
    assert!(keys.len() > 80);
    for key in keys.keys() {
        let without = edit(&manual, key, |section, name| drop(section.remove(name)));
        assert!(without.try_into::<Config>().is_err(), "{key} is in the manual, but no type needs it");
        let beside = edit(&manual, key, |section, _| drop(section.insert("stranger".into(), Value::Integer(1))));
        assert!(beside.try_into::<Config>().is_err(), "a stranger beside {key} goes unnoticed");
    }
}

fn edit(manual: &Table, key: &str, change: impl Fn(&mut Table, &str)) -> Table {
    let mut table = manual.clone();
    let (path, name) = key.rsplit_once('.').expect("every key is in a section");
    let section = path
        .split('.')
        .fold(&mut table, |table, part| table.get_mut(part).and_then(Value::as_table_mut).expect("a section"));
    change(section, name);
    table
}

#[test]
fn the_manual_explains_every_key() {
    assert_eq!(unexplained(MANUAL), Vec::<&str>::new());
    let bad = "[a]\n# Why.\nx_one = 1\nx_two = 1\ny = 1\n[b]\nx_one = 1\nz = 1\n\n# Why.\n\nw = 1";
    assert_eq!(unexplained(bad), ["y", "z", "w"]);
}

/// Keys without a comment: none right before, none where the key was first met, none before a key of the same family.
fn unexplained(manual: &str) -> Vec<&str> {
    let family = |name: &str| name.split('_').next().unwrap_or("").to_owned();
    let (mut explained, mut missing, mut before) = (Vec::new(), Vec::new(), "");
    for line in manual.lines() {
        if let Some((name, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let is_family = before.split_once(" = ").is_some_and(|(other, _)| family(other) == family(name));
            let is_pointer = ["card", "account", "resource"].contains(&name);
            if before.starts_with('#') || is_family || is_pointer || explained.contains(&name) {
                explained.push(name);
            } else {
                missing.push(name);
            }
        }
        before = line;
    }
    missing
}

#[test]
fn flags_stand_over_the_environment_over_the_file_over_the_manual() {
    let (_directory, path) = file(
        "[storage]\ndata_dir = \"/file\"\nsegment_bytes = \"2MiB\"\nindex_flush = \"2s\"\n[events]\nbatch_bytes_max = \"1MiB\"",
    );
    let environment = variables(&[
        ("POSTHASTE__STORAGE__DATA_DIR", "/environment"),
        ("POSTHASTE__STORAGE__INDEX_FLUSH", "3s"),
        ("POSTHASTE__EVENTS__CARD_STATE__CARD", "/a, /b"),
        ("POSTHASTE__EGRESS__PORTS", "443,8443"),
        ("POSTHASTE__EGRESS__ALLOW", "10.0.0.0/8"),
        ("POSTHASTE__EGRESS__ALLOW_HTTP", "true"),
        ("POSTHASTE__DELIVERY__RETRY_JITTER", "0"),
        ("POSTHASTE__DELIVERY__RETRY_SCHEDULE", ""),
        ("POSTHASTE__AUTH__OPERATOR_KEY", KEY),
        ("PATH", "/bin"),
    ]);
    let flags = [("--data-dir", "storage.data_dir", "/flag".to_owned())];
    let config = Config::load(&[], Some(&path), &environment, &flags).expect("all is right");
    assert_eq!(config.storage.data_dir, PathBuf::from("/flag"));
    assert_eq!(config.storage.index_flush_ms, 3000);
    assert_eq!(config.storage.segment_bytes, 2 << 20);
    assert_eq!(config.storage.commit_queue_max, 8192);
    assert_eq!(config.events.card_state.card, ["/a", "/b"]);
    assert_eq!(config.egress.ports, [443, 8443]);
    assert_eq!(config.egress.allow, ["10.0.0.0/8".parse().expect("a range")]);
    assert!(config.egress.allow_http);
    assert_eq!(config.delivery.retry_jitter, 0.0);
    assert!(config.delivery.retry_schedule_ms.is_empty());
    assert_eq!(config.auth.operator_key, Some(KeyDigest(Sha256::digest(KEY).into())));
}

#[test]
fn all_faults_are_reported_together_with_where_they_came_from() {
    check(
        "[delivery]\ntimeout = 10\nretry_jitter = 2.0\n\n[public]\naddress = \"nowhere\"\nconections_max = 1\ntls_cert = \"/a\"\n",
        &[
            ("POSTHASTE__STORAGE__SEGMENT_BYTES", "64MB"),
            ("POSTHASTE__LOG__FORMAT", "xml"),
            ("POSTHASTE__EGRESS__ALLOW_HTTP", "yes"),
            ("POSTHASTE__STORAGE", "x"),
        ],
        &[
            "posthaste.toml:2: delivery.timeout = 10: invalid type: integer `10`, expected a string (the default is \"10s\")",
            "posthaste.toml:3: delivery.retry_jitter = 2.0: must be from 0.0 to 1.0",
            "posthaste.toml:6: public.address = \"nowhere\": invalid socket address",
            "posthaste.toml:7: public.conections_max: is no key; those of [public] are address, body_bytes_in_flight_max,",
            "POSTHASTE__STORAGE__SEGMENT_BYTES: storage.segment_bytes = 64MB: \"64MB\" is no size: write a whole number and",
            "POSTHASTE__LOG__FORMAT: log.format = xml: unknown variant `xml`, expected `text` or `json`",
            "POSTHASTE__EGRESS__ALLOW_HTTP: egress.allow_http = yes: must be true or false",
            "POSTHASTE__STORAGE: storage: is a section; its keys are commit_queue_bytes_max,",
            "public.tls_key: must be set, because tls_cert is",
        ],
    );
}

#[test]
fn each_kind_of_fault_is_told() {
    for (text, expect) in [
        (
            "[delivery]\ntimeout = \"1d\"",
            "posthaste.toml:2: delivery.timeout = \"1d\": must be from \"100ms\" to \"1m\"",
        ),
        ("[public]\nconnections_max = 0", "posthaste.toml:2: public.connections_max = 0: must be from 1 to"),
        ("[public]\nconnections_max = -1", "posthaste.toml:2: public.connections_max = -1: invalid value"),
        ("[storage]\nsettle_delay = \"1h\"", "posthaste.toml:2: storage.settle_delay"),
        (
            "[transport]\nresponse_head_bytes_max = \"65KiB\"",
            "posthaste.toml:2: transport.response_head_bytes_max = \"65KiB\": must be from \"8KiB\" to \"64KiB\"",
        ),
        (
            "[delivery]\nretry_schedule = [\"5s\", \"5\"]",
            "posthaste.toml:2: delivery.retry_schedule = [\"5s\", \"5\"]: \"5\" is no duration",
        ),
        (
            "[egress]\nallow = [\"10.0.0.0\"]",
            "posthaste.toml:2: egress.allow = [\"10.0.0.0\"]: \"10.0.0.0\" is no address range",
        ),
        ("[egress]\ndenied_suffixes = [\"*.corp\"]", "posthaste.toml:2: egress.denied_suffixes"),
        ("[egress]\nports = [0]", "posthaste.toml:2: egress.ports"),
        ("[egress]\nports = [70000]", "posthaste.toml:2: egress.ports"),
        (
            "[events.card_state]\ncard = [\"id\"]",
            "posthaste.toml:2: events.card_state.card = [\"id\"]: \"id\" is no JSON pointer: write \"/id\"",
        ),
        ("[log]\nlevel = \"a=b=c\"", "posthaste.toml:2: log.level"),
        ("[storage]\ndata_dir = \"\"", "posthaste.toml:2: storage.data_dir"),
        ("stray = 1", "posthaste.toml:1: stray: is no key; the sections are admin, auth, dashboard, delivery,"),
        ("[strange]\nkey = 1", "posthaste.toml:2: strange.key: is no key; the sections are"),
        ("public = 1", "posthaste.toml:1: public: is a section"),
        ("[log\nx", "posthaste.toml:1: "),
        ("[log]\nlevel = \"info\"\nlevel = \"warn\"", "posthaste.toml:3: duplicate key"),
    ] {
        check(text, &[], &[expect]);
    }
    let absent = Config::load(&[], Some(Path::new("/nowhere/posthaste.toml")), &[], &[]).expect_err("absent");
    assert!(absent.to_string().starts_with("/nowhere/posthaste.toml: cannot be read"), "{absent}");
}

#[test]
fn keys_that_do_not_fit_together_are_told() {
    for (text, expect) in [
        ("[admin]\ntls_key = \"/k\"", "admin.tls_cert: must be set, because tls_key is"),
        ("[admin]\naddress = \"127.0.0.1:8081\"", "posthaste.toml:2: admin.address: must differ from ingest.address"),
        ("[delivery]\nin_flight_max = 8", "delivery.in_flight_per_merchant_max: must not be more than in_flight_max"),
        (
            "[delivery]\nin_flight_per_endpoint_max = 33",
            "posthaste.toml:2: delivery.in_flight_per_endpoint_max: must not",
        ),
        ("[events]\nbody_bytes_max = \"5MiB\"", "posthaste.toml:2: events.body_bytes_max: must not be more than batch"),
        ("[ingest]\nconnections_max = 10", "ingest.connections_per_ip_max: must not be more than connections_max"),
        ("[storage]\nsegment_bytes = \"1MiB\"", "events.batch_bytes_max: must not be more than storage.segment_bytes"),
    ] {
        check(text, &[], &[expect]);
    }
    let any_port = "[admin]\naddress = \"127.0.0.1:0\"\n[ingest]\naddress = \"127.0.0.1:0\"";
    let (_directory, path) = file(any_port);
    assert!(Config::load(&[], Some(&path), &[], &[]).is_ok(), "port 0 is another port each time");
}

#[test]
fn an_operator_key_comes_as_itself_as_digest_or_from_a_file() {
    let digest: Digest = Sha256::digest(KEY).into();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let (_directory, path) = file(&format!("{KEY}\n"));
    for (name, value) in [
        ("POSTHASTE__AUTH__OPERATOR_KEY", KEY.to_owned()),
        ("POSTHASTE__AUTH__OPERATOR_KEY", format!("sha256:{hex}")),
        ("POSTHASTE__AUTH__OPERATOR_KEY_FILE", path.display().to_string()),
    ] {
        let config = Config::load(&[], None, &variables(&[(name, &value)]), &[]).expect(name);
        assert_eq!(config.auth.operator_key, Some(KeyDigest(digest)), "{name}");
    }
    let both = variables(&[
        ("POSTHASTE__AUTH__OPERATOR_KEY", KEY),
        ("POSTHASTE__AUTH__OPERATOR_KEY_FILE", &path.display().to_string()),
    ]);
    assert!(Config::load(&[], None, &both, &[]).expect_err("both").to_string().contains("must not be set together"));
    let absent = variables(&[("POSTHASTE__AUTH__OPERATOR_KEY_FILE", "/nowhere/key")]);
    assert!(
        Config::load(&[], None, &absent, &[]).expect_err("absent").to_string().contains("/nowhere/key: cannot be read")
    );
}

#[test]
fn a_key_is_never_repeated() {
    for (text, hidden) in [
        ("[auth]\noperator_key = \"too-short-a-key\"", "too-short"),
        ("[auth]\noperator_key = 12345678", "12345678"),
        ("[auth]\noperator_key = \"sha256:abcdef\"", "abcdef"),
        ("[auth]\noperator_key = [\"a-key-in-a-list\"]", "in-a-list"),
    ] {
        let faults = faults(text, &[]).join("\n");
        assert!(faults.starts_with("posthaste.toml:2: auth.operator_key: must"), "{faults}");
        assert!(!faults.contains(hidden), "{faults}");
    }
    for name in
        ["AUTH__OPERATORKEY", "AUTH__KEY", "AUTH", "OPERATOR_KEY", "ADMIN__OPERATOR_KEY", "AUTH__OPERATOR_KEY_FILE"]
    {
        let faults = Config::load(&[], None, &variables(&[(&format!("POSTHASTE__{name}"), KEY)]), &[]);
        let faults = faults.expect_err("it is set in the wrong place").to_string();
        assert!(!faults.contains(KEY), "{faults}");
    }
    for text in [format!("[auth]\noperatorkey = \"{KEY}\""), format!("[auth]\noperator_key = {KEY}")] {
        let faults = faults(&text, &[]).join("\n");
        assert!(!faults.contains(KEY), "{faults}");
    }
    let config = Config::load(&[], None, &variables(&[("POSTHASTE__AUTH__OPERATOR_KEY", KEY)]), &[]).expect("right");
    assert!(format!("{config:?}").contains("operator_key: Some(KeyDigest)"));
}
