//! TLS while a connection is negotiated.

use cdp_engine::{Error, Kind};
use cdp_nbd::tls::credentials::Credentials;
use cdp_nbd::tls::identity::Identity;
use cdp_nbd::tls::{Tls, TlsError};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::raise;

fn invalid(error: TlsError) -> PyErr {
    raise(Error::invalid(error.0))
}

#[pyclass(name = "TlsCredentials", module = "cdp._native", frozen)]
pub struct PyTlsCredentials {
    credentials: Credentials,
}

#[pymethods]
impl PyTlsCredentials {
    #[new]
    #[pyo3(signature = (certificates, key, client_ca = None))]
    fn new(certificates: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> PyResult<PyTlsCredentials> {
        let credentials = Credentials::new(certificates, key, client_ca).map_err(invalid)?;
        Ok(PyTlsCredentials { credentials })
    }

    fn connection(&self) -> PyResult<PyTlsConnection> {
        let tls = Tls::new(&self.credentials).map_err(invalid)?;
        Ok(PyTlsConnection { tls: Mutex::new(Some(tls)) })
    }
}

#[pyclass(name = "TlsConnection", module = "cdp._native", frozen)]
pub struct PyTlsConnection {
    /// None once a session has it.
    tls: Mutex<Option<Tls>>,
}

impl PyTlsConnection {
    pub fn take(&self) -> PyResult<Tls> {
        self.tls.lock().take().ok_or_else(gone)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Tls) -> T) -> PyResult<T> {
        self.tls.lock().as_mut().map(act).ok_or_else(gone)
    }
}

fn gone() -> PyErr {
    raise(Error::new(Kind::Closed, "the TLS connection belongs to a session"))
}

#[pymethods]
impl PyTlsConnection {
    fn receive<'py>(&self, py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let plain = py.detach(|| self.with(|tls| tls.receive(data)))?.map_err(invalid)?;
        Ok(PyBytes::new(py, &plain))
    }

    fn send(&self, data: &[u8]) -> PyResult<()> {
        self.with(|tls| tls.send(data))?.map_err(invalid)
    }

    fn close(&self) -> PyResult<()> {
        self.with(Tls::close)
    }

    fn output<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.with(Tls::take_output)?))
    }

    #[getter]
    fn handshaking(&self) -> PyResult<bool> {
        self.with(|tls| tls.is_handshaking())
    }

    #[getter]
    fn at_end(&self) -> PyResult<bool> {
        self.with(|tls| tls.is_at_end())
    }

    #[getter]
    fn agreed(&self) -> PyResult<Option<String>> {
        self.with(|tls| tls.agreed())
    }

    fn peer(&self) -> PyResult<Option<(String, Vec<String>)>> {
        let identity = self.with(|tls| tls.peer_certificate().map(Identity::of).transpose())?.map_err(invalid)?;
        Ok(identity.map(|who| (who.subject, who.names)))
    }
}
