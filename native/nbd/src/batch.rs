//! The writes and flushes of one turn, between admission and reply.
//!
//! Invariants. Every admitted LSN is committed, in order, once; a write that the disk refused leaves the batch and is admitted anew later. A reply is made only after its commit, and after one
//! sync for all where the request asked for it (FLUSH, FUA). The batch is empty between turns: a connection that ends
//! leaves nothing behind.

use cdp_engine::{Error, Lsn, Result, Settled, Volume, Waiting};

use crate::reply::To;

/// What must be durable before the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    No,
    /// This record and all before it.
    Record,
    /// Everything that anybody committed (FLUSH).
    All,
}

struct Entry {
    to: To,
    sync: Sync,
    admitted: Result<Option<Lsn>>,
}

/// A write that the disk refused, and that is to wait.
pub(crate) struct Refused {
    pub(crate) to: To,
    pub(crate) fua: bool,
    pub(crate) waiting: Waiting,
}

#[derive(Default)]
pub(crate) struct Batch {
    entries: Vec<Entry>,
    /// Entries before this one are committed.
    committed: usize,
    pub(crate) refused: Vec<Refused>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.refused.is_empty()
    }

    /// Takes a write that the volume admitted or refused.
    pub(crate) fn write(&mut self, to: To, admitted: Result<Lsn>, fua: bool) {
        let sync = if fua { Sync::Record } else { Sync::No };
        self.entries.push(Entry { to, sync, admitted: admitted.map(Some) });
    }

    /// Takes a write whose outcome is known.
    pub(crate) fn done(&mut self, to: To, outcome: Result<Lsn>, fua: bool) {
        debug_assert_eq!(self.committed, self.entries.len(), "in the order of the requests");
        self.write(to, outcome, fua);
        self.committed = self.entries.len();
    }

    pub(crate) fn flush(&mut self, to: To) {
        self.entries.push(Entry { to, sync: Sync::All, admitted: Ok(None) });
    }

    /// Makes what was admitted visible to reads.
    pub(crate) fn commit(&mut self, volume: &Volume) {
        let (mut place, committed) = (0, self.committed);
        let refused = &mut self.refused;
        self.entries.retain_mut(|entry| {
            place += 1;
            place <= committed || commit_one(volume, entry, refused)
        });
        self.committed = self.entries.len();
    }

    /// Commits, syncs once, and hands every outcome to `reply`, in the order of the requests. Writes that wait have none yet: they are in `refused`.
    pub(crate) fn settle(&mut self, volume: &Volume, mut reply: impl FnMut(To, std::result::Result<(), &Error>)) {
        self.commit(volume);
        let synced = self.sync(volume);
        for entry in self.entries.drain(..) {
            match (&entry.admitted, &synced) {
                (Err(error), _) => reply(entry.to, Err(error)),
                (Ok(_), Err(error)) if entry.sync != Sync::No => reply(entry.to, Err(error)),
                _ => reply(entry.to, Ok(())),
            }
        }
        self.committed = 0;
    }

    fn sync(&self, volume: &Volume) -> Result<()> {
        let good = || self.entries.iter().filter(|entry| entry.admitted.is_ok());
        if good().any(|entry| entry.sync == Sync::All) {
            return volume.flush();
        }
        let records = good().filter(|entry| entry.sync == Sync::Record);
        match records.filter_map(|entry| entry.admitted.as_ref().ok().copied().flatten()).max() {
            Some(lsn) => volume.sync_to(lsn),
            None => Ok(()),
        }
    }
}

/// False if the write goes out of the batch: it waits.
fn commit_one(volume: &Volume, entry: &mut Entry, refused: &mut Vec<Refused>) -> bool {
    let Ok(Some(lsn)) = entry.admitted else { return true };
    match volume.settle(lsn) {
        Ok(Settled::Done) => true,
        Ok(Settled::Again(waiting)) => {
            refused.push(Refused { to: entry.to, fua: entry.sync != Sync::No, waiting });
            false
        }
        Err(error) => {
            entry.admitted = Err(error);
            true
        }
    }
}
