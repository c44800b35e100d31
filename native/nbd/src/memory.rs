//! The budget of payload memory.
//!
//! Invariants. Memory is held before it is filled. What is held of a share never exceeds its limit. Who waits for a
//! share is served in the order of asking, and nobody overtakes a waiter. A waiter holds nothing of the share that it
//! waits for, and what others hold comes back (their client makes progress or loses its connection), so everybody's
//! turn comes.
//!
//! There are four shares, so that large requests and stalled clients cannot starve small ones: *ahead* for bytes that
//! were received together with others (never waited for: without it a session receives request by request), and
//! *small*, *medium* and *large* for payloads by their length. Besides, a session may own `OWN_MAX` bytes in each
//! direction without asking: who sends and reads small payloads waits for nobody, whatever others do. A fifth share,
//! *aside*, is for writes that wait for room in their volume, so that these hold nothing that others need.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::request::REQUEST_MAX;

/// Bytes received ahead at most, by one session: two requests of 128 KiB with their headers.
pub(crate) const WINDOW: usize = (256 << 10) + 64;
/// Bytes of payload that a session may own in each direction without holding memory for them.
pub(crate) const OWN_MAX: usize = 32 << 10;
/// Bytes: a payload up to this comes from the small share, and through the window if it can.
pub(crate) const SMALL_MAX: usize = 128 << 10;
/// Bytes: a payload up to this comes from the medium share. The most that common clients send in one request.
pub(crate) const MEDIUM_MAX: usize = 4 << 20;

/// Gets what it waited for. Called without any lock of this module.
pub(crate) trait Waiter: Send + Sync {
    fn granted(&self, hold: Hold);
}

struct Ask {
    session: u64,
    bytes: usize,
    waiter: Arc<dyn Waiter>,
}

#[derive(Default)]
struct Ledger {
    used: usize,
    queue: VecDeque<Ask>,
}

pub(crate) struct Share {
    limit: usize,
    ledger: Mutex<Ledger>,
}

/// A part of a share, given back when dropped.
pub(crate) struct Hold {
    share: Arc<Share>,
    bytes: usize,
}

impl Share {
    fn new(limit: usize) -> Arc<Share> {
        Arc::new(Share { limit, ledger: Mutex::default() })
    }

    /// A hold of nothing yet.
    pub(crate) fn nothing(self: &Arc<Share>) -> Hold {
        Hold { share: Arc::clone(self), bytes: 0 }
    }

    /// Takes `bytes`, unless they are not there or somebody waits for them.
    pub(crate) fn try_hold(self: &Arc<Share>, bytes: usize) -> Option<Hold> {
        let mut ledger = self.ledger.lock();
        if !ledger.queue.is_empty() || ledger.used + bytes > self.limit {
            return None;
        }
        ledger.used += bytes;
        Some(Hold { share: Arc::clone(self), bytes })
    }

    /// Takes `bytes` (at most the limit), or leaves `waiter` in the queue to get them later.
    pub(crate) fn hold_or_wait(self: &Arc<Share>, bytes: usize, session: u64, waiter: Arc<dyn Waiter>) -> Option<Hold> {
        assert!(bytes <= self.limit, "a request that can never fit must be refused before");
        let mut ledger = self.ledger.lock();
        if ledger.queue.is_empty() && ledger.used + bytes <= self.limit {
            ledger.used += bytes;
            return Some(Hold { share: Arc::clone(self), bytes });
        }
        ledger.queue.push_back(Ask { session, bytes, waiter });
        None
    }

    /// Forgets that a session waits.
    pub(crate) fn leave(self: &Arc<Share>, session: u64) {
        self.ledger.lock().queue.retain(|ask| ask.session != session);
        self.give(0);
    }

    /// Takes `bytes` back and serves the queue.
    fn give(self: &Arc<Share>, bytes: usize) {
        let mut served = Vec::new();
        {
            let mut ledger = self.ledger.lock();
            ledger.used -= bytes;
            while let Some(ask) = ledger.queue.front() {
                if ledger.used + ask.bytes > self.limit {
                    break;
                }
                ledger.used += ask.bytes;
                served.extend(ledger.queue.pop_front());
            }
        }
        for ask in served {
            ask.waiter.granted(Hold { share: Arc::clone(self), bytes: ask.bytes });
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.ledger.lock().used
    }
}

impl Hold {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Grows to `bytes` if that needs no waiting; a hold that is large enough stays.
    pub(crate) fn cover(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            return true;
        }
        match self.share.try_hold(bytes - self.bytes) {
            Some(more) => {
                self.absorb(more);
                true
            }
            None => false,
        }
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        if bytes < self.bytes {
            let back = self.bytes - bytes;
            self.bytes = bytes;
            self.share.give(back);
        }
    }

    /// Takes over another hold of the same share.
    pub(crate) fn absorb(&mut self, mut other: Hold) {
        debug_assert!(Arc::ptr_eq(&self.share, &other.share));
        self.bytes += std::mem::take(&mut other.bytes);
    }

    pub(crate) fn is_of(&self, share: &Arc<Share>) -> bool {
        Arc::ptr_eq(&self.share, share)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

pub(crate) struct Memory {
    pub(crate) ahead: Arc<Share>,
    pub(crate) small: Arc<Share>,
    medium: Arc<Share>,
    large: Arc<Share>,
    /// For writes that wait for room in their volume: they may do so for long.
    pub(crate) aside: Arc<Share>,
}

impl Memory {
    /// An eighth for *ahead*, an eighth for *small*, a quarter for *medium*, the rest for *large*; below 128 MiB,
    /// *large* is still the largest request, and what is missing comes on top. So does *aside*, one largest request.
    pub(crate) fn new(bytes: usize) -> Memory {
        let (ahead, small, medium) = (bytes / 8, bytes / 8, bytes / 4);
        let large = (bytes - ahead - small - medium).max(REQUEST_MAX as usize);
        Memory {
            ahead: Share::new(ahead),
            small: Share::new(small),
            medium: Share::new(medium),
            large: Share::new(large),
            aside: Share::new(REQUEST_MAX as usize),
        }
    }

    /// The share that a payload of this length comes from.
    pub(crate) fn share_for(&self, bytes: usize) -> &Arc<Share> {
        if bytes <= SMALL_MAX {
            &self.small
        } else if bytes <= MEDIUM_MAX {
            &self.medium
        } else {
            &self.large
        }
    }

    /// Forgets that a session waits.
    pub(crate) fn leave(&self, session: u64) {
        [&self.small, &self.medium, &self.large, &self.aside].into_iter().for_each(|share| share.leave(session));
    }

    pub(crate) fn used(&self) -> usize {
        [&self.ahead, &self.small, &self.medium, &self.large, &self.aside].into_iter().map(|share| share.used()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Slot(Mutex<Option<Hold>>);

    impl Waiter for Slot {
        fn granted(&self, hold: Hold) {
            *self.0.lock() = Some(hold);
        }
    }

    fn held(slot: &Slot) -> Option<usize> {
        slot.0.lock().as_ref().map(Hold::bytes)
    }

    #[test]
    fn waiters_are_served_in_order_and_not_overtaken() {
        let share = Share::new(100);
        let first = share.try_hold(60).unwrap();
        let (big, late) = (Arc::new(Slot::default()), Arc::new(Slot::default()));
        assert!(share.hold_or_wait(100, 1, big.clone()).is_none());
        assert!(share.hold_or_wait(10, 2, late.clone()).is_none());
        assert!(share.try_hold(1).is_none(), "overtook a waiter");
        drop(first);
        assert_eq!((held(&big), held(&late)), (Some(100), None));
        big.0.lock().take();
        assert_eq!(held(&late), Some(10));
        assert_eq!(share.used(), 10);
    }

    #[test]
    fn a_waiter_that_leaves_lets_the_next_one_in() {
        let share = Share::new(100);
        let first = share.try_hold(60).unwrap();
        let (big, small) = (Arc::new(Slot::default()), Arc::new(Slot::default()));
        assert!(share.hold_or_wait(100, 1, big.clone()).is_none());
        assert!(share.hold_or_wait(40, 2, small.clone()).is_none());
        share.leave(1);
        assert_eq!((held(&big), held(&small)), (None, Some(40)));
        drop(first);
        assert_eq!(share.used(), 40);
    }

    #[test]
    fn holds_grow_shrink_and_come_back() {
        let share = Share::new(100);
        let mut hold = share.nothing();
        assert!(hold.cover(70));
        assert!(!hold.cover(101));
        assert_eq!(share.used(), 70);
        hold.shrink(20);
        assert_eq!(share.used(), 20);
        hold.absorb(share.try_hold(80).unwrap());
        assert_eq!(hold.bytes(), 100);
        drop(hold);
        assert_eq!(share.used(), 0);
    }

    #[test]
    fn the_largest_request_always_fits() {
        for bytes in [64 << 20, 100 << 20, 128 << 20, 1 << 30] {
            let memory = Memory::new(bytes);
            assert!(memory.large.limit >= REQUEST_MAX as usize);
            assert!(memory.small.limit >= SMALL_MAX && memory.medium.limit >= MEDIUM_MAX);
            assert!(memory.ahead.limit >= WINDOW);
        }
        let shares = Memory::new(128 << 20);
        let limits = [&shares.ahead, &shares.small, &shares.medium, &shares.large].map(|share| share.limit);
        assert_eq!(limits.iter().sum::<usize>(), 128 << 20);
    }
}
