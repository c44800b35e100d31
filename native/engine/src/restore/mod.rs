//! A view written out, or compared with what was.
//!
//! The target's address space is taken window by window: planned from the index (plan.rs), read and decoded in the order in which the payloads lie
//! (fetch.rs), written where it differs (apply.rs); a few threads do that side by side (team.rs).
//!
//! Invariants: whatever the target held before, after `restore` it holds the view. A stretch is told of only when it was written; making it durable
//! is the caller's. Nothing is written to the store.

mod apply;
mod buffer;
mod fetch;
mod plan;
mod team;

use crate::error::Result;
use crate::view::{Fault, View};

/// Faults that are remembered one by one.
pub const FAULTS_MAX: usize = 1000;

/// Where a restore goes. Called from several threads, for ranges that do not meet.
pub trait Target: Sync {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;
    /// Fewer bytes than asked for only at the target's end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// The first byte at or behind `offset` that may be other than zero; u64::MAX where there is none. Any answer that is too small is right, too.
    fn next_data(&self, offset: u64) -> u64 {
        offset
    }
    /// Makes a range a hole that reads as zeros; false where there are no holes, and nothing was done then.
    fn punch(&self, _offset: u64, _bytes: u64) -> Result<bool> {
        Ok(false)
    }
    /// Says that the range will not be written again.
    fn begin_writeback(&self, _offset: u64, _bytes: u64) {}
}

/// A part of the target that was written, and a checksum by which a later restore of the same instant knows it again. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub start: u64,
    pub end: u64,
    pub sum: u32,
}

/// What to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order<'a> {
    /// Only these ranges of bytes may differ from the view, in any order; None: all of it may.
    pub ranges: Option<&'a [(u64, u64)]>,
    /// What an earlier restore of this instant told of, ascending and apart: checked by their sums, without a look at the journal.
    pub done: &'a [Stretch],
}

/// What was done. Bytes.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Written as data.
    pub written: u64,
    /// Made zeros without being written.
    pub cleared: u64,
    /// Found done already, by its sum.
    pub found_done: u64,
    /// What could not be read, ascending; zeros stand there. At most `FAULTS_MAX`.
    pub faults: Vec<Fault>,
    /// All bytes that could not be read.
    pub fault_bytes: u64,
}

/// Told of each stretch (None while there is none to tell of), the bytes handled so far and in all; may end the work with an error.
pub type Report<'a> = &'a mut dyn FnMut(Option<Stretch>, u64, u64) -> Result<()>;

impl View {
    /// Makes the first `size` bytes of `target` hold the view, and writes only where they do not. Damage does not end it: zeros are written and the
    /// faults returned; a stretch with a fault is not reported.
    pub fn restore(&self, target: &dyn Target, order: &Order, report: Report) -> Result<Outcome> {
        team::restore(self, target, order, report)
    }

    /// The offset of the first byte of `target` that differs from the view, or None. Corrupt if blocks of the view cannot be read.
    pub fn compare(&self, target: &dyn Target, report: Report) -> Result<Option<u64>> {
        team::compare(self, target, report)
    }
}
