//! Levels: which instructions the kernels may use on this processor, and which they do use.

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// A set of instructions that kernels may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Plain Rust.
    Portable,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX2 and AVX-512 F and BW.
    Avx512,
    /// aarch64 with NEON.
    Neon,
}

/// All levels, the slowest first.
const LEVELS: [Level; 4] = [Level::Portable, Level::Avx2, Level::Avx512, Level::Neon];

impl Level {
    /// The name of the level, as the environment variable `LAMINA_CPU` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// Whether this processor has the level.
    pub(crate) fn is_available(self) -> bool {
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

/// The levels that this processor has, the slowest first.
pub fn available() -> Vec<Level> {
    LEVELS.into_iter().filter(|level| level.is_available()).collect()
}

/// The level in use: the fastest one, or the one that the environment variable `LAMINA_CPU` names.
///
/// # Errors
/// `InvalidInput` if `LAMINA_CPU` is not the name of a level that this processor has. There is no fallback, so that
/// measurements measure what they say.
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
