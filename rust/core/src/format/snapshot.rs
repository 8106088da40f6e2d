//! Snapshots: what one save recorded (docs/format.md §5).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::format::envelope;
use crate::format::limits::MAX_STRUCTURE;
use crate::format::tree::ChunkRef;

/// The most levels of nodes above the content list.
pub(crate) const MAX_DEPTH: u32 = 4;

/// Where the state of a snapshot is stored.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct State {
    /// Length of the state in bytes.
    pub length: u64,
    /// The chunks of the structure, in order.
    pub structure: Vec<ChunkRef>,
    /// Levels of nodes above the content list, 0 to 4.
    pub depth: u32,
    /// The chunks of the content if the depth is 0, else the topmost nodes.
    pub root: Vec<ChunkRef>,
}

/// The body of a snapshot file (docs/format.md §5).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Body {
    /// Features that a reader must know: `delta` if a chunk may be stored as a delta.
    #[serde(default)]
    pub required: Vec<String>,
    /// Features that a reader may ignore.
    #[serde(default)]
    pub optional: Vec<String>,
    /// The time of the save.
    pub created_at: String,
    /// The random session of the save, 32 hex digits. Two saves of the same state differ in it.
    #[serde(default)]
    pub session: String,
    /// The series of the snapshot.
    pub series: String,
    /// The id of the W&B run, if there is one.
    #[serde(default)]
    pub run: Option<String>,
    /// `weights`, `model` or `files`.
    pub kind: String,
    /// The epoch, counted from 0.
    #[serde(default)]
    pub epoch: Option<i64>,
    /// The batch, counted from 0; `None` if the save was at the end of an epoch.
    #[serde(default)]
    pub batch: Option<i64>,
    /// The training step, as Keras counts it.
    #[serde(default)]
    pub step: Option<i64>,
    /// The epoch with which a resumed training begins.
    #[serde(default)]
    pub next_epoch: Option<i64>,
    /// Metrics, by name.
    #[serde(default)]
    pub logs: Map<String, Value>,
    /// The name of the monitored metric.
    #[serde(default)]
    pub monitor: Option<String>,
    /// `min` or `max`: which value of the metric is better.
    #[serde(default)]
    pub mode: Option<String>,
    /// The value of the metric: a number, null, or the text `nan`, `inf` or `-inf`.
    #[serde(default)]
    pub value: Value,
    /// Whether the value was the best so far.
    #[serde(default)]
    pub best: bool,
    /// What the user passed as metadata.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// Training state that no Keras file holds. Its tensors are in the structure.
    #[serde(default)]
    pub training: Map<String, Value>,
    /// Versions of the software that wrote the snapshot, by name.
    #[serde(default)]
    pub software: Map<String, Value>,
    /// Length of the state in bytes.
    #[serde(default)]
    pub bytes_total: u64,
    /// Raw bytes of the chunks that no earlier save had stored.
    #[serde(default)]
    pub bytes_new: u64,
    /// Bytes of the packs that the save added.
    #[serde(default)]
    pub bytes_stored: u64,
    /// How long training waited for the save, in seconds.
    #[serde(default)]
    pub blocked_seconds: f64,
    /// Where the state is stored.
    #[serde(default)]
    pub state: State,
    /// Fields that later releases add.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A snapshot, as it was read from its file.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The id: the first 32 hex digits of the digest of the envelope.
    pub id: String,
    /// The sequence number in its repository; 0 outside a repository.
    pub number: u64,
    /// Length of the snapshot file in bytes.
    pub file_bytes: u64,
    /// The body of the file.
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

    /// Checks what the types of the fields do not check.
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
    ///
    /// # Errors
    /// `InvalidInput` if the fields contradict each other, or if the file would exceed a limit of the format.
    pub fn seal(&self) -> Result<Vec<u8>> {
        self.check().map_err(|e| e.context("the snapshot cannot be written"))?;
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => envelope::seal("snapshot", &map),
            other => Err(Error::invalid(format!("the snapshot cannot be written: {other:?}"))),
        }
    }
}

impl Snapshot {
    /// Reads and checks the bytes of a snapshot file. `number` becomes its sequence number; `what` names the file in
    /// messages.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are damaged, `Unsupported` if a newer lamina wrote them.
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
