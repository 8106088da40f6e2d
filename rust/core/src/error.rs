//! The error of the engine.
//!
//! A message says what was found, what was expected and, where it helps, what to do. The binding maps each kind to one
//! class of `lamina.errors`.

use std::fmt;
use std::io;
use std::path::Path;

/// What went wrong, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller's arguments make no sense; nothing was changed.
    InvalidInput,
    /// A repository, snapshot, alias or chunk does not exist.
    NotFound,
    /// Stored bytes are not what was written.
    Corrupt,
    /// The data needs a newer reader.
    Unsupported,
    /// The operating system refused.
    Io,
    /// Another process does just now what only one may do.
    Busy,
    /// The caller asked to stop.
    Cancelled,
}

/// An error with its kind, a message for people and, for `Io`, the operating system's error number.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    errno: Option<i32>,
}

/// Result of the engine's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None }
    }

    /// The caller's arguments make no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Something named by the caller does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Stored bytes are damaged.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// The data needs a newer reader.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Another process does just now what only one may do.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Busy, message)
    }

    /// The caller asked to stop.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    /// The operating system refused `action` on `path`.
    pub fn io(action: &str, path: &Path, source: &io::Error) -> Self {
        Self {
            kind: ErrorKind::Io,
            message: format!("cannot {action} {}: {source}", path.display()),
            errno: source.raw_os_error(),
        }
    }

    /// The operating system refused a thread.
    pub fn no_thread(source: &io::Error) -> Self {
        Self { kind: ErrorKind::Io, message: format!("cannot start a thread: {source}"), errno: source.raw_os_error() }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The operating system's error number, if it was the one that refused.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// The same error, with what was being done in front.
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
