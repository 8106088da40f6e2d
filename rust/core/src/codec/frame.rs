//! zstd frames.
//!
//! Frames are deterministic because:
//! * Cargo.lock pins the version of zstd, which is built from source and never taken from the system;
//! * there are no worker threads;
//! * every parameter that is not set follows from the level and the length of the input;
//! * both strategies in use (fast, double fast) ignore what an earlier frame left in a context. The tests encode
//!   the same data with fresh and with used contexts.

use zstd_safe::{CCtx, CParameter, DCtx, ParamSwitch};

use super::fast_huffman::{self, Huffman, MAGIC};
use crate::error::{Error, Result};

/// A negative level skips `-level` bytes between two searches for a match. This one skips a whole block, so nothing is
/// searched and only the Huffman coder of zstd remains.
const HUFFMAN_LEVEL: i32 = -(128 << 10);
/// Then the hash table is not needed. It is cleared for each frame, so it is as small as zstd allows.
const HUFFMAN_HASH_LOG: u32 = 6;
/// The sample, not the level, decides whether matches are worth searching for.
const SEARCH_LEVEL: i32 = 3;

/// How to look for redundancy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Huffman coding of single bytes, without matches.
    Huffman,
    /// Matches too.
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

    /// Writes one frame to `dst`, which has [`bound`] bytes, and returns its length. `None` (zstd ran out of memory)
    /// means that the bytes are stored uncompressed.
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
    // With the content size a frame is a single segment: a reader needs no window besides the output.
    let common = [CParameter::ContentSizeFlag(true), CParameter::ChecksumFlag(false), CParameter::DictIdFlag(false)];
    for &parameter in common.iter().chain(parameters) {
        // Every zstd since 1.4 accepts these constants. To ignore a failure would change the bytes that are written.
        context.set_parameter(parameter).expect("zstd accepts constant parameters");
    }
    context
}

/// The largest possible length of a frame that holds `len` bytes.
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

/// Decodes frames. It keeps its tables, so a thread uses one decoder for many frames.
#[derive(Default)]
pub(super) struct FrameDecoder {
    pub(super) zstd: DCtx<'static>,
    huffman: Option<Box<Huffman>>,
}

impl FrameDecoder {
    /// Decodes exactly one frame, which must fill `dst` exactly.
    ///
    /// zstd alone would accept several frames and skippable frames. It decodes directly into `dst`, so a frame that
    /// declares a large content or window allocates nothing.
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
        return Err(damaged("its length is wrong"));
    }
    match zstd_safe::get_frame_content_size(src) {
        Ok(Some(size)) if size != dst.len() as u64 => {
            return Err(damaged(&format!("it declares {size} bytes instead of {}", dst.len())));
        }
        Ok(_) => {}
        Err(_) => return Err(damaged("its header is not valid")),
    }
    match context.decompress(dst, src) {
        Ok(size) if size == dst.len() => Ok(()),
        Ok(size) => Err(damaged(&format!("it decodes to {size} bytes instead of {}", dst.len()))),
        Err(code) => Err(damaged(zstd_safe::get_error_name(code))),
    }
}
