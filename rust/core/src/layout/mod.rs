//! From tensors and files to a state: in which order its bytes stand, where it is cut, and where they come from.

pub(crate) mod cdc;
pub(crate) mod pieces;
pub(crate) mod plan;
pub(crate) mod source;
