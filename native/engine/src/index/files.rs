//! Open segment files, a bounded number of them: a terabyte of history is 16 thousand segments.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::journal::segment::{file_name, open_file};
use crate::storage::{File, Storage};
use crate::units::SegmentId;

pub struct Files {
    storage: Arc<dyn Storage>,
    open: Mutex<LruCache<u32, Arc<dyn File>>>,
    gone: Mutex<HashSet<u32>>,
}

impl Files {
    pub fn new(storage: Arc<dyn Storage>, most: usize) -> Files {
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Files { storage, open: Mutex::new(LruCache::new(most)), gone: Mutex::default() }
    }

    /// The segment's file, opened for reading if it is not open. Gone if compaction replaced it, Corrupt if it is missing.
    pub fn get(&self, segment: u32) -> Result<Arc<dyn File>> {
        if let Some(file) = self.open.lock().get(&segment) {
            return Ok(file.clone());
        }
        let opened = open_file(&*self.storage, SegmentId(segment), false);
        // A descriptor that stayed in the cache would keep the space of a file that was removed.
        if self.gone.lock().contains(&segment) {
            return Err(Error::new(Kind::Gone, file_name(SegmentId(segment))));
        }
        let file = opened?;
        self.open.lock().put(segment, file.clone());
        Ok(file)
    }

    pub fn put(&self, segment: u32, file: Arc<dyn File>) {
        self.open.lock().put(segment, file);
    }

    /// Lets go of files that are gone.
    pub fn forget(&self, segments: &[u32]) {
        self.gone.lock().extend(segments);
        let mut open = self.open.lock();
        segments.iter().for_each(|segment| drop(open.pop(segment)));
    }

    /// Forgets all, so that later reads see what the disk has.
    pub fn drop_caches(&self) {
        let mut open = self.open.lock();
        open.iter().for_each(|(_, file)| file.drop_cache());
        open.clear();
    }
}
