//! Origins: a file or device read here, or anything that Python reads (an NBD export, through libnbd).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use cdp_engine::origin::Origin;
use cdp_engine::{Error, Kind, Result};
use pyo3::prelude::*;

use crate::errors::from_python;

struct FileOrigin {
    file: File,
    path: String,
    size: u64,
}

/// Opens a file or device for reading.
pub fn open_file(path: &str) -> Result<Arc<dyn Origin>> {
    let io = |e: std::io::Error| Error::io("open the origin", path, &e);
    let file = File::open(Path::new(path)).map_err(io)?;
    // Seeking tells the size of a device, too.
    let size = std::io::Seek::seek(&mut &file, std::io::SeekFrom::End(0)).map_err(io)?;
    Ok(Arc::new(FileOrigin { file, path: path.to_owned(), size }))
}

impl Origin for FileOrigin {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|e| Error::io("read the origin", &self.path, &e))
    }
}

/// Reads that take the GIL: only blocks that no record covers come this way.
struct PythonOrigin {
    reader: Py<PyAny>,
    size: u64,
}

pub fn open_python(reader: &Bound<'_, PyAny>) -> PyResult<Arc<dyn Origin>> {
    let size = reader.call_method0("size")?.extract()?;
    Ok(Arc::new(PythonOrigin { reader: reader.clone().unbind(), size }))
}

impl Origin for PythonOrigin {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        Python::attach(|py| {
            let read = self.reader.bind(py).call_method1("pread", (buffer.len(), offset));
            let bytes: Vec<u8> = match read.and_then(|bytes| bytes.extract()) {
                Ok(bytes) => bytes,
                Err(e) => return Err(from_python(py, &e)),
            };
            if bytes.len() != buffer.len() {
                let message = format!("the origin gave {} bytes instead of {}", bytes.len(), buffer.len());
                return Err(Error::new(Kind::Io, message));
            }
            buffer.copy_from_slice(&bytes);
            Ok(())
        })
    }
}
