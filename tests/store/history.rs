//! The history: filters, orders, bounds and pages.
//!
//! Never reads a dossier: what is compared is the list alone.

use posthaste::model::{EventId, EventType, Status};
use posthaste::store::{Change, HistoryItem, HistoryQuery, NewEvent};

use crate::samples::{
    ACME, GLOBEX, canceled, delivered, event, everything, failed, merchant, retried, two_merchants, unrouted,
};
use crate::subject::{BEGINNING, Subject, TestEntropy, after, before, rest};

/// Two resource ids with the same `resource_hash`.
const TWINS: [&str; 2] = ["8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];

/// What a line of the history should say.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    id: EventId,
    event_type: EventType,
    status: Status,
    resource: Option<&'static str>,
}

pub(crate) fn each_filter_alone_and_together_finds_exactly_what_it_names(subject: &mut Subject) {
    let lines = every_kind(subject);
    let status_sets: Vec<Vec<Status>> = [vec![], vec![Status::Pending, Status::Retrying], Status::ALL.to_vec()]
        .into_iter()
        .chain(Status::ALL.map(|status| vec![status]))
        .collect();
    let type_sets: Vec<Vec<EventType>> = [vec![], vec![EventType::CardState, EventType::CardTransaction]]
        .into_iter()
        .chain(EventType::ALL.map(|event_type| vec![event_type]))
        .collect();
    subject.holds(|subject| {
        for statuses in &status_sets {
            for event_types in &type_sets {
                for resource_id in [None, Some("card_1"), Some("card_2"), Some("nobody's")] {
                    let query = HistoryQuery {
                        statuses: statuses.clone(),
                        event_types: event_types.clone(),
                        resource_id: resource_id.map(str::to_owned),
                        limit: 11,
                        ..everything("acme")
                    };
                    finds_exactly(subject, &query, &lines);
                }
            }
        }
    });
}

fn finds_exactly(subject: &Subject, query: &HistoryQuery, lines: &[Line]) {
    let mut expected: Vec<Line> = lines
        .iter()
        .filter(|line| query.statuses.is_empty() || query.statuses.contains(&line.status))
        .filter(|line| query.event_types.is_empty() || query.event_types.contains(&line.event_type))
        .filter(|line| query.resource_id.is_none() || query.resource_id.as_deref() == line.resource)
        .cloned()
        .collect();
    for descending in [false, true] {
        let query = HistoryQuery { descending, ..query.clone() };
        let found = subject.history(&query);
        assert_eq!(found.len(), expected.len(), "{query:?}");
        for (item, line) in found.iter().zip(&expected) {
            let resource = line.resource;
            let shown = Line { id: item.id, event_type: item.event_type, status: item.status, resource };
            assert_eq!((shown, item.resource_id.as_deref()), (line.clone(), resource), "{query:?}");
        }
        expected.reverse();
    }
}

/// Events of acme in every type, status and two resources or none, three rounds of each, and as many of
/// globex between them.
fn every_kind(subject: &Subject) -> Vec<Line> {
    two_merchants(subject);
    let mut lines = Vec::new();
    for n in 0..3 * 72 {
        let event_type = EventType::ALL[n % 4];
        let status = Status::ALL[n / 4 % 6];
        let resource = [None, Some("card_1"), Some("card_2")][n / 24 % 3];
        let of = |new: NewEvent| NewEvent { event_type, resource_id: resource.map(Into::into), ..new };
        subject.fresh(of(event("globex", GLOBEX)));
        lines.push(Line { id: brought_to(subject, status, of), event_type, status, resource });
    }
    lines
}

/// A new event of acme that has come to `status`.
fn brought_to(subject: &Subject, status: Status, of: impl Fn(NewEvent) -> NewEvent) -> EventId {
    if status == Status::Skipped {
        return subject.fresh(of(unrouted("acme"))).0;
    }
    let delivery = subject.owe(of(event("acme", ACME)));
    match status {
        Status::Pending | Status::Skipped => return delivery.event,
        Status::Retrying => subject.settle(retried(&delivery, BEGINNING)),
        Status::Delivered => subject.settle(delivered(&delivery, BEGINNING)),
        Status::Failed => subject.settle(failed(&delivery)),
        Status::Canceled => subject.settle(canceled(&delivery)),
    };
    delivery.event
}

pub(crate) fn a_thousand_events_are_paged_without_loss_or_repeat(subject: &mut Subject) {
    two_merchants(subject);
    let sample = |n: usize| NewEvent { event_type: EventType::ALL[n % 4], ..event("acme", ACME) };
    let mut ids = Vec::new();
    for hundred in 0..10 {
        ids.extend(subject.fresh_all((0..100).map(sample)));
        subject.clock.shift(if hundred % 3 == 2 { -5 } else { 1 });
    }
    assert!(ids.is_sorted(), "accepted in the order handed in");
    for id in ids.iter().step_by(3) {
        let delivery = subject.notices.accepted(*id).expect("it is owed");
        subject.settle(delivered(&delivery, BEGINNING));
    }
    subject.holds(|subject| {
        for descending in [false, true] {
            let query = HistoryQuery { limit: 7, descending, ..everything("acme") };
            let mut expected = ids.clone();
            let delivered = HistoryQuery { statuses: vec![Status::Delivered], ..query.clone() };
            let mut expected_delivered: Vec<EventId> = ids.iter().copied().step_by(3).collect();
            let topups = HistoryQuery { event_types: vec![EventType::AccountTopup], ..query.clone() };
            let mut expected_topups: Vec<EventId> = ids.iter().copied().skip(2).step_by(4).collect();
            for expected in [&mut expected, &mut expected_delivered, &mut expected_topups] {
                if descending {
                    expected.reverse();
                }
            }
            assert_eq!(ids_of(&subject.history(&query)), expected);
            assert_eq!(ids_of(&subject.history(&delivered)), expected_delivered);
            assert_eq!(ids_of(&subject.history(&topups)), expected_topups);
        }
    });
}

pub(crate) fn the_last_page_says_that_nothing_follows(subject: &mut Subject) {
    two_merchants(subject);
    let ids = subject.fresh_all((0..6).map(|_| event("acme", ACME)));
    subject.fresh(event("globex", GLOBEX));
    subject.settle(failed(&subject.notices.accepted(ids[3]).expect("it is owed")));
    subject.holds(|subject| {
        for descending in [false, true] {
            for limit in 1..9 {
                let query = HistoryQuery { limit, descending, ..everything("acme") };
                let page = subject.page(&query);
                assert_eq!((page.items.len(), page.more), (limit.min(6), limit < 6), "at most {limit} of 6");
                let pending = HistoryQuery { statuses: vec![Status::Pending], ..query.clone() };
                let page = subject.page(&pending);
                assert_eq!((page.items.len(), page.more), (limit.min(5), limit < 5), "at most {limit} of 5");
                let delivered = HistoryQuery { statuses: vec![Status::Delivered], ..query };
                let page = subject.page(&delivered);
                assert_eq!((page.items.len(), page.more), (0, false), "at most {limit} of none");
            }
        }
    });
}

pub(crate) fn bounds_of_ids_are_inclusive(subject: &mut Subject) {
    two_merchants(subject);
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(subject.fresh(event("acme", ACME)).0);
        subject.clock.shift(1_000);
    }
    subject.holds(|subject| {
        let check = |first, last, expect: &[EventId]| {
            for descending in [false, true] {
                let query = HistoryQuery { first, last, descending, limit: 3, ..everything("acme") };
                let mut found = ids_of(&subject.history(&query));
                if descending {
                    found.reverse();
                }
                assert_eq!(found, expect, "{query:?}");
            }
        };
        check(EventId::MIN, EventId::MAX, &ids);
        check(ids[3], ids[6], &ids[3..=6]);
        check(after(ids[3]), before(ids[6]), &ids[4..=5]);
        check(ids[3], ids[3], &ids[3..=3]);
        check(after(ids[3]), before(ids[4]), &[]);
        check(ids[6], ids[3], &[]);
        check(EventId::MIN, before(ids[0]), &[]);
        check(after(ids[9]), EventId::MAX, &[]);
        check(EventId::floor(ids[5].accepted_at()), EventId::MAX, &ids[5..]);
        check(EventId::MIN, before(EventId::floor(ids[5].accepted_at())), &ids[..5]);
    });
}

pub(crate) fn nobody_sees_the_events_of_another(subject: &mut Subject) {
    two_merchants(subject);
    subject.change(["acm", "acme-", "acmeacme"].map(|id| Change::PutMerchant(merchant(id))));
    let acme = subject.fresh_all((0..5).map(|_| event("acme", ACME)));
    let globex = subject.fresh_all((0..3).map(|_| event("globex", GLOBEX)));
    let namesake = subject.fresh(unrouted("acme-")).0;
    subject.holds(|subject| {
        let seen_by = |merchant: &str| ids_of(&subject.history(&everything(merchant)));
        assert_eq!(seen_by("acme"), acme);
        assert_eq!(seen_by("globex"), globex);
        assert_eq!(seen_by("acme-"), [namesake]);
        for nobody in ["acm", "acmeacme", "ACME", "initech"] {
            assert!(seen_by(nobody).is_empty(), "{nobody}");
            let narrow = HistoryQuery { first: acme[0], last: acme[4], ..everything(nobody) };
            assert!(subject.history(&narrow).is_empty(), "{nobody} by id");
            let by_status = HistoryQuery { statuses: Status::ALL.to_vec(), ..everything(nobody) };
            assert!(subject.history(&by_status).is_empty(), "{nobody} by status");
        }
    });
}

pub(crate) fn events_that_change_between_pages_are_neither_lost_nor_repeated(subject: &mut Subject) {
    two_merchants(subject);
    let dice = TestEntropy::seeded(5);
    for descending in [false, true] {
        for statuses in [Vec::new(), vec![Status::Pending], vec![Status::Pending, Status::Delivered]] {
            let ids = subject.fresh_all((0..60).map(|_| event("acme", ACME)));
            let (first, last) = (ids[0], ids[59]);
            let mut query = HistoryQuery { statuses, descending, first, last, limit: 7, ..everything("acme") };
            let (mut changed, mut seen) = (Vec::new(), Vec::new());
            loop {
                let page = subject.page(&query);
                seen.extend(ids_of(&page.items));
                let Some(last) = page.items.last().filter(|_| page.more) else { break };
                query = rest(&query, last.id);
                for _ in 0..4 {
                    let id = ids[usize::try_from(dice.below(60)).expect("small")];
                    if !changed.contains(&id) {
                        let delivery = subject.notices.accepted(id).expect("it is owed");
                        subject.settle(delivered(&delivery, BEGINNING));
                        changed.push(id);
                    }
                }
            }
            let in_order = |pair: &[EventId]| if descending { pair[0] > pair[1] } else { pair[0] < pair[1] };
            assert!(seen.windows(2).all(in_order), "in order and never twice");
            let must_be_seen = |id: &&EventId| query.statuses.len() != 1 || !changed.contains(*id);
            for id in ids.iter().filter(must_be_seen) {
                assert!(seen.contains(id), "{id} matched all the time");
            }
        }
    }
}

pub(crate) fn a_resource_is_matched_by_its_whole_name(subject: &mut Subject) {
    two_merchants(subject);
    let long = "r".repeat(255);
    let other = format!("{}s", "r".repeat(254));
    let resources = ["card_1", "card_10", "card_", "CARD_1", " card_1", "card_1\0", "карта", TWINS[0], TWINS[1], ""];
    let names: Vec<&str> = resources.into_iter().chain([long.as_str(), other.as_str()]).collect();
    let of = |resource: Option<&str>| NewEvent { resource_id: resource.map(Into::into), ..event("acme", ACME) };
    subject.fresh_all([of(None), of(None)]);
    let ids = subject.fresh_all(names.iter().map(|resource| of(Some(resource))));
    subject.fresh_all([of(None)]);
    subject.holds(|subject| {
        for (id, resource) in ids.iter().zip(&names) {
            let query = HistoryQuery { resource_id: Some((*resource).to_owned()), limit: 1, ..everything("acme") };
            let page = subject.page(&query);
            assert_eq!((ids_of(&page.items), page.more), (vec![*id], false), "{resource:?}");
            assert_eq!(page.items[0].resource_id.as_deref(), Some(*resource));
        }
        let nameless = subject.history(&everything("acme")).iter().filter(|i| i.resource_id.is_none()).count();
        assert_eq!(nameless, 3);
    });
}

fn ids_of(items: &[HistoryItem]) -> Vec<EventId> {
    items.iter().map(|item| item.id).collect()
}
