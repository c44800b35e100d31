//! From (instant, sectors) to places: a cached leaf, or one painted from memtables, runs, footers and a checkpoint.
//!
//! Compaction moves payloads: places in checkpoints, runs and cached leaves may name a segment that is gone. The name of what an instant sees is its LSN and its sectors; after
//! painting it is looked up where its LSN lies now (`settle`), and a cached leaf is repaired when it is used next.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::{At, Index, Settled};
use crate::error::{Kind, Result};
use crate::index::checkpoint::SHARD_SECTORS;
use crate::index::leaf::{Leaf, Mapped};
use crate::index::merged;
use crate::index::sealed::{Sealed, SealedSet};
use crate::index::{Place, Version, LEAF_SECTORS};
use crate::path::Path;

enum Cached {
    Answered,
    Missing,
    /// It names a segment that is gone. With its key.
    Stale(u64),
}

impl Index {
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
        let (settled, frozen, path, state) = {
            let mut inner = self.inner.lock();
            let path = if let At::Lsn(lsn) = at { inner.path_of(lsn) } else { inner.live_path.clone() };
            inner.active.collect((start, end), &path, &mut versions);
            let state = (inner.key(at), inner.published, inner.moves, inner.shown_max, inner.replacements);
            (inner.settled(), inner.frozen.clone(), path, state)
        };
        let (key, published, moves, shown_max, replacements) = state;
        frozen.iter().for_each(|table| table.collect((start, end), &path, &mut versions));
        self.collect_sealed(&settled, (start, end), &path, &mut versions)?;
        let mut leaf = self.paint(number, versions, shown_max);
        leaf.checked = replacements;
        self.settle(&mut leaf, number, &settled.sealed)?;
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
    pub(super) fn settle(&self, leaf: &mut Leaf, number: u64, sealed: &SealedSet) -> Result<()> {
        let nothing_more = |_| false;
        let moved = self.find_moved(leaf, number, sealed, &nothing_more)?;
        leaf.settle(number, |segment| self.first_lsn(segment), nothing_more, &moved);
        Ok(())
    }

    /// The entries that there are now of what the leaf has as hints, or in `stale` segments: by LSN.
    fn find_moved(
        &self,
        leaf: &Leaf,
        number: u64,
        sealed: &SealedSet,
        stale: &dyn Fn(u32) -> bool,
    ) -> Result<HashMap<u64, Vec<Version>>> {
        let mut moved: HashMap<u64, Vec<Version>> = HashMap::new();
        let mut sought: BTreeSet<u32> = BTreeSet::new();
        for lsn in leaf.unsettled(|segment| self.first_lsn(segment), stale) {
            moved.insert(lsn, Vec::new());
            sought.extend(sealed.holding(lsn).map(|s| s.item.id.0));
        }
        // A payload that reaches into the leaf begins less than 128 sectors before it.
        let range = ((number * LEAF_SECTORS).saturating_sub(128), (number + 1) * LEAF_SECTORS);
        for segment in sought.into_iter().filter_map(|id| sealed.with_id(id)) {
            let mut versions = Vec::new();
            let all = Path::between(segment.item.first_lsn.0 - 1, segment.item.last_lsn.0);
            segment.collect(&self.files, range, &all, &mut versions)?;
            for version in versions {
                moved.entry(version.lsn).and_modify(|entries| entries.push(version));
            }
        }
        Ok(moved)
    }

    /// Appends what checkpoints and sealed segments say of `range`, which lies in one shard, on `path`: the newest checkpoint's shard, and what came after it,
    /// from merged runs as far as there are any.
    pub(super) fn collect_sealed(
        &self,
        settled: &Settled,
        range: (u64, u64),
        path: &Path,
        out: &mut Vec<Version>,
    ) -> Result<()> {
        let sealed = &*settled.sealed;
        let shard = range.0 / SHARD_SECTORS;
        let mut base = 0;
        let mut places = 0;
        for checkpoint in settled.checkpoints.iter().rev().filter(|c| path.passes(c.item.lsn.0) && c.has(shard)) {
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
        let asked = merged::collect(&settled.runs, &self.files, sealed, range, &path, out);
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

    fn paint(&self, number: u64, mut versions: Vec<Version>, shown_max: u64) -> Leaf {
        sort_and_hide(&mut versions, shown_max);
        Leaf::paint(number, &versions, |version| self.segment_lsn(version))
    }

    fn overlay_all(&self, leaf: &mut Leaf, number: u64, mut versions: Vec<Version>, shown_max: u64) {
        sort_and_hide(&mut versions, shown_max);
        versions.iter().for_each(|version| leaf.overlay(number, version, self.segment_lsn(version)));
    }
}

/// In the order of LSNs; what a failed sync may have lost is damage.
fn sort_and_hide(versions: &mut [Version], shown_max: u64) {
    versions.sort_unstable_by_key(|v| v.lsn);
    versions.iter_mut().filter(|v| v.lsn > shown_max).for_each(|v| v.place = Place::Damaged);
}
