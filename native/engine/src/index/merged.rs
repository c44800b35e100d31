//! A merged run: the index entries of many neighbouring segments in one file (docs/format.md, "Merged runs").
//!
//! It is a pure function of the footers below it and answers in their place, so that a lookup asks few files however long the history is. A damaged one
//! is passed over. A lookup has in memory only the parts of its fences that it needs.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::files::{Files, Named};
use super::run::{self, Fence, BLOCK_BYTES};
use super::sealed::{Sealed, SealedSet};
use super::sections as s;
use super::stream::Cursor;
use super::Version;
use crate::codec::*;
use crate::error::{Error, Kind, Result};
use crate::journal::manifest::RunItem;
use crate::journal::segment::{encode_page_header, FORMAT_VERSION};
use crate::path::Path;
use crate::storage::File;
use crate::units::PAGE;

pub const MAGIC: &[u8; 8] = b"CDPRUN01";
const TRAILER_MAGIC: &[u8; 8] = b"CDPRUNT1";
const TRAILER_BYTES: usize = 96;
/// Blocks whose fences are one section: 12 KiB, read when a lookup comes near.
const PART_BLOCKS: u64 = 512;
const FENCE_BYTES: u64 = 24;
const SECTION_HEADER: u64 = 16;
/// Bytes of SEGS and TOPF at most: 2^32 blocks are beyond any history that fits a disk.
const TABLES_MAX: u64 = 1 << 28;
/// Bytes at the end of the file that are read first: they hold all tables but fences, as a rule.
const TAIL_BYTES: u64 = 16 << 10;

pub fn file_name(id: u32) -> String {
    format!("run-{id:08x}")
}

/// Who a run is: for its header.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub volume: [u8; 16],
    pub id: u32,
    pub nonce: u64,
    pub epoch: u64,
    pub created: u64,
}

pub fn header(head: &Head) -> Vec<u8> {
    encode_page_header(MAGIC, &head.volume, head.id, head.nonce, head.epoch, head.created)
}

/// What stands behind the blocks.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    pub narrow: u64,
    pub wide: u64,
    pub entries: u64,
    pub first_lsn: u64,
    pub last_lsn: u64,
}

/// Fences, segment table and trailer of a run whose blocks end at `offset`.
pub fn tail(shape: &Shape, fences: &[Fence], segments: &[u32], offset: u64, nonce: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let (narrow, wide) = fences.split_at(shape.narrow as usize);
    let parts = || narrow.chunks(PART_BLOCKS as usize).chain(wide.chunks(PART_BLOCKS as usize));
    for part in parts() {
        s::push(&mut out, s::FENC, &s::encode_fences(part), nonce);
    }
    let tables = offset + out.len() as u64;
    let span = |part: &[Fence]| {
        let start = part.iter().map(|f| f.start).min().unwrap_or(0);
        [start, part.iter().map(|f| f.end).max().unwrap_or(0)]
    };
    s::push(&mut out, s::SEGS, &s::encode_rows(segments.iter().map(|&id| [u64::from(id)])), nonce);
    s::push(&mut out, s::TOPF, &s::encode_rows(parts().map(span)), nonce);
    let total = (out.len() + TRAILER_BYTES).next_multiple_of(PAGE as usize);
    out.resize(total - TRAILER_BYTES, 0);
    let mut trailer = [0u8; TRAILER_BYTES];
    trailer[..8].copy_from_slice(TRAILER_MAGIC);
    put_u32(&mut trailer, 8, FORMAT_VERSION);
    let words = [shape.narrow, shape.wide, offset, tables, shape.entries, shape.first_lsn, shape.last_lsn];
    words.iter().enumerate().for_each(|(i, &word)| put_u64(&mut trailer, 16 + 8 * i, word));
    let sum = crc_nonce_around(&trailer, nonce);
    put_u32(&mut trailer, 12, sum);
    out.extend_from_slice(&trailer);
    out
}

fn crc_nonce_around(trailer: &[u8], nonce: u64) -> u32 {
    crc32c::crc32c_append(crc_around(trailer), &nonce.to_le_bytes())
}

/// Checks the first page against the manifest.
pub fn check_header(page: &[u8], volume: &[u8; 16], item: &RunItem) -> std::result::Result<(), String> {
    if page.len() < PAGE as usize {
        return Err("it ends inside its header".into());
    }
    let page = &page[..PAGE as usize];
    if &page[..8] != MAGIC || u32_at(page, 12) != crc_around(page) || u32_at(page, 8) != FORMAT_VERSION {
        return Err("its header is damaged".into());
    }
    if &page[16..32] != volume || u32_at(page, 32) != item.id || u64_at(page, 40) != item.nonce {
        return Err("it belongs to another volume or another use of the file".into());
    }
    Ok(())
}

/// All tables of a run but its fences.
#[derive(Debug, PartialEq, Eq)]
pub struct Top {
    pub shape: Shape,
    /// Offset of the first section of fences, where the blocks end.
    fences: u64,
    pub segments: Vec<u32>,
    /// What each part covers: those of narrow blocks, then those of wide ones.
    parts: Vec<(u64, u64)>,
}

impl Top {
    fn bytes(&self) -> usize {
        self.segments.len() * 4 + self.parts.len() * 16 + 128
    }

    fn narrow_parts(&self) -> u64 {
        self.shape.narrow.div_ceil(PART_BLOCKS)
    }

    /// The blocks of a part.
    fn blocks_of(&self, part: u64) -> Range<u64> {
        let narrow = self.narrow_parts();
        let (first, end) = match part.checked_sub(narrow) {
            None => (part * PART_BLOCKS, self.shape.narrow),
            Some(wide) => (self.shape.narrow + wide * PART_BLOCKS, self.shape.narrow + self.shape.wide),
        };
        first..end.min(first + PART_BLOCKS)
    }

    /// Where the section of a part stands: each one before it has a header and its fences, multiples of 8.
    fn section_of(&self, part: u64) -> Range<u64> {
        let blocks = self.blocks_of(part);
        let start = self.fences + part * SECTION_HEADER + blocks.start * FENCE_BYTES;
        start..start + SECTION_HEADER + (blocks.end - blocks.start) * FENCE_BYTES
    }
}

/// Reads trailer, segment table and the spans of the parts. Corrupt if any of it is damaged.
pub fn read_top(file: &dyn File, item: &RunItem) -> Result<Top> {
    let corrupt = || Error::corrupt("its tables are damaged");
    let begin = item.file_bytes.saturating_sub(TAIL_BYTES);
    let mut bytes = vec![0u8; (item.file_bytes - begin) as usize];
    let io = |e: std::io::Error| Error::corrupt(format!("it cannot be read: {e}"));
    let got = file.read_at(&mut bytes, begin).map_err(io)?;
    let trailer = bytes[..got].len().checked_sub(TRAILER_BYTES).map(|at| &bytes[at..got]).ok_or_else(corrupt)?;
    let (shape, fences, tables) = parse_trailer(trailer, item).ok_or_else(corrupt)?;
    let end = item.file_bytes - TRAILER_BYTES as u64;
    if tables > end || end - tables > TABLES_MAX {
        return Err(corrupt());
    }
    let mut earlier;
    let body = match tables.checked_sub(begin) {
        Some(at) => &bytes[at as usize..got - TRAILER_BYTES],
        None => {
            earlier = vec![0u8; (end - tables) as usize];
            let got = file.read_at(&mut earlier, tables).map_err(io)?;
            &earlier[..got]
        }
    };
    parse_tables(body, shape, fences, tables, item.nonce).ok_or_else(corrupt)
}

fn parse_trailer(b: &[u8], item: &RunItem) -> Option<(Shape, u64, u64)> {
    let whole = b.len() == TRAILER_BYTES
        && &b[..8] == TRAILER_MAGIC
        && u32_at(b, 8) == FORMAT_VERSION
        && u32_at(b, 12) == crc_nonce_around(b, item.nonce);
    let word = |i: usize| u64_at(b, 16 + 8 * i);
    let shape = whole.then(|| Shape {
        narrow: word(0),
        wide: word(1),
        entries: word(4),
        first_lsn: word(5),
        last_lsn: word(6),
    })?;
    let (fences, tables) = (word(2), word(3));
    let blocks = shape.narrow.checked_add(shape.wide)?;
    let blocks_end = blocks.checked_mul(BLOCK_BYTES as u64)?.checked_add(PAGE)?;
    let same = (shape.first_lsn, shape.last_lsn) == (item.first_lsn.0, item.last_lsn.0);
    (same && blocks_end == fences && fences <= tables).then_some((shape, fences, tables))
}

fn parse_tables(body: &[u8], shape: Shape, fences: u64, tables: u64, nonce: u64) -> Option<Top> {
    let mut rest = body;
    let segments = s::decode_segments(s::take(&mut rest, s::SEGS, nonce)?)?;
    let parts: Vec<(u64, u64)> = s::rows::<2>(s::take(&mut rest, s::TOPF, nonce)?)?.map(|[a, b]| (a, b)).collect();
    let top = Top { shape, fences, segments, parts };
    let wide_parts = top.shape.wide.div_ceil(PART_BLOCKS);
    let count = top.narrow_parts() + wide_parts;
    let end = count.checked_sub(1).map_or(fences, |last| top.section_of(last).end);
    (top.parts.len() as u64 == count && end == tables).then_some(top)
}

/// Reads the fences of one part.
pub fn read_part(file: &dyn File, nonce: u64, top: &Top, part: u64) -> Result<Vec<Fence>> {
    let section = top.section_of(part);
    let mut bytes = vec![0u8; (section.end - section.start) as usize];
    let got = file
        .read_at(&mut bytes, section.start)
        .map_err(|e| Error::corrupt(format!("its fences cannot be read: {e}")))?;
    let blocks = top.blocks_of(part);
    let fences = s::take(&mut &bytes[..got], s::FENC, nonce).and_then(s::decode_fences);
    let whole = fences.filter(|fences| fences.len() as u64 == blocks.end - blocks.start);
    whole.ok_or_else(|| Error::corrupt(format!("the fences at offset {} are damaged", section.start)))
}

/// A merged run that lookups use.
pub struct Merged {
    pub item: RunItem,
    damaged: AtomicBool,
    /// No manifest names it any more; its file may be gone.
    retired: AtomicBool,
}

impl Merged {
    pub fn new(item: RunItem) -> Merged {
        Merged { item, damaged: AtomicBool::new(false), retired: AtomicBool::new(false) }
    }

    /// False once it was found damaged, or replaced: then what lies below it is asked.
    pub fn is_usable(&self) -> bool {
        !self.damaged.load(Ordering::Relaxed) && !self.retired.load(Ordering::Relaxed)
    }

    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// To be called before its file is removed.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Appends every version that overlaps `range` on `path`, in no order; false if more than `blocks_max` blocks would have to be read for it. Err if it cannot be
    /// used, with a sentence if somebody should hear of it. `out` is as before where the answer is not true.
    fn collect(
        &self,
        files: &Files,
        range: (u64, u64),
        blocks_max: u64,
        path: &Path,
        out: &mut Vec<Version>,
    ) -> std::result::Result<bool, Option<String>> {
        let before = out.len();
        let (start, end) = range;
        let mut take = |versions: Vec<Version>| {
            out.extend(versions.into_iter().filter(|v| v.overlaps(start, end) && path.contains(v.lsn)));
        };
        let result = self.near(files, range).and_then(|(top, blocks)| {
            if blocks.len() as u64 > blocks_max {
                return Ok(false);
            }
            let file = self.file(files)?;
            run::read_blocks(&*file, PAGE, &blocks, (self.item.nonce, &top.segments), &mut take)?;
            Ok(true)
        });
        result.map_err(|e| {
            out.truncate(before);
            self.fault(&e, files)
        })
    }

    /// It is passed over from now on, unless the fault may go away; the sentence to tell, if somebody should hear of it.
    pub fn fault(&self, error: &Error, files: &Files) -> Option<String> {
        if self.retired.load(Ordering::Relaxed) {
            return None;
        }
        let missing = error.kind == Kind::NotFound;
        if error.kind == Kind::Corrupt || missing {
            self.damaged.store(true, Ordering::Relaxed);
        }
        let name = file_name(self.item.id);
        let sentence = format!("{name}: it cannot be used ({}); the segments are asked instead", error.message);
        (!missing || !files.looking).then_some(sentence)
    }

    /// Its blocks that may hold something of `range`, ascending.
    pub fn near(&self, files: &Files, (start, end): (u64, u64)) -> Result<(Arc<Top>, Vec<u64>)> {
        let top = self.top(files)?;
        let mut blocks = Vec::new();
        for (part, _) in (0..).zip(&top.parts).filter(|(_, span)| span.0 < end && start < span.1) {
            let fences = self.part(files, &top, part)?;
            let near = (top.blocks_of(part)).zip(fences.iter()).filter(|(_, f)| f.start < end && start < f.end);
            blocks.extend(near.map(|(block, _)| block));
        }
        Ok((top, blocks))
    }

    /// One of its blocks.
    pub fn read_block(&self, files: &Files, top: &Top, block: u64) -> Result<Vec<Version>> {
        let mut versions = Vec::new();
        let key = (self.item.nonce, &top.segments[..]);
        run::read_blocks(&*self.file(files)?, PAGE, &[block], key, &mut |read| versions = read)?;
        Ok(versions)
    }

    /// Its versions in order: of narrow or of wide blocks.
    pub fn cursor(&self, files: &Files, wide: bool) -> Result<Cursor> {
        let top = self.top(files)?;
        let narrow = top.shape.narrow;
        let blocks = if wide { narrow..narrow + top.shape.wide } else { 0..narrow };
        Ok(Cursor::of_blocks(self.file(files)?, PAGE, blocks, top.segments.clone(), self.item.nonce))
    }

    pub fn top(&self, files: &Files) -> Result<Arc<Top>> {
        files.tables.get((self.item.nonce, u64::MAX), || read_top(&*self.file(files)?, &self.item), Top::bytes)
    }

    /// Segments that it names, and those of them that compaction replaced: what it says of these are hints.
    pub fn names(&self, files: &Files, sealed: &SealedSet) -> Result<(usize, usize)> {
        let top = self.top(files)?;
        let gone = top.segments.iter().filter(|&&id| sealed.with_id(id).is_none()).count();
        Ok((top.segments.len(), gone))
    }

    fn part(&self, files: &Files, top: &Top, part: u64) -> Result<Arc<Vec<Fence>>> {
        let load = || read_part(&*self.file(files)?, self.item.nonce, top, part);
        files.tables.get((self.item.nonce, part), load, |fences| fences.len() * std::mem::size_of::<Fence>())
    }

    fn file(&self, files: &Files) -> Result<Arc<dyn File>> {
        files.named(Named::Run(self.item.id))
    }
}

/// One more file costs a look about as much as this many more blocks in a row.
const BLOCKS_A_FILE: u64 = 16;

/// Which runs answered.
#[derive(Debug, Default)]
pub struct Asked {
    /// First and last LSN of each.
    pub lsns: Vec<(u64, u64)>,
    /// What is wrong with those that could not.
    pub faults: Vec<String>,
}

impl Asked {
    /// True if the runs have said all that the segment says.
    pub fn covers(&self, segment: &Sealed) -> bool {
        let (first, last) = (segment.item.first_lsn.0, segment.item.last_lsn.0);
        self.lsns.iter().any(|&(from, to)| from <= first && last <= to)
    }
}

/// Appends what merged runs say of `range` on `path`. A run is passed over where the few segments below it that are on the path cost less: where much was
/// written at one place, it has many versions from before the checkpoint or from after the instant.
pub fn collect(
    runs: &[Arc<Merged>],
    files: &Files,
    sealed: &SealedSet,
    range: (u64, u64),
    path: &Path,
    out: &mut Vec<Version>,
) -> Asked {
    let mut asked = Asked::default();
    for run in runs.iter().filter(|run| run.is_usable() && path.meets(run.item.first_lsn.0, run.item.last_lsn.0)) {
        let below = sealed.within(run.item.first_lsn.0, run.item.last_lsn.0);
        let needed = below.iter().filter(|s| path.meets(s.item.first_lsn.0, s.item.last_lsn.0)).count() as u64;
        match run.collect(files, range, needed * BLOCKS_A_FILE, path, out) {
            Ok(true) => asked.lsns.push((run.item.first_lsn.0, run.item.last_lsn.0)),
            Ok(false) => {}
            Err(fault) => asked.faults.extend(fault),
        }
    }
    asked
}
