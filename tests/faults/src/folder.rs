//! Folders of files: copied, compared, and written without their zeros.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
};

/// A run of zeros as long as this is left out, so that it takes no disk.
const HOLE: usize = 4096;

/// A folder in memory: what is in it, by path from its root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) folders: Vec<String>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

/// What is what on the disk, by path from the root; the root itself is "".
#[derive(Clone, Debug, Default)]
pub(crate) struct Inodes {
    pub(crate) folders: BTreeMap<String, u64>,
    pub(crate) files: BTreeMap<String, u64>,
}

/// Reads a folder.
pub(crate) fn read(root: &Path) -> (Tree, Inodes) {
    let (mut tree, mut inodes) = (Tree::default(), Inodes::default());
    inodes
        .folders
        .insert(String::new(), fs::metadata(root).unwrap().ino());
    walk(root, "", &mut tree, &mut inodes);
    (tree, inodes)
}

fn walk(folder: &Path, name: &str, tree: &mut Tree, inodes: &mut Inodes) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let base = entry.file_name().into_string().unwrap();
        let name = if name.is_empty() {
            base
        } else {
            format!("{name}/{base}")
        };
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            tree.folders.push(name.clone());
            inodes.folders.insert(name.clone(), metadata.ino());
            walk(&entry.path(), &name, tree, inodes);
        } else {
            tree.files
                .insert(name.clone(), fs::read(entry.path()).unwrap());
            inodes.files.insert(name, metadata.ino());
        }
    }
}

/// Writes a folder, which must not be there or be empty.
pub(crate) fn write(tree: &Tree, root: &Path) {
    fs::create_dir_all(root).unwrap();
    for folder in &tree.folders {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (name, bytes) in &tree.files {
        let file = File::create(root.join(name)).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        let zeros = [0; HOLE];
        for (number, part) in bytes.chunks(HOLE).enumerate() {
            if part != &zeros[..part.len()] {
                file.write_all_at(part, (number * HOLE) as u64).unwrap();
            }
        }
    }
}

/// The first difference of two folders.
pub(crate) fn difference(one: &Tree, other: &Tree) -> Option<String> {
    let names = |tree: &Tree| tree.files.keys().cloned().collect::<Vec<_>>();
    if names(one) != names(other) {
        return Some(format!("{:?} and {:?}", names(one), names(other)));
    }
    for (name, bytes) in &one.files {
        let others = &other.files[name];
        if bytes.len() != others.len() {
            return Some(format!("{name}: {} and {}", bytes.len(), others.len()));
        }
        if let Some(at) = bytes.iter().zip(others).position(|(a, b)| a != b) {
            return Some(format!("{name} at byte {at}"));
        }
    }
    None
}
