//! The words of the journal as types: one name, one unit each.

/// Bytes in a sector, the grain of journal and extent map.
pub const SECTOR: u64 = 512;
/// Bytes in a page, the grain of the medium (docs/format.md, "What the medium may do").
pub const PAGE: u64 = 4096;

/// The number of a record; 0 is the state before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    pub const ZERO: Lsn = Lsn(0);

    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Nanoseconds since 1970-01-01 UTC on CLOCK_REALTIME.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

/// A segment of one volume's journal, numbered from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

/// Rounds `n` up to a multiple of `to`, a power of two.
pub const fn round_up(n: u64, to: u64) -> u64 {
    (n + to - 1) & !(to - 1)
}
