//! The content tree: the chunks of a state in their order (docs/format.md §5.2).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::digest::{ChunkId, Digest};
use crate::format::limits::MAX_CHUNK;
use crate::format::words;

/// Bytes of an entry of the content list: an id and a length.
pub(crate) const ENTRY: usize = 36;
/// The fewest entries of a node, except the last one of a level.
pub(crate) const NODE_MIN: usize = 32;
/// The most entries of a node.
pub(crate) const NODE_MAX: usize = 1024;

/// A reference to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// The id of the chunk.
    pub id: ChunkId,
    /// Its raw length in bytes, 1 byte to 4 MiB.
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
    /// Appends the 36 bytes of an entry of a node.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(&self.len.to_le_bytes());
    }

    /// Reads the entries of a node.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not whole entries, or if the length of a chunk is not allowed.
    pub fn parse_node(bytes: &[u8]) -> Result<Vec<Self>> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(ENTRY) {
            return Err(Error::corrupt(format!(
                "a content node has {} bytes, expected a multiple of {ENTRY}",
                bytes.len()
            )));
        }
        let entry = |bytes: &[u8]| {
            let len = words::u32_at(bytes, 32);
            let id = Digest::from_slice(&bytes[..32]).filter(|_| len > 0 && len as usize <= MAX_CHUNK);
            id.map(|id| Self { id, len })
                .ok_or_else(|| Error::corrupt(format!("a content node names a chunk of {len} bytes")))
        };
        bytes.chunks_exact(ENTRY).map(entry).collect()
    }
}

/// Whether a node of `entries` entries ends after the one with this id (docs/format.md §5.2).
pub(crate) fn node_ends(entries: usize, id: &ChunkId) -> bool {
    entries >= NODE_MAX || (entries >= NODE_MIN && id.as_bytes()[0] == 0)
}

/// Cuts a level of the content tree into nodes. Returns the bytes of each.
pub(crate) fn nodes(level: &[ChunkRef]) -> Vec<Vec<u8>> {
    let mut nodes = vec![];
    let mut node = vec![];
    for entry in level {
        entry.append_to(&mut node);
        if node_ends(node.len() / ENTRY, &entry.id) {
            nodes.push(std::mem::take(&mut node));
        }
    }
    if !node.is_empty() {
        nodes.push(node);
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

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
