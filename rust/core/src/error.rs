//! The error type of the engine.
//!
//! A message says what was found, what was expected and, where it helps, what to do. The binding maps each kind to one
//! class of `lamina.errors`.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The kind of an error: what a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The arguments are not valid. Nothing was changed.
    InvalidInput,
    /// A file, repository, snapshot, series or alias does not exist.
    NotFound,
    /// Stored data is damaged: it is not what was written.
    Corrupt,
    /// A newer version of the format wrote the data, or the file system lacks what the call needs.
    Unsupported,
    /// The operating system reported an error.
    Io,
    /// Another process holds the exclusive lock, for example a prune.
    Busy,
    /// The caller cancelled the call.
    Cancelled,
    /// A bug in the engine. Please report it.
    Internal,
}

/// An error: its kind, a message for people and, for `Io`, the error of the operating system.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<io::Error>>,
}

/// The result type of the engine's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An `InvalidInput` error: the arguments are not valid.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// A `NotFound` error: something that the caller named does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// A `Corrupt` error: stored data is damaged.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// An `Unsupported` error: a newer version of the format, or a file system without what the call needs.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// A `Busy` error: another process holds the exclusive lock, for example a prune.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Busy, message)
    }

    /// A `Cancelled` error.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    /// An `Io` error: `action` on `path` failed.
    pub(crate) fn io(action: &str, path: &Path, source: io::Error) -> Self {
        Self::refused(format!("cannot {action} {}: {source}", path.display()), source)
    }

    /// An `Io` error: a thread could not be started.
    pub fn no_thread(source: io::Error) -> Self {
        Self::refused(format!("cannot start a thread: {source}"), source)
    }

    fn refused(message: String, source: io::Error) -> Self {
        Self { kind: ErrorKind::Io, message, source: Some(Arc::new(source)) }
    }

    /// An `Internal` error: the engine panicked with this payload.
    pub fn panicked(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it did not say why");
        Self::new(ErrorKind::Internal, format!("the engine of lamina failed: {text}. Please report this"))
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message, without the kind.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error number of the operating system, if the error came from there.
    pub fn errno(&self) -> Option<i32> {
        self.source.as_ref()?.raw_os_error()
    }

    /// The same error, with `what` and a colon before its message.
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
