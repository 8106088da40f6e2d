//! The delta codec: the difference to a base chunk, as byte planes.

use super::frame::FrameDecoder;
use super::planes;
use super::steps::{Form, sum};
use crate::error::{Error, Result};

/// Bytes before the planes: the form, then the age.
pub(super) const HEADER: usize = 2;

/// Decodes into `dst`, which must be as long as `base`.
pub(super) fn decode(
    frames: &mut FrameDecoder,
    scratch: &mut Vec<u8>,
    encoded: &[u8],
    base: &[u8],
    dst: &mut [u8],
) -> Result<()> {
    let damaged = |what: String| Error::corrupt(format!("a delta chunk is damaged: {what}"));
    let (form, width) = match *encoded {
        [form @ (0 | 1), 1..=u8::MAX, width, ..] => (if form == 1 { Form::Floats } else { Form::Integers }, width),
        _ => return Err(damaged(format!("it begins with the bytes {:?}", &encoded[..encoded.len().min(3)]))),
    };
    if base.len() != dst.len() {
        return Err(damaged(format!("it has {} bytes, its base {}", dst.len(), base.len())));
    }
    planes::decode(frames, scratch, &encoded[HEADER..], dst)?;
    sum(base, usize::from(width), form, dst);
    Ok(())
}
