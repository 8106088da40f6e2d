//! The version of the format, and the envelope of its JSON files (docs/format.md §4).

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::format::digest::Digest;
use crate::format::limits::MAX_JSON;

/// The version of the format that this engine writes, and the only one that it reads.
pub(crate) const VERSION: u32 = 1;

/// The features that this engine knows, of those that a body may require.
const KNOWN_FEATURES: &[&str] = &["delta"];

/// The most digits of a whole number: Python reads no longer ones.
const MAX_DIGITS: usize = 4300;

/// Puts a body into an envelope: the bytes of a file of this kind (docs/format.md §4).
///
/// # Errors
/// `InvalidInput` if a number has more than 4300 digits or exceeds the range of a 64-bit float, or if the file would be
/// longer than 64 MiB.
///
/// # Examples
/// ```
/// use lamina_core::envelope;
///
/// let body = envelope::body([("alias", "release".into())]);
/// let file = envelope::seal("alias", &body)?;
/// let (_, read) = envelope::unseal(&file, "alias", "the file")?;
/// assert_eq!(read, body);
/// # Ok::<(), lamina_core::Error>(())
/// ```
pub fn seal(kind: &str, body: &Map<String, Value>) -> Result<Vec<u8>> {
    if let Some(number) = body.values().find_map(unusable) {
        return Err(Error::invalid(format!("{kind} cannot be written: {}", too_large(number))));
    }
    let body = serde_json::to_string(body).map_err(|e| Error::invalid(format!("{kind} cannot be written: {e}")))?;
    let head = format!("{{\"lamina\":\"{kind}\",\"version\":{VERSION},\"blake3\":\"");
    let tail = format!("\",\n\"body\":{body}\n}}\n");
    if (head.len() + 64 + tail.len()) as u64 > MAX_JSON {
        return Err(Error::invalid(format!("{kind} would have {} bytes; at most {MAX_JSON} are allowed", tail.len())));
    }
    let digest = digest_of(&head, &tail);
    Ok([head.as_bytes(), digest.hex().as_bytes(), tail.as_bytes()].concat())
}

fn digest_of(head: &str, tail: &str) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head.as_bytes()).update(tail.as_bytes());
    Digest::finish(&hasher)
}

/// Checks a file of this kind (docs/format.md §4), and returns the digest of its envelope and its body. `what` names
/// the file in messages.
///
/// # Errors
/// `Corrupt` if the bytes are not what [`seal`] writes. `Unsupported` for another version of the format, or if the body
/// requires a feature that this engine does not know.
pub fn unseal(bytes: &[u8], kind: &str, what: &str) -> Result<(Digest, Map<String, Value>)> {
    let damaged = |why: &str| Error::corrupt(format!("{what} is damaged: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8"))?;
    let (first, rest) = text.split_once('\n').ok_or_else(|| damaged("it has no complete first line"))?;
    let mark = "\"blake3\":\"";
    let at = first.find(mark).ok_or_else(|| damaged("its first line is not that of a lamina file"))? + mark.len();
    let (head, digest) = first.split_at(at);
    let digest = digest.strip_suffix("\",").and_then(Digest::from_hex);
    let digest = digest.ok_or_else(|| damaged("its first line holds no digest"))?;
    let body = rest.strip_prefix("\"body\":").and_then(|r| r.strip_suffix("\n}\n"));
    let body = body
        .filter(|b| !b.contains('\n'))
        .ok_or_else(|| damaged("it does not have the three lines of a lamina file"))?;
    if digest_of(head, &text[at + 64..]) != digest {
        return Err(damaged("its digest does not match its bytes"));
    }
    let (found, version) = parse_head(head).ok_or_else(|| damaged("its first line is not that of a lamina file"))?;
    if found != kind {
        return Err(damaged(&format!("it is a {found:?} file, expected {kind:?}")));
    }
    if version != VERSION {
        return Err(Error::unsupported(format!(
            "{what} has format version {version}; this lamina reads version {VERSION}: upgrade lamina"
        )));
    }
    let body: Map<String, Value> =
        serde_json::from_str(body).map_err(|e| damaged(&format!("its body is not JSON: {e}")))?;
    if let Some(number) = body.values().find_map(unusable) {
        return Err(damaged(&too_large(number)));
    }
    check_features(&body, what)?;
    Ok((digest, body))
}

/// The text of the first number that some readers cannot hold: a whole number of too many digits, or another number
/// that no 64-bit float can hold.
fn unusable(value: &Value) -> Option<&str> {
    match value {
        Value::Number(number) => {
            let text = number.as_str();
            let usable = match text.contains(['.', 'e', 'E']) {
                true => number.as_f64().is_some_and(f64::is_finite),
                false => text.len() <= MAX_DIGITS,
            };
            (!usable).then_some(text)
        }
        Value::Array(list) => list.iter().find_map(unusable),
        Value::Object(map) => map.values().find_map(unusable),
        _ => None,
    }
}

fn too_large(number: &str) -> String {
    let begin: String = number.chars().take(20).collect();
    format!("the number {begin}… is too large")
}

fn parse_head(head: &str) -> Option<(&str, u32)> {
    let (kind, rest) = head.strip_prefix("{\"lamina\":\"")?.split_once("\",\"version\":")?;
    let version = rest.strip_suffix(",\"blake3\":\"")?;
    let decimal = !version.starts_with('0') && version.bytes().all(|b| b.is_ascii_digit());
    (decimal && kind.bytes().all(|b| b.is_ascii_lowercase())).then_some((kind, version.parse().ok()?))
}

fn check_features(body: &Map<String, Value>, what: &str) -> Result<()> {
    for list in ["required", "optional"] {
        let names = body.get(list).and_then(Value::as_array);
        let names = names.ok_or_else(|| Error::corrupt(format!("{what} is damaged: it has no list {list:?}")))?;
        for name in names {
            let name =
                name.as_str().ok_or_else(|| Error::corrupt(format!("{what} is damaged: a feature is not a string")))?;
            if list == "required" && !KNOWN_FEATURES.contains(&name) {
                return Err(Error::unsupported(format!(
                    "{what} requires the feature {name:?}, which this lamina does not know: upgrade lamina"
                )));
            }
        }
    }
    Ok(())
}

/// A body with `fields`, which requires no features.
pub fn body<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("required".into(), Value::Array(vec![]));
    map.insert("optional".into(), Value::Array(vec![]));
    map.extend(fields.into_iter().map(|(k, v)| (k.to_owned(), v)));
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn sample() -> Vec<u8> {
        seal("alias", &body([("alias", "a\nb é".into()), ("x", 1.5.into())])).unwrap()
    }

    #[test]
    fn round_trip_and_pinned_bytes() {
        let bytes = sample();
        let (_, map) = unseal(&bytes, "alias", "it").unwrap();
        assert_eq!(map["alias"], "a\nb é");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("{\"lamina\":\"alias\",\"version\":1,\"blake3\":\""));
        assert!(serde_json::from_str::<Value>(&text).is_ok());
        assert_eq!(unseal(text.as_bytes(), "config", "it").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn numbers_keep_their_text() {
        let long = "9".repeat(MAX_DIGITS);
        for text in ["340282366920938463463374607431768211455", "-18446744073709551617", "1e-05", "0.1", "-0.0", &long]
        {
            let value: Value = serde_json::from_str(text).unwrap();
            let bytes = seal("alias", &body([("x", vec![value].into())])).unwrap();
            let (_, map) = unseal(&bytes, "alias", "it").unwrap();
            assert_eq!(map["x"].to_string(), format!("[{text}]"));
        }
        for text in ["1e999", "-1.5e400", &format!("{long}9")] {
            let value: Value = serde_json::from_str(text).unwrap();
            let error = seal("alias", &body([("x", vec![value].into())])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            let (head, tail) = (
                "{\"lamina\":\"alias\",\"version\":1,\"blake3\":\"",
                format!("\",\n\"body\":{{\"required\":[],\"optional\":[],\"x\":{text}}}\n}}\n"),
            );
            let foreign = format!("{head}{}{tail}", digest_of(head, &tail).hex());
            assert_eq!(unseal(foreign.as_bytes(), "alias", "it").unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
        }
    }

    #[test]
    fn every_cut_and_every_bit() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            assert_eq!(unseal(&bytes[..cut], "alias", "it").unwrap_err().kind(), ErrorKind::Corrupt, "{cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(&bad, "alias", "it").unwrap_err().kind(), ErrorKind::Corrupt, "{bit}");
        }
    }

    #[test]
    fn newer_is_unsupported_not_damaged() {
        let tail = "\",\n\"body\":{\"required\":[],\"optional\":[]}\n}\n";
        let head = "{\"lamina\":\"alias\",\"version\":2,\"blake3\":\"";
        let newer = format!("{head}{}{tail}", digest_of(head, tail).hex());
        assert_eq!(unseal(newer.as_bytes(), "alias", "it").unwrap_err().kind(), ErrorKind::Unsupported);
        let mut needs = body([]);
        needs["required"] = Value::from(vec!["telepathy"]);
        let error = unseal(&seal("alias", &needs).unwrap(), "alias", "it").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("telepathy"));
    }
}
