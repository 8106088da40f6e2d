//! Kernels: the few loops that are written for the processor at hand. Elsewhere `unsafe` stands only around two system calls,
//! in `storage::lock` and `storage::writeback`.
//!
//! Each has a portable form that the others must equal byte for byte. Which one runs is decided once; the environment
//! variable `LAMINA_CPU` demands another one, for tests and measurements.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod level;
mod md5;
mod md5_one;
mod md5_round;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod neon;
mod planes;

pub use level::{Level, available, level};
pub use md5::md5_many_at;
pub(crate) use md5::{Md5, digest_many, update_many};
pub(crate) use planes::{merge, split};
pub use planes::{merge_at, split_at};
