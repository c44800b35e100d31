//! A compacted segment: records that survived, each with its own LSN and stamp (docs/format.md, "Compacted segments").
//!
//! It is written once, in the order of LSNs, and sealed before a manifest names it: there is no torn tail to tell from rot. Its footer is the second
//! copy of its directories.

use crate::codec::*;
use crate::error::{Error, Result};
use crate::index::activity::Activity;
use crate::index::memtable::Memtable;
use crate::journal::batch::{shape_is_right, Entry, RecordKind, AREA_MAX, ENTRIES_MAX};
use crate::journal::manifest::SegmentItem;
use crate::journal::payload::{self, CRC_BYTES};
use crate::journal::recover::Volume;
use crate::journal::scan::Window;
use crate::journal::segment::{file_name, OpenSegment, FIRST_BATCH};
use crate::units::{round_up, PAGE};

const MAGIC: u32 = u32::from_le_bytes(*b"CDPK");
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
/// A batch is closed when it has this many entries or bytes of payload.
const BATCH_ENTRIES: usize = 4096;
const BATCH_BYTES: usize = 1 << 20;
/// Rows of activity that fit one payload of 1 MiB.
const ACTIVITY_ROWS: usize = 26_000;
const ACTIVITY_BYTES: usize = 40;

/// One directory entry, and where its payload lies in the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub start: u64,
    pub sectors: u64,
    pub kind: RecordKind,
    pub stored: u32,
    pub lsn: u64,
    pub stamp: u64,
    pub offset: u64,
}

impl Row {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut b = [0u8; ENTRY_BYTES];
        put_u48(&mut b, 0, self.start);
        put_u48(&mut b, 6, self.sectors);
        b[12] = self.kind as u8;
        put_u24(&mut b, 13, self.stored);
        put_u64(&mut b, 16, self.lsn);
        put_u64(&mut b, 24, self.stamp);
        out.extend_from_slice(&b);
    }

    fn parse(b: &[u8], offset: u64) -> Option<Row> {
        let kind = RecordKind::parse_compacted(b[12])?;
        let row = Row {
            start: u48_at(b, 0),
            sectors: u48_at(b, 6),
            kind,
            stored: u24_at(b, 13),
            lsn: u64_at(b, 16),
            stamp: u64_at(b, 24),
            offset,
        };
        row.is_right().then_some(row)
    }

    fn is_right(&self) -> bool {
        let &Row { start, sectors, kind, stored, .. } = self;
        match kind {
            RecordKind::Activity => start == 0 && sectors == 0 && stored >= CRC_BYTES as u32,
            _ => shape_is_right(&Entry { start, sectors, kind, continues: false, stored, stamp_delta: 0 }),
        }
    }
}

/// Gathers rows into batches and says what goes where.
pub struct Builder {
    nonce: u64,
    offset: u64,
    rows: Vec<Row>,
    payload: Vec<u8>,
    previous_lsn: u64,
    pub table: Memtable,
}

impl Builder {
    pub fn new(segment: u32, nonce: u64, clock_epoch: u32) -> Builder {
        let mut table = Memtable::new(segment);
        table.clock_epoch = clock_epoch;
        Builder { nonce, offset: FIRST_BATCH, rows: Vec::new(), payload: Vec::new(), previous_lsn: 0, table }
    }

    /// Bytes that the segment has with what was pushed, footer not included.
    pub fn bytes(&self) -> u64 {
        self.offset + (HEADER_BYTES + self.rows.len() * ENTRY_BYTES + self.payload.len()) as u64
    }

    /// Entries so far.
    pub fn entries(&self) -> usize {
        self.table.len() + self.rows.len()
    }

    /// Adds an entry with its stored payload. Its `offset` does not count.
    pub fn push(&mut self, row: Row, stored: &[u8]) {
        debug_assert_eq!(row.stored as usize, stored.len());
        self.rows.push(row);
        self.payload.extend_from_slice(stored);
    }

    pub fn is_full(&self) -> bool {
        self.rows.len() >= BATCH_ENTRIES || self.payload.len() >= BATCH_BYTES
    }

    /// What the replaced segments' footers say of activity, as the last entry.
    pub fn push_activity(&mut self, rows: &[Activity], lsn: u64, stamp: u64, volume: &Volume) {
        let mut stored = vec![0u8; CRC_BYTES];
        // Beyond the bound the oldest minutes go: a segment that spans weeks of them holds next to nothing a minute.
        for row in &rows[rows.len().saturating_sub(ACTIVITY_ROWS)..] {
            for word in [row.minute, row.data_records, row.zero_records, row.raw_bytes, row.stored_bytes] {
                stored.extend_from_slice(&word.to_le_bytes());
            }
        }
        let sum = crc(&stored[CRC_BYTES..]);
        payload::seal(&mut stored, sum, volume.nonce_of(lsn), lsn, 0);
        let (kind, length) = (RecordKind::Activity, stored.len() as u32);
        self.push(Row { start: 0, sectors: 0, kind, stored: length, lsn, stamp, offset: 0 }, &stored);
    }

    /// The bytes of the batch and where they go; None if nothing was pushed since the last one.
    pub fn take_batch(&mut self, volume: &Volume) -> Option<(u64, Vec<u8>)> {
        let last = self.rows.last()?.lsn;
        let mut bytes = vec![0u8; HEADER_BYTES];
        let mut at = self.offset + (HEADER_BYTES + self.rows.len() * ENTRY_BYTES) as u64;
        for row in &mut self.rows {
            row.offset = at;
            at += u64::from(row.stored);
            row.encode(&mut bytes);
        }
        put_u32(&mut bytes, 0, MAGIC);
        put_u64(&mut bytes, 8, self.rows[0].lsn);
        put_u64(&mut bytes, 16, self.previous_lsn);
        put_u32(&mut bytes, 40, self.offset as u32);
        put_u32(&mut bytes, 44, self.rows.len() as u32);
        put_u32(&mut bytes, 52, self.payload.len() as u32);
        let sum = crc_nonce(&bytes[8..], self.nonce);
        put_u32(&mut bytes, 4, sum);
        bytes.append(&mut self.payload);
        let offset = self.offset;
        for row in std::mem::take(&mut self.rows) {
            let begin = (row.offset - offset) as usize;
            add(&mut self.table, &row, bytes.get(begin..begin + row.stored as usize), volume);
        }
        self.previous_lsn = last;
        self.offset = round_up(at, PAGE);
        Some((offset, bytes))
    }
}

/// Adds one entry, whose stored payload is whole, or None, to the table of its segment.
fn add(table: &mut Memtable, row: &Row, stored: Option<&[u8]>, volume: &Volume) {
    let intact = |b: &&[u8]| payload::is_intact(b, volume.nonce_of(row.lsn), row.lsn, row.start);
    let wanted = matches!(row.kind, RecordKind::Control | RecordKind::Activity);
    let content = stored.filter(|_| wanted).filter(intact).map(|b| &b[CRC_BYTES..]);
    table.push_row(row, content.filter(|_| row.kind == RecordKind::Control).map(<[u8]>::to_vec));
    if row.kind == RecordKind::Activity {
        activity_rows(content.unwrap_or_default()).for_each(|activity| table.add_activity(activity));
    }
}

fn activity_rows(content: &[u8]) -> impl Iterator<Item = Activity> + '_ {
    content.chunks_exact(ACTIVITY_BYTES).map(|b| Activity {
        minute: u64_at(b, 0),
        data_records: u64_at(b, 8),
        zero_records: u64_at(b, 16),
        raw_bytes: u64_at(b, 24),
        stored_bytes: u64_at(b, 32),
    })
}

/// A compacted segment, read from its batches.
pub struct Contents {
    pub table: Memtable,
    pub rows: Vec<Row>,
    /// End of the last payload.
    pub tail_offset: u64,
    /// Offsets at which no valid batch stands where one should.
    pub damaged: Vec<u64>,
}

/// Reads the batches. Where some are lost, one *damaged* entry for the whole volume stands at the first LSN that may be missing.
pub fn read(segment: &OpenSegment, item: &SegmentItem, volume: &Volume) -> Result<Contents> {
    let io = |e: std::io::Error| Error::io("read", &file_name(segment.id), &e);
    let mut window = Window::new(&*segment.file);
    let mut table = Memtable::new(segment.id.0);
    table.clock_epoch = item.clock_epoch;
    let mut contents = Contents { table, rows: Vec::new(), tail_offset: FIRST_BATCH, damaged: Vec::new() };
    let mut at = FIRST_BATCH;
    let mut last = 0;
    while at < item.footer_offset {
        let Some((previous, rows)) = batch_at(&mut window, at, item.footer_offset, segment.nonce).map_err(io)? else {
            contents.damaged.push(at);
            at += PAGE;
            continue;
        };
        if previous != last {
            contents.table.push_lost(last.max(item.first_lsn.0 - 1) + 1, previous, item.first_stamp);
        }
        for row in rows {
            let stored = window.get(row.offset, row.stored as usize).map_err(io)?;
            add(&mut contents.table, &row, stored, volume);
            (at, last) = (row.offset + u64::from(row.stored), row.lsn);
            contents.rows.push(row);
        }
        contents.tail_offset = at;
        at = round_up(at, PAGE);
    }
    if contents.rows.len() < item.entries as usize
        && contents.damaged.last().is_some_and(|&at| at >= contents.tail_offset)
    {
        let first = last.max(item.first_lsn.0 - 1) + 1;
        contents.table.push_lost(first.min(item.last_lsn.0), item.last_lsn.0, item.first_stamp);
    }
    contents.table.set_bounds((item.first_lsn.0, item.first_stamp), (item.last_lsn.0, item.last_stamp));
    Ok(contents)
}

/// The LSN before the batch at this offset and its rows; None if there is no valid one.
fn batch_at(window: &mut Window<'_>, at: u64, end: u64, nonce: u64) -> std::io::Result<Option<(u64, Vec<Row>)>> {
    let Some(header) = window.get(at, HEADER_BYTES)?.map(<[u8]>::to_vec) else { return Ok(None) };
    let (entries, payload_bytes) = (u32_at(&header, 44), u32_at(&header, 52));
    let bounded = entries > 0 && entries <= ENTRIES_MAX && payload_bytes <= AREA_MAX;
    if u32_at(&header, 0) != MAGIC || u64::from(u32_at(&header, 40)) != at || !bounded {
        return Ok(None);
    }
    let meta_bytes = HEADER_BYTES + entries as usize * ENTRY_BYTES;
    if at + meta_bytes as u64 + u64::from(payload_bytes) > end {
        return Ok(None);
    }
    let whole = window.get(at, meta_bytes)?.filter(|b| u32_at(b, 4) == crc_nonce(&b[8..], nonce));
    let Some(directory) = whole.map(|b| b[HEADER_BYTES..].to_vec()) else { return Ok(None) };
    Ok(rows_of(&directory, at + meta_bytes as u64, payload_bytes).map(|rows| (u64_at(&header, 16), rows)))
}

fn rows_of(directory: &[u8], payload_offset: u64, payload_bytes: u32) -> Option<Vec<Row>> {
    let mut offset = payload_offset;
    let mut rows: Vec<Row> = Vec::with_capacity(directory.len() / ENTRY_BYTES);
    for bytes in directory.chunks_exact(ENTRY_BYTES) {
        let row = Row::parse(bytes, offset)?;
        if rows.last().is_some_and(|before| before.lsn > row.lsn) {
            return None;
        }
        offset += u64::from(row.stored);
        rows.push(row);
    }
    (offset == payload_offset + u64::from(payload_bytes)).then_some(rows)
}
