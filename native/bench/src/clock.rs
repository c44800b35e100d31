//! A disk whose clock says what it is told: years of history in a minute.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use cdp_engine::storage::{Disk, File, Lock, Storage};

/// The real disk under a clock of one's own, in nanoseconds since 1970.
pub struct Clocked {
    disk: Disk,
    now: AtomicU64,
}

impl Clocked {
    pub fn new(folder: &Path, now: u64) -> io::Result<Clocked> {
        Ok(Clocked { disk: Disk::new(folder)?, now: AtomicU64::new(now) })
    }

    pub fn set(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }
}

impl Storage for Clocked {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.create(name)
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        self.disk.open(name, write)
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
