//! Directories of released formats: each is opened as it was written, and shows what it showed then.
//!
//! A fixture is made once, by `POSTHASTE_FIXTURES=tests/store/fixtures cargo test --test store -- --ignored
//! fixture`, and never again: what is on disks out there does not change either.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use posthaste::model::{Endpoint, KeyId, Merchant, OldSecret, OwnerKind, Role, Secret, Sent};
use posthaste::store::embedded::Limits;
use posthaste::store::{Acceptance, Change, NewEvent, Notice, Settlement, Store};

use crate::damage::{Left, all_owed, segments};
use crate::disk::{RETENTION_MS, copy, scratch, small};
use crate::samples::{
    ACME, GLOBEX, delivered, endpoint, event, everything, failed, key, keyed, merchant, name, resent, retried, unrouted,
};
use crate::subject::{BEGINNING, FIRST_KEY, NoticeLog, TestClock};

/// The first journals: heads that say neither which segment is the first kept nor when they were made.
const EARLY: &str = "format-1-early";
/// With retention: every kind of record.
const RETAINED: &str = "format-1";
/// With secrets, one before the present one at most, and with what was signed.
const SIGNED: &str = "format-1-signed";
/// With many secrets before the present one, their signatures, and a merchant that is paused.
const ROTATED: &str = "format-1-rotated";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/fixtures")
}

fn check(name: &str) {
    let fixture = fixtures().join(name);
    let left = Left { dir: scratch(), clock: Arc::new(TestClock::default()), acknowledged: Vec::new() };
    copy(&fixture, left.dir.path());
    let expected = fs::read_to_string(fixture.join("picture.txt")).expect("the fixture has its picture");
    assert!(left.verify(left.dir.path()).damage.is_empty());
    assert_eq!(shown(&left), expected.trim_end(), "{name}");
    assert!(left.verify(left.dir.path()).is_sound());
}

/// Everything that a store shows, field by field, so that a new field of ours does not change it.
fn shown(left: &Left) -> String {
    let store = left.try_open(left.dir.path()).expect("the store opens");
    let catalog = store.catalog().expect("readable");
    let mut lines = Vec::new();
    lines.extend(catalog.merchants.iter().map(|m| format!("merchant {} {:?} {}", m.id, m.name, m.created_at)));
    lines.extend(
        catalog.endpoints.iter().map(|e| format!("endpoint {} {} {} {}", e.id, e.merchant, e.url, e.updated_at)),
    );
    let paused = catalog.merchants.iter().filter_map(|m| Some(format!("paused {} since {}", m.id, m.paused_at?)));
    lines.extend(paused);
    lines.extend(catalog.endpoints.iter().filter_map(secrets));
    lines.extend(catalog.keys.iter().map(|k| format!("key {} {:?} {:?}", k.id.0, k.role, k.digest)));
    let owner = store.owner(OwnerKind::Card, "c1").expect("readable");
    lines.push(format!("card c1 {}", owner.expect("it has one")));
    for merchant in ["acme", "globex"] {
        for item in store.page(&everything(merchant)).expect("readable").items {
            let dossier = store.dossier(&name(merchant), item.id).expect("readable").expect("listed");
            let event = &dossier.event;
            let said = (event.resource_id.as_deref(), event.traceparent.as_deref(), event.occurred_at);
            lines.push(format!(
                "event {} {} {} {} {said:?} {:?} {} {} {:?} {:?}",
                event.id,
                event.merchant,
                event.sequence,
                event.event_type.as_str(),
                event.payload,
                item.status,
                item.attempts,
                item.delivered_at,
                item.next_attempt_at
            ));
            lines.extend(dossier.attempts.iter().map(|attempt| {
                let (status, error) = (attempt.outcome.status(), attempt.outcome.error());
                format!(
                    "attempt {} {} {} {status:?} {error:?}",
                    attempt.number, attempt.started_at, attempt.duration_ms
                )
            }));
            lines.extend(dossier.attempts.iter().filter_map(|attempt| attempt.sent.as_ref()).map(sent));
        }
    }
    for line in store.backlog().expect("readable") {
        lines.push(format!("owed to {} of {}: {}", line.endpoint, line.merchant, line.waiting));
        lines.extend(all_owed(&store, line.endpoint, FIRST_KEY));
    }
    lines.join("\n")
}

fn secrets(endpoint: &Endpoint) -> Option<String> {
    let mut line = format!("secret {} {}", endpoint.id, endpoint.secret.as_ref()?.expose());
    for old in &endpoint.old_secrets {
        write!(line, ", until {} {}", old.until, old.secret.expose()).expect("written");
    }
    Some(line)
}

fn sent(sent: &Sent) -> String {
    let first = |digest: &[u8; 32]| digest[0];
    let (simple, standard) = (sent.signature.as_ref().map(first), sent.standard.as_ref().map(first));
    let simple_old = sent.signature_old.as_ref().map(first);
    let standard_old: Vec<u8> = sent.standards_old.iter().map(first).collect();
    format!("sent {} {simple:?} {simple_old:?} {standard:?} {standard_old:?}", sent.timestamp_s)
}

#[test]
fn a_journal_of_the_first_days_is_read() {
    check(EARLY);
}

#[test]
fn a_journal_with_every_kind_of_record_is_read() {
    check(RETAINED);
}

#[test]
fn a_journal_of_the_first_secrets_and_signatures_is_read() {
    check(SIGNED);
}

#[test]
fn a_journal_of_many_secrets_and_a_paused_merchant_is_read() {
    check(ROTATED);
}

#[test]
#[ignore = "makes the fixtures of a new format"]
fn fixture() {
    let target = PathBuf::from(std::env::var("POSTHASTE_FIXTURES").expect("where to"));
    let left = live();
    let journal = target.join(ROTATED).join("journal");
    fs::create_dir_all(&journal).expect("made");
    copy_journal(left.dir.path(), &journal);
    fs::write(target.join(ROTATED).join("picture.txt"), shown(&left) + "\n").expect("written");
}

fn copy_journal(dir: &Path, target: &Path) {
    for file in segments(dir) {
        fs::copy(&file, target.join(file.file_name().expect("a name"))).expect("copied");
    }
}

/// A store that met everything that can be written down.
fn live() -> Left {
    let (dir, clock, notices) = (scratch(), Arc::new(TestClock::default()), Arc::new(NoticeLog::default()));
    let limits = Limits {
        segment_bytes: 4 << 10,
        retention_age_ms: RETENTION_MS.unsigned_abs(),
        retention_every_ms: 1_000_000,
        ..small()
    };
    let store = crate::disk::open(dir.path(), &limits, &notices, &clock, 2);
    let change = |changes| store.change(changes).wait().expect("taken");
    change(vec![
        Change::PutMerchant(merchant("acme")),
        Change::PutEndpoint(Endpoint { secret: secret("first"), ..endpoint(ACME, "acme") }),
        Change::PutMerchant(Merchant { paused_at: Some(BEGINNING.plus_ms(7)), ..merchant("globex") }),
        Change::PutEndpoint(rotated(endpoint(GLOBEX, "globex"))),
        Change::PutKey(key(1, Role::Producer)),
        Change::PutKey(key(2, Role::Operator)),
        Change::PutOwner(OwnerKind::Card, "c1".into(), name("acme")),
    ]);
    change(vec![Change::DeleteKey(KeyId(2)), Change::DeleteOwner(OwnerKind::Account, "a1".into())]);
    for n in 0..20_u8 {
        let new = NewEvent {
            payload: Bytes::from(format!("{{\"n\":{n}}}")),
            resource_id: (n % 2 == 0).then(|| format!("r{n}").into()),
            traceparent: (n % 3 == 0).then(|| "00-1-2-01".into()),
            occurred_at: (n % 4 == 0).then_some(BEGINNING),
            ..if n % 5 == 0 { unrouted("globex") } else { keyed(event("acme", ACME), n, 1) }
        };
        let answer = store.accept(new).wait().expect("taken");
        let Acceptance::Fresh { id, .. } = answer else { panic!("{answer:?}") };
        let Some(owed) = notices.accepted(id) else { continue };
        match n % 4 {
            0 => store.settle(signed(delivered(&owed, BEGINNING), n)),
            1 => store.settle(signed(retried(&owed, BEGINNING.plus_ms(u64::from(n))), n)),
            2 => store.settle(signed(failed(&owed), n)),
            _ => {}
        }
        // Its notice is waited for by the next change, which is answered after it.
        change(vec![Change::PutMerchant(merchant("acme"))]);
        if n == 6 {
            let newest = notices.all().into_iter().rev().find_map(|notice| match notice {
                Notice::Settled(delivery) if !delivery.status.is_waiting() => Some(delivery),
                _ => None,
            });
            store.settle(resent(&newest.expect("one has failed"), BEGINNING));
        }
    }
    for _ in 0..2 {
        clock.shift(RETENTION_MS + 1_000);
        store.retain().expect("dropped");
    }
    store.accept(event("globex", GLOBEX)).wait().expect("taken");
    store.close();
    drop(store);
    Left { dir, clock, acknowledged: Vec::new() }
}

fn secret(text: &str) -> Option<Secret> {
    Secret::new(text)
}

fn rotated(endpoint: Endpoint) -> Endpoint {
    let old = ["first", "second", "third"].map(|text| secret(text).expect("legal"));
    let old_secrets = old.map(|secret| OldSecret { secret, until: BEGINNING.plus_ms(1) }).into();
    Endpoint { secret: secret("fourth"), old_secrets, ..endpoint }
}

/// With signatures of the present secret; every other time also of two before it.
fn signed(mut settlement: Settlement, n: u8) -> Settlement {
    let old = n.is_multiple_of(2).then_some([n + 2; 32]);
    let attempt = settlement.attempt.as_mut().expect("one was made");
    attempt.sent = Some(Sent {
        timestamp_s: BEGINNING.as_s(),
        signature: Some([n; 32]),
        standard: Some([n + 1; 32]),
        signature_old: old,
        standards_old: old.into_iter().flat_map(|digest| [digest, [n + 3; 32]]).collect(),
    });
    settlement
}
