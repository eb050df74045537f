//! Sheets and their merging against a plain set.

use super::*;
use crate::model::EventId;
use crate::store::index::dice::Dice;
use crate::store::index::names::sheet::Sheet;

const ALL: usize = usize::MAX;

const LOOSE_MAX: usize = 1_000;

fn mention(name: u64, event: u64, at: u64) -> Mention {
    Mention::new(Name(name), EventId::from_u128(event.into()), Location(at))
}

/// Some names with thousands of events, many with one.
fn any(seed: u64, count: u64) -> Mentions {
    let mut dice = Dice(seed);
    let one = |n: u64| {
        let name = if dice.below(3) == 0 { dice.below(3) << 60 } else { dice.below(u64::MAX) };
        mention(name, dice.below(count), n)
    };
    (0..count).map(one).collect()
}

fn written(dir: &Path, from: u64, to: u64, mentions: &Mentions) -> Arc<Sheet> {
    Arc::new(Sheet::write(dir, Location(from), Location(to), mentions.iter().copied().map(Ok)).expect("written"))
}

fn tree() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn open(dir: &Path, upto: u64) -> Names {
    Names::open(dir, Location(upto), 1, LOOSE_MAX).expect("it opens")
}

fn content(names: &Names) -> Vec<Mention> {
    names.all(&Loose::default(), 0).collect::<Result<_, _>>().expect("readable")
}

fn spans(names: &Names) -> Vec<(u64, u64)> {
    names.sheets().iter().map(|sheet| (sheet.from.0, sheet.to.0)).collect()
}

#[test]
fn a_mention_gives_back_what_it_was_made_of_and_sorts_by_it() {
    let one = mention(7, u64::MAX, 9);
    assert_eq!((one.name(), one.event(), one.location()), (Name(7), EventId::from_u128(u64::MAX.into()), Location(9)));
    assert!(
        mention(1, 9, 9) < mention(2, 0, 0)
            && mention(1, 1, 9) < mention(1, 2, 0)
            && mention(1, 1, 1) < mention(1, 1, 2)
    );
}

#[test]
fn a_sheet_finds_what_a_set_would_find() {
    for seed in 0..6 {
        let dir = tree();
        let mentions = any(seed, [0, 1, 127, 128, 3_000, 20_000][usize::try_from(seed).expect("small")]);
        let sheet = written(dir.path(), 0, 1, &mentions);
        assert_eq!(sheet.all().collect::<Result<Vec<_>, _>>().expect("readable"), Vec::from_iter(mentions.clone()));
        let mut dice = Dice(seed + 100);
        let names: Vec<Name> = mentions.iter().map(Mention::name).collect();
        for round in 0..200 {
            let name = match names.get(usize::try_from(dice.below(names.len().max(1) as u64)).expect("small")) {
                Some(name) if round % 4 > 0 => *name,
                _ => Name(dice.below(4) << 60 | dice.below(2)),
            };
            let (first, last) = (dice.below(20_000), dice.below(20_000));
            let wanted = Wanted {
                name,
                first: EventId::from_u128(first.into()),
                last: if round % 2 == 0 { EventId::MAX } else { EventId::from_u128(last.into()) },
                descending: dice.below(2) == 0,
                limit: [1, 5, 300, ALL][usize::try_from(dice.below(4)).expect("small")],
            };
            let mut there: Vec<Mention> = mentions
                .iter()
                .copied()
                .filter(|m| m.name() == name && (wanted.first..=wanted.last).contains(&m.event()))
                .collect();
            if wanted.descending {
                there.reverse();
            }
            there.truncate(wanted.limit);
            let mut found = Vec::new();
            sheet.find(&wanted, &mut found).expect("readable");
            assert_eq!(found, there, "seed {seed}: {wanted:?}");
        }
    }
}

#[test]
fn not_a_byte_of_a_sheet_changes_unnoticed() {
    let dir = tree();
    let sheet = written(dir.path(), 0, 1, &any(1, 130));
    let path = dir.path().join(fs::read_dir(dir.path()).expect("there").next().expect("one").expect("it").file_name());
    let bytes = fs::read(&path).expect("readable");
    drop(sheet);
    for at in (0..bytes.len()).step_by(5) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).expect("written");
        let read = Sheet::open(&path)
            .expect("it can be read")
            .map(|sheet| Arc::new(sheet).all().collect::<Result<Vec<_>, _>>());
        assert!(!matches!(read, Some(Ok(_))), "byte {at} of {}", bytes.len());
    }
    for len in (0..bytes.len()).step_by(3) {
        fs::write(&path, &bytes[..len]).expect("written");
        assert!(Sheet::open(&path).expect("it can be read").is_none(), "the first {len} bytes");
    }
}

#[test]
fn what_is_loose_goes_to_a_sheet_and_is_found_all_the_while() {
    let dir = tree();
    let names = open(dir.path(), 0);
    let mut loose = Loose::default();
    any(3, LOOSE_MAX as u64 + 5).into_iter().for_each(|mention| loose.note(mention));
    loose.note(mention(5, 5, 5));
    let wanted = Wanted { name: Name(5), first: EventId::MIN, last: EventId::MAX, descending: true, limit: ALL };
    let look = |loose: &Loose| {
        let mut found = loose.find(&wanted);
        find(&names.sheets(), &wanted, &mut found).expect("readable");
        found
    };
    assert_eq!(look(&loose), [mention(5, 5, 5)]);
    let sealing = names.begin_seal(&mut loose, Location(9), 7).expect("it is enough");
    loose.note(mention(5, 6, 6));
    assert_eq!(look(&loose).len(), 2);
    let full = || Err(StoreError::Index("as on a full disk".to_owned()));
    names.end_seal(&mut loose, full()).expect("there is memory");
    assert_eq!((look(&loose).len(), loose.seals()), (2, 0), "nothing is forgotten where it cannot be written");
    let again = names.begin_seal(&mut loose, Location(99), 99).expect("it is taken again");
    assert!(Arc::ptr_eq(&again, &sealing), "and nothing else");
    names.write(&sealing).expect("written");
    assert_eq!(look(&loose).len(), 3, "for a moment one is in both");
    names.end_seal(&mut loose, Ok(())).expect("written");
    assert_eq!((look(&loose).len(), loose.seals(), names.end()), (2, 1, Location(9)));
    assert!(names.begin_seal(&mut loose, Location(10), 7).is_none(), "one is not enough");
    assert!(names.begin_seal(&mut loose, Location(10), 7 + 3_000).is_some(), "unless for long");
    any(4, LOOSE_MAX as u64 * 70).into_iter().for_each(|mention| loose.note(mention));
    assert!(names.end_seal(&mut loose, full()).is_err(), "there is an end to it");
}

#[test]
fn what_is_not_whole_or_goes_too_far_is_made_anew() {
    let dir = tree();
    for n in 0..5 {
        written(dir.path(), n, n + 1, &[mention(n, n, n)].into());
    }
    fs::write(dir.path().join(format!("x{}", sheet::UNDONE)), b"half").expect("written");
    assert_eq!(spans(&open(dir.path(), 4)), [(0, 1), (1, 2), (2, 3), (3, 4)]);
    // As a crash leaves it between a merge and the removal of what was merged.
    let merged = written(dir.path(), 1, 3, &[mention(1, 1, 1), mention(2, 2, 2)].into());
    let names = open(dir.path(), 4);
    assert_eq!(spans(&names), [(0, 1), (1, 3), (3, 4)]);
    assert_eq!(content(&names).len(), 4);
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 3);
    merged.remove().expect("removed");
    assert_eq!(spans(&open(dir.path(), 4)), [(0, 1)], "nothing behind a gap counts");
    let names = open(dir.path(), 4);
    names.require(Location(0)).expect("removed");
    assert_eq!(names.end(), Location(1));
    written(dir.path(), 1, 2, &Mentions::new());
    fs::remove_file(dir.path().join(format!("{:016x}-{:016x}.names", 0, 1))).expect("removed");
    let names = open(dir.path(), 4);
    names.require(Location(1)).expect("removed");
    assert_eq!(names.end(), Location(2));
    names.require(Location(0)).expect("removed");
    assert_eq!(names.end(), Location(0), "they begin too late");
}

#[test]
fn merging_keeps_what_counts_and_dropping_takes_what_does_not() {
    let dir = tree();
    let names = open(dir.path(), 0);
    let at = |segment: u32| Location::at(segment, 100);
    let mut kept = Mentions::new();
    for segment in 1..=40 {
        let mentions: Mentions = (0..10).map(|n| mention(n * 7 % 5, n, at(segment).0)).collect();
        kept.extend(mentions.iter().filter(|mention| mention.location().segment() >= 3));
        let (to, number) = (Location::at(segment + 1, 0), u64::from(segment));
        names.write(&Sealing { mentions, to, number }).expect("written");
        while names.merge(3, &|| true).expect("merged") {}
    }
    assert!(spans(&names).len() <= 13, "{:?}", spans(&names));
    let count = |from| content(&names).iter().filter(|mention| mention.location().segment() >= from).count();
    assert_eq!(content(&names), Vec::from_iter(kept));
    names.drop_before(38).expect("removed");
    assert_eq!((count(38), names.end()), (30, Location::at(41, 0)));
    assert!(spans(&names)[0].1 > Location::at(38, 0).0);
    assert_eq!(spans(&open(dir.path(), u64::MAX)), spans(&names));
}

#[test]
fn sheets_of_about_one_size_are_merged() {
    let check = |lengths: &[u64], expect: Option<Range<usize>>| assert_eq!(to_merge(lengths), expect, "{lengths:?}");
    check(&[], None);
    check(&[5; 7], None);
    check(&[5; 9], Some(0..8));
    check(&[800, 100, 100, 100, 100, 100, 100, 100], None);
    check(&[800, 100, 100, 100, 100, 100, 100, 100, 100], Some(1..9));
    check(&[1, 1, 1, 1, 1, 1, 1, 1_000_000, 1, 1], None);
    check(&[MERGED_MENTIONS_MAX / 4; 20], None);
}
