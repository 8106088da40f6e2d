//! Early writeback: the disk begins with what was written, so that the flush at the end finds little left to do.
//!
//! This is a hint. It promises nothing, changes no byte, and what a crash may leave is what it may leave anyway.

#![allow(unsafe_code)]

use std::fs::File;

/// Asks the system to begin writing these bytes of the file to the disk, and does not wait for it. Linux only.
pub(crate) fn begin(file: &File, offset: u64, length: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open while `file` is borrowed, and the call is given no memory. What it returns does not
        // matter: where the file system cannot do it, the flush at the end does it all.
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, length);
}
