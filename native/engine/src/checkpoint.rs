//! Writing checkpoints: which shards, when, and how a crash finds either all of it or nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::index::checkpoint::{self, Builder, Checkpoint, SHARD_SECTORS};
use crate::index::map::At;
use crate::journal::manifest::{CheckpointItem, Edit, StateItem};
use crate::units::Lsn;
use crate::volume::Volume;

/// A checkpoint is closed when it has this many bytes; other shards wait until something touches them again.
const BYTES_MAX: usize = 64 << 20;

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
            self.checkpoint(last, lsn)?;
        }
        Ok(())
    }

    fn checkpoint(&self, since: u64, lsn: u64) -> Result<()> {
        let path = self.index.path(At::Lsn(lsn));
        let shards = self.shards_due(since)?;
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
            builder.push(shard, self.index.flatten_shard(shard, &path)?);
        }
        let controls: Vec<_> = self.controls.lock().iter().filter(|c| c.lsn <= lsn).cloned().collect();
        let bytes = builder.finish(lsn, &controls);
        let item = CheckpointItem { id, nonce, lsn: Lsn(lsn), file_bytes: bytes.len() as u64 };
        self.write_checkpoint(item, &bytes)
    }

    /// Shards that got as many entries since they were last written as they have, or were never written.
    fn shards_due(&self, since: u64) -> Result<Vec<u64>> {
        let touched: BTreeSet<u64> = self.index.shards_touched(since, self.facts.sectors.div_ceil(SHARD_SECTORS))?;
        let mut due = Vec::new();
        for shard in touched {
            let checkpoints = self.index.checkpoints();
            let newest = checkpoints.iter().rev().find(|c| c.has(shard));
            let entries = newest.map_or(0, |c| c.entries(shard));
            let fresh = self.index.entries_since(shard, newest.map_or(0, |c| c.item.lsn.0))?;
            if fresh >= entries {
                due.push(shard);
            }
        }
        Ok(due)
    }

    fn write_checkpoint(&self, item: CheckpointItem, bytes: &[u8]) -> Result<()> {
        let name = checkpoint::file_name(item.id);
        // A leftover of an attempt that no manifest names.
        let _ = self.storage.remove(&name);
        let write = || {
            let file = self.storage.create(&name)?;
            file.write_at(bytes, 0)?;
            file.sync()?;
            self.storage.sync_folder()
        };
        if let Err(e) = write() {
            let _ = self.storage.remove(&name);
            return Err(Error::io("write", &name, &e));
        }
        let (opened, _) = Checkpoint::open(self.storage.clone(), item)?;
        let mut manifest = self.manifest.lock();
        if manifest.content.state.clean {
            // Closed meanwhile: the next writer removes the file.
            return Ok(());
        }
        let state = StateItem { next_checkpoint: item.id + 1, ..manifest.content.state };
        manifest.commit(&[Edit::State(state), Edit::SetCheckpoint(item)]).map_err(|e| self.commit_failed(e))?;
        drop(manifest);
        self.index.add_checkpoint(Arc::new(opened));
        Ok(())
    }
}
