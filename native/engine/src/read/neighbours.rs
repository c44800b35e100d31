//! Payloads of one segment that lie one behind the other, as a large write leaves them, are read by one call.
//!
//! Invariant. Nothing is decided here: a call that fails, or ends early, says nothing about any one payload.

use std::io::{self, IoSliceMut};
use std::ops::Range;

use crate::index::leaf::Mapped;
use crate::index::Place;
use crate::journal::payload::CRC_BYTES;
use crate::units::{PAGE, SECTOR};

/// Bytes between two payloads that are read along: a batch ends there, and the next one begins a page.
const GAP_MAX: usize = PAGE as usize;
/// Payloads of one call: each takes up to three of the 1024 buffers that preadv(2) allows.
const PAYLOADS_MAX: usize = 256;

/// A payload and the bytes of the volume that are wanted of it.
pub(super) struct Part<'a> {
    pub(super) piece: &'a Mapped,
    pub(super) wanted: Range<u64>,
    pub(super) segment: u32,
    /// In the segment.
    pub(super) offset: usize,
    pub(super) stored: usize,
    /// Bytes of its content.
    pub(super) whole: usize,
    /// Where the content begins in the volume.
    pub(super) start: u64,
    /// Wanted whole, and stored as it is: it can be read to where it belongs.
    pub(super) direct: bool,
}

impl<'a> Part<'a> {
    /// What `range` (bytes of the volume) wants of a piece in it; None for one without a payload.
    pub(super) fn of(piece: &'a Mapped, range: &Range<u64>) -> Option<Part<'a>> {
        let Place::Data { segment, offset, stored, skip, record_sectors } = piece.place else { return None };
        let (offset, stored, whole) = (offset as usize, stored as usize, usize::from(record_sectors) * SECTOR as usize);
        let start = (piece.start - u64::from(skip)) * SECTOR;
        let (from, to) = (piece.start * SECTOR, (piece.start + piece.sectors) * SECTOR);
        let wanted = from.max(range.start)..to.min(range.end);
        let direct = stored == whole + CRC_BYTES && wanted == (start..start + whole as u64);
        Some(Part { piece, wanted, segment, offset, stored, whole, start, direct })
    }

    fn end(&self) -> usize {
        self.offset + self.stored
    }

    /// Bytes between the two; None if one call does not read both.
    fn gap(&self, next: &Part<'_>) -> Option<usize> {
        next.offset.checked_sub(self.end()).filter(|gap| *gap <= GAP_MAX && self.segment == next.segment)
    }
}

/// The first of `pieces`, as many as one call reads; none where there is but one.
pub(super) fn first<'a>(pieces: &'a [Mapped], range: &Range<u64>) -> Vec<Part<'a>> {
    let mut run: Vec<Part<'a>> = Vec::new();
    if pieces.len() < 2 {
        return run;
    }
    for piece in pieces.iter().take(PAYLOADS_MAX) {
        match Part::of(piece, range) {
            Some(part) if run.last().is_none_or(|last| last.gap(&part).is_some()) => run.push(part),
            _ => break,
        }
    }
    run
}

/// What one call brought, beside what went to where it belongs.
#[derive(Default)]
pub(super) struct Fetched {
    /// Of the direct ones.
    sums: Vec<[u8; CRC_BYTES]>,
    /// The others, one behind the other; then what lies between payloads.
    stored: Vec<u8>,
}

impl Fetched {
    /// Reads `run` by one call of `read` (buffers, and where in the segment they begin); `buffer` begins with byte `begin` of the volume. False if not all of it came.
    pub(super) fn fetch(
        &mut self,
        run: &[Part<'_>],
        begin: u64,
        buffer: &mut [u8],
        read: impl FnOnce(&mut [IoSliceMut<'_>], usize) -> io::Result<usize>,
    ) -> bool {
        let gaps = || run.windows(2).map(|pair| pair[0].gap(&pair[1]).unwrap_or(0));
        let others: usize = run.iter().filter(|part| !part.direct).map(|part| part.stored).sum();
        self.stored.resize(others + gaps().sum::<usize>(), 0);
        self.sums.resize(run.iter().filter(|part| part.direct).count(), [0; CRC_BYTES]);
        let (mut others, mut between) = self.stored.split_at_mut(others);
        let (mut sums, mut rest, mut at) = (self.sums.iter_mut(), buffer, begin);
        let mut slices = Vec::with_capacity(3 * run.len());
        for (part, gap) in run.iter().zip(std::iter::once(0).chain(gaps())) {
            if gap > 0 {
                slices.push(IoSliceMut::new(take(&mut between, gap)));
            }
            if part.direct {
                slices.extend(sums.next().map(|sum| IoSliceMut::new(sum)));
                take(&mut rest, (part.wanted.start - at) as usize);
                slices.push(IoSliceMut::new(take(&mut rest, (part.wanted.end - part.wanted.start) as usize)));
                at = part.wanted.end;
            } else {
                slices.push(IoSliceMut::new(take(&mut others, part.stored)));
            }
        }
        let all: usize = slices.iter().map(|slice| slice.len()).sum();
        let from = run.first().map_or(0, |part| part.offset);
        read(&mut slices, from).is_ok_and(|got| got == all)
    }

    /// What came for each part of `run`, in order.
    pub(super) fn payloads<'a>(&'a self, run: &'a [Part<'_>]) -> impl Iterator<Item = Payload<'a>> {
        let (mut sums, mut stored) = (self.sums.iter(), self.stored.as_slice());
        run.iter().map_while(move |part| {
            if part.direct {
                return sums.next().copied().map(Payload::Direct);
            }
            let (first, behind) = stored.split_at_checked(part.stored)?;
            stored = behind;
            Some(Payload::Stored(first))
        })
    }
}

/// A payload that was read and not checked.
pub(super) enum Payload<'a> {
    /// The content is where it belongs; this is the checksum.
    Direct([u8; CRC_BYTES]),
    Stored(&'a [u8]),
}

/// Cuts the first `bytes` off.
fn take<'a>(rest: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (first, behind) = std::mem::take(rest).split_at_mut(bytes);
    *rest = behind;
    first
}
