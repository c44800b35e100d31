//! The reply to READ.
//!
//! Invariants. Bytes that could not be read are never sent. Without chunks a damaged range fails the whole request;
//! with chunks the good pieces are sent, and an ERROR_OFFSET chunk for each damaged range. DF: at most one content
//! chunk. Otherwise a chunk carries no more than CHUNK bytes of data, and is sent as soon as it is made.

use cdp_engine::{Error, Fault, View};

use crate::outbox::{Outbox, Spares, CHUNK};
use crate::reply::{errno_of, To, Voice};
use crate::wire::Errno;

/// Bytes from which on a READ looks for holes: below, the look costs more than the zeros.
const HOLES_FROM: u64 = 32 << 10;
/// Bytes of the smallest hole that gets a chunk of its own.
const HOLE_MIN: u64 = 4096;
/// Extents looked up for one READ; what is beyond is sent as data.
const EXTENTS_MAX: usize = 1024;
/// ERROR_OFFSET chunks in one reply; further damaged ranges are left out of the content all the same.
const ERRORS_MAX: usize = 64;

pub(crate) struct Reading<'a> {
    pub(crate) voice: Voice,
    pub(crate) to: To,
    pub(crate) view: &'a View,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) spares: &'a mut Spares,
    /// Sends what the client takes without waiting.
    pub(crate) send: &'a mut dyn FnMut(&mut Outbox, &mut Spares),
    /// Called before a wait for the disk.
    pub(crate) before_wait: &'a mut dyn FnMut(),
}

/// A part of the range that is answered by one chunk, if it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    offset: u64,
    bytes: u64,
    zero: bool,
}

/// Joins neighbours of a kind, takes small holes for data, and cuts data at multiples of `most`.
fn pieces(offset: u64, length: u64, extents: impl Iterator<Item = (u64, bool)>, most: u64) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut at, end) = (offset, offset + length);
    for (bytes, zero) in extents.chain(std::iter::once((u64::MAX, false))) {
        let bytes = bytes.min(end - at);
        if bytes == 0 {
            continue;
        }
        let zero = zero && bytes >= HOLE_MIN;
        match pieces.last_mut() {
            Some(last) if last.zero == zero => last.bytes += bytes,
            _ => pieces.push(Piece { offset: at, bytes, zero }),
        }
        at += bytes;
    }
    pieces.into_iter().flat_map(|piece| split(piece, most)).collect()
}

/// Cuts at multiples of `most`: payloads end there too, and would be decoded twice if a cut went through them.
fn split(piece: Piece, most: u64) -> impl Iterator<Item = Piece> {
    let end = piece.offset + piece.bytes;
    let behind = move |at: u64| if piece.zero { end } else { (at / most + 1).saturating_mul(most).min(end) };
    let starts = std::iter::successors(Some(piece.offset), move |&at| Some(behind(at)).filter(|next| *next < end));
    starts.map(move |offset| Piece { offset, bytes: behind(offset) - offset, zero: piece.zero })
}

/// The parts of `piece` between the faults.
fn good_parts(piece: Piece, faults: &[Fault]) -> Vec<Piece> {
    let mut parts = Vec::new();
    let (mut at, end) = (piece.offset, piece.offset + piece.bytes);
    for fault in faults {
        let start = fault.offset.clamp(at, end);
        if start > at {
            parts.push(Piece { offset: at, bytes: start - at, zero: false });
        }
        at = fault.offset.saturating_add(fault.bytes).clamp(at, end);
    }
    if at < end {
        parts.push(Piece { offset: at, bytes: end - at, zero: false });
    }
    parts
}

impl Reading<'_> {
    /// Queues the reply; whether the request succeeded.
    pub(crate) fn run(&mut self, offset: u64, length: u64, df: bool) -> bool {
        if !self.voice.structured {
            return self.simple(offset, length);
        }
        let plan = self.plan(offset, length, df);
        match self.chunks(&plan, df) {
            Ok(good) => good,
            Err(error) => {
                self.fail(errno_of(error.kind), &error.message);
                false
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.outbox.put(bytes, self.spares);
    }

    fn fail(&mut self, errno: Errno, message: &str) {
        let bytes = self.voice.error(self.to, errno, message);
        self.put(&bytes);
    }

    fn simple(&mut self, offset: u64, length: u64) -> bool {
        let head = self.voice.simple_data(self.to);
        let whole = head.len() + length as usize;
        let space = self.outbox.space(whole, self.spares);
        space[..head.len()].copy_from_slice(&head);
        let outcome = self.view.read_or_wait(offset, &mut space[head.len()..], Some(self.before_wait));
        let errno = match outcome {
            Ok(faults) if faults.is_empty() => return true,
            Ok(faults) => errno_of(faults[0].kind),
            Err(error) => errno_of(error.kind),
        };
        self.outbox.retract(whole, self.spares);
        self.fail(errno, "");
        false
    }

    /// What to send if nothing is damaged. A failed look-up means no holes: the read itself will say what is wrong.
    fn plan(&self, offset: u64, length: u64, df: bool) -> Vec<Piece> {
        let extents = if df || length < HOLES_FROM {
            Vec::new()
        } else {
            self.view.extents(offset, length, EXTENTS_MAX).unwrap_or_default()
        };
        let most = if df { u64::MAX } else { CHUNK as u64 };
        pieces(offset, length, extents.iter().map(|extent| (extent.bytes, extent.zero)), most)
    }

    fn chunks(&mut self, plan: &[Piece], df: bool) -> Result<bool, Error> {
        let mut errors = 0;
        for (index, piece) in plan.iter().enumerate() {
            let last = index + 1 == plan.len() && errors == 0;
            if piece.zero {
                let hole = self.voice.hole(self.to, piece.offset, piece.bytes as u32, last);
                self.put(&hole);
                continue;
            }
            let faults = self.data(*piece, last)?;
            if !faults.is_empty() {
                self.damaged(*piece, &faults, df, &mut errors)?;
            }
            if !last {
                (self.send)(self.outbox, self.spares);
            }
        }
        if errors > 0 {
            let end = self.voice.end(self.to);
            self.put(&end);
        }
        Ok(errors == 0)
    }

    /// Queues one data chunk; or nothing, and what is damaged.
    fn data(&mut self, piece: Piece, last: bool) -> Result<Vec<Fault>, Error> {
        let head = self.voice.data(self.to, piece.offset, piece.bytes, last);
        let whole = head.len() + piece.bytes as usize;
        let space = self.outbox.space(whole, self.spares);
        space[..head.len()].copy_from_slice(&head);
        let outcome = self.view.read_or_wait(piece.offset, &mut space[head.len()..], Some(self.before_wait));
        if !matches!(&outcome, Ok(faults) if faults.is_empty()) {
            self.outbox.retract(whole, self.spares);
        }
        outcome
    }

    /// The good parts of a damaged piece, then its errors. A part that turns bad while it is read again joins them.
    fn damaged(&mut self, piece: Piece, faults: &[Fault], df: bool, errors: &mut usize) -> Result<(), Error> {
        let mut all = faults.to_vec();
        let mut parts = good_parts(piece, faults);
        if df {
            // One chunk only: what comes before the first fault.
            parts.truncate(1);
            parts.retain(|part| part.offset == piece.offset);
            all.truncate(1);
        }
        for part in parts {
            all.extend(self.data(part, false)?);
        }
        for fault in all {
            *errors += 1;
            if *errors <= ERRORS_MAX {
                let at = fault.offset.clamp(piece.offset, piece.offset + piece.bytes - 1);
                let errno = errno_of(fault.kind);
                let bytes = self.voice.error_at(self.to, errno, &fault.message, at);
                self.put(&bytes);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdp_engine::{Kind, Lsn, SegmentId};

    const MIB: u64 = 1 << 20;

    fn piece(offset: u64, bytes: u64, zero: bool) -> Piece {
        Piece { offset, bytes, zero }
    }

    fn fault(offset: u64, bytes: u64) -> Fault {
        let (lsn, segment) = (Lsn(1), SegmentId(1));
        Fault { offset, bytes, lsn, segment, kind: Kind::Corrupt, message: "bad".into() }
    }

    #[test]
    fn pieces_cover_the_range_in_order() {
        let extents = [(100, false), (8192, true), (512, true), (50, false)];
        assert_eq!(
            pieces(10, 20_000, extents.into_iter(), MIB),
            [piece(10, 100, false), piece(110, 8192, true), piece(8302, 11_708, false)]
        );
        assert_eq!(pieces(7, 5, std::iter::empty(), MIB), [piece(7, 5, false)]);
        assert_eq!(pieces(0, 9000, [(9000, true)].into_iter(), MIB), [piece(0, 9000, true)]);
    }

    #[test]
    fn data_is_split_and_holes_are_not() {
        let all = pieces(1, 64 * MIB, std::iter::empty(), 32 * MIB);
        assert_eq!(all, [piece(1, 32 * MIB - 1, false), piece(32 * MIB, 32 * MIB, false), piece(64 * MIB, 1, false)]);
        assert_eq!(pieces(0, MIB, std::iter::empty(), MIB), [piece(0, MIB, false)]);
        let hole = pieces(1, 64 * MIB, [(64 * MIB, true)].into_iter(), 32 * MIB);
        assert_eq!(hole, [piece(1, 64 * MIB, true)]);
    }

    #[test]
    fn good_parts_lie_between_the_faults() {
        let whole = piece(1000, 1000, false);
        let parts = good_parts(whole, &[fault(900, 200), fault(1500, 100)]);
        assert_eq!(parts, [piece(1100, 400, false), piece(1600, 400, false)]);
        assert_eq!(good_parts(whole, &[fault(1900, 4096)]), [piece(1000, 900, false)]);
        assert_eq!(good_parts(whole, &[fault(0, u64::MAX)]), []);
    }
}
