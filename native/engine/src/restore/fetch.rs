//! Brings the content of a window into memory, in the order in which the payloads lie.
//!
//! Invariants: every payload is checked before its bytes are used. What cannot be had is zeros, and a fault that names it. A file that compaction
//! took away meanwhile ends the fetch with Gone: whoever planned the window plans it again.

use std::ops::Range;
use std::sync::Arc;

use super::buffer::Buffer;
use super::plan::{batches, Batch, Piece, Window, BATCH_BYTES};
use crate::error::{Error, Kind, Result};
use crate::index::Place;
use crate::journal::payload::STORED_MAX;
use crate::journal::segment::file_name;
use crate::storage::File;
use crate::units::{round_up, SegmentId, PAGE, SECTOR};
use crate::view::Fault;
use crate::volume::Volume;

/// Batches ahead of the one being read that the machine is told of.
const AHEAD: usize = 4;

/// The buffers of one thread.
pub(super) struct Fetcher {
    span: Buffer,
    stored: Vec<u8>,
    content: Vec<u8>,
    /// The segment read last, past the page cache.
    open: Option<(u32, Arc<dyn File>)>,
}

impl Fetcher {
    pub fn new() -> Fetcher {
        Fetcher { span: Buffer::new(), stored: Vec::new(), content: Vec::new(), open: None }
    }

    /// Fills `buffer`, which has the window's bytes; what could not be had.
    pub fn fetch(&mut self, volume: &Volume, window: &Window, buffer: &mut [u8]) -> Result<Vec<Fault>> {
        let mut faults = Vec::new();
        for blank in &window.blanks {
            buffer[blank.clone()].fill(0);
        }
        for &(offset, at, bytes) in &window.origin {
            volume.read_origin(offset, &mut buffer[at..at + bytes], &mut faults);
        }
        for lost in &window.lost {
            let (offset, bytes) = (lost.start * SECTOR, lost.sectors * SECTOR);
            volume.name_fault(lost, offset, bytes, volume.lost(lost.lsn), &mut faults);
        }
        let batches = batches(&window.pieces);
        for (number, batch) in batches.iter().enumerate() {
            let pieces = &window.pieces[batch.pieces.clone()];
            tell_ahead(volume, &batches, number);
            if !batch.is_dense() || !self.whole(volume, batch, pieces, buffer, &mut faults) {
                self.one_by_one(volume, pieces, buffer, &mut faults)?;
            }
        }
        self.open = None;
        faults.sort_by_key(|fault| fault.offset);
        Ok(faults)
    }

    /// Reads what the batch spans at once; false if that could not be done, and nothing is decoded then.
    fn whole(
        &mut self,
        volume: &Volume,
        batch: &Batch,
        pieces: &[Piece],
        buffer: &mut [u8],
        faults: &mut Vec<Fault>,
    ) -> bool {
        let first = batch.from / PAGE * PAGE;
        let bytes = (round_up(batch.to, PAGE) - first) as usize;
        debug_assert!(bytes as u64 <= BATCH_BYTES + 2 * PAGE || pieces.len() == 1);
        let Some(file) = self.uncached(volume, batch.segment) else { return false };
        let span = self.span.of(bytes);
        match file.read_at(span, first) {
            Ok(got) if got as u64 + first >= batch.to => {}
            _ => return false,
        }
        for group in payloads(pieces) {
            let (_, offset, stored) = pieces[group.start].stored();
            let from = (offset - first) as usize;
            let stored = &span[from..from + stored as usize];
            decode(volume, &pieces[group], Ok(stored), buffer, &mut self.content, faults);
        }
        true
    }

    /// Reads each payload alone, through the page cache.
    fn one_by_one(
        &mut self,
        volume: &Volume,
        pieces: &[Piece],
        buffer: &mut [u8],
        faults: &mut Vec<Fault>,
    ) -> Result<()> {
        for group in payloads(pieces) {
            let (segment, offset, stored) = pieces[group.start].stored();
            self.stored.resize((stored as usize).min(STORED_MAX), 0);
            let read =
                volume.index.files.get(segment).and_then(|file| read_whole(&*file, &mut self.stored, offset, segment));
            if let Some(gone) = read.as_ref().err().filter(|error| error.kind == Kind::Gone) {
                return Err(gone.clone());
            }
            let stored = read.map(|()| &self.stored[..]);
            decode(volume, &pieces[group], stored, buffer, &mut self.content, faults);
        }
        Ok(())
    }

    fn uncached(&mut self, volume: &Volume, segment: u32) -> Option<Arc<dyn File>> {
        if let Some((_, file)) = self.open.as_ref().filter(|open| open.0 == segment) {
            return Some(file.clone());
        }
        let file = volume.storage.open_uncached(&file_name(SegmentId(segment))).ok()?;
        self.open = Some((segment, file.clone()));
        Some(file)
    }
}

fn tell_ahead(volume: &Volume, batches: &[Batch], number: usize) {
    // The first call tells of the next few, each later one of the one behind them.
    let news = if number == 0 { 0..AHEAD } else { number + AHEAD - 1..number + AHEAD };
    for batch in news.filter_map(|number| batches.get(number)).filter(|batch| !batch.is_dense()) {
        if let Ok(file) = volume.index.files.get(batch.segment) {
            file.prefetch(batch.from, batch.to - batch.from);
        }
    }
}

fn read_whole(file: &dyn File, stored: &mut [u8], offset: u64, segment: u32) -> Result<()> {
    match file.read_at(stored, offset) {
        Ok(got) if got == stored.len() => Ok(()),
        Ok(_) => Err(Error::corrupt("the segment ends before its payload")),
        Err(e) => Err(Error::io("read", &file_name(SegmentId(segment)), &e)),
    }
}

/// Groups of pieces that are parts of one payload.
fn payloads(pieces: &[Piece]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut next = 0;
    std::iter::from_fn(move || {
        let first = next;
        let place = pieces.get(first)?.stored();
        next += 1;
        while pieces.get(next).is_some_and(|piece| piece.stored() == place) {
            next += 1;
        }
        Some(first..next)
    })
}

/// Checks and decodes one payload into the places of its pieces; zeros and faults where that fails.
fn decode(
    volume: &Volume,
    pieces: &[Piece],
    stored: Result<&[u8]>,
    buffer: &mut [u8],
    content: &mut Vec<u8>,
    faults: &mut Vec<Fault>,
) {
    if let Err(error) = stored.and_then(|stored| decode_pieces(volume, pieces, stored, buffer, content)) {
        for piece in pieces {
            let (offset, bytes) = (piece.mapped.start * SECTOR, piece.mapped.sectors * SECTOR);
            buffer[piece.at..piece.at + bytes as usize].fill(0);
            volume.name_fault(&piece.mapped, offset, bytes, error.clone(), faults);
        }
    }
}

fn decode_pieces(
    volume: &Volume,
    pieces: &[Piece],
    stored: &[u8],
    buffer: &mut [u8],
    content: &mut Vec<u8>,
) -> Result<()> {
    for (number, piece) in pieces.iter().enumerate() {
        let Place::Data { skip, record_sectors, .. } = piece.mapped.place else { continue };
        let start = piece.mapped.start - u64::from(skip);
        let bytes = (piece.mapped.sectors * SECTOR) as usize;
        let target = &mut buffer[piece.at..piece.at + bytes];
        if piece.mapped.sectors == u64::from(record_sectors) {
            volume.decode(stored, piece.mapped.lsn, start, target)?;
            continue;
        }
        if number == 0 {
            content.resize(usize::from(record_sectors) * SECTOR as usize, 0);
            volume.decode(stored, piece.mapped.lsn, start, content)?;
        }
        let from = usize::from(skip) * SECTOR as usize;
        target.copy_from_slice(&content[from..from + bytes]);
    }
    Ok(())
}
