//! Checking the index against itself, before it is relied on.
//!
//! sled was measured to lose entries silently where its file is damaged. A line of history that is missing can
//! be found by `store verify`; something owed that is missing would never be delivered, so it is looked for at
//! every start.

use std::collections::BTreeMap;

use super::{Index, key, value};
use crate::model::{EndpointId, Timestamp};
use crate::store::StoreError;

impl Index {
    /// Writes out what was replayed and checks that as much is owed to every endpoint as was counted.
    pub(crate) fn audit(&self, now: Timestamp) -> Result<(), StoreError> {
        self.flush(now)?;
        let mut owed: BTreeMap<EndpointId, u64> = BTreeMap::new();
        for pair in self.tree.range(&[key::OWED], &[key::OWED + 1]) {
            let (key, _) = pair?;
            let endpoint = key::number(&key).ok_or_else(|| value::damaged("an outbox key is torn"))?;
            *owed.entry(EndpointId(endpoint)).or_default() += 1;
        }
        let counted = self.overlay().backlog();
        let counted: BTreeMap<EndpointId, u64> = counted.into_iter().map(|(endpoint, _, n)| (endpoint, n)).collect();
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
