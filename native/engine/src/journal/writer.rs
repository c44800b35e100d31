//! The writer of the active segment: turns requests into one batch and appends it with one write.
//!
//! Invariants: only the leader appends; a page that held acknowledged durable bytes is never written again; what a failed append left is
//! zeroed before a sync or the next batch; what is written ahead is zeros. Roll the segment before a batch that would not fit.

use std::io::{self, IoSlice};

use crate::codec::put_u32;
use crate::error::{Error, Result};
use crate::journal::batch::{Entry, Header, Meta, RecordKind, ALIGN, ENTRY_BYTES, HEADER_BYTES};
use crate::journal::payload;
use crate::journal::segment::{file_name, OpenSegment, FIRST_BATCH};
use crate::request::{Piece, Request};
use crate::units::{round_up, PAGE};

/// A sync after so few bytes is one that a client waits for, and after so many of them the next one is likely to be, too.
const FEW_BYTES: u64 = 64 << 10;
const FLUSHES: u32 = 8;
/// Zeros written ahead at a time. A sync in blocks that are written has nothing of the file's metadata to write, which takes a fifth of its time; more at a
/// time is a longer wait for who comes first.
const AHEAD_BYTES: u64 = 1 << 20;

/// From this offset on, blocks are allocated before they are written: one by one they cost as much as the write, and come to lie all over the disk. A volume that is hardly used takes none; then
/// as many at a time as there are already, within these bounds.
const ALLOCATE_FROM: u64 = 1 << 20;
/// Fewer allocated bytes than this before the writer are too few.
const ALLOCATE_LEFT: u64 = 1 << 20;
const ALLOCATE_MIN: u64 = 16 << 20;
const ALLOCATE_MAX: u64 = 32 << 20;

/// Payloads of at least so many bytes each, and at most so many of them, are not copied together.
const VECTORED_MIN: usize = 16 << 10;
const VECTORED_MAX: usize = 512;

/// The header and directory of a batch that still has to be written a second time.
struct Pending {
    meta: Vec<u8>,
    last_page: u64,
}

pub struct Writer {
    pub segment: OpenSegment,
    volume_nonce: u64,
    /// End of the last batch.
    offset: u64,
    fresh_page: bool,
    /// Syncs in a row after few bytes, and where the last one was.
    flushes: u32,
    synced: u64,
    /// The file is written up to here, with zeros behind the last batch.
    ahead: u64,
    /// The file has blocks up to here, as far as the disk gave them.
    allocated: u64,
    pub entries: usize,
    pub previous_lsn: u64,
    /// The last record before this segment.
    pub segment_previous_lsn: u64,
    pub clock_epoch: u32,
    pending: Vec<Pending>,
    /// The durable LSN of the last header.
    noted_durable: u64,
    buffer: Vec<u8>,
    /// Where a failed append may have left a batch that nobody was told of.
    failed: Option<(u64, u64)>,
}

impl Writer {
    pub fn new(segment: OpenSegment, volume_nonce: u64, previous_lsn: u64, clock_epoch: u32) -> Writer {
        Writer {
            segment,
            volume_nonce,
            offset: FIRST_BATCH,
            fresh_page: false,
            flushes: 0,
            synced: FIRST_BATCH,
            ahead: FIRST_BATCH,
            allocated: FIRST_BATCH,
            entries: 0,
            previous_lsn,
            segment_previous_lsn: previous_lsn,
            clock_epoch,
            pending: Vec::new(),
            noted_durable: previous_lsn,
            buffer: Vec::new(),
            failed: None,
        }
    }

    /// The writer of the next segment.
    pub fn go_on(&self, segment: OpenSegment, clock_epoch: u32) -> Writer {
        let next = Writer::new(segment, self.volume_nonce, self.previous_lsn, clock_epoch);
        Writer { noted_durable: self.noted_durable, flushes: self.flushes, ..next }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// To be called before a sync begins: what it covers lies in pages that are not written again.
    pub fn begin_page(&mut self) {
        self.fresh_page = true;
        let few = self.offset - self.synced <= FEW_BYTES;
        self.flushes = if few { self.flushes.saturating_add(1) } else { 0 };
        self.synced = self.offset;
    }

    /// To be called after a batch, while every few bytes are followed by a sync: begins to write what the next one will wait for, and writes zeros ahead, up
    /// to `limit`. Nothing depends on it.
    pub fn run_ahead(&mut self, batch: &Header, limit: u64) {
        if self.flushes < FLUSHES || self.offset - self.synced > FEW_BYTES {
            return;
        }
        let (at, end) = (u64::from(batch.offset), round_up(self.offset, PAGE));
        // A page that gets more before the sync is written once.
        if at % PAGE == 0 {
            self.segment.file.begin_writeback(at, end - at);
        }
        let until = (end + AHEAD_BYTES).min(limit / PAGE * PAGE);
        if end + FEW_BYTES > self.ahead && self.ahead < until {
            let start = self.ahead.max(end);
            // One call for all would make one large folio of the page cache, and then each batch in it costs as much as all of it does.
            let mut pages = (start..until).step_by(PAGE as usize);
            // Where there is no room for zeros there may be some for records.
            if pages.all(|page| self.segment.file.write_at(&[0; PAGE as usize], page).is_ok()) {
                self.segment.file.begin_writeback(start, until - start);
            }
            self.ahead = until;
        }
    }

    /// To be called after a batch: blocks for the next ones, up to `limit`. Nothing depends on it.
    pub fn allocate(&mut self, limit: u64) {
        if self.offset < ALLOCATE_FROM || self.offset + ALLOCATE_LEFT <= self.allocated {
            return;
        }
        let start = self.allocated.max(round_up(self.offset, PAGE));
        let until = (start + self.offset.clamp(ALLOCATE_MIN, ALLOCATE_MAX)).min(limit) / PAGE * PAGE;
        if start < until {
            self.segment.file.allocate(start, until - start);
            self.allocated = until;
        }
    }

    /// Zeroes what a failed append left. To be called before a sync, and before the segment is left: behind a batch that was refused and yet stands in the
    /// file, recovery would take the next one for torn.
    pub fn scrub(&mut self) -> Result<()> {
        let Some((start, end)) = self.failed else { return Ok(()) };
        let name = || file_name(self.segment.id);
        let length = self.segment.file.len().map_err(|e| Error::io("stat", &name(), &e))?;
        let zeros = vec![0u8; end.min(length).saturating_sub(start) as usize];
        self.segment.file.write_at(&zeros, start).map_err(|e| Error::io("write to", &name(), &e))?;
        self.failed = None;
        Ok(())
    }

    /// True if something should be written although no request came: echoes, or a new durable LSN.
    pub fn has_news(&self, durable_lsn: u64) -> bool {
        self.entries > 0 && (!self.pending.is_empty() || durable_lsn > self.noted_durable)
    }

    /// Appends the requests as one batch, or an empty batch in a fresh page. On an error nothing has changed.
    pub fn append(&mut self, requests: &mut [Request], next_lsn: u64, durable_lsn: u64) -> Result<Meta> {
        self.scrub()?;
        let fresh = self.fresh_page || requests.is_empty();
        let at = round_up(self.offset, if fresh { PAGE } else { ALIGN });
        let entries = directory(requests);
        let echoes = self.pending.iter().take_while(|p| p.last_page < at / PAGE).count();
        let payload_bytes: usize = entries.iter().map(|e| e.stored as usize).sum();
        let header = Header {
            first_lsn: requests.first().map_or(next_lsn, |r| r.lsn),
            previous_lsn: self.previous_lsn,
            base_stamp: requests.first().map_or(0, |r| r.stamp),
            durable_lsn,
            offset: at as u32,
            entries: entries.len() as u32,
            echo_bytes: self.pending[..echoes].iter().map(|p| p.meta.len() as u32).sum(),
            payload_bytes: payload_bytes as u32,
            clock_epoch: self.clock_epoch,
            // A sync is only ever made because somebody asked.
            flush_point: durable_lsn > self.noted_durable,
        };
        let mut raw = Vec::with_capacity(entries.len() * ENTRY_BYTES);
        entries.iter().for_each(|entry| entry.encode(&mut raw));
        let meta_bytes = header.encode(&raw, self.segment.nonce);
        if let Err(e) = self.write_batch(&meta_bytes, echoes, requests, at) {
            self.failed = Some((at, header.end()));
            return Err(Error::io("append to", &file_name(self.segment.id), &e));
        }
        self.pending.drain(..echoes);
        self.offset = header.end();
        self.fresh_page = false;
        self.noted_durable = durable_lsn;
        let meta = Meta { header, entries };
        if !meta.entries.is_empty() {
            let last_page = (at + meta_bytes.len() as u64 - 1) / PAGE;
            self.pending.push(Pending { meta: meta_bytes, last_page });
            self.entries += meta.entries.len();
            self.previous_lsn = meta.last_lsn();
        }
        if self.buffer.capacity() > 16 << 20 {
            self.buffer = Vec::new();
        }
        Ok(meta)
    }

    /// One write. Large payloads go from where they are, small ones through one buffer.
    fn write_batch(&mut self, meta: &[u8], echoes: usize, requests: &mut [Request], at: u64) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.extend_from_slice(meta);
        self.pending[..echoes].iter().for_each(|p| self.buffer.extend_from_slice(&p.meta));
        requests.iter_mut().for_each(|request| seal_payloads(request, self.volume_nonce));
        let payload_bytes: usize = requests.iter().map(|request| request.payload.len()).sum();
        let padding = (self.buffer.len() + payload_bytes).wrapping_neg() % ALIGN as usize;
        if payload_bytes >= VECTORED_MIN * requests.len().max(1) && requests.len() <= VECTORED_MAX {
            let payloads = requests.iter().map(|request| IoSlice::new(&request.payload));
            let padding = IoSlice::new(&[0; ALIGN as usize][..padding]);
            let all: Vec<_> = std::iter::once(IoSlice::new(&self.buffer)).chain(payloads).chain([padding]).collect();
            return self.segment.file.write_vectored_at(&all, at);
        }
        requests.iter().for_each(|request| self.buffer.extend_from_slice(&request.payload));
        self.buffer.resize(self.buffer.len() + padding, 0);
        self.segment.file.write_at(&self.buffer, at)
    }
}

/// Bytes that a request takes in a segment, at most.
pub fn journal_bytes(request: &Request) -> u64 {
    (request.payload.len() + 2 * request.pieces.len() * ENTRY_BYTES) as u64 + 2 * HEADER_BYTES as u64 + PAGE
}

fn directory(requests: &[Request]) -> Vec<Entry> {
    let base = requests.first().map_or(0, |r| r.stamp);
    let mut entries = Vec::with_capacity(requests.len());
    for request in requests {
        for (i, piece) in request.pieces.iter().enumerate() {
            let (kind, start, sectors, stored) = match *piece {
                Piece::Data { start, sectors, stored, .. } => (RecordKind::Data, start, u64::from(sectors), stored),
                Piece::Zeros { start, sectors, kind } => (kind, start, sectors, 0),
                Piece::Control { stored, .. } => (RecordKind::Control, 0, 0, stored),
                Piece::Rollback { to } => (RecordKind::Rollback, to, 0, 0),
                Piece::Edge { .. } | Piece::Void => (RecordKind::Void, 0, 0, 0),
            };
            debug_assert!(!matches!(piece, Piece::Edge { .. }), "edges are merged before a batch is written");
            let stamp_delta = (request.stamp - base) as u32;
            entries.push(Entry { start, sectors, kind, continues: i > 0, stored, stamp_delta });
        }
    }
    entries
}

/// Writes each payload's checksum, now that LSN and start are known.
fn seal_payloads(request: &mut Request, nonce: u64) {
    let mut at = 0;
    for piece in &request.pieces {
        let (stored, crc, start) = match *piece {
            Piece::Data { stored, crc, start, .. } => (stored as usize, crc, start),
            Piece::Control { stored, crc } => (stored as usize, crc, 0),
            _ => continue,
        };
        let room = &mut request.payload[at..at + stored];
        debug_assert!(room.len() > payload::CRC_BYTES || crc == crate::codec::crc(&[]));
        put_u32(room, 0, crate::codec::crc_payload(crc, nonce, request.lsn, start));
        at += stored;
    }
}
