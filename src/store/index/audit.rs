//! Checking the index against itself, before it is relied on.
//!
//! sled was measured to lose entries silently where its file is damaged. A line of history that is missing can
//! be found by `store verify`; something owed that is missing would never be delivered, so it is looked for at
//! every start. Never writes: what was replayed may still be in the overlay alone.

use std::collections::BTreeMap;

use super::{Index, key, outbox, value};
use crate::model::EndpointId;
use crate::store::StoreError;

impl Index {
    /// Checks that as much is owed to every endpoint as was counted. Nobody may be changing anything meanwhile.
    pub(crate) fn audit(&self) -> Result<(), StoreError> {
        let overlay = self.overlay();
        let mut owed: BTreeMap<EndpointId, u64> = BTreeMap::new();
        let mut torn = false;
        let mut count = |key: &[u8]| match key::number(key) {
            Some(endpoint) => *owed.entry(EndpointId(endpoint)).or_default() += 1,
            None => torn = true,
        };
        let mut changes = overlay.active.plain.range(vec![key::OWED]..vec![key::OWED + 1]).peekable();
        outbox::each_key(&self.tree, |there| {
            while let Some((key, slot)) = changes.next_if(|(key, _)| key.as_slice() < there) {
                slot.value.iter().for_each(|_| count(key));
            }
            match changes.next_if(|(key, _)| key.as_slice() == there) {
                Some((key, slot)) => slot.value.iter().for_each(|_| count(key)),
                None => count(there),
            }
        })?;
        changes.filter(|(_, slot)| slot.value.is_some()).for_each(|(key, _)| count(key));
        if torn {
            return Err(value::damaged("an outbox key is torn"));
        }
        let counted: BTreeMap<EndpointId, u64> =
            overlay.backlog().into_iter().map(|(endpoint, _, waiting)| (endpoint, waiting)).collect();
        if owed == counted {
            return Ok(());
        }
        let total = |counts: &BTreeMap<EndpointId, u64>| counts.values().sum::<u64>();
        Err(StoreError::Index(format!(
            "{} deliveries are counted as owed, but {} are there",
            total(&counted),
            total(&owed)
        )))
    }
}
