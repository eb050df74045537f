//! What becomes of a block of history or of the outbox that entries come to or go from, and where it is cut.
//!
//! Never cuts by what the entries are, only by how many there are and where they come.

use super::tree::{Pair, Write};

/// A block that grows little by little is cut here: it is written whole each time, and so is the page it stands on.
const GROWING_ENTRIES_MAX: usize = 32;

/// The writes by which a block with these entries takes changes of its stretch (`None` removes), both ascending. `None`
/// instead of a block: there is none for them yet. `entries_max` says how many of them fill a block, `key` what one that
/// begins there is called.
pub(super) fn regroup<K: Ord, V>(
    block: Option<Pair>,
    entries: Vec<(K, V)>,
    changes: Vec<(K, Option<V>)>,
    entries_max: impl Fn(&[(K, V)]) -> usize,
    key: impl Fn(&K) -> Vec<u8>,
    encode: impl Fn(&[(K, V)]) -> Vec<u8>,
) -> Vec<Write> {
    let cut = Cut::of(&entries, &changes);
    let merged = merge(entries, changes);
    let mut writes = Vec::new();
    if let (Some((key, _)), true) = (&block, merged.is_empty()) {
        writes.push((key.clone(), None));
    }
    let mut rest = merged.as_slice();
    for (nth, length) in cut.lengths(entries_max(&merged)).enumerate() {
        let (entries, others) = rest.split_at(length);
        rest = others;
        // The first block keeps its key: it is the lower bound of what it may hold.
        let kept = block.as_ref().filter(|_| nth == 0);
        let bytes = encode(entries);
        if kept.is_some_and(|(_, old)| *old == bytes) {
            // It was full, and what comes goes behind it.
            continue;
        }
        writes.push((kept.map_or_else(|| key(&entries[0].0), |(key, _)| key.clone()), Some(bytes)));
    }
    writes
}

/// Applies changes to a block's entries, both ascending.
fn merge<K: Ord, V>(entries: Vec<(K, V)>, changes: Vec<(K, Option<V>)>) -> Vec<(K, V)> {
    let mut merged = Vec::with_capacity(entries.len() + changes.len());
    let mut old = entries.into_iter().peekable();
    for (key, change) in changes {
        while let Some(kept) = old.next_if(|(other, _)| *other < key) {
            merged.push(kept);
        }
        old.next_if(|(other, _)| *other == key);
        merged.extend(change.map(|value| (key, value)));
    }
    merged.extend(old);
    merged
}

/// The entries of one block and its changes.
struct Cut {
    /// Entries that were there and stay.
    old: usize,
    /// Of these, those before the first that comes.
    head: usize,
    /// Entries that come.
    new: usize,
}

impl Cut {
    /// Of a block's entries and its changes, both ascending.
    fn of<K: Ord, V>(entries: &[(K, V)], changes: &[(K, Option<V>)]) -> Cut {
        let mut cut = Cut { old: entries.len(), head: entries.len(), new: 0 };
        let mut gone = 0;
        for (key, change) in changes {
            let place = entries.binary_search_by(|(other, _)| other.cmp(key));
            match (place, change) {
                (Ok(_), Some(_)) | (Err(_), None) => {}
                (Ok(_), None) => gone += 1,
                (Err(before), Some(_)) => {
                    if cut.new == 0 {
                        cut.head = before - gone;
                    }
                    cut.new += 1;
                }
            }
        }
        cut.old -= gone;
        if cut.new == 0 {
            cut.head = cut.old;
        }
        cut
    }

    /// How many entries go in each block, `entries_max` at most: the one that is there, then new ones.
    ///
    /// What comes at once in great numbers fills its blocks, because fewer blocks cost less memory. What comes little by
    /// little leaves a block alone that is long enough, and goes behind it. What comes in between finds room for more.
    fn lengths(&self, entries_max: usize) -> impl Iterator<Item = usize> + use<> {
        let total = self.old + self.new;
        let even = |max: usize| total.div_ceil(total.div_ceil(max).max(1));
        let (is_append, is_bulk) = (self.head == self.old, self.new >= GROWING_ENTRIES_MAX);
        let growing = GROWING_ENTRIES_MAX.min(entries_max);
        let (first, others) = if is_bulk && is_append {
            (entries_max, entries_max)
        } else if is_bulk {
            (even(entries_max), even(entries_max))
        } else if self.head >= growing {
            (self.head.min(entries_max), entries_max)
        } else if is_append {
            (growing, growing)
        } else {
            let one = even(if self.old > growing { entries_max } else { growing });
            (one, one)
        };
        let mut left = total;
        std::iter::once(first).chain(std::iter::repeat(others)).map_while(move |length| {
            let length = length.min(left);
            left -= length;
            (length > 0).then_some(length)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: usize, head: usize, new: usize, expect: &[usize]) {
        let cut = Cut { old, head, new };
        let lengths: Vec<usize> = cut.lengths(90).collect();
        assert_eq!(lengths, expect, "{new} come after {head} of {old}");
    }

    #[test]
    fn what_comes_at_once_fills_its_blocks() {
        check(0, 0, 200, &[90, 90, 20]);
        check(32, 32, 100, &[90, 42]);
        check(90, 90, 100, &[90, 90, 10]);
        check(90, 40, 100, &[64, 64, 62]);
    }

    #[test]
    fn what_comes_little_by_little_goes_behind_what_is_long_enough() {
        check(0, 0, 3, &[3]);
        check(30, 30, 3, &[32, 1]);
        check(32, 32, 3, &[32, 3]);
        check(70, 70, 3, &[70, 3]);
        check(90, 40, 1, &[40, 51]);
    }

    #[test]
    fn what_comes_in_between_finds_room_for_more() {
        check(20, 10, 1, &[21]);
        check(32, 10, 1, &[17, 16]);
        check(50, 10, 1, &[51]);
        check(90, 10, 1, &[46, 45]);
    }

    #[test]
    fn what_only_goes_cuts_nothing() {
        check(0, 0, 0, &[]);
        check(5, 5, 0, &[5]);
        check(90, 90, 0, &[90]);
    }

    #[test]
    fn merging_replaces_removes_and_keeps_order() {
        let old = vec![(2, 2), (4, 4), (6, 6)];
        let changes = vec![(1, Some(1)), (4, None), (5, None), (6, Some(60)), (7, Some(7))];
        assert_eq!(merge(old, changes), [(1, 1), (2, 2), (6, 60), (7, 7)]);
    }

    #[test]
    fn what_changes_in_its_place_does_not_come() {
        let entries: Vec<(u8, u8)> = (0..50).map(|n| (n * 2, 0)).collect();
        let changes = [(0, None), (3, None), (6, Some(1)), (90, Some(1)), (91, Some(1)), (92, None), (95, Some(1))];
        let cut = Cut::of(&entries, &changes);
        assert_eq!((cut.old, cut.head, cut.new), (48, 45, 2));
        let cut = Cut::of(&entries, &changes[..4]);
        assert_eq!((cut.old, cut.head, cut.new), (49, 49, 0));
    }
}
