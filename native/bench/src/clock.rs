//! A disk whose clock says what it is told, so that years of history take a minute; it counts what is written to it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use cdp_engine::storage::{Disk, File, Lock, Storage};

/// The real disk under a clock of one's own, in nanoseconds since 1970.
pub struct Clocked {
    disk: Disk,
    now: AtomicU64,
    written: Arc<Written>,
}

/// Bytes written, by kind of file; what was removed later counts too.
#[derive(Debug, Default)]
pub struct Written {
    pub segments: AtomicU64,
    pub checkpoints: AtomicU64,
    pub merged_runs: AtomicU64,
    pub others: AtomicU64,
}

impl Written {
    fn of(&self, name: &str) -> &AtomicU64 {
        match name.split('-').next() {
            Some("segment") => &self.segments,
            Some("checkpoint") => &self.checkpoints,
            Some("run") => &self.merged_runs,
            _ => &self.others,
        }
    }
}

impl Clocked {
    pub fn new(folder: &Path, now: u64) -> io::Result<Clocked> {
        Ok(Clocked { disk: Disk::new(folder)?, now: AtomicU64::new(now), written: Arc::default() })
    }

    pub fn set(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }

    pub fn written(&self) -> Arc<Written> {
        self.written.clone()
    }

    fn counted(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(Counted { file, name: name.to_owned(), written: self.written.clone() })
    }
}

impl Storage for Clocked {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.counted(name, self.disk.create(name)?))
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        Ok(self.counted(name, self.disk.open(name, write)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.disk.lock()
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }
}

struct Counted {
    file: Arc<dyn File>,
    name: String,
    written: Arc<Written>,
}

impl File for Counted {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.written.of(&self.name).fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn begin_writeback(&self, offset: u64, bytes: u64) {
        self.file.begin_writeback(offset, bytes);
    }

    fn prefetch(&self, offset: u64, bytes: u64) {
        self.file.prefetch(offset, bytes);
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn drop_cache(&self) {
        self.file.drop_cache();
    }
}
