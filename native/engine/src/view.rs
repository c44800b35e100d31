//! A volume as it was at an LSN, or as it is.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::index::map::At;
use crate::index::{Place, LEAF_SECTORS};
use crate::reach::Pin;
use crate::request::check_range;
use crate::units::{Lsn, SegmentId, SECTOR};
use crate::volume::Volume;

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub bytes: u64,
    /// True: reads as zeros and occupies nothing. False: data (or the origin's, or unreadable).
    pub zero: bool,
}

/// Bytes that could not be read; the buffer holds zeros there.
#[derive(Clone, Debug)]
pub struct Fault {
    pub offset: u64,
    pub bytes: u64,
    pub lsn: Lsn,
    pub segment: SegmentId,
    pub kind: Kind,
    pub message: String,
}

/// Cheap to clone; any number may be open at once, while writes go on.
#[derive(Clone)]
pub struct View {
    volume: Arc<Volume>,
    pub(crate) at: At,
    /// Keeps the instant; the live volume needs none.
    pin: Option<Pin>,
    /// Bytes at the instant; the live volume may grow.
    size: Option<u64>,
}

impl View {
    pub(crate) fn live(volume: Arc<Volume>) -> View {
        View { volume, at: At::Live, pin: None, size: None }
    }

    pub(crate) fn at(volume: Arc<Volume>, lsn: Lsn, pin: Pin) -> View {
        let size = Some(volume.size_at(lsn));
        View { volume, at: At::Lsn(lsn.0), pin: Some(pin), size }
    }

    /// The instant, or None for the live volume.
    pub fn lsn(&self) -> Option<Lsn> {
        match self.at {
            At::Live => None,
            At::Lsn(lsn) => Some(Lsn(lsn)),
        }
    }

    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    pub(crate) fn instant(&self) -> At {
        self.at
    }

    /// Bytes, at the view's instant.
    pub fn size(&self) -> u64 {
        self.size.unwrap_or_else(|| self.volume.size())
    }

    /// Fills `buffer` with the bytes from `offset` on; any offset and length inside `size`, else Invalid.
    /// Damage does not end the read: what could not be had is zeroed and named, in ascending order.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<Vec<Fault>> {
        self.read_or_wait(offset, buffer, None)
    }

    /// The same, and calls `before_wait` once if the disk is to be waited for: the time to [`View::prefetch`] what will be read next.
    pub fn read_or_wait(
        &self,
        offset: u64,
        buffer: &mut [u8],
        before_wait: Option<&mut dyn FnMut()>,
    ) -> Result<Vec<Fault>> {
        self.check(offset, buffer.len() as u64)?;
        let faults = self.volume.read(self.at, offset, buffer, before_wait)?;
        // Taken away while it was read, the bytes may be those of an older version.
        self.check_held()?;
        Ok(faults)
    }

    /// Begins to fetch from the disk what a read of these bytes will want, as far as there is such a range. Nothing depends on it.
    pub fn prefetch(&self, offset: u64, bytes: u64) {
        if self.check(offset, bytes).is_ok() {
            self.volume.prefetch(self.at, offset, bytes);
        }
    }

    /// At most `most` extents that cover `offset..offset + bytes` from its beginning, neighbours merged. The last one may end early
    /// (whole range not covered) when `most` is reached.
    pub fn extents(&self, offset: u64, bytes: u64, most: usize) -> Result<Vec<Extent>> {
        self.check(offset, bytes)?;
        let mut merged = Merged { extents: Vec::new(), most };
        let end = offset + bytes;
        let mut at = offset;
        let mut mapped = Vec::new();
        while at < end {
            let leaf_end = (at / (LEAF_SECTORS * SECTOR) + 1) * LEAF_SECTORS * SECTOR;
            let until = end.min(leaf_end);
            mapped.clear();
            self.volume.index.resolve(self.at, at / SECTOR, until.div_ceil(SECTOR), &mut mapped)?;
            for piece in &mapped {
                let (from, to) = ((piece.start * SECTOR).max(at), ((piece.start + piece.sectors) * SECTOR).min(until));
                if !self.push_unmapped(&mut merged, at, from) || !merged.push(to - from, piece.place == Place::Zero) {
                    return Ok(merged.extents);
                }
                at = to;
            }
            if !self.push_unmapped(&mut merged, at, until) {
                return Ok(merged.extents);
            }
            at = until;
        }
        Ok(merged.extents)
    }

    /// What no record covers is the origin's as far as that reaches, then zeros.
    fn push_unmapped(&self, merged: &mut Merged, from: u64, to: u64) -> bool {
        let origin_end = self.volume.origin.as_ref().map_or(0, |origin| origin.size()).clamp(from, to);
        merged.push(origin_end - from, false) && merged.push(to - origin_end, true)
    }

    /// Gone once the instant was taken away from those who look at it.
    pub(crate) fn check_held(&self) -> Result<()> {
        match &self.pin {
            Some(pin) if pin.is_revoked() => {
                Err(Error::new(Kind::Io, "the journal was full, and this instant was given up to make room"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check(&self, offset: u64, bytes: u64) -> Result<()> {
        self.check_held()?;
        if self.volume.is_closed() {
            return Err(Error::new(Kind::Closed, "the volume is closed"));
        }
        check_range(offset, bytes, self.size(), false)
    }
}

struct Merged {
    extents: Vec<Extent>,
    most: usize,
}

impl Merged {
    /// False if there is no room for another extent.
    fn push(&mut self, bytes: u64, zero: bool) -> bool {
        if bytes == 0 {
            return true;
        }
        let full = self.extents.len() >= self.most;
        match self.extents.last_mut() {
            Some(last) if last.zero == zero => last.bytes += bytes,
            _ if full => return false,
            _ => self.extents.push(Extent { bytes, zero }),
        }
        true
    }
}
