//! Open files of the journal and its index, a bounded number of them: a terabyte of history is 16 thousand segments. And their tables, bounded in bytes.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::tables::Tables;
use super::{checkpoint, merged};
use crate::error::{Error, Kind, Result};
use crate::journal::segment::{file_name, open_file};
use crate::options::Options;
use crate::storage::{File, Storage};
use crate::units::SegmentId;

/// A file of the volume that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Named {
    Segment(u32),
    Checkpoint(u32),
    Run(u32),
}

impl Named {
    pub fn file_name(self) -> String {
        match self {
            Named::Segment(id) => file_name(SegmentId(id)),
            Named::Checkpoint(id) => checkpoint::file_name(id),
            Named::Run(id) => merged::file_name(id),
        }
    }
}

pub struct Files {
    storage: Arc<dyn Storage>,
    open: Mutex<LruCache<Named, Arc<dyn File>>>,
    gone: Mutex<HashSet<Named>>,
    pub tables: Tables,
    /// Somebody else may be writing: that a file is missing may be in order.
    pub looking: bool,
}

impl Files {
    /// `looking`: the store is not ours to write.
    pub fn new(storage: Arc<dyn Storage>, options: &Options, looking: bool) -> Files {
        let most = NonZeroUsize::new(options.files).unwrap_or(NonZeroUsize::MIN);
        let (open, tables) = (Mutex::new(LruCache::new(most)), Tables::new(options.table_bytes));
        Files { storage, open, gone: Mutex::default(), tables, looking }
    }

    /// The segment's file, opened for reading if it is not open. Gone if compaction replaced it, Corrupt if it is missing.
    pub fn get(&self, segment: u32) -> Result<Arc<dyn File>> {
        self.named(Named::Segment(segment))
    }

    /// The same of any file, but NotFound if one of the index is missing.
    pub fn named(&self, name: Named) -> Result<Arc<dyn File>> {
        if let Some(file) = self.open.lock().get(&name) {
            return Ok(file.clone());
        }
        let opened = match name {
            Named::Segment(id) => open_file(&*self.storage, SegmentId(id), false),
            Named::Checkpoint(_) | Named::Run(_) => self.open_index(&name.file_name()),
        };
        // A descriptor that stayed in the cache would keep the space of a file that was removed.
        if self.gone.lock().contains(&name) {
            return Err(Error::new(Kind::Gone, name.file_name()));
        }
        let file = opened?;
        self.open.lock().put(name, file.clone());
        Ok(file)
    }

    fn open_index(&self, name: &str) -> Result<Arc<dyn File>> {
        self.storage.open(name, false).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(Kind::NotFound, format!("{name} is missing")),
            _ => Error::io("open", name, &e),
        })
    }

    pub fn put(&self, segment: u32, file: Arc<dyn File>) {
        self.hold(Named::Segment(segment), file);
    }

    /// From now on `file` is the one of this name.
    pub fn hold(&self, name: Named, file: Arc<dyn File>) {
        self.open.lock().put(name, file);
    }

    /// Lets go of files that are gone.
    pub fn forget(&self, names: impl Iterator<Item = Named> + Clone) {
        self.gone.lock().extend(names.clone());
        let mut open = self.open.lock();
        names.for_each(|name| drop(open.pop(&name)));
    }

    /// Forgets all, so that later reads see what the disk has.
    pub fn drop_caches(&self) {
        let mut open = self.open.lock();
        open.iter().for_each(|(_, file)| file.drop_cache());
        open.clear();
        self.tables.clear();
    }
}
