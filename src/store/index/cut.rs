//! Where blocks of history and of the outbox are cut.
//!
//! Never cuts by what the entries are, only by how many there are and where they come.

/// A block that grows little by little is cut here: it is written whole each time, and so is the page it stands on.
const GROWING_ENTRIES_MAX: usize = 32;

/// The entries of one block and its changes.
pub(super) struct Cut {
    /// Entries that were there and stay.
    pub(super) old: usize,
    /// Of these, those before the first that comes.
    pub(super) head: usize,
    /// Entries that come.
    pub(super) new: usize,
    /// The most that go in a block.
    pub(super) entries_max: usize,
}

impl Cut {
    /// Of a block's entries and its changes, both ascending.
    pub(super) fn of<K: Ord, V>(entries: &[(K, V)], changes: &[(K, Option<V>)], entries_max: usize) -> Cut {
        let mut cut = Cut { old: entries.len(), head: entries.len(), new: 0, entries_max };
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

    /// How many entries go in each block: the one that is there, then new ones.
    ///
    /// What comes at once in great numbers fills its blocks, because fewer blocks cost less memory. What comes little by
    /// little leaves a block alone that is long enough, and goes behind it. What comes in between finds room for more.
    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> + use<> {
        let total = self.old + self.new;
        let even = |max: usize| total.div_ceil(total.div_ceil(max).max(1));
        let (is_append, is_bulk) = (self.head == self.old, self.new >= GROWING_ENTRIES_MAX);
        let growing = GROWING_ENTRIES_MAX.min(self.entries_max);
        let (first, others) = if is_bulk && is_append {
            (self.entries_max, self.entries_max)
        } else if is_bulk {
            (even(self.entries_max), even(self.entries_max))
        } else if self.head >= growing {
            (self.head.min(self.entries_max), self.entries_max)
        } else if is_append {
            (growing, growing)
        } else {
            let one = even(if self.old > growing { self.entries_max } else { growing });
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
        let cut = Cut { old, head, new, entries_max: 90 };
        let lengths: Vec<usize> = cut.lengths().collect();
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
    fn what_changes_in_its_place_does_not_come() {
        let entries: Vec<(u8, u8)> = (0..50).map(|n| (n * 2, 0)).collect();
        let changes = [(0, None), (3, None), (6, Some(1)), (90, Some(1)), (91, Some(1)), (92, None), (95, Some(1))];
        let cut = Cut::of(&entries, &changes, 90);
        assert_eq!((cut.old, cut.head, cut.new), (48, 45, 2));
        let cut = Cut::of(&entries, &changes[..4], 90);
        assert_eq!((cut.old, cut.head, cut.new), (49, 49, 0));
    }
}
