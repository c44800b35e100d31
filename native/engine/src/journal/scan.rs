//! Reading a segment from its batches: what recovery, verify and a rebuilt index stand on (docs/format.md, "Recovery of open
//! segments").

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::journal::batch::{Header, Meta, Placed, ALIGN, HEADER_BYTES};
use crate::journal::payload;
use crate::journal::segment::{file_name, OpenSegment, FIRST_BATCH};
use crate::storage::File;
use crate::units::{round_up, PAGE};

/// Bytes read at a time.
const WINDOW_BYTES: usize = 1 << 20;
/// The same of who looks at directories only, in a file that is likely to be cached.
const DIRECTORY_BYTES: usize = 16 << 10;

/// A sliding window over a file, so that small reads in ascending order cost few calls.
pub struct Window<'a> {
    file: &'a dyn File,
    buffer: Vec<u8>,
    begin: u64,
    /// Bytes read at a time.
    step: usize,
    /// Nothing behind it will be asked for.
    end: u64,
    /// What lies between the end of the file and this counts as zeros.
    zeros_until: u64,
}

impl<'a> Window<'a> {
    pub fn new(file: &'a dyn File) -> Window<'a> {
        Window::until(file, u64::MAX)
    }

    /// One that reads nothing behind `end` unless it is asked to.
    pub fn until(file: &'a dyn File, end: u64) -> Window<'a> {
        Window { file, buffer: Vec::new(), begin: 0, step: WINDOW_BYTES, end, zeros_until: 0 }
    }

    /// One of a file that reads as if zeros lay behind it up to `end`.
    fn padded(file: &'a dyn File, end: u64, step: usize) -> Window<'a> {
        Window { zeros_until: end, step, ..Window::until(file, end) }
    }

    /// The bytes at `offset`; None where the file ends before.
    pub fn get(&mut self, offset: u64, bytes: usize) -> std::io::Result<Option<&[u8]>> {
        let inside = offset >= self.begin && offset + bytes as u64 <= self.begin + self.buffer.len() as u64;
        if !inside {
            let ahead = self.end.saturating_sub(offset).min(self.step as u64) as usize;
            self.buffer.resize(bytes.max(ahead), 0);
            let got = self.file.read_at(&mut self.buffer, offset)?;
            self.buffer[got..].fill(0);
            let padded = self.zeros_until.saturating_sub(offset).min(self.buffer.len() as u64) as usize;
            self.buffer.truncate(got.max(padded));
            self.begin = offset;
        }
        let at = (offset - self.begin) as usize;
        Ok(self.buffer.get(at..at + bytes))
    }
}

/// The batches of one segment.
#[derive(Debug, Default)]
pub struct Scan {
    /// In the order of their offsets.
    pub metas: Vec<Meta>,
    /// Offset and first LSN of batches whose own header or directory is damaged and whose echo stands in.
    pub from_echo: Vec<(u64, u64)>,
    /// Offset and first LSN of batches that carry a damaged echo, or whose echo differs from them.
    pub bad_echoes: Vec<(u64, u64)>,
    /// Offsets of the batches whose echo was read.
    pub echoed: BTreeSet<u64>,
    /// Offsets at which something that is not a batch was passed over, with its length.
    pub skipped: Vec<(u64, u64)>,
    /// The largest durable LSN of any header or echo.
    pub durable_lsn: u64,
    /// Something that is not a batch stands behind the last one.
    pub has_tail: bool,
}

/// Reads all batches before `limit` (a sealed segment's footer) or the end of the file.
pub fn scan(segment: &OpenSegment, limit: Option<u64>) -> Result<Scan> {
    scan_range(segment, FIRST_BATCH, limit.unwrap_or(u64::MAX))
}

/// The same in small steps: most of a segment is payloads, and they are not looked at.
pub fn scan_directories(segment: &OpenSegment, limit: u64) -> Result<Scan> {
    scan_in_steps(segment, FIRST_BATCH, limit, DIRECTORY_BYTES)
}

/// Reads the batches that begin in `start..end`.
pub fn scan_range(segment: &OpenSegment, start: u64, end: u64) -> Result<Scan> {
    scan_in_steps(segment, start, end, WINDOW_BYTES)
}

fn scan_in_steps(segment: &OpenSegment, start: u64, end: u64, step: usize) -> Result<Scan> {
    let io = |e: std::io::Error| Error::io("read", &file_name(segment.id), &e);
    // A footer goes behind the page in which a torn tail ends. What that leaves out is zeros from then on, and has to count as such before, too: a
    // batch of which only zeros are missing is whole.
    let length = round_up(segment.file.len().map_err(io)?, PAGE).min(end);
    let mut window = Window::padded(&*segment.file, length, step);
    let mut scan = Scan::default();
    let mut echoes: BTreeMap<u64, Meta> = BTreeMap::new();
    let mut at = start;
    while let Some((meta, skipped)) = next_batch(&mut window, at, length, segment.nonce).map_err(io)? {
        if skipped > 0 {
            scan.skipped.push((at, skipped));
        }
        if !read_echoes(&mut window, &meta.header, (length, segment.nonce), &mut echoes).map_err(io)? {
            scan.bad_echoes.push((u64::from(meta.header.offset), meta.header.first_lsn));
        }
        at = meta.header.next();
        scan.metas.push(meta);
    }
    scan.has_tail = !is_zero(&mut window, at.min(length), length).map_err(io)?;
    scan.echoed = echoes.keys().copied().collect();
    stand_in(&mut scan, echoes.into_iter().filter(|&(offset, _)| offset >= start).collect());
    scan.durable_lsn = scan.metas.iter().map(|m| m.header.durable_lsn).max().unwrap_or(0);
    Ok(scan)
}

/// The first valid batch at or behind `at`, and how far behind (0 where it stands at one of the two places where a writer puts it).
fn next_batch(window: &mut Window<'_>, at: u64, length: u64, nonce: u64) -> std::io::Result<Option<(Meta, u64)>> {
    let mut place = round_up(at, ALIGN);
    while place + HEADER_BYTES as u64 <= length {
        if let Some(meta) = batch_at(window, place, length, nonce)? {
            let expected = place == at || place == round_up(at, PAGE);
            return Ok(Some((meta, if expected { 0 } else { place - at })));
        }
        place += ALIGN;
    }
    Ok(None)
}

fn batch_at(window: &mut Window<'_>, at: u64, length: u64, nonce: u64) -> std::io::Result<Option<Meta>> {
    if at + HEADER_BYTES as u64 > length {
        return Ok(None);
    }
    let Some(header) = window.get(at, HEADER_BYTES)?.and_then(Header::peek) else {
        return Ok(None);
    };
    let inside = at + header.meta_bytes() as u64 <= length;
    if !inside || u64::from(header.offset) != at {
        return Ok(None);
    }
    Ok(window.get(at, header.meta_bytes())?.and_then(|b| Meta::parse(b, nonce)))
}

fn read_echoes(
    window: &mut Window<'_>,
    header: &Header,
    (length, nonce): (u64, u64),
    echoes: &mut BTreeMap<u64, Meta>,
) -> std::io::Result<bool> {
    let mut at = u64::from(header.offset) + header.meta_bytes() as u64;
    let end = at + u64::from(header.echo_bytes);
    let mut whole = end <= length;
    while at + HEADER_BYTES as u64 <= end.min(length) {
        let meta = match window.get(at, HEADER_BYTES)?.and_then(Header::peek) {
            Some(copy) if at + copy.meta_bytes() as u64 <= end.min(length) => {
                window.get(at, copy.meta_bytes())?.and_then(|b| Meta::parse(b, nonce))
            }
            _ => None,
        };
        let Some(meta) = meta else {
            // Copies are back to back: behind a damaged one the next may still be found.
            whole = false;
            at += 4;
            continue;
        };
        at += meta.header.meta_bytes() as u64;
        echoes.insert(u64::from(meta.header.offset), meta);
    }
    Ok(whole && at == end)
}

/// Puts echoes in the place of batches that could not be read.
fn stand_in(scan: &mut Scan, echoes: BTreeMap<u64, Meta>) {
    for (offset, echo) in echoes {
        match scan.metas.binary_search_by_key(&offset, |m| u64::from(m.header.offset)) {
            Ok(i) if scan.metas[i] == echo => {}
            Ok(_) => scan.bad_echoes.push((offset, echo.header.first_lsn)),
            Err(i) => {
                scan.from_echo.push((offset, echo.header.first_lsn));
                scan.metas.insert(i, echo);
            }
        }
    }
}

/// True if the payload behind `placed` is whole; those without one are. A file that ends before it is not an error.
pub fn payload_is_intact(window: &mut Window<'_>, placed: &Placed, nonce: u64) -> std::io::Result<bool> {
    if placed.entry.stored == 0 {
        return Ok(true);
    }
    let stored = window.get(placed.offset, placed.entry.stored as usize)?;
    Ok(stored.is_some_and(|b| payload::is_intact(b, nonce, placed.lsn, placed.entry.start)))
}

/// True if the file holds only zeros between the two offsets.
pub fn is_zero(window: &mut Window<'_>, start: u64, end: u64) -> std::io::Result<bool> {
    let mut at = start;
    while at < end {
        let n = (end - at).min(1 << 16) as usize;
        match window.get(at, n)? {
            Some(bytes) if bytes.iter().all(|&b| b == 0) => at += n as u64,
            _ => return Ok(false),
        }
    }
    Ok(true)
}
