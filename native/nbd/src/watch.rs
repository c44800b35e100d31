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

    /// When it was set last; 0 if it is not set.
    pub(crate) fn since(&self) -> u64 {
        self.0.load(Relaxed)
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
    queue: Queue,
}

/// What the kernel still had to send when it was last asked, and the mark of that time. Only used with the session's state locked.
#[derive(Default)]
struct Queue {
    since: AtomicU64,
    bytes: AtomicU64,
}

impl Watch {
    /// Looks whether a client that owes reading has taken bytes from the kernel's queue. A TCP socket counts as writable once a third of
    /// a queue of megabytes is free: a reader of 40 KB/s gets no turn in a minute.
    pub(crate) fn look(&self, now: u64, queued: u64, unsent: u64) {
        let since = self.reading.since();
        if since == 0 {
            return;
        }
        let step = if queued + unsent < PROGRESS as u64 { 1 } else { PROGRESS as u64 };
        if self.queue.since.load(Relaxed) == since {
            if queued + step > self.queue.bytes.load(Relaxed) {
                return;
            }
            self.reading.set(now);
        }
        self.queue.since.store(self.reading.since(), Relaxed);
        self.queue.bytes.store(queued, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_millis(100);

    /// Whether a reader from whose queue so much was gone at each look, every 40 ms, is overdue at the end.
    fn overdue(queued: &[u64], unsent: u64) -> bool {
        let watch = Watch::default();
        watch.reading.set(1);
        let mut now = 1;
        for &bytes in queued {
            watch.look(now, bytes, unsent);
            now += 40;
        }
        watch.reading.overdue(now, STALL)
    }

    #[test]
    fn what_leaves_the_kernels_queue_is_progress() {
        let step = PROGRESS as u64;
        assert!(overdue(&[10 * step; 4], 9 * step));
        assert!(!overdue(&[10 * step, 10 * step, 9 * step, 9 * step], 9 * step));
        assert!(overdue(&[10 * step, 10 * step - 1, 10 * step - 2, 10 * step - 3], 9 * step), "too little");
        assert!(!overdue(&[100, 100, 99, 99], 10), "little is left");
        assert!(!overdue(&[10 * step, 9 * step, 8 * step, 7 * step, 6 * step, 5 * step], 9 * step));
    }
}
