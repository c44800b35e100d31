//! The target of a restore: an open file or device, by its descriptor, which stays the caller's.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;

use cdp_engine::restore::Target;
use cdp_engine::{Error, Result};

pub struct FdTarget {
    file: ManuallyDrop<File>,
    /// Ranges can be deallocated; tried once.
    punches: bool,
}

impl FdTarget {
    /// `fd` must stay open while the target is in use.
    pub fn new(fd: RawFd) -> FdTarget {
        // SAFETY: the descriptor is the caller's for the length of the call; ManuallyDrop leaves it open.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
        FdTarget { file, punches: true }
    }
}

impl FdTarget {
    /// Where a hole at the end of the file ends: a target that is too short differs there.
    fn hole_end(&self) -> u64 {
        self.file.metadata().map_or(0, |facts| facts.len())
    }
}

impl Target for FdTarget {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|e| Error::io("write to", "the target", &e))
    }

    fn zero(&mut self, offset: u64, bytes: u64) -> Result<()> {
        if self.punches {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: a call on a descriptor that is open.
            let done = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, bytes as i64) };
            if done == 0 {
                return Ok(());
            }
            self.punches = false;
        }
        let zeros = vec![0u8; bytes as usize];
        self.write_at(&zeros, offset)
    }

    fn next_data(&mut self, offset: u64) -> u64 {
        let Ok(from) = libc::off_t::try_from(offset) else { return offset };
        // SAFETY: a call on a descriptor that is open; nobody here uses its position.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), from, libc::SEEK_DATA) };
        match u64::try_from(found) {
            Ok(data) => data,
            // ENXIO: only holes up to the end.
            Err(_) if std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => self.hole_end(),
            Err(_) => offset,
        }
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", "the target", &e)),
            }
        }
        Ok(done)
    }
}
