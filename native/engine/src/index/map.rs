//! The index of a volume: from (instant, sectors) to places.
//!
//! Invariants: `published` is the largest LSN that lookups see, and records become visible in the order of their LSNs. A cached live
//! leaf shows exactly `published`; what a leaf of a view shows never changes. No lock is held while a footer is read.
//!
//! How an instant is looked up is in `lookup.rs`, what a checkpoint says of it in `flatten.rs`.

mod flatten;
mod lookup;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use lru::LruCache;
use parking_lot::{Mutex, RwLock};

use super::checkpoint::Checkpoint;
use super::files::{Files, Named};
use super::fresh::Counted;
use super::leaf::Leaf;
use super::memtable::Memtable;
use super::merged::Merged;
use super::sealed::{Sealed, SealedSet};
use super::{Place, Version, LEAF_SECTORS};
use crate::error::Result;
use crate::faults::Faults;
use crate::journal::batch::Meta;
use crate::path::{Lineage, Path};

/// Paths of views that are kept at hand.
const PATHS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);
/// Keys of the live volume's leaves in the cache: this one, and one less for each rollback of this run. No LSN comes near.
const LIVE: u64 = u64::MAX;
/// A record that touches more leaves than this looks for the cached ones instead of trying each.
const LEAVES_TOUCHED_MAX: u64 = 64;

/// The instant of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Live,
    /// At most `published`.
    Lsn(u64),
}

struct Inner {
    active: Memtable,
    /// Not sealed yet, or of a store that is only looked at; ascending.
    frozen: Vec<Arc<Memtable>>,
    sealed: Arc<SealedSet>,
    /// Ascending by LSN.
    checkpoints: Arc<Vec<Arc<Checkpoint>>>,
    /// Merged runs, ascending. Their ranges of LSNs do not overlap.
    runs: Arc<Vec<Arc<Merged>>>,
    leaves: LruCache<(u64, u64), Leaf>,
    leaf_bytes: usize,
    published: u64,
    lineage: Arc<Lineage>,
    /// Those of the views that were read last.
    paths: LruCache<u64, Path>,
    /// The path of the live volume, open at its head.
    live_path: Path,
    live_key: u64,
    /// Segments that compaction replaced, and the number of replacements.
    retired: Arc<HashSet<u32>>,
    replacements: u64,
    /// +1 whenever a memtable moves, so that who builds a live leaf sees it.
    moves: u64,
    /// After a failed sync: nothing above this LSN may be shown.
    shown_max: u64,
}

impl Inner {
    /// What an LSN's path is never changes; with many rollbacks it is long.
    fn path_of(&mut self, lsn: u64) -> Path {
        self.paths.get_or_insert(lsn, || self.lineage.path(lsn)).clone()
    }

    fn settled(&self) -> Settled {
        Settled { sealed: self.sealed.clone(), checkpoints: self.checkpoints.clone(), runs: self.runs.clone() }
    }

    fn key(&self, at: At) -> u64 {
        match at {
            At::Live => self.live_key,
            At::Lsn(lsn) => lsn,
        }
    }
}

/// The tables of a volume at one moment, without the active one's entries.
pub struct Tables {
    pub lineage: Arc<Lineage>,
    pub live_path: Path,
    pub active: u32,
    pub frozen: Vec<Arc<Memtable>>,
    pub sealed: Arc<SealedSet>,
    pub runs: Arc<Vec<Arc<Merged>>>,
}

impl Tables {
    pub fn path(&self, at: At) -> Path {
        match at {
            At::Live => self.live_path.clone(),
            At::Lsn(lsn) => self.lineage.path(lsn),
        }
    }
}

/// The files of the index at one moment. Taken together: what a checkpoint or a run names, a list of segments from before it does not have.
#[derive(Clone)]
struct Settled {
    sealed: Arc<SealedSet>,
    checkpoints: Arc<Vec<Arc<Checkpoint>>>,
    runs: Arc<Vec<Arc<Merged>>>,
}

/// What opening found.
#[derive(Default)]
pub struct Parts {
    pub sealed: Vec<Arc<Sealed>>,
    pub frozen: Vec<Arc<Memtable>>,
    pub checkpoints: Vec<Arc<Checkpoint>>,
    pub runs: Vec<Arc<Merged>>,
    pub lineage: Lineage,
    pub faults: Faults,
}

pub struct Index {
    inner: Mutex<Inner>,
    first_lsns: RwLock<HashMap<u32, u64>>,
    pub files: Files,
    cache_bytes: usize,
    looks: AtomicU64,
    places: AtomicU64,
    pub(super) counted: Mutex<Option<Counted>>,
    pub(super) faults: Faults,
}

/// What memory the caches hold, and what looks past them cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheFacts {
    pub extents: usize,
    pub bytes: usize,
    pub table_bytes: usize,
    /// Leaves and shards that were looked up, and the files that were asked for them in all.
    pub looks: u64,
    pub places: u64,
}

impl Index {
    pub fn new(files: Files, cache_bytes: usize, parts: Parts, published: u64) -> Index {
        let Parts { sealed, frozen, checkpoints, runs, lineage, faults } = parts;
        let first = |table: &Arc<Memtable>| (table.segment, table.first().map_or(published, |(lsn, _)| lsn));
        let first_lsns =
            sealed.iter().map(|s| (s.item.id.0, s.item.first_lsn.0)).chain(frozen.iter().map(first)).collect();
        let inner = Inner {
            active: Memtable::new(0),
            frozen,
            sealed: Arc::new(SealedSet::new(sealed)),
            checkpoints: Arc::new(checkpoints),
            runs: Arc::new(runs),
            live_path: lineage.path(u64::MAX),
            live_key: LIVE,
            lineage: Arc::new(lineage),
            paths: LruCache::new(PATHS_MAX),
            retired: Arc::default(),
            replacements: 0,
            leaves: LruCache::unbounded(),
            leaf_bytes: 0,
            published,
            moves: 0,
            shown_max: u64::MAX,
        };
        Index {
            inner: Mutex::new(inner),
            first_lsns: RwLock::new(first_lsns),
            files,
            cache_bytes,
            looks: AtomicU64::new(0),
            places: AtomicU64::new(0),
            counted: Mutex::default(),
            faults,
        }
    }

    pub fn published(&self) -> u64 {
        self.inner.lock().published
    }

    /// Sealed segments, ascending.
    pub fn sealed(&self) -> Arc<SealedSet> {
        self.inner.lock().sealed.clone()
    }

    pub fn lineage(&self) -> Arc<Lineage> {
        self.inner.lock().lineage.clone()
    }

    /// The records that the live volume shows, now and after what is still to be written.
    pub fn live_path(&self) -> Path {
        self.inner.lock().live_path.clone()
    }

    pub fn path(&self, at: At) -> Path {
        match at {
            At::Live => self.live_path(),
            At::Lsn(lsn) => self.lineage().path(lsn),
        }
    }

    pub fn tables(&self) -> Tables {
        let inner = self.inner.lock();
        Tables {
            lineage: inner.lineage.clone(),
            live_path: inner.live_path.clone(),
            active: inner.active.segment,
            frozen: inner.frozen.clone(),
            sealed: inner.sealed.clone(),
            runs: inner.runs.clone(),
        }
    }

    pub fn frozen(&self) -> Vec<Arc<Memtable>> {
        self.inner.lock().frozen.clone()
    }

    /// Asks a segment wherever it is by now: tables move on from active to frozen to sealed, so that this order misses none.
    pub fn ask<T: Default>(
        &self,
        segment: u32,
        of_table: impl Fn(&Memtable) -> T,
        of_sealed: impl Fn(&Sealed) -> Result<T>,
    ) -> Result<T> {
        let (frozen, sealed) = {
            let inner = self.inner.lock();
            if inner.active.segment == segment {
                return Ok(of_table(&inner.active));
            }
            (inner.frozen.clone(), inner.sealed.clone())
        };
        if let Some(table) = frozen.iter().find(|table| table.segment == segment) {
            return Ok(of_table(table));
        }
        sealed.with_id(segment).map_or_else(|| Ok(T::default()), |s| of_sealed(s))
    }

    /// Calls `look` with the memtable of the active segment.
    pub fn with_active<T>(&self, look: impl FnOnce(&Memtable) -> T) -> T {
        look(&self.inner.lock().active)
    }

    pub fn cache_facts(&self) -> CacheFacts {
        let inner = self.inner.lock();
        CacheFacts {
            extents: inner.leaves.iter().map(|(_, leaf)| leaf.len()).sum(),
            bytes: inner.leaf_bytes,
            table_bytes: self.files.tables.bytes(),
            looks: self.looks.load(Ordering::Relaxed),
            places: self.places.load(Ordering::Relaxed),
        }
    }

    /// Begins a new active segment whose first record will be `first_lsn`; the old one is frozen until `seal`.
    pub fn rotate(&self, segment: u32, first_lsn: u64) {
        self.first_lsns.write().insert(segment, first_lsn);
        let mut inner = self.inner.lock();
        let old = std::mem::replace(&mut inner.active, Memtable::new(segment));
        if !old.is_empty() {
            inner.frozen.push(Arc::new(old));
        }
        inner.moves += 1;
    }

    /// The oldest frozen memtable is now a sealed segment.
    pub fn seal(&self, sealed: Arc<Sealed>) {
        let mut inner = self.inner.lock();
        inner.frozen.retain(|table| table.segment != sealed.item.id.0);
        let added = [sealed];
        inner.sealed = Arc::new(inner.sealed.with(&[], &added));
        inner.moves += 1;
    }

    /// Compaction replaced `gone` by `added`. Cached leaves are repaired as they are used.
    pub fn replace(&self, gone: &[u32], added: &[Arc<Sealed>]) {
        self.first_lsns.write().extend(added.iter().map(|s| (s.item.id.0, s.item.first_lsn.0)));
        let mut inner = self.inner.lock();
        inner.sealed = Arc::new(inner.sealed.with(gone, added));
        Arc::make_mut(&mut inner.retired).extend(gone);
        inner.replacements += 1;
        drop(inner);
        self.files.forget(gone.iter().map(|&id| Named::Segment(id)));
    }

    /// How often compaction replaced segments: who asks several of them sees by it that the list is another one.
    pub fn replacements(&self) -> u64 {
        self.inner.lock().replacements
    }

    /// Makes a batch of the active segment visible, up to `published`; `rollbacks` are those in it, (LSN, to).
    pub fn publish(
        &self,
        meta: &Meta,
        documents: &mut dyn Iterator<Item = Option<Vec<u8>>>,
        published: u64,
        rollbacks: &[(u64, u64)],
    ) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.active.push(meta, u64::MAX, documents);
        inner.published = published;
        if !rollbacks.is_empty() {
            let mut lineage = Lineage::clone(&inner.lineage);
            rollbacks.iter().for_each(|&(lsn, to)| lineage.push(lsn, to));
            inner.live_path = lineage.path(u64::MAX);
            inner.lineage = Arc::new(lineage);
            // Leaves of what was live before are never asked again and leave the cache as the least used.
            inner.live_key -= 1;
        }
        let segment = inner.active.segment;
        // What lookups take, also where the first batch of the segment failed.
        let segment_lsn = self.first_lsn(segment);
        for placed in meta.placed().filter(|p| p.entry.kind.covers()) {
            let place = match placed.entry.kind {
                crate::journal::batch::RecordKind::Data => Place::Data {
                    segment,
                    offset: placed.offset as u32,
                    stored: placed.entry.stored,
                    skip: 0,
                    record_sectors: placed.entry.sectors as u8,
                },
                _ => Place::Zero,
            };
            let place = if placed.lsn > inner.shown_max { Place::Damaged } else { place };
            let version = Version { start: placed.entry.start, sectors: placed.entry.sectors, lsn: placed.lsn, place };
            if inner.live_path.contains(version.lsn) {
                overlay_live(&mut inner.leaves, &mut inner.leaf_bytes, inner.live_key, &version, segment_lsn);
            }
        }
        self.evict(inner);
    }

    /// Remembers what an empty batch of the active segment says.
    pub fn note(&self, meta: &Meta) {
        self.inner.lock().active.push(meta, u64::MAX, &mut std::iter::empty());
    }

    /// LSNs that the ring gave away and the journal will never hold are passed over.
    pub fn pass_over(&self, published: u64) {
        let mut inner = self.inner.lock();
        inner.published = inner.published.max(published);
    }

    /// After a failed sync: forgets what the cache may show but the disk never got.
    pub fn hide_above(&self, durable: u64) {
        let mut inner = self.inner.lock();
        inner.shown_max = durable;
        inner.leaves.clear();
        inner.leaf_bytes = 0;
        inner.moves += 1;
        self.files.drop_caches();
    }

    pub fn runs(&self) -> Arc<Vec<Arc<Merged>>> {
        self.inner.lock().runs.clone()
    }

    /// The manifest names `added` and does not name `gone` any more, whose files may be removed after this.
    pub fn replace_runs(&self, gone: &[u32], added: Option<Arc<Merged>>) {
        let mut inner = self.inner.lock();
        let (retired, mut kept): (Vec<_>, Vec<_>) = inner.runs.iter().cloned().partition(|r| gone.contains(&r.item.id));
        kept.extend(added);
        kept.sort_by_key(|run| run.item.first_lsn);
        inner.runs = Arc::new(kept);
        drop(inner);
        retired.iter().for_each(|run| run.retire());
        self.files.forget(gone.iter().map(|&id| Named::Run(id)));
    }

    /// The same of checkpoints.
    pub fn drop_checkpoints(&self, gone: &[u32]) {
        let mut inner = self.inner.lock();
        let (retired, kept) = inner.checkpoints.iter().cloned().partition(|c| gone.contains(&c.item.id));
        inner.checkpoints = Arc::new(kept);
        drop(inner);
        let retired: Vec<Arc<Checkpoint>> = retired;
        retired.iter().for_each(|checkpoint| checkpoint.retire());
        self.files.forget(gone.iter().map(|&id| Named::Checkpoint(id)));
    }

    pub fn checkpoints(&self) -> Arc<Vec<Arc<Checkpoint>>> {
        self.inner.lock().checkpoints.clone()
    }

    pub fn add_checkpoint(&self, checkpoint: Arc<Checkpoint>) {
        let mut inner = self.inner.lock();
        let mut all = inner.checkpoints.to_vec();
        all.push(checkpoint);
        inner.checkpoints = Arc::new(all);
    }

    fn segment_lsn(&self, version: &Version) -> u64 {
        match version.place {
            Place::Data { segment, .. } => self.first_lsn(segment),
            _ => 0,
        }
    }

    pub fn first_lsn(&self, segment: u32) -> u64 {
        self.first_lsns.read().get(&segment).copied().unwrap_or(0)
    }

    fn evict(&self, inner: &mut Inner) {
        while inner.leaf_bytes > self.cache_bytes {
            let Some((_, leaf)) = inner.leaves.pop_lru() else { break };
            inner.leaf_bytes -= leaf.bytes();
        }
    }
}

/// Lays a new version over the cached leaves of the live volume.
fn overlay_live(
    leaves: &mut LruCache<(u64, u64), Leaf>,
    leaf_bytes: &mut usize,
    live: u64,
    version: &Version,
    segment_lsn: u64,
) {
    if leaves.is_empty() {
        return;
    }
    let (first, last) = (version.start / LEAF_SECTORS, (version.end() - 1) / LEAF_SECTORS);
    let mut lay = |number: u64, leaf: &mut Leaf| {
        *leaf_bytes -= leaf.bytes();
        leaf.overlay(number, version, segment_lsn);
        *leaf_bytes += leaf.bytes();
    };
    if last - first <= LEAVES_TOUCHED_MAX {
        for number in first..=last {
            if let Some(leaf) = leaves.peek_mut(&(live, number)) {
                lay(number, leaf);
            }
        }
        return;
    }
    for (&(at, number), leaf) in leaves.iter_mut() {
        if at == live && (first..=last).contains(&number) {
            lay(number, leaf);
        }
    }
}
