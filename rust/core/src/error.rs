//! The error of the engine.
//!
//! A message says what was found, what was expected and, where it helps, what to do. The binding maps each kind to one
//! class of `lamina.errors`.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

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
    /// Another process holds the exclusive lock, for example a prune.
    Busy,
    /// The caller asked to stop.
    Cancelled,
    /// The engine is wrong; it is to be reported.
    Internal,
}

/// An error with its kind, a message for people and, for `Io`, what the operating system said.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<io::Error>>,
}

/// Result of the engine's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The caller's arguments make no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Something named by the caller does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Stored bytes are damaged.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// The data needs a newer reader.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Another process holds the exclusive lock, for example a prune.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Busy, message)
    }

    /// The caller asked to stop.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    /// The operating system refused `action` on `path`.
    pub(crate) fn io(action: &str, path: &Path, source: io::Error) -> Self {
        Self::refused(format!("cannot {action} {}: {source}", path.display()), source)
    }

    /// The operating system refused a thread.
    pub fn no_thread(source: io::Error) -> Self {
        Self::refused(format!("cannot start a thread: {source}"), source)
    }

    fn refused(message: String, source: io::Error) -> Self {
        Self { kind: ErrorKind::Io, message, source: Some(Arc::new(source)) }
    }

    /// The engine panicked with this payload.
    pub fn panicked(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it did not say why");
        Self::new(ErrorKind::Internal, format!("the engine of lamina failed: {text}. Please report this"))
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
        self.source.as_ref()?.raw_os_error()
    }

    /// The same error, with what was being done in front.
    pub(crate) fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_source_and_its_number() {
        let missing = io::Error::from_raw_os_error(2);
        let error = Error::io("open", Path::new("f"), missing).context("a look");
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Io, Some(2)));
        let source = std::error::Error::source(&error).unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
        assert!(error.message().starts_with("a look: cannot open f: "));
        assert!(std::error::Error::source(&Error::invalid("no")).is_none());
    }

    #[test]
    fn a_panic_is_told_with_its_words() {
        for payload in [Box::new("why") as Box<dyn Any + Send>, Box::new("why".to_owned()), Box::new(7)] {
            let error = Error::panicked(&*payload);
            assert_eq!(error.kind(), ErrorKind::Internal);
            assert!(error.message().contains("why") && error.message().contains("report"));
        }
    }
}
