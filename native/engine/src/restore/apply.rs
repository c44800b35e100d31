//! A window's content against the target: written, or compared.
//!
//! Invariants: after `write`, the target holds the window. Of what the target holds already nothing is written but what differs, and at most a
//! sixteenth more. What reads as zeros is never written as data where the target can have holes.

use super::buffer::Buffer;
use super::plan::{Run, Window, BLOCK};
use super::Target;
use crate::error::Result;
use crate::units::SECTOR;

/// Bytes of the target compared at a time.
const CHUNK_BYTES: u64 = 4 << 20;
/// Zeros that a write leaves out begin and end at multiples of this: smaller holes cost more than they save.
const HOLE_BYTES: usize = 64 << 10;
/// Equal bytes between two differences are written too if the difference before them is this many times longer.
const JOIN_SHARE: usize = 16;

/// What was written. Bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub data: u64,
    /// Made zeros without being written.
    pub cleared: u64,
}

/// Makes the target hold the window. `buffer`: its content; `theirs`: room for what the target holds.
pub(super) fn write(target: &dyn Target, window: &Window, buffer: &[u8], theirs: &mut Buffer) -> Result<Written> {
    let mut written = Written::default();
    if is_hole(target, window.start(), window.end()) {
        for run in &window.runs {
            written.data += fill(target, run.offset, &buffer[run.at..run.at + run.bytes])?;
        }
    } else {
        for run in &window.runs {
            written.data += update_run(target, run, buffer, theirs)?;
        }
        for (start, end) in window.gaps() {
            clear(target, (start, end), theirs, &mut written)?;
        }
    }
    target.begin_writeback(window.start(), window.end() - window.start());
    Ok(written)
}

/// The offset of the first byte of the target that differs from the window.
pub(super) fn compare(target: &dyn Target, window: &Window, buffer: &[u8], theirs: &mut Buffer) -> Result<Option<u64>> {
    let mut first: Option<u64> = None;
    let mut note = |offset: u64| first = Some(first.map_or(offset, |known| known.min(offset)));
    for run in &window.runs {
        for (offset, ours) in chunks(run, buffer) {
            let theirs = read(target, theirs, offset, ours.len())?;
            if let Some(at) = ours.iter().zip(theirs).position(|(a, b)| a != b).or(short(ours, theirs)) {
                note(offset + at as u64);
                break;
            }
        }
    }
    for (start, end) in window.gaps() {
        each_data(target, (start, end), |offset, bytes| {
            let there = read(target, theirs, offset, bytes)?;
            if let Some(at) = there.iter().position(|&byte| byte != 0).or((there.len() < bytes).then_some(there.len()))
            {
                note(offset + at as u64);
            }
            Ok(())
        })?;
    }
    Ok(first)
}

fn short(ours: &[u8], theirs: &[u8]) -> Option<usize> {
    (theirs.len() < ours.len()).then_some(theirs.len())
}

/// A checksum of what the window's runs hold: of `buffer`, or where that is None, of the target, whose gaps must be zeros.
pub(super) fn checksum(window: &Window, buffer: &[u8]) -> u32 {
    window.runs.iter().fold(0, |sum, run| add_run(sum, run, &buffer[run.at..run.at + run.bytes]))
}

fn add_run(sum: u32, run: &Run, content: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(sum, &run.offset.to_le_bytes());
    crc32c::crc32c_append(sum, content)
}

/// Whether the target holds what had this checksum when it was written.
pub(super) fn holds(target: &dyn Target, window: &Window, wanted: u32, theirs: &mut Buffer) -> Result<bool> {
    let mut sum = 0;
    for run in &window.runs {
        sum = crc32c::crc32c_append(sum, &run.offset.to_le_bytes());
        let mut offset = run.offset;
        while offset < run.end() {
            let bytes = CHUNK_BYTES.min(run.end() - offset) as usize;
            sum = crc32c::crc32c_append(sum, read(target, theirs, offset, bytes)?);
            offset += bytes as u64;
        }
    }
    let mut zeros = true;
    for gap in window.gaps() {
        each_data(target, gap, |offset, bytes| {
            zeros = zeros && is_zero(read(target, theirs, offset, bytes)?);
            Ok(())
        })?;
    }
    Ok(zeros && sum == wanted)
}

fn is_hole(target: &dyn Target, start: u64, end: u64) -> bool {
    target.next_data(start) >= end
}

/// Writes into a hole: all but what is zeros anyway.
fn fill(target: &dyn Target, offset: u64, content: &[u8]) -> Result<u64> {
    let mut written = 0;
    let mut from = 0;
    let mut at = 0;
    let mut put = |from: usize, to: usize| {
        written += (to - from) as u64;
        if from < to {
            target.write_at(&content[from..to], offset + from as u64)
        } else {
            Ok(())
        }
    };
    while at < content.len() {
        let step = HOLE_BYTES - (offset + at as u64) as usize % HOLE_BYTES;
        let end = content.len().min(at + step);
        if step == HOLE_BYTES && end - at == HOLE_BYTES && is_zero(&content[at..end]) {
            put(from, at)?;
            from = end;
        }
        at = end;
    }
    put(from, content.len())?;
    Ok(written)
}

fn update_run(target: &dyn Target, run: &Run, buffer: &[u8], theirs: &mut Buffer) -> Result<u64> {
    let mut written = 0;
    for (offset, ours) in chunks(run, buffer) {
        if is_hole(target, offset, offset + ours.len() as u64) {
            written += fill(target, offset, ours)?;
            continue;
        }
        let theirs = read(target, theirs, offset, ours.len())?;
        for (from, to) in differences(ours, theirs) {
            target.write_at(&ours[from..to], offset + from as u64)?;
            written += (to - from) as u64;
        }
    }
    Ok(written)
}

fn chunks<'a>(run: &Run, buffer: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8])> {
    let offset = run.offset;
    let chunks = buffer[run.at..run.at + run.bytes].chunks(CHUNK_BYTES as usize);
    chunks.enumerate().map(move |(number, chunk)| (offset + number as u64 * CHUNK_BYTES, chunk))
}

/// Makes a range zeros where it is not.
fn clear(target: &dyn Target, range: (u64, u64), theirs: &mut Buffer, written: &mut Written) -> Result<()> {
    each_data(target, range, |offset, bytes| {
        if target.punch(offset, bytes as u64)? {
            written.cleared += bytes as u64;
            return Ok(());
        }
        let there = read(target, theirs, offset, bytes)?;
        let zeros = vec![0; bytes];
        for (from, to) in differences(&zeros, there) {
            target.write_at(&zeros[from..to], offset + from as u64)?;
            written.data += (to - from) as u64;
        }
        Ok(())
    })
}

/// Calls `handle(offset, bytes)` for the parts of a range that may hold data, a chunk at a time.
fn each_data(target: &dyn Target, range: (u64, u64), mut handle: impl FnMut(u64, usize) -> Result<()>) -> Result<()> {
    let mut at = target.next_data(range.0).max(range.0) / BLOCK * BLOCK;
    at = at.max(range.0);
    while at < range.1 {
        let bytes = CHUNK_BYTES.min(range.1 - at);
        handle(at, bytes as usize)?;
        at += bytes;
        if at < range.1 {
            at = (target.next_data(at) / BLOCK * BLOCK).max(at);
        }
    }
    Ok(())
}

/// What the target has there; shorter than asked for only at its end.
fn read<'a>(target: &dyn Target, theirs: &'a mut Buffer, offset: u64, bytes: usize) -> Result<&'a [u8]> {
    let buffer = theirs.of(bytes);
    let got = target.read_at(buffer, offset)?;
    Ok(&buffer[..got])
}

fn is_zero(content: &[u8]) -> bool {
    // SAFETY: any bytes are an integer; what does not fill one is in the ends.
    let (head, words, tail) = unsafe { content.align_to::<u128>() };
    words.iter().all(|&word| word == 0) && head.iter().chain(tail).all(|&byte| byte == 0)
}

/// The ranges of `ours` that must be written over `theirs`, which may be shorter: whole sectors, joined where that costs little.
fn differences(ours: &[u8], theirs: &[u8]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    if ours == theirs {
        return found;
    }
    for (block, (mine, other)) in blocks(ours, theirs, BLOCK as usize) {
        if mine == other {
            continue;
        }
        for (sector, (mine, other)) in blocks(mine, other, SECTOR as usize) {
            if mine == other {
                continue;
            }
            let (from, to) = (block + sector, block + sector + mine.len());
            match found.last_mut() {
                Some(last) if (from - last.1) * JOIN_SHARE <= last.1 - last.0 => last.1 = to,
                _ => found.push((from, to)),
            }
        }
    }
    found
}

/// Pairs of blocks with their offset; the second is shorter where `theirs` ends.
fn blocks<'a>(ours: &'a [u8], theirs: &'a [u8], bytes: usize) -> impl Iterator<Item = (usize, (&'a [u8], &'a [u8]))> {
    ours.chunks(bytes).enumerate().map(move |(number, mine)| {
        let from = number * bytes;
        let there = theirs.get(from.min(theirs.len())..(from + mine.len()).min(theirs.len())).unwrap_or_default();
        (from, (mine, there))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_sectors_joined_where_that_is_cheap() {
        let theirs = vec![0u8; 64 << 10];
        let mut ours = theirs.clone();
        assert!(differences(&ours, &theirs).is_empty());
        ours[700] = 1;
        ours[5000] = 1;
        assert_eq!(differences(&ours, &theirs), [(512, 1024), (4608, 5120)]);
        ours[8192..8192 + 16384].fill(2);
        ours[8192 + 16384 + 1024] = 3;
        let last = *differences(&ours, &theirs).last().unwrap();
        assert_eq!(last, (8192, 8192 + 16384 + 1536), "one sixteenth more is taken in");
        assert_eq!(differences(&ours, &theirs[..8192]).last().unwrap().1, ours.len(), "what is missing differs");
    }

    #[test]
    fn zero_is_zero_at_any_alignment() {
        let mut bytes = vec![0u8; 300];
        for from in 0..20 {
            assert!(is_zero(&bytes[from..]));
        }
        for at in [0, 1, 150, 299] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes));
            bytes[at] = 0;
        }
    }
}
