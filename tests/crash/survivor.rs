//! What a power cut leaves: synced bytes, and of the later ones some sectors; synced names, and of the later
//! ones the first few.
//!
//! Never kinder than POSIX: a name is durable only through a sync of its directory, a write only through a
//! sync of its file that began after it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use crate::dice::Dice;

const SECTOR_BYTES: usize = 512;

/// A file or a directory, as it lives and as it would be found after a cut.
#[derive(Clone, Debug)]
enum Node {
    File { durable: Vec<u8>, later: Vec<Change>, done: usize },
    Dir { live: BTreeMap<String, usize>, durable: BTreeMap<String, usize>, later: Vec<Naming>, done: usize },
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Truncate(usize),
}

#[derive(Clone, Debug)]
enum Naming {
    Link(String, usize),
    Unlink(String),
}

/// A directory tree with its history of changes.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    nodes: Vec<Node>,
    /// By token of an opening: the node.
    openings: HashMap<u32, usize>,
    /// By number of a sync: the node, and how many changes it had when the sync began.
    syncs: HashMap<u32, (usize, usize)>,
}

impl Disk {
    /// The tree below `dir`, all of it durable.
    pub(crate) fn read(dir: &Path) -> Disk {
        let mut disk = Disk { nodes: Vec::new(), openings: HashMap::new(), syncs: HashMap::new() };
        disk.read_node(dir);
        disk
    }

    fn read_node(&mut self, path: &Path) -> usize {
        let number = self.nodes.len();
        if path.is_dir() {
            self.nodes.push(dir());
            let mut names = BTreeMap::new();
            for entry in fs::read_dir(path).expect("a readable directory") {
                let entry = entry.expect("a readable entry");
                let name = entry.file_name().into_string().expect("a plain name");
                names.insert(name, self.read_node(&entry.path()));
            }
            self.nodes[number] = Node::Dir { live: names.clone(), durable: names, later: Vec::new(), done: 0 };
        } else {
            let durable = fs::read(path).expect("a readable file");
            self.nodes.push(Node::File { durable, later: Vec::new(), done: 0 });
        }
        number
    }

    /// Takes in what stands at the beginning of the record; what is left of it. A torn last entry has not
    /// happened.
    pub(crate) fn replay<'a>(&mut self, mut record: &'a [u8]) -> &'a [u8] {
        while let Some(entry) = Entry::split(&mut record) {
            self.take(&entry);
        }
        record
    }

    fn take(&mut self, entry: &Entry<'_>) {
        match entry.what {
            1 => {
                let node = self.find_or_make(entry.path, entry.flag & 1 != 0);
                if entry.flag & 2 != 0 {
                    self.change(node, Change::Truncate(0));
                }
                self.openings.insert(entry.token, node);
            }
            2 => self.change(self.openings[&entry.token], Change::Write { at: entry.at, data: entry.data.to_vec() }),
            3 => self.change(self.openings[&entry.token], Change::Truncate(entry.at)),
            4 => {
                let node = self.openings[&entry.token];
                self.syncs.insert(entry.sync, (node, self.changes(node)));
            }
            5 => {
                let (node, changes) = self.syncs[&entry.sync];
                self.sync(node, changes);
            }
            6 => {
                let (from, to) = entry.path.split_once('\0').expect("two paths");
                let (from_dir, from_name) = self.place(from);
                let (to_dir, to_name) = self.place(to);
                let node = self.unlink(from_dir, from_name);
                self.link(to_dir, to_name, node);
            }
            7 => {
                let (dir, name) = self.place(entry.path);
                self.unlink(dir, name);
            }
            8 => {
                let (parent, name) = self.place(entry.path);
                self.nodes.push(dir());
                self.link(parent, name, self.nodes.len() - 1);
            }
            other => panic!("an entry of the record is a {other}"),
        }
    }

    /// The live directory of a path, and its last name.
    fn place<'a>(&self, path: &'a str) -> (usize, &'a str) {
        let (dirs, name) = path.rsplit_once('/').expect("paths begin with a slash");
        let mut node = 0;
        for part in dirs.split('/').filter(|part| !part.is_empty()) {
            node = self.child(node, part).unwrap_or_else(|| panic!("{path} leads through what is not there"));
        }
        (node, name)
    }

    fn child(&self, dir: usize, name: &str) -> Option<usize> {
        match &self.nodes[dir] {
            Node::Dir { live, .. } => live.get(name).copied(),
            Node::File { .. } => None,
        }
    }

    fn find_or_make(&mut self, path: &str, is_new: bool) -> usize {
        if path.is_empty() {
            return 0;
        }
        let (dir, name) = self.place(path);
        match self.child(dir, name) {
            Some(node) => node,
            None => {
                assert!(is_new, "{path} was opened and is not known");
                self.nodes.push(Node::File { durable: Vec::new(), later: Vec::new(), done: 0 });
                self.link(dir, name, self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        }
    }

    fn link(&mut self, dir: usize, name: &str, node: usize) {
        let Node::Dir { live, later, .. } = &mut self.nodes[dir] else { panic!("names stand in directories") };
        live.insert(name.to_owned(), node);
        later.push(Naming::Link(name.to_owned(), node));
    }

    fn unlink(&mut self, dir: usize, name: &str) -> usize {
        let Node::Dir { live, later, .. } = &mut self.nodes[dir] else { panic!("names stand in directories") };
        later.push(Naming::Unlink(name.to_owned()));
        live.remove(name).expect("what is removed was there")
    }

    fn change(&mut self, node: usize, change: Change) {
        let Node::File { later, .. } = &mut self.nodes[node] else { panic!("bytes stand in files") };
        later.push(change);
    }

    /// Changes of a node since the beginning.
    fn changes(&self, node: usize) -> usize {
        match &self.nodes[node] {
            Node::File { later, done, .. } => done + later.len(),
            Node::Dir { later, done, .. } => done + later.len(),
        }
    }

    /// The first `changes` changes of a node are durable.
    fn sync(&mut self, node: usize, changes: usize) {
        match &mut self.nodes[node] {
            Node::File { durable, later, done } => {
                let synced = changes.saturating_sub(*done);
                for change in later.drain(..synced) {
                    apply(durable, &change);
                }
                *done += synced;
            }
            Node::Dir { durable, later, done, .. } => {
                let synced = changes.saturating_sub(*done);
                for naming in later.drain(..synced) {
                    rename(durable, naming);
                }
                *done += synced;
            }
        }
    }

    /// Writes to `to` what a cut at this moment would leave, as the dice fall.
    pub(crate) fn cut(&self, to: &Path, dice: &mut Dice) {
        let luck = Luck::of(dice);
        fs::create_dir_all(to).expect("a fresh directory");
        self.write_node(0, to, luck, dice);
    }

    fn write_node(&self, node: usize, to: &Path, luck: Luck, dice: &mut Dice) {
        match &self.nodes[node] {
            Node::File { durable, later, .. } => {
                fs::write(to, torn(durable, later, luck, dice)).expect("a fresh file");
            }
            Node::Dir { durable, later, .. } => {
                let mut names = durable.clone();
                for naming in later.iter().take(luck.first_of(later.len(), dice)) {
                    rename(&mut names, naming.clone());
                }
                fs::create_dir_all(to).expect("a fresh directory");
                for (name, node) in names {
                    self.write_node(node, &to.join(name), luck, dice);
                }
            }
        }
    }
}

fn dir() -> Node {
    Node::Dir { live: BTreeMap::new(), durable: BTreeMap::new(), later: Vec::new(), done: 0 }
}

/// How much of what was not synced is there after all.
#[derive(Clone, Copy, Debug)]
enum Luck {
    /// Nothing.
    None,
    /// Everything.
    All,
    /// In order up to some change, whose first sectors are there.
    Prefix,
    /// Each sector by itself, in so many of a hundred.
    Sectors(u64),
}

impl Luck {
    fn of(dice: &mut Dice) -> Luck {
        match dice.within(0..6) {
            0 => Luck::None,
            1 => Luck::All,
            2 | 3 => Luck::Prefix,
            _ => Luck::Sectors(dice.within(5..96)),
        }
    }

    /// How many of so many changes in order are there.
    fn first_of(self, changes: usize, dice: &mut Dice) -> usize {
        match self {
            Luck::None => 0,
            Luck::All => changes,
            Luck::Prefix | Luck::Sectors(_) => {
                usize::try_from(dice.within(0..changes as u64 + 1)).expect("it was a usize")
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { at, data } => {
            bytes.resize(bytes.len().max(at + data.len()), 0);
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
        Change::Truncate(len) => bytes.resize(*len, 0),
    }
}

fn rename(names: &mut BTreeMap<String, usize>, naming: Naming) {
    match naming {
        Naming::Link(name, node) => {
            names.insert(name, node);
        }
        Naming::Unlink(name) => {
            names.remove(&name);
        }
    }
}

/// A file's bytes after the cut.
fn torn(durable: &[u8], later: &[Change], luck: Luck, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = durable.to_vec();
    let whole = luck.first_of(later.len(), dice);
    for (nth, change) in later.iter().enumerate() {
        match (luck, change) {
            (Luck::Sectors(percent), Change::Write { at, data }) => {
                for sector in sectors(*at, data.len()) {
                    if dice.percent(percent) {
                        let piece = data[sector.start - at..sector.end - at].to_vec();
                        apply(&mut bytes, &Change::Write { at: sector.start, data: piece });
                    }
                }
            }
            (Luck::Sectors(percent), Change::Truncate(_)) if !dice.percent(percent) => {}
            (Luck::Prefix, Change::Write { at, data }) if nth == whole => {
                let kept = sectors(*at, data.len()).take(luck.first_of(data.len() / SECTOR_BYTES, dice)).last();
                let kept = kept.map_or(0, |sector| sector.end - at);
                apply(&mut bytes, &Change::Write { at: *at, data: data[..kept].to_vec() });
            }
            _ if nth < whole || matches!(luck, Luck::Sectors(_)) => apply(&mut bytes, change),
            _ => {}
        }
    }
    bytes
}

/// The sectors of a file that a write touches, cut to the write.
fn sectors(at: usize, len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let first = at / SECTOR_BYTES;
    let end = (at + len).div_ceil(SECTOR_BYTES);
    (first..end).map(move |n| (n * SECTOR_BYTES).max(at)..((n + 1) * SECTOR_BYTES).min(at + len))
}

/// One entry of the record; faults.c draws it.
struct Entry<'a> {
    what: u8,
    flag: u8,
    token: u32,
    sync: u32,
    at: usize,
    path: &'a str,
    data: &'a [u8],
}

impl<'a> Entry<'a> {
    fn split(rest: &mut &'a [u8]) -> Option<Entry<'a>> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        let whole = u32_at(0)? as usize;
        let entry = rest.get(..whole)?;
        let path_len = usize::from(u16::from_le_bytes([entry[6], entry[7]]));
        let mut at = [0; 8];
        at.copy_from_slice(&entry[16..24]);
        let found = Entry {
            what: entry[4],
            flag: entry[5],
            token: u32_at(8)?,
            sync: u32_at(12)?,
            at: usize::try_from(u64::from_le_bytes(at)).expect("files are small"),
            path: std::str::from_utf8(&entry[24..24 + path_len]).expect("paths are plain"),
            data: &entry[24 + path_len..],
        };
        *rest = &rest[whole..];
        Some(found)
    }
}
