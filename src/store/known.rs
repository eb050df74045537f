//! Which event came first with a producer's key, and what it held.
//!
//! Never believes the index alone: the record at the place that it names says whose key it is, and since when.

use super::StoreError;
use super::embedded::index_fault;
use super::index::Index;
use super::journal::carried::KeptV1;
use super::journal::codec::{self, AcceptedV1};
use super::journal::{Kind, Segments};
use crate::model::{Location, MerchantId, Timestamp};

/// How often a look that met a change in between is taken again.
const LOOKS_MAX: usize = 8;

/// Whether a producer's key that came at `at` is still known at `now`, by a window of so many milliseconds.
pub(super) fn is_within(at: i64, now: Timestamp, window_ms: u64) -> bool {
    now.since_ms(Timestamp::from_ms(at)) < window_ms
}

/// The event that came first with a producer's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) content: u128,
    pub(super) event: u128,
    pub(super) sequence: u64,
}

/// A look for a producer's key that came less than `window_ms` before `now`.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyLook<'a> {
    pub(super) index: &'a Index,
    pub(super) segments: &'a Segments,
    pub(super) merchant: &'a MerchantId,
    pub(super) digest: u128,
    pub(super) now: Timestamp,
    pub(super) window_ms: u64,
}

impl KeyLook<'_> {
    /// What is known, and what to hand to `anew`.
    pub(super) fn known(&self) -> Result<(Option<Known>, u64), StoreError> {
        let mut seals = 0;
        let known = self.read(|| {
            let (locations, as_of) = self.index.keyed(self.merchant, self.digest, self.since())?;
            seals = as_of;
            Ok(locations)
        });
        Ok((known?, seals))
    }

    /// What has become known since the look that gave `seals` found nothing.
    pub(super) fn anew(&self, seals: u64) -> Result<Option<Known>, StoreError> {
        self.read(|| self.index.keyed_since(self.merchant, self.digest, self.since(), seals))
    }

    fn since(&self) -> Timestamp {
        self.now.minus_ms(self.window_ms)
    }

    fn read(&self, mut look: impl FnMut() -> Result<Vec<Location>, StoreError>) -> Result<Option<Known>, StoreError> {
        'look: for _ in 0..LOOKS_MAX {
            // What counts of segments dropped before the look was noted elsewhere before it. What is dropped later may not
            // have been.
            let kept_from = self.segments.first();
            for location in look()?.into_iter().filter(|location| location.segment() >= kept_from) {
                match self.read_at(location) {
                    Ok(None) => {}
                    Err(_) if !self.segments.keeps(location) => continue 'look,
                    known => return known,
                }
            }
            return Ok(None);
        }
        Err(StoreError::Index("what is dropped changes faster than it can be looked at".to_owned()))
    }

    fn read_at(&self, location: Location) -> Result<Option<Known>, StoreError> {
        let (header, meta) = self.segments.read_meta(location)?;
        match header.kind {
            Kind::Accepted => {
                let meta: AcceptedV1 = codec::decode(&meta).map_err(index_fault)?;
                let Some((key, content)) = meta.idempotency else { return Ok(None) };
                let known = Known { content, event: meta.id, sequence: meta.sequence };
                Ok(self.is_it(&meta.merchant, key, meta.accepted_at).then_some(known))
            }
            Kind::Kept => {
                let kept: KeptV1 = codec::decode(&self.segments.read(location)?.payload).map_err(index_fault)?;
                let found = kept.keys.iter().find(|k| self.is_it(&k.merchant, k.key, k.accepted_at));
                Ok(found.map(|k| Known { content: k.content, event: k.event, sequence: k.sequence }))
            }
            _ => Ok(None),
        }
    }

    fn is_it(&self, merchant: &str, key: u128, at: i64) -> bool {
        is_within(at, self.now, self.window_ms) && key == self.digest && merchant == self.merchant.as_str()
    }
}
