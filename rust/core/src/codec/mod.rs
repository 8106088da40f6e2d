//! Codecs: how the bytes of one chunk are stored (docs/format.md §7).
//!
//! [`Encoder`] decides from a small sample what to try, [`Decoder`] undoes whatever an encoder chose. The bytes of an
//! encoded chunk depend on the raw bytes, the element and the choice only: not on the processor, the thread or what the
//! same encoder did before. That holds because the sample is evaluated in integers, every kernel equals its portable
//! twin, and zstd is pinned (see `frame`).

mod delta;
mod fast_huffman;
mod frame;
mod plan;
mod planes;
mod sampler;
mod steps;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::format::dtype::{Class, Element};
use crate::format::pack::Codec;
use frame::{FrameDecoder, Frames, Method};
pub(crate) use planes::Glimpse;
use planes::PlaneEncoder;
use sampler::Sampler;
use steps::Form;

/// What the user asked for; resolved by [`Encoder::encode`] and never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecChoice {
    /// Whatever a sample of the data speaks for.
    Auto,
    /// No compression.
    Raw,
    /// zstd wherever it is smaller.
    Zstd,
    /// Byte planes wherever they are smaller.
    Planes,
    /// As `Auto`, but deltas also where they gain less.
    Delta,
}

impl CodecChoice {
    /// The largest part, in percent, of what a chunk would take by itself that its delta may take; `None`: no deltas. A
    /// delta costs a second read and holds its base in place, so it must be worth it unless the user has asked for it.
    pub(crate) fn delta_share(self) -> Option<usize> {
        match self {
            Self::Auto => Some(60),
            Self::Delta => Some(90),
            _ => None,
        }
    }
}

/// The chunk that another one is to be stored as the difference to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base<'a> {
    /// Its bytes.
    pub(crate) raw: &'a [u8],
    /// Bytes that it takes itself.
    pub(crate) encoded: usize,
    /// How many versions it will have served then, 1 or more.
    pub(crate) age: u8,
}

/// A chunk as a difference.
#[derive(Debug)]
pub(crate) struct Delta<'a> {
    /// Its bytes.
    pub(crate) bytes: &'a [u8],
    /// What the chunk would take by itself.
    pub(crate) whole: usize,
}

impl FromStr for CodecChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "raw" => Ok(Self::Raw),
            "zstd" => Ok(Self::Zstd),
            "planes" => Ok(Self::Planes),
            "delta" => Ok(Self::Delta),
            _ => Err(Error::invalid(format!("unknown codec {name:?}; expected auto, raw, zstd, planes or delta"))),
        }
    }
}

/// Encodes chunks; keeps its buffers and zstd contexts, so one per thread is used for many chunks.
pub struct Encoder {
    sampler: Sampler,
    frames: Frames,
    planes: PlaneEncoder,
    zstd: Vec<u8>,
    steps: Vec<u8>,
    delta: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder without buffers; they come with the first chunk.
    pub fn new() -> Self {
        Self {
            sampler: Sampler::new(),
            frames: Frames::new(),
            planes: PlaneEncoder::default(),
            zstd: vec![],
            steps: vec![],
            delta: vec![],
        }
    }

    /// The smallest form found: never longer than `raw`, which is what comes back where nothing pays.
    ///
    /// # Errors
    /// `InvalidInput` for an element width other than 1, 2, 4, 8, and for a `LAMINA_CPU` that cannot be met.
    pub fn encode<'a>(&'a mut self, raw: &'a [u8], element: Element, choice: CodecChoice) -> Result<(Codec, &'a [u8])> {
        if !matches!(element.width, 1 | 2 | 4 | 8) {
            return Err(Error::invalid(format!("an element has 1, 2, 4 or 8 bytes. Received: {}", element.width)));
        }
        let (planes, zstd) = self.lengths(raw, element, choice)?;
        Ok(match (planes, zstd) {
            (Some(p), Some(z)) if p <= z && p < raw.len() => (Codec::Planes, &self.planes.encoded()[..p]),
            (_, Some(z)) if z < raw.len() => (Codec::Zstd, &self.zstd[..z]),
            (Some(p), _) if p < raw.len() => (Codec::Planes, &self.planes.encoded()[..p]),
            _ => (Codec::Raw, raw),
        })
    }

    /// Tries what the choice allows and the sample suggests; gives the lengths of what was tried.
    fn lengths(&mut self, raw: &[u8], element: Element, choice: CodecChoice) -> Result<(Option<usize>, Option<usize>)> {
        let whole = raw.len().is_multiple_of(element.width);
        if raw.is_empty() || choice == CodecChoice::Raw {
            return Ok((None, None));
        }
        if choice == CodecChoice::Zstd || (choice == CodecChoice::Planes && !whole) {
            return Ok((None, self.zstd(raw)));
        }
        let element = if whole { element } else { Element::OPAQUE };
        let sample = self.sampler.take(raw, element);
        if element.class == Class::Bytes && choice != CodecChoice::Planes {
            return Ok((None, if sample.is_promising() { self.zstd(raw) } else { None }));
        }
        let planes = self.planes.encode(&mut self.frames, raw, element.width, &sample)?;
        // With one plane, zstd would only repeat what the plane has tried; where the planes are next to nothing, less would
        // be no gain.
        let worthwhile = sample.repetitive && element.width > 1 && planes.is_none_or(|len| len > raw.len() / 64);
        let zstd = if worthwhile && choice != CodecChoice::Planes { self.zstd(raw) } else { None };
        Ok((planes, zstd))
    }

    /// `raw` as the difference to `base`, if that takes no more than `share` percent of what it takes by itself, which is
    /// what its base takes or less.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub(crate) fn encode_delta(
        &mut self,
        raw: &[u8],
        base: Base<'_>,
        element: Element,
        share: usize,
    ) -> Result<Option<Delta<'_>>> {
        let width = if raw.len().is_multiple_of(element.width) { element.width } else { 1 };
        if raw.is_empty() || raw.len() != base.raw.len() {
            return Ok(None);
        }
        let form = if element.class == Class::Float && width > 1 { Form::Floats } else { Form::Integers };
        let whole = self.sampler.take(raw, Element { width, ..element }).estimate(raw.len()).min(base.encoded);
        let limit = whole * share / 100;
        let sample = self.sampler.take_steps(raw, base.raw, width, form);
        if sample.estimate(raw.len()) > limit {
            return Ok(None);
        }
        let steps = frame::grown(&mut self.steps, raw.len());
        steps::difference(raw, base.raw, width, form, steps);
        let planes = self.planes.encode(&mut self.frames, steps, width, &sample)?;
        let Some(len) = planes.filter(|len| len + delta::HEADER <= limit) else { return Ok(None) };
        self.delta.clear();
        self.delta.extend_from_slice(&[form as u8, base.age]);
        self.delta.extend_from_slice(&self.planes.encoded()[..len]);
        Ok(Some(Delta { bytes: &self.delta, whole }))
    }

    fn zstd(&mut self, raw: &[u8]) -> Option<usize> {
        self.frames.compress(Method::Search, raw, frame::grown(&mut self.zstd, frame::bound(raw.len())))
    }
}

/// Decodes chunks; keeps its buffers and tables, so one per thread is used for many chunks.
pub struct Decoder {
    frames: FrameDecoder,
    scratch: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder without buffers; they come with the first chunk.
    pub fn new() -> Self {
        Self { frames: FrameDecoder::default(), scratch: Vec::new() }
    }

    /// Fills `dst`, whose length is the chunk's raw length, from `encoded`.
    ///
    /// Whether the bytes are the right ones is for the caller to find out, from the chunk's id.
    ///
    /// # Errors
    /// `Corrupt` for encoded bytes that do not give exactly `dst.len()` bytes; what `dst` then holds is undefined.
    pub fn decode_into(&mut self, codec: Codec, encoded: &[u8], dst: &mut [u8]) -> Result<()> {
        match codec {
            Codec::Raw if encoded.len() == dst.len() => dst.copy_from_slice(encoded),
            Codec::Raw => {
                return Err(Error::corrupt(format!(
                    "a raw chunk of {} bytes should have {} bytes",
                    encoded.len(),
                    dst.len()
                )));
            }
            Codec::Zstd => self.frames.decompress(encoded, dst)?,
            Codec::Planes => planes::decode(&mut self.frames, &mut self.scratch, encoded, dst)?,
            Codec::Delta => return Err(Error::unsupported("a delta chunk cannot be decoded without its base")),
        }
        Ok(())
    }

    /// The same for a delta, from the bytes of its base.
    ///
    /// # Errors
    /// `Corrupt` as [`Decoder::decode_into`], and for a base of another length.
    pub(crate) fn decode_delta_into(&mut self, encoded: &[u8], base: &[u8], dst: &mut [u8]) -> Result<()> {
        delta::decode(&mut self.frames, &mut self.scratch, encoded, base, dst)
    }
}

/// Bytes at the beginning of a delta that do not belong to its planes.
pub(crate) const DELTA_HEAD: usize = delta::HEADER;

/// How many versions the base of a delta has served.
pub(crate) fn delta_age(head: [u8; DELTA_HEAD]) -> u8 {
    head[1]
}
