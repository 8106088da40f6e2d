//! Files outside a repository: written from memory, compared, and digested.

pub mod md5;
pub mod plain_file;
