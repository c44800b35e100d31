//! What clients asked for and how long it took: requests, bytes and latencies by command.
//!
//! Invariants. A latency runs from the last byte of a request to the handing over of its reply to the socket, waiting
//! for room included. One look at the clock serves all requests of a step, which arrive and are answered together.
//! Only the worker whose turn it is adds to a session's tally; anybody may read it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::request::Command;

/// What a request was, as it is counted. `Refused`: the gate did not let it through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    Read,
    Write,
    Flush,
    Trim,
    WriteZeroes,
    Cache,
    BlockStatus,
    Refused,
}

impl Kind {
    pub const ALL: [Kind; KINDS] = [
        Kind::Read,
        Kind::Write,
        Kind::Flush,
        Kind::Trim,
        Kind::WriteZeroes,
        Kind::Cache,
        Kind::BlockStatus,
        Kind::Refused,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Flush => "flush",
            Kind::Trim => "trim",
            Kind::WriteZeroes => "write_zeroes",
            Kind::Cache => "cache",
            Kind::BlockStatus => "block_status",
            Kind::Refused => "refused",
        }
    }

    /// The kind of a command, and the bytes of the volume that it is about.
    pub(crate) fn of(command: &Command) -> (Kind, u64) {
        match *command {
            Command::Read { length, .. } => (Kind::Read, length),
            Command::Write { length, .. } => (Kind::Write, length),
            Command::Flush => (Kind::Flush, 0),
            Command::Trim { length, .. } => (Kind::Trim, length),
            Command::WriteZeroes { length, .. } => (Kind::WriteZeroes, length),
            Command::Cache { length, .. } => (Kind::Cache, length),
            Command::BlockStatus { .. } | Command::BlockStatusSelected { .. } => (Kind::BlockStatus, 0),
        }
    }
}

pub const KINDS: usize = 8;
/// The first bucket holds latencies up to 2^14 ns (16 µs), each further one up to twice as much, the last one all that
/// are above 2^34 ns (17 s).
pub const FIRST_BUCKET_BITS: u32 = 14;
pub const BUCKETS: usize = 22;

fn bucket(nanoseconds: u64) -> usize {
    let bits = u64::BITS - nanoseconds.saturating_sub(1).leading_zeros();
    (bits.saturating_sub(FIRST_BUCKET_BITS) as usize).min(BUCKETS - 1)
}

/// The figures of one kind. `requests` counts those that came; those in `buckets` were answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub requests: u64,
    pub bytes: u64,
    /// Sum of the latencies.
    pub nanoseconds: u64,
    pub buckets: [u64; BUCKETS],
}

#[derive(Default)]
struct Cells {
    requests: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// Of one session. Has one writer at a time, so it needs no locked instruction.
#[derive(Default)]
pub(crate) struct Tally([Cells; KINDS]);

impl Tally {
    fn answered(&self, kind: Kind, count: u64, nanoseconds: u64) {
        let cells = &self.0[kind as usize];
        add(&cells.nanoseconds, count.saturating_mul(nanoseconds));
        add(&cells.buckets[bucket(nanoseconds)], count);
    }

    /// Adds the figures to `rows`.
    pub(crate) fn add_to(&self, rows: &mut [Row; KINDS]) {
        for (row, cells) in rows.iter_mut().zip(&self.0) {
            row.requests += cells.requests.load(Relaxed);
            row.bytes += cells.bytes.load(Relaxed);
            row.nanoseconds += cells.nanoseconds.load(Relaxed);
            for (sum, cell) in row.buckets.iter_mut().zip(&cells.buckets) {
                *sum += cell.load(Relaxed);
            }
        }
    }
}

fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(more), Relaxed);
}

#[derive(Clone, Copy, Default)]
struct Count {
    requests: u64,
    bytes: u64,
    to_answer: u64,
}

/// What a worker counted in the step that it is in, before it goes to the session's tally.
#[derive(Default)]
pub(crate) struct Step {
    counts: [Count; KINDS],
    any: bool,
    /// Requests that came in an earlier step, and when.
    late: Vec<(Kind, Instant)>,
}

impl Step {
    pub(crate) fn count(&mut self, kind: Kind, bytes: u64) {
        let count = &mut self.counts[kind as usize];
        count.requests += 1;
        count.bytes += bytes;
        count.to_answer += 1;
        self.any = true;
    }

    /// One request of this kind is answered in a later step; when it came. `arrived`: those of this step.
    pub(crate) fn defer(&mut self, kind: Kind, arrived: Instant) -> Instant {
        let count = &mut self.counts[kind as usize];
        if count.to_answer > 0 {
            count.to_answer -= 1;
            return arrived;
        }
        let place = self.late.iter().rposition(|late| late.0 == kind);
        place.map_or(arrived, |place| self.late.remove(place).1)
    }

    /// A request that was deferred is answered in this step.
    pub(crate) fn resume(&mut self, kind: Kind, arrived: Instant) {
        self.late.push((kind, arrived));
        self.any = true;
    }

    /// The step's requests are answered.
    pub(crate) fn end(&mut self, tally: &Tally, arrived: Instant) {
        if !self.any {
            return;
        }
        let now = Instant::now();
        let since = |then: Instant| now.saturating_duration_since(then).as_nanos().min(u64::MAX.into()) as u64;
        for (kind, count) in Kind::ALL.into_iter().zip(&mut self.counts) {
            if count.requests > 0 {
                add(&tally.0[kind as usize].requests, count.requests);
                add(&tally.0[kind as usize].bytes, count.bytes);
            }
            if count.to_answer > 0 {
                tally.answered(kind, count.to_answer, since(arrived));
            }
            *count = Count::default();
        }
        for (kind, then) in self.late.drain(..) {
            tally.answered(kind, 1, since(then));
        }
        self.any = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(tally: &Tally) -> [Row; KINDS] {
        let mut rows = Default::default();
        tally.add_to(&mut rows);
        rows
    }

    #[test]
    fn a_bucket_holds_what_is_at_most_its_bound() {
        for (at, bits) in (FIRST_BUCKET_BITS..FIRST_BUCKET_BITS + BUCKETS as u32 - 1).enumerate() {
            assert_eq!(bucket(1 << bits), at);
            assert_eq!(bucket((1 << bits) + 1), at + 1);
        }
        assert_eq!((bucket(0), bucket(1), bucket(u64::MAX)), (0, 0, BUCKETS - 1));
    }

    #[test]
    fn a_deferred_request_is_counted_when_it_comes_and_timed_when_it_is_answered() {
        let (tally, mut step, came) = (Tally::default(), Step::default(), Instant::now());
        step.count(Kind::Write, 4096);
        step.count(Kind::Write, 512);
        let first = step.defer(Kind::Write, came);
        assert_eq!(first, came);
        step.end(&tally, came);
        let row = &rows(&tally)[Kind::Write as usize];
        assert_eq!((row.requests, row.bytes, row.buckets.iter().sum::<u64>()), (2, 4608, 1));
        step.resume(Kind::Write, first);
        let later = Instant::now();
        assert_eq!(step.defer(Kind::Write, later), first, "put off again, it came when it came");
        step.end(&tally, later);
        step.resume(Kind::Write, first);
        step.end(&tally, later);
        let row = &rows(&tally)[Kind::Write as usize];
        assert_eq!((row.requests, row.bytes, row.buckets.iter().sum::<u64>()), (2, 4608, 2));
    }
}
