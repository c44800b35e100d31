//! The real machine: a folder of a file system, CLOCK_REALTIME, the kernel's random numbers.
// The one place where the engine touches the machine: see clippy.toml.
#![allow(clippy::disallowed_methods)]

use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::clock::{Clock, Step};
use super::{File, Lock, Storage};
use crate::units::PAGE;

/// Of all volumes of the process.
static CLOCK: Clock = Clock::new();

pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// NotFound or NotADirectory if `folder` is not a folder.
    pub fn new(folder: &Path) -> io::Result<Disk> {
        if !fs::metadata(folder)?.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        Ok(Disk { folder: folder.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Storage for Disk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path(name))?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(write).open(self.path(name))?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn open_uncached(&self, name: &str) -> io::Result<Arc<dyn File>> {
        match OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(self.path(name)) {
            Ok(file) => Ok(Arc::new(UncachedFile(file))),
            // The file system has no such reads.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => self.open(name, false),
            Err(e) => Err(e),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn links(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path(name))?.nlink())
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(self.path(name))?;
        let length = libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        let before = file.metadata()?.len();
        // SAFETY: a call on a descriptor that `file` owns.
        let failed = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) };
        if failed != 0 {
            // What was reserved in part is room that writes should have; what was there before stays.
            let _ = if before > 0 { file.set_len(before) } else { fs::remove_file(self.path(name)) };
            return Err(io::Error::from_raw_os_error(failed));
        }
        file.set_len(bytes)
    }

    fn room(&self) -> io::Result<u64> {
        let path = std::ffi::CString::new(self.folder.as_os_str().as_encoded_bytes())?;
        // SAFETY: an all-zero statvfs is valid, and it is only written to.
        let mut facts: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends with a zero, `facts` is writable.
        if unsafe { libc::statvfs(path.as_ptr(), &mut facts) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn sync_folder(&self) -> io::Result<()> {
        fs::File::open(&self.folder)?.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path("lock"))?;
        // SAFETY: flock on a descriptor that `file` owns.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Box::new(DiskLock { _file: file }))
    }

    fn now(&self) -> u64 {
        CLOCK.stamp(real_time)
    }

    fn pass(&self, stamp: u64) {
        CLOCK.pass(stamp, real_time);
    }

    fn clock_stepped(&self, known: u64) -> Option<Step> {
        CLOCK.stepped(known)
    }

    fn nonce(&self) -> u64 {
        getrandom::u64().unwrap_or_else(|_| self.now().rotate_left(32) ^ u64::from(std::process::id()))
    }
}

/// Nanoseconds since 1970.
fn real_time() -> u64 {
    // Before 1970 or after 2554 there is no stamp; the nearest one keeps the order.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

struct DiskFile(fs::File);

impl DiskFile {
    /// One call; None if it did not bring everything.
    fn read_whole_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64, flags: libc::c_int) -> Option<usize> {
        let at = libc::off_t::try_from(offset).ok()?;
        let count = libc::c_int::try_from(buffers.len()).ok()?;
        let all: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        // SAFETY: IoSliceMut has the layout of iovec; the buffers are borrowed for the call, which keeps no pointer.
        let got = unsafe { libc::preadv2(self.0.as_raw_fd(), buffers.as_mut_ptr().cast(), count, at, flags) };
        (usize::try_from(got) == Ok(all)).then_some(all)
    }
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        match self.read_whole_at(buffers, offset, 0) {
            Some(all) => Ok(all),
            // Interrupted, too many, or the end of the file: one by one tells which.
            None => super::read_one_by_one(self, buffers, offset),
        }
    }

    fn read_vectored_now_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        // A file system that cannot tell says so by an error, and is then asked to wait.
        self.read_whole_at(buffers, offset, libc::RWF_NOWAIT).ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let at = libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        let count = libc::c_int::try_from(buffers.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: IoSlice has the layout of iovec; the call only reads the buffers and keeps no pointer.
        let put = unsafe { libc::pwritev(self.0.as_raw_fd(), buffers.as_ptr().cast(), count, at) };
        // What is left of a call that was cut short, or of one with too many buffers, is written one by one, and any error is met again.
        let mut skip = u64::try_from(put).unwrap_or(0);
        let mut at = offset;
        for buffer in buffers {
            let done = skip.min(buffer.len() as u64);
            self.write_at(&buffer[done as usize..], at + done)?;
            skip -= done;
            at += buffer.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn begin_writeback(&self, offset: u64, bytes: u64) {
        let fd = self.0.as_raw_fd();
        // SAFETY: a call on a descriptor that we own. It may be refused.
        unsafe { libc::sync_file_range(fd, offset as i64, bytes as i64, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn allocate(&self, offset: u64, bytes: u64) {
        let (Ok(offset), Ok(bytes)) = (libc::off_t::try_from(offset), libc::off_t::try_from(bytes)) else { return };
        // SAFETY: a call on a descriptor that we own. It may be refused: a full disk, or a file system that has no such thing.
        unsafe { libc::fallocate(self.0.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, bytes) };
    }

    fn free_behind(&self) {
        // A hole cannot be punched there on ext4; a file cut to its own length loses what lies behind it on all.
        let _ = self.0.metadata().and_then(|facts| self.0.set_len(facts.len()));
    }

    fn prefetch(&self, offset: u64, bytes: u64) {
        let fd = self.0.as_raw_fd();
        // SAFETY: advice on a descriptor that we own. It may be ignored.
        unsafe { libc::posix_fadvise(fd, offset as i64, bytes as i64, libc::POSIX_FADV_WILLNEED) };
    }

    fn drop_cache(&self) {
        // SAFETY: advice on a descriptor that we own. It may be ignored; nothing depends on it but freshness after a failed fsync.
        unsafe { libc::posix_fadvise(self.0.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
}

/// Opened with O_DIRECT, for reading whole pages.
struct UncachedFile(fs::File);

impl File for UncachedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        // A read that ends inside a page met the end of the file; to go on from there would be refused.
        while done < buffer.len() && done as u64 % PAGE == 0 {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EBADF))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn drop_cache(&self) {}
}

/// flock(2): the kernel lets go when the descriptor is closed, so the lock dies with its process.
struct DiskLock {
    _file: fs::File,
}

impl Lock for DiskLock {}
