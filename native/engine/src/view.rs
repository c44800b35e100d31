//! A volume as it was at an LSN, or as it is.

use crate::error::{Kind, Result};
use crate::units::{Lsn, SegmentId};

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

#[derive(Clone)]
pub struct View {}

impl View {
    /// The instant, or None for the live volume.
    pub fn lsn(&self) -> Option<Lsn> {
        todo!()
    }

    /// Bytes, at the view's instant.
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// Fills `buffer` with the bytes from `offset` on; any offset and length inside `size`, else Invalid.
    /// Damage does not end the read: what could not be had is zeroed and named, in ascending order.
    pub fn read(&self, _offset: u64, _buffer: &mut [u8]) -> Result<Vec<Fault>> {
        todo!()
    }

    /// At most `most` extents that cover `offset..offset + bytes` from its beginning, neighbours merged. The last one may end early
    /// (whole range not covered) when `most` is reached.
    pub fn extents(&self, _offset: u64, _bytes: u64, _most: usize) -> Result<Vec<Extent>> {
        todo!()
    }
}
