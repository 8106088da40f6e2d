//! Codecs: how the bytes of one chunk are stored (docs/format.md §7).
//!
//! [`Encoder`] decides from a small sample which codecs to try. [`Decoder`] decodes whatever an encoder chose.
//!
//! The bytes of an encoded chunk depend only on the raw bytes, the element and the choice: not on the processor, the
//! thread or what the encoder did before. That holds because the sample is evaluated in integers, every kernel equals
//! its portable twin, and zstd is pinned (see `frame`).

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

/// The `codec` that a user asked for. [`Encoder::encode`] turns it into a [`Codec`]; it is never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecChoice {
    /// What a sample of the data suggests, and deltas where they save much.
    Auto,
    /// No compression.
    Raw,
    /// zstd if that is smaller.
    Zstd,
    /// Byte planes if they are smaller.
    Planes,
    /// Like `Auto`, but deltas also where they save less.
    Delta,
}

impl CodecChoice {
    /// The largest size of a delta, in percent of the size of the whole chunk; `None` means no deltas. A delta costs a
    /// second read and keeps its base alive, so `Auto` asks for more than `Delta`.
    pub(crate) fn delta_share(self) -> Option<usize> {
        match self {
            Self::Auto => Some(60),
            Self::Delta => Some(90),
            _ => None,
        }
    }
}

/// The base of a delta.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base<'a> {
    /// Its raw bytes.
    pub(crate) raw: &'a [u8],
    /// Its encoded length in bytes.
    pub(crate) encoded: usize,
    /// The age of the delta: how many versions, 1 or more, have used the base, this one included.
    pub(crate) age: u8,
}

/// A chunk that is encoded as a delta.
#[derive(Debug)]
pub(crate) struct Delta<'a> {
    /// The encoded bytes.
    pub(crate) bytes: &'a [u8],
    /// Estimated length, in bytes, of the same chunk stored whole.
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

/// Encodes chunks. It keeps its buffers and zstd contexts, so a thread uses one encoder for many chunks.
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
    /// A new encoder. Its buffers are allocated with the first chunk.
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

    /// Encodes a chunk with the codec that makes it smallest, of those that `choice` allows and a sample suggests.
    ///
    /// The result is never longer than `raw`: if nothing saves bytes, it is [`Codec::Raw`] and `raw` itself.
    ///
    /// # Errors
    /// `InvalidInput` if the width of the element is not 1, 2, 4 or 8, or if this processor lacks the level in
    /// `LAMINA_CPU`.
    ///
    /// # Examples
    /// ```
    /// use lamina_core::{CodecChoice, Decoder, Encoder, parse_dtype};
    ///
    /// let raw: Vec<u8> = (0..4096u16).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    /// let (_, element) = parse_dtype("<f4")?;
    /// let mut encoder = Encoder::new();
    /// let (codec, encoded) = encoder.encode(&raw, element, CodecChoice::Auto)?;
    /// assert!(encoded.len() < raw.len());
    ///
    /// let mut decoded = vec![0; raw.len()];
    /// Decoder::new().decode_into(codec, encoded, &mut decoded)?;
    /// assert_eq!(decoded, raw);
    /// # Ok::<(), lamina_core::Error>(())
    /// ```
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

    /// Tries what the choice allows and the sample suggests. Returns the encoded lengths as planes and as zstd, if
    /// tried.
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
        // With one plane, zstd would only repeat what the plane has tried. If the planes take next to nothing, there is
        // nothing left to save.
        let worthwhile = sample.repetitive && element.width > 1 && planes.is_none_or(|len| len > raw.len() / 64);
        let zstd = if worthwhile && choice != CodecChoice::Planes { self.zstd(raw) } else { None };
        Ok((planes, zstd))
    }

    /// Encodes `raw` as a delta to `base`. `None` if that takes more than `share` percent of the whole chunk, whose
    /// length is estimated as at most that of its base.
    ///
    /// # Errors
    /// Those of [`Encoder::encode`].
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

/// Decodes chunks. It keeps its buffers and tables, so a thread uses one decoder for many chunks.
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
    /// A new decoder. Its buffers are allocated with the first chunk.
    pub fn new() -> Self {
        Self { frames: FrameDecoder::default(), scratch: Vec::new() }
    }

    /// Decodes a chunk that is stored whole into `dst`, which has its raw length.
    ///
    /// The caller checks the decoded bytes against the id of the chunk.
    ///
    /// # Errors
    /// `Corrupt` if `encoded` does not decode to exactly `dst.len()` bytes; `dst` then holds any bytes. `Unsupported`
    /// for a delta, which needs its base.
    pub fn decode_into(&mut self, codec: Codec, encoded: &[u8], dst: &mut [u8]) -> Result<()> {
        match codec {
            Codec::Raw if encoded.len() == dst.len() => dst.copy_from_slice(encoded),
            Codec::Raw => {
                return Err(Error::corrupt(format!(
                    "a raw chunk has {} bytes, {} were expected",
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

    /// Decodes a delta into `dst`, with the raw bytes of its base.
    ///
    /// # Errors
    /// `Corrupt` as [`Decoder::decode_into`], or if the base has another length.
    pub(crate) fn decode_delta_into(&mut self, encoded: &[u8], base: &[u8], dst: &mut [u8]) -> Result<()> {
        delta::decode(&mut self.frames, &mut self.scratch, encoded, base, dst)
    }
}

/// Bytes at the beginning of a delta, before its planes.
pub(crate) const DELTA_HEAD: usize = delta::HEADER;

/// The age that stands in the head of a delta: how many versions have used its base.
pub(crate) fn delta_age(head: [u8; DELTA_HEAD]) -> u8 {
    head[1]
}
