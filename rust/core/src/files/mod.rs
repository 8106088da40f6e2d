//! Files outside a repository: written from memory, compared, and digested.

pub(crate) mod md5;
pub(crate) mod plain_file;
