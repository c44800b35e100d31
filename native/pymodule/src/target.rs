//! The target of a restore: an open file or device, by its descriptor, which stays the caller's.
//!
//! Large writes and reads go past the page cache, through a second descriptor, where the file system can: what is restored is not needed again soon,
//! and does not have to be written back before a sync can return. Small ones go through the page cache, which gathers them.

use std::fs::{File, OpenOptions};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};

use cdp_engine::restore::Target;
use cdp_engine::{Error, Result, PAGE};

/// Bytes from which on a write or read goes past the page cache.
const DIRECT_BYTES_MIN: usize = 64 << 10;

pub struct FdTarget {
    file: ManuallyDrop<File>,
    direct: Option<File>,
    is_device: bool,
}

impl FdTarget {
    /// `fd` is open for reading and writing, and must stay open while the target is in use.
    pub fn new(fd: RawFd) -> FdTarget {
        // SAFETY: the descriptor is the caller's for the length of the call; ManuallyDrop leaves it open.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT);
        // Where that is refused, the page cache serves.
        let direct = options.open(format!("/proc/self/fd/{fd}")).ok();
        let is_device = file.metadata().is_ok_and(|facts| facts.file_type().is_block_device());
        FdTarget { file, direct, is_device }
    }

    /// The descriptor past the page cache, and how many of `bytes` at `memory` may go through it.
    fn direct(&self, memory: *const u8, bytes: usize, offset: u64) -> Option<(&File, usize)> {
        let aligned = offset % PAGE == 0 && memory as usize % PAGE as usize == 0;
        let direct = self.direct.as_ref().filter(|_| aligned && bytes >= DIRECT_BYTES_MIN)?;
        Some((direct, bytes - bytes % PAGE as usize))
    }

    /// Where a hole at the end of the file ends: a target that is too short differs there.
    fn hole_end(&self) -> u64 {
        self.file.metadata().map_or(0, |facts| facts.len())
    }
}

impl Target for FdTarget {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        if let Some((direct, count)) = self.direct(bytes.as_ptr(), bytes.len(), offset) {
            match direct.write_all_at(&bytes[..count], offset) {
                Ok(()) => done = count,
                // A device whose blocks are larger than a page: the page cache takes anything.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                Err(e) => return Err(Error::io("write to", "the target", &e)),
            }
        }
        self.file
            .write_all_at(&bytes[done..], offset + done as u64)
            .map_err(|e| Error::io("write to", "the target", &e))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        if let Some((direct, count)) = self.direct(buffer.as_ptr(), buffer.len(), offset) {
            // The end of the file and whatever is refused are the page cache's.
            done = direct.read_at(&mut buffer[..count], offset).unwrap_or(0);
        }
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

    fn next_data(&self, offset: u64) -> u64 {
        let Ok(from) = libc::off_t::try_from(offset) else { return offset };
        if self.is_device {
            return offset;
        }
        // SAFETY: a call on a descriptor that is open; nobody here uses its position.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), from, libc::SEEK_DATA) };
        match u64::try_from(found) {
            Ok(data) => data,
            // ENXIO: only holes up to the end.
            Err(_) if std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => self.hole_end(),
            Err(_) => offset,
        }
    }

    fn punch(&self, offset: u64, bytes: u64) -> Result<bool> {
        if self.is_device {
            return Ok(false);
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a call on a descriptor that is open.
        Ok(unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, bytes as i64) } == 0)
    }

    fn begin_writeback(&self, offset: u64, bytes: u64) {
        // SAFETY: a call on a descriptor that is open. It begins what a later sync waits for; nothing depends on it.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), offset as i64, bytes as i64, libc::SYNC_FILE_RANGE_WRITE)
        };
    }
}
