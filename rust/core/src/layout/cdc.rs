//! Content-defined chunking: for bytes in which an insertion moves everything after it.

/// Smallest, average and largest chunk of metadata, in bytes: of literals beside tensors, and of structures.
pub(crate) const METADATA_CDC: (usize, usize, usize) = (4 << 10, 16 << 10, 64 << 10);
/// Smallest, average and largest chunk of a file without tensors, in bytes.
pub(crate) const OPAQUE_CDC: (usize, usize, usize) = (256 << 10, 1 << 20, 4 << 20);

/// Cuts bytes into chunks by content.
pub(crate) fn cut(bytes: &[u8], cdc: (usize, usize, usize)) -> Vec<&[u8]> {
    let (min, avg, max) = cdc;
    if bytes.len() <= min {
        return if bytes.is_empty() { vec![] } else { vec![bytes] };
    }
    fastcdc::v2020::FastCDC::new(bytes, min, avg, max).map(|c| &bytes[c.offset..c.offset + c.length]).collect()
}
