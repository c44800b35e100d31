//! A batch: header, directory, echo, payloads (docs/format.md, "Batches"). Codecs only; nothing here reads or writes files.

use crate::codec::*;
use crate::units::round_up;

pub const MAGIC: u32 = u32::from_le_bytes(*b"CDPB");
pub const HEADER_BYTES: usize = 64;
pub const ENTRY_BYTES: usize = 20;
/// Batches start at multiples of this.
pub const ALIGN: u64 = 64;
/// Entries of one batch at most: a request of 64 MiB has 1024 payloads and two edges; the rest is slack for decoders.
pub const ENTRIES_MAX: u32 = 1 << 18;
/// Bytes of echo or payload of one batch at most, for decoders.
pub const AREA_MAX: u32 = 1 << 28;
const CONTINUES: u8 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    Data = 1,
    Zero = 2,
    Trim = 3,
    Void = 4,
    Control = 5,
    Damaged = 6,
    /// Its start is the LSN that it goes back to.
    Rollback = 7,
    /// In compacted segments only: what the replaced segments said of activity.
    Activity = 8,
}

impl RecordKind {
    fn parse(byte: u8) -> Option<RecordKind> {
        use RecordKind::*;
        [Data, Zero, Trim, Void, Control, Damaged, Rollback].into_iter().find(|&kind| kind as u8 == byte)
    }

    /// Of a compacted segment.
    pub fn parse_compacted(byte: u8) -> Option<RecordKind> {
        if byte == RecordKind::Activity as u8 {
            return Some(RecordKind::Activity);
        }
        RecordKind::parse(byte).filter(|&kind| kind != RecordKind::Void)
    }

    /// Zero and trim read as zeros; the others but data and damaged cover nothing.
    pub fn covers(self) -> bool {
        matches!(self, RecordKind::Data | RecordKind::Zero | RecordKind::Trim | RecordKind::Damaged)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Sectors.
    pub start: u64,
    pub sectors: u64,
    pub kind: RecordKind,
    /// Belongs to the record of the entry before.
    pub continues: bool,
    /// Bytes of its payload, checksum included.
    pub stored: u32,
    /// Nanoseconds above the batch's base stamp.
    pub stamp_delta: u32,
}

impl Entry {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0u8; ENTRY_BYTES];
        put_u48(&mut bytes, 0, self.start);
        put_u48(&mut bytes, 6, self.sectors);
        bytes[12] = self.kind as u8 | if self.continues { CONTINUES } else { 0 };
        put_u24(&mut bytes, 13, self.stored);
        put_u32(&mut bytes, 16, self.stamp_delta);
        out.extend_from_slice(&bytes);
    }

    fn parse(bytes: &[u8]) -> Option<Entry> {
        Some(Entry {
            start: u48_at(bytes, 0),
            sectors: u48_at(bytes, 6),
            kind: RecordKind::parse(bytes[12] & !CONTINUES)?,
            continues: bytes[12] & CONTINUES != 0,
            stored: u24_at(bytes, 13),
            stamp_delta: u32_at(bytes, 16),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub first_lsn: u64,
    pub previous_lsn: u64,
    pub base_stamp: u64,
    pub durable_lsn: u64,
    pub offset: u32,
    pub entries: u32,
    pub echo_bytes: u32,
    pub payload_bytes: u32,
    pub clock_epoch: u32,
    pub flush_point: bool,
}

impl Header {
    /// Header and directory as they stand on disk, checksum included.
    pub fn encode(&self, directory: &[u8], nonce: u64) -> Vec<u8> {
        debug_assert_eq!(directory.len(), self.entries as usize * ENTRY_BYTES);
        let mut b = vec![0u8; HEADER_BYTES];
        put_u32(&mut b, 0, MAGIC);
        put_u64(&mut b, 8, self.first_lsn);
        put_u64(&mut b, 16, self.previous_lsn);
        put_u64(&mut b, 24, self.base_stamp);
        put_u64(&mut b, 32, self.durable_lsn);
        put_u32(&mut b, 40, self.offset);
        put_u32(&mut b, 44, self.entries);
        put_u32(&mut b, 48, self.echo_bytes);
        put_u32(&mut b, 52, self.payload_bytes);
        put_u32(&mut b, 56, self.clock_epoch);
        put_u32(&mut b, 60, u32::from(self.flush_point));
        b.extend_from_slice(directory);
        let sum = crc_nonce(&b[8..], nonce);
        put_u32(&mut b, 4, sum);
        b
    }

    /// The fields, unchecked but for the magic and the bounds that a reader needs before it can read the directory.
    pub fn peek(b: &[u8]) -> Option<Header> {
        if b.len() < HEADER_BYTES || u32_at(b, 0) != MAGIC {
            return None;
        }
        let header = Header {
            first_lsn: u64_at(b, 8),
            previous_lsn: u64_at(b, 16),
            base_stamp: u64_at(b, 24),
            durable_lsn: u64_at(b, 32),
            offset: u32_at(b, 40),
            entries: u32_at(b, 44),
            echo_bytes: u32_at(b, 48),
            payload_bytes: u32_at(b, 52),
            clock_epoch: u32_at(b, 56),
            flush_point: u32_at(b, 60) & 1 != 0,
        };
        let bounded =
            header.entries <= ENTRIES_MAX && header.echo_bytes <= AREA_MAX && header.payload_bytes <= AREA_MAX;
        bounded.then_some(header)
    }

    pub fn meta_bytes(&self) -> usize {
        HEADER_BYTES + self.entries as usize * ENTRY_BYTES
    }

    /// Offset of the first payload.
    pub fn payload_offset(&self) -> u64 {
        u64::from(self.offset) + self.meta_bytes() as u64 + u64::from(self.echo_bytes)
    }

    /// Offset behind the last payload, not rounded.
    pub fn end(&self) -> u64 {
        self.payload_offset() + u64::from(self.payload_bytes)
    }

    /// Where the next batch starts if no sync comes between.
    pub fn next(&self) -> u64 {
        round_up(self.end(), ALIGN)
    }
}

/// One entry with everything that follows from its place in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub entry: Entry,
    pub lsn: u64,
    pub stamp: u64,
    /// Of the payload, in the segment.
    pub offset: u64,
}

/// A header and its directory, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub header: Header,
    pub entries: Vec<Entry>,
}

impl Meta {
    /// Checks and decodes header and directory at the front of `b`; None if they are not whole, not checked by `nonce`, or not consistent.
    pub fn parse(b: &[u8], nonce: u64) -> Option<Meta> {
        let header = Header::peek(b)?;
        let b = b.get(..header.meta_bytes())?;
        if u32_at(b, 4) != crc_nonce(&b[8..], nonce) {
            return None;
        }
        let entries: Option<Vec<Entry>> = b[HEADER_BYTES..].chunks_exact(ENTRY_BYTES).map(Entry::parse).collect();
        let meta = Meta { header, entries: entries? };
        meta.is_consistent().then_some(meta)
    }

    fn is_consistent(&self) -> bool {
        let payload: u64 = self.entries.iter().map(|e| u64::from(e.stored)).sum();
        payload == u64::from(self.header.payload_bytes)
            && self.entries.first().is_none_or(|e| !e.continues)
            && self.header.previous_lsn < self.header.first_lsn
            && self.header.first_lsn.checked_add(self.entries.len() as u64).is_some()
            && self.entries.iter().all(shape_is_right)
    }

    /// The LSN behind the last record.
    pub fn next_lsn(&self) -> u64 {
        self.header.first_lsn + self.entries.iter().filter(|e| !e.continues).count() as u64
    }

    /// The last record at or before the end of this batch.
    pub fn last_lsn(&self) -> u64 {
        if self.entries.is_empty() {
            self.header.previous_lsn
        } else {
            self.next_lsn() - 1
        }
    }

    pub fn placed(&self) -> impl Iterator<Item = Placed> + '_ {
        let header = &self.header;
        let mut lsn = header.first_lsn.wrapping_sub(1);
        let mut offset = header.payload_offset();
        self.entries.iter().map(move |&entry| {
            lsn = if entry.continues { lsn } else { lsn.wrapping_add(1) };
            let stamp = header.base_stamp.saturating_add(u64::from(entry.stamp_delta));
            let placed = Placed { entry, lsn, stamp, offset };
            offset += u64::from(entry.stored);
            placed
        })
    }
}

pub fn shape_is_right(e: &Entry) -> bool {
    use super::payload::{SECTORS_MAX, STORED_MAX};
    let inside = e.start.checked_add(e.sectors).is_some_and(|end| end <= 1 << 48);
    match e.kind {
        RecordKind::Data => {
            inside
                && (1..=u64::from(SECTORS_MAX)).contains(&e.sectors)
                && (5..=STORED_MAX as u32).contains(&e.stored)
                && u64::from(e.stored) <= e.sectors * 512 + 4
        }
        RecordKind::Zero | RecordKind::Trim | RecordKind::Damaged => inside && e.sectors > 0 && e.stored == 0,
        RecordKind::Activity => false,
        RecordKind::Rollback => e.sectors == 0 && e.stored == 0 && !e.continues,
        RecordKind::Void => e.start == 0 && e.sectors == 0 && e.stored == 0,
        RecordKind::Control => e.start == 0 && e.sectors == 0 && e.stored >= 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Header, Vec<u8>) {
        let mut directory = Vec::new();
        let data = Entry { start: 3, sectors: 8, kind: RecordKind::Data, continues: false, stored: 70, stamp_delta: 5 };
        data.encode(&mut directory);
        Entry { start: 1 << 40, sectors: 1 << 41, kind: RecordKind::Trim, continues: true, stored: 0, stamp_delta: 5 }
            .encode(&mut directory);
        data.encode(&mut directory);
        let header = Header {
            first_lsn: 10,
            previous_lsn: 7,
            base_stamp: 1000,
            durable_lsn: 6,
            offset: 4096,
            entries: 3,
            echo_bytes: 128,
            payload_bytes: 140,
            clock_epoch: 2,
            flush_point: true,
        };
        (header, directory)
    }

    #[test]
    fn entries_that_continue_share_an_lsn() {
        let (header, directory) = sample();
        let meta = Meta::parse(&header.encode(&directory, 1), 1).unwrap();
        assert_eq!(meta.header, header);
        let placed: Vec<_> = meta.placed().map(|p| (p.lsn, p.offset, p.stamp)).collect();
        let payloads = 4096 + 64 + 60 + 128;
        assert_eq!(placed, [(10, payloads, 1005), (10, payloads + 70, 1005), (11, payloads + 70, 1005)]);
        assert_eq!((meta.next_lsn(), meta.last_lsn()), (12, 11));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let (header, directory) = sample();
        let good = header.encode(&directory, 1);
        assert!(Meta::parse(&good, 2).is_none());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::parse(&bad, 1).is_none(), "bit {bit}");
        }
        assert!((0..good.len()).all(|n| Meta::parse(&good[..n], 1).is_none()));
    }
}
