//! Open segment files, a bounded number of them: a terabyte of history is 16 thousand segments.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::error::Result;
use crate::journal::segment::open_file;
use crate::storage::{File, Storage};
use crate::units::SegmentId;

pub struct Files {
    storage: Arc<dyn Storage>,
    open: Mutex<LruCache<u32, Arc<dyn File>>>,
}

impl Files {
    pub fn new(storage: Arc<dyn Storage>, most: usize) -> Files {
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Files { storage, open: Mutex::new(LruCache::new(most)) }
    }

    /// The segment's file, opened for reading if it is not open. Corrupt if it is missing.
    pub fn get(&self, segment: u32) -> Result<Arc<dyn File>> {
        if let Some(file) = self.open.lock().get(&segment) {
            return Ok(file.clone());
        }
        let file = open_file(&*self.storage, SegmentId(segment), false)?;
        self.open.lock().put(segment, file.clone());
        Ok(file)
    }

    pub fn put(&self, segment: u32, file: Arc<dyn File>) {
        self.open.lock().put(segment, file);
    }

    /// Forgets all, so that later reads see what the disk has.
    pub fn drop_caches(&self) {
        let mut open = self.open.lock();
        open.iter().for_each(|(_, file)| file.drop_cache());
        open.clear();
    }
}
