//! Blocks of the outbox: what is owed to an endpoint, in the order it leaves, many deliveries to a value of sled.
//!
//! Never interprets what is owed: above, each delivery has a key and a value of its own. One to a value was measured to
//! cost 20 to 40 MiB of memory for each million that waits, because sled keeps something of every page and puts few values
//! on one.
//!
//! ```text
//! offset  size
//!      0     1  version 1
//!      1     n  entries, ascending, all numbers big-endian:
//!               due 8 · event 16, as in their keys · length 2 · Owed
//! ```
//!
//! A block holds the keys from its own up to the next block's of the same endpoint, and is there as long as one of them
//! is. **An entry never moves to a block with a smaller key, and whoever reads goes to greater keys only.** That is why
//! a reader needs no lock against the one who writes behind:
//!
//! - What a split moves is in its old place until the batch and in its new one from it on: all writes about a block go in
//!   one batch, of which sled shows all or nothing, also after a crash. So at no moment is an entry nowhere or twice.
//! - A reader's steps may see different moments, each the same or a later one than the step before. What moves meanwhile
//!   moves ahead of it: it cannot be missed. What was given and comes again is not greater than what was given last, and
//!   is left out.
//! - What the writer adds, changes and removes meanwhile stands in the generation that is being written, which hides all
//!   that sled says of it. One generation at a time is written while anybody reads (`Index::gate`).

use std::iter::Peekable;

use super::cut::regroup;
use super::overlay::Generation;
use super::tree::{Pair, Tree, Write};
use super::{Index, STRETCH_CHANGES_MAX, after, key, value};
use crate::store::StoreError;

const VERSION: u8 = 1;

/// Of a key, what stands in the block's key only: the kind and the endpoint.
const PREFIX_LEN: usize = 9;
const KEY_LEN: usize = 33;

/// Deliveries in a block, and its bytes, about. sled puts up to 16 values on a page, a few more for a moment, and never
/// syncs a page of more than 128 KiB.
const BLOCK_ENTRIES_MAX: usize = 128;
const BLOCK_BYTES_MAX: usize = 6 << 10;

impl Index {
    /// Writes what changed of what is owed.
    pub(super) fn flush_owed(&self, generation: &Generation) -> Result<(), StoreError> {
        let changes = generation.plain.range(vec![key::OWED]..vec![key::OWED + 1]);
        let mut changes = changes.map(|(key, slot)| (key.clone(), slot.value.clone())).peekable();
        while changes.peek().is_some() {
            let _turn = self.writers.wait();
            write(&self.tree, &mut changes)?;
        }
        Ok(())
    }
}

/// Writes the next changes, which are ascending: as many as one turn takes.
fn write(tree: &Tree, changes: &mut Peekable<impl Iterator<Item = Write>>) -> Result<(), StoreError> {
    let mut groups = Vec::new();
    let mut left = STRETCH_CHANGES_MAX;
    while let Some((first, _)) = changes.peek().filter(|_| left > 0) {
        let end = endpoint_end(first)?;
        let block = block_of(tree, first)?;
        let from = block.as_ref().map_or(first, |(key, _)| key);
        // Each stretch of changes lies before the next block that is there, so no block is read after it was changed.
        let next = tree.range(&after(from), &end).next().transpose()?.map_or(end, |(key, _)| key);
        let mut mine = Vec::new();
        while let Some(change) = changes.next_if(|(key, _)| left > 0 && *key < next) {
            mine.push(change);
            left -= 1;
        }
        groups.push(regrouped(block, mine)?);
    }
    tree.apply_groups(groups)
}

/// The value of a place.
pub(super) fn get(tree: &Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    // The block is found and read in one step, so that nothing can move in between.
    let Some((block, bytes)) = block_of(tree, key)? else { return Ok(None) };
    for entry in entries(&block, &bytes) {
        let entry = entry?;
        if key.get(PREFIX_LEN..) == Some(entry.place) {
            return Ok(Some(entry.value.to_vec()));
        }
    }
    Ok(None)
}

/// The places from `from` (inclusive) to `to` (exclusive), ascending.
pub(super) fn stretch(
    tree: &Tree,
    from: &[u8],
    to: &[u8],
) -> Result<impl Iterator<Item = Result<Pair, StoreError>> + use<>, StoreError> {
    let first = block_of(tree, from)?.map_or_else(|| from.to_vec(), |(key, _)| key);
    let (from, to) = (from.to_vec(), to.to_vec());
    let mut given: Option<Vec<u8>> = None;
    let places = tree.range(&first, &to).flat_map(places).filter(move |place| {
        let Ok((key, _)) = place else { return true };
        let wanted = (&from..&to).contains(&key) && given.as_ref().is_none_or(|last| key > last);
        if wanted {
            given = Some(key.clone());
        }
        wanted
    });
    Ok(places)
}

/// Hands over every key, in order. Nobody may be writing meanwhile: what stands in a block that is not its own is damage.
pub(super) fn each_key(tree: &Tree, mut each: impl FnMut(&[u8])) -> Result<(), StoreError> {
    let (mut last, mut key) = (Vec::new(), Vec::new());
    for block in tree.range(&[key::OWED], &[key::OWED + 1]) {
        let (block, bytes) = block?;
        for entry in entries(&block, &bytes) {
            key.clear();
            key.extend_from_slice(&block[..PREFIX_LEN]);
            key.extend_from_slice(entry?.place);
            if key < block || key <= last {
                return Err(value::damaged("blocks of the outbox are out of order"));
            }
            each(&key);
            std::mem::swap(&mut last, &mut key);
        }
    }
    Ok(())
}

fn places(block: Result<Pair, StoreError>) -> Vec<Result<Pair, StoreError>> {
    match block.and_then(|(key, bytes)| decode(&key, &bytes)) {
        Ok(entries) => entries.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }
}

/// The block that holds `key` or would: the endpoint's last one that begins at or before it.
fn block_of(tree: &Tree, key: &[u8]) -> Result<Option<Pair>, StoreError> {
    tree.range(&key[..key.len().min(PREFIX_LEN)], &after(key)).next_back().transpose()
}

/// The end of the stretch of a key's endpoint, exclusive.
fn endpoint_end(key: &[u8]) -> Result<Vec<u8>, StoreError> {
    let endpoint = key::number(key).filter(|_| key.len() == KEY_LEN);
    endpoint
        .map(|id| key::owed_end(crate::model::EndpointId(id)))
        .ok_or_else(|| value::damaged("an outbox key is torn"))
}

/// What becomes of a block with changes of its stretch. `None`: they lie before the endpoint's first one.
fn regrouped(block: Option<Pair>, changes: Vec<Write>) -> Result<Vec<Write>, StoreError> {
    let old = match &block {
        Some((key, bytes)) => decode(key, bytes)?,
        None => Vec::new(),
    };
    Ok(regroup(block, old, changes, room, Vec::clone, encode))
}

/// How many of these entries fill a block.
fn room(entries: &[Pair]) -> usize {
    let longest = entries.iter().map(|(key, value)| entry_len(key, value)).max().unwrap_or(1);
    (BLOCK_BYTES_MAX / longest).clamp(1, BLOCK_ENTRIES_MAX)
}

fn entry_len(key: &[u8], value: &[u8]) -> usize {
    key.len() - PREFIX_LEN + 2 + value.len()
}

/// A block's bytes.
fn encode(entries: &[Pair]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + entries.iter().map(|(key, value)| entry_len(key, value)).sum::<usize>());
    bytes.push(VERSION);
    for (key, value) in entries {
        let len = u16::try_from(value.len()).expect("what is said of a delivery is short");
        bytes.extend_from_slice(&key[PREFIX_LEN..]);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

/// The places that stand in the block at `key`.
pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Result<Vec<Pair>, StoreError> {
    let place = |entry: Entry<'_>| ([&key[..PREFIX_LEN], entry.place].concat(), entry.value.to_vec());
    entries(key, bytes).map(|entry| entry.map(place)).collect()
}

/// A delivery in a block.
struct Entry<'a> {
    /// What its key has beside the block's prefix.
    place: &'a [u8],
    value: &'a [u8],
}

/// The entries of the block at `key`, none of them copied; an error is the last.
fn entries<'a>(key: &[u8], bytes: &'a [u8]) -> impl Iterator<Item = Result<Entry<'a>, StoreError>> + use<'a> {
    let body = bytes.split_first().filter(|(version, _)| **version == VERSION && key.len() == KEY_LEN);
    let mut rest = body.map(|(_, body)| body);
    std::iter::from_fn(move || {
        if rest.is_some_and(<[u8]>::is_empty) {
            return None;
        }
        let Some((entry, behind)) = rest.and_then(split) else {
            rest = Some(&[]);
            return Some(Err(value::damaged("a block of the outbox is torn")));
        };
        rest = Some(behind);
        Some(Ok(entry))
    })
}

/// The first entry and what comes behind it.
fn split(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (place, behind) = bytes.split_at_checked(KEY_LEN - PREFIX_LEN)?;
    let (len, behind) = behind.split_first_chunk()?;
    let (value, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    Some((Entry { place, value }, behind))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::model::{EndpointId, EventId, Timestamp};
    use crate::store::embedded::Limits;
    use crate::store::index::dice::Dice;
    use crate::store::index::value::Watermark;

    const ALL: usize = usize::MAX - 1;

    type State = BTreeMap<Vec<u8>, Vec<u8>>;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::open(dir.path(), 1 << 20).expect("a fresh tree opens");
        (dir, tree)
    }

    fn place_at(endpoint: u64, n: u64) -> Vec<u8> {
        key::owed(EndpointId(endpoint), Timestamp::from_ms(n as i64 / 2), EventId::from_u128(n.into()))
    }

    fn place(n: u64) -> Vec<u8> {
        place_at(7, n)
    }

    fn owed(numbers: impl IntoIterator<Item = u64>) -> Vec<Write> {
        numbers.into_iter().map(|n| (place(n), Some(n.to_be_bytes().to_vec()))).collect()
    }

    fn gone(numbers: impl IntoIterator<Item = u64>) -> Vec<Write> {
        numbers.into_iter().map(|n| (place(n), None)).collect()
    }

    fn applied(tree: &Tree, changes: Vec<Write>) {
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            write(tree, &mut changes).expect("written");
        }
    }

    /// The key of each block and how many entries it has.
    fn blocks(tree: &Tree) -> Vec<(Vec<u8>, usize)> {
        let blocks = tree.range(&[key::OWED], &[key::OWED + 1]).map(|block| {
            let (key, bytes) = block.expect("readable");
            assert!(bytes.len() <= 1 + BLOCK_BYTES_MAX, "a block of {} bytes", bytes.len());
            let entries = decode(&key, &bytes).expect("whole").len();
            (key, entries)
        });
        blocks.collect()
    }

    fn sizes(tree: &Tree) -> Vec<usize> {
        blocks(tree).into_iter().map(|(_, entries)| entries).collect()
    }

    fn read(tree: &Tree, from: &[u8], to: &[u8]) -> Vec<Pair> {
        stretch(tree, from, to).expect("readable").collect::<Result<_, _>>().expect("whole")
    }

    #[test]
    fn a_block_gives_back_what_it_holds_and_a_torn_one_is_an_error() {
        let entries = vec![(place(1), vec![]), (place(2), vec![7; 300])];
        let bytes = encode(&entries);
        assert_eq!(decode(&place(0), &bytes).expect("whole"), entries);
        assert!(decode(&place(0), &bytes[..bytes.len() - 1]).is_err());
        assert!(decode(&place(0), &[]).is_err());
        assert!(decode(&place(0), &[VERSION + 1]).is_err());
        assert!(decode(&[key::OWED, 1], &bytes).is_err());
    }

    #[test]
    fn what_comes_in_order_leaves_full_blocks() {
        let (_dir, tree) = tree();
        for begin in (0..70).step_by(7) {
            applied(&tree, owed(begin..begin + 7));
        }
        assert_eq!(sizes(&tree), [32, 32, 6]);
        applied(&tree, owed(70..5_000));
        let sizes = sizes(&tree);
        assert!(sizes[2..sizes.len() - 1].iter().all(|entries| *entries == BLOCK_ENTRIES_MAX), "{sizes:?}");
        assert_eq!(read(&tree, &place(0), &place(6_000)).len(), 5_000);
    }

    #[test]
    fn what_comes_in_between_finds_room_for_more() {
        let (_dir, tree) = tree();
        applied(&tree, owed((0..32).map(|n| n * 2)));
        applied(&tree, owed([31]));
        assert_eq!(sizes(&tree), [17, 16]);
        applied(&tree, owed([1, 33, 61]));
        assert_eq!(sizes(&tree), [18, 18]);
        assert_eq!(get(&tree, &place(33)).expect("readable"), Some(33_u64.to_be_bytes().to_vec()));
        assert_eq!(get(&tree, &place(35)).expect("readable"), None);
        assert_eq!(get(&tree, &place_at(8, 33)).expect("readable"), None);
    }

    #[test]
    fn a_block_keeps_its_key_as_long_as_it_holds_anything() {
        let (_dir, tree) = tree();
        applied(&tree, owed(100..232));
        applied(&tree, gone(100..227));
        assert_eq!(blocks(&tree), [(place(100), 1), (place(228), 4)]);
        applied(&tree, owed([90, 101]));
        applied(&tree, owed([91]));
        assert_eq!(blocks(&tree), [(place(90), 2), (place(100), 2), (place(228), 4)]);
        applied(&tree, gone(90..232));
        assert_eq!(blocks(&tree), []);
        applied(&tree, gone(90..232));
        assert_eq!(blocks(&tree), []);
    }

    #[test]
    fn what_is_long_stands_in_blocks_of_fewer() {
        let (_dir, tree) = tree();
        let long = |n| (place(n), Some(vec![1; 200]));
        applied(&tree, (0..100).map(long).collect());
        assert_eq!(sizes(&tree), [27, 27, 27, 19]);
        applied(&tree, [(place(200), Some(vec![1; 2 * BLOCK_BYTES_MAX - 30]))].into());
        assert_eq!(read(&tree, &place(0), &place(201)).len(), 101);
    }

    #[test]
    fn pages_of_the_fullest_blocks_stay_in_the_file_that_is_synced() {
        let (dir, tree) = tree();
        let mut dice = Dice(1);
        for _ in 0..20 {
            let begin = dice.below(20) * 1_000;
            applied(&tree, (begin..begin + 4_000).map(|n| (place(n), Some(vec![1; 34]))).collect());
            // Pages of which little is left are merged with full ones.
            let begin = begin + dice.below(4_000);
            applied(&tree, gone(begin..begin + 1_000));
            tree.sync().expect("synced");
        }
        let blobs = std::fs::read_dir(dir.path().join("blobs")).expect("readable").count();
        assert_eq!(blobs, 0, "sled never syncs these");
    }

    #[test]
    fn what_stands_in_a_block_that_is_not_its_own_is_damage() {
        let (_dir, tree) = tree();
        applied(&tree, owed(0..200));
        each_key(&tree, |_| {}).expect("in order");
        let straying = encode(&[(place(0), vec![]), (place(130), vec![])]);
        tree.apply([(place(0), Some(straying))]).expect("written");
        assert!(each_key(&tree, |_| {}).is_err());
    }

    #[test]
    fn any_changes_leave_what_a_map_would_hold() {
        for seed in 0..40 {
            let (mut dice, (_dir, tree)) = (Dice(seed), tree());
            let mut state = State::new();
            for round in 0..30 {
                let mut changes = State::new();
                let mut removed = Vec::new();
                // Now near the end, now anywhere; now more that comes, now more that goes.
                let begin = if dice.below(2) == 0 { 0 } else { round * 50 };
                for _ in 0..dice.below(300) {
                    let key = place_at(dice.below(3), begin + dice.below(1_500 - begin.min(1_400)));
                    if dice.below(20) < 4 + round % 10 {
                        removed.push(key);
                    } else {
                        changes.insert(key, vec![dice.below(256) as u8; dice.below(60) as usize]);
                    }
                }
                let mut writes: BTreeMap<_, _> = changes.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
                state.append(&mut changes);
                for key in removed {
                    state.remove(&key);
                    writes.insert(key, None);
                }
                applied(&tree, writes.into_iter().collect());
                let (from, to) =
                    (place_at(dice.below(3), dice.below(1_500)), place_at(dice.below(4), dice.below(1_500)));
                let there: Vec<Pair> = match from <= to {
                    true => state.range(from.clone()..to.clone()).map(|(k, v)| (k.clone(), v.clone())).collect(),
                    false => Vec::new(),
                };
                assert_eq!(read(&tree, &from, &to), there, "seed {seed}, round {round}");
                assert_eq!(get(&tree, &from).expect("readable").as_ref(), state.get(&from), "seed {seed}");
            }
            let whole = read(&tree, &[key::OWED], &[key::OWED + 1]);
            assert_eq!(whole.into_iter().collect::<State>(), state, "seed {seed}");
            let mut keys = Vec::new();
            each_key(&tree, |key| keys.push(key.to_vec())).expect("in order");
            assert_eq!(keys, state.keys().cloned().collect::<Vec<_>>(), "seed {seed}");
            assert!(sizes(&tree).iter().all(|entries| (1..=BLOCK_ENTRIES_MAX).contains(entries)));
        }
    }

    /// What is there after each of so many rounds; every third place never changes.
    fn states(dice: &mut Dice, endpoint: u64, rounds: usize) -> Vec<State> {
        let first: State = (0..1_000).map(|n| (place_at(endpoint, n * 3), vec![0; 20])).collect();
        let mut states = vec![first];
        for round in 1..=rounds {
            let mut state = states[round - 1].clone();
            for _ in 0..dice.below(300) {
                let key = place_at(endpoint, dice.below(1_000) * 3 + 1 + dice.below(2));
                if dice.below(3) == 0 {
                    state.remove(&key)
                } else {
                    state.insert(key, vec![round as u8; 20])
                };
            }
            states.push(state);
        }
        states
    }

    fn bring(index: &Index, from: &State, to: &State, round: usize) {
        let mut overlay = index.overlay_mut();
        for key in from.keys().filter(|key| !to.contains_key(*key)) {
            overlay.remove(key.clone());
        }
        for (key, value) in to.iter().filter(|(key, value)| from.get(*key) != Some(*value)) {
            overlay.put(key.clone(), value.clone());
        }
        overlay.advance(Watermark { next: round as u64 + 1, number: 1, last_event: 0 });
    }

    #[test]
    fn who_reads_while_it_is_written_behind_sees_each_moment_as_it_was() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (index, _) = Index::open(dir.path(), &Limits::default()).expect("a fresh index opens");
        let mut dice = Dice(3);
        for endpoint in 1..=8 {
            let states = states(&mut dice, endpoint, 12);
            let places: Vec<Vec<u8>> = states[0].keys().cloned().collect();
            bring(&index, &State::new(), &states[0], 0);
            index.flush().expect("written");
            let is_over = AtomicBool::new(false);
            let look = |seed| {
                let mut dice = Dice(seed);
                while !is_over.load(Ordering::Acquire) {
                    let (from, to) = (place_at(endpoint, dice.below(3_000)), place_at(endpoint, 3_000));
                    let seen = index.stretch(&from, &to, ALL).expect("readable");
                    let state = &states[usize::try_from(seen.as_of.0).expect("a round")];
                    let there: Vec<Pair> = state.range(from..to).map(|(k, v)| (k.clone(), v.clone())).collect();
                    assert!(seen.pairs == there, "as of round {} of {endpoint}", seen.as_of.0);
                    for _ in 0..20 {
                        let key = &places[usize::try_from(dice.below(1_000)).expect("small")];
                        assert_eq!(index.get(key).expect("readable"), Some(vec![0; 20]), "it never goes");
                    }
                }
            };
            std::thread::scope(|scope| {
                let readers = [endpoint, endpoint + 100].map(|seed| scope.spawn(move || look(seed)));
                for round in 1..states.len() {
                    bring(&index, &states[round - 1], &states[round], round);
                    index.flush().expect("written");
                }
                is_over.store(true, Ordering::Release);
                for reader in readers {
                    reader.join().expect("what was seen is what was there");
                }
            });
            index.audit().expect_err("nothing was counted");
        }
    }
}
