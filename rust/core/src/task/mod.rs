//! What every long call has: threads that work side by side, and a count of what is done.

pub mod pipeline;
pub mod progress;
