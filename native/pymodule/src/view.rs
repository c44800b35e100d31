//! Views, for reading and for writing out.

use std::os::fd::RawFd;

use cdp_engine::restore::{Order, Stretch};
use cdp_engine::{Error, View};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::{from_python, raise};
use crate::target::FdTarget;

#[pyclass(name = "View", module = "cdp._native", frozen)]
pub struct PyView {
    pub view: View,
}

#[pymethods]
impl PyView {
    #[getter]
    fn size(&self) -> u64 {
        self.view.size()
    }

    #[getter]
    fn lsn(&self) -> Option<u64> {
        self.view.lsn().map(|lsn| lsn.0)
    }

    fn read<'py>(&self, py: Python<'py>, offset: u64, length: usize) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, length, |buffer| {
            let faults = py.detach(|| self.view.read(offset, buffer)).map_err(raise)?;
            match faults.into_iter().next() {
                None => Ok(()),
                Some(fault) => Err(raise(Error::new(fault.kind, fault.message))),
            }
        })
    }

    fn extents(&self, py: Python<'_>, offset: u64, length: u64) -> PyResult<Vec<(u64, bool)>> {
        let extents = py.detach(|| self.view.extents(offset, length, usize::MAX)).map_err(raise)?;
        Ok(extents.into_iter().map(|extent| (extent.bytes, extent.zero)).collect())
    }

    #[pyo3(signature = (fd, report = None, *, ranges = None, done = Vec::new()))]
    fn restore<'py>(
        &self,
        py: Python<'py>,
        fd: RawFd,
        report: Option<Py<PyAny>>,
        ranges: Option<Vec<(u64, u64)>>,
        done: Vec<(u64, u64, u32)>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let done: Vec<Stretch> = done.into_iter().map(|(start, end, sum)| Stretch { start, end, sum }).collect();
        let outcome = with_calls(py, |call| {
            let mut tell = |stretch: Option<Stretch>, handled: u64, total: u64| {
                let stretch = stretch.map(|stretch| (stretch.start, stretch.end, stretch.sum));
                call(&|py| {
                    report.as_ref().map_or(Ok(()), |report| report.call1(py, (stretch, handled, total)).map(drop))
                })
            };
            let order = Order { ranges: ranges.as_deref(), done: &done };
            self.view.restore(&FdTarget::new(fd), &order, &mut tell)
        })?;
        let facts = PyDict::new(py);
        facts.set_item("written_bytes", outcome.written)?;
        facts.set_item("cleared_bytes", outcome.cleared)?;
        facts.set_item("found_done_bytes", outcome.found_done)?;
        facts.set_item("fault_bytes", outcome.fault_bytes)?;
        let faults: Vec<_> = outcome.faults.into_iter().map(|f| (f.offset, f.bytes, f.message)).collect();
        facts.set_item("faults", faults)?;
        Ok(facts)
    }

    #[pyo3(signature = (since, offset, length, most = usize::MAX))]
    fn changed(
        &self,
        py: Python<'_>,
        since: &PyView,
        offset: u64,
        length: u64,
        most: usize,
    ) -> PyResult<Vec<(u64, u64)>> {
        let changes = py.detach(|| self.view.changed(&since.view, offset, length, most)).map_err(raise)?;
        Ok(changes.into_iter().map(|change| (change.offset, change.bytes)).collect())
    }

    #[pyo3(signature = (fd, progress = None))]
    fn compare(&self, py: Python<'_>, fd: RawFd, progress: Option<Py<PyAny>>) -> PyResult<Option<u64>> {
        with_progress(py, progress, |report| {
            self.view.compare(&FdTarget::new(fd), &mut |_, handled, total| report(handled, total))
        })
    }
}

/// Runs long work without the GIL; `progress(done, total)` is called with it, and an exception of its ends the work.
pub fn with_progress<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&mut dyn FnMut(u64, u64) -> cdp_engine::Result<()>) -> cdp_engine::Result<T> + Send,
) -> PyResult<T> {
    with_calls(py, |call| {
        work(&mut |done, total| {
            call(&|py| progress.as_ref().map_or(Ok(()), |progress| progress.call1(py, (done, total)).map(drop)))
        })
    })
}

/// A call into Python from work that runs without the GIL.
type Call<'a> = &'a mut dyn FnMut(&dyn Fn(Python<'_>) -> PyResult<()>) -> cdp_engine::Result<()>;

/// Runs long work without the GIL and lets it call Python; signals are looked at before each call, and an exception ends the work and is raised.
fn with_calls<T: Send>(py: Python<'_>, work: impl FnOnce(Call) -> cdp_engine::Result<T> + Send) -> PyResult<T> {
    let mut raised: Option<PyErr> = None;
    let result = py.detach(|| {
        work(&mut |call| {
            Python::attach(|py| {
                py.check_signals().and_then(|()| call(py)).map_err(|e| {
                    let error = from_python(py, &e);
                    raised = Some(e);
                    error
                })
            })
        })
    });
    match raised {
        Some(exception) => Err(exception),
        None => result.map_err(raise),
    }
}
