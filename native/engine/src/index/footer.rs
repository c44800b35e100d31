//! A sealed segment's footer: a run, and what people and policies ask of a segment (docs/format.md, "Footer").
//!
//! It is a pure function of the segment's batches and its manifest item: whatever is damaged here is rebuilt from them, and verify compares
//! byte for byte.

use super::activity::Activity;
use super::memtable::{Control, Memtable};
use super::run::{self, Run, BLOCK_BYTES};
use super::sections::{self as s, StampFence};
use crate::codec::*;
use crate::error::{Error, Result};
use crate::journal::segment::FORMAT_VERSION;
use crate::storage::File;
use crate::units::PAGE;

const MAGIC: &[u8; 8] = b"CDPFOOT1";
const TRAILER_BYTES: usize = 96;
const SECTIONS: u32 = 6;
/// Entries, or bytes of segment, between two stamp fences at most (plus a batch).
const STAMP_ENTRIES: u32 = 256;
const STAMP_BYTES: u64 = 64 << 10;
/// Bytes of a footer at most: 131072 entries of 64 bytes, flush points, and control records of 64 MiB.
const FOOTER_MAX: u64 = 1 << 28;
/// Bytes at the end that are read first: all sections of a full segment, as a rule.
const TAIL_BYTES: u64 = 32 << 10;

/// Where a footer goes, and what lies between it and the last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    pub offset: u64,
    pub tail_offset: u64,
    pub tail_crc: u32,
}

#[derive(Debug)]
pub struct Footer {
    pub run: Run,
    pub controls: Vec<Control>,
    pub stamps: Vec<StampFence>,
    pub flush_points: Vec<u64>,
    pub activity: Vec<Activity>,
    pub site: Site,
}

/// The footer's bytes for a segment whose records are in `table`.
pub fn build(table: &Memtable, nonce: u64, site: Site) -> Vec<u8> {
    let blocks = run::encode(table.versions().collect(), nonce);
    let sections_offset = site.offset + blocks.bytes.len() as u64;
    let mut out = blocks.bytes;
    let segments = s::encode_rows(blocks.segments.iter().map(|&id| [u64::from(id)]));
    s::push(&mut out, s::SEGS, &segments, nonce);
    s::push(&mut out, s::FENC, &s::encode_fences(&blocks.fences), nonce);
    s::push(&mut out, s::CTRL, &s::encode_controls(&table.controls), nonce);
    s::push(&mut out, s::STMP, &s::encode_stamps(&stamp_fences(table)), nonce);
    s::push(&mut out, s::FLSH, &s::encode_flush_points(&table.flush_points), nonce);
    s::push(&mut out, s::STAT, &s::encode_activity(table.activity()), nonce);
    let total = (out.len() + TRAILER_BYTES).next_multiple_of(PAGE as usize);
    out.resize(total - TRAILER_BYTES, 0);
    let mut trailer = vec![0u8; TRAILER_BYTES];
    let ((first_lsn, first_stamp), (last_lsn, last_stamp)) =
        (table.first().unwrap_or_default(), table.last().unwrap_or_default());
    trailer[..8].copy_from_slice(MAGIC);
    put_u32(&mut trailer, 8, FORMAT_VERSION);
    put_u64(&mut trailer, 16, site.offset);
    put_u32(&mut trailer, 24, blocks.narrow);
    put_u32(&mut trailer, 28, blocks.wide);
    put_u64(&mut trailer, 32, sections_offset);
    put_u32(&mut trailer, 40, SECTIONS);
    put_u32(&mut trailer, 44, blocks.entries);
    [first_lsn, last_lsn, first_stamp, last_stamp]
        .iter()
        .enumerate()
        .for_each(|(i, &w)| put_u64(&mut trailer, 48 + 8 * i, w));
    put_u32(&mut trailer, 80, table.clock_epoch);
    put_u64(&mut trailer, 84, site.tail_offset);
    put_u32(&mut trailer, 92, site.tail_crc);
    let sum = trailer_crc(&trailer, nonce);
    put_u32(&mut trailer, 12, sum);
    out.extend_from_slice(&trailer);
    out
}

fn trailer_crc(trailer: &[u8], nonce: u64) -> u32 {
    crc32c::crc32c_append(crc_around(trailer), &nonce.to_le_bytes())
}

fn stamp_fences(table: &Memtable) -> Vec<StampFence> {
    let mut fences: Vec<StampFence> = Vec::new();
    let mut items = 0;
    for (i, batch) in table.batches().iter().enumerate() {
        let before = table.items_before(i);
        let due = fences
            .last()
            .is_none_or(|last| before - items >= STAMP_ENTRIES || batch.offset - last.offset >= STAMP_BYTES);
        if due {
            let &super::memtable::BatchMark { first_lsn, base_stamp, offset, .. } = batch;
            fences.push(StampFence { first_lsn, base_stamp, offset });
            items = before;
        }
    }
    fences
}

/// Reads a footer that ends at `end` and begins at `offset`. Corrupt, saying what is wrong, if any of it but its blocks is.
pub fn read(file: &dyn File, nonce: u64, offset: u64, end: u64) -> Result<Footer> {
    let (head, tail, begin) = read_end(file, nonce, offset, end)?;
    let last = end - TRAILER_BYTES as u64;
    let bytes = sections(file, head.sections_offset..last, &tail, begin)?;
    parse_sections(&bytes, nonce, &head).ok_or_else(|| Error::corrupt("one of its sections is damaged"))
}

/// Reads the part of a footer that lookups need. Corrupt if that is damaged.
pub fn read_run(file: &dyn File, nonce: u64, offset: u64, end: u64) -> Result<Run> {
    let (head, tail, begin) = read_end(file, nonce, offset, end)?;
    // SEGS with one segment at most, FENC with a row for each block.
    let most = 16 + 8 + 16 + 24 * (u64::from(head.narrow) + u64::from(head.wide));
    let last = (head.sections_offset + most).min(end - TRAILER_BYTES as u64);
    let bytes = sections(file, head.sections_offset..last, &tail, begin)?;
    parse_run(&mut &bytes[..], nonce, &head).ok_or_else(|| Error::corrupt("its fences are damaged"))
}

/// The trailer, and the bytes at the end of the footer that were read with it; they begin at the offset that comes last.
fn read_end(file: &dyn File, nonce: u64, offset: u64, end: u64) -> Result<(Trailer, Vec<u8>, u64)> {
    let length = end.checked_sub(offset).filter(|&n| n >= TRAILER_BYTES as u64 && n <= FOOTER_MAX);
    let length = length.ok_or_else(|| Error::corrupt("its bounds are impossible"))?;
    let begin = end - length.min(TAIL_BYTES);
    let mut tail = vec![0u8; (end - begin) as usize];
    let got = file.read_at(&mut tail, begin).map_err(unreadable)?;
    let trailer = &tail[tail.len() - TRAILER_BYTES..];
    let head = if got == tail.len() { parse_trailer(trailer, nonce) } else { None };
    let head = head.ok_or_else(|| Error::corrupt("its trailer is damaged"))?;
    if head.site.offset != offset || head.sections_offset < offset || head.sections_offset > end - TRAILER_BYTES as u64
    {
        return Err(Error::corrupt("its trailer names another place"));
    }
    Ok((head, tail, begin))
}

/// The bytes of `range`, from `tail`, which begins at `begin`, as far as it has them.
fn sections(file: &dyn File, range: std::ops::Range<u64>, tail: &[u8], begin: u64) -> Result<Vec<u8>> {
    let early = begin.min(range.end).saturating_sub(range.start) as usize;
    let mut bytes = vec![0u8; early];
    let got = if early > 0 { file.read_at(&mut bytes, range.start).map_err(unreadable)? } else { 0 };
    bytes.truncate(got);
    if range.end > begin {
        let from = range.start.max(begin) - begin;
        bytes.extend_from_slice(&tail[from as usize..(range.end - begin) as usize]);
    }
    Ok(bytes)
}

/// What cannot be read is rebuilt like what is damaged.
fn unreadable(e: std::io::Error) -> Error {
    Error::corrupt(format!("it cannot be read: {e}"))
}

/// The fixed part of a footer.
#[derive(Debug)]
pub struct Trailer {
    pub site: Site,
    pub narrow: u32,
    pub wide: u32,
    pub sections_offset: u64,
}

pub fn parse_trailer(b: &[u8], nonce: u64) -> Option<Trailer> {
    let whole = b.len() == TRAILER_BYTES && &b[..8] == MAGIC && u32_at(b, 12) == trailer_crc(b, nonce);
    if !whole || u32_at(b, 8) != FORMAT_VERSION || u32_at(b, 40) != SECTIONS {
        return None;
    }
    let site = Site { offset: u64_at(b, 16), tail_offset: u64_at(b, 84), tail_crc: u32_at(b, 92) };
    Some(Trailer { site, narrow: u32_at(b, 24), wide: u32_at(b, 28), sections_offset: u64_at(b, 32) })
}

pub fn parse_sections(bytes: &[u8], nonce: u64, head: &Trailer) -> Option<Footer> {
    let mut rest = bytes;
    let rest = &mut rest;
    let run = parse_run(rest, nonce, head)?;
    let controls = s::decode_controls(s::take(rest, s::CTRL, nonce)?)?;
    let stamps = s::decode_stamps(s::take(rest, s::STMP, nonce)?)?;
    let flush_points = s::decode_flush_points(s::take(rest, s::FLSH, nonce)?)?;
    let activity = s::decode_activity(s::take(rest, s::STAT, nonce)?)?;
    Some(Footer { run, controls, stamps, flush_points, activity, site: head.site })
}

fn parse_run(rest: &mut &[u8], nonce: u64, head: &Trailer) -> Option<Run> {
    let segments = s::decode_segments(s::take(rest, s::SEGS, nonce)?)?;
    let fences = s::decode_fences(s::take(rest, s::FENC, nonce)?)?;
    let blocks = u64::from(head.narrow) + u64::from(head.wide);
    if fences.len() as u64 != blocks || head.site.offset + blocks * BLOCK_BYTES as u64 != head.sections_offset {
        return None;
    }
    Some(Run { offset: head.site.offset, narrow: head.narrow, nonce, segments, fences })
}
