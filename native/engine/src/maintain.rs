//! Work beside the path of a write: footers for ended segments, the next spare, the note of an idle writer.
//!
//! Invariants: a segment is sealed in the manifest only when its bytes and footer are durable; the spare is durable and named
//! before the writer may use it; one at a time does this work.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::append::open_item;
use crate::error::{Error, Kind, Result};
use crate::index::footer::{self, Site};
use crate::index::memtable::Memtable;
use crate::index::sealed::Sealed;
use crate::journal::manifest::{Edit, SegmentItem, StateItem};
use crate::journal::segment::{self, file_name, OpenSegment};
use crate::journal::writer::Writer;
use crate::options::Maintenance;
use crate::space::{Class, Verdict};
use crate::storage::{File, Storage};
use crate::units::{round_up, Lsn, SegmentId, PAGE};
use crate::volume::Volume;

/// How long a writer may be idle before it notes what became durable.
const IDLE: Duration = Duration::from_millis(500);

/// A segment that the writer left.
#[derive(Clone)]
pub struct Ended {
    pub segment: OpenSegment,
    pub tail_offset: u64,
    pub previous_lsn: u64,
}

impl Ended {
    /// With a descriptor of its own: the kernel tells each descriptor of a failed write-back once, so that neither the sync of the footer nor a
    /// FLUSH can take the other's error away.
    pub fn of(storage: &dyn Storage, writer: &Writer) -> Result<Ended> {
        let file = segment::open_file(storage, writer.segment.id, true)?;
        let segment = OpenSegment { file, ..writer.segment.clone() };
        Ok(Ended { segment, tail_offset: writer.offset(), previous_lsn: writer.segment_previous_lsn })
    }
}

#[derive(Default)]
pub struct Wake {
    stop: bool,
    started: bool,
    ended: VecDeque<Ended>,
}

impl Volume {
    /// Hands an ended segment over.
    pub(crate) fn after_roll(&self, ended: Ended) {
        let (wake, changed) = &*self.maintenance_wake;
        wake.lock().ended.push_back(ended);
        changed.notify_all();
        if self.options.maintenance == Maintenance::Inline {
            // The batch that caused the roll has its room already; a failure here is met again at the next roll.
            if let Err(error) = self.maintain().and_then(|()| self.tend_index()) {
                self.faults.note(error.message);
            }
        }
    }

    /// Keeps lookups short. The checkpoint first: it reads what a merge would mix with what lies before.
    ///
    /// It waits while there is no room, which is the writer's and compaction's, and is tried again when one more segment was sealed.
    fn tend_index(&self) -> Result<()> {
        self.drop_old_checkpoints()?;
        let sealed = self.index.sealed().last().map_or(0, |s| s.item.last_lsn.0);
        if self.index_waits.load(Ordering::Relaxed) == sealed {
            return Ok(());
        }
        match self.checkpoint_if_due().and_then(|()| self.merge_if_due()) {
            Err(e) if e.kind == Kind::NoSpace => self.index_waits.store(sealed, Ordering::Relaxed),
            other => other?,
        }
        Ok(())
    }

    /// NoSpace if the index may not grow by so much: a disk that is full, or a budget that is reached.
    pub(crate) fn room_for_index(&self, bytes: u64) -> Result<()> {
        if self.gate.meter.judge(bytes, Class::Data) == Verdict::Full {
            return Err(Error::new(Kind::NoSpace, "the index waits for room"));
        }
        Ok(())
    }

    /// Seals what was ended and makes the spare: that first, as the writer waits for nothing else.
    pub(crate) fn maintain(&self) -> Result<()> {
        let made = self.make_spare();
        self.seal_ended()?;
        made
    }

    /// Bytes of segments that wait to be sealed.
    pub(crate) fn ended_bytes(&self) -> u64 {
        self.maintenance_wake.0.lock().ended.iter().map(|ended| ended.tail_offset).sum()
    }

    pub(crate) fn seal_ended(&self) -> Result<()> {
        let _one_at_a_time = self.maintenance.lock();
        loop {
            let ended = self.maintenance_wake.0.lock().ended.front().cloned();
            let Some(ended) = ended else { break };
            self.seal(&ended)?;
            self.maintenance_wake.0.lock().ended.pop_front();
        }
        Ok(())
    }

    fn seal(&self, ended: &Ended) -> Result<()> {
        // After a failed sync a second one may succeed, and mean nothing.
        self.check_writable()?;
        let tables = self.index.frozen();
        let Some(table) = tables.iter().find(|t| t.segment == ended.segment.id.0) else {
            return Ok(());
        };
        let epoch = self.manifest.lock().content.state.epoch;
        let item = write_footer(&ended.segment, table, ended.tail_offset, ended.previous_lsn, epoch)?;
        // The sync of the footer is the sync of its segment's records too.
        let synced = ended.segment.file.sync();
        synced.map_err(|e| self.poison(format!("a sync of {} failed: {e}", file_name(item.id))))?;
        // The writer's own descriptor knows of failures before the other was opened; it is done with.
        let synced = self.durability.settle_left(item.id);
        synced.map_err(|e| self.poison(format!("a sync of {} failed: {e}", file_name(item.id))))?;
        self.check_writable()?;
        let committed = self.manifest.lock().commit(&[Edit::SetSegment(item.clone())]);
        committed.map_err(|e| self.commit_failed(e))?;
        self.index.seal(Arc::new(Sealed::new(item, self.facts.clone(), self.faults.clone())));
        Ok(())
    }

    /// Makes the next segment, unless there is one.
    pub(crate) fn make_spare(&self) -> Result<()> {
        let _one_at_a_time = self.making_spare.lock();
        if self.spare.lock().is_some() || !self.maintenance_wake.0.lock().started {
            return Ok(());
        }
        self.check_writable()?;
        let mut manifest = self.manifest.lock();
        let state = manifest.content.state;
        if state.clean {
            return Ok(());
        }
        let id = manifest.content.next_segment();
        let spare = segment::create(&*self.storage, &self.id, id, state.epoch, true)?;
        let edits = [Edit::State(StateItem { next_segment: id.0 + 1, ..state }), open_item(&spare, state.epoch)];
        manifest.commit(&edits).map_err(|e| self.commit_failed(e))?;
        *self.spare.lock() = Some(spare);
        Ok(())
    }

    /// Appends what an idle writer owes: echoes, and the LSN known durable. For simulations; a volume with a thread does it by itself.
    pub fn tick(&self) -> Result<()> {
        if self.options.maintenance == Maintenance::Inline {
            self.maintain()?;
            self.tend_index()?;
        }
        self.note_idle()
    }

    pub(crate) fn note_idle(&self) -> Result<()> {
        if self.poison.get().is_some() || self.ring.has_pending() || !self.ring.try_lead() {
            return Ok(());
        }
        let result = match self.writer.lock().as_mut() {
            Some(writer) if writer.has_news(self.durability.record()) => self.append_empty(writer),
            _ => Ok(()),
        };
        self.ring.finish(0, Vec::new());
        result
    }

    /// The orderly end: everything appended, durable, sealed, and said so.
    pub(crate) fn finish(&self) -> Result<()> {
        while self.ring.has_pending() {
            if self.ring.try_lead() {
                self.lead();
            } else {
                self.ring.wait_done(u64::MAX);
            }
        }
        // Whoever leads now has nothing left to take; wait for the last one.
        while !self.ring.try_lead() {
            self.ring.wait_done(u64::MAX);
        }
        if let Some(why) = self.poison.get() {
            return Err(Error::new(Kind::Poisoned, format!("the volume was not stopped cleanly: {why}")));
        }
        let Some(mut writer) = self.writer.lock().take() else {
            return Ok(());
        };
        let ended = self.with_reserve(|| self.leave_writer(&mut writer))?;
        self.index.rotate(0, 0);
        if writer.entries > 0 {
            self.maintenance_wake.0.lock().ended.push_back(ended);
        }
        self.with_reserve(|| self.seal_ended())?;
        self.with_reserve(|| self.commit_clean())
    }

    /// Nothing is owed to the active segment any more.
    fn leave_writer(&self, writer: &mut Writer) -> Result<Ended> {
        if writer.has_news(self.durability.record()) {
            self.append_empty(writer)?;
        }
        writer.scrub()?;
        Ended::of(&*self.storage, writer)
    }

    fn commit_clean(&self) -> Result<()> {
        let (next_lsn, last_stamp, clock_epoch) = self.ring.clock();
        let mut manifest = self.manifest.lock();
        let open: Vec<SegmentId> = manifest.content.segments.values().filter(|s| !s.sealed).map(|s| s.id).collect();
        let state = manifest.content.state;
        let state = StateItem { clean: true, next_lsn: Lsn(next_lsn), last_stamp, clock_epoch, ..state };
        let mut edits = vec![Edit::State(state)];
        edits.extend(open.iter().map(|&id| Edit::DropSegment(id)));
        manifest.commit(&edits).map_err(|e| self.commit_failed(e))?;
        // Not named any more; what a failure leaves is removed at the next opening.
        open.iter().for_each(|&id| drop(self.storage.remove(&file_name(id))));
        Ok(())
    }

    pub(crate) fn start_maintenance(self: &Volume) {
        self.maintenance_wake.0.lock().started = true;
        self.maintenance_wake.1.notify_all();
    }

    pub(crate) fn stop_maintenance(&self) {
        self.maintenance_wake.0.lock().stop = true;
        self.maintenance_wake.1.notify_all();
    }
}

/// Starts the volume's thread. It holds no strong reference while it waits, so that dropping the volume ends it.
pub(crate) fn spawn(volume: &Arc<Volume>) -> Result<()> {
    let weak: Weak<Volume> = Arc::downgrade(volume);
    let shared = volume.maintenance_wake.clone();
    let thread = std::thread::Builder::new().name("cdp-maintain".into()).stack_size(1 << 20);
    let spawned = thread.spawn(move || run(&weak, &shared));
    let thread = spawned.map_err(|e| Error::io("start", "the volume's thread", &e))?;
    *volume.maintenance_thread.lock() = Some(thread);
    Ok(())
}

fn run(volume: &Weak<Volume>, shared: &(Mutex<Wake>, Condvar)) {
    let (wake, changed) = shared;
    loop {
        {
            let mut wake = wake.lock();
            if !wake.started && !wake.stop {
                changed.wait(&mut wake);
            } else if wake.ended.is_empty() && !wake.stop {
                changed.wait_for(&mut wake, IDLE);
            }
            if wake.stop {
                return;
            }
            if !wake.started {
                continue;
            }
        }
        let Some(volume) = volume.upgrade() else { return };
        if volume.is_closed() {
            return;
        }
        if let Err(error) = volume.maintain().and_then(|()| volume.note_idle()).and_then(|()| volume.tend_index()) {
            if error.kind != Kind::NoSpace {
                volume.faults.note(error.message);
            }
            // A full disk or a failing one: look again, but not in a loop.
            drop(volume);
            let mut wake = wake.lock();
            if !wake.stop {
                changed.wait_for(&mut wake, IDLE);
            }
        }
    }
}

/// Writes the footer of a segment behind its tail and whatever else the file has there: a torn tail is to stay as it is. Durable when the
/// caller has synced the file.
pub(crate) fn write_footer(
    segment: &OpenSegment,
    table: &Memtable,
    tail_offset: u64,
    previous_lsn: u64,
    epoch: u64,
) -> Result<SegmentItem> {
    let name = file_name(segment.id);
    let failed = |e: std::io::Error| Error::io("write the footer of", &name, &e);
    let offset = round_up(segment.file.len().map_err(failed)?.max(tail_offset), PAGE);
    let tail_crc = crc_of_range(&*segment.file, tail_offset, offset).map_err(failed)?;
    let bytes = footer::build(table, segment.nonce, Site { offset, tail_offset, tail_crc });
    segment.file.write_at(&bytes, offset).map_err(failed)?;
    segment.file.free_behind();
    let unknown = (previous_lsn + 1, 0);
    let (first, last) = (table.first().unwrap_or(unknown), table.last().unwrap_or(unknown));
    Ok(SegmentItem {
        sealed: true,
        compacted: false,
        id: segment.id,
        nonce: segment.nonce,
        epoch,
        clock_epoch: table.clock_epoch,
        entries: table.len() as u32,
        first_lsn: Lsn(first.0),
        last_lsn: Lsn(last.0),
        first_stamp: first.1,
        last_stamp: last.1,
        footer_offset: offset,
        file_bytes: offset + bytes.len() as u64,
        previous_lsn: Lsn(previous_lsn),
    })
}

/// CRC-32C of a range; what lies beyond the end of the file counts as zeros, which it will be.
pub(crate) fn crc_of_range(file: &dyn File, start: u64, end: u64) -> std::io::Result<u32> {
    let mut sum = 0;
    let mut at = start;
    let mut buffer = vec![0u8; (1 << 20).min((end - start) as usize)];
    while at < end {
        let n = buffer.len().min((end - at) as usize);
        let got = file.read_at(&mut buffer[..n], at)?;
        buffer[got..n].fill(0);
        sum = crc32c::crc32c_append(sum, &buffer[..n]);
        at += n as u64;
    }
    Ok(sum)
}
