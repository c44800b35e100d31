//! A volume without room: what it is charged, writes that wait, and the reserve on the disk.
//!
//! Invariants: a write that the disk refused was told to nobody, and is written later under a new LSN; the reserve file is given up only for what frees
//! space or must not wait, and until it is back no write may use what it left.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::gate::{Permit, Waiter};
use crate::index::files::Named;
use crate::journal::manifest::Content;
use crate::journal::writer::journal_bytes;
use crate::request::{Piece, Request};
use crate::space::{Class, FullPolicy, Space};
use crate::storage::Storage;
use crate::units::Lsn;
use crate::volume::{Volume, Zeroing};

/// Room on the disk that only compaction, control records and rollbacks get.
pub(crate) const RESERVE: &str = "reserve";
/// The reserve file has this part of what is used, and not more than so many segments.
const RESERVE_SHARE: u64 = 8;
const RESERVE_SEGMENTS: u64 = 2;
/// A smaller one would help nobody.
const RESERVE_MIN: u64 = 1 << 20;

/// A write that has no LSN yet, encoded: it waits for room.
#[derive(Debug)]
pub struct Waiting(pub(crate) Box<Request>);

/// What became of a write that was offered.
pub enum Offer {
    Admitted(Lsn),
    /// There is no room now: ask, and offer again.
    Waits(Waiting),
}

/// What became of an admitted write.
pub enum Settled {
    Done,
    /// The disk refused it: ask, and offer again.
    Again(Waiting),
}

impl Request {
    fn class(&self) -> Class {
        let data = |piece: &Piece| matches!(piece, Piece::Data { .. } | Piece::Edge { .. });
        if self.pieces.iter().any(data) {
            Class::Data
        } else {
            Class::Zeros
        }
    }
}

impl Volume {
    /// Bytes used, marks, and what holds writes back. Looks up which files are shared: a system call for each.
    pub fn space(&self) -> Result<Space> {
        self.count_links()?;
        let mut space = self.gate.meter.space();
        space.delayed_ns = self.gate.delayed_ns();
        space.stalled = self.gate.is_stalled();
        Ok(space)
    }

    /// Bytes that the volume's files may have (None: no bound), and what happens where there is no room. At once; segments get their new size with the next one.
    pub fn set_budget(&self, budget: Option<u64>, policy: FullPolicy) {
        self.gate.meter.set_budget(budget, policy, self.options.segment_bytes);
        self.look_at_disk();
        self.gate.knock();
    }

    /// Segments have the size that suits the disk.
    pub(crate) fn look_at_disk(&self) {
        // Where nobody can say, it is taken for large.
        self.gate.meter.set_room(self.storage.room().unwrap_or(u64::MAX));
    }

    /// True if writes pass at once.
    pub fn has_room(&self) -> bool {
        self.gate.is_open()
    }

    /// True while writes wait for room, not only for their turn.
    pub fn is_stalled(&self) -> bool {
        self.gate.is_stalled()
    }

    /// A write as `write` takes it, encoded, to be offered. It has no LSN yet. `hurried`: who wrote it has sent more already; a large one may be stored as it is.
    pub fn prepare_write(&self, offset: u64, data: &[u8], hurried: bool) -> Result<Waiting> {
        Ok(Waiting(Box::new(self.encode_write(offset, data, hurried)?)))
    }

    /// The same for `zero`.
    pub fn prepare_zero(&self, offset: u64, bytes: u64, how: Zeroing) -> Result<Waiting> {
        Ok(Waiting(Box::new(self.encode_zero(offset, bytes, how)?)))
    }

    /// Admits a prepared write if there is room, without waiting for that. NoSpace where writes fail.
    pub fn offer(&self, mut waiting: Waiting) -> Result<Offer> {
        match self.gate.pass(journal_bytes(&waiting.0), waiting.0.class())? {
            Some(permit) => {
                waiting.0.permit = Some(permit);
                self.admit(*waiting.0).map(Offer::Admitted)
            }
            None => Ok(Offer::Waits(waiting)),
        }
    }

    /// Admits without looking whether there is room: for the last writes of a connection that ends.
    pub fn admit_anyway(&self, waiting: Waiting) -> Result<Lsn> {
        let permit = self.gate.permit(journal_bytes(&waiting.0));
        self.offer_again(waiting, permit)
    }

    /// Asks for the room of a write that waits: now, or through `waiter` later (None). NoSpace where writes fail.
    pub fn ask_room(&self, waiting: &Waiting, waiter: &Arc<dyn Waiter>) -> Result<Option<Permit>> {
        self.gate.ask(journal_bytes(&waiting.0), waiting.0.class(), waiter)
    }

    /// Forgets what a waiter asked for.
    pub fn leave_queue(&self, waiter: &Arc<dyn Waiter>) {
        self.gate.leave(waiter);
    }

    /// Admits a write that got its room.
    pub fn offer_again(&self, waiting: Waiting, permit: Permit) -> Result<Lsn> {
        self.check_writable()?;
        let mut request = waiting.0;
        request.permit = Some(permit);
        self.admit(*request)
    }

    /// As `commit`, but a write that found the disk full is given back where it is to wait.
    pub fn settle(&self, lsn: Lsn) -> Result<Settled> {
        while !self.ring.wait_done(lsn.0) {
            if self.ring.try_lead() {
                self.lead();
            }
        }
        match self.ring.outcome(lsn.0) {
            None => Ok(Settled::Done),
            Some(failure) => match failure.again {
                Some(request) => Ok(Settled::Again(Waiting(request))),
                None => Err(failure.error),
            },
        }
    }

    /// Waits for room, then admits.
    pub(crate) fn admit_when_room(&self, mut request: Request) -> Result<Lsn> {
        request.permit = Some(self.gate.wait(journal_bytes(&request), request.class())?);
        self.admit(request)
    }

    /// True if a write that the disk refused is to be tried again.
    pub(crate) fn waits_for_disk(&self, error: &Error) -> bool {
        error.kind == Kind::NoSpace && self.gate.lets_wait() && !self.is_closed()
    }

    /// A batch was appended: that the disk is full is over, unless it was the reserve that it went into.
    pub(crate) fn disk_took(&self, batch: &[Request]) {
        let meter = &self.gate.meter;
        if meter.is_disk_full() && batch.iter().any(Request::may_wait) && self.reserve.lock().is_none() {
            self.gate.disk_took();
        }
        if meter.used() >= meter.reserve_due.load(Relaxed) {
            self.keep_reserve();
        }
    }

    /// Does it again with the reserve if the disk has no room: for what must not wait, or makes room.
    pub(crate) fn with_reserve<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        match work() {
            Err(error) if error.kind == Kind::NoSpace && self.give_reserve_up() => work(),
            other => other,
        }
    }

    /// Gives the reserve on the disk up; false if there is none. From now on the disk counts as full until the reserve is back.
    pub(crate) fn give_reserve_up(&self) -> bool {
        let mut given_up = self.reserve.lock();
        let bytes = self.gate.meter.reserve_file();
        if bytes == 0 || self.read_only {
            return false;
        }
        // Before there is room, so that no write takes it.
        self.gate.meter.set_reserve_is_out(true);
        self.gate.disk_filled();
        if self.storage.remove(RESERVE).and_then(|()| self.storage.sync_folder()).is_err() {
            self.gate.meter.set_reserve_is_out(false);
            return false;
        }
        *given_up = Some(bytes);
        self.gate.meter.set_reserve_file(0);
        true
    }

    /// A cycle found the disk full: the next one has the reserve.
    pub(crate) fn no_room_to_compact(&self, error: &Error) {
        if error.kind == Kind::NoSpace {
            self.give_reserve_up();
        }
    }

    /// Tries to get the reserve back that was given up. None if none was.
    pub(crate) fn take_reserve_back(&self) -> Option<bool> {
        let mut given_up = self.reserve.lock();
        let before = (*given_up)?;
        // Not out of the hands of who makes room with it.
        let Some(_nobody_compacts) = self.compaction.try_lock() else { return Some(false) };
        // What used a part of it may stay: so in time a smaller one will do.
        let made = self.make_reserve((before - before / 16).max(RESERVE_MIN)).is_ok();
        if made {
            *given_up = None;
            self.gate.meter.set_reserve_is_out(false);
            self.gate.meter.reserve_due.store(0, Relaxed);
        }
        Some(made)
    }

    /// Gives the reserve the size that it should have; best effort.
    fn keep_reserve(&self) {
        let given_up = self.reserve.lock();
        let meter = &self.gate.meter;
        if given_up.is_some() || meter.is_disk_full() || !self.gate.has_keeper() {
            return;
        }
        let used = meter.used();
        let most = RESERVE_SEGMENTS * meter.segment_bytes();
        let (wanted, present) = ((used / RESERVE_SHARE).min(most) / RESERVE_MIN * RESERVE_MIN, meter.reserve_file());
        if wanted > present || present > most {
            // A disk that has no room for it is not asked again before the volume has grown.
            let _ = self.make_reserve(wanted);
        }
        // Small ones grow in steps, so that this is rare.
        let due = if wanted == most { u64::MAX } else { used.max(RESERVE_MIN * RESERVE_SHARE) / 4 * 5 };
        meter.reserve_due.store(due, Relaxed);
    }

    fn make_reserve(&self, bytes: u64) -> Result<()> {
        let made = self.storage.reserve(RESERVE, bytes);
        self.gate.meter.set_reserve_file(self.storage.length(RESERVE).unwrap_or(0));
        made.map_err(|e| Error::io("make", RESERVE, &e))
    }

    /// An event on the timeline; best effort.
    pub(crate) fn note_event(&self, document: &str) {
        if let Ok(lsn) = self.control(document.as_bytes()) {
            let _ = self.settle(lsn);
        }
    }

    fn count_links(&self) -> Result<()> {
        let content = self.manifest.lock().content.clone();
        let links = shared_files(&*self.storage, &content)?;
        let manifest = self.manifest.lock();
        if self.gate.meter.set_links(links, &manifest.content) {
            drop(manifest);
            self.gate.knock();
        }
        Ok(())
    }
}

/// The files that have more names than this volume's. One that is missing has none.
fn shared_files(storage: &dyn Storage, content: &Content) -> Result<HashSet<Named>> {
    let sealed = content.segments.values().filter(|s| s.sealed);
    let segments = sealed.map(|s| Named::Segment(s.id.0));
    let checkpoints = content.checkpoints.keys().map(|&id| Named::Checkpoint(id));
    let runs = content.runs.keys().map(|&id| Named::Run(id));
    let mut shared = HashSet::new();
    for name in segments.chain(checkpoints).chain(runs) {
        let file = name.file_name();
        match storage.links(&file) {
            Ok(links) if links > 1 => drop(shared.insert(name)),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("stat", &file, &e)),
        }
    }
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::options::Options;
    use crate::storage::Disk;
    use crate::units::Stamp;

    /// A bound for a hang, never a measure.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Bytes that do not shrink.
    fn noise() -> Vec<u8> {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()
        };
        (0..1 << 17).flat_map(|_| next()).collect()
    }

    /// Whoever makes room lets writes go on, not only the thread that compacts by itself.
    #[test]
    fn a_commit_that_frees_space_is_told_to_who_waits() {
        let folder = tempfile::tempdir().unwrap();
        let storage = || -> Arc<dyn Storage> { Arc::new(Disk::new(folder.path()).unwrap()) };
        Volume::create(storage(), [7; 16], 64 << 20, Stamp(1)).unwrap();
        let volume = Volume::open(storage(), None, Options::default()).unwrap();
        volume.background.join();
        volume.set_budget(Some(64 << 20), FullPolicy::DropOldest);
        let (say, heard) = mpsc::channel();
        let writing = volume.clone();
        let writer = thread::spawn(move || {
            let noise = noise();
            while writing.write(0, &noise).and_then(|lsn| writing.commit(lsn)).is_ok() {
                let _ = say.send(());
            }
        });
        let looks = PATIENCE.as_millis();
        let mut stalled = (0..looks).map(|_| {
            thread::park_timeout(Duration::from_millis(1));
            volume.is_stalled()
        });
        assert!(stalled.any(|stalled| stalled), "writes never waited");
        while heard.try_recv().is_ok() {}
        volume.flush().unwrap();
        volume.retain(volume.latest().0, &[]).unwrap();
        volume.compact(u64::MAX, &mut |_| Ok(())).unwrap();
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(()));
        volume.close().unwrap();
        writer.join().unwrap();
    }
}
