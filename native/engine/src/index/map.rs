//! The index of a volume: from (instant, sectors) to places.
//!
//! Invariants: `published` is the largest LSN that lookups see, and records become visible in the order of their LSNs. A cached live
//! leaf shows exactly `published`; a leaf of a view never changes. No lock is held while a footer is read.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lru::LruCache;
use parking_lot::{Mutex, RwLock};

use super::checkpoint::{Checkpoint, SHARD_SECTORS};
use super::files::Files;
use super::leaf::{Leaf, Mapped};
use super::memtable::Memtable;
use super::sealed::Sealed;
use super::{Place, Version, LEAF_SECTORS};
use crate::error::Result;
use crate::faults::Faults;
use crate::journal::batch::Meta;

/// Key of the live volume's leaves in the cache.
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

impl At {
    fn key(self) -> u64 {
        match self {
            At::Live => LIVE,
            At::Lsn(lsn) => lsn,
        }
    }
}

struct Inner {
    active: Memtable,
    /// Not sealed yet, or of a store that is only looked at; ascending.
    frozen: Vec<Arc<Memtable>>,
    /// Sealed segments, ascending.
    sealed: Arc<Vec<Arc<Sealed>>>,
    /// Ascending by LSN.
    checkpoints: Arc<Vec<Arc<Checkpoint>>>,
    leaves: LruCache<(u64, u64), Leaf>,
    leaf_bytes: usize,
    published: u64,
    /// +1 whenever a memtable moves, so that who builds a live leaf sees it.
    moves: u64,
    /// After a failed sync: nothing above this LSN may be shown.
    shown_max: u64,
}

/// What opening found.
#[derive(Default)]
pub struct Parts {
    pub sealed: Vec<Arc<Sealed>>,
    pub frozen: Vec<Arc<Memtable>>,
    pub checkpoints: Vec<Arc<Checkpoint>>,
    pub faults: Faults,
}

pub struct Index {
    inner: Mutex<Inner>,
    first_lsns: RwLock<HashMap<u32, u64>>,
    pub files: Files,
    cache_bytes: usize,
    faults: Faults,
}

/// What memory the cache holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheFacts {
    pub extents: usize,
    pub bytes: usize,
}

impl Index {
    pub fn new(files: Files, cache_bytes: usize, parts: Parts, published: u64) -> Index {
        let Parts { sealed, frozen, checkpoints, faults } = parts;
        let first = |table: &Arc<Memtable>| (table.segment, table.first().map_or(published, |(lsn, _)| lsn));
        let first_lsns =
            sealed.iter().map(|s| (s.item.id.0, s.item.first_lsn.0)).chain(frozen.iter().map(first)).collect();
        let inner = Inner {
            active: Memtable::new(0),
            frozen,
            sealed: Arc::new(sealed),
            checkpoints: Arc::new(checkpoints),
            leaves: LruCache::unbounded(),
            leaf_bytes: 0,
            published,
            moves: 0,
            shown_max: u64::MAX,
        };
        Index { inner: Mutex::new(inner), first_lsns: RwLock::new(first_lsns), files, cache_bytes, faults }
    }

    pub fn published(&self) -> u64 {
        self.inner.lock().published
    }

    pub fn sealed(&self) -> Arc<Vec<Arc<Sealed>>> {
        self.inner.lock().sealed.clone()
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
        sealed.iter().find(|sealed| sealed.item.id.0 == segment).map_or_else(|| Ok(T::default()), |s| of_sealed(s))
    }

    /// Calls `look` with the memtable of the active segment.
    pub fn with_active<T>(&self, look: impl FnOnce(&Memtable) -> T) -> T {
        look(&self.inner.lock().active)
    }

    pub fn cache_facts(&self) -> CacheFacts {
        let inner = self.inner.lock();
        CacheFacts { extents: inner.leaves.iter().map(|(_, leaf)| leaf.len()).sum(), bytes: inner.leaf_bytes }
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
        let mut all = inner.sealed.to_vec();
        all.push(sealed);
        inner.sealed = Arc::new(all);
        inner.moves += 1;
    }

    /// Makes a batch of the active segment visible, up to `published`.
    pub fn publish(&self, meta: &Meta, documents: &mut dyn Iterator<Item = Option<Vec<u8>>>, published: u64) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.active.push(meta, u64::MAX, documents);
        inner.published = published;
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
            overlay_live(&mut inner.leaves, &mut inner.leaf_bytes, &version, segment_lsn);
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
        if let Some(cached) = self.inner.lock().leaves.get(&(at.key(), leaf)) {
            cached.mapped(leaf, start, end, |segment| self.first_lsn(segment), out);
            return Ok(());
        }
        while !self.build(at, start, end, out)? {}
        Ok(())
    }

    /// Builds the leaf from everything below the cache, keeps it and resolves from it; false if the tables moved meanwhile.
    fn build(&self, at: At, first: u64, last: u64, out: &mut Vec<Mapped>) -> Result<bool> {
        let number = first / LEAF_SECTORS;
        let (start, end) = (number * LEAF_SECTORS, (number + 1) * LEAF_SECTORS);
        let mut versions = Vec::new();
        let (sealed, frozen, upto, moves, shown_max) = {
            let inner = self.inner.lock();
            let upto = if let At::Lsn(lsn) = at { lsn } else { inner.published };
            inner.active.collect((start, end), &(0..=upto), &mut versions);
            (inner.sealed.clone(), inner.frozen.clone(), upto, inner.moves, inner.shown_max)
        };
        frozen.iter().for_each(|table| table.collect((start, end), &(0..=upto), &mut versions));
        self.collect_sealed(&sealed, (start, end), upto, &mut versions)?;
        let mut leaf = Leaf::default();
        self.paint(&mut leaf, number, versions, shown_max);
        let mut inner = self.inner.lock();
        if inner.shown_max != shown_max || (at == At::Live && inner.moves != moves) {
            return Ok(false);
        }
        if at == At::Live {
            let mut newer = Vec::new();
            inner.active.collect((start, end), &(upto + 1..=inner.published), &mut newer);
            self.paint(&mut leaf, number, newer, shown_max);
        }
        leaf.shrink();
        leaf.mapped(number, first, last, |segment| self.first_lsn(segment), out);
        inner.leaf_bytes += leaf.bytes();
        if let Some((_, old)) = inner.leaves.push((at.key(), number), leaf) {
            inner.leaf_bytes -= old.bytes();
        }
        self.evict(&mut inner);
        Ok(true)
    }

    /// Appends what checkpoints and sealed segments say of `range`, which lies in one shard, at `upto`: the newest checkpoint's shard, and what came after it.
    fn collect_sealed(
        &self,
        sealed: &[Arc<Sealed>],
        range: (u64, u64),
        upto: u64,
        out: &mut Vec<Version>,
    ) -> Result<()> {
        let shard = range.0 / SHARD_SECTORS;
        let mut base = 0;
        let checkpoints = self.checkpoints();
        for checkpoint in checkpoints.iter().rev().filter(|c| c.item.lsn.0 <= upto && c.has(shard)) {
            match checkpoint.collect(range, out) {
                Ok(()) => {
                    base = checkpoint.item.lsn.0;
                    break;
                }
                Err(fault) => self.faults.note(fault),
            }
        }
        for segment in sealed.iter().filter(|s| s.item.last_lsn.0 > base && s.item.first_lsn.0 <= upto) {
            segment.collect(&self.files, range, &(base + 1..=upto), out)?;
        }
        Ok(())
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

    /// Every version of a shard that counts at `upto`, which is the end of a sealed segment; in no order.
    pub fn collect_shard(&self, shard: u64, upto: u64) -> Result<Vec<Version>> {
        let mut versions = Vec::new();
        let range = (shard * SHARD_SECTORS, (shard + 1) * SHARD_SECTORS);
        self.collect_sealed(&self.sealed(), range, upto, &mut versions)?;
        Ok(versions)
    }

    /// The same without a look into any checkpoint.
    pub fn collect_shard_anew(&self, shard: u64, upto: u64) -> Result<Vec<Version>> {
        let mut versions = Vec::new();
        let range = (shard * SHARD_SECTORS, (shard + 1) * SHARD_SECTORS);
        for segment in self.sealed().iter().filter(|s| s.item.first_lsn.0 <= upto) {
            segment.collect(&self.files, range, &(0..=upto), &mut versions)?;
        }
        Ok(versions)
    }

    /// Shards below `count` that sealed segments after `since` touch.
    pub fn shards_touched(&self, since: u64, count: u64) -> Result<BTreeSet<u64>> {
        let mut shards = BTreeSet::new();
        for segment in self.sealed().iter().filter(|s| s.item.first_lsn.0 > since) {
            segment.spans(&self.files, &mut |start, end| {
                let last = ((end - 1) / SHARD_SECTORS).min(count - 1);
                shards.extend(start / SHARD_SECTORS..=last);
            })?;
        }
        Ok(shards)
    }

    /// Entries that sealed segments after `since` have in a shard; whole index blocks are counted, so it may be too many.
    pub fn entries_since(&self, shard: u64, since: u64) -> Result<u64> {
        const ENTRIES_A_BLOCK: u64 = 280;
        let (start, end) = (shard * SHARD_SECTORS, (shard + 1) * SHARD_SECTORS);
        let mut entries = 0;
        for segment in self.sealed().iter().filter(|s| s.item.first_lsn.0 > since) {
            segment.spans(&self.files, &mut |from, to| {
                if from < end && start < to {
                    entries += ENTRIES_A_BLOCK;
                }
            })?;
        }
        Ok(entries)
    }

    fn paint(&self, leaf: &mut Leaf, number: u64, mut versions: Vec<Version>, shown_max: u64) {
        versions.sort_unstable_by_key(|v| v.lsn);
        for mut version in versions {
            if version.lsn > shown_max {
                version.place = Place::Damaged;
            }
            let segment_lsn = match version.place {
                Place::Data { segment, .. } => self.first_lsn(segment),
                _ => 0,
            };
            leaf.overlay(number, &version, segment_lsn);
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
fn overlay_live(leaves: &mut LruCache<(u64, u64), Leaf>, leaf_bytes: &mut usize, version: &Version, segment_lsn: u64) {
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
            if let Some(leaf) = leaves.peek_mut(&(LIVE, number)) {
                lay(number, leaf);
            }
        }
        return;
    }
    for (&(at, number), leaf) in leaves.iter_mut() {
        if at == LIVE && (first..=last).contains(&number) {
            lay(number, leaf);
        }
    }
}
