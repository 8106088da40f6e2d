//! From files and tensors to a state: the order of its bytes, where it is cut into chunks, and where the bytes come
//! from.

pub(crate) mod cdc;
pub(crate) mod pieces;
pub(crate) mod plan;
pub(crate) mod source;
