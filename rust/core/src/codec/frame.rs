//! zstd frames.
//!
//! What determinism relies on: the version of zstd is pinned by Cargo.lock and built from source, never taken from the
//! system; no worker threads; every parameter that is not set follows from the level and the length of the input;
//! both strategies used (fast, double fast) ignore what an earlier frame left in the context's tables. The tests encode
//! the same data with fresh and with used contexts.

use zstd_safe::{CCtx, CParameter, DCtx, ParamSwitch};

use super::fast_huffman::{self, Huffman, MAGIC};
use crate::error::{Error, Result};

/// Negative levels step over `-level` bytes between two searches for a match: with the lowest one, a whole block, nothing is
/// searched, and what remains of zstd is its Huffman coder.
const HUFFMAN_LEVEL: i32 = -(128 << 10);
/// So the table of positions, which is cleared for each frame, is not needed: as small as zstd allows.
const HUFFMAN_HASH_LOG: u32 = 6;
/// Matches are worth their time where they are found at all, so the sample decides about them, not the level.
const SEARCH_LEVEL: i32 = 3;

/// How to look for redundancy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Only unequal frequencies of bytes.
    Huffman,
    /// Repeated strings too.
    Search,
}

/// The two compression contexts.
pub(super) struct Frames {
    huffman: CCtx<'static>,
    search: CCtx<'static>,
}

impl Frames {
    pub(super) fn new() -> Self {
        let huffman = [
            CParameter::CompressionLevel(HUFFMAN_LEVEL),
            CParameter::HashLog(HUFFMAN_HASH_LOG),
            CParameter::LiteralCompressionMode(ParamSwitch::Enable),
        ];
        Self { huffman: context(&huffman), search: context(&[CParameter::CompressionLevel(SEARCH_LEVEL)]) }
    }

    /// Writes one frame and gives its length. `dst` has [`bound`] bytes, so `None` (out of memory) means "store it".
    pub(super) fn compress(&mut self, method: Method, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        let context = match method {
            Method::Huffman => &mut self.huffman,
            Method::Search => &mut self.search,
        };
        context.compress2(dst, src).ok()
    }
}

fn context(parameters: &[CParameter]) -> CCtx<'static> {
    let mut context = CCtx::create();
    // The content size makes a frame a single segment: readers need no window beside the output.
    let common = [CParameter::ContentSizeFlag(true), CParameter::ChecksumFlag(false), CParameter::DictIdFlag(false)];
    for &parameter in common.iter().chain(parameters) {
        // These constants are valid for every zstd since 1.4; going on without one would change the bytes written.
        context.set_parameter(parameter).expect("zstd accepts constant parameters");
    }
    context
}

/// The most bytes that a frame of `len` bytes can have.
pub(super) fn bound(len: usize) -> usize {
    zstd_safe::compress_bound(len)
}

/// The first `len` bytes of a buffer that only ever grows.
pub(super) fn grown(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

/// Undoes frames; keeps its tables, so one per thread is used for many.
#[derive(Default)]
pub(super) struct FrameDecoder {
    pub(super) zstd: DCtx<'static>,
    huffman: Option<Box<Huffman>>,
}

impl FrameDecoder {
    /// Undoes exactly one frame that gives exactly `dst`.
    ///
    /// zstd alone would accept several frames and skippable ones. Decoding in one shot writes to `dst` directly, so a frame
    /// that declares a large content or window makes nobody allocate it.
    pub(super) fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        if fast_huffman::is_worthwhile(src, dst.len()) {
            let huffman = self.huffman.get_or_insert_with(|| Box::new(Huffman::new()));
            if huffman.decode(src, dst).is_some() {
                return Ok(());
            }
        }
        decompress(&mut self.zstd, src, dst)
    }
}

fn decompress(context: &mut DCtx<'static>, src: &[u8], dst: &mut [u8]) -> Result<()> {
    let damaged = |what: &str| Error::corrupt(format!("a zstd frame is damaged: {what}"));
    if !src.starts_with(&MAGIC) {
        return Err(damaged("no magic number"));
    }
    if zstd_safe::find_frame_compressed_size(src) != Ok(src.len()) {
        return Err(damaged("it does not end where it should"));
    }
    match zstd_safe::get_frame_content_size(src) {
        Ok(Some(size)) if size != dst.len() as u64 => {
            return Err(damaged(&format!("it declares {size} bytes instead of {}", dst.len())));
        }
        Ok(_) => {}
        Err(_) => return Err(damaged("its header")),
    }
    match context.decompress(dst, src) {
        Ok(size) if size == dst.len() => Ok(()),
        Ok(size) => Err(damaged(&format!("it gives {size} bytes instead of {}", dst.len()))),
        Err(code) => Err(damaged(zstd_safe::get_error_name(code))),
    }
}
