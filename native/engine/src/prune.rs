//! Dropping checkpoints that no instant needs any more.
//!
//! An instant takes each shard from the newest checkpoint on its path that has it. Instants above the horizon take what the state at the horizon takes, or newer
//! ones; after a rollback from there to below it, what the state that it went back to takes.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Result;
use crate::index::checkpoint::Checkpoint;
use crate::index::files::Named;
use crate::journal::manifest::Edit;
use crate::path::Path;
use crate::volume::Volume;

/// What stood when checkpoints were looked through last: horizon, sum and number of points, newest checkpoint.
pub(crate) type Looked = (u64, u64, usize, u32);

/// A checkpoint, as far as it counts here.
#[derive(Clone, Debug)]
struct Shards {
    lsn: u64,
    shards: Vec<u64>,
}

impl Volume {
    pub(crate) fn drop_old_checkpoints(&self) -> Result<()> {
        let checkpoints = self.index.checkpoints();
        let (horizon, points) = self.reachable();
        let Some(newest) = checkpoints.last().filter(|_| checkpoints.len() > 1) else { return Ok(()) };
        let sum = points.iter().fold(0u64, |sum, point| sum.wrapping_add(point.lsn.0.wrapping_mul(point.lsn.0 | 1)));
        let looked: Looked = (horizon.lsn.0, sum, points.len(), newest.item.id);
        if std::mem::replace(&mut *self.checkpoints_looked.lock(), looked) == looked {
            return Ok(());
        }
        let lineage = self.index.lineage();
        let went_back = lineage.branches().iter().filter(|&&(n, to)| n > horizon.lsn.0 && to < horizon.lsn.0);
        let mut instants: Vec<u64> = points.iter().map(|p| p.lsn.0).chain(went_back.map(|&(_, to)| to)).collect();
        instants.push(horizon.lsn.0);
        instants.sort_unstable();
        instants.dedup();
        let below: Vec<Shards> = checkpoints.iter().take_while(|c| c.item.lsn < horizon.lsn).map(shards_of).collect();
        let needed = needed(&below, instants.iter().map(|&lsn| lineage.path(lsn)));
        // The newest one says more than shards: every control record.
        let gone = (0..below.len()).filter(|i| !needed.contains(i) && i + 1 < checkpoints.len());
        self.drop_checkpoints(&gone.map(|i| checkpoints[i].item.id).collect::<Vec<_>>())
    }

    /// Drops checkpoints: manifest, then lookups, then files.
    fn drop_checkpoints(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        {
            let mut manifest = self.manifest.lock();
            if manifest.content.state.clean {
                return Ok(());
            }
            let edits: Vec<Edit> = ids.iter().map(|&id| Edit::DropCheckpoint(id)).collect();
            manifest.commit(&edits).map_err(|e| self.commit_failed(e))?;
        }
        self.index.drop_checkpoints(ids);
        ids.iter().for_each(|&id| drop(self.storage.remove(&Named::Checkpoint(id).file_name())));
        Ok(())
    }
}

fn shards_of(checkpoint: &Arc<Checkpoint>) -> Shards {
    // What is damaged answers nobody, so that an older one is needed in its place.
    let usable = checkpoint.shards().filter(|&shard| checkpoint.has(shard));
    Shards { lsn: checkpoint.item.lsn.0, shards: usable.collect() }
}

/// Which of the checkpoints, ascending, at least one of the paths takes a shard from.
fn needed(checkpoints: &[Shards], paths: impl Iterator<Item = Path>) -> HashSet<usize> {
    let mut needed = HashSet::new();
    // Instants between two checkpoints see the same ones.
    let mut seen: HashSet<Vec<usize>> = HashSet::new();
    for path in paths {
        let passed: Vec<usize> = (0..checkpoints.len()).rev().filter(|&i| path.passes(checkpoints[i].lsn)).collect();
        let mut had: HashSet<u64> = HashSet::new();
        if !seen.insert(passed.clone()) {
            continue;
        }
        for i in passed {
            // All are to be had, not only the first.
            let fresh = checkpoints[i].shards.iter().filter(|&&shard| had.insert(shard)).count();
            if fresh > 0 {
                needed.insert(i);
            }
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Lineage;

    fn chance(seed: &mut u64, below: u64) -> u64 {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*seed >> 33) % below
    }

    /// Where an instant finds a shard.
    fn source(checkpoints: &[Shards], path: &Path, shard: u64) -> Option<u64> {
        let passing = checkpoints.iter().rev().filter(|c| path.passes(c.lsn));
        passing.filter(|c| c.shards.contains(&shard)).map(|c| c.lsn).next()
    }

    #[test]
    fn every_instant_finds_its_shards_where_it_found_them() {
        let mut seed = 3;
        let mut dropped = 0;
        for _ in 0..300 {
            let head = 60;
            let branches = (2..=head).filter(|_| chance(&mut seed, 12) == 0).collect::<Vec<_>>();
            let lineage = Lineage::new(branches.iter().map(|&n| (n, chance(&mut seed, n))).collect());
            let lsns: Vec<u64> = (1..=head).filter(|_| chance(&mut seed, 5) == 0).collect();
            let mut some = || (0..6).filter(|_| chance(&mut seed, 2) == 0).collect();
            let checkpoints: Vec<Shards> = lsns.into_iter().map(|lsn| Shards { lsn, shards: some() }).collect();
            let horizon = chance(&mut seed, head);
            let points: Vec<u64> = (0..3).map(|_| chance(&mut seed, horizon + 1)).collect();
            let went_back =
                lineage.branches().iter().filter(|&&(n, to)| n > horizon && to < horizon).map(|&(_, to)| to);
            let instants = points.iter().copied().chain(went_back).chain([horizon]);
            let below = checkpoints.iter().take_while(|c| c.lsn < horizon).count();
            let needed = needed(&checkpoints[..below], instants.map(|lsn| lineage.path(lsn)));
            let kept: Vec<Shards> = (0..checkpoints.len())
                .filter(|i| *i >= below || needed.contains(i))
                .map(|i| checkpoints[i].clone())
                .collect();
            dropped += checkpoints.len() - kept.len();
            for lsn in points.into_iter().chain(horizon..=head) {
                let path = lineage.path(lsn);
                for shard in 0..6 {
                    let (before, after) = (source(&checkpoints, &path, shard), source(&kept, &path, shard));
                    assert_eq!(before, after, "shard {shard} at {lsn}, {lineage:?}, horizon {horizon}");
                }
            }
        }
        assert!(dropped > 100, "nothing was dropped");
    }
}
