//! Runs as streams: one read in its order without having it whole, and one written so. Merging stands on both.

use std::sync::Arc;

use super::run::{decode_block, encode_block, Fence, BLOCK_BYTES, LOOK_AHEAD};
use super::Version;
use crate::error::{Error, Result};
use crate::storage::File;

/// Blocks read at a time.
const BLOCKS_A_READ: u64 = 16;

/// The blocks `next..end` of a run.
struct Blocks {
    file: Arc<dyn File>,
    /// Offset of block 0.
    offset: u64,
    nonce: u64,
    segments: Vec<u32>,
    next: u64,
    end: u64,
}

/// The versions of a run, of its narrow or of its wide blocks, in order.
pub struct Cursor {
    blocks: Option<Blocks>,
    ready: std::vec::IntoIter<Version>,
}

impl Cursor {
    /// Of blocks on disk, `range` of those that begin at `offset`.
    pub fn of_blocks(
        file: Arc<dyn File>,
        offset: u64,
        range: std::ops::Range<u64>,
        segments: Vec<u32>,
        nonce: u64,
    ) -> Cursor {
        let blocks = Blocks { file, offset, nonce, segments, next: range.start, end: range.end };
        Cursor { blocks: Some(blocks), ready: Vec::new().into_iter() }
    }

    /// Of versions in memory, in any order.
    pub fn of_versions(mut versions: Vec<Version>) -> Cursor {
        versions.sort_unstable_by_key(|v| (v.start, v.lsn));
        Cursor { blocks: None, ready: versions.into_iter() }
    }

    /// The next version, or None at the end. Corrupt, naming the block, if one is damaged or cannot be read.
    pub fn advance(&mut self) -> Result<Option<Version>> {
        loop {
            if let Some(version) = self.ready.next() {
                return Ok(Some(version));
            }
            match &mut self.blocks {
                Some(blocks) if blocks.next < blocks.end => self.ready = blocks.read()?.into_iter(),
                _ => return Ok(None),
            }
        }
    }
}

impl Blocks {
    fn read(&mut self) -> Result<Vec<Version>> {
        let count = BLOCKS_A_READ.min(self.end - self.next);
        let mut bytes = vec![0u8; count as usize * BLOCK_BYTES];
        let offset = self.offset + self.next * BLOCK_BYTES as u64;
        let got = self.file.read_at(&mut bytes, offset);
        let got = got.map_err(|e| Error::corrupt(format!("an index block cannot be read: {e}")))?;
        let mut versions = Vec::with_capacity(count as usize * 300);
        for (i, block) in bytes[..got].chunks(BLOCK_BYTES).enumerate() {
            let decoded = decode_block(block, self.nonce, &self.segments);
            versions.extend(decoded.ok_or_else(|| damaged(offset + (i * BLOCK_BYTES) as u64))?);
        }
        if got < bytes.len() {
            return Err(damaged(offset + got as u64));
        }
        self.next += count;
        Ok(versions)
    }
}

fn damaged(offset: u64) -> Error {
    Error::corrupt(format!("index block at offset {offset} is damaged"))
}

/// Versions of several cursors as one stream, sorted by (start, LSN).
pub struct Merge {
    /// With the next version of each.
    inputs: Vec<(Version, Cursor)>,
}

impl Merge {
    pub fn new(cursors: Vec<Cursor>) -> Result<Merge> {
        let mut inputs = Vec::with_capacity(cursors.len());
        for mut cursor in cursors {
            if let Some(version) = cursor.advance()? {
                inputs.push((version, cursor));
            }
        }
        Ok(Merge { inputs })
    }

    pub fn advance(&mut self) -> Result<Option<Version>> {
        // Eight inputs: a heap would cost more than it saves.
        let smallest = self.inputs.iter().enumerate().min_by_key(|(_, (v, _))| (v.start, v.lsn)).map(|(i, _)| i);
        let Some(i) = smallest else { return Ok(None) };
        let (head, cursor) = &mut self.inputs[i];
        let version = *head;
        match cursor.advance()? {
            Some(next) => *head = next,
            None => drop(self.inputs.swap_remove(i)),
        }
        Ok(Some(version))
    }
}

/// Takes versions in order and gives away blocks.
pub struct Encoder {
    nonce: u64,
    segments: Vec<u32>,
    waiting: Vec<Version>,
    /// Those of `waiting` that are encoded.
    encoded: usize,
    pub fences: Vec<Fence>,
}

impl Encoder {
    /// `segments`: the ids that the versions name, ascending.
    pub fn new(segments: Vec<u32>, nonce: u64) -> Encoder {
        Encoder { nonce, segments, waiting: Vec::new(), encoded: 0, fences: Vec::new() }
    }

    /// Takes one more version; `sink` gets the block that is complete with it, if one is.
    pub fn push(&mut self, version: Version, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.waiting.push(version);
        if self.waiting.len() - self.encoded >= LOOK_AHEAD {
            self.block(sink)?;
        }
        Ok(())
    }

    /// Gives away what is left.
    pub fn finish(&mut self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while self.encoded < self.waiting.len() {
            self.block(sink)?;
        }
        Ok(())
    }

    fn block(&mut self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (bytes, fence, taken) = encode_block(&self.waiting[self.encoded..], &self.segments, self.nonce);
        self.fences.push(fence);
        self.encoded += taken;
        if self.encoded >= LOOK_AHEAD {
            self.waiting.drain(..self.encoded);
            self.encoded = 0;
        }
        sink(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::run;
    use super::*;
    use crate::index::Place;

    fn versions(count: u64, salt: u64) -> Vec<Version> {
        let version = |i: u64| {
            let start = (i * 7919 + salt * 31) % 50_000;
            let place = match i % 5 {
                0 => Place::Zero,
                1 => Place::Damaged,
                _ => Place::Data {
                    segment: 3 + salt as u32,
                    offset: i as u32 * 64,
                    stored: 300,
                    skip: 0,
                    record_sectors: 8,
                },
            };
            Version { start, sectors: 8, lsn: 100_000 * salt + i, place }
        };
        (0..count).map(version).collect()
    }

    #[test]
    fn a_merged_stream_encodes_to_what_all_versions_at_once_do() {
        for sizes in [vec![0], vec![1, 0, 2], vec![9000, 12_000, 30, 5000]] {
            let parts: Vec<Vec<Version>> = sizes.iter().zip(1..).map(|(&size, salt)| versions(size, salt)).collect();
            let whole = run::encode(parts.concat(), 9);
            let mut merge = Merge::new(parts.into_iter().map(Cursor::of_versions).collect()).unwrap();
            let mut encoder = Encoder::new(whole.segments.clone(), 9);
            let mut bytes = Vec::new();
            let mut sink = |block: &[u8]| {
                bytes.extend_from_slice(block);
                Ok(())
            };
            while let Some(version) = merge.advance().unwrap() {
                encoder.push(version, &mut sink).unwrap();
            }
            encoder.finish(&mut sink).unwrap();
            assert!(bytes == whole.bytes);
            assert_eq!(encoder.fences, whole.fences);
        }
    }
}
