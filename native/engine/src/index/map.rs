//! The index of a volume: from (instant, sectors) to places.
//!
//! Invariants: `published` is the largest LSN that lookups see, and records become visible in the order of their LSNs. A cached live
//! leaf shows exactly `published`; what a leaf of a view shows never changes. No lock is held while a footer is read.
//!
//! Compaction moves payloads: places in checkpoints and cached leaves may name a segment that is gone. The name of a version is (LSN, start); after painting
//! it is looked up where its LSN lies now (`settle`), and a cached leaf is repaired when it is used next.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use lru::LruCache;
use parking_lot::{Mutex, RwLock};

use super::checkpoint::{self, Checkpoint, SHARD_SECTORS};
use super::files::{Files, Named};
use super::fresh::Counted;
use super::leaf::{Leaf, Mapped};
use super::memtable::Memtable;
use super::merged::{self, Merged};
use super::sealed::{Sealed, SealedSet};
use super::{Place, Version, LEAF_SECTORS};
use crate::error::{Kind, Result};
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

enum Cached {
    Answered,
    Missing,
    /// It names a segment that is gone. With its key.
    Stale(u64),
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

    /// Appends the extents of `start..end` at the instant, ascending; the range lies in one leaf.
    pub fn resolve(&self, at: At, start: u64, end: u64, out: &mut Vec<Mapped>) -> Result<()> {
        let leaf = start / LEAF_SECTORS;
        debug_assert!(end <= (leaf + 1) * LEAF_SECTORS);
        loop {
            let done = match self.answer(at, start, end, out) {
                Cached::Answered => return Ok(()),
                Cached::Stale(key) => self.repair(key, leaf).map(|()| false),
                Cached::Missing => self.build(at, start, end, out),
            };
            match done {
                Ok(true) => return Ok(()),
                // The tables moved, or compaction took a file away after it was chosen.
                Ok(false) => {}
                Err(e) if e.kind == Kind::Gone => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn answer(&self, at: At, start: u64, end: u64, out: &mut Vec<Mapped>) -> Cached {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let key = inner.key(at);
        let leaf = start / LEAF_SECTORS;
        let Some(cached) = inner.leaves.get_mut(&(key, leaf)) else { return Cached::Missing };
        if cached.checked != inner.replacements {
            if cached.names_any(|segment| inner.retired.contains(&segment)) {
                return Cached::Stale(key);
            }
            cached.checked = inner.replacements;
        }
        cached.mapped(leaf, start, end, |segment| self.first_lsn(segment), out);
        Cached::Answered
    }

    /// Looks up anew what a cached leaf has in segments that are gone. The leaf may change, or vanish, meanwhile.
    fn repair(&self, key: u64, number: u64) -> Result<()> {
        let (copy, sealed, replacements, retired) = {
            let inner = self.inner.lock();
            let Some(leaf) = inner.leaves.peek(&(key, number)) else { return Ok(()) };
            (leaf.clone(), inner.sealed.clone(), inner.replacements, inner.retired.clone())
        };
        let stale = |segment| retired.contains(&segment);
        let moved = self.find_moved(&copy, number, &sealed, &stale)?;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if let Some(leaf) = inner.leaves.peek_mut(&(key, number)) {
            leaf.settle(number, |segment| self.first_lsn(segment), stale, &moved);
            leaf.checked = replacements;
        }
        Ok(())
    }

    /// Builds the leaf from everything below the cache, keeps it and resolves from it; false if the tables moved meanwhile.
    fn build(&self, at: At, first: u64, last: u64, out: &mut Vec<Mapped>) -> Result<bool> {
        let number = first / LEAF_SECTORS;
        let (start, end) = (number * LEAF_SECTORS, (number + 1) * LEAF_SECTORS);
        let mut versions = Vec::new();
        let (sealed, frozen, path, state) = {
            let mut inner = self.inner.lock();
            let path = if let At::Lsn(lsn) = at { inner.path_of(lsn) } else { inner.live_path.clone() };
            inner.active.collect((start, end), &path, &mut versions);
            let state = (inner.key(at), inner.published, inner.moves, inner.shown_max, inner.replacements);
            (inner.sealed.clone(), inner.frozen.clone(), path, state)
        };
        let (key, published, moves, shown_max, replacements) = state;
        frozen.iter().for_each(|table| table.collect((start, end), &path, &mut versions));
        self.collect_sealed(&sealed, (start, end), &path, &mut versions)?;
        let mut leaf = self.paint(number, versions, shown_max);
        leaf.checked = replacements;
        self.settle(&mut leaf, number, &sealed)?;
        let mut inner = self.inner.lock();
        if inner.shown_max != shown_max || (at == At::Live && (inner.moves != moves || inner.live_key != key)) {
            return Ok(false);
        }
        if at == At::Live {
            let mut newer = Vec::new();
            inner.active.collect((start, end), &path.above(published), &mut newer);
            self.overlay_all(&mut leaf, number, newer, shown_max);
        }
        leaf.shrink();
        leaf.mapped(number, first, last, |segment| self.first_lsn(segment), out);
        inner.leaf_bytes += leaf.bytes();
        if let Some((_, old)) = inner.leaves.push((key, number), leaf) {
            inner.leaf_bytes -= old.bytes();
        }
        self.evict(&mut inner);
        Ok(true)
    }

    /// Replaces hints by places.
    fn settle(&self, leaf: &mut Leaf, number: u64, sealed: &SealedSet) -> Result<()> {
        let nothing_more = |_| false;
        let moved = self.find_moved(leaf, number, sealed, &nothing_more)?;
        leaf.settle(number, |segment| self.first_lsn(segment), nothing_more, &moved);
        Ok(())
    }

    /// Where the versions lie now that the leaf has as hints, or in `stale` segments: by (LSN, start).
    fn find_moved(
        &self,
        leaf: &Leaf,
        number: u64,
        sealed: &SealedSet,
        stale: &dyn Fn(u32) -> bool,
    ) -> Result<HashMap<(u64, u64), Place>> {
        let mut moved = HashMap::new();
        let mut sought: BTreeSet<u32> = BTreeSet::new();
        for (lsn, start) in leaf.unsettled(number, |segment| self.first_lsn(segment), stale) {
            moved.insert((lsn, start), Place::Damaged);
            sought.extend(sealed.holding(lsn).map(|s| s.item.id.0));
        }
        // A payload that reaches into the leaf begins less than 128 sectors before it.
        let range = ((number * LEAF_SECTORS).saturating_sub(128), (number + 1) * LEAF_SECTORS);
        for segment in sought.into_iter().filter_map(|id| sealed.with_id(id)) {
            let mut versions = Vec::new();
            let all = Path::between(segment.item.first_lsn.0 - 1, segment.item.last_lsn.0);
            segment.collect(&self.files, range, &all, &mut versions)?;
            for version in versions {
                moved.entry((version.lsn, version.start)).and_modify(|place| *place = version.place);
            }
        }
        Ok(moved)
    }

    /// Appends what checkpoints and sealed segments say of `range`, which lies in one shard, on `path`: the newest checkpoint's shard, and what came after it,
    /// from merged runs as far as there are any.
    fn collect_sealed(&self, sealed: &SealedSet, range: (u64, u64), path: &Path, out: &mut Vec<Version>) -> Result<()> {
        let shard = range.0 / SHARD_SECTORS;
        let mut base = 0;
        let mut places = 0;
        let checkpoints = self.checkpoints();
        for checkpoint in checkpoints.iter().rev().filter(|c| path.passes(c.item.lsn.0) && c.has(shard)) {
            let before = out.len();
            match checkpoint.collect(&self.files, range, out) {
                Ok(()) => {
                    sealed.hint(&mut out[before..]);
                    base = checkpoint.item.lsn.0;
                    places += 1;
                    break;
                }
                Err(fault) => fault.into_iter().for_each(|fault| self.faults.note(fault)),
            }
        }
        let path = path.above(base);
        let before = out.len();
        let asked = merged::collect(&self.runs(), &self.files, sealed, range, &path, out);
        sealed.hint(&mut out[before..]);
        asked.faults.iter().for_each(|fault| self.faults.note(fault.clone()));
        places += asked.lsns.len() as u64;
        let near = |s: &&Arc<Sealed>| path.meets(s.item.first_lsn.0, s.item.last_lsn.0) && !asked.covers(s);
        for segment in sealed.iter().filter(near) {
            segment.collect(&self.files, range, &path, out)?;
            places += 1;
        }
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.places.fetch_add(places, Ordering::Relaxed);
        Ok(())
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

    /// The one-version map of a shard on `path`, of what is sealed: what a checkpoint says.
    pub fn flatten_shard(&self, shard: u64, path: &Path) -> Result<Vec<Version>> {
        let sealed = self.sealed();
        let mut versions = Vec::new();
        self.collect_sealed(&sealed, shard_range(shard), path, &mut versions)?;
        self.flatten(shard, versions, &sealed)
    }

    /// The same without a look into any checkpoint. In memory are the map, 20 bytes an extent, and the versions of one segment at a time.
    pub fn flatten_shard_anew(&self, shard: u64, path: &Path) -> Result<Vec<Version>> {
        let sealed = self.sealed();
        let mut leaves = BTreeMap::new();
        let mut versions = Vec::new();
        for segment in sealed.iter().filter(|s| path.meets(s.item.first_lsn.0, s.item.last_lsn.0)) {
            versions.clear();
            segment.collect(&self.files, shard_range(shard), path, &mut versions)?;
            versions.sort_unstable_by_key(|v| v.lsn);
            checkpoint::lay(&mut leaves, shard, &versions, |segment| self.first_lsn(segment));
        }
        self.map_of(leaves, &sealed)
    }

    /// What a checkpoint says of a shard, with places as they are now.
    pub fn flatten_hints(&self, shard: u64, mut versions: Vec<Version>) -> Result<Vec<Version>> {
        let sealed = self.sealed();
        sealed.hint(&mut versions);
        self.flatten(shard, versions, &sealed)
    }

    fn flatten(&self, shard: u64, mut versions: Vec<Version>, sealed: &SealedSet) -> Result<Vec<Version>> {
        versions.sort_unstable_by_key(|v| v.lsn);
        let by_leaf = checkpoint::by_leaf(shard, &versions);
        let paint = |(number, versions): (u64, Vec<Version>)| {
            (number, Leaf::paint(number, &versions, |version| self.segment_lsn(version)))
        };
        self.map_of(by_leaf.into_iter().map(paint).collect(), sealed)
    }

    fn map_of(&self, leaves: BTreeMap<u64, Leaf>, sealed: &SealedSet) -> Result<Vec<Version>> {
        let mut mapped: Vec<Mapped> = Vec::new();
        for (number, mut leaf) in leaves {
            self.settle(&mut leaf, number, sealed)?;
            let (start, end) = (number * LEAF_SECTORS, (number + 1) * LEAF_SECTORS);
            leaf.mapped(number, start, end, |segment| self.first_lsn(segment), &mut mapped);
        }
        let version = |m: Mapped| Version { start: m.start, sectors: m.sectors, lsn: m.lsn, place: m.place };
        Ok(mapped.into_iter().map(version).collect())
    }

    fn paint(&self, number: u64, mut versions: Vec<Version>, shown_max: u64) -> Leaf {
        sort_and_hide(&mut versions, shown_max);
        Leaf::paint(number, &versions, |version| self.segment_lsn(version))
    }

    fn overlay_all(&self, leaf: &mut Leaf, number: u64, mut versions: Vec<Version>, shown_max: u64) {
        sort_and_hide(&mut versions, shown_max);
        versions.iter().for_each(|version| leaf.overlay(number, version, self.segment_lsn(version)));
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

/// In the order of LSNs; what a failed sync may have lost is damage.
fn sort_and_hide(versions: &mut [Version], shown_max: u64) {
    versions.sort_unstable_by_key(|v| v.lsn);
    versions.iter_mut().filter(|v| v.lsn > shown_max).for_each(|v| v.place = Place::Damaged);
}

fn shard_range(shard: u64) -> (u64, u64) {
    (shard * SHARD_SECTORS, (shard + 1) * SHARD_SECTORS)
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
