//! The end of a store's life, and its next one where there is one.
//!
//! Never damages a file: what a store does with damage is tested beside it.

use posthaste::model::{EndpointId, EventId, Merchant, OwnerKind, Role};
use posthaste::store::{Acceptance, Change, Notice, Refusal};

use crate::samples::{
    ACME, GLOBEX, canceled, delivered, endpoint, event, everything, failed, key, keyed, merchant, moved, name, resent,
    retried, two_merchants, unrouted,
};
use crate::subject::{BEGINNING, Ending, Subject, delivery_of};

pub(crate) fn a_closed_store_refuses_every_write(subject: &mut Subject) {
    two_merchants(subject);
    let (id, _) = subject.fresh(event("acme", ACME));
    subject.store().close();
    for _ in 0..2 {
        assert_eq!(subject.store().accept(event("acme", ACME)).wait(), Err(Refusal::Stopped));
        assert_eq!(subject.store().accept(keyed(event("acme", ACME), 1, 1)).wait(), Err(Refusal::Stopped));
        let change = subject.store().change(vec![Change::DeleteMerchant(name("acme"))]);
        assert_eq!(change.wait(), Err(Refusal::Stopped));
        subject.store().close();
    }
    assert_eq!(subject.notices.all().len(), 1);
    if subject.end(Ending::Closed) {
        assert_eq!(subject.owed_ids(ACME), [id], "nothing of it was stored");
        assert_eq!(subject.catalog().merchants.len(), 2);
        let (_, sequence) = subject.fresh(keyed(event("acme", ACME), 1, 1));
        assert_eq!(sequence, 2, "no number and no key was taken");
    }
}

pub(crate) fn a_settlement_after_the_end_is_not_noticed(subject: &mut Subject) {
    two_merchants(subject);
    let delivery = subject.owe(event("acme", ACME));
    subject.store().close();
    subject.store().settle(delivered(&delivery, BEGINNING));
    subject.store().close();
    assert_eq!(subject.notices.about(delivery.event).len(), 1);
    if subject.end(Ending::Closed) {
        assert_eq!(subject.owed_ids(ACME), [delivery.event], "it is owed still");
        assert_eq!(subject.notices.about(delivery.event).len(), 1);
    }
}

pub(crate) fn what_was_acknowledged_survives_every_ending(subject: &mut Subject) {
    two_merchants(subject);
    let endings = [Ending::Closed, Ending::Crashed, Ending::Bereft, Ending::Crashed, Ending::Closed, Ending::Bereft];
    for (round, ending) in endings.into_iter().enumerate() {
        live(subject, u8::try_from(round).expect("small"));
        let before = picture(subject);
        assert_eq!(before, picture(subject), "a picture is the same when it is taken twice");
        subject.end(ending);
        assert_eq!(before, picture(subject), "after {ending:?} in round {round}");
        if round % 2 == 1 {
            subject.end(ending);
            assert_eq!(before, picture(subject), "after {ending:?} again, with nothing written");
        }
    }
    assert_eq!(subject.history(&everything("acme")).len(), 6 * 8);
}

/// A day in which everything happens once.
fn live(subject: &Subject, round: u8) {
    let new = || subject.owe(event("acme", ACME));
    let later = BEGINNING.plus_ms(5_000);
    subject.settle(retried(&new(), later));
    subject.settle(moved(&subject.settle(retried(&new(), later)), BEGINNING));
    subject.settle(failed(&new()));
    subject.settle(canceled(&new()));
    subject.settle(resent(&subject.settle(delivered(&new(), later)), later));
    subject.settle(delivered(&subject.settle(resent(&subject.settle(failed(&new())), later)), later));
    subject.fresh(unrouted("acme"));
    subject.fresh(keyed(event("acme", ACME), round, 1));
    subject.fresh(event("globex", GLOBEX));
    let acme = Merchant { name: Some(round.to_string().into()), ..merchant("acme") };
    let spare = EndpointId(100 + u64::from(round));
    subject.change([
        Change::PutMerchant(acme),
        Change::PutEndpoint(endpoint(spare, "globex")),
        Change::PutKey(key(u64::from(round), Role::Producer)),
        Change::PutOwner(OwnerKind::Card, round.to_string().into(), name("acme")),
    ]);
    subject.change([Change::DeleteEndpoint(spare), Change::DeleteOwner(OwnerKind::Card, "1".into())]);
    subject.clock.shift(1_000);
}

/// Everything that can be read, as text. A delivery that is not owed has no due time worth comparing.
fn picture(subject: &Subject) -> Vec<String> {
    let mut lines = vec![format!("{:?}", subject.catalog()), format!("{:?}", subject.backlog())];
    for n in 0..6 {
        let owner = subject.store().owner(OwnerKind::Card, &n.to_string()).expect("owners are readable");
        lines.push(format!("card {n}: {owner:?}"));
    }
    for endpoint in [ACME, GLOBEX] {
        lines.extend(subject.owed(endpoint).iter().map(|delivery| format!("{delivery:?}")));
    }
    for merchant in ["acme", "globex"] {
        for item in subject.history(&everything(merchant)) {
            let dossier = subject.dossier(&name(merchant), item.id);
            assert_eq!(dossier.item, item, "the list and the dossier say the same");
            lines.push(format!("{:?} {item:?} {:?}", dossier.event, dossier.attempts));
            if let Some(d) = &dossier.delivery {
                let due = d.status.is_waiting().then_some(d.due);
                lines.push(format!("{:?} {:?} {:?} {due:?} {}", d.written, d.location, d.last_attempt, d.status));
            }
        }
    }
    lines
}

pub(crate) fn a_store_that_was_opened_again_goes_on_where_it_stood(subject: &mut Subject) {
    two_merchants(subject);
    let (mut newest, mut sequence) = (EventId::MIN, 0);
    for ending in [Ending::Crashed, Ending::Closed, Ending::Bereft, Ending::Crashed, Ending::Closed] {
        let (id, given) = subject.fresh(keyed(event("acme", ACME), 1 + u8::try_from(sequence).expect("small"), 1));
        assert_eq!(given, sequence + 1);
        assert!(id > newest);
        (newest, sequence) = (id, given);
        let settled = subject.settle(retried(&subject.notices.accepted(id).expect("it is owed"), BEGINNING));
        subject.end(ending);
        subject.clock.shift(-1);
        for used in 1..=sequence {
            let answer = subject.accept(keyed(event("acme", ACME), u8::try_from(used).expect("small"), 1));
            assert!(matches!(answer, Acceptance::Duplicate { sequence, .. } if sequence == used), "{answer:?}");
        }
        let owed = subject.owed(ACME);
        let found = owed.iter().find(|delivery| delivery.event == id).expect("it is owed");
        assert_eq!((found.attempts, found.written), (1, settled.written));
        subject.settle(retried(found, BEGINNING.plus_ms(1)));
    }
    let notices = subject.notices.all();
    assert_eq!(notices.len(), 15, "nothing is noticed a second time");
    let grows = |pair: &[Notice]| delivery_of(&pair[0]).written < delivery_of(&pair[1]).written;
    assert!(notices.windows(2).all(grows), "locations go on growing");
}
