//! From tensors and files to a state: in which order its bytes stand, where it is cut, and where they come from.

pub mod cdc;
pub mod pieces;
pub mod plan;
pub mod source;
