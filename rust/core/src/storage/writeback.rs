//! Early writeback: starts writing to disk before the flush, so that the flush takes less time.
//!
//! It is a hint: it changes no byte, and guarantees nothing after a crash.

#![allow(unsafe_code)]

use std::fs::File;

/// Asks the operating system to start writing these bytes of the file to disk, without waiting. Linux only.
pub(crate) fn begin(file: &File, offset: u64, length: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open while `file` is borrowed, and the call gets no memory. Its result does not
        // matter: if the file system cannot do it, the flush writes everything.
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, length);
}
