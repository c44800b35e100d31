//! A run: versions sorted by (start, LSN) in checked blocks of 4 KiB (docs/format.md, "Footer").

use std::ops::Range;

use super::{Place, Version, LEAF_SECTORS};
use crate::codec::*;
use crate::error::{Error, Result};
use crate::storage::File;
use crate::units::PAGE;

pub const BLOCK_BYTES: usize = PAGE as usize;
const BLOCK_HEADER: usize = 24;
/// Longer entries lie in blocks of their own, so that a lookup of a leaf looks back one leaf at most.
pub const NARROW_SECTORS: u64 = LEAF_SECTORS;
/// Entries whose LSNs a block's base is the smallest of.
pub const LOOK_AHEAD: usize = 4096;
/// An entry in varints at most: token, three of 10 bytes, index, offset, stored, skip, sectors.
const ENTRY_MAX: usize = 64;
const SLICED: u64 = 0x10;

/// What one block covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    pub start: u64,
    pub end: u64,
    pub lsn: u64,
}

impl Fence {
    pub fn overlaps(&self, (start, end): (u64, u64)) -> bool {
        self.start < end && start < self.end
    }
}

/// Blocks and their fences.
#[derive(Debug, Default)]
pub struct Blocks {
    pub bytes: Vec<u8>,
    pub fences: Vec<Fence>,
    pub narrow: u32,
    pub wide: u32,
    pub entries: u32,
    /// Segment ids that the entries index.
    pub segments: Vec<u32>,
}

/// Encodes versions, which need not be sorted.
pub fn encode(mut versions: Vec<Version>, nonce: u64) -> Blocks {
    versions.sort_unstable_by_key(|v| (v.start, v.lsn));
    let mut blocks = Blocks { entries: versions.len() as u32, ..Blocks::default() };
    blocks.segments = versions.iter().filter_map(segment_of).collect();
    blocks.segments.sort_unstable();
    blocks.segments.dedup();
    let (narrow, wide): (Vec<Version>, Vec<Version>) = versions.iter().partition(|v| v.sectors <= NARROW_SECTORS);
    blocks.narrow = push_blocks(&mut blocks, &narrow, nonce);
    blocks.wide = push_blocks(&mut blocks, &wide, nonce);
    blocks
}

fn segment_of(version: &Version) -> Option<u32> {
    match version.place {
        Place::Data { segment, .. } => Some(segment),
        _ => None,
    }
}

fn push_blocks(blocks: &mut Blocks, versions: &[Version], nonce: u64) -> u32 {
    let before = blocks.fences.len();
    let mut rest = versions;
    while !rest.is_empty() {
        let taken = push_block(blocks, rest, nonce);
        rest = &rest[taken..];
    }
    (blocks.fences.len() - before) as u32
}

fn push_block(blocks: &mut Blocks, versions: &[Version], nonce: u64) -> usize {
    let (block, fence, taken) = encode_block(versions, &blocks.segments, nonce);
    blocks.bytes.extend_from_slice(&block);
    blocks.fences.push(fence);
    taken
}

/// Encodes as many of `versions` as one block takes: its bytes, what it covers, how many it took. At least the next [`LOOK_AHEAD`] versions of the
/// run must be there, or all that are left.
pub fn encode_block(versions: &[Version], segments: &[u32], nonce: u64) -> (Vec<u8>, Fence, usize) {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    block.resize(BLOCK_HEADER, 0);
    let base = versions.iter().take(LOOK_AHEAD).map(|v| v.lsn).min().unwrap_or(0);
    let mut previous = versions[0].start;
    let mut fence = Fence { start: previous, end: previous, lsn: versions[0].lsn };
    let mut taken = 0;
    for version in versions {
        if block.len() + ENTRY_MAX > BLOCK_BYTES {
            break;
        }
        push_entry(&mut block, version, previous, base, segments);
        previous = version.start;
        fence.end = fence.end.max(version.end());
        taken += 1;
    }
    put_u16(&mut block, 4, taken as u16);
    let used = block.len() as u16;
    put_u16(&mut block, 6, used);
    put_u64(&mut block, 8, versions[0].start);
    put_u64(&mut block, 16, base);
    block.resize(BLOCK_BYTES, 0);
    let sum = crc_nonce(&block[4..], nonce);
    put_u32(&mut block, 0, sum);
    (block, fence, taken)
}

fn push_entry(out: &mut Vec<u8>, version: &Version, previous: u64, base: u64, segments: &[u32]) {
    let (kind, sliced) = match version.place {
        Place::Data { skip, record_sectors, .. } => (1, skip != 0 || u64::from(record_sectors) != version.sectors),
        Place::Zero => (2, false),
        Place::Damaged => (6, false),
    };
    push_varint(out, kind | if sliced { SLICED } else { 0 });
    push_varint(out, version.start - previous);
    push_varint(out, version.sectors);
    push_varint(out, version.lsn - base);
    if let Place::Data { segment, offset, stored, skip, record_sectors } = version.place {
        // `encode` put every segment into the table.
        push_varint(out, segments.binary_search(&segment).unwrap_or(0) as u64);
        push_varint(out, u64::from(offset));
        push_varint(out, u64::from(stored));
        if sliced {
            push_varint(out, u64::from(skip));
            push_varint(out, u64::from(record_sectors));
        }
    } else {
        push_varint(out, 0);
    }
}

/// Checks and decodes one block; None if anything about it is wrong.
pub fn decode_block(b: &[u8], nonce: u64, segments: &[u32]) -> Option<Vec<Version>> {
    if b.len() != BLOCK_BYTES || u32_at(b, 0) != crc_nonce(&b[4..], nonce) {
        return None;
    }
    let (count, used) = (usize::from(u16_at(b, 4)), usize::from(u16_at(b, 6)));
    let mut numbers = Varints::new(b.get(BLOCK_HEADER..used)?);
    let (mut start, base) = (u64_at(b, 8), u64_at(b, 16));
    let mut versions = Vec::with_capacity(count);
    for _ in 0..count {
        let version = decode_entry(&mut numbers, start, base, segments)?;
        start = version.start;
        versions.push(version);
    }
    numbers.is_empty().then_some(versions)
}

fn decode_entry(numbers: &mut Varints<'_>, previous: u64, base: u64, segments: &[u32]) -> Option<Version> {
    let token = numbers.next()?;
    let start = previous.checked_add(numbers.next()?)?;
    let sectors = numbers.next()?;
    let lsn = base.checked_add(numbers.next()?)?;
    let index = usize::try_from(numbers.next()?).ok()?;
    if sectors == 0 || start.checked_add(sectors)? > 1 << 48 {
        return None;
    }
    let place = match token & 0xf {
        1 => {
            let (offset, stored) = (u32::try_from(numbers.next()?).ok()?, u32::try_from(numbers.next()?).ok()?);
            let (skip, record) = if token & SLICED != 0 { (numbers.next()?, numbers.next()?) } else { (0, sectors) };
            let fits = record <= 128 && skip.checked_add(sectors)? <= record;
            if !fits || !(5..=record as u32 * 512 + 4).contains(&stored) {
                return None;
            }
            let segment = *segments.get(index)?;
            Place::Data { segment, offset, stored, skip: skip as u8, record_sectors: record as u8 }
        }
        2 | 3 => Place::Zero,
        6 => Place::Damaged,
        _ => return None,
    };
    Some(Version { start, sectors, lsn, place })
}

/// A run on disk whose fences are in memory.
#[derive(Clone, Debug)]
pub struct Run {
    /// Offset of the first block.
    pub offset: u64,
    pub narrow: u32,
    pub nonce: u64,
    pub segments: Vec<u32>,
    pub fences: Vec<Fence>,
}

impl Run {
    /// Appends every version that overlaps `start..end` with an LSN that is `wanted`, in no order. Corrupt, naming the block, if one is
    /// damaged or cannot be read.
    pub fn collect(
        &self,
        file: &dyn File,
        range: (u64, u64),
        wanted: impl Fn(u64) -> bool,
        out: &mut Vec<Version>,
    ) -> Result<()> {
        let (start, end) = range;
        let [narrow, wide] = self.blocks_near(range);
        let near: Vec<u64> = narrow.chain(wide).filter(|&i| self.fences[i].overlaps(range)).map(|i| i as u64).collect();
        read_blocks(file, self.offset, &near, (self.nonce, &self.segments), &mut |versions| {
            out.extend(versions.into_iter().filter(|v| v.overlaps(start, end) && wanted(v.lsn)));
        })
    }

    /// The narrow and the wide blocks among which are all that overlap the range; in each the versions ascend by their start.
    pub fn blocks_near(&self, (start, end): (u64, u64)) -> [Range<usize>; 2] {
        let narrow = &self.fences[..self.narrow as usize];
        // Blocks that begin before `end`, from the last one that begins a leaf before `start`.
        let first = narrow.partition_point(|f| f.start + NARROW_SECTORS <= start).saturating_sub(1);
        let last = narrow.partition_point(|f| f.start < end);
        [first..last.max(first), self.narrow as usize..self.fences.len()]
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        self.segments.len() * 4 + self.fences.len() * std::mem::size_of::<Fence>() + 128
    }

    /// Corrupt if the block is damaged or cannot be read.
    pub fn read_block(&self, file: &dyn File, block: usize) -> Result<Vec<Version>> {
        let mut versions = Vec::new();
        read_blocks(file, self.offset, &[block as u64], (self.nonce, &self.segments), &mut |v| versions = v)?;
        Ok(versions)
    }
}

/// Reads blocks, given ascending by number, neighbours with one call; `take` gets the versions of each. `key`: nonce and segment table. Corrupt, naming the
/// block, if one is damaged or cannot be read.
pub fn read_blocks(
    file: &dyn File,
    offset: u64,
    blocks: &[u64],
    key: (u64, &[u32]),
    take: &mut dyn FnMut(Vec<Version>),
) -> Result<()> {
    const BLOCKS_MAX: usize = 64;
    let mut rest = blocks;
    while let Some(&first) = rest.first() {
        let together = rest.iter().zip(first..).take(BLOCKS_MAX).take_while(|&(&a, b)| a == b).count();
        rest = &rest[together..];
        let mut bytes = vec![0u8; together * BLOCK_BYTES];
        let at = offset + first * BLOCK_BYTES as u64;
        let got = file.read_at(&mut bytes, at);
        let got = got.map_err(|e| Error::corrupt(format!("an index block cannot be read: {e}")))?;
        for i in 0..together {
            let block = bytes[..got].get(i * BLOCK_BYTES..(i + 1) * BLOCK_BYTES);
            let versions = block.and_then(|block| decode_block(block, key.0, key.1));
            take(versions.ok_or_else(|| {
                Error::corrupt(format!("index block at offset {} is damaged", at + (i * BLOCK_BYTES) as u64))
            })?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(count: u64) -> Vec<Version> {
        (0..count)
            .map(|i| {
                let start = i * 7919 % 100_000;
                let (sectors, place) = match i % 7 {
                    0 => (1 << 33, Place::Zero),
                    1 => (9, Place::Zero),
                    2 => (3, Place::Damaged),
                    3 => (5, Place::Data { segment: 9, offset: 77, stored: 300, skip: 2, record_sectors: 8 }),
                    _ => {
                        (8, Place::Data { segment: 4, offset: i as u32 * 64, stored: 4100, skip: 0, record_sectors: 8 })
                    }
                };
                Version { start, sectors, lsn: 1000 + i * 3, place }
            })
            .collect()
    }

    #[test]
    fn versions_round_trip_sorted() {
        let versions = sample(5000);
        let blocks = encode(versions.clone(), 3);
        let mut back = Vec::new();
        for block in blocks.bytes.chunks(BLOCK_BYTES) {
            back.extend(decode_block(block, 3, &blocks.segments).unwrap());
        }
        let mut expected = versions;
        expected.sort_by_key(|v| (v.sectors > NARROW_SECTORS, v.start, v.lsn));
        assert_eq!(back, expected);
        assert!(blocks.bytes.len() / 5000 < 16, "{} bytes an entry", blocks.bytes.len() / 5000);
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let blocks = encode(sample(50), 3);
        for i in 0..BLOCK_BYTES {
            let mut bad = blocks.bytes[..BLOCK_BYTES].to_vec();
            bad[i] ^= 1;
            assert!(decode_block(&bad, 3, &blocks.segments).is_none(), "byte {i}");
        }
    }
}
