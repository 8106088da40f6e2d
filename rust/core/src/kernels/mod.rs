//! Kernels: the few loops that are written for the processor at hand, and the only home of `unsafe` in this crate.
//!
//! Each has a portable form that the others must equal byte for byte. Which one runs is decided once; the environment
//! variable `LAMINA_CPU` demands another one, for tests and measurements.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod md5;
mod md5_one;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod neon;
mod planes;

use std::sync::OnceLock;

use crate::error::{Error, Result};
pub use md5::{Md5, digest_many, md5_many, md5_many_at, update_many};
pub use planes::{merge_at, split_at};

/// The instructions that kernels may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Plain Rust.
    Portable,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX2 and AVX-512 F and BW.
    Avx512,
    /// aarch64.
    Neon,
}

/// Every level, worst first.
const LEVELS: [Level; 4] = [Level::Portable, Level::Avx2, Level::Avx512, Level::Neon];

impl Level {
    /// The name, as `LAMINA_CPU` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512bw")
            }
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Self::Neon => true,
            #[allow(unreachable_patterns, reason = "which levels are left over depends on the target")]
            _ => false,
        }
    }
}

/// The levels of this processor, worst first.
pub fn available() -> Vec<Level> {
    LEVELS.into_iter().filter(|level| level.is_available()).collect()
}

/// The level in use: the best one, or the one that `LAMINA_CPU` demands.
///
/// # Errors
/// `InvalidInput` where `LAMINA_CPU` is no level, or one that this processor lacks: a demand is never met by less.
pub fn level() -> Result<Level> {
    static LEVEL: OnceLock<Result<Level>> = OnceLock::new();
    LEVEL.get_or_init(|| choose(std::env::var_os("LAMINA_CPU").map(|name| name.to_string_lossy().into_owned()))).clone()
}

fn choose(demand: Option<String>) -> Result<Level> {
    let levels = available();
    let Some(name) = demand.filter(|name| !name.is_empty()) else {
        return Ok(levels.last().copied().unwrap_or(Level::Portable));
    };
    levels.iter().copied().find(|level| level.name() == name).ok_or_else(|| {
        let names: Vec<&str> = levels.iter().map(|level| level.name()).collect();
        Error::invalid(format!("LAMINA_CPU must be one of {} on this processor. Received: {name}", names.join(", ")))
    })
}

/// Splits elements into byte planes: byte p of every element, rotated left by one bit if `rotate`, goes to `planes[p]`.
///
/// The number of planes, 1, 2, 4 or 8, is the width of an element.
///
/// # Errors
/// As [`level`].
///
/// # Panics
/// As [`split_at`].
pub fn split(src: &[u8], rotate: bool, planes: &mut [&mut [u8]]) -> Result<()> {
    split_at(level()?, src, rotate, planes);
    Ok(())
}

/// Undoes [`split`].
///
/// # Errors
/// As [`level`].
///
/// # Panics
/// As [`split_at`].
pub fn merge(planes: &[&[u8]], rotate: bool, dst: &mut [u8]) -> Result<()> {
    merge_at(level()?, planes, rotate, dst);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demand_is_met_or_refused() {
        assert_eq!(choose(None).unwrap(), *available().last().unwrap());
        assert_eq!(choose(Some(String::new())).unwrap(), choose(None).unwrap());
        for level in LEVELS {
            let chosen = choose(Some(level.name().to_owned()));
            assert_eq!(chosen.is_ok(), level.is_available());
            assert!(chosen.is_err() || chosen.is_ok_and(|chosen| chosen == level));
        }
        let error = choose(Some("sse9".to_owned())).unwrap_err();
        assert!(error.message().contains("portable") && error.message().contains("sse9"));
    }
}
