//! The way of a read: extent map → pieces → checksum → bytes. One path for the live volume and for every instant.

use std::cell::RefCell;

use crate::error::{Error, Kind, Result};
use crate::index::leaf::Mapped;
use crate::index::map::At;
use crate::index::{Place, LEAF_SECTORS};
use crate::journal::payload;
use crate::units::{Lsn, SegmentId, SECTOR};
use crate::view::Fault;
use crate::volume::Volume;

const LEAF_BYTES: u64 = LEAF_SECTORS * SECTOR;

/// Buffers of a reading thread: a stored payload and a decoded one.
#[derive(Default)]
struct Scratch {
    stored: Vec<u8>,
    content: Vec<u8>,
    mapped: Vec<Mapped>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Volume {
    /// Fills `buffer` from byte `offset` of the instant; the caller checked the range. What cannot be had is zeroed and named.
    pub(crate) fn read(&self, at: At, offset: u64, buffer: &mut [u8]) -> Result<Vec<Fault>> {
        let mut faults = Vec::new();
        SCRATCH.with(|scratch| {
            let scratch = &mut *scratch.borrow_mut();
            let mut done = 0;
            while done < buffer.len() {
                let from = offset + done as u64;
                let room = (LEAF_BYTES - from % LEAF_BYTES).min((buffer.len() - done) as u64) as usize;
                self.read_leaf(at, from, &mut buffer[done..done + room], scratch, &mut faults)?;
                done += room;
            }
            Ok(faults)
        })
    }

    /// A part of a read that lies in one leaf.
    fn read_leaf(
        &self,
        at: At,
        offset: u64,
        buffer: &mut [u8],
        scratch: &mut Scratch,
        faults: &mut Vec<Fault>,
    ) -> Result<()> {
        let known = faults.len();
        while !self.try_read_leaf(at, offset, buffer, scratch, faults)? {
            faults.truncate(known);
        }
        Ok(())
    }

    /// False if compaction took a file away between the lookup and the read.
    fn try_read_leaf(
        &self,
        at: At,
        offset: u64,
        buffer: &mut [u8],
        scratch: &mut Scratch,
        faults: &mut Vec<Fault>,
    ) -> Result<bool> {
        let end = offset + buffer.len() as u64;
        let mut mapped = std::mem::take(&mut scratch.mapped);
        mapped.clear();
        self.index.resolve(at, offset / SECTOR, end.div_ceil(SECTOR), &mut mapped)?;
        let mut done = offset;
        for piece in &mapped {
            let (from, to) = ((piece.start * SECTOR).max(offset), ((piece.start + piece.sectors) * SECTOR).min(end));
            self.read_origin(done, &mut buffer[(done - offset) as usize..(from - offset) as usize], faults);
            let target = &mut buffer[(from - offset) as usize..(to - offset) as usize];
            if let Err(error) = self.read_piece(piece, from, target, scratch) {
                if error.kind == Kind::Gone {
                    return Ok(false);
                }
                target.fill(0);
                self.name_fault(piece, from, to - from, error, faults);
            }
            done = to;
        }
        self.read_origin(done, &mut buffer[(done - offset) as usize..], faults);
        scratch.mapped = mapped;
        Ok(true)
    }

    /// Bytes that no record covers.
    pub(crate) fn read_origin(&self, offset: u64, buffer: &mut [u8], faults: &mut Vec<Fault>) {
        let Some(origin) = self.origin.as_ref().filter(|_| !buffer.is_empty()) else {
            buffer.fill(0);
            return;
        };
        let inside = origin.size().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (under, beyond) = buffer.split_at_mut(inside);
        beyond.fill(0);
        if under.is_empty() {
            return;
        }
        if let Err(error) = origin.read_at(under, offset) {
            under.fill(0);
            let message = format!("the origin cannot be read at {offset}: {}", error.message);
            faults.push(Fault {
                offset,
                bytes: inside as u64,
                lsn: Lsn::ZERO,
                segment: SegmentId(0),
                kind: error.kind,
                message,
            });
        }
    }

    fn read_piece(&self, piece: &Mapped, from: u64, target: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        let Place::Data { segment, offset, stored, skip, record_sectors } = piece.place else {
            if piece.place == Place::Damaged {
                return Err(self.lost(piece.lsn));
            }
            target.fill(0);
            return Ok(());
        };
        let file = self.index.files.get(segment)?;
        let start = piece.start - u64::from(skip);
        let whole = u64::from(record_sectors) * SECTOR;
        let all_of_it = target.len() as u64 == whole && from == start * SECTOR;
        let failed = |e| Error::io("read", &crate::journal::segment::file_name(SegmentId(segment)), &e);
        let whole_or_not = |got: usize| match got < stored as usize {
            true => Err(Error::corrupt("the segment ends before its payload")),
            false => Ok(()),
        };
        if all_of_it && u64::from(stored) == whole + payload::CRC_BYTES as u64 {
            // Stored as it is: there is nothing to decode, and so nothing to copy.
            let mut sum = [0; payload::CRC_BYTES];
            whole_or_not(file.read_split_at(&mut sum, target, u64::from(offset)).map_err(failed)?)?;
            return payload::check_raw(sum, target, self.facts.nonce_of(piece.lsn), piece.lsn, start);
        }
        scratch.stored.resize(stored as usize, 0);
        whole_or_not(file.read_at(&mut scratch.stored, u64::from(offset)).map_err(failed)?)?;
        if all_of_it {
            return self.decode(&scratch.stored, piece.lsn, start, target);
        }
        scratch.content.resize(whole as usize, 0);
        self.decode(&scratch.stored, piece.lsn, start, &mut scratch.content)?;
        let at = (from - start * SECTOR) as usize;
        target.copy_from_slice(&scratch.content[at..at + target.len()]);
        Ok(())
    }

    /// Why a place is damaged without a look at it.
    pub(crate) fn lost(&self, lsn: u64) -> Error {
        match self.poison.get() {
            Some(why) if lsn > self.durability.lsn() => Error::new(Kind::Poisoned, why.clone()),
            _ => Error::corrupt("its content is lost"),
        }
    }

    /// Checks a stored payload of the record `lsn` at sector `start` and decodes it.
    pub(crate) fn decode(&self, stored: &[u8], lsn: u64, start: u64, content: &mut [u8]) -> Result<()> {
        payload::decode(stored, self.facts.nonce_of(lsn), lsn, start, content)
    }

    pub(crate) fn name_fault(&self, piece: &Mapped, offset: u64, bytes: u64, error: Error, faults: &mut Vec<Fault>) {
        let segment = match piece.place {
            Place::Data { segment, .. } => SegmentId(segment),
            _ => SegmentId(0),
        };
        let message = format!(
            "record {} in {}, bytes {offset} to {}: {}",
            piece.lsn,
            crate::journal::segment::file_name(segment),
            offset + bytes,
            error.message
        );
        if error.kind == Kind::Corrupt {
            self.faults.note(message.clone());
        }
        faults.push(Fault { offset, bytes, lsn: Lsn(piece.lsn), segment, kind: error.kind, message });
    }
}
