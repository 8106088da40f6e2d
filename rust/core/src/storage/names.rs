//! Random names.

/// 32 random hex digits: a name that no other process chooses.
pub(crate) fn random_name() -> String {
    use std::hash::{BuildHasher, RandomState};
    let mut hasher = blake3::Hasher::new();
    for _ in 0..4 {
        // Each RandomState has keys from the operating system.
        hasher.update(&RandomState::new().hash_one(std::process::id()).to_le_bytes());
    }
    if let Ok(now) = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        hasher.update(&now.as_nanos().to_le_bytes());
    }
    hasher.update(&std::process::id().to_le_bytes());
    hasher.update(format!("{:?}", std::thread::current().id()).as_bytes());
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Whether a name has the form of those of [`random_name`].
pub(crate) fn is_random_name(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_are_known() {
        assert_ne!(random_name(), random_name());
        assert!(is_random_name(&random_name()));
        assert!(!is_random_name(&random_name()[1..]));
    }
}
