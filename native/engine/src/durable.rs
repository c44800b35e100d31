//! The way of a flush: one sync for all who wait (group commit), and what a failed one does.
//!
//! Invariants: `lsn` is durable with everything before it; it only grows; no segment counts as durable before the ones before it were
//! synced; after a failed sync nothing is tried again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Kind, Result};
use crate::storage::File;
use crate::units::{Lsn, SegmentId};
use crate::volume::Volume;

/// How long a sync waits for those that the last one served: they come back within a few hundred microseconds, or not soon.
const GATHER: Duration = Duration::from_micros(200);

#[derive(Default)]
struct State {
    /// Somebody syncs, or is about to.
    syncing: bool,
    /// Who came since the last sync began, and how many had come when it did.
    came: usize,
    came_before: usize,
    /// Segments that were left since the last sync.
    left: Vec<(SegmentId, Arc<dyn File>)>,
}

pub struct Durability {
    state: Mutex<State>,
    changed: Condvar,
    gathered: Condvar,
    lsn: AtomicU64,
    /// The last record that is durable; `lsn` may pass numbers that no record has.
    record: AtomicU64,
}

impl Durability {
    /// `record` is the last record, `lsn` the last number that counts as done.
    pub fn new(lsn: u64, record: u64) -> Durability {
        Durability {
            state: Mutex::default(),
            changed: Condvar::new(),
            gathered: Condvar::new(),
            lsn: AtomicU64::new(lsn),
            record: AtomicU64::new(record),
        }
    }

    pub fn lsn(&self) -> u64 {
        self.lsn.load(Ordering::Acquire)
    }

    /// The last record known durable: what the next batch header says.
    pub fn record(&self) -> u64 {
        self.record.load(Ordering::Acquire)
    }

    /// The writer goes on in another segment; this one has to be synced first.
    pub fn leave(&self, segment: SegmentId, file: Arc<dyn File>) {
        self.state.lock().left.push((segment, file));
    }

    /// Clients that wrote and flushed together do so again: the first to come waits a little for the others, rather than they for a whole sync of its own.
    fn gather(&self, state: &mut MutexGuard<'_, State>) {
        if state.came < state.came_before {
            self.gathered.wait_for(state, GATHER);
        }
        state.came_before = std::mem::take(&mut state.came);
    }

    /// Syncs a segment that was left, if no FLUSH did so, and lets go of it: its descriptor would keep the space of a file that is removed.
    pub fn settle_left(&self, segment: SegmentId) -> std::io::Result<()> {
        let left = self.state.lock().left.iter().find(|(id, _)| *id == segment).map(|(_, file)| file.clone());
        // It is let go of after that, so that a FLUSH meanwhile does not pass it over.
        left.map_or(Ok(()), |file| file.sync())?;
        self.state.lock().left.retain(|(id, _)| *id != segment);
        Ok(())
    }
}

impl Volume {
    /// Makes everything that was committed before the call, by anybody, durable (FLUSH).
    pub fn flush(&self) -> Result<()> {
        self.sync_to(Lsn(self.ring.published()))
    }

    /// Makes a committed record durable (FUA), and with it everything before it.
    pub fn sync_to(&self, lsn: Lsn) -> Result<()> {
        let durability = &self.durability;
        let mut state = durability.state.lock();
        let mut counted = false;
        loop {
            if let Some(why) = self.poison.get() {
                return Err(Error::new(Kind::Poisoned, format!("the volume is not synced any more: {why}")));
            }
            if durability.lsn() >= lsn.0 {
                return Ok(());
            }
            if !std::mem::replace(&mut counted, true) {
                state.came += 1;
                if state.came == state.came_before {
                    durability.gathered.notify_one();
                }
            }
            if !state.syncing {
                break;
            }
            durability.changed.wait(&mut state);
        }
        state.syncing = true;
        durability.gather(&mut state);
        drop(state);
        let result = self.sync_now();
        durability.state.lock().syncing = false;
        durability.changed.notify_all();
        result
    }

    fn sync_now(&self) -> Result<()> {
        let (upto, record, files) = {
            // Under the writer's lock no append is half done, and the next one begins a page of its own.
            let mut guard = self.writer.lock();
            if guard.is_none() && self.is_closed() {
                return Err(Error::new(Kind::Closed, "the volume is closed"));
            }
            let upto = self.ring.published().max(self.index.published());
            let record = guard.as_ref().map_or(0, |writer| writer.previous_lsn);
            let mut files = std::mem::take(&mut self.durability.state.lock().left);
            if let Some(writer) = guard.as_mut() {
                // Zeros take room too where a file system never writes in place.
                if let Err(error) = self.with_reserve(|| writer.scrub()) {
                    self.durability.state.lock().left = files;
                    return Err(error);
                }
                writer.begin_page();
                files.push((writer.segment.id, writer.segment.file.clone()));
            }
            (upto, record, files)
        };
        for (_, file) in files {
            if let Err(e) = file.sync() {
                return Err(self.poison(format!("a sync of the journal failed: {e}")));
            }
        }
        // The sync of a footer may have met the error of a page that this one was to cover.
        self.check_writable()?;
        self.durability.lsn.fetch_max(upto, Ordering::AcqRel);
        self.durability.record.fetch_max(record, Ordering::AcqRel);
        Ok(())
    }

    /// Accepts nothing more: nobody knows what the disk has. Reads go on for what was durable before.
    pub(crate) fn poison(&self, why: String) -> Error {
        let error = Error::new(Kind::Poisoned, format!("the volume accepts no more writes: {why}"));
        if self.poison.set(why.clone()).is_ok() {
            self.faults.note(format!("poisoned: {why}"));
            self.ring.close(error.clone());
            self.index.hide_above(self.durability.lsn());
        }
        error
    }

    /// A manifest commit failed: poison where the outcome is unknown.
    pub(crate) fn commit_failed(&self, error: crate::journal::manifest::CommitError) -> Error {
        match error {
            crate::journal::manifest::CommitError::NotDone(error)
            | crate::journal::manifest::CommitError::Half(error) => error,
            crate::journal::manifest::CommitError::Unknown(error) => self.poison(error.message),
        }
    }
}
