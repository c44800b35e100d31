//! The bounded ring: requests get their LSN and stamp here, and one thread at a time leads.
//!
//! Invariants: LSNs are given in the order of admission, +1 each; stamps never decrease within a clock epoch; `published` grows in the
//! order of LSNs; there is one leader at most. Who finds the ring without a leader leads: no writer thread, no hand-off when idle.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Kind, Result};
use crate::options::CLOCK_STEP_MAX;
use crate::request::Request;
use crate::storage::Step;

struct State {
    queue: VecDeque<Request>,
    queued_bytes: usize,
    next_lsn: u64,
    last_stamp: u64,
    clock_epoch: u32,
    /// Steps of the shared clock that this volume knows of.
    steps: u64,
    leading: bool,
    closed: Option<Error>,
    failed: HashMap<u64, Failure>,
}

pub struct Ring {
    state: Mutex<State>,
    changed: Condvar,
    published: AtomicU64,
    failures: AtomicUsize,
    bytes_max: usize,
    requests_max: usize,
}

/// Why a request is not in the journal.
pub struct Failure {
    pub error: Error,
    /// The request, where it is to be admitted again.
    pub again: Option<Box<Request>>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, again: None }
    }
}

/// What admission found.
pub enum Admission {
    Admitted(u64),
    /// The ring is full and nobody leads: lead, then try again with the request given back.
    Full(Box<Request>),
}

impl Ring {
    /// Every number below `next_lsn` counts as done. `steps`: of the shared clock until now.
    pub fn new(next_lsn: u64, last_stamp: u64, clock_epoch: u32, steps: u64, bounds: (usize, usize)) -> Ring {
        let state = State {
            queue: VecDeque::new(),
            queued_bytes: 0,
            next_lsn,
            last_stamp,
            clock_epoch,
            steps,
            leading: false,
            closed: None,
            failed: HashMap::new(),
        };
        Ring {
            state: Mutex::new(state),
            changed: Condvar::new(),
            published: AtomicU64::new(next_lsn.saturating_sub(1)),
            failures: AtomicUsize::new(0),
            bytes_max: bounds.0,
            requests_max: bounds.1,
        }
    }

    /// Numbers and stamps a request. `now` is called under the lock, so that stamps and LSNs have one order. `stepped`: the newest step of the shared
    /// clock, if there were others than so many. Waits while the ring is full and somebody leads.
    pub fn admit(
        &self,
        request: Request,
        now: impl Fn() -> u64,
        stepped: impl Fn(u64) -> Option<Step>,
    ) -> Result<Admission> {
        let bytes = request.bytes();
        let mut state = self.state.lock();
        loop {
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            let fits = state.queued_bytes + bytes <= self.bytes_max && state.queue.len() < self.requests_max;
            if fits || state.queue.is_empty() {
                break;
            }
            if !state.leading {
                return Ok(Admission::Full(Box::new(request)));
            }
            self.changed.wait(&mut state);
        }
        let stamped = now();
        // Also one that only other volumes' stamps show: a time inside it names two instants of all of them (docs/decisions/0012-groups.md).
        if let Some(step) = stepped(state.steps) {
            state.steps = step.count;
            let from = state.last_stamp.max(step.from);
            state.begin_epoch(from, step.to.min(stamped), stamped);
        } else if stamped.saturating_add(CLOCK_STEP_MAX) < state.last_stamp {
            let from = state.last_stamp;
            state.begin_epoch(from, stamped, stamped);
        }
        state.last_stamp = state.last_stamp.max(stamped);
        Ok(Admission::Admitted(state.number(request)))
    }

    /// Takes the lead if nobody has it.
    pub fn try_lead(&self) -> bool {
        let mut state = self.state.lock();
        !std::mem::replace(&mut state.leading, true)
    }

    /// For the leader: up to `bytes` of pending requests, at least one if there is any.
    pub fn take(&self, bytes: usize, out: &mut Vec<Request>) {
        let mut state = self.state.lock();
        let mut taken = 0;
        while let Some(request) = state.queue.front() {
            let size = request.bytes();
            if taken > 0 && taken + size > bytes {
                break;
            }
            taken += size;
            out.extend(state.queue.pop_front());
        }
        state.queued_bytes -= taken;
    }

    /// For the leader: all up to `lsn` are done, those in `failed` without success.
    pub fn finish(&self, lsn: u64, failed: Vec<(u64, Failure)>) {
        let mut state = self.state.lock();
        state.failed.extend(failed);
        self.failures.store(state.failed.len(), Ordering::Relaxed);
        self.published.fetch_max(lsn, Ordering::Release);
        state.leading = false;
        self.changed.notify_all();
    }

    /// Waits until `lsn` is done or nobody leads; true if it is done.
    pub fn wait_done(&self, lsn: u64) -> bool {
        if self.published() >= lsn {
            return true;
        }
        let mut state = self.state.lock();
        while state.leading && self.published() < lsn {
            self.changed.wait(&mut state);
        }
        self.published() >= lsn
    }

    /// Why a done request failed, if it did; told once.
    pub fn outcome(&self, lsn: u64) -> Option<Failure> {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut state = self.state.lock();
        let outcome = state.failed.remove(&lsn);
        self.failures.store(state.failed.len(), Ordering::Relaxed);
        outcome
    }

    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// The bytes and the requests that wait, each with its bound.
    pub fn fill(&self) -> [(usize, usize); 2] {
        let state = self.state.lock();
        [(state.queued_bytes, self.bytes_max), (state.queue.len(), self.requests_max)]
    }

    pub fn has_pending(&self) -> bool {
        !self.state.lock().queue.is_empty()
    }

    /// Admits nothing more. The first reason stays.
    pub fn close(&self, reason: Error) {
        let mut state = self.state.lock();
        state.closed.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// (next LSN, last stamp, clock epoch).
    pub fn clock(&self) -> (u64, u64, u32) {
        let state = self.state.lock();
        (state.next_lsn, state.last_stamp, state.clock_epoch)
    }

    /// Makes every later stamp greater than `stamp`, and says which LSN was the last one given. NotFound if `stamp` is in the future.
    pub fn fence_stamp(&self, stamp: u64, now: impl Fn() -> u64) -> Result<u64> {
        let mut state = self.state.lock();
        let latest = now().max(state.last_stamp);
        if stamp > latest {
            return Err(Error::new(Kind::NotFound, "the instant lies in the future"));
        }
        if stamp >= state.last_stamp {
            state.last_stamp = stamp.saturating_add(1);
        }
        Ok(state.next_lsn - 1)
    }
}

impl State {
    /// From here on stamps count anew, and an event says so.
    fn begin_epoch(&mut self, from: u64, to: u64, stamped: u64) {
        self.clock_epoch += 1;
        self.last_stamp = stamped;
        self.number(clock_step(from, to));
    }

    fn number(&mut self, mut request: Request) -> u64 {
        request.lsn = self.next_lsn;
        request.stamp = self.last_stamp;
        request.clock_epoch = self.clock_epoch;
        self.next_lsn += 1;
        self.queued_bytes += request.bytes();
        self.queue.push_back(request);
        self.next_lsn - 1
    }
}

fn clock_step(from: u64, to: u64) -> Request {
    let document = format!(r#"{{"type":"event","event":"clock-step","from":{from},"to":{to}}}"#);
    Request::control(document.as_bytes()).expect("a short document")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn admitted(ring: &Ring, now: u64, step: Option<Step>) -> Vec<(u64, u64, u32)> {
        let stepped = |known: u64| step.filter(|step| step.count != known);
        ring.admit(Request::write(0, &[1; 512], false), || now, stepped).expect("the ring is open");
        let mut taken = Vec::new();
        ring.take(usize::MAX, &mut taken);
        taken.iter().map(|it| (it.lsn, it.stamp, it.clock_epoch)).collect()
    }

    #[test]
    fn a_step_that_only_other_volumes_saw_begins_an_epoch_once() {
        let ring = Ring::new(1, 50 * SECOND, 0, 0, (1 << 20, 16));
        let step = Some(Step { count: 1, from: 100 * SECOND, to: 90 * SECOND });
        assert_eq!(admitted(&ring, 91 * SECOND, step), [(1, 91 * SECOND, 1), (2, 91 * SECOND, 1)]);
        assert_eq!(admitted(&ring, 92 * SECOND, step).len(), 1);
    }
}
