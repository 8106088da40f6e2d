//! Snapshots: what one save left behind (docs/format.md §5).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::format::envelope;
use crate::format::limits::MAX_STRUCTURE;
use crate::format::tree::ChunkRef;

/// Levels of nodes above the content list.
pub(crate) const MAX_DEPTH: u32 = 4;

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
    pub(crate) fn value(&self) -> Option<f64> {
        self.value.as_f64().filter(|v| v.is_finite())
    }

    /// Whether a larger value is better.
    pub(crate) fn larger_is_better(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::digest::Digest;
    use crate::format::limits::MAX_CHUNK;

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
}
