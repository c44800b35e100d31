//! How much each shard got since it was last written into a checkpoint: what decides when it is written again.
//!
//! The count goes on from one checkpoint to the next; the fences of all segments are read once a run, and again after a rollback.

use std::collections::BTreeMap;

use super::checkpoint::SHARD_SECTORS;
use super::map::Index;
use crate::error::Result;
use crate::path::Path;

/// What a shard got since it was last written into a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fresh {
    /// LSN of that checkpoint, and the entries that it has; 0 where there is none.
    pub since: u64,
    pub known: u64,
    /// About how many there are since.
    pub entries: f64,
}

/// The count so far.
#[derive(Default)]
pub struct Counted {
    /// Rollbacks known then: each one makes another path.
    branches: usize,
    /// Segments up to here are counted, and checkpoints.
    segments: u64,
    checkpoints: u64,
    rows: BTreeMap<u64, Fresh>,
}

impl Index {
    /// The shards below `count` that a checkpoint has or segments touch, on `path`, which ends with a sealed segment.
    pub fn fresh_entries(&self, path: &Path, count: u64) -> Result<BTreeMap<u64, Fresh>> {
        let mut held = self.counted.lock();
        let branches = self.lineage().branches().len();
        // Whatever fails below, the next count begins anew.
        let known = held.take().filter(|counted| counted.branches == branches);
        let mut counted = known.unwrap_or(Counted { branches, ..Counted::default() });
        self.count(&mut counted, path, count)?;
        let rows = counted.rows.clone();
        *held = Some(counted);
        Ok(rows)
    }

    fn count(&self, counted: &mut Counted, path: &Path, shards: u64) -> Result<()> {
        let checkpoints = self.checkpoints();
        let on_path = checkpoints.iter().filter(|c| path.passes(c.item.lsn.0));
        let before = counted.checkpoints;
        for checkpoint in on_path.filter(|c| c.item.lsn.0 > before) {
            // What was counted before it was written is in it.
            for shard in checkpoint.shards().filter(|&shard| checkpoint.has(shard)) {
                let row = Fresh { since: checkpoint.item.lsn.0, known: checkpoint.entries(shard), entries: 0.0 };
                counted.rows.insert(shard, row);
            }
            counted.checkpoints = checkpoint.item.lsn.0;
        }
        let sealed = self.sealed();
        let on_path = sealed.iter().filter(|s| path.meets(s.item.first_lsn.0, s.item.last_lsn.0));
        let before = counted.segments;
        for segment in on_path.filter(|s| s.item.first_lsn.0 > before) {
            segment.spans(&self.files, &mut |start, end, entries| {
                let (first, last) = (start / SHARD_SECTORS, ((end - 1) / SHARD_SECTORS).min(shards - 1));
                for shard in first..=last {
                    let row = counted.rows.entry(shard).or_default();
                    if segment.item.first_lsn.0 > row.since {
                        row.entries += entries.in_shard(shard, start, end);
                    }
                }
            })?;
        }
        // What was sealed since the path was taken is counted next time.
        counted.segments = path.head();
        Ok(())
    }
}
