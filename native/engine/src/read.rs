//! The way of a read: extent map → pieces → checksum → bytes. One path for the live volume and for every instant.

mod neighbours;

use std::cell::RefCell;
use std::io::{self, IoSliceMut};

use self::neighbours::{Fetched, Part, Payload};
use crate::error::{Error, Kind, Result};
use crate::index::leaf::Mapped;
use crate::index::map::At;
use crate::index::{Place, LEAF_SECTORS};
use crate::journal::payload;
use crate::journal::segment::file_name;
use crate::storage::File;
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
    fetched: Fetched,
}

/// What a read says beside the bytes.
struct Answer<'a> {
    faults: Vec<Fault>,
    /// Called once, before the first wait for the disk.
    before_wait: Option<&'a mut dyn FnMut()>,
}

impl Answer<'_> {
    fn read_at(&mut self, file: &dyn File, buffers: &mut [IoSliceMut<'_>], offset: usize) -> io::Result<usize> {
        if let Some(call) = self.before_wait.take() {
            match file.read_vectored_now_at(buffers, offset as u64) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => call(),
                other => {
                    self.before_wait = Some(call);
                    return other;
                }
            }
        }
        file.read_vectored_at(buffers, offset as u64)
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Volume {
    /// Fills `buffer` from byte `offset` of the instant; the caller checked the range. What cannot be had is zeroed and named. `before_wait` is called once, before the first
    /// payload that has to come from the disk.
    pub(crate) fn read(
        &self,
        at: At,
        offset: u64,
        buffer: &mut [u8],
        before_wait: Option<&mut dyn FnMut()>,
    ) -> Result<Vec<Fault>> {
        let mut answer = Answer { faults: Vec::new(), before_wait };
        SCRATCH.with(|scratch| {
            let scratch = &mut *scratch.borrow_mut();
            let mut done = 0;
            while done < buffer.len() {
                let from = offset + done as u64;
                let room = (LEAF_BYTES - from % LEAF_BYTES).min((buffer.len() - done) as u64) as usize;
                self.read_leaf(at, from, &mut buffer[done..done + room], scratch, &mut answer)?;
                done += room;
            }
            Ok(answer.faults)
        })
    }

    /// Asks for the payloads under some bytes, which will be read soon. Nothing depends on it.
    pub(crate) fn prefetch(&self, at: At, offset: u64, bytes: u64) {
        let (mut from, end) = (offset / SECTOR, (offset + bytes).div_ceil(SECTOR));
        let mut mapped = Vec::new();
        while from < end {
            let until = end.min((from / LEAF_SECTORS + 1) * LEAF_SECTORS);
            if self.index.resolve(at, from, until, &mut mapped).is_err() {
                return;
            }
            from = until;
        }
        for piece in &mapped {
            if let Place::Data { segment, offset, stored, .. } = piece.place {
                let _ = self.index.files.get(segment).map(|file| file.prefetch(offset.into(), stored.into()));
            }
        }
    }

    /// A part of a read that lies in one leaf.
    fn read_leaf(
        &self,
        at: At,
        offset: u64,
        buffer: &mut [u8],
        scratch: &mut Scratch,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let known = answer.faults.len();
        while !self.try_read_leaf(at, offset, buffer, scratch, answer)? {
            answer.faults.truncate(known);
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
        answer: &mut Answer<'_>,
    ) -> Result<bool> {
        let end = offset + buffer.len() as u64;
        let mut mapped = std::mem::take(&mut scratch.mapped);
        mapped.clear();
        self.index.resolve(at, offset / SECTOR, end.div_ceil(SECTOR), &mut mapped)?;
        let mut done = offset;
        // Where the neighbours end that one call was to read, and whether it did.
        let (mut run_end, mut is_read) = (0, false);
        for (index, piece) in mapped.iter().enumerate() {
            let (from, to) = ((piece.start * SECTOR).max(offset), ((piece.start + piece.sectors) * SECTOR).min(end));
            self.read_origin(done, &mut buffer[(done - offset) as usize..(from - offset) as usize], &mut answer.faults);
            done = to;
            if index >= run_end {
                let run = neighbours::first(&mapped[index..], &(offset..end));
                run_end = index + run.len();
                is_read = run.len() > 1 && self.read_neighbours(&run, offset, buffer, scratch, answer);
            }
            if is_read {
                continue;
            }
            let target = &mut buffer[(from - offset) as usize..(to - offset) as usize];
            if let Err(error) = self.read_piece(piece, from, target, scratch, answer) {
                if error.kind == Kind::Gone {
                    return Ok(false);
                }
                target.fill(0);
                self.name_fault(piece, from, to - from, error, &mut answer.faults);
            }
        }
        self.read_origin(done, &mut buffer[(done - offset) as usize..], &mut answer.faults);
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

    /// Reads neighbours by one call into `buffer`, which begins at byte `offset`. False if anything is wrong with one of them: each is to be read alone then.
    fn read_neighbours(
        &self,
        run: &[Part<'_>],
        offset: u64,
        buffer: &mut [u8],
        scratch: &mut Scratch,
        answer: &mut Answer<'_>,
    ) -> bool {
        let Scratch { fetched, content, .. } = scratch;
        let Ok(file) = self.index.files.get(run[0].segment) else { return false };
        if !fetched.fetch(run, offset, buffer, |buffers, at| answer.read_at(&*file, buffers, at)) {
            return false;
        }
        run.iter().zip(fetched.payloads(run)).all(|(part, payload)| {
            let target = &mut buffer[(part.wanted.start - offset) as usize..(part.wanted.end - offset) as usize];
            let checked = match payload {
                Payload::Direct(sum) => self.check_raw(sum, part, target),
                Payload::Stored(stored) => self.unpack(stored, part, target, content),
            };
            checked.is_ok()
        })
    }

    fn read_piece(
        &self,
        piece: &Mapped,
        from: u64,
        target: &mut [u8],
        scratch: &mut Scratch,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let Some(part) = Part::of(piece, &(from..from + target.len() as u64)) else {
            if piece.place == Place::Damaged {
                return Err(self.lost(piece.lsn));
            }
            target.fill(0);
            return Ok(());
        };
        let file = self.index.files.get(part.segment)?;
        let whole = |got: io::Result<usize>| match got {
            Ok(got) if got == part.stored => Ok(()),
            Ok(_) => Err(Error::corrupt("the segment ends before its payload")),
            Err(e) => Err(Error::io("read", &file_name(SegmentId(part.segment)), &e)),
        };
        if part.direct {
            let mut sum = [0; payload::CRC_BYTES];
            let mut buffers = [IoSliceMut::new(&mut sum), IoSliceMut::new(target)];
            whole(answer.read_at(&*file, &mut buffers, part.offset))?;
            return self.check_raw(sum, &part, target);
        }
        scratch.stored.resize(part.stored, 0);
        let mut buffer = [IoSliceMut::new(&mut scratch.stored)];
        whole(answer.read_at(&*file, &mut buffer, part.offset))?;
        self.unpack(&scratch.stored, &part, target, &mut scratch.content)
    }

    fn check_raw(&self, sum: [u8; payload::CRC_BYTES], part: &Part<'_>, content: &[u8]) -> Result<()> {
        let lsn = part.piece.lsn;
        payload::check_raw(sum, content, self.facts.nonce_of(lsn), lsn, part.start / SECTOR)
    }

    /// Decodes a payload into `target`, or what is wanted of it by way of `content`.
    fn unpack(&self, stored: &[u8], part: &Part<'_>, target: &mut [u8], content: &mut Vec<u8>) -> Result<()> {
        let (lsn, sector) = (part.piece.lsn, part.start / SECTOR);
        if target.len() == part.whole {
            return self.decode(stored, lsn, sector, target);
        }
        content.resize(part.whole, 0);
        self.decode(stored, lsn, sector, content)?;
        let at = (part.wanted.start - part.start) as usize;
        target.copy_from_slice(&content[at..at + target.len()]);
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
            file_name(segment),
            offset + bytes,
            error.message
        );
        if error.kind == Kind::Corrupt {
            self.faults.note(message.clone());
        }
        faults.push(Fault { offset, bytes, lsn: Lsn(piece.lsn), segment, kind: error.kind, message });
    }
}
