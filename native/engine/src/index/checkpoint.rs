//! A checkpoint: the extent map at an LSN, one version, in shards of 1 GiB (docs/format.md, "Checkpoints").
//!
//! It bounds how many segments a lookup asks. It holds nothing that the segments do not say, so a damaged one, or a damaged shard of one, is
//! passed over.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::files::{Files, Named};
use super::leaf::Leaf;
use super::memtable::Control;
use super::run::{self, Run, BLOCK_BYTES};
use super::sections as s;
use super::{Place, Version, LEAF_SECTORS};
use crate::codec::*;
use crate::error::{Error, Kind, Result};
use crate::journal::manifest::CheckpointItem;
use crate::journal::segment::{encode_page_header, FORMAT_VERSION};
use crate::storage::File;
use crate::units::PAGE;

/// Sectors in a shard: 1 GiB.
pub const SHARD_SECTORS: u64 = 1 << 21;
pub const MAGIC: &[u8; 8] = b"CDPCKP01";
/// Shards of the largest volume, 2^48 sectors.
const SHARDS_MAX: u64 = 1 << 27;
const TRAILER_MAGIC: &[u8; 8] = b"CDPCKPT1";
const TRAILER_BYTES: usize = 96;
/// Bytes of sections at the end at most: a row of 40 for each of 2^27 shards is beyond any volume that fits a disk.
const SECTIONS_MAX: u64 = 1 << 28;

pub fn file_name(id: u32) -> String {
    format!("checkpoint-{id:08x}")
}

/// Where a shard's run lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub shard: u64,
    pub blocks: u64,
    pub narrow: u32,
    pub sections: u64,
    pub entries: u64,
}

/// Builds the bytes of a checkpoint shard by shard.
pub struct Builder {
    bytes: Vec<u8>,
    nonce: u64,
    rows: Vec<Row>,
}

impl Builder {
    pub fn new(volume: &[u8; 16], id: u32, nonce: u64, epoch: u64, created: u64) -> Builder {
        Builder { bytes: encode_page_header(MAGIC, volume, id, nonce, epoch, created), nonce, rows: Vec::new() }
    }

    pub fn push(&mut self, shard: u64, versions: Vec<Version>) {
        self.bytes.resize(self.bytes.len().next_multiple_of(PAGE as usize), 0);
        let blocks = run::encode(versions, self.nonce);
        debug_assert_eq!(blocks.wide, 0, "extents are cut at leaves");
        let offset = self.bytes.len() as u64;
        let row = Row {
            shard,
            blocks: offset,
            narrow: blocks.narrow,
            sections: offset + blocks.bytes.len() as u64,
            entries: u64::from(blocks.entries),
        };
        self.rows.push(row);
        self.bytes.extend_from_slice(&blocks.bytes);
        let segments = s::encode_rows(blocks.segments.iter().map(|&id| [u64::from(id)]));
        s::push(&mut self.bytes, s::SEGS, &segments, self.nonce);
        s::push(&mut self.bytes, s::FENC, &s::encode_fences(&blocks.fences), self.nonce);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn finish(mut self, lsn: u64, controls: &[Control]) -> Vec<u8> {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let sections = self.bytes.len() as u64;
        s::push(&mut self.bytes, s::SHRD, &encode_shards(&self.rows), self.nonce);
        s::push(&mut self.bytes, s::CTRL, &s::encode_controls(controls), self.nonce);
        let total = (self.bytes.len() + TRAILER_BYTES).next_multiple_of(PAGE as usize);
        self.bytes.resize(total - TRAILER_BYTES, 0);
        let mut trailer = [0u8; TRAILER_BYTES];
        trailer[..8].copy_from_slice(TRAILER_MAGIC);
        put_u32(&mut trailer, 8, FORMAT_VERSION);
        put_u64(&mut trailer, 16, sections);
        put_u32(&mut trailer, 40, 2);
        put_u64(&mut trailer, 48, lsn);
        let sum = crc32c::crc32c_append(crc_around(&trailer), &self.nonce.to_le_bytes());
        put_u32(&mut trailer, 12, sum);
        self.bytes.extend_from_slice(&trailer);
        self.bytes
    }
}

/// Five words of 8 bytes a row; the fourth is narrow blocks (low half) and wide blocks (high half, 0).
fn encode_shards(rows: &[Row]) -> Vec<u8> {
    s::encode_rows(rows.iter().map(|row| [row.shard, row.blocks, u64::from(row.narrow), row.sections, row.entries]))
}

fn decode_shards(body: &[u8]) -> Option<Vec<Row>> {
    let row = |[shard, blocks, narrow, sections, entries]: [u64; 5]| {
        let narrow = u32::try_from(narrow).ok()?;
        let fits = blocks.checked_add(u64::from(narrow) * BLOCK_BYTES as u64) == Some(sections);
        let fits = fits && shard < SHARDS_MAX && entries <= u64::from(narrow) * BLOCK_BYTES as u64;
        fits.then_some(Row { shard, blocks, narrow, sections, entries })
    };
    s::rows::<5>(body)?.map(row).collect()
}

/// Checks the first page against the manifest.
pub fn check_header(b: &[u8], volume: &[u8; 16], item: &CheckpointItem) -> std::result::Result<(), String> {
    let page = b.get(..PAGE as usize).ok_or("it ends inside its header")?;
    if &page[..8] != MAGIC || u32_at(page, 12) != crc_around(page) || u32_at(page, 8) != FORMAT_VERSION {
        return Err("its header is damaged".into());
    }
    if &page[16..32] != volume || u32_at(page, 32) != item.id || u64_at(page, 40) != item.nonce {
        return Err("it belongs to another volume or another use of the file".into());
    }
    Ok(())
}

/// The part of a checkpoint behind its shards.
#[derive(Debug)]
pub struct Tail {
    pub lsn: u64,
    pub rows: Vec<Row>,
    pub controls: Vec<Control>,
}

/// Reads trailer and tables. Corrupt if any of it is damaged.
pub fn read_tail(file: &dyn File, item: &CheckpointItem) -> Result<Tail> {
    let corrupt = || Error::corrupt(format!("{}: its tables are damaged", file_name(item.id)));
    let io = |e: std::io::Error| Error::io("read", &file_name(item.id), &e);
    let end = item.file_bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(corrupt)?;
    let mut trailer = [0u8; TRAILER_BYTES];
    let got = file.read_at(&mut trailer, end).map_err(io)?;
    let sections = parse_trailer(&trailer[..got], item).ok_or_else(corrupt)?;
    let length = end.checked_sub(sections).filter(|&n| n <= SECTIONS_MAX).ok_or_else(corrupt)?;
    let mut bytes = vec![0u8; length as usize];
    let got = file.read_at(&mut bytes, sections).map_err(io)?;
    parse_tail(&bytes[..got], item).ok_or_else(corrupt)
}

fn parse_trailer(b: &[u8], item: &CheckpointItem) -> Option<u64> {
    let whole = b.len() == TRAILER_BYTES
        && &b[..8] == TRAILER_MAGIC
        && u32_at(b, 12) == crc32c::crc32c_append(crc_around(b), &item.nonce.to_le_bytes());
    (whole && u32_at(b, 8) == FORMAT_VERSION && u64_at(b, 48) == item.lsn.0).then(|| u64_at(b, 16))
}

fn parse_tail(bytes: &[u8], item: &CheckpointItem) -> Option<Tail> {
    let mut rest = bytes;
    let rows = decode_shards(s::take(&mut rest, s::SHRD, item.nonce)?)?;
    let controls = s::decode_controls(s::take(&mut rest, s::CTRL, item.nonce)?)?;
    Some(Tail { lsn: item.lsn.0, rows, controls })
}

/// The run of one shard, whose sections end before `end`.
pub fn read_run(file: &dyn File, item: &CheckpointItem, row: &Row, end: u64) -> Result<Run> {
    let corrupt = || Error::corrupt(format!("{}: the tables of shard {} are damaged", file_name(item.id), row.shard));
    // SEGS and FENC: 16 bytes each, 8 a segment, 24 a block; a shard names no more segments than it has entries.
    let most = 64 + 24 * u64::from(row.narrow) + 8 * row.entries;
    let length = most.min(end.saturating_sub(row.sections));
    let mut bytes = vec![0u8; length as usize];
    let got = file.read_at(&mut bytes, row.sections).map_err(|e| Error::io("read", &file_name(item.id), &e))?;
    bytes.truncate(got);
    // `take` wants the padding behind the last section.
    bytes.extend_from_slice(&[0; 8]);
    let mut rest = &bytes[..];
    let segments = s::take(&mut rest, s::SEGS, item.nonce).and_then(s::decode_segments).ok_or_else(corrupt)?;
    let fences = s::take(&mut rest, s::FENC, item.nonce).and_then(s::decode_fences).ok_or_else(corrupt)?;
    if fences.len() != row.narrow as usize {
        return Err(corrupt());
    }
    Ok(Run { offset: row.blocks, narrow: row.narrow, nonce: item.nonce, segments, fences })
}

/// A checkpoint that lookups use.
pub struct Checkpoint {
    pub item: CheckpointItem,
    /// By shard, with the end of its sections.
    rows: BTreeMap<u64, (Row, u64)>,
    damaged: Mutex<HashSet<u64>>,
    /// No manifest names it any more; its file may be gone.
    retired: AtomicBool,
}

impl Checkpoint {
    pub fn open(files: &Files, item: CheckpointItem) -> Result<(Checkpoint, Vec<Control>)> {
        let file = files.named(Named::Checkpoint(item.id))?;
        let mut tail = read_tail(&*file, &item)?;
        tail.rows.sort_by_key(|row| row.blocks);
        let ends = tail.rows.iter().skip(1).map(|row| row.blocks).chain([item.file_bytes]);
        let rows = tail.rows.iter().zip(ends).map(|(row, end)| (row.shard, (*row, end))).collect();
        let checkpoint = Checkpoint { item, rows, damaged: Mutex::default(), retired: AtomicBool::new(false) };
        Ok((checkpoint, tail.controls))
    }

    /// True if it can answer for this shard.
    pub fn has(&self, shard: u64) -> bool {
        self.rows.contains_key(&shard) && !self.retired.load(Ordering::Relaxed) && !self.damaged.lock().contains(&shard)
    }

    /// The shards that it holds, ascending.
    pub fn shards(&self) -> impl Iterator<Item = u64> + '_ {
        self.rows.keys().copied()
    }

    /// To be called before its file is removed.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Entries of the shard.
    pub fn entries(&self, shard: u64) -> u64 {
        self.rows.get(&shard).map_or(0, |(row, _)| row.entries)
    }

    /// Entries of all shards.
    pub fn all_entries(&self) -> u64 {
        self.rows.values().map(|(row, _)| row.entries).sum()
    }

    /// Appends what overlaps `range`, inside one shard. Err if it cannot be used, with a sentence if somebody should hear of it; one that is damaged is
    /// not asked again.
    pub fn collect(
        &self,
        files: &Files,
        range: (u64, u64),
        out: &mut Vec<Version>,
    ) -> std::result::Result<(), Option<String>> {
        let shard = range.0 / SHARD_SECTORS;
        let before = out.len();
        let result = files.named(Named::Checkpoint(self.item.id)).and_then(|file| {
            let run = files.tables.get((self.item.nonce, shard), || self.run(&*file, shard), Run::bytes)?;
            run.collect(&*file, range, |_| true, out)
        });
        result.map_err(|e| {
            out.truncate(before);
            let missing = e.kind == Kind::NotFound;
            if self.retired.load(Ordering::Relaxed) {
                return None;
            }
            if e.kind == Kind::Corrupt || missing {
                self.damaged.lock().insert(shard);
            }
            if missing && files.looking {
                return None;
            }
            let name = file_name(self.item.id);
            Some(format!("{name}: shard {shard} cannot be used ({}); the segments are asked instead", e.message))
        })
    }

    fn run(&self, file: &dyn File, shard: u64) -> Result<Run> {
        let (row, end) = self.rows.get(&shard).ok_or_else(|| Error::new(Kind::NotFound, "no such shard"))?;
        read_run(file, &self.item, row, *end)
    }
}

/// The versions of a shard, in the order of their LSNs, for each leaf that they touch.
pub fn by_leaf(shard: u64, versions: &[Version]) -> BTreeMap<u64, Vec<Version>> {
    let mut leaves: BTreeMap<u64, Vec<Version>> = BTreeMap::new();
    for version in versions {
        touched(shard, version).for_each(|number| leaves.entry(number).or_default().push(*version));
    }
    leaves
}

fn touched(shard: u64, version: &Version) -> std::ops::RangeInclusive<u64> {
    let (first, last) = (shard * SHARD_SECTORS / LEAF_SECTORS, (shard + 1) * SHARD_SECTORS / LEAF_SECTORS);
    (version.start / LEAF_SECTORS).max(first)..=((version.end() - 1) / LEAF_SECTORS).min(last - 1)
}

/// Lays versions, in the order of their LSNs, over the leaves of a shard. `segment_lsn` gives the first LSN of a segment.
pub fn lay(leaves: &mut BTreeMap<u64, Leaf>, shard: u64, versions: &[Version], segment_lsn: impl Fn(u32) -> u64) {
    for version in versions {
        let lsn = match version.place {
            Place::Data { segment, .. } => segment_lsn(segment),
            _ => 0,
        };
        for number in touched(shard, version) {
            leaves.entry(number).or_default().overlay(number, version, lsn);
        }
    }
}
