//! Checking a volume: what Python is told of it, and how it ends the work.

use std::sync::{Arc, Mutex};

use cdp_engine::scrub::{Position, Reads};
use cdp_engine::verify::Finding;
use cdp_engine::{Error, Kind, Lsn, Volume};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::raise;

/// Walks over all files behind `position` (LSN, checkpoint, merged run). `tell(done, total, position, findings)` after each; `reads(bytes)` as they come.
pub fn run(
    py: Python<'_>,
    volume: &Volume,
    tell: &Py<PyAny>,
    position: (u64, u32, u32),
    reads: Option<Py<PyAny>>,
) -> PyResult<()> {
    let from = Position { lsn: Lsn(position.0), checkpoint: position.1, run: position.2 };
    let raised = Raised::default();
    let reads = reads.map(|call| raised.reads(call));
    let ended = py.detach(|| {
        volume.scrub(from, reads, &mut |told| {
            raised.call(|py| {
                let found: Vec<_> = told.found.iter().map(|it| finding(py, it)).collect::<PyResult<_>>()?;
                let position = (told.position.lsn.0, told.position.checkpoint, told.position.run);
                tell.call1(py, (told.done, told.total, position, found)).map(drop)
            })
        })
    });
    raised.or(ended)
}

pub fn finding<'py>(py: Python<'py>, finding: &Finding) -> PyResult<Bound<'py, PyDict>> {
    let facts = PyDict::new(py);
    facts.set_item("file", &finding.file)?;
    facts.set_item("what", &finding.what)?;
    facts.set_item("segment", finding.segment.map(|id| id.0))?;
    facts.set_item("lsn", finding.lsn.map(|lsn| lsn.0))?;
    facts.set_item("offset", finding.offset)?;
    facts.set_item("length", finding.bytes)?;
    facts.set_item("repairable", finding.repairable)?;
    facts.set_item("until_lsn", finding.until.map(|lsn| lsn.0))?;
    facts.set_item("live", finding.live)?;
    Ok(facts)
}

/// The first exception that Python raised in a callback of long work, which ends it.
#[derive(Clone, Default)]
struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    /// Calls Python, unless it has raised already.
    fn call(&self, call: impl FnOnce(Python<'_>) -> PyResult<()>) -> cdp_engine::Result<()> {
        let stopped = || Error::new(Kind::Closed, "the work was ended");
        if self.0.lock().is_ok_and(|raised| raised.is_some()) {
            return Err(stopped());
        }
        Python::attach(|py| {
            let called = py.check_signals().and_then(|()| call(py));
            called.map_err(|exception| {
                if let Ok(mut raised) = self.0.lock() {
                    raised.get_or_insert(exception);
                }
                stopped()
            })
        })
    }

    /// `reads(bytes)`; what it raises ends the work at the end of the file.
    fn reads(&self, call: Py<PyAny>) -> Reads {
        let raised = self.clone();
        Arc::new(move |bytes| drop(raised.call(|py| call.call1(py, (bytes,)).map(drop))))
    }

    fn or<T>(&self, result: cdp_engine::Result<T>) -> PyResult<T> {
        match self.0.lock().ok().and_then(|mut raised| raised.take()) {
            Some(exception) => Err(exception),
            None => result.map_err(raise),
        }
    }
}
