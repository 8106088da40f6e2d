//! `lamina._core`: the Python binding of the engine. A function converts its arguments, releases the GIL, calls the
//! core and wraps the result. All decisions are in the core.

mod codec;
mod convert;
mod error;
mod image;
mod interrupt;
mod progress;
mod reader;
mod reports;
mod repository;
mod snapshot;
mod temporary;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::codec::cpu_level;
    #[pymodule_export]
    use super::codec::decode;
    #[pymodule_export]
    use super::codec::decode_into;
    #[pymodule_export]
    use super::codec::encode;
    #[pymodule_export]
    use super::image::copy_into;
    #[pymodule_export]
    use super::image::crc32_file;
    #[pymodule_export]
    use super::image::file_is;
    #[pymodule_export]
    use super::image::seal;
    #[pymodule_export]
    use super::image::unseal;
    #[pymodule_export]
    use super::image::write_file;
    #[pymodule_export]
    use super::progress::Progress;
    #[pymodule_export]
    use super::progress::watch;
    #[pymodule_export]
    use super::progress::watcher;
    #[pymodule_export]
    use super::reader::Reader;
    #[pymodule_export]
    use super::reports::Pruned;
    #[pymodule_export]
    use super::reports::Verified;
    #[pymodule_export]
    use super::repository::Repository;
    #[pymodule_export]
    use super::repository::check_alias;
    #[pymodule_export]
    use super::repository::close_inherited_locks;
    #[pymodule_export]
    use super::repository::default_threads;
    #[pymodule_export]
    use super::repository::fork_begins;
    #[pymodule_export]
    use super::repository::fork_ended;
    #[pymodule_export]
    use super::repository::md5_files;
    #[pymodule_export]
    use super::snapshot::Snapshot;
    #[pymodule_export]
    use super::snapshot::parse_snapshot;
    #[pymodule_export]
    use super::temporary::Claim;
    #[pymodule_export]
    use super::temporary::Temporary;
}
