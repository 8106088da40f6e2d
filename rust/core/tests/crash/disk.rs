//! A model of a disk: after a crash, what was flushed is there, and any part of everything else may be lost.
//!
//! The guarantees are weaker than those of any real file system. A flush of a file keeps its bytes but not its name; a
//! flush of a folder keeps its names. Of the rest, each change of a name (both halves of a rename) and each write is
//! kept or lost independently; a write may also be kept in part.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lamina_core::internals::Call;

use crate::chance::Chance;

/// A change that a program made, relative to the watched folder.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    CreateDir(PathBuf),
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    SetLength(PathBuf, u64),
    Sync(PathBuf),
    SyncDir(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
    RemoveDir(PathBuf),
}

impl Change {
    /// The change that a call makes; `None` if it changes nothing.
    pub(crate) fn of(call: &Call<'_>, root: &Path) -> Option<Self> {
        let inside = |path: &Path| path.strip_prefix(root).map(Path::to_owned).unwrap_or_default();
        Some(match *call {
            Call::CreateDir(path) => Self::CreateDir(inside(path)),
            Call::Create(path) => Self::Create(inside(path)),
            Call::Write { path, offset, bytes } => Self::Write(inside(path), offset, bytes.to_vec()),
            Call::SetLength { path, length } => Self::SetLength(inside(path), length),
            Call::Sync(path) => Self::Sync(inside(path)),
            Call::SyncDir(path) => Self::SyncDir(inside(path)),
            Call::Rename { from, to } => Self::Rename(inside(from), inside(to)),
            Call::Link { from, to } => Self::Link(inside(from), inside(to)),
            Call::Remove(path) => Self::Remove(inside(path)),
            Call::RemoveDir(path) => Self::RemoveDir(inside(path)),
            _ => return None,
        })
    }
}

/// What a crash keeps of the changes that were not flushed.
pub(crate) enum Fate {
    Nothing,
    Everything,
    /// Files have their names, but not their bytes.
    NamesOnly,
    /// Files have their bytes, but changes of names are lost.
    BytesOnly,
    /// Names up to a certain change, as a journal keeps them; bytes at random.
    Ordered(u64, Chance),
    Random(Chance),
}

#[derive(Clone)]
enum Piece {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone)]
enum Node {
    File { durable: Vec<u8>, pending: Vec<Piece> },
    Folder { durable: BTreeMap<OsString, usize>, pending: Vec<(u64, OsString, Option<usize>)> },
}

#[derive(Clone)]
pub(crate) struct Disk {
    nodes: Vec<Node>,
    pub(crate) clock: u64,
}

impl Disk {
    /// The current content of a folder, all of it flushed.
    pub(crate) fn scan(root: &Path) -> Self {
        let mut disk = Self { nodes: vec![], clock: 0 };
        disk.take(root);
        disk
    }

    fn take(&mut self, path: &Path) -> usize {
        let number = self.nodes.len();
        if path.is_dir() {
            self.nodes.push(Node::Folder { durable: BTreeMap::new(), pending: vec![] });
            let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            let entries = names.into_iter().map(|name| (name.clone(), self.take(&path.join(name)))).collect();
            self.nodes[number] = Node::Folder { durable: entries, pending: vec![] };
        } else {
            self.nodes.push(Node::File { durable: std::fs::read(path).unwrap(), pending: vec![] });
        }
        number
    }

    fn entries(&self, folder: usize, kept: &mut dyn FnMut(u64) -> bool) -> BTreeMap<OsString, usize> {
        let Node::Folder { durable, pending } = &self.nodes[folder] else { panic!("a file is used as a folder") };
        let mut entries = durable.clone();
        for (moment, name, node) in pending {
            if kept(*moment) {
                match node {
                    Some(node) => entries.insert(name.clone(), *node),
                    None => entries.remove(name),
                };
            }
        }
        entries
    }

    fn find(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(0, |folder, name| self.entries(folder, &mut |_| true).get(name).copied())
    }

    fn name(&mut self, path: &Path, node: Option<usize>) {
        let folder = self.find(path.parent().unwrap()).unwrap_or_else(|| panic!("no folder for {path:?}"));
        let name = path.file_name().unwrap().to_owned();
        let Node::Folder { pending, .. } = &mut self.nodes[folder] else { panic!("{path:?} is in a file") };
        pending.push((self.clock, name, node));
    }

    fn add(&mut self, path: &Path, node: Node) {
        self.nodes.push(node);
        self.name(path, Some(self.nodes.len() - 1));
    }

    fn change_file(&mut self, path: &Path, piece: Piece) {
        let node = self.find(path).unwrap_or_else(|| panic!("{path:?} is not there"));
        let Node::File { pending, .. } = &mut self.nodes[node] else { panic!("{path:?} is a folder") };
        pending.push(piece);
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        self.clock += 1;
        match change {
            Change::CreateDir(path) => self.add(path, Node::Folder { durable: BTreeMap::new(), pending: vec![] }),
            Change::Create(path) if self.find(path).is_some() => {}
            Change::Create(path) => self.add(path, Node::File { durable: vec![], pending: vec![] }),
            Change::Write(path, offset, bytes) => self.change_file(path, Piece::Bytes(*offset, bytes.clone())),
            Change::SetLength(path, length) => self.change_file(path, Piece::Length(*length)),
            Change::Sync(path) | Change::SyncDir(path) => self.flush(path),
            Change::Rename(from, to) => {
                let node = self.find(from).unwrap_or_else(|| panic!("{from:?} is not there"));
                self.name(to, Some(node));
                self.name(from, None);
            }
            Change::Link(from, to) => {
                let node = self.find(from).unwrap_or_else(|| panic!("{from:?} is not there"));
                self.name(to, Some(node));
            }
            Change::Remove(path) => self.name(path, None),
            Change::RemoveDir(path) => self.remove_tree(path),
        }
    }

    fn remove_tree(&mut self, path: &Path) {
        let node = self.find(path).unwrap();
        if let Node::Folder { .. } = self.nodes[node] {
            for name in self.entries(node, &mut |_| true).into_keys() {
                self.remove_tree(&path.join(name));
            }
        }
        self.name(path, None);
    }

    fn flush(&mut self, path: &Path) {
        // An open file without a name: its flush has no effect.
        let Some(node) = self.find(path) else { return };
        let whole = match &self.nodes[node] {
            Node::File { .. } => Node::File { durable: self.bytes(node, &mut |n| n), pending: vec![] },
            Node::Folder { .. } => Node::Folder { durable: self.entries(node, &mut |_| true), pending: vec![] },
        };
        self.nodes[node] = whole;
    }

    /// The bytes of a file. `kept` says how many bytes of each unflushed write are kept.
    fn bytes(&self, file: usize, kept: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
        let Node::File { durable, pending } = &self.nodes[file] else { panic!("a folder is used as a file") };
        let mut all = durable.clone();
        for piece in pending {
            match piece {
                Piece::Bytes(offset, bytes) => {
                    let n = kept(bytes.len());
                    let (start, end) = (*offset as usize, *offset as usize + n);
                    if n > 0 {
                        all.resize(all.len().max(end), 0);
                        all[start..end].copy_from_slice(&bytes[..n]);
                    }
                }
                Piece::Length(length) if kept(1) > 0 => all.resize(*length as usize, 0),
                Piece::Length(_) => {}
            }
        }
        all
    }

    /// The tree that is found after a crash: path → bytes, or nothing for a folder.
    pub(crate) fn after_crash(&self, fate: &mut Fate) -> Tree {
        let mut tree = Tree::new();
        self.leave(0, PathBuf::new(), fate, &mut tree);
        tree
    }

    fn leave(&self, node: usize, path: PathBuf, fate: &mut Fate, tree: &mut Tree) {
        match &self.nodes[node] {
            Node::File { .. } => {
                let bytes = self.bytes(node, &mut |n| fate.bytes(n));
                tree.insert(path, Some(bytes));
            }
            Node::Folder { .. } => {
                let entries = self.entries(node, &mut |moment| fate.keeps_name(moment));
                tree.insert(path.clone(), None);
                for (name, child) in entries {
                    self.leave(child, path.join(name), fate, tree);
                }
            }
        }
    }
}

pub(crate) type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Makes a tree of real files.
pub(crate) fn plant(tree: &Tree, root: &Path) {
    for (path, bytes) in tree {
        let path = root.join(path);
        match bytes {
            None => std::fs::create_dir_all(path).unwrap(),
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
        }
    }
}

impl Fate {
    fn keeps_name(&mut self, moment: u64) -> bool {
        match self {
            Self::Nothing | Self::BytesOnly => false,
            Self::Everything | Self::NamesOnly => true,
            Self::Ordered(last, _) => moment <= *last,
            Self::Random(chance) => chance.one_in(2),
        }
    }

    /// How many bytes of a write are kept.
    fn bytes(&mut self, all: usize) -> usize {
        match self {
            Self::Nothing | Self::NamesOnly => 0,
            Self::Everything | Self::BytesOnly => all,
            Self::Ordered(_, chance) | Self::Random(chance) => match chance.below(3) {
                0 => 0,
                1 => all,
                _ => chance.below(all + 1),
            },
        }
    }
}
