//! Snapshots: what one save left behind (docs/format.md §5).

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::format::digest::{ChunkId, Digest};
use crate::format::dtype::tensor_bytes;
use crate::format::envelope::{self, MAX_CHUNK, MAX_FILES, MAX_STRUCTURE, MAX_TENSORS};

/// Levels of nodes above the content list.
pub const MAX_DEPTH: u32 = 4;
/// Bytes of one entry of the content list.
pub const ENTRY: usize = 36;
/// What a tensor can be to training.
pub const ROLES: [&str; 4] = ["weights", "optimizer", "counters", "training"];

/// A chunk as a content list names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Name.
    pub id: ChunkId,
    /// Raw bytes.
    pub len: u32,
}

impl Serialize for ChunkRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        (self.id.hex(), self.len).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ChunkRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let (id, len) = <(String, u32)>::deserialize(deserializer)?;
        let id = Digest::from_hex(&id).ok_or_else(|| serde::de::Error::custom("a chunk id is not 64 hex digits"))?;
        if len == 0 || len as usize > MAX_CHUNK {
            return Err(serde::de::Error::custom(format!("a chunk has {len} bytes, expected 1 to {MAX_CHUNK}")));
        }
        Ok(Self { id, len })
    }
}

impl ChunkRef {
    /// Appends the 36 bytes of a content entry.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(&self.len.to_le_bytes());
    }

    /// The entries of a node.
    pub fn parse_node(bytes: &[u8]) -> Result<Vec<Self>> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(ENTRY) {
            return Err(Error::corrupt(format!(
                "a content node has {} bytes, expected a multiple of {ENTRY}",
                bytes.len()
            )));
        }
        let entry = |bytes: &[u8]| {
            let len = envelope::u32_at(bytes, 32);
            let id = Digest::from_slice(&bytes[..32]).filter(|_| len > 0 && len as usize <= MAX_CHUNK);
            id.map(|id| Self { id, len })
                .ok_or_else(|| Error::corrupt(format!("a content node names a chunk of {len} bytes")))
        };
        bytes.chunks_exact(ENTRY).map(entry).collect()
    }
}

/// Where the state of a snapshot stands.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct State {
    /// Bytes of the state.
    pub length: u64,
    /// Chunks of the structure.
    pub structure: Vec<ChunkRef>,
    /// Levels of nodes.
    pub depth: u32,
    /// The content (depth 0) or its topmost nodes.
    pub root: Vec<ChunkRef>,
}

/// The body of a snapshot file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of docs/format.md §5")]
pub struct Body {
    #[serde(default)]
    pub required: Vec<String>,
    #[serde(default)]
    pub optional: Vec<String>,
    pub created_at: String,
    #[serde(default)]
    pub session: String,
    pub series: String,
    #[serde(default)]
    pub run: Option<String>,
    pub kind: String,
    #[serde(default)]
    pub epoch: Option<i64>,
    #[serde(default)]
    pub batch: Option<i64>,
    #[serde(default)]
    pub step: Option<i64>,
    #[serde(default)]
    pub next_epoch: Option<i64>,
    #[serde(default)]
    pub logs: Map<String, Value>,
    #[serde(default)]
    pub monitor: Option<String>,
    #[serde(default)]
    pub mode: Option<String>,
    #[serde(default)]
    pub value: Value,
    #[serde(default)]
    pub best: bool,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    #[serde(default)]
    pub training: Map<String, Value>,
    #[serde(default)]
    pub software: Map<String, Value>,
    #[serde(default)]
    pub bytes_total: u64,
    #[serde(default)]
    pub bytes_new: u64,
    #[serde(default)]
    pub bytes_stored: u64,
    #[serde(default)]
    pub blocked_seconds: f64,
    #[serde(default)]
    pub state: State,
    /// Fields of later releases.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A snapshot as it is read from its file.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// First 32 hex digits of the envelope's digest.
    pub id: String,
    /// Sequence number; 0 where it stands in no repository.
    pub number: u64,
    /// Length of the snapshot file.
    pub file_bytes: u64,
    /// The body.
    pub body: Body,
}

impl Body {
    /// The monitored value, if it is a finite number.
    pub fn value(&self) -> Option<f64> {
        self.value.as_f64().filter(|v| v.is_finite())
    }

    /// Whether a larger value is better.
    pub fn larger_is_better(&self) -> bool {
        self.mode.as_deref() == Some("max")
    }

    /// Checks what the types of the fields leave open.
    fn check(&self) -> Result<()> {
        let State { length, structure, depth, root } = &self.state;
        let bytes: u64 = structure.iter().map(|c| u64::from(c.len)).sum();
        if bytes == 0 || bytes > MAX_STRUCTURE {
            return Err(Error::invalid(format!("its structure has {bytes} bytes, expected 1 to {MAX_STRUCTURE}")));
        }
        if *depth > MAX_DEPTH || root.is_empty() != (*length == 0) || (root.is_empty() && *depth > 0) {
            let listed = root.len();
            return Err(Error::invalid(format!(
                "{length} bytes cannot have a content tree of depth {depth} with {listed} entries at its root"
            )));
        }
        let number = match &self.value {
            Value::Null | Value::Number(_) => true,
            value => matches!(value.as_str(), Some("nan" | "inf" | "-inf")),
        };
        if !number || !matches!(self.mode.as_deref(), None | Some("min" | "max")) {
            return Err(Error::invalid(format!("its monitored value is {}, its mode {:?}", self.value, self.mode)));
        }
        Ok(())
    }

    /// The bytes of the snapshot file.
    pub fn seal(&self) -> Result<Vec<u8>> {
        self.check().map_err(|e| e.context("the snapshot cannot be written"))?;
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => envelope::seal("snapshot", &map),
            other => Err(Error::invalid(format!("the snapshot cannot be written: {other:?}"))),
        }
    }
}

impl Snapshot {
    /// Reads the bytes of a snapshot file; `what` names it in messages.
    pub fn parse(bytes: &[u8], number: u64, what: &str) -> Result<Self> {
        let (digest, map) = envelope::unseal(bytes, "snapshot", what)?;
        let body: Body = serde_json::from_value(Value::Object(map))
            .map_err(|e| Error::corrupt(format!("{what} is damaged: {e}")))?;
        body.check().map_err(|e| Error::corrupt(format!("{what} is damaged: {e}")))?;
        Ok(Self { id: digest.hex()[..32].to_owned(), number, file_bytes: bytes.len() as u64, body })
    }
}

/// A tensor of the structure: name, dtype, shape, role, offset in the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry(pub String, pub String, pub Vec<u64>, pub String, pub u64);

/// A file of the structure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative path, `/`-separated.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Its tensors.
    pub tensors: Vec<TensorEntry>,
    /// Runs of the state (offset, length) whose concatenation is the file.
    pub extents: Vec<(u64, u64)>,
}

/// What the bytes of a state mean.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Structure {
    /// Files.
    pub files: Vec<FileEntry>,
    /// Tensors that stand in no file.
    pub training: Vec<TensorEntry>,
}

impl Structure {
    /// Reads and checks the bytes of a structure against the length of its state.
    pub fn parse(bytes: &[u8], length: u64) -> Result<Self> {
        let structure: Self =
            serde_json::from_slice(bytes).map_err(|e| Error::corrupt(format!("the structure is damaged: {e}")))?;
        structure.check(length).map_err(|e| Error::corrupt(format!("the structure is damaged: {e}")))?;
        Ok(structure)
    }

    /// The bytes that [`Structure::parse`] reads.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes =
            serde_json::to_vec(self).map_err(|e| Error::invalid(format!("the structure cannot be written: {e}")))?;
        if bytes.len() as u64 > MAX_STRUCTURE {
            return Err(Error::invalid(format!(
                "the names of files and tensors take {} bytes; at most {MAX_STRUCTURE} are supported",
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    /// Checks paths, names, sizes, offsets and limits. No byte of the state may be used twice, so that what is read or
    /// written of a snapshot is never longer than its state.
    pub fn check(&self, length: u64) -> Result<()> {
        if self.files.len() > MAX_FILES {
            return Err(Error::invalid(format!("{} files; at most {MAX_FILES} are supported", self.files.len())));
        }
        check_paths(self.files.iter().map(|f| f.path.as_str()))?;
        for file in &self.files {
            let mut size = 0u64;
            for &(offset, run) in &file.extents {
                if run == 0 {
                    return Err(Error::invalid(format!("{:?} has an empty extent", file.path)));
                }
                in_state(offset, run, length)?;
                size = size.saturating_add(run);
            }
            if size != file.size {
                return Err(Error::invalid(format!(
                    "the extents of {:?} have {size} bytes, the file {}",
                    file.path, file.size
                )));
            }
        }
        disjoint(self.files.iter().flat_map(|f| f.extents.iter().copied()).collect())?;
        let groups = || self.files.iter().map(|f| &f.tensors).chain([&self.training]);
        if groups().map(Vec::len).sum::<usize>() > MAX_TENSORS {
            return Err(Error::invalid(format!("more than {MAX_TENSORS} tensors")));
        }
        let mut runs = vec![];
        for tensors in groups() {
            let mut names = HashSet::with_capacity(tensors.len());
            for tensor in tensors {
                runs.extend(tensor.run(length)?);
                if !names.insert(&tensor.0) {
                    return Err(Error::invalid(format!("two tensors are called {:?}", tensor.0)));
                }
            }
        }
        disjoint(runs)
    }
}

impl TensorEntry {
    /// Where its bytes stand in the state, if it has any.
    fn run(&self, length: u64) -> Result<Option<(u64, u64)>> {
        let Self(name, dtype, shape, role, offset) = self;
        let bytes = tensor_bytes(dtype, shape)?;
        if !ROLES.contains(&role.as_str()) {
            return Err(Error::invalid(format!("tensor {name:?} has the role {role:?}, expected one of {ROLES:?}")));
        }
        if bytes == 0 {
            let none = || Error::invalid(format!("tensor {name:?} has no bytes, but the offset {offset}"));
            return if *offset == 0 { Ok(None) } else { Err(none()) };
        }
        in_state(*offset, bytes, length)?;
        Ok(Some((*offset, bytes)))
    }
}

/// Refuses runs, none of which is empty or leaves the state, if two share a byte.
fn disjoint(mut runs: Vec<(u64, u64)>) -> Result<()> {
    runs.sort_unstable();
    match runs.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        None => Ok(()),
        Some(pair) => Err(Error::invalid(format!("bytes {} + {} of the state are used twice", pair[1].0, pair[1].1))),
    }
}

fn in_state(offset: u64, run: u64, length: u64) -> Result<()> {
    match offset.checked_add(run) {
        Some(end) if end <= length => Ok(()),
        _ => Err(Error::invalid(format!("bytes {offset} + {run} lie outside the state of {length} bytes"))),
    }
}

/// Checks that file paths stay inside the folder they are written to and do not collide on any file system.
pub fn check_paths<'a>(paths: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = HashSet::new();
    let mut folders = HashSet::new();
    for path in paths {
        let bad = |why: &str| Error::invalid(format!("file path {path:?} is not allowed: {why}"));
        if path.len() > 1024 {
            return Err(bad("it has more than 1024 bytes"));
        }
        if path.chars().any(|c| c == '\\' || c == ':' || c.is_control()) {
            return Err(bad("it holds a backslash, a colon or a control character"));
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad("it is absolute or has an empty, '.' or '..' part"));
        }
        let folded = path.to_lowercase();
        folders.extend(folded.match_indices('/').map(|(at, _)| folded[..at].to_owned()));
        if !seen.insert(folded) {
            return Err(bad("another file has this path (letter case ignored)"));
        }
    }
    match seen.intersection(&folders).next() {
        Some(both) => Err(Error::invalid(format!("{both:?} is a file and a folder"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        check_paths(["a", "b/c", "b/d.h5"].into_iter()).unwrap();
        for bad in ["", "/a", "a/", "../a", "a/./b", "a\\b", "c:a", "a\nb", "a//b"] {
            assert!(check_paths([bad].into_iter()).is_err(), "{bad:?}");
        }
        assert!(check_paths(["a", "A"].into_iter()).is_err());
        assert!(check_paths(["a/b", "A"].into_iter()).is_err());
        assert!(check_paths([&*"x".repeat(1025)].into_iter()).is_err());
    }

    #[test]
    fn structure_is_checked() {
        let file = |extents: Vec<(u64, u64)>, size| FileEntry { path: "f".into(), size, tensors: vec![], extents };
        let check = |file| Structure { files: vec![file], training: vec![] }.check(10);
        check(file(vec![(0, 4), (6, 4)], 8)).unwrap();
        assert!(check(file(vec![(0, 4)], 5)).is_err());
        assert!(check(file(vec![(8, 4)], 4)).is_err());
        assert!(check(file(vec![(u64::MAX, 4)], 4)).is_err());
        check(file(vec![(4, 4), (0, 4)], 8)).unwrap();
        assert!(check(file(vec![(0, 4), (3, 4)], 8)).is_err());
        assert!(check(file(vec![(0, 10), (0, 10)], 20)).is_err());
        assert!(check(file(vec![(0, 0)], 0)).is_err());
        let two = [("a", 0), ("b", 3)].map(|(path, at)| FileEntry { path: path.into(), ..file(vec![(at, 4)], 4) });
        assert!(Structure { files: two.into(), training: vec![] }.check(10).is_err());
    }

    #[test]
    fn tensors_are_checked() {
        let tensor = |name: &str, n, role: &str, at| TensorEntry(name.into(), "<f4".into(), vec![n], role.into(), at);
        let check = |training| Structure { files: vec![], training }.check(10);
        check(vec![tensor("a", 1, "weights", 6), tensor("b", 1, "training", 2), tensor("c", 0, "counters", 0)])
            .unwrap();
        assert!(check(vec![tensor("a", 3, "weights", 0)]).is_err());
        assert!(check(vec![tensor("a", 1, "hero", 0)]).is_err());
        assert!(check(vec![tensor("a", 0, "weights", 1)]).is_err());
        assert!(check(vec![tensor("a", 1, "weights", 0), tensor("a", 1, "weights", 4)]).is_err());
        assert!(check(vec![tensor("a", 2, "weights", 0), tensor("b", 1, "weights", 4)]).is_err());
    }

    #[test]
    fn states_are_checked() {
        let some = |len| vec![ChunkRef { id: Digest::of(b"x"), len }];
        let check = |state, value: Value, mode: Option<&str>| {
            let fields =
                serde_json::json!({"created_at": "", "series": "s", "kind": "files", "value": value, "mode": mode});
            let mut body: Body = serde_json::from_value(fields).unwrap();
            body.state = state;
            body.seal()
        };
        let state = |length, depth, root| State { length, structure: some(9), depth, root };
        check(state(5, 0, some(5)), 1.5.into(), Some("min")).unwrap();
        check(state(0, 0, vec![]), "-inf".into(), None).unwrap();
        for bad in [state(5, MAX_DEPTH + 1, some(5)), state(0, 1, vec![]), state(5, 0, vec![]), state(0, 0, some(1))] {
            assert!(check(bad, Value::Null, None).is_err());
        }
        assert!(check(State { structure: vec![], ..state(0, 0, vec![]) }, Value::Null, None).is_err());
        let bomb = some(MAX_CHUNK as u32).repeat(257);
        assert!(check(State { structure: bomb, ..state(0, 0, vec![]) }, Value::Null, None).is_err());
        assert!(check(state(0, 0, vec![]), "0.5".into(), None).is_err());
        assert!(check(state(0, 0, vec![]), Value::Null, Some("best")).is_err());
    }

    #[test]
    fn nodes() {
        let entry = ChunkRef { id: Digest::of(b"x"), len: 7 };
        let mut bytes = vec![];
        entry.append_to(&mut bytes);
        assert_eq!(ChunkRef::parse_node(&bytes).unwrap(), vec![entry]);
        assert!(ChunkRef::parse_node(&bytes[..35]).is_err());
        assert!(ChunkRef::parse_node(&[]).is_err());
        bytes[32..].fill(0);
        assert!(ChunkRef::parse_node(&bytes).is_err());
    }
}
