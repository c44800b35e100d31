//! Who owes progress, and since when.
//!
//! Invariant: a mark is set exactly while the session is parked waiting for its client and holds memory for it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes that count as progress where more than that is left, so that one byte now and then does not.
pub(crate) const PROGRESS: usize = 64 << 10;

/// Milliseconds since the server began; never 0.
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock(Instant::now())
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.elapsed().as_millis() as u64 + 1
    }
}

/// Since when a client has owed bytes; 0 if it does not.
#[derive(Default)]
pub(crate) struct Mark(AtomicU64);

impl Mark {
    pub(crate) fn clear(&self) {
        self.0.store(0, Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    pub(crate) fn set(&self, now: u64) {
        self.0.store(now, Relaxed);
    }

    pub(crate) fn overdue(&self, now: u64, stall: Duration) -> bool {
        let since = self.0.load(Relaxed);
        since != 0 && u128::from(now.saturating_sub(since)) > stall.as_millis()
    }
}

#[derive(Default)]
pub(crate) struct Watch {
    /// The client has begun a payload for which memory is held.
    pub(crate) sending: Mark,
    /// Replies wait for the client to read.
    pub(crate) reading: Mark,
}
