//! `cdp._native`: what cdp/_native.pyi says. Conversions only; every call that may wait lets go of the GIL.

mod errors;
mod origin;
mod scrub;
mod server;
mod target;
mod tls;
mod view;
mod volume;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(format_version, module)?)?;
    module.add_function(wrap_pyfunction!(volume::create, module)?)?;
    module.add_class::<volume::PyInstant>()?;
    module.add_class::<volume::PyVolume>()?;
    module.add_class::<view::PyView>()?;
    module.add_class::<server::PyServer>()?;
    module.add_class::<tls::PyTlsCredentials>()?;
    module.add_class::<tls::PyTlsConnection>()?;
    Ok(())
}

/// The on-disk format that this module reads and writes.
#[pyfunction]
fn format_version() -> u32 {
    cdp_engine::journal::segment::FORMAT_VERSION
}
