//! The transmission server.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use cdp_engine::Error;
use cdp_nbd::{Config, Export, Kind, Mode, Server, BUCKETS, FIRST_BUCKET_BITS};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Called with a session's number and why it ended.
type OnEnd = Box<dyn FnOnce(u64, &str) + Send>;

use crate::errors::raise;
use crate::tls::PyTlsConnection;
use crate::view::PyView;
use crate::volume::PyVolume;

#[pyclass(name = "Server", module = "cdp._native", frozen)]
pub struct PyServer {
    server: Server,
}

#[pymethods]
impl PyServer {
    #[new]
    #[pyo3(signature = (*, workers = 16, memory_bytes = 134_217_728, stall_seconds = 30.0, sessions_max = 1024))]
    fn new(workers: usize, memory_bytes: u64, stall_seconds: f64, sessions_max: usize) -> PyResult<PyServer> {
        let stall = seconds(stall_seconds)?;
        let server = Server::new(Config { workers, memory_bytes, stall, sessions_max }).map_err(raise)?;
        Ok(PyServer { server })
    }

    #[pyo3(signature = (fd, leftover, export, *, structured, extended, contexts, on_end = None, account = String::new(), tls = None))]
    #[allow(clippy::too_many_arguments)]
    fn attach(
        &self,
        py: Python<'_>,
        fd: RawFd,
        leftover: Vec<u8>,
        export: &Bound<'_, PyAny>,
        structured: bool,
        extended: bool,
        contexts: Vec<(u32, Bound<'_, PyAny>)>,
        on_end: Option<Py<PyAny>>,
        account: String,
        tls: Option<Bound<'_, PyTlsConnection>>,
    ) -> PyResult<u64> {
        if fd < 0 {
            return Err(raise(Error::invalid("a descriptor is not negative")));
        }
        // SAFETY: the caller gives the descriptor away; from here on it is ours to close.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let export = match export.cast::<PyVolume>() {
            Ok(volume) => Export::Live(volume.get().volume.clone()),
            Err(_) => Export::View(export.cast::<PyView>()?.get().view.clone()),
        };
        let mut mode = Mode { structured, extended, account, ..Mode::default() };
        for (id, meaning) in contexts {
            match meaning.cast::<PyView>() {
                Ok(since) => mode.since.push((id, since.get().view.clone())),
                Err(_) => mode.contexts.push((id, meaning.extract()?)),
            }
        }
        let on_end = on_end.map(|call| -> OnEnd {
            Box::new(move |session, reason| {
                Python::attach(|py| {
                    if let Err(e) = call.call1(py, (session, reason)) {
                        e.write_unraisable(py, None);
                    }
                });
            })
        });
        let tls = tls.map(|tls| tls.get().take()).transpose()?;
        py.detach(|| self.server.attach_over(socket, tls, leftover, export, mode, on_end)).map_err(raise)
    }

    fn sessions<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let sessions = py.detach(|| self.server.sessions());
        let as_dict = |session: cdp_nbd::SessionFacts| {
            let facts = PyDict::new(py);
            facts.set_item("id", session.id)?;
            facts.set_item("requests", session.requests)?;
            facts.set_item("bytes_in", session.bytes_in)?;
            facts.set_item("bytes_out", session.bytes_out)?;
            facts.set_item("errors", session.errors)?;
            facts.set_item("pending_bytes", session.pending_bytes)?;
            Ok(facts)
        };
        sessions.into_iter().map(as_dict).collect()
    }

    fn totals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let totals = py.detach(|| self.server.totals());
        let facts = PyDict::new(py);
        facts.set_item("sessions", totals.sessions)?;
        facts.set_item("live", totals.live)?;
        facts.set_item("requests", totals.requests)?;
        facts.set_item("bytes_in", totals.bytes_in)?;
        facts.set_item("bytes_out", totals.bytes_out)?;
        facts.set_item("errors", totals.errors)?;
        facts.set_item("memory_bytes", totals.memory_bytes)?;
        Ok(facts)
    }

    fn accounts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let accounts = py.detach(|| self.server.accounts());
        let told = PyDict::new(py);
        for (name, account) in accounts {
            let facts = PyDict::new(py);
            facts.set_item("sessions", account.sessions)?;
            facts.set_item("errors", account.errors)?;
            let commands = PyDict::new(py);
            for (kind, row) in Kind::ALL.iter().zip(&account.rows) {
                let figures = (row.requests, row.bytes, row.nanoseconds, row.buckets.to_vec());
                commands.set_item(kind.name(), figures)?;
            }
            facts.set_item("commands", commands)?;
            told.set_item(&*name, facts)?;
        }
        Ok(told)
    }

    /// The upper bounds of the latency buckets, in nanoseconds; the last bucket has none.
    #[staticmethod]
    fn latency_bounds() -> Vec<u64> {
        (0..BUCKETS as u32 - 1).map(|at| 1 << (FIRST_BUCKET_BITS + at)).collect()
    }

    fn disconnect(&self, py: Python<'_>, session: u64) {
        py.detach(|| self.server.disconnect(session));
    }

    #[pyo3(signature = (grace_seconds = 5.0))]
    fn stop(&self, py: Python<'_>, grace_seconds: f64) -> PyResult<()> {
        let grace = seconds(grace_seconds)?;
        py.detach(|| self.server.stop(grace));
        Ok(())
    }
}

fn seconds(seconds: f64) -> PyResult<Duration> {
    let wrong = || raise(Error::invalid(format!("{seconds} is not a number of seconds")));
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}
