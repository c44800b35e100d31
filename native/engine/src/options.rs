//! Bounds of the engine, each with its unit and reason. The simulator makes them small.

/// Who does the sealing and the spare segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// A thread of the volume's own, started by its first write.
    Thread,
    /// The caller that rolls a segment, and `Volume::tick`: no thread, so that a simulation is deterministic.
    Inline,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of cached leaves. 128 MiB are 6.7 million extents.
    pub cache_bytes: usize,
    /// Bytes of tables of index files: fences, segment tables. 24 bytes stand for 4 KiB of index, about 300 entries.
    pub table_bytes: usize,
    /// Bytes of requests that wait in the ring; one larger request is let in alone.
    pub ring_bytes: usize,
    /// Requests that wait in the ring. The LSN reserve of recovery counts on at most this many.
    pub ring_requests: usize,
    /// Bytes after which a segment is full.
    pub segment_bytes: u64,
    /// Entries after which a segment is full: bounds the memtable (40 bytes an entry and its chains), the footer, and the LSN reserve of recovery.
    pub segment_entries: usize,
    /// Bytes that one append takes from the ring at most, so that a large backlog is not one long append.
    pub batch_bytes: usize,
    /// Sealed segments after which a checkpoint is written.
    pub checkpoint_segments: usize,
    /// Neighbouring footers, or merged runs of one level, that are merged into one: a lookup asks at most one less of each level.
    pub merge_fan: usize,
    /// Entries of which the timeline computes the overwrite share at most: 16 bytes each, and a quarter of a second to read and sort two million.
    pub overwrite_entries: u64,
    /// Open files.
    pub files: usize,
    pub maintenance: Maintenance,
    /// The volume that the folder is said to hold: a manifest of another one is damage.
    pub volume_id: Option<[u8; 16]>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cache_bytes: 128 << 20,
            table_bytes: 32 << 20,
            ring_bytes: 32 << 20,
            ring_requests: RING_REQUESTS_MAX,
            segment_bytes: 64 << 20,
            segment_entries: SEGMENT_ENTRIES_MAX,
            batch_bytes: 4 << 20,
            checkpoint_segments: 8,
            merge_fan: 8,
            overwrite_entries: 2_000_000,
            files: 256,
            maintenance: Maintenance::Thread,
            volume_id: None,
        }
    }
}

pub const RING_REQUESTS_MAX: usize = 65536;
pub const SEGMENT_ENTRIES_MAX: usize = 131_072;
/// What a new epoch's LSNs stand above the last one seen: more than an unclean end can hide (docs/format.md, "Recovery").
pub const LSN_RESERVE: u64 = 1 << 19;
/// Bytes of one request at most; the protocol's bound.
pub const REQUEST_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a control record's document at most.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;
/// A clock that steps back further than this begins a clock epoch, in nanoseconds.
pub const CLOCK_STEP_MAX: u64 = 1_000_000_000;

const _: () = assert!((2 * SEGMENT_ENTRIES_MAX + RING_REQUESTS_MAX) as u64 <= LSN_RESERVE);
