//! Power cuts: what a disk may hold when the power goes behind event `cut`.
//!
//! - The bytes of a file that were written before a sync of it began, which ended before the cut, are
//!   there. Of all others each sector of 512 bytes may hold any of the versions that it had since.
//! - A file may have any of the sizes that it had since its last sync; what lies beyond is gone, and what
//!   was never written reads as zeros.
//! - Names (create, rename, unlink, mkdir) become durable in their order within a folder, and surely only
//!   by a sync of that folder. A sync of a file does not make its name durable, as POSIX has it: ext4 and
//!   xfs keep more.
//! - A sync that failed has covered nothing, and what it should have covered is not written again by a
//!   later one, as in Linux.

use std::collections::{BTreeMap, HashMap};

use crate::{
    folder::{Inodes, Tree},
    random::Random,
    recording::{Event, Kind, Recording},
};

const SECTOR: u64 = 512;

/// Which of the pending changes made it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// None: only what was synced.
    Synced,
    /// All, as after a kill.
    All,
    /// Each sector for itself.
    Sectors,
    /// All up to an event, and the sectors of the next by chance: torn.
    Torn(i64),
    /// Only what came after an event: out of order.
    Late(i64),
    /// All but the writes around an event.
    Hole(i64),
}

impl Mode {
    /// One at random, for events up to `cut`.
    pub(crate) fn any(cut: i64, random: &mut Random) -> Self {
        // Near the cut is where changes are pending.
        let span = random.within(1..200).cast_signed();
        let near = (cut - random.within(0..span.cast_unsigned()).cast_signed()).max(0);
        match random.within(0..10) {
            0 | 1 => Self::Synced,
            2 => Self::All,
            3..=5 => Self::Sectors,
            6 | 7 => Self::Torn(near),
            8 => Self::Late(near),
            _ => Self::Hole(near),
        }
    }

    /// Whether a pending event made it; by chance where this says so.
    fn keeps(self, number: i64, random: &mut Random) -> bool {
        match self {
            Self::Synced => false,
            Self::All => true,
            Self::Sectors => random.percent(50),
            Self::Torn(at) => number <= at || (number == at + 1 && random.percent(50)),
            Self::Late(at) => number > at,
            Self::Hole(at) => number != at && number != at + 1,
        }
    }
}

/// A file, from its creation on.
struct File<'a> {
    /// What it held when the recording began.
    base: Option<&'a Vec<u8>>,
    changes: Vec<Change<'a>>,
}

struct Change<'a> {
    event: &'a Event,
    durable: bool,
    /// A sync of it failed.
    doomed: bool,
}

/// A change of names in one folder.
struct Naming<'a> {
    event: &'a Event,
    file: usize,
}

#[derive(Default)]
struct Folder<'a> {
    names: Vec<Naming<'a>>,
    /// How many of them are durable.
    durable: usize,
}

struct Model<'a> {
    files: Vec<File<'a>>,
    /// By inode: the file that has it now.
    files_by_inode: HashMap<u64, usize>,
    folders: BTreeMap<String, Folder<'a>>,
    folders_by_inode: HashMap<u64, String>,
    /// Where each file of the base lies.
    base_names: BTreeMap<String, usize>,
}

/// A state of the disk that a power cut behind event `cut` may leave.
pub(crate) fn rebuild(
    base: (&Tree, &Inodes),
    recording: &Recording,
    cut: i64,
    mode: Mode,
    random: &mut Random,
) -> Tree {
    let mut model = Model::new(base);
    for event in &recording.events {
        if event.number > cut {
            break;
        }
        model.add(event);
    }
    model.state(base.0, recording, mode, random)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl<'a> Model<'a> {
    fn new((tree, inodes): (&'a Tree, &'a Inodes)) -> Self {
        let mut model = Self {
            files: Vec::new(),
            files_by_inode: HashMap::new(),
            folders: BTreeMap::new(),
            folders_by_inode: HashMap::new(),
            base_names: BTreeMap::new(),
        };
        for (name, inode) in &inodes.folders {
            model.folders_by_inode.insert(*inode, name.clone());
            model.folders.insert(name.clone(), Folder::default());
        }
        for (name, bytes) in &tree.files {
            let inode = inodes.files[name];
            let id = model.new_file(inode, Some(bytes));
            model.base_names.insert(name.clone(), id);
        }
        model
    }

    fn new_file(&mut self, inode: u64, base: Option<&'a Vec<u8>>) -> usize {
        self.files.push(File {
            base,
            changes: Vec::new(),
        });
        self.files_by_inode.insert(inode, self.files.len() - 1);
        self.files.len() - 1
    }

    fn add(&mut self, event: &'a Event) {
        match event.kind {
            Kind::Write | Kind::Truncate => {
                let id = self.files_by_inode[&event.inode];
                self.files[id].changes.push(Change {
                    event,
                    durable: false,
                    doomed: false,
                });
            }
            Kind::Sync | Kind::SyncFailed => self.sync(event),
            Kind::Create => {
                let file = self.new_file(event.inode, None);
                self.name(event, file);
            }
            Kind::Mkdir => {
                self.name(event, usize::MAX);
                self.folders_by_inode
                    .insert(event.inode, event.path.clone());
                self.folders.insert(event.path.clone(), Folder::default());
            }
            Kind::Rename => {
                assert_eq!(
                    parent(&event.path),
                    parent(&event.second),
                    "renames within a folder are modelled"
                );
                self.name(event, usize::MAX);
            }
            Kind::Unlink => self.name(event, usize::MAX),
        }
    }

    fn name(&mut self, event: &'a Event, file: usize) {
        let folder = self.folders.get_mut(parent(&event.path));
        let folder = folder.expect("the folder is known");
        folder.names.push(Naming { event, file });
    }

    fn sync(&mut self, event: &Event) {
        let is_good = event.kind == Kind::Sync;
        if let Some(folder) = self.folders_by_inode.get(&event.inode) {
            if is_good {
                let folder = self.folders.get_mut(folder).expect("it is known");
                let covered = |naming: &Naming<'_>| naming.event.number <= event.since;
                folder.durable = folder.durable.max(folder.names.partition_point(covered));
            }
            return;
        }
        let id = self.files_by_inode[&event.inode];
        for change in &mut self.files[id].changes {
            if change.event.number <= event.since && !change.durable {
                change.durable = is_good && !change.doomed;
                change.doomed |= !is_good;
            }
        }
    }

    fn state(&self, base: &Tree, recording: &Recording, mode: Mode, random: &mut Random) -> Tree {
        let mut names = self.base_names.clone();
        let mut tree = Tree {
            folders: base.folders.clone(),
            files: BTreeMap::new(),
        };
        for folder in self.folders.values() {
            for naming in &folder.names[..folder.made(mode, random)] {
                let event = naming.event;
                match event.kind {
                    Kind::Create => drop(names.insert(event.path.clone(), naming.file)),
                    Kind::Unlink => drop(names.remove(&event.path)),
                    Kind::Mkdir => tree.folders.push(event.path.clone()),
                    Kind::Rename => {
                        let file = names.remove(&event.path).expect("what is renamed is there");
                        names.insert(event.second.clone(), file);
                    }
                    _ => unreachable!("no change of names"),
                }
            }
        }
        let folders = tree.folders.clone();
        let is_there = |name: &str| name.is_empty() || folders.iter().any(|other| other == name);
        tree.folders.retain(|name| is_there(parent(name)));
        for (name, id) in names {
            // What is in a folder whose name was lost is lost with it.
            if is_there(parent(&name)) {
                let bytes = self.files[id].state(recording, mode, random);
                tree.files.insert(name, bytes);
            }
        }
        tree
    }
}

impl Folder<'_> {
    /// How many of the changes of names made it.
    fn made(&self, mode: Mode, random: &mut Random) -> usize {
        let pending = (self.names.len() - self.durable) as u64;
        let up_to = |at: i64| {
            let before = self.names.partition_point(|name| name.event.number <= at);
            before.max(self.durable)
        };
        match mode {
            Mode::Synced => self.durable,
            Mode::All => self.names.len(),
            Mode::Torn(at) => up_to(at),
            Mode::Sectors | Mode::Late(_) | Mode::Hole(_) => {
                self.durable + random.within(0..pending + 1) as usize
            }
        }
    }
}

impl File<'_> {
    fn state(&self, recording: &Recording, mode: Mode, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.base.cloned().unwrap_or_default();
        // Up to here everything is durable.
        let settled = self.changes.partition_point(|change| change.durable);
        let pending = &self.changes[settled..];
        for change in &self.changes[..settled] {
            apply(&mut bytes, change.event, recording, &mut |_| true);
        }
        if pending.is_empty() {
            return bytes;
        }
        let sized = sized(pending, mode, random);
        let size = size_after(bytes.len() as u64, &pending[..sized]);
        let made = versions(pending, mode, random);
        for (at, change) in pending.iter().enumerate() {
            if change.event.kind == Kind::Truncate && at >= sized {
                // What came behind lies in blocks that the file does not have yet.
                break;
            }
            apply(&mut bytes, change.event, recording, &mut |sector| {
                made.get(&sector).is_some_and(|last| at <= *last)
            });
        }
        bytes.resize(usize::try_from(size).expect("it fits"), 0);
        bytes
    }
}

/// How many of the pending changes count for the size of the file.
fn sized(pending: &[Change<'_>], mode: Mode, random: &mut Random) -> usize {
    let least = pending
        .iter()
        .rposition(|change| change.durable)
        .map_or(0, |at| at + 1);
    let most = pending.len();
    let chosen = match mode {
        Mode::Synced => least,
        Mode::All => most,
        Mode::Torn(at) => pending.partition_point(|change| change.event.number <= at + 1),
        Mode::Sectors | Mode::Late(_) | Mode::Hole(_) => {
            least + random.within(0..(most - least) as u64 + 1) as usize
        }
    };
    chosen.max(least)
}

fn size_after(before: u64, changes: &[Change<'_>]) -> u64 {
    changes.iter().fold(before, |size, change| {
        let event = change.event;
        match event.kind {
            Kind::Truncate => event.length,
            _ => size.max(event.offset + event.length),
        }
    })
}

/// For each sector the last of the pending changes that it has; a sector is written as a whole, with all
/// that was changed in it before.
fn versions(pending: &[Change<'_>], mode: Mode, random: &mut Random) -> HashMap<u64, usize> {
    let mut made = HashMap::new();
    for (at, change) in pending.iter().enumerate() {
        let event = change.event;
        if event.kind == Kind::Truncate {
            continue;
        }
        for sector in event.offset / SECTOR..(event.offset + event.length).div_ceil(SECTOR) {
            if change.durable || mode.keeps(event.number, random) {
                made.insert(sector, at);
            }
        }
    }
    made
}

/// Applies the sectors of a change that `is_made` chooses.
fn apply(
    bytes: &mut Vec<u8>,
    event: &Event,
    recording: &Recording,
    is_made: &mut dyn FnMut(u64) -> bool,
) {
    if event.kind == Kind::Truncate {
        bytes.resize(usize::try_from(event.length).expect("it fits"), 0);
        return;
    }
    let data = recording.data(event);
    let end = event.offset + event.length;
    if (bytes.len() as u64) < end {
        bytes.resize(usize::try_from(end).expect("it fits"), 0);
    }
    for sector in event.offset / SECTOR..end.div_ceil(SECTOR) {
        if !is_made(sector) {
            continue;
        }
        let from = (sector * SECTOR).max(event.offset);
        let to = ((sector + 1) * SECTOR).min(end);
        let place = &mut bytes[from as usize..to as usize];
        match data {
            Some(data) => place.copy_from_slice(
                &data[(from - event.offset) as usize..(to - event.offset) as usize],
            ),
            None => place.fill(0),
        }
    }
}
