//! Where the sectors of an instant lie. Everything here can be rebuilt from the journal.
//!
//! A lookup goes down: leaf (cached, packed) ← memtables (not yet sealed) ← runs (footers) ← checkpoint shard.

pub mod activity;
pub mod checkpoint;
pub mod files;
pub mod footer;
pub mod fresh;
pub mod leaf;
pub mod map;
pub mod memtable;
pub mod merge;
pub mod merged;
pub mod reachable;
pub mod run;
pub mod sealed;
pub mod sections;
pub mod spans;
pub mod stream;
pub mod tables;

/// Sectors of address space in one leaf, the unit of the cache: 4 MiB.
pub const LEAF_SECTORS: u64 = 8192;

/// An offset that is still to be looked up: the payload's segment was replaced, and the one named holds its LSN now. So is the rest of the place: what is left
/// of an entry may be several.
pub const LOCATE: u32 = u32::MAX;

/// Where the content of some sectors is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A payload in a segment; `skip` sectors of its `record_sectors` lie before the first one meant.
    Data {
        segment: u32,
        offset: u32,
        stored: u32,
        skip: u8,
        record_sectors: u8,
    },
    Zero,
    /// Lost; reads fail.
    Damaged,
}

/// Sectors as one record left them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub start: u64,
    pub sectors: u64,
    pub lsn: u64,
    pub place: Place,
}

impl Version {
    pub fn end(&self) -> u64 {
        self.start + self.sectors
    }

    pub fn is_data(&self) -> bool {
        matches!(self.place, Place::Data { .. })
    }

    /// Bytes of its payload.
    pub fn stored_bytes(&self) -> u64 {
        match self.place {
            Place::Data { stored, .. } => u64::from(stored),
            _ => 0,
        }
    }

    pub fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start < end && start < self.end()
    }
}
