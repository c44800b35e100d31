//! Views, for reading and for writing out.

use std::os::fd::RawFd;

use cdp_engine::{Error, View};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

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

    #[pyo3(signature = (fd, progress = None, zero_holes = false))]
    fn restore(&self, py: Python<'_>, fd: RawFd, progress: Option<Py<PyAny>>, zero_holes: bool) -> PyResult<u64> {
        with_progress(py, progress, |report| self.view.restore(&mut FdTarget::new(fd), zero_holes, report))
    }

    #[pyo3(signature = (fd, progress = None))]
    fn compare(&self, py: Python<'_>, fd: RawFd, progress: Option<Py<PyAny>>) -> PyResult<Option<u64>> {
        with_progress(py, progress, |report| self.view.compare(&mut FdTarget::new(fd), report))
    }
}

/// Runs long work without the GIL; `progress(done, total)` is called with it, and an exception of its ends the work.
pub fn with_progress<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&mut dyn FnMut(u64, u64) -> cdp_engine::Result<()>) -> cdp_engine::Result<T> + Send,
) -> PyResult<T> {
    let mut raised: Option<PyErr> = None;
    let result = py.detach(|| {
        work(&mut |done, total| {
            let Some(call) = &progress else { return Ok(()) };
            Python::attach(|py| {
                let called = match py.check_signals() {
                    Ok(()) => call.call1(py, (done, total)).map(drop),
                    Err(e) => Err(e),
                };
                called.map_err(|e| {
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
