//! Errors of the engine as the exceptions of cdp/errors.py, one to one.

use cdp_engine::{Error, Kind};
use pyo3::prelude::*;
use pyo3::types::PyType;

pub fn class_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid => "Invalid",
        Kind::NotFound => "NotFound",
        Kind::Busy => "Busy",
        Kind::Closed => "Closed",
        Kind::NoSpace => "NoSpace",
        Kind::Corrupt => "Corrupt",
        Kind::Gone | Kind::Io => "Io",
        Kind::Poisoned => "Poisoned",
    }
}

/// The exception for an engine error.
pub fn raise(error: Error) -> PyErr {
    Python::attach(|py| {
        let class = py.import("cdp.errors").and_then(|module| module.getattr(class_name(error.kind)));
        match class.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
            Ok(class) => PyErr::from_type(class, error.message),
            Err(missing) => missing,
        }
    })
}

/// An engine error for an exception of Python's, its kind kept where it is one of ours.
pub fn from_python(py: Python<'_>, error: &PyErr) -> Error {
    let kinds = [
        Kind::Invalid,
        Kind::NotFound,
        Kind::Busy,
        Kind::Closed,
        Kind::NoSpace,
        Kind::Corrupt,
        Kind::Io,
        Kind::Poisoned,
    ];
    let name = error.get_type(py).name().map(|name| name.to_string()).unwrap_or_default();
    let kind = kinds.into_iter().find(|&kind| class_name(kind) == name).unwrap_or(Kind::Io);
    Error::new(kind, error.value(py).to_string())
}
