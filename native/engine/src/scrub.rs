//! The walk of verify over all files of a volume: in which order, from where, how much is done.
//!
//! Invariants:
//! - Segments come in the order of their LSNs, so that a position means the same after compaction or a restart: what lies at or below it was checked.
//! - What is found in a file counts only if the file is still named when it was read to its end: what compaction takes away meanwhile is no damage.
//! - What is checked is the disk, not the page cache, and no page that was read for it stays there.
//! - The end is where the journal ended when the walk began: it ends beside any number of writes.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::error::{Kind, Result};
use crate::index::sealed::Sealed;
use crate::journal::manifest::Manifest;
use crate::journal::segment::OpenSegment;
use crate::storage::File;
use crate::units::{Lsn, SegmentId};
use crate::verify::Finding;
use crate::volume::Volume;

/// Bytes after which a reader of a file is told of them.
const TELL_BYTES: u64 = 1 << 20;
/// Findings whose instants are looked up: a disk that fails everywhere has many.
const SHOWN_MAX: usize = 1000;

/// How far a walk has come. The default is its begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Sealed segments were checked up to this LSN.
    pub lsn: Lsn,
    /// Checkpoints and merged runs up to these ids.
    pub checkpoint: u32,
    pub run: u32,
}

/// After each file.
#[derive(Debug)]
pub struct Told {
    /// Bytes of files checked, of those that there are.
    pub done: u64,
    pub total: u64,
    pub position: Position,
    /// What the file had.
    pub found: Vec<Finding>,
}

/// Told of bytes as they are read from disk, in the thread that reads: whoever wants the walk to be slower waits in here.
pub type Reads = Arc<dyn Fn(u64) + Send + Sync>;

struct Walk<'a> {
    position: Position,
    done: u64,
    total: u64,
    shown: usize,
    reads: Option<Reads>,
    tell: &'a mut dyn FnMut(Told) -> Result<()>,
}

impl Volume {
    /// Checks all files behind `from`: manifests, sealed segments, the index, segments that are not sealed, names. An error of `tell` ends the walk.
    pub fn scrub(&self, from: Position, reads: Option<Reads>, tell: &mut dyn FnMut(Told) -> Result<()>) -> Result<()> {
        let end = self.index.published();
        let mut walk = Walk { position: from, done: 0, total: 0, shown: 0, reads, tell };
        let found = self.verify_manifest()?;
        self.measure(&mut walk)?;
        self.step(&mut walk, 0, found)?;
        self.scrub_segments(&mut walk, end)?;
        self.scrub_checkpoints(&mut walk)?;
        self.scrub_runs(&mut walk)?;
        let mut found = Vec::new();
        self.verify_open(&mut found)?;
        self.verify_names(&mut found)?;
        let rest = walk.total.saturating_sub(walk.done);
        self.step(&mut walk, rest, found)
    }

    fn scrub_segments(&self, walk: &mut Walk<'_>, end: u64) -> Result<()> {
        // The list is looked at anew each time: compaction may have put another segment there.
        while let Some(sealed) = self.next_sealed(walk.position.lsn, end) {
            let mut found = Vec::new();
            let checked = self.verify_sealed(&sealed, walk.reads.as_ref(), &mut found);
            if self.index.sealed().with_id(sealed.item.id.0).is_none() {
                // Compaction replaced it meanwhile: what holds its records now is looked at in its place.
                continue;
            }
            if self.is_named(&sealed) {
                checked?;
            } else {
                found.clear();
            }
            walk.position.lsn = sealed.item.last_lsn;
            self.step(walk, sealed.item.file_bytes, found)?;
        }
        Ok(())
    }

    fn next_sealed(&self, after: Lsn, end: u64) -> Option<Arc<Sealed>> {
        let sealed = self.index.sealed();
        let found = sealed.iter().find(|s| s.item.last_lsn > after && s.item.first_lsn.0 <= end);
        found.cloned()
    }

    fn scrub_checkpoints(&self, walk: &mut Walk<'_>) -> Result<()> {
        let next = |after: u32| {
            let manifest = self.manifest.lock();
            let found = manifest.content.checkpoints.range(after + 1..).next().map(|(_, item)| *item);
            found
        };
        while let Some(item) = next(walk.position.checkpoint) {
            let mut found = Vec::new();
            match self.verify_checkpoint(&item, &mut found) {
                // A segment was replaced while it was asked.
                Err(e) if e.kind == Kind::Gone => continue,
                other => other?,
            }
            // Compaction may have dropped it meanwhile.
            found.retain(|_| next(walk.position.checkpoint).is_some_and(|now| now.id == item.id));
            walk.position.checkpoint = item.id;
            self.step(walk, item.file_bytes, found)?;
        }
        Ok(())
    }

    fn scrub_runs(&self, walk: &mut Walk<'_>) -> Result<()> {
        let next = |after: u32| {
            let manifest = self.manifest.lock();
            let found = manifest.content.runs.range(after + 1..).next().map(|(_, item)| *item);
            found
        };
        while let Some(item) = next(walk.position.run) {
            let mut found = Vec::new();
            match self.verify_run(&item, &mut found) {
                Err(e) if e.kind == Kind::Gone => continue,
                other => other?,
            }
            walk.position.run = item.id;
            self.step(walk, item.file_bytes, found)?;
        }
        Ok(())
    }

    /// Whether the manifest still names a segment of ours. Who only looks reads it again: another process may have changed it.
    fn is_named(&self, sealed: &Sealed) -> bool {
        if !self.read_only {
            return true;
        }
        let now = Manifest::load(self.storage.clone(), Some(self.id));
        now.map_or(true, |(manifest, _)| manifest.content.segments.contains_key(&sealed.item.id))
    }

    fn step(&self, walk: &mut Walk<'_>, bytes: u64, mut found: Vec<Finding>) -> Result<()> {
        for finding in found.iter_mut().take(SHOWN_MAX.saturating_sub(walk.shown)) {
            self.note_shown(finding)?;
        }
        walk.shown += found.len();
        walk.done = (walk.done + bytes).min(walk.total);
        (walk.tell)(Told { done: walk.done, total: walk.total, position: walk.position, found })
    }

    /// What there is to check, and what of it lies behind the walk.
    fn measure(&self, walk: &mut Walk<'_>) -> Result<()> {
        walk.total = self.journal_bytes()?;
        for sealed in self.index.sealed().iter().filter(|s| s.item.last_lsn <= walk.position.lsn) {
            walk.done += sealed.item.file_bytes;
        }
        let manifest = self.manifest.lock();
        for item in manifest.content.checkpoints.values() {
            walk.total += item.file_bytes;
            walk.done += if item.id <= walk.position.checkpoint { item.file_bytes } else { 0 };
        }
        for item in manifest.content.runs.values() {
            walk.total += item.file_bytes;
            walk.done += if item.id <= walk.position.run { item.file_bytes } else { 0 };
        }
        Ok(())
    }
}

/// A file of which somebody is told what is read of it for the first time.
struct Paced {
    file: Arc<dyn File>,
    reads: Reads,
    /// Bytes from the begin that were read, and those that were told of.
    reached: AtomicU64,
    told: AtomicU64,
}

/// The segment for reading from the disk; with somebody to tell of what is read.
pub(crate) fn from_disk(id: SegmentId, nonce: u64, file: Arc<dyn File>, reads: Option<&Reads>) -> OpenSegment {
    file.drop_cache();
    let file = match reads {
        Some(reads) => Arc::new(Paced { file, reads: reads.clone(), reached: 0.into(), told: 0.into() }),
        None => file,
    };
    OpenSegment { id, nonce, file }
}

impl File for Paced {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let got = self.file.read_at(buffer, offset)?;
        let reached = self.reached.fetch_max(offset + got as u64, Ordering::Relaxed).max(offset + got as u64);
        let told = self.told.load(Ordering::Relaxed);
        if reached >= told + TELL_BYTES {
            self.told.store(reached, Ordering::Relaxed);
            (self.reads)(reached - told);
        }
        Ok(got)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn drop_cache(&self) {
        self.file.drop_cache();
    }
}
