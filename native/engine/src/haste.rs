//! When compression gives way to a client that is held up by it (docs/decisions/0011-data-path.md, "Large writes").
//!
//! Invariant: only large writes of clients that have sent more already are stored as they are, and only while a byte that compression saves takes longer than a byte
//! that the journal is given. Both are measured as they come, so that a slow disk keeps compression and a fast one does not wait for it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::journal::payload::CRC_BYTES;
use crate::request::{Piece, Request};
use crate::units::SECTOR;

/// Bytes of a write from which on it may be stored as it is. The index of smaller ones is not that much smaller than they are.
pub const LARGE: usize = 32 << 10;
/// Of so many large writes one is compressed all the same, to know what that would take.
const PROBE: u64 = 64;
/// A mean follows the newest value by this part.
const NEWS: u64 = 8;
/// Fractions of a nanosecond that costs are kept in.
const FINE: u64 = 1024;

#[derive(Default)]
pub struct Haste {
    /// Of compression, for each byte that it saves; of an append, for each byte. 0: not known.
    saved: AtomicU64,
    written: AtomicU64,
    large: AtomicU64,
    /// Data payloads since the start, and those of them that are stored as they are.
    payloads: AtomicU64,
    raw: AtomicU64,
}

/// How long work takes is no part of what a volume does: the clock of stamps may be stepped, and a simulated one stands still.
#[allow(clippy::disallowed_methods)]
pub fn begin() -> Instant {
    Instant::now()
}

impl Haste {
    /// Whether the next large write of a client that waits is better stored as it is.
    pub fn is_called_for(&self) -> bool {
        let (saved, written) = (self.saved.load(Relaxed), self.written.load(Relaxed));
        self.large.fetch_add(1, Relaxed) % PROBE != 0 && written > 0 && saved > written
    }

    /// A large write was compressed from `bytes` to `stored`.
    pub fn compressed(&self, bytes: usize, stored: usize, begun: Instant) {
        note(&self.saved, bytes.saturating_sub(stored), begun);
    }

    /// A large batch was appended.
    pub fn appended(&self, bytes: u64, begun: Instant) {
        note(&self.written, bytes as usize, begun);
    }

    pub fn count(&self, request: &Request) {
        let (mut all, mut raw) = (0, 0);
        for piece in &request.pieces {
            if let Piece::Data { sectors, stored, .. } = *piece {
                all += 1;
                raw += u64::from(u64::from(stored) == u64::from(sectors) * SECTOR + CRC_BYTES as u64);
            }
        }
        self.payloads.fetch_add(all, Relaxed);
        self.raw.fetch_add(raw, Relaxed);
    }

    /// Data payloads since the start, and those that are stored as they are.
    pub fn payloads(&self) -> (u64, u64) {
        (self.payloads.load(Relaxed), self.raw.load(Relaxed))
    }
}

fn note(mean: &AtomicU64, bytes: usize, begun: Instant) {
    let cost = (begun.elapsed().as_nanos() as u64).saturating_mul(FINE) / bytes.max(1) as u64;
    let before = mean.load(Relaxed);
    let next = if before == 0 { cost } else { before - before / NEWS + cost / NEWS };
    mean.store(next.max(1), Relaxed);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_byte_that_is_saved_must_cost_less_than_one_that_is_written() {
        let ago = |micros| begin() - Duration::from_micros(micros);
        let haste = Haste::default();
        let asked = |haste: &Haste| (0..PROBE).filter(|_| haste.is_called_for()).count();
        haste.compressed(65536, 32768, ago(100));
        assert_eq!(asked(&haste), 0, "nothing is known of the disk");
        haste.appended(65536, ago(20));
        assert_eq!(asked(&haste), 63, "a fast disk, and one in sixty-four is compressed");
        (0..64).for_each(|_| haste.appended(65536, ago(2000)));
        assert_eq!(asked(&haste), 0, "a slow disk");
        (0..64).for_each(|_| haste.compressed(65536, 65536, ago(100)));
        assert_eq!(asked(&haste), 63, "what does not shrink");
    }
}
