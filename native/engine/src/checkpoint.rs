//! Writing checkpoints: which shards, when, and how a crash finds either all of it or nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::index::checkpoint::{self, Builder, Checkpoint, SHARD_SECTORS};
use crate::index::files::Named;
use crate::index::fresh::Fresh;
use crate::index::map::At;
use crate::journal::manifest::{CheckpointItem, Edit, StateItem};
use crate::path::Path;
use crate::units::{Lsn, SECTOR};
use crate::volume::Volume;

/// A checkpoint is closed when it has this many bytes; other shards wait until something touches them again.
const BYTES_MAX: usize = 64 << 20;

/// A checkpoint below the horizon of which less than one in so many entries is in use is not kept for them.
const LITTLE: u64 = 4;

impl Volume {
    /// Writes a checkpoint if enough segments were sealed since the last one. On an error nothing has changed.
    pub(crate) fn checkpoint_if_due(&self) -> Result<()> {
        let sealed = self.index.sealed();
        let live = self.index.live_path();
        let Some(lsn) = sealed.last().and_then(|newest| live.floor(newest.item.last_lsn.0)) else {
            return Ok(());
        };
        // What lies on abandoned branches makes no lookup of the live volume longer.
        let last = self.index.checkpoints().iter().rev().map(|c| c.item.lsn.0).find(|&c| live.passes(c)).unwrap_or(0);
        let fresh = live.above(last);
        let newer = sealed.iter().filter(|s| fresh.meets(s.item.first_lsn.0, s.item.last_lsn.0)).count();
        if lsn > last && newer >= self.options.checkpoint_segments && self.poison.get().is_none() {
            match self.checkpoint(lsn) {
                Err(_) if self.is_closed() => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn checkpoint(&self, lsn: u64) -> Result<()> {
        let path = self.index.path(At::Lsn(lsn));
        let shards = self.shards_due(&path)?;
        let (id, epoch) = {
            let manifest = self.manifest.lock();
            (manifest.content.state.next_checkpoint, manifest.content.state.epoch)
        };
        self.check_writable()?;
        let nonce = self.storage.nonce();
        let mut builder = Builder::new(&self.id, id, nonce, epoch, self.storage.now());
        for shard in shards {
            if builder.len() > BYTES_MAX {
                break;
            }
            self.breathe()?;
            builder.push(shard, self.index.flatten_shard(shard, &path)?);
        }
        let controls: Vec<_> = self.controls.lock().iter().filter(|c| c.lsn <= lsn).cloned().collect();
        let bytes = builder.finish(lsn, &controls);
        self.room_for_index(bytes.len() as u64)?;
        let item = CheckpointItem { id, nonce, lsn: Lsn(lsn), file_bytes: bytes.len() as u64 };
        self.write_checkpoint(item, &bytes)
    }

    /// Shards that got about as many entries since they were last written as they have, or were never written; and what keeps an old checkpoint of which little is
    /// in use.
    fn shards_due(&self, path: &Path) -> Result<Vec<u64>> {
        let largest = self.sizes.lock().largest() / SECTOR;
        let rows = self.index.fresh_entries(path, largest.div_ceil(SHARD_SECTORS))?;
        let mut used: HashMap<u64, u64> = HashMap::new();
        rows.values().for_each(|row| *used.entry(row.since).or_default() += row.known);
        let horizon = self.reachable().0.lsn.0;
        let checkpoints = self.index.checkpoints();
        let little = |c: &&Arc<Checkpoint>| {
            c.item.lsn.0 <= horizon && used.get(&c.item.lsn.0).is_some_and(|used| used * LITTLE < c.all_entries())
        };
        let old: HashSet<u64> = checkpoints.iter().filter(little).map(|c| c.item.lsn.0).collect();
        let due = |row: &Fresh| (row.entries > 0.0 && row.entries >= row.known as f64) || old.contains(&row.since);
        Ok(rows.into_iter().filter(|(_, row)| due(row)).map(|(shard, _)| shard).collect())
    }

    fn write_checkpoint(&self, item: CheckpointItem, bytes: &[u8]) -> Result<()> {
        let name = checkpoint::file_name(item.id);
        // A leftover of an attempt that no manifest names.
        let _ = self.storage.remove(&name);
        let write = || {
            let file = self.storage.create(&name)?;
            file.write_at(bytes, 0)?;
            file.sync()?;
            // Not what an attempt before this one left.
            self.index.files.hold(Named::Checkpoint(item.id), file);
            self.storage.sync_folder()
        };
        if let Err(e) = write() {
            let _ = self.storage.remove(&name);
            return Err(Error::io("write", &name, &e));
        }
        let (opened, _) = Checkpoint::open(&self.index.files, item)?;
        let mut manifest = self.manifest.lock();
        if manifest.content.state.clean {
            // Closed meanwhile, or not written to yet: nothing may name the file.
            let _ = self.storage.remove(&name);
            return Ok(());
        }
        let state = StateItem { next_checkpoint: item.id + 1, ..manifest.content.state };
        manifest.commit(&[Edit::State(state), Edit::SetCheckpoint(item)]).map_err(|e| self.commit_failed(e))?;
        drop(manifest);
        self.index.add_checkpoint(Arc::new(opened));
        Ok(())
    }
}
