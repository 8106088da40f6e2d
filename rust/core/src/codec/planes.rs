//! The planes codec: plane p holds byte p of every element, and each plane is stored in its own way.

use super::frame::{self, FrameDecoder, Frames, Method, grown};
use super::plan::{MAX_WIDTH, Plan, Sample};
use crate::error::{Error, Result};
use crate::kernels;

const STORED: u8 = 0;
const FRAME: u8 = 1;
const CONSTANT: u8 = 2;

fn header_len(width: usize) -> usize {
    2 + 5 * width
}

/// The encoder of planes, with its buffers.
#[derive(Default)]
pub(super) struct PlaneEncoder {
    scratch: Vec<u8>,
    out: Vec<u8>,
}

impl PlaneEncoder {
    /// The buffer that [`PlaneEncoder::encode`] wrote to.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.out
    }

    /// Encodes `raw`, a whole number of elements, and returns the encoded length. `None` if no plane is worth encoding.
    pub(super) fn encode(
        &mut self,
        frames: &mut Frames,
        raw: &[u8],
        width: usize,
        sample: &Sample,
    ) -> Result<Option<usize>> {
        if !sample.is_promising() {
            return Ok(None);
        }
        let plane_len = raw.len() / width;
        let plans = &sample.plans[..width];
        let header = header_len(width);
        // There is room for two frames of one plane, so that the smaller one can be chosen.
        let out = grown(&mut self.out, header + raw.len() + 2 * frame::bound(plane_len));
        let scratch = grown(&mut self.scratch, raw.len());

        // The stored planes before the first compressed one are split directly into the output.
        let direct = plans.iter().take_while(|&&plan| plan == Plan::Store).count();
        let (in_place, _) = out[header..].split_at_mut(direct * plane_len);
        let (apart, _) = scratch.split_at_mut((width - direct) * plane_len);
        split(raw, sample.rotate, plane_len, in_place, apart)?;

        out[0] = width as u8;
        out[1] = u8::from(sample.rotate);
        let mut at = header;
        for (index, &plan) in plans.iter().enumerate() {
            let (mode, len) = match index.checked_sub(direct) {
                None => (STORED, plane_len),
                Some(k) => encode_plane(frames, plan, &scratch[k * plane_len..][..plane_len], &mut out[at..]),
            };
            out[2 + 5 * index] = mode;
            out[3 + 5 * index..][..4].copy_from_slice(&(len as u32).to_le_bytes());
            at += len;
        }
        Ok(Some(at))
    }
}

fn split(raw: &[u8], rotate: bool, plane_len: usize, first: &mut [u8], rest: &mut [u8]) -> Result<()> {
    let mut planes: [&mut [u8]; MAX_WIDTH] = Default::default();
    let targets = first.chunks_exact_mut(plane_len).chain(rest.chunks_exact_mut(plane_len));
    let width = planes.iter_mut().zip(targets).map(|(plane, target)| *plane = target).count();
    kernels::split(raw, rotate, &mut planes[..width])
}

/// Writes one plane to the front of `out`. Returns its mode and length.
fn encode_plane(frames: &mut Frames, plan: Plan, plane: &[u8], out: &mut [u8]) -> (u8, usize) {
    // A plane that hardly shrinks is not worth the time that decoding takes.
    let worthwhile = |len: &usize| *len < plane.len() - plane.len() / 32;
    let best = match plan {
        Plan::Store => None,
        // One comparison of memory is far faster than a loop over bytes.
        Plan::Constant if plane[1..] == plane[..plane.len() - 1] => {
            out[0] = plane[0];
            return (CONSTANT, 1);
        }
        Plan::Huffman => frames.compress(Method::Huffman, plane, out),
        Plan::Search | Plan::Constant => smaller_frame(frames, plane, out),
    };
    if let Some(len) = best.filter(worthwhile) {
        return (FRAME, len);
    }
    out[..plane.len()].copy_from_slice(plane);
    (STORED, plane.len())
}

/// Tries both methods: matches win where bytes repeat, Huffman coding alone wins for random bytes of few values.
fn smaller_frame(frames: &mut Frames, plane: &[u8], out: &mut [u8]) -> Option<usize> {
    let search = frames.compress(Method::Search, plane, out)?;
    // A Huffman code takes at least one bit per byte. Only constant blocks take less, and the search finds those too.
    if search < plane.len() / 64 {
        return Some(search);
    }
    let huffman = frames.compress(Method::Huffman, plane, &mut out[search..])?;
    if huffman < search {
        out.copy_within(search..search + huffman, 0);
    }
    Some(huffman.min(search))
}

/// A cheap look at an encoded chunk of byte planes: its most significant plane that is stored uncoded, of which a few
/// runs can be read without decoding. If the plane below the exponent is coded, it is that plane, which must be
/// decoded: a quarter of a float32 chunk.
#[derive(Debug)]
pub(crate) struct Glimpse {
    /// First byte of the plane in the encoded chunk.
    pub(crate) offset: usize,
    /// Encoded length of the plane in bytes.
    pub(crate) encoded: usize,
    /// Decoded length of the plane in bytes.
    pub(crate) plane_len: usize,
    /// Whether the plane is a zstd frame.
    pub(crate) coded: bool,
    plane: usize,
    width: usize,
    rotate: bool,
}

/// Runs of a glimpse. They cover many rows of a matrix, because one row often stays the same while the next one
/// changes.
const GLIMPSES: usize = 32;

impl Glimpse {
    /// Bytes at the beginning of an encoded chunk that [`Glimpse::new`] needs.
    pub(crate) const HEADER: usize = 2 + 5 * MAX_WIDTH;
    /// The longest run in bytes.
    pub(crate) const RUN: usize = 128;

    /// Finds the plane from the first bytes of an encoded chunk. `None` if there is no such plane, or its elements are
    /// not `width` bytes wide.
    pub(crate) fn new(header: &[u8], raw_len: usize, width: usize) -> Option<Self> {
        let &[found, transform @ (0 | 1), ..] = header else { return None };
        if usize::from(found) != width || !raw_len.is_multiple_of(width) {
            return None;
        }
        let plane_len = raw_len / width;
        let mut offset = header_len(width);
        let mut best: Option<Self> = None;
        for (plane, entry) in header.get(2..offset)?.chunks_exact(5).enumerate() {
            let encoded = u32::from_le_bytes([entry[1], entry[2], entry[3], entry[4]]) as usize;
            let coded = entry[0] == FRAME;
            let stored = entry[0] == STORED && encoded == plane_len && encoded > 0;
            let below_exponent = coded && plane + 2 == width && !best.as_ref().is_some_and(Self::is_above_noise);
            if stored || below_exponent {
                best = Some(Self { offset, encoded, plane_len, coded, plane, width, rotate: transform == 1 });
            }
            offset = offset.saturating_add(encoded);
        }
        best
    }

    /// Whether half of an element or more is below the plane.
    pub(crate) fn is_above_noise(&self) -> bool {
        2 * self.plane >= self.width
    }

    /// The runs to compare: the first byte in the plane, and the length, of each.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let len = self.plane_len.min(Self::RUN);
        // No more runs than fit without overlap.
        let count = self.plane_len.checked_div(len).unwrap_or(1).min(GLIMPSES);
        let apart = (self.plane_len - len).checked_div(count - 1).unwrap_or(0);
        (0..count).map(move |run| (run * apart, len))
    }

    /// How many elements of `raw`, from element `first` on, have these bytes in the plane.
    pub(crate) fn equal(&self, raw: &[u8], first: usize, bytes: &[u8]) -> usize {
        let Self { plane, width, rotate, .. } = *self;
        let byte = |word: &[u8]| match rotate {
            true => word[plane] << 1 | word[(plane + width - 1) % width] >> 7,
            false => word[plane],
        };
        raw[first * width..].chunks_exact(width).zip(bytes).filter(|(word, found)| byte(word) == **found).count()
    }
}

/// Decodes into `dst`. Stored planes are merged from `encoded` directly, the others by way of `scratch`.
pub(super) fn decode(frames: &mut FrameDecoder, scratch: &mut Vec<u8>, encoded: &[u8], dst: &mut [u8]) -> Result<()> {
    let damaged = |what: String| Error::corrupt(format!("a chunk of byte planes is damaged: {what}"));
    let (width, rotate) = match *encoded {
        [width @ (1 | 2 | 4 | 8), transform @ (0 | 1), ..] => (usize::from(width), transform == 1),
        [width, transform, ..] => return Err(damaged(format!("width {width}, transform {transform}"))),
        _ => return Err(damaged(format!("it has {} bytes", encoded.len()))),
    };
    if !dst.len().is_multiple_of(width) {
        return Err(damaged(format!("{} bytes are not a whole number of elements of {width} bytes", dst.len())));
    }
    let Some((header, mut rest)) = encoded.split_at_checked(header_len(width)) else {
        return Err(damaged(format!("it has {} bytes", encoded.len())));
    };

    let plane_len = dst.len() / width;
    let mut free = grown(scratch, dst.len());
    let mut planes: [&[u8]; MAX_WIDTH] = Default::default();
    for (plane, entry) in planes.iter_mut().zip(header[2..].chunks_exact(5)) {
        let len = u32::from_le_bytes([entry[1], entry[2], entry[3], entry[4]]) as usize;
        let Some((bytes, behind)) = rest.split_at_checked(len) else {
            return Err(damaged(format!("a plane has {len} bytes, but {} are left", rest.len())));
        };
        rest = behind;
        let target;
        (target, free) = free.split_at_mut(plane_len);
        *plane = match (entry[0], bytes) {
            (STORED, _) if len == plane_len => bytes,
            (FRAME, _) => {
                frames.decompress(bytes, target)?;
                target
            }
            (CONSTANT, &[byte]) => {
                target.fill(byte);
                target
            }
            (mode, _) => return Err(damaged(format!("a plane has mode {mode} and {len} bytes"))),
        };
    }
    if !rest.is_empty() {
        return Err(damaged(format!("{} bytes follow the last plane", rest.len())));
    }
    kernels::merge(&planes[..width], rotate, dst)
}
