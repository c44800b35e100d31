//! What can go wrong, by what the caller does next. The Python exceptions, exit codes and NBD errnos mirror
//! these kinds one to one (cdp/errors.py, native/nbd/src/reply.rs).

use std::fmt;

use crate::units::Lsn;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request can never succeed as it is.
    Invalid,
    /// No such volume, instant or file.
    NotFound,
    /// Somebody else holds it: try again when they let go.
    Busy,
    /// The volume was closed under the caller.
    Closed,
    /// No room for the write; room may come back.
    NoSpace,
    /// Compaction replaced the file: look the place up anew. Never leaves the engine.
    Gone,
    /// Stored bytes are not what was written.
    Corrupt,
    /// The operating system said no.
    Io,
    /// A sync failed earlier: nothing more is accepted (docs/format.md).
    Poisoned,
}

/// A failure with its place: which file or volume, which operation, and what to do.
#[derive(Clone, Debug)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    /// The record that the failed call had got a number for: it may come to light after a crash. None: the call left no record.
    pub lsn: Option<Lsn>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), lsn: None }
    }

    /// The same failure, of a record that has a number.
    pub fn of_record(self, lsn: Lsn) -> Error {
        Error { lsn: Some(lsn), ..self }
    }

    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Kind::Invalid, message)
    }

    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, message)
    }

    /// An operating-system error, with the file and the operation that met it.
    pub fn io(what: &str, file: &str, error: &std::io::Error) -> Error {
        let kind = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
            Some(libc::ENOENT) => Kind::NotFound,
            _ => Kind::Io,
        };
        Error::new(kind, format!("{what} {file}: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
