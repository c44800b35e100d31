//! A clone: a timeline of its own from an instant of another, which shares the files of what came before (docs/decisions/0005-history.md, "Clones").
//!
//! Invariants: only sealed segments, checkpoints and merged runs are shared, and nobody writes into those; the clone's LSNs, ids and stamps go on above all that
//! its files hold; when [`Volume::fork`] returns, links and manifest are durable. Before, there is no manifest, or nothing that the caller gave a name to.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::index::{checkpoint, merged};
use crate::journal::manifest::{AncestorItem, Content, Manifest, PointItem, RunItem, SegmentItem, StateItem};
use crate::journal::segment::file_name;
use crate::path::Lineage;
use crate::storage::Storage;
use crate::units::{Lsn, Stamp};
use crate::volume::Volume;

/// What a clone is to be, and where.
pub struct Fork<'a> {
    pub id: [u8; 16],
    pub created: Stamp,
    /// An empty folder of the same file system.
    pub target: Arc<dyn Storage>,
    /// Gives the parent's file of that name the same name in the clone's folder.
    pub link: &'a dyn Fn(&str) -> io::Result<()>,
}

impl Volume {
    /// Lays a clone of the instant `base` into an empty folder: links and a manifest, nothing is copied. The clone's only instant is `base`, its size is the size there.
    ///
    /// If `base` is not sealed yet, the active segment ends. NotFound if it cannot be reached; Invalid if the folder holds a volume, or if this one is open for looking
    /// only and what a crash left of it has to be recovered first.
    pub fn fork(self: &Arc<Volume>, base: Lsn, fork: &Fork<'_>) -> Result<()> {
        let names = fork.target.list().map_err(|e| Error::io("list", "the clone's folder", &e))?;
        if names.iter().any(|name| name.starts_with("manifest.")) {
            return Err(Error::invalid("there is a volume in this folder already"));
        }
        // Held until the links are there: no compaction takes it away.
        let view = self.view(base)?;
        let at = self.instant_of(base)?;
        self.seal_through(base)?;
        let horizon = PointItem { lsn: base, stamp: at.stamp.0, clock_epoch: at.clock_epoch };
        // A file is removed after the manifest has dropped its name: not while this is held.
        let manifest = self.manifest.lock();
        let mut clone = share(&manifest.content, &self.index.lineage(), horizon, self.ring.clock());
        (clone.id, clone.created, clone.size) = (fork.id, fork.created.0, view.size());
        link_files(&mut clone, fork.link)?;
        drop(manifest);
        Manifest::lay(fork.target.clone(), clone).map(drop)
    }

    /// Seals all that holds records up to `lsn`.
    fn seal_through(&self, lsn: Lsn) -> Result<()> {
        let holds = |first: Option<(u64, u64)>| first.is_some_and(|(first, _)| first <= lsn.0);
        let frozen = || self.index.frozen().iter().any(|table| holds(table.first()));
        let active = || self.index.with_active(|table| holds(table.first()));
        if !active() && !frozen() {
            return Ok(());
        }
        if self.read_only {
            return Err(Error::invalid("the journal was not closed cleanly: open the volume for writing first"));
        }
        self.as_leader(|| if active() { self.end_active() } else { Ok(()) })?;
        self.seal_ended()
    }

    /// Does something between two batches.
    fn as_leader(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        while !self.ring.try_lead() {
            self.ring.wait_done(u64::MAX);
        }
        let result = work();
        self.ring.finish(0, Vec::new());
        result
    }

    fn end_active(&self) -> Result<()> {
        self.check_writable()?;
        let mut guard = self.writer.lock();
        let Some(writer) = guard.as_mut() else {
            return Err(Error::new(Kind::Closed, "the volume is closed"));
        };
        let next_lsn = (self.ring.published() + 1).max(writer.previous_lsn + 1);
        let clock_epoch = writer.clock_epoch;
        self.roll(writer, next_lsn, clock_epoch)
    }
}

/// What the clone of the instant `base` names, without its own id, size and creation. `clock`: (next LSN, last stamp, clock epoch) of the parent.
fn share(parent: &Content, lineage: &Lineage, base: PointItem, clock: (u64, u64, u32)) -> Content {
    let path = lineage.path(base.lsn.0);
    // A rollback is on no path, and yet it decides which is.
    let branches = |first: u64, last: u64| lineage.branches().iter().any(|&(n, _)| first <= n && n <= last);
    let mut clone = Content { horizon: base, ancestors: parent.ancestors.clone(), ..Content::default() };
    for item in parent.segments.values().filter(|item| item.sealed && item.first_lsn <= base.lsn) {
        let (first, last) = (item.first_lsn.0, item.last_lsn.0.min(base.lsn.0));
        if path.meets(first, last) || branches(first, last) {
            clone.segments.insert(item.id, item.clone());
        }
    }
    let shown = |lsn: Lsn| lsn <= base.lsn && path.passes(lsn.0);
    clone.checkpoints = parent.checkpoints.iter().filter(|(_, c)| shown(c.lsn)).map(|(&id, &c)| (id, c)).collect();
    // A run speaks for all segments in its range.
    let left_out = |item: &&SegmentItem| item.sealed && !clone.segments.contains_key(&item.id);
    let left_out: Vec<&SegmentItem> = parent.segments.values().filter(left_out).collect();
    let meets = |run: &RunItem| left_out.iter().any(|s| s.first_lsn <= run.last_lsn && run.first_lsn <= s.last_lsn);
    let whole = |run: &RunItem| run.last_lsn <= base.lsn && !meets(run);
    clone.runs = parent.runs.iter().filter(|(_, run)| whole(run)).map(|(&id, &run)| (id, run)).collect();
    let floor = floor(&clone, base.lsn, clock.0 - 1);
    clone.ancestors.insert(floor, AncestorItem { id: parent.id, base: base.lsn, floor });
    let state = parent.state;
    clone.state = StateItem {
        clean: true,
        next_lsn: Lsn(floor.0 + 1),
        next_segment: parent.next_segment().0,
        // In the parent's present second or later, whatever the clock does.
        last_stamp: clock.1.max(base.stamp),
        clock_epoch: clock.2.max(base.clock_epoch),
        ..state
    };
    clone
}

/// The last LSN that is not the clone's own: none of its files holds a larger one, and what the parent gave away until now names nothing in the clone. The floor
/// names an ancestor, so each has another.
fn floor(clone: &Content, base: Lsn, given: u64) -> Lsn {
    let held = clone.segments.values().map(|item| item.last_lsn.0).max().unwrap_or(0);
    let taken = clone.ancestors.keys().next_back().map_or(0, |floor| floor.0 + 1);
    Lsn(held.max(given).max(taken).max(base.0 + 1))
}

/// Links what the clone names. What only makes reading faster may be gone meanwhile.
fn link_files(clone: &mut Content, link: &dyn Fn(&str) -> io::Result<()>) -> Result<()> {
    let failed = |name: &str, e: &io::Error| match e.raw_os_error() {
        Some(libc::EXDEV) => Error::invalid("a clone has to lie on the file system of its parent"),
        Some(libc::EMLINK) => Error::new(Kind::NoSpace, format!("{name} has as many names as the file system allows")),
        _ if e.kind() == io::ErrorKind::NotFound => {
            Error::new(Kind::Busy, format!("{name} is gone: another process rewrites the journal, try again"))
        }
        _ => Error::io("link", name, e),
    };
    for id in clone.segments.keys() {
        let name = file_name(*id);
        link(&name).map_err(|e| failed(&name, &e))?;
    }
    let optional = |name: String| match link(&name) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed(&name, &e)),
    };
    for id in clone.checkpoints.keys().copied().collect::<Vec<_>>() {
        if !optional(checkpoint::file_name(id))? {
            clone.checkpoints.remove(&id);
        }
    }
    for id in clone.runs.keys().copied().collect::<Vec<_>>() {
        if !optional(merged::file_name(id))? {
            clone.runs.remove(&id);
        }
    }
    Ok(())
}
