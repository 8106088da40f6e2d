//! Pieces: the order of the bytes of a state, and where they are cut (docs/format.md §5.2).
//!
//! Cuts depend on the names and sizes of tensors, never on their bytes. So a frozen tensor keeps its chunks whatever
//! happens around it, and an inserted layer gets chunks of its own.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::format::digest::Digest;
use crate::format::dtype::{Element, parse_dtype, tensor_bytes};
use crate::format::limits::MAX_TENSORS;
use crate::format::structure::{FileEntry, Structure, TensorEntry};
use crate::layout::cdc::{METADATA_CDC, OPAQUE_CDC};
use crate::layout::plan::{FileSpec, TensorSpec};

/// A tensor of fewer bytes shares a chunk with other small tensors.
pub(crate) const SMALL_TENSOR: u64 = 16 << 10;
/// A group ends with the tensor with which it has at least this many bytes.
pub(crate) const GROUP: u64 = 64 << 10;
/// Bytes of each run of a tensor that is not small.
pub(crate) const RUN: u64 = 1 << 20;
/// A tensor of this many bytes or more is cut into longer runs.
pub(crate) const HUGE_TENSOR: u64 = 1 << 30;
/// Bytes of each run of such a tensor.
pub(crate) const HUGE_RUN: u64 = 4 << 20;

/// Identifies a tensor. The tensors that are in no file count as those of one more file, after the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorAt {
    /// Index of the file.
    pub(crate) file: usize,
    /// Index in the tensors of the file.
    pub(crate) tensor: usize,
}

/// A part of a state: a run of a tensor or a group of small tensors, each of which becomes one chunk, or the literals
/// of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes `start..start + len` of a tensor.
    Run {
        /// The tensor.
        at: TensorAt,
        /// First byte in the tensor.
        start: u64,
        /// Bytes of the run.
        len: usize,
        /// The element for the codec.
        element: Element,
    },
    /// Whole tensors, one after the other.
    Group {
        /// The tensors, each with its bytes.
        members: Vec<(TensorAt, usize)>,
        /// The element for the codec.
        element: Element,
    },
    /// All literal bytes of a file. They are cut by content.
    Literals {
        /// Index of the file.
        file: usize,
        /// Number of the bytes.
        len: u64,
        /// Smallest, average and largest chunk in bytes.
        cdc: (usize, usize, usize),
    },
}

impl Piece {
    /// Its bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Run { len, .. } => *len as u64,
            Self::Group { members, .. } => members.iter().map(|m| m.1 as u64).sum(),
            Self::Literals { len, .. } => *len,
        }
    }
}

/// The layout of a state: which bytes it has, and in which order.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The structure of the state.
    pub(crate) structure: Structure,
    /// The pieces, in the order of the state.
    pub(crate) pieces: Vec<Piece>,
    /// The first byte of each piece in the state.
    pub(crate) starts: Vec<u64>,
    /// Length of the state in bytes.
    pub(crate) length: u64,
    /// For each file, the runs outside its tensors, as offset in the file and length in bytes.
    pub(crate) literals: Vec<Vec<(u64, u64)>>,
}

impl Layout {
    /// Lays out files, and the training tensors, which are in no file.
    ///
    /// # Errors
    /// `InvalidInput` if a name repeats, if tensors overlap or leave their file, if a path or dtype is not allowed, or
    /// if a limit of docs/format.md §10 is exceeded.
    pub fn new(files: &[FileSpec], training: &[TensorSpec]) -> Result<Self> {
        let total = training.len() + files.iter().map(|f| f.tensors.len()).sum::<usize>();
        if total > MAX_TENSORS {
            return Err(Error::invalid(format!("{total} tensors; at most {MAX_TENSORS} are supported")));
        }
        let mut layout =
            Self { structure: Structure::default(), pieces: vec![], starts: vec![], length: 0, literals: vec![] };
        for (index, file) in files.iter().enumerate() {
            layout.add_file(index, file)?;
        }
        layout.structure.training = layout.add_tensors(files.len(), training)?;
        layout.structure.check(layout.length)?;
        Ok(layout)
    }

    /// Notes what Keras calls the variables of each file's tensors.
    ///
    /// # Errors
    /// `InvalidInput` where a file has another number of tensors.
    pub fn with_variables(mut self, variables: Vec<Vec<Option<String>>>) -> Result<Self> {
        for (file, names) in self.structure.files.iter_mut().zip(variables) {
            file.variables = names;
        }
        self.structure.check(self.length)?;
        Ok(self)
    }

    fn push(&mut self, piece: Piece) -> Result<()> {
        self.starts.push(self.length);
        self.length =
            self.length.checked_add(piece.len()).ok_or_else(|| Error::invalid("the state has more than 2^64 bytes"))?;
        self.pieces.push(piece);
        Ok(())
    }

    fn add_file(&mut self, index: usize, file: &FileSpec) -> Result<()> {
        let literals = complement(file)?;
        let tensors = self.add_tensors(index, &file.tensors)?;
        let literal_start = self.length;
        let len = literals.iter().map(|l| l.1).sum();
        if len > 0 {
            let cdc = if file.tensors.is_empty() { OPAQUE_CDC } else { METADATA_CDC };
            self.push(Piece::Literals { file: index, len, cdc })?;
        }
        let extents = extents(file, &tensors, &literals, literal_start)?;
        let (path, size, variables) = (file.path.clone(), file.size, vec![]);
        self.structure.files.push(FileEntry { path, size, tensors, variables, extents });
        self.literals.push(literals);
        Ok(())
    }

    /// Adds the pieces of tensors. Returns their entries, in the order of `tensors`.
    fn add_tensors(&mut self, file: usize, tensors: &[TensorSpec]) -> Result<Vec<TensorEntry>> {
        let mut entries = Vec::with_capacity(tensors.len());
        let mut names = std::collections::HashSet::new();
        for t in tensors {
            if !names.insert(&t.name) {
                return Err(Error::invalid(format!("two tensors are called {:?}", t.name)));
            }
            entries.push(TensorEntry {
                name: t.name.clone(),
                dtype: t.dtype.clone(),
                shape: t.shape.clone(),
                role: t.role.clone(),
                offset: 0,
            });
        }
        let groups = group_small(tensors)?;
        for (index, spec) in tensors.iter().enumerate() {
            let bytes = tensor_bytes(&spec.dtype, &spec.shape)?;
            if bytes >= SMALL_TENSOR {
                entries[index].offset = self.length;
                self.add_runs(TensorAt { file, tensor: index }, bytes, parse_dtype(&spec.dtype)?.1)?;
            }
            for group in groups.get(&index).into_iter().flatten() {
                let mut members = vec![];
                let mut at = self.length;
                for &(tensor, bytes) in group {
                    entries[tensor].offset = at;
                    at += bytes;
                    members.push((TensorAt { file, tensor }, bytes as usize));
                }
                self.push(Piece::Group { members, element: parse_dtype(&spec.dtype)?.1 })?;
            }
        }
        Ok(entries)
    }

    fn add_runs(&mut self, at: TensorAt, bytes: u64, element: Element) -> Result<()> {
        let run = if bytes >= HUGE_TENSOR { HUGE_RUN } else { RUN };
        let mut start = 0;
        while start < bytes {
            let len = run.min(bytes - start);
            self.push(Piece::Run { at, start, len: len as usize, element })?;
            start += len;
        }
        Ok(())
    }
}

/// Groups of small tensors, each tensor as its index and its bytes. The key is the index of the first tensor of the
/// family.
type Groups = HashMap<usize, Vec<Vec<(usize, u64)>>>;

/// The small tensors of one folder, dtype and role.
#[derive(Default)]
struct Family {
    first: usize,
    groups: Vec<Vec<(usize, u64)>>,
    /// Bytes of the last group; 0 after it has ended.
    open: u64,
}

fn group_small(tensors: &[TensorSpec]) -> Result<Groups> {
    let mut families: HashMap<(&str, &str, &str), Family> = HashMap::new();
    for (index, spec) in tensors.iter().enumerate() {
        let bytes = tensor_bytes(&spec.dtype, &spec.shape)?;
        if bytes == 0 || bytes >= SMALL_TENSOR {
            continue;
        }
        let folder = spec.name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let family = families
            .entry((folder, &spec.dtype, &spec.role))
            .or_insert_with(|| Family { first: index, ..Family::default() });
        match family.groups.last_mut() {
            Some(group) if family.open > 0 => group.push((index, bytes)),
            _ => family.groups.push(vec![(index, bytes)]),
        }
        let size = family.open + bytes;
        let ends = size >= GROUP || Digest::of(spec.name.as_bytes()).as_bytes()[0] < 16;
        family.open = if ends { 0 } else { size };
    }
    Ok(families.into_values().map(|family| (family.first, family.groups)).collect())
}

/// The runs of a file outside its tensors, in file order.
fn complement(file: &FileSpec) -> Result<Vec<(u64, u64)>> {
    let mut taken = vec![];
    for t in &file.tensors {
        let bytes = tensor_bytes(&t.dtype, &t.shape)?;
        if bytes > 0 {
            taken.push((t.offset, bytes, &t.name));
        }
    }
    taken.sort_unstable();
    let mut runs = vec![];
    let mut at = 0;
    for (offset, bytes, name) in taken {
        let end = offset.checked_add(bytes).filter(|&end| offset >= at && end <= file.size);
        let end = end.ok_or_else(|| {
            Error::invalid(format!(
                "tensor {name:?} at bytes {offset} + {bytes} overlaps another, or exceeds {:?} ({} bytes)",
                file.path, file.size
            ))
        })?;
        if offset > at {
            runs.push((at, offset - at));
        }
        at = end;
    }
    if at < file.size {
        runs.push((at, file.size - at));
    }
    Ok(runs)
}

/// The extents of a file: its tensors and literals in file order. Extents that are adjacent in the state are merged.
fn extents(
    file: &FileSpec,
    tensors: &[TensorEntry],
    literals: &[(u64, u64)],
    literal_start: u64,
) -> Result<Vec<(u64, u64)>> {
    let mut parts = vec![];
    for (spec, entry) in file.tensors.iter().zip(tensors) {
        let bytes = tensor_bytes(&spec.dtype, &spec.shape)?;
        if bytes > 0 {
            parts.push((spec.offset, entry.offset, bytes));
        }
    }
    let mut state = literal_start;
    for &(offset, bytes) in literals {
        parts.push((offset, state, bytes));
        state += bytes;
    }
    parts.sort_unstable();
    let mut extents: Vec<(u64, u64)> = vec![];
    for (_, state, bytes) in parts {
        match extents.last_mut() {
            Some((start, len)) if *start + *len == state => *len += bytes,
            _ => extents.push((state, bytes)),
        }
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::{ChunkRef, nodes};
    use crate::layout::cdc::cut;
    use proptest::prelude::*;

    fn spec(name: &str, dtype: &str, shape: &[u64], offset: u64) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: dtype.into(), shape: shape.into(), role: "weights".into(), offset }
    }

    fn file(size: u64, tensors: Vec<TensorSpec>) -> FileSpec {
        FileSpec { path: "f".into(), size, tensors }
    }

    /// The debug text of entries without field names, which is what was pinned.
    fn unnamed(text: &str) -> String {
        let names = ["name: ", "dtype: ", "shape: ", "role: ", "offset: "];
        let mut parts = text.split("TensorEntry { ");
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |text, part| {
            let (entry, rest) = part.split_once(" }").unwrap();
            let entry = names.iter().fold(entry.to_owned(), |entry, name| entry.replacen(name, "", 1));
            format!("{text}TensorEntry({entry}){rest}")
        })
    }

    /// A moved cut silently doubles the storage of every user.
    #[test]
    fn cuts_are_pinned() {
        let mut tensors = vec![];
        let mut at = 100;
        for i in 0..200u64 {
            let shape = [(i * i * 37) % 9001];
            tensors.push(spec(
                &format!("layers/l{}/vars/{}", i / 5, i % 5),
                ["<f4", "bfloat16"][(i % 3 == 0) as usize],
                &shape,
                at,
            ));
            at += tensor_bytes(&tensors[i as usize].dtype, &shape).unwrap() + i % 2 * 7;
        }
        tensors.push(spec("big", "<f4", &[3, 1 << 20], at));
        let layout = Layout::new(&[file(at + (12 << 20) + 9, tensors)], &[spec("seed", "<u4", &[2], 0)]).unwrap();
        let pin = |text: String| Digest::of(text.as_bytes()).hex()[..16].to_owned();
        // The pin is older than names of variables, which cut nothing.
        let text = format!("{:?}{:?}", layout.pieces, layout.structure).replace("variables: [], ", "");
        let layout = pin(unnamed(&text));
        let noise: Vec<u8> =
            (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ (i >> 9) as u8).collect();
        let cuts = [METADATA_CDC, OPAQUE_CDC].map(|cdc| cut(&noise, cdc).iter().map(|c| c.len()).collect::<Vec<_>>());
        let cuts = pin(format!("{cuts:?}"));
        let level: Vec<_> = (0..9000u32).map(|i| ChunkRef { id: Digest::of(&i.to_le_bytes()), len: i + 1 }).collect();
        let ends: Vec<_> = nodes(&level).iter().map(Vec::len).collect();
        assert_eq!(
            [layout, cuts, pin(format!("{ends:?}"))],
            ["e5d85424b4fd9730", "04d45d17ac44acca", "8462b55d351f9c18"]
        );
    }

    #[test]
    fn an_inserted_layer_moves_no_other_piece() {
        let layer = |i: usize, at| {
            vec![spec(&format!("l{i}/k"), "<f4", &[100, 90], at), spec(&format!("l{i}/b"), "<f4", &[90], at + 36_000)]
        };
        let size = 36_360;
        let before: Vec<_> = (0..6).flat_map(|i| layer(i, i as u64 * size)).collect();
        let mut after = before.clone();
        after.extend(layer(77, 6 * size));
        let sizes = |tensors: Vec<TensorSpec>| {
            let layout = Layout::new(&[file(tensors.len() as u64 / 2 * size, tensors)], &[]).unwrap();
            layout.pieces.iter().map(Piece::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(before)[..], sizes(after)[..12]);
    }

    #[test]
    fn bad_input_is_refused() {
        let refused = |f: FileSpec| assert!(Layout::new(&[f], &[]).is_err());
        refused(file(10, vec![spec("a", "<f4", &[2], 4)]));
        refused(file(20, vec![spec("a", "<f4", &[2], 0), spec("b", "<f4", &[2], 4)]));
        refused(file(20, vec![spec("a", "<f4", &[1], 0), spec("a", "<f4", &[1], 4)]));
        refused(file(20, vec![spec("a", "<f4", &[1], u64::MAX)]));
        refused(FileSpec { path: "../f".into(), size: 0, tensors: vec![] });
    }

    proptest! {
        #[test]
        fn every_byte_stands_once(parts in prop::collection::vec((0u64..40_000, 0u64..50, 0usize..4), 0..40), tail in 0u64..100) {
            let mut tensors = vec![];
            let mut at = 0;
            for (i, (n, gap, folder)) in parts.iter().enumerate() {
                at += gap;
                tensors.push(spec(&format!("d{folder}/t{i}"), "|u1", &[*n], at));
                at += n;
            }
            let layout = Layout::new(&[file(at + tail, tensors)], &[]).unwrap();
            prop_assert_eq!(layout.length, at + tail);
            let mut runs = layout.structure.files[0].extents.clone();
            runs.sort_unstable();
            let mut end = 0;
            for (start, len) in runs {
                prop_assert_eq!(start, end);
                end = start + len;
            }
            prop_assert_eq!(end, at + tail);
        }
    }
}
