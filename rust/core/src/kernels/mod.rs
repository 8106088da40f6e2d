//! Kernels: the few loops that are written for a certain processor. Elsewhere `unsafe` is only around two system calls,
//! in `storage::lock` and `storage::writeback`.
//!
//! Each kernel has a portable form, which the others must equal byte for byte. The level is chosen once per process;
//! the environment variable `LAMINA_CPU` chooses another one, for tests and measurements.

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
