//! The way of a write: ring → batch → segment → index. Everything here is done by the one leader.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering;

use crate::error::{Error, Kind, Result};
use crate::haste::{self, LARGE};
use crate::journal::manifest::{Edit, SegmentItem, StateItem};
use crate::journal::segment::{self, OpenSegment};
use crate::journal::writer::{journal_bytes, Writer};
use crate::maintain::Ended;
use crate::request::{Piece, Request};
use crate::ring::Failure;
use crate::rollback;
use crate::units::{Lsn, SegmentId, SECTOR};
use crate::volume::Volume;

/// Stamps of one batch may differ by what fits 32 bits of nanoseconds.
const STAMP_SPAN_MAX: u64 = u32::MAX as u64;

impl Volume {
    /// Writes what is pending, as the leader. Ends the lead.
    pub(crate) fn lead(&self) {
        let mut requests = Vec::new();
        // Small segments are not to be left half empty.
        let most = self.options.batch_bytes.min(self.gate.meter.segment_bytes() as usize / 4);
        self.ring.take(most, &mut requests);
        let Some(last) = requests.last().map(|r| r.lsn) else {
            self.ring.finish(0, Vec::new());
            return;
        };
        let mut failed = Vec::new();
        let lsns: Vec<u64> = requests.iter().map(|r| r.lsn).collect();
        let appended = catch_unwind(AssertUnwindSafe(|| self.append_all(requests, &mut failed)));
        if appended.is_err() {
            // A bug; whoever waits must not wait for ever, and nothing may be built on what it left.
            let error = self.poison("the writer panicked".to_owned());
            failed = lsns.into_iter().map(|lsn| (lsn, error.clone().into())).collect();
        }
        self.index.pass_over(last);
        self.ring.finish(last, failed);
    }

    /// Cuts the requests into batches and appends them; those that fail are named with the reason.
    fn append_all(&self, requests: Vec<Request>, failed: &mut Vec<(u64, Failure)>) {
        let mut batch: Vec<Request> = Vec::with_capacity(requests.len());
        for mut request in requests {
            if request.has_edges() {
                // What lies around the edges is what the records before left.
                self.append_or_fail(&mut batch, failed);
                request.remember();
                if let Err(error) = request.merge_edges(|sector, content| self.read_edge(sector, content)) {
                    failed.push((request.lsn, error.into()));
                }
            }
            if !batch.is_empty() && !goes_with(&batch[0], &request) {
                self.append_or_fail(&mut batch, failed);
            }
            batch.push(request);
        }
        self.append_or_fail(&mut batch, failed);
    }

    fn append_or_fail(&self, batch: &mut Vec<Request>, failed: &mut Vec<(u64, Failure)>) {
        if batch.is_empty() {
            return;
        }
        match self.append(batch) {
            Ok(()) => self.disk_took(batch),
            Err(error) => self.refused(batch, error, failed),
        }
        batch.clear();
    }

    /// What the disk refused waits, if that is the policy; what must not wait is tried alone, with the reserve.
    fn refused(&self, batch: &mut Vec<Request>, error: Error, failed: &mut Vec<(u64, Failure)>) {
        if error.kind == Kind::NoSpace {
            self.gate.disk_filled();
        }
        let waits = self.waits_for_disk(&error);
        for request in batch.drain(..) {
            let lsn = request.lsn;
            if request.may_wait() {
                let again = waits.then(|| request.again());
                failed.push((lsn, Failure { error: error.clone(), again }));
                continue;
            }
            let mut alone = [request];
            let outcome = match error.kind {
                Kind::NoSpace => self.with_reserve(|| self.append(&mut alone)),
                _ => Err(error.clone()),
            };
            // One that failed before keeps its reason.
            if let (Err(error), false) = (outcome, failed.iter().any(|(known, _)| *known == lsn)) {
                failed.push((lsn, error.into()));
            }
        }
    }

    /// Appends one batch to the active segment, rolling it first where it is full, and publishes it.
    fn append(&self, batch: &mut [Request]) -> Result<()> {
        self.check_writable()?;
        let bytes: u64 = batch.iter().map(journal_bytes).sum();
        let entries: usize = batch.iter().map(|r| r.pieces.len()).sum();
        let mut guard = self.writer.lock();
        self.make_room(&mut guard, bytes, entries, &batch[0])?;
        // Rolling may have met the end of all writing.
        self.check_writable()?;
        let Some(writer) = guard.as_mut() else {
            return Err(Error::new(Kind::Closed, "the volume has no active segment"));
        };
        let next = batch[0].lsn;
        let begun = (bytes >= LARGE as u64).then(haste::begin);
        let meta = writer.append(batch, next, self.durability.record())?;
        begun.inspect(|&begun| self.haste.appended(bytes, begun));
        batch.iter().for_each(|request| self.haste.count(request));
        writer.run_ahead(&meta.header, self.gate.meter.segment_bytes());
        if !self.gate.meter.is_disk_full() {
            writer.allocate(self.gate.meter.segment_bytes());
        }
        if self.gate.meter.appended(writer.segment.id.0, writer.offset()) {
            self.background.call();
        }
        let documents: Vec<Option<Vec<u8>>> = batch.iter().filter_map(control_document).map(Some).collect();
        let resized = self.note_controls(batch);
        let rollbacks = rollbacks_in(batch);
        self.index.publish(&meta, &mut documents.into_iter(), meta.last_lsn(), &rollbacks);
        if resized || !rollbacks.is_empty() {
            self.size.store(self.size_at(Lsn(meta.last_lsn())), Ordering::Relaxed);
        }
        Ok(())
    }

    /// True if there is a resize among them.
    fn note_controls(&self, batch: &[Request]) -> bool {
        let mut resized = false;
        for request in batch {
            if let Some(document) = listed_document(request) {
                resized |= self.sizes.lock().note(request.lsn, &document);
                let control = crate::index::memtable::Control { lsn: request.lsn, stamp: request.stamp, document };
                self.controls.lock().push(control);
            }
        }
        resized
    }

    /// Leaves in `guard` a writer that has room for the batch and belongs to its clock epoch.
    fn make_room(&self, guard: &mut Option<Writer>, bytes: u64, entries: usize, first: &Request) -> Result<()> {
        let Some(writer) = guard.as_mut() else {
            *guard = Some(self.start_epoch(first)?);
            return Ok(());
        };
        let empty = writer.entries == 0;
        // While writes wait for the budget, what tells of it ends the segment: only one that is sealed and not the newest can be compacted, and no
        // write would come to fill it. A smaller budget may find all data in it.
        let let_go = !first.may_wait() && self.gate.is_stalled() && !self.gate.meter.is_disk_full();
        let fits = writer.offset() + bytes <= self.gate.meter.segment_bytes()
            && writer.entries + entries <= self.options.segment_entries
            && !let_go;
        if writer.clock_epoch == first.clock_epoch && (empty || fits) {
            return Ok(());
        }
        if empty {
            writer.clock_epoch = first.clock_epoch;
            return Ok(());
        }
        self.roll(writer, first.lsn, first.clock_epoch)
    }

    /// The first write of this run: an epoch, its first segment and the spare, all durable before any of its LSNs is.
    fn start_epoch(&self, first: &Request) -> Result<Writer> {
        let mut manifest = self.manifest.lock();
        let state = manifest.content.state;
        let previous = self.index.sealed().last().map_or(0, |sealed| sealed.item.last_lsn.0);
        let id = manifest.content.next_segment();
        let spare_id = SegmentId(id.0 + 1);
        let epoch = state.epoch + 1;
        let active = segment::create(&*self.storage, &self.id, id, epoch, false)?;
        let spare = segment::create(&*self.storage, &self.id, spare_id, epoch, true)?;
        let state = StateItem { clean: false, epoch, next_lsn: Lsn(first.lsn), next_segment: spare_id.0 + 1, ..state };
        let edits = [Edit::State(state), open_item(&active, epoch), open_item(&spare, epoch)];
        manifest.commit(&edits).map_err(|e| self.commit_failed(e))?;
        drop(manifest);
        self.index.files.put(id.0, active.file.clone());
        self.index.rotate(id.0, first.lsn);
        *self.spare.lock() = Some(spare);
        self.start_maintenance();
        Ok(Writer::new(active, self.facts.nonce(), previous, first.clock_epoch))
    }

    /// Ends the active segment and goes on in the spare one, with `next_lsn` or a larger one.
    pub(crate) fn roll(&self, writer: &mut Writer, next_lsn: u64, clock_epoch: u32) -> Result<()> {
        self.look_at_disk();
        self.bound_frozen(writer)?;
        self.make_spare()?;
        if writer.has_news(self.durability.record()) {
            self.append_empty(writer)?;
        }
        writer.scrub()?;
        let ended = Ended::of(&*self.storage, writer)?;
        let Some(next) = self.spare.lock().take() else {
            return Err(Error::new(Kind::NoSpace, "there is no spare segment"));
        };
        self.durability.leave(writer.segment.id, writer.segment.file.clone());
        self.index.files.put(next.id.0, next.file.clone());
        self.index.rotate(next.id.0, next_lsn);
        *writer = writer.go_on(next, clock_epoch);
        self.after_roll(ended);
        Ok(())
    }

    /// What is not sealed is in memory, and is scanned after a crash: besides what is written now, as much as one full segment holds. Small segments need not
    /// wait for the sync of the one before.
    fn bound_frozen(&self, writer: &Writer) -> Result<()> {
        let frozen = self.index.frozen();
        let entries: usize = frozen.iter().map(|table| table.len()).sum::<usize>() + writer.entries;
        let bytes: u64 = self.ended_bytes() + writer.offset();
        if !frozen.is_empty() && (entries > self.options.segment_entries || bytes > self.options.segment_bytes) {
            self.seal_ended()?;
        }
        Ok(())
    }

    /// Writes echoes and the LSN known durable, without a record. It stands at the LSN behind the last record: numbers that were given to writes that
    /// failed are not this segment's.
    pub(crate) fn append_empty(&self, writer: &mut Writer) -> Result<()> {
        let next_lsn = writer.previous_lsn + 1;
        let meta = writer.append(&mut [], next_lsn, self.durability.record())?;
        if self.gate.meter.appended(writer.segment.id.0, writer.offset()) {
            self.background.call();
        }
        self.index.note(&meta);
        Ok(())
    }

    /// The content of one sector as the records before left it.
    fn read_edge(&self, sector: u64, content: &mut [u8]) -> Result<()> {
        let faults = self.read(crate::index::map::At::Live, sector * SECTOR, content, None)?;
        match faults.first() {
            None => Ok(()),
            Some(fault) => {
                Err(Error::new(fault.kind, format!("the rest of the sector cannot be read: {}", fault.message)))
            }
        }
    }
}

/// True if both may stand in one batch.
fn goes_with(first: &Request, request: &Request) -> bool {
    first.clock_epoch == request.clock_epoch && request.stamp - first.stamp <= STAMP_SPAN_MAX
}

/// (LSN, to) of the rollbacks among the requests.
fn rollbacks_in(batch: &[Request]) -> Vec<(u64, u64)> {
    let rollback = |request: &Request| match request.pieces[..] {
        [Piece::Rollback { to }] => Some((request.lsn, to)),
        _ => None,
    };
    batch.iter().filter_map(rollback).collect()
}

/// What stands in the list of control records.
fn listed_document(request: &Request) -> Option<Vec<u8>> {
    match request.pieces[..] {
        [Piece::Rollback { to }] => Some(rollback::document(to)),
        _ => control_document(request),
    }
}

fn control_document(request: &Request) -> Option<Vec<u8>> {
    let is_control = matches!(request.pieces[..], [Piece::Control { .. }]);
    is_control.then(|| request.payload[crate::journal::payload::CRC_BYTES..].to_vec())
}

pub(crate) fn open_item(segment: &OpenSegment, epoch: u64) -> Edit {
    Edit::SetSegment(SegmentItem { id: segment.id, nonce: segment.nonce, epoch, ..SegmentItem::default() })
}
