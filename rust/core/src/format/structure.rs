//! The structure of a state: which of its bytes belong to which file and tensor (docs/format.md §5.1).

use std::collections::HashSet;

use serde::{Deserialize, Serialize, Serializer};
use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, Result};
use crate::format::dtype::tensor_bytes;
use crate::format::limits::{MAX_FILES, MAX_STRUCTURE, MAX_TENSORS};

/// The roles that a tensor may have.
pub(crate) const ROLES: [&str; 4] = ["weights", "optimizer", "counters", "training"];
/// The most names that a message lists; then it says how many more there are.
const NAMED: usize = 4;

/// Which bytes of a state belong to which file and tensor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Structure {
    /// The files.
    pub files: Vec<FileEntry>,
    /// The tensors that are in no file.
    pub training: Vec<TensorEntry>,
}

/// A file of a structure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The path in the snapshot, relative and `/`-separated.
    pub path: String,
    /// Length of the file in bytes.
    pub size: u64,
    /// The tensors in the file.
    pub tensors: Vec<TensorEntry>,
    /// Keras's path of the variable of each tensor, if it is known; empty if none is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<Option<String>>,
    /// Runs of the state, as offset and length in bytes. Concatenated, they are the file.
    pub extents: Vec<(u64, u64)>,
}

/// A tensor of a structure.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "WireTensor")]
pub struct TensorEntry {
    /// The name, which is unique in its file.
    pub name: String,
    /// The dtype, as docs/format.md §5.1 writes it.
    pub dtype: String,
    /// The shape.
    pub shape: Vec<u64>,
    /// `weights`, `optimizer`, `counters` or `training`.
    pub role: String,
    /// The first byte in the state; 0 if the tensor has no bytes.
    pub offset: u64,
}

/// A tensor in JSON: an array of its fields, in this order.
type WireTensor = (String, String, Vec<u64>, String, u64);

impl From<WireTensor> for TensorEntry {
    fn from((name, dtype, shape, role, offset): WireTensor) -> Self {
        Self { name, dtype, shape, role, offset }
    }
}

impl Serialize for TensorEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        (&self.name, &self.dtype, &self.shape, &self.role, self.offset).serialize(serializer)
    }
}

impl Structure {
    /// Reads the bytes of a structure and checks them against the length of its state, in bytes.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not a structure, or if its paths, sizes or offsets are not allowed.
    pub fn parse(bytes: &[u8], length: u64) -> Result<Self> {
        let structure: Self =
            serde_json::from_slice(bytes).map_err(|e| Error::corrupt(format!("the structure is damaged: {e}")))?;
        structure.check(length).map_err(|e| Error::corrupt(format!("the structure is damaged: {e}")))?;
        Ok(structure)
    }

    /// The bytes that [`Structure::parse`] reads.
    ///
    /// # Errors
    /// `InvalidInput` if there are more than 1 GiB of them.
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

    /// Checks paths, names, sizes, offsets and limits. No byte of the state may be used twice, so that no more bytes
    /// are read or written than the state has.
    pub(crate) fn check(&self, length: u64) -> Result<()> {
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
            if !file.variables.is_empty() && file.variables.len() != file.tensors.len() {
                return Err(Error::invalid(format!(
                    "{:?} has {} tensors, but names of {} variables",
                    file.path,
                    file.tensors.len(),
                    file.variables.len()
                )));
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
                if !names.insert(&tensor.name) {
                    return Err(Error::invalid(format!("two tensors are called {:?}", tensor.name)));
                }
            }
        }
        disjoint(runs)
    }
}

impl FileEntry {
    /// Its tensors, each with the name that people know it by: the variable's, else its own.
    fn named(&self) -> impl Iterator<Item = (&TensorEntry, &str)> {
        let own = |i: usize| self.variables.get(i).and_then(Option::as_deref);
        self.tensors.iter().enumerate().map(move |(i, tensor)| (tensor, own(i).unwrap_or(&tensor.name)))
    }
}

impl TensorEntry {
    /// Offset and length of its bytes in the state; `None` if it has none.
    fn run(&self, length: u64) -> Result<Option<(u64, u64)>> {
        let Self { name, dtype, shape, role, offset } = self;
        let bytes = tensor_bytes(dtype, shape)?;
        if !ROLES.contains(&role.as_str()) {
            return Err(Error::invalid(format!("tensor {name:?} has the role {role:?}, expected one of {ROLES:?}")));
        }
        if bytes == 0 {
            let none =
                || Error::invalid(format!("tensor {name:?} has no bytes, so its offset must be 0. Received: {offset}"));
            return if *offset == 0 { Ok(None) } else { Err(none()) };
        }
        in_state(*offset, bytes, length)?;
        Ok(Some((*offset, bytes)))
    }
}

/// Refuses runs if two of them share a byte. No run is empty or leaves the state.
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

/// Checks that file paths stay inside the folder that they are written to, and that no file system takes two of them
/// for the same file.
pub(crate) fn check_paths<'a>(paths: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = HashSet::new();
    let mut folders = HashSet::new();
    for path in paths {
        let bad = |why: &str| Error::invalid(format!("file path {path:?} is not allowed: {why}"));
        if path.len() > 1024 {
            return Err(bad("it has more than 1024 bytes"));
        }
        if path.chars().any(|c| c == '\\' || c == ':' || c.is_control()) {
            return Err(bad("it has a backslash, a colon or a control character"));
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad("it is absolute or has an empty, '.' or '..' part"));
        }
        let folded = folded(path);
        folders.extend(folded.match_indices('/').map(|(at, _)| folded[..at].to_owned()));
        if !seen.insert(folded) {
            return Err(bad("some file systems take it for another path in the snapshot"));
        }
    }
    match seen.intersection(&folders).next() {
        Some(both) => Err(Error::invalid(format!("{both:?} is both a file and a folder"))),
        None => Ok(()),
    }
}

/// A path in a form that is equal for all paths which some file system takes for the same file. It ignores letter case,
/// the form of composed characters (macOS), and dots and spaces at the end of a part (Windows).
fn folded(path: &str) -> String {
    let lower: String = path.nfd().collect::<String>().to_lowercase().nfd().collect();
    let parts: Vec<_> = lower.split('/').map(|part| part.trim_end_matches(['.', ' '])).collect();
    parts.join("/")
}

/// The files and tensors that have bytes in `parts` of a state. The parts are sorted.
pub(crate) fn holders(structure: &Structure, parts: &[(u64, u64)]) -> (Vec<String>, Vec<(Option<String>, String)>) {
    let hit = |at: u64, len: u64| {
        let first = parts.partition_point(|part| part.1 <= at);
        len > 0 && parts.get(first).is_some_and(|part| part.0 < at + len)
    };
    let is_hit = |t: &TensorEntry| hit(t.offset, tensor_bytes(&t.dtype, &t.shape).unwrap_or(0));
    let (mut files, mut tensors) = (vec![], vec![]);
    for file in &structure.files {
        if file.extents.iter().any(|&(at, len)| hit(at, len)) {
            files.push(file.path.clone());
        }
        let damaged = file.named().filter(|(tensor, _)| is_hit(tensor));
        tensors.extend(damaged.map(|(_, name)| (Some(file.path.clone()), name.to_owned())));
    }
    tensors.extend(structure.training.iter().filter(|t| is_hit(t)).map(|t| (None, t.name.clone())));
    (files, tensors)
}

/// Describes what is in `parts` of a state, for a message: the tensors, or the files if there are no tensors.
pub(crate) fn describe(structure: &Structure, parts: &[(u64, u64)]) -> String {
    let (files, tensors) = holders(structure, parts);
    let (what, names) = match tensors.is_empty() {
        true => ("file", files),
        false => ("tensor", tensors.into_iter().map(|(_, name)| name).collect()),
    };
    let more = names.len().saturating_sub(NAMED);
    let listed = names.iter().take(NAMED).map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
    match (names.len(), more) {
        (1, _) => format!("{what} {listed}"),
        (_, 0) => format!("{what}s {listed}"),
        _ => format!("{what}s {listed} and {more} more"),
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
        for same in [["a", "A"], ["caf\u{e9}", "cafe\u{301}"], ["\u{c9}", "e\u{301}"], ["a", "a."], ["a/b", "a. ./b"]] {
            assert!(check_paths(same.into_iter()).is_err(), "{same:?}");
        }
        check_paths(["con", "aux.h5", "a .h5", "a.h5", "e", "\u{e9}"].into_iter()).unwrap();
        assert!(check_paths(["caf\u{e9}/b", "cafe\u{301}"].into_iter()).is_err());
        assert!(check_paths(["a/b", "A"].into_iter()).is_err());
        assert!(check_paths([&*"x".repeat(1025)].into_iter()).is_err());
    }

    #[test]
    fn structure_is_checked() {
        let file = |extents: Vec<(u64, u64)>, size| FileEntry {
            path: "f".into(),
            size,
            tensors: vec![],
            variables: vec![],
            extents,
        };
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
    fn a_tensor_is_an_array_in_json() {
        let file = FileEntry {
            path: "m.h5".into(),
            size: 32,
            tensors: vec![TensorEntry {
                name: "d/kernel".into(),
                dtype: "<f4".into(),
                shape: vec![2, 3],
                role: "weights".into(),
                offset: 8,
            }],
            variables: vec![],
            extents: vec![(0, 32)],
        };
        let structure = Structure { files: vec![file], training: vec![] };
        let bytes = structure.to_bytes().unwrap();
        let pinned = r#"{"files":[{"path":"m.h5","size":32,"tensors":[["d/kernel","<f4",[2,3],"weights",8]],"extents":[[0,32]]}],"training":[]}"#;
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), pinned);
        assert_eq!(Structure::parse(&bytes, 32).unwrap(), structure);
        for bad in
            [r#"["d/kernel","<f4",[2,3],"weights"]"#, r#"["d/kernel","<f4",[2,3],"weights",8,9]"#, r#"{"name":"d"}"#]
        {
            let text = pinned.replace(r#"["d/kernel","<f4",[2,3],"weights",8]"#, bad);
            assert!(Structure::parse(text.as_bytes(), 32).is_err(), "{bad}");
        }
        let with = |variables: &str| pinned.replace(r#","extents""#, &format!(r#","variables":{variables},"extents""#));
        let named = Structure::parse(with(r#"["encoder/kernel"]"#).as_bytes(), 32).unwrap();
        assert_eq!(String::from_utf8(named.to_bytes().unwrap()).unwrap(), with(r#"["encoder/kernel"]"#));
        assert_eq!(describe(&named, &[(9, 10)]), r#"tensor "encoder/kernel""#);
        let unnamed = Structure::parse(with("[null]").as_bytes(), 32).unwrap();
        assert_eq!(describe(&unnamed, &[(9, 10)]), r#"tensor "d/kernel""#);
        for bad in [r#"["a","b"]"#, "[7]", r#""a""#, "null", r#"{"d/kernel":"a"}"#] {
            assert!(Structure::parse(with(bad).as_bytes(), 32).is_err(), "{bad}");
        }
    }

    #[test]
    fn tensors_are_checked() {
        let tensor = |name: &str, n, role: &str, at| TensorEntry {
            name: name.into(),
            dtype: "<f4".into(),
            shape: vec![n],
            role: role.into(),
            offset: at,
        };
        let check = |training| Structure { files: vec![], training }.check(10);
        check(vec![tensor("a", 1, "weights", 6), tensor("b", 1, "training", 2), tensor("c", 0, "counters", 0)])
            .unwrap();
        assert!(check(vec![tensor("a", 3, "weights", 0)]).is_err());
        assert!(check(vec![tensor("a", 1, "hero", 0)]).is_err());
        assert!(check(vec![tensor("a", 0, "weights", 1)]).is_err());
        assert!(check(vec![tensor("a", 1, "weights", 0), tensor("a", 1, "weights", 4)]).is_err());
        assert!(check(vec![tensor("a", 2, "weights", 0), tensor("b", 1, "weights", 4)]).is_err());
    }
}
