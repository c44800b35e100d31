//! A volume open for writing, or for looking only.

use std::sync::Arc;

use crate::error::Result;
use crate::origin::Origin;
use crate::storage::Storage;
use crate::units::{Lsn, Stamp};
use crate::view::View;

#[derive(Clone, Debug, Default)]
pub struct Options {}

/// Why a range reads as zeros from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    Zero,
    Trim,
}

pub struct Volume {}

impl Volume {
    pub fn create(_storage: &dyn Storage, _id: [u8; 16], _size: u64, _created: Stamp) -> Result<()> {
        todo!()
    }

    pub fn open(_storage: Arc<dyn Storage>, _origin: Option<Arc<dyn Origin>>, _options: Options) -> Result<Arc<Volume>> {
        todo!()
    }

    /// Bytes, now.
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// Admits a write: copies (and compresses) `data`, gives it its LSN and stamp. Any offset and length inside `size`; empty is Invalid. Not yet in the
    /// journal: reply only after `commit`. May wait for room in the ring, never for another session's client.
    pub fn write(&self, _offset: u64, _data: &[u8]) -> Result<Lsn> {
        todo!()
    }

    /// Admits a WRITE_ZEROES or TRIM of any length inside `size`.
    pub fn zero(&self, _offset: u64, _bytes: u64, _how: Zeroing) -> Result<Lsn> {
        todo!()
    }

    /// Waits until the record is in the journal and visible to reads; its own outcome. To be called once for each
    /// admitted LSN; the first call of several takes all that is pending with it, the others are then cheap.
    pub fn commit(&self, _lsn: Lsn) -> Result<()> {
        todo!()
    }

    /// Makes everything that was committed before the call, by anybody, durable (FLUSH).
    pub fn flush(&self) -> Result<()> {
        todo!()
    }

    /// Makes a committed record durable (FUA), and with it everything before it.
    pub fn sync_to(&self, _lsn: Lsn) -> Result<()> {
        todo!()
    }

    /// The live volume: its reads see every committed write.
    pub fn live(&self) -> View {
        todo!()
    }

    /// The volume as it was at `lsn`.
    pub fn view(&self, _lsn: Lsn) -> Result<View> {
        todo!()
    }
}
