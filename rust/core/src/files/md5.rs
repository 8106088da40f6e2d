//! MD5 digests of files, by which W&B identifies the files of an artifact. Several files are digested at once, because
//! one MD5 stream cannot keep a core busy.

use std::path::PathBuf;

use crate::error::Result;
use crate::format::digest::hex;
use crate::kernels::{self, Md5};
use crate::storage;

/// Bytes of each file that are read at a time. Those of all lanes fit into the cache of a core until they are digested.
const STEP: usize = 64 << 10;
/// Distance between the buffers of two files. At a power of two they would evict each other from the cache.
const STRIDE: usize = STEP + 192;
/// Files that are digested at once: the widest kernel has 16 lanes.
const LANES: usize = 16;

/// The MD5 digest of each file, as 32 lower-case hex digits.
///
/// # Errors
/// `NotFound` or `Io` if a file cannot be read, `InvalidInput` if this processor lacks the level in `LAMINA_CPU`.
pub fn of_files(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut digests = vec![];
    for group in paths.chunks(LANES) {
        digests.extend(of_group(group)?);
    }
    Ok(digests)
}

fn of_group(paths: &[PathBuf]) -> Result<Vec<String>> {
    let level = kernels::level()?;
    let mut files = vec![];
    for path in paths {
        let file = storage::open(path)?;
        files.push((storage::length(&file, path)?, file, path));
    }
    let mut states: Vec<Md5> = files.iter().map(|_| Md5::new()).collect();
    let mut buffer = vec![0; files.len() * STRIDE];
    let longest = files.iter().map(|f| f.0).max().unwrap_or(0);
    let mut at = 0;
    while at < longest {
        let mut inputs: Vec<&[u8]> = vec![];
        for ((length, file, path), bytes) in files.iter().zip(buffer.chunks_mut(STRIDE)) {
            let bytes = &mut bytes[..length.saturating_sub(at).min(STEP as u64) as usize];
            storage::read_at(file, path, bytes, at)?;
            inputs.push(bytes);
        }
        kernels::update_many(level, &mut states, &inputs);
        at += STEP as u64;
    }
    Ok(kernels::digest_many(level, states).iter().map(|d| hex(d)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let mut paths = vec![write("empty", b""), write("abc", b"abc")];
        paths.extend((0..20).map(|i| write(&format!("z{i}"), &vec![b'x'; 1_048_570 + i])));
        let digests = of_files(&paths).unwrap();
        assert_eq!(digests[0], "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(digests[1], "900150983cd24fb0d6963f7d28e17f72");
        use md5::Digest;
        assert_eq!(digests[21], hex(&md5::Md5::digest(vec![b'x'; 1_048_589])));
        assert!(of_files(&[folder.path().join("none")]).is_err());
    }
}
