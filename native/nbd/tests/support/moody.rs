//! A volume on a real disk that fails when it is told to.

use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use cdp_engine::storage::{Disk, File, Lock, Storage};
use cdp_engine::{Options, Stamp, Volume};
use cdp_nbd::Server;

use super::{Bench, Folder, MIB};

/// The real disk, until it is told to fail syncs or writes with an errno, or to have nothing in its cache.
#[derive(Default)]
pub struct Orders {
    pub sync: AtomicI32,
    pub write: AtomicI32,
    pub cold: AtomicBool,
    /// Stretches that somebody asked for ahead, since they were last taken.
    pub prefetched: Mutex<Vec<(u64, u64)>>,
}

fn obey(order: &AtomicI32) -> io::Result<()> {
    match order.load(Relaxed) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

struct Moody {
    disk: Disk,
    orders: Arc<Orders>,
}

struct MoodyFile {
    file: Arc<dyn File>,
    orders: Arc<Orders>,
}

impl Moody {
    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(MoodyFile { file, orders: Arc::clone(&self.orders) })
    }
}

impl Storage for Moody {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(self.disk.create(name)?))
    }
    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(self.disk.open(name, write)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn links(&self, name: &str) -> io::Result<u64> {
        self.disk.links(name)
    }
    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.disk.reserve(name, bytes)
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
        self.disk.now()
    }
    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }
}

impl File for MoodyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn read_vectored_now_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        match self.orders.cold.load(Relaxed) {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => self.read_vectored_at(buffers, offset),
        }
    }
    fn prefetch(&self, offset: u64, bytes: u64) {
        self.orders.prefetched.lock().unwrap().push((offset, bytes));
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        obey(&self.orders.write)?;
        self.file.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        obey(&self.orders.sync)?;
        self.file.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn drop_cache(&self) {
        self.file.drop_cache();
    }
}

/// A volume of 4 MiB on such a disk.
pub fn moody() -> (Bench, Arc<Orders>) {
    let folder = Folder::new();
    let orders = Arc::new(Orders::default());
    let disk = Disk::new(&folder.0).unwrap();
    let storage = Arc::new(Moody { disk, orders: Arc::clone(&orders) });
    Volume::create(storage.clone(), [7; 16], 4 * MIB, Stamp(1)).unwrap();
    let volume = Volume::open(storage, None, Options::default()).unwrap();
    (Bench { server: Server::new(cdp_nbd::Config::default()).unwrap(), volume, folder }, orders)
}
