//! The disk under a volume: only read, and only where no record covers.

use crate::error::Result;

/// An existing disk or image. `read_at` fills the whole buffer or fails; the engine never asks beyond `size`.
pub trait Origin: Send + Sync {
    /// Bytes; the volume reads zeros beyond.
    fn size(&self) -> u64;
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
}
