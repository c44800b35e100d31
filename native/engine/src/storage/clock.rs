//! One clock for all volumes of a process, so that their stamps have one order (docs/decisions/0012-groups.md).
//!
//! Invariants: each stamp is greater than every stamp given before, on whichever volume, unless the machine's clock went back by more than
//! CLOCK_STEP_MAX; each such step is counted before the first stamp after it is given. Giving a stamp takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::options::CLOCK_STEP_MAX;

/// The newest step back of the clock by more than CLOCK_STEP_MAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How many there were in this process.
    pub count: u64,
    /// The last stamp before it.
    pub from: u64,
    /// The stamps after it are greater.
    pub to: u64,
}

/// Gives each stamp once.
pub struct Clock {
    last: AtomicU64,
    steps: AtomicU64,
    /// (from, to) of the newest step.
    newest: Mutex<(u64, u64)>,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl Clock {
    pub const fn new() -> Clock {
        Clock { last: AtomicU64::new(0), steps: AtomicU64::new(0), newest: Mutex::new((0, 0)) }
    }

    /// The next stamp; `real`: what the machine's clock says now, in nanoseconds since 1970.
    pub fn stamp(&self, real: impl Fn() -> u64) -> u64 {
        loop {
            // Before the clock is looked at: a thread that was held up in between must not take the others' progress for a step.
            let last = self.last.load(Ordering::Acquire);
            let now = real();
            if steps_back(last, now) {
                self.step_back(&real);
                continue;
            }
            let next = now.max(last.saturating_add(1));
            if self.last.compare_exchange(last, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return next;
            }
        }
    }

    fn step_back(&self, real: &impl Fn() -> u64) {
        let mut newest = self.newest.lock();
        let last = self.last.load(Ordering::Acquire);
        let now = real();
        // Another thread may have been here first.
        if steps_back(last, now) {
            // The count first: who gets a stamp after the step is to find it counted.
            self.steps.fetch_add(1, Ordering::AcqRel);
            *newest = (self.last.swap(now, Ordering::AcqRel), now);
        }
    }

    /// From here on no stamp is at or below `stamp`; for what earlier processes gave. Ignored if it lies so far ahead that the clock stepped back.
    pub fn pass(&self, stamp: u64, real: impl Fn() -> u64) {
        if !steps_back(stamp, real()) {
            self.last.fetch_max(stamp, Ordering::AcqRel);
        }
    }

    /// The newest step, if there were others than `known`.
    pub fn stepped(&self, known: u64) -> Option<Step> {
        if self.steps.load(Ordering::Acquire) == known {
            return None;
        }
        let newest = self.newest.lock();
        let count = self.steps.load(Ordering::Acquire);
        (count != known).then_some(Step { count, from: newest.0, to: newest.1 })
    }
}

fn steps_back(last: u64, now: u64) -> bool {
    now.saturating_add(CLOCK_STEP_MAX) < last
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn stamps_grow_while_the_clock_stands_or_goes_back_a_little() {
        let clock = Clock::new();
        let given: Vec<u64> = [5, 5, 4, 1, 7].iter().map(|&s| clock.stamp(|| s * SECOND / 5)).collect();
        assert!(given.windows(2).all(|pair| pair[0] < pair[1]), "{given:?}");
        assert_eq!(clock.stepped(0), None);
    }

    #[test]
    fn a_step_back_is_counted_and_told_once() {
        let clock = Clock::new();
        clock.stamp(|| 100 * SECOND);
        assert_eq!(clock.stamp(|| 90 * SECOND), 90 * SECOND + 1);
        assert_eq!(clock.stepped(0), Some(Step { count: 1, from: 100 * SECOND, to: 90 * SECOND }));
        assert_eq!(clock.stepped(1), None);
    }

    #[test]
    fn what_an_earlier_process_gave_is_passed() {
        let clock = Clock::new();
        clock.pass(10 * SECOND + 7, || 10 * SECOND);
        assert_eq!(clock.stamp(|| 10 * SECOND), 10 * SECOND + 8);
        // So far ahead the clock has stepped back since, which is the volume's to note.
        clock.pass(60 * SECOND, || 10 * SECOND);
        assert_eq!(clock.stamp(|| 10 * SECOND), 10 * SECOND + 9);
    }

    #[test]
    fn threads_never_get_a_stamp_twice_and_see_their_own_grow() {
        let (clock, real) = (Clock::new(), AtomicU64::new(SECOND));
        let take = || {
            let one = || clock.stamp(|| real.fetch_add(1, Ordering::Relaxed) / 3);
            (0..20_000).map(|_| one()).collect::<Vec<u64>>()
        };
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        let own = all.chunks(20_000).all(|own| own.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(own, "a thread's stamps went back");
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "a stamp was given twice");
    }
}
