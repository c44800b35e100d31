//! A sealed segment: what the manifest says of it, and its run, loaded when a lookup needs it and held as long as there is room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::activity::Activity;
use super::checkpoint::SHARD_SECTORS;
use super::files::Files;
use super::footer::{self, Footer};
use super::memtable::{Control, Memtable};
use super::run::{Run, NARROW_SECTORS};
use super::sections::StampFence;
use super::spans::Spans;
use super::stream::Cursor;
use super::{tables, Place, Version, LOCATE};
use crate::error::{Kind, Result};
use crate::faults::Faults;
use crate::journal::manifest::SegmentItem;
use crate::journal::recover::{self, Volume};
use crate::journal::segment::{file_name, OpenSegment};
use crate::path::Path;

/// The sealed segments of a volume at one time, ascending by LSN. Their ranges of LSNs do not overlap.
#[derive(Default)]
pub struct SealedSet {
    by_lsn: Vec<Arc<Sealed>>,
    by_id: HashMap<u32, usize>,
}

impl SealedSet {
    pub fn new(mut by_lsn: Vec<Arc<Sealed>>) -> SealedSet {
        by_lsn.sort_by_key(|s| s.item.first_lsn);
        let by_id = by_lsn.iter().enumerate().map(|(i, s)| (s.item.id.0, i)).collect();
        SealedSet { by_lsn, by_id }
    }

    /// Without `gone`, with `added`.
    pub fn with(&self, gone: &[u32], added: &[Arc<Sealed>]) -> SealedSet {
        let kept = self.by_lsn.iter().filter(|s| !gone.contains(&s.item.id.0));
        SealedSet::new(kept.chain(added).cloned().collect())
    }

    pub fn with_id(&self, segment: u32) -> Option<&Arc<Sealed>> {
        self.by_id.get(&segment).map(|&i| &self.by_lsn[i])
    }

    /// The segment whose range holds the LSN.
    pub fn holding(&self, lsn: u64) -> Option<&Arc<Sealed>> {
        let at = self.by_lsn.partition_point(|s| s.item.last_lsn.0 < lsn);
        self.by_lsn.get(at).filter(|s| s.item.first_lsn.0 <= lsn)
    }

    /// The segments that lie in `first..=last` as a whole.
    pub fn within(&self, first: u64, last: u64) -> &[Arc<Sealed>] {
        let from = self.by_lsn.partition_point(|s| s.item.first_lsn.0 < first);
        let to = self.by_lsn.partition_point(|s| s.item.last_lsn.0 <= last);
        &self.by_lsn[from..to.max(from)]
    }

    /// Turns places in segments that are gone into hints. What is in no segment was dropped: nobody who may look sees it, so that it is damage if
    /// it is seen.
    pub fn hint(&self, versions: &mut [Version]) {
        for version in versions {
            let lsn = version.lsn;
            if let Place::Data { segment, offset, .. } = &mut version.place {
                if self.by_id.contains_key(segment) {
                    continue;
                }
                match self.holding(lsn) {
                    Some(holder) => (*segment, *offset) = (holder.item.id.0, LOCATE),
                    None => version.place = Place::Damaged,
                }
            }
        }
    }
}

impl std::ops::Deref for SealedSet {
    type Target = [Arc<Sealed>];

    fn deref(&self) -> &[Arc<Sealed>] {
        &self.by_lsn
    }
}

/// Entries in a span of sectors.
#[derive(Clone, Copy, Debug)]
pub enum Spread {
    /// So many in all, anywhere in it.
    Even(f64),
    /// So many in each part of it.
    Each(f64),
}

impl Spread {
    /// How many are in a shard that the span `start..end` touches.
    pub fn in_shard(self, shard: u64, start: u64, end: u64) -> f64 {
        match self {
            Spread::Each(entries) => entries,
            Spread::Even(entries) => {
                let (from, to) = (start.max(shard * SHARD_SECTORS), end.min((shard + 1) * SHARD_SECTORS));
                entries * (to - from) as f64 / (end - start) as f64
            }
        }
    }
}

enum Source {
    Disk(Arc<Run>),
    /// The footer is damaged: rebuilt from the batches.
    Memory(Box<Memtable>),
}

impl Source {
    fn bytes(&self) -> usize {
        match self {
            Source::Disk(run) => run.bytes(),
            Source::Memory(table) => table.bytes(),
        }
    }
}

pub struct Sealed {
    pub item: SegmentItem,
    volume: Volume,
    /// A part of the footer that lookups need is damaged: the batches say what it said.
    damaged: AtomicBool,
    faults: Faults,
}

impl Sealed {
    pub fn new(item: SegmentItem, volume: Volume, faults: Faults) -> Sealed {
        Sealed { item, volume, damaged: AtomicBool::new(false), faults }
    }

    /// Appends every version that overlaps `range` on `path`, in no order.
    pub fn collect(&self, files: &Files, range: (u64, u64), path: &Path, out: &mut Vec<Version>) -> Result<()> {
        let before = out.len();
        let source = self.source(files)?;
        let result = match &*source {
            Source::Disk(run) => run.collect(&*files.get(self.item.id.0)?, range, |lsn| path.contains(lsn), out),
            Source::Memory(table) => {
                table.collect(range, path, out);
                Ok(())
            }
        };
        match result {
            Err(e) if e.kind == Kind::Corrupt => {
                out.truncate(before);
                self.distrust(files, &e.message);
                self.collect(files, range, path, out)
            }
            other => other,
        }
    }

    /// What its versions on `path` cover of `range`, as streams. Nothing is read yet but fences.
    pub fn stream(
        self: &Arc<Sealed>,
        files: &Files,
        range: (u64, u64),
        path: &Path,
        out: &mut Vec<Spans>,
    ) -> Result<()> {
        match &*self.source(files)? {
            Source::Disk(run) => {
                let walk = |blocks| Spans::of_segment(self.clone(), run.clone(), blocks, range, path);
                out.extend(run.blocks_near(range).into_iter().filter(|blocks| !blocks.is_empty()).map(walk));
            }
            Source::Memory(table) => {
                let mut covered = Vec::new();
                table.covered(0..table.len(), range, path, &mut covered);
                out.push(Spans::of(covered));
            }
        }
        Ok(())
    }

    /// Calls `see(start, end, entries)` for the span of every index block, in sectors.
    pub fn spans(&self, files: &Files, see: &mut dyn FnMut(u64, u64, Spread)) -> Result<()> {
        // All segments in turn: they are not to drive out what lookups need.
        let source = files.tables.held(self.key()).map_or_else(|| self.load(files).map(Arc::new), Ok)?;
        match &*source {
            Source::Disk(run) => {
                let each = f64::from(self.item.entries) / run.fences.len().max(1) as f64;
                let (narrow, wide) = run.fences.split_at(run.narrow as usize);
                narrow.iter().for_each(|fence| see(fence.start, fence.end, Spread::Even(each)));
                wide.iter().for_each(|fence| see(fence.start, fence.end, Spread::Each(each)));
            }
            Source::Memory(table) => table.versions().for_each(|v| see(v.start, v.end(), Spread::Each(1.0))),
        }
        Ok(())
    }

    /// Versions in blocks of their own because they are long.
    pub fn wide_versions(&self, files: &Files) -> Result<Vec<Version>> {
        match &*self.source(files)? {
            Source::Disk(run) => {
                let file = files.get(self.item.id.0)?;
                let mut versions = Vec::new();
                for block in run.narrow as usize..run.fences.len() {
                    versions.extend(run.read_block(&*file, block)?);
                }
                Ok(versions)
            }
            Source::Memory(table) => Ok(table.versions().filter(|v| v.sectors > NARROW_SECTORS).collect()),
        }
    }

    /// The smallest start in the n-th block of narrow versions; None behind the last one. A footer that had to be rebuilt is one block.
    pub fn narrow_start(&self, files: &Files, block: usize) -> Result<Option<u64>> {
        match &*self.source(files)? {
            Source::Disk(run) => Ok(run.fences[..run.narrow as usize].get(block).map(|fence| fence.start)),
            Source::Memory(table) if block == 0 => {
                Ok(table.versions().filter(|v| v.sectors <= NARROW_SECTORS).map(|v| v.start).min())
            }
            Source::Memory(_) => Ok(None),
        }
    }

    /// That block, sorted by start. Corrupt if it is damaged.
    pub fn narrow_block(&self, files: &Files, block: usize) -> Result<Vec<Version>> {
        match &*self.source(files)? {
            Source::Disk(run) => {
                let read = files.get(self.item.id.0).and_then(|file| run.read_block(&*file, block));
                if let Err(e) = &read {
                    if e.kind == Kind::Corrupt {
                        // The next walk finds it rebuilt; this one cannot go on in other blocks.
                        self.distrust(files, &e.message);
                    }
                }
                read
            }
            Source::Memory(table) => {
                let mut versions: Vec<Version> = table.versions().filter(|v| v.sectors <= NARROW_SECTORS).collect();
                versions.sort_unstable_by_key(|v| (v.start, v.lsn));
                Ok(versions)
            }
        }
    }

    fn source(&self, files: &Files) -> Result<Arc<Source>> {
        files.tables.get(self.key(), || self.load(files), Source::bytes)
    }

    fn key(&self) -> tables::Key {
        (self.item.nonce, 0)
    }

    fn load(&self, files: &Files) -> Result<Source> {
        if !self.damaged.load(Ordering::Relaxed) {
            let item = &self.item;
            let file = files.get(item.id.0);
            match file.and_then(|file| footer::read_run(&*file, item.nonce, item.footer_offset, item.file_bytes)) {
                Ok(run) => return Ok(Source::Disk(Arc::new(run))),
                Err(e) if e.kind == Kind::Corrupt => {
                    self.damaged.store(true, Ordering::Relaxed);
                    self.note_damage(&e.message);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Source::Memory(Box::new(self.table(files)?)))
    }

    /// From now on the segment's batches are asked, not its footer.
    pub fn distrust(&self, files: &Files, why: &str) {
        self.damaged.store(true, Ordering::Relaxed);
        self.note_damage(why);
        files.tables.remove(self.key());
    }

    fn note_damage(&self, why: &str) {
        let name = file_name(self.item.id);
        self.faults.note(format!("{name}: the footer is damaged ({why}); it is rebuilt from the batches"));
    }

    /// Ids of the segments that its versions name, ascending.
    pub fn data_segments(&self, files: &Files) -> Result<Vec<u32>> {
        Ok(match &*self.source(files)? {
            Source::Disk(run) => run.segments.clone(),
            Source::Memory(table) => {
                table.versions().any(|v| v.is_data()).then_some(table.segment).into_iter().collect()
            }
        })
    }

    /// Its versions sorted by (start, LSN): the narrow or the wide ones.
    pub fn cursor(&self, files: &Files, wide: bool) -> Result<Cursor> {
        Ok(match &*self.source(files)? {
            Source::Disk(run) => {
                let (narrow, all) = (u64::from(run.narrow), run.fences.len() as u64);
                let blocks = if wide { narrow..all } else { 0..narrow };
                Cursor::of_blocks(files.get(self.item.id.0)?, run.offset, blocks, run.segments.clone(), run.nonce)
            }
            Source::Memory(table) => {
                Cursor::of_versions(table.versions().filter(|v| (v.sectors > NARROW_SECTORS) == wide).collect())
            }
        })
    }

    /// The footer as it stands on disk; Corrupt if any part but its blocks is damaged.
    pub fn footer(&self, files: &Files) -> Result<Footer> {
        footer::read(&*files.get(self.item.id.0)?, self.item.nonce, self.item.footer_offset, self.item.file_bytes)
    }

    pub fn controls(&self, files: &Files) -> Result<Vec<Control>> {
        self.ask(files, |footer| footer.controls, |table| table.controls)
    }

    pub fn activity(&self, files: &Files) -> Result<Vec<Activity>> {
        self.ask(files, |footer| footer.activity, |table| table.activity().collect())
    }

    pub fn flush_points(&self, files: &Files) -> Result<Vec<u64>> {
        self.ask(files, |footer| footer.flush_points, |table| table.flush_points)
    }

    /// The largest LSN whose stamp is at or before `stamp`, with its stamp.
    pub fn at_stamp(&self, files: &Files, stamp: u64) -> Result<Option<(u64, u64)>> {
        Ok(self.at_stamps(files, &[stamp])?[0])
    }

    /// The same for several stamps, ascending: each part of the segment is read once.
    pub fn at_stamps(&self, files: &Files, stamps: &[u64]) -> Result<Vec<Option<(u64, u64)>>> {
        self.look_near(files, stamps, |fence| fence.base_stamp, Memtable::at_stamp)
    }

    /// The stamp of a record; None if the segment has none of that number.
    pub fn stamp_of(&self, files: &Files, lsn: u64) -> Result<Option<u64>> {
        Ok(self.stamps_of(files, &[lsn])?[0])
    }

    /// The same for several records, ascending.
    pub fn stamps_of(&self, files: &Files, lsns: &[u64]) -> Result<Vec<Option<u64>>> {
        self.look_near(files, lsns, |fence| fence.first_lsn, Memtable::stamp_of)
    }

    /// Asks `look` for each of `keys`, which ascend, in the records behind the last fence at or before it.
    fn look_near<T>(
        &self,
        files: &Files,
        keys: &[u64],
        key_of: impl Fn(&StampFence) -> u64,
        look: impl Fn(&Memtable, u64) -> T,
    ) -> Result<Vec<T>> {
        let fences = self.stamp_fences(files)?;
        let mut near: Option<(usize, Memtable)> = None;
        let mut found = Vec::with_capacity(keys.len());
        for &key in keys {
            let fence = fences.partition_point(|f| key_of(f) <= key);
            let table = match near.take().filter(|(at, _)| *at == fence) {
                Some((_, table)) => table,
                None => self.table_between(files, &fences, fence)?,
            };
            found.push(look(&table, key));
            near = Some((fence, table));
        }
        Ok(found)
    }

    fn stamp_fences(&self, files: &Files) -> Result<Arc<Vec<StampFence>>> {
        let load = || self.ask(files, |footer| footer.stamps, |_| Vec::new());
        files.tables.get((self.item.nonce, 1), load, |fences| fences.len() * std::mem::size_of::<StampFence>())
    }

    /// The records between fence `after - 1` and fence `after`, from their batches; of the whole segment where these do not follow each other.
    fn table_between(&self, files: &Files, fences: &[StampFence], after: usize) -> Result<Memtable> {
        let Some(begin) = after.checked_sub(1).and_then(|i| fences.get(i)) else {
            return self.table(files);
        };
        let end = fences.get(after).map_or(self.item.footer_offset, |f| f.offset);
        let last_lsn = fences.get(after).map_or(self.item.last_lsn.0, |f| f.first_lsn - 1);
        let lsns = (begin.first_lsn, last_lsn);
        let near = recover::table_between(&self.open(files)?, (begin.offset, end), lsns)?;
        near.map_or_else(|| self.table(files), Ok)
    }

    /// From the footer or, where it is damaged, from the batches.
    fn ask<T>(&self, files: &Files, whole: impl FnOnce(Footer) -> T, rebuilt: impl FnOnce(Memtable) -> T) -> Result<T> {
        match self.footer(files) {
            Ok(footer) => Ok(whole(footer)),
            Err(e) if e.kind == Kind::Corrupt => {
                self.note_damage(&e.message);
                Ok(rebuilt(self.table(files)?))
            }
            Err(e) => Err(e),
        }
    }

    fn open(&self, files: &Files) -> Result<OpenSegment> {
        Ok(OpenSegment { id: self.item.id, nonce: self.item.nonce, file: files.get(self.item.id.0)? })
    }

    /// The segment's records, read from its batches; one lost record where its file is missing.
    pub fn table(&self, files: &Files) -> Result<Memtable> {
        match self.open(files) {
            Ok(open) => recover::sealed_table(&open, &self.item, &self.volume),
            Err(e) if e.kind == Kind::Corrupt => {
                let mut lost = Memtable::new(self.item.id.0);
                let item = &self.item;
                lost.push_lost(item.first_lsn.0, item.last_lsn.0, item.first_stamp);
                Ok(lost)
            }
            Err(e) => Err(e),
        }
    }
}
