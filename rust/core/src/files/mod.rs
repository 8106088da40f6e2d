//! Files outside a repository: writing them from memory, comparing and digesting them.

pub(crate) mod md5;
pub(crate) mod plain_file;
