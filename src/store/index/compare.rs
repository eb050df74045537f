//! Comparing two indexes of the same journal, place by place.
//!
//! Never minds how history and outbox are cut into blocks, nor what readers leave out anyway: what stands in a dropped
//! segment.

use std::cmp::Ordering;

use super::value::{self, Waiting};
use super::{Entry, Index, key, outbox, posting};
use crate::model::{EventId, EventType, Status};
use crate::store::StoreError;

/// What the places of names begin with, as if they stood in sled: behind all others.
const NAMES: u8 = b'x';

/// One place of an index, in words that do not depend on how it is stored.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: Vec<u8>,
    /// For a line of history.
    id: Option<EventId>,
}

type Content = (Vec<u8>, Option<Entry>);

impl Index {
    /// How many places differ from those of `right`, with words for the first of them.
    pub(crate) fn differences(
        &self,
        right: &Index,
        first_kept: u32,
        examples_max: usize,
    ) -> Result<(u64, Vec<String>), StoreError> {
        let (mut count, mut examples) = (0, Vec::new());
        let mut differ = |place: &Place, what: &str| {
            count += 1;
            if examples.len() < examples_max {
                examples.push(format!("{}: {what}", name(place)));
            }
        };
        let (mut mine, mut theirs) = (self.places(first_kept), right.places(first_kept));
        let (mut left, mut other) = (mine.next().transpose()?, theirs.next().transpose()?);
        loop {
            let order = match (&left, &other) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((left, _)), Some((right, _))) => left.cmp(right),
            };
            match (order, &left, &other) {
                (Ordering::Less, Some((place, _)), _) => differ(place, "in the index, but not in the journal"),
                (Ordering::Greater, _, Some((place, _))) => differ(place, "in the journal, but not in the index"),
                (_, Some((place, mine)), Some((_, right))) if mine != right => differ(place, "not as the journal says"),
                _ => {}
            }
            if order.is_le() {
                left = mine.next().transpose()?;
            }
            if order.is_ge() {
                other = theirs.next().transpose()?;
            }
        }
        drop((mine, theirs));
        Ok((count, examples))
    }

    fn places(&self, first_kept: u32) -> impl Iterator<Item = Result<(Place, Content), StoreError>> + use<> {
        let pairs = self.tree.range(&[0], &[u8::MAX]);
        let pairs = pairs.flat_map(move |pair| match pair.and_then(|(key, value)| content(key, value, first_kept)) {
            Ok(found) => found.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        });
        let named = self.mentions(first_kept).map(|mention| {
            let key = [&[NAMES], mention?.bytes()].concat();
            Ok((Place { key, id: None }, (Vec::new(), None)))
        });
        pairs.chain(named)
    }
}

fn content(key: Vec<u8>, value: Vec<u8>, first_kept: u32) -> Result<Vec<(Place, Content)>, StoreError> {
    match key[0] {
        key::HISTORY => {
            let entries = posting::decode(&value).ok_or_else(|| value::damaged("a block of history is torn"))?;
            let run = &key[..key.len().saturating_sub(16)];
            let kept = entries.into_iter().filter(|(_, entry)| entry.location.segment() >= first_kept);
            Ok(kept.map(|(id, entry)| (Place { key: run.to_vec(), id: Some(id) }, (Vec::new(), Some(entry)))).collect())
        }
        key::OWED => {
            let owed = outbox::decode(&key, &value)?;
            Ok(owed.into_iter().map(|(key, value)| (Place { key, id: None }, (value, None))).collect())
        }
        key::WAITING => {
            let waiting: Waiting = value::decode(&value)?;
            let there = waiting.count != 0;
            Ok(Vec::from_iter(there.then(|| (Place { key, id: None }, (waiting.count.to_be_bytes().to_vec(), None)))))
        }
        _ if key == key::WATERMARK => Ok(Vec::new()),
        _ => Ok(vec![(Place { key, id: None }, (value, None))]),
    }
}

/// What a place is about, without any secret.
fn name(place: &Place) -> String {
    let key = &place.key;
    let rest = || String::from_utf8_lossy(&key[1..]).into_owned();
    let number = || key::number(key).unwrap_or(0);
    match key[0] {
        key::HISTORY => {
            let merchant = rest().split('\0').next().unwrap_or_default().to_owned();
            let code = |back: usize| key.len().checked_sub(back).map_or(u8::MAX, |nth| key[nth]);
            let event_type = EventType::from_code(code(2)).map_or("?", EventType::as_str);
            let status = Status::from_code(code(1)).map_or("?", Status::as_str);
            let id = place.id.map_or(String::new(), |id| id.to_string());
            format!("history of {merchant}, {event_type}, {status}, {id}")
        }
        key::OWED => {
            let event = key::owed_parts(key).map_or(String::new(), |(_, event)| event.to_string());
            format!("{event} owed to ep_{}", number())
        }
        key::WAITING => format!("count of what is owed to ep_{}", number()),
        key::ENDPOINTS => format!("endpoint ep_{}", number()),
        key::KEYS => format!("key {}", number()),
        key::MERCHANTS => format!("merchant {}", rest()),
        key::SEQUENCES => format!("sequence of {}", rest()),
        key::OWNERS => format!("owner of {}", String::from_utf8_lossy(key.get(2..).unwrap_or_default())),
        NAMES => "a producer's key or a resource".to_owned(),
        other => format!("a place of the unknown kind {other}"),
    }
}
