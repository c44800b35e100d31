//! Merging index runs: when, and how a crash finds either the new run or the old ones.
//!
//! Invariants: a run is durable before the manifest names it; what it replaces is removed after. Anything that fails leaves the index as it was.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::index::merge::{self, Unit};
use crate::index::merged::{self, Head, Merged};
use crate::journal::manifest::{Content, Edit, RunItem, StateItem};
use crate::options::Maintenance;
use crate::storage::File;
use crate::units::Lsn;
use crate::volume::Volume;

/// Bytes written at a time.
const WRITE_BYTES: usize = 1 << 20;

/// A file that is written from front to end.
struct Output {
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    offset: u64,
}

impl Output {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Volume {
    /// Merges as long as there are enough neighbours of one level. On an error nothing has changed.
    pub(crate) fn merge_if_due(&self) -> Result<()> {
        self.drop_useless_runs()?;
        while self.poison.get().is_none() && !self.is_closed() {
            let units = merge::units(&self.index.sealed(), &self.index.runs());
            let levels: Vec<u32> = units.iter().map(Unit::level).collect();
            let Some((range, level)) = merge::choose(&levels, self.options.merge_fan) else { break };
            match self.merge(&units[range.clone()], level) {
                Err(_) if self.is_closed() => break,
                Err(e) if e.kind == Kind::Corrupt => return self.find_damage(&units[range]),
                Ok(false) => break,
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// False if the units changed meanwhile: nothing was done then.
    fn merge(&self, units: &[Unit], level: u32) -> Result<bool> {
        self.check_writable()?;
        let state = self.manifest.lock().content.state;
        let (id, nonce) = (state.next_run, self.storage.nonce());
        let head = Head { volume: self.id, id, nonce, epoch: state.epoch, created: self.storage.now() };
        let (first, last) = units.iter().map(Unit::lsns).fold((u64::MAX, 0), |(a, b), (c, d)| (a.min(c), b.max(d)));
        let (files, sealed) = (&self.index.files, self.index.sealed());
        let mut inputs = Vec::new();
        for unit in units {
            inputs.extend(merge::expand(unit, files, &sealed)?);
        }
        self.room_for_index(inputs.iter().map(Unit::bytes).sum())?;
        let name = merged::file_name(id);
        let written = self.write_run(&name, |sink| merge::write(&head, (first, last), &inputs, files, sink));
        let file_bytes = written.inspect_err(|_| drop(self.storage.remove(&name)))?;
        let item = RunItem { id, nonce, level, first_lsn: Lsn(first), last_lsn: Lsn(last), file_bytes };
        let gone: Vec<u32> = units.iter().filter_map(run_id).collect();
        {
            let mut manifest = self.manifest.lock();
            let content = &manifest.content;
            if content.state.clean
                || content.state.next_run != id
                || !all_named(content, units)
                || !all_named(content, &inputs)
            {
                // A leftover is removed by the next writer.
                let _ = self.storage.remove(&name);
                return Ok(false);
            }
            let mut edits = vec![Edit::State(StateItem { next_run: id + 1, ..content.state }), Edit::SetRun(item)];
            edits.extend(gone.iter().map(|&id| Edit::DropRun(id)));
            manifest.commit(&edits).map_err(|e| self.commit_failed(e))?;
        }
        self.replace_runs(&gone, Some(item));
        Ok(true)
    }

    fn write_run(
        &self,
        name: &str,
        write: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<u64>,
    ) -> Result<u64> {
        let io = |e: std::io::Error| Error::io("write", name, &e);
        // A leftover of an attempt that no manifest names.
        let _ = self.storage.remove(name);
        let file = self.storage.create(name).map_err(io)?;
        let mut output = Output { file, buffer: Vec::with_capacity(WRITE_BYTES + 4096), offset: 0 };
        let bytes = write(&mut |bytes| {
            let before = output.offset;
            output.put(bytes).map_err(io)?;
            if output.offset > before {
                self.breathe()?;
            }
            Ok(())
        })?;
        output.flush().and_then(|()| output.file.sync()).and_then(|()| self.storage.sync_folder()).map_err(io)?;
        Ok(bytes)
    }

    /// Long work in the volume's thread lets through what cannot wait: a segment to seal, the note of an idle writer. Closed if the volume is.
    pub(crate) fn breathe(&self) -> Result<()> {
        if self.is_closed() {
            return Err(Error::new(Kind::Closed, "the volume is closed"));
        }
        if self.options.maintenance == Maintenance::Thread {
            self.maintain().and_then(|()| self.note_idle())?;
        }
        Ok(())
    }

    /// Something that a merge read is damaged: from now on it is passed over.
    pub(crate) fn find_damage(&self, units: &[Unit]) -> Result<()> {
        for unit in units {
            if let Some(fault) = unit.find_damage(&self.index.files)? {
                self.faults.note(fault);
            }
        }
        Ok(())
    }

    /// Drops runs that are damaged, which keep their neighbours from being merged, and those most of whose segments were compacted: what is left of these
    /// is in small footers.
    fn drop_useless_runs(&self) -> Result<()> {
        let sealed = self.index.sealed();
        let mut useless = Vec::new();
        for run in self.index.runs().iter() {
            let names = run.names(&self.index.files, &sealed);
            match names.map_err(|e| run.fault(&e, &self.index.files)) {
                Ok((all, gone)) if 2 * gone <= all => {}
                Ok(_) => useless.push(run.item.id),
                Err(fault) => fault.into_iter().for_each(|fault| self.faults.note(fault)),
            }
            if run.is_damaged() {
                useless.push(run.item.id);
            }
        }
        self.drop_runs(&useless)
    }

    /// Drops merged runs: the segments below are asked again. Nothing happens to those that are not named.
    pub(crate) fn drop_runs(&self, ids: &[u32]) -> Result<()> {
        {
            let mut manifest = self.manifest.lock();
            let named = ids.iter().filter(|id| manifest.content.runs.contains_key(id));
            let edits: Vec<Edit> = named.map(|&id| Edit::DropRun(id)).collect();
            if edits.is_empty() || manifest.content.state.clean {
                return Ok(());
            }
            manifest.commit(&edits).map_err(|e| self.commit_failed(e))?;
        }
        self.replace_runs(ids, None);
        Ok(())
    }

    /// After the manifest: lookups, then files.
    pub(crate) fn replace_runs(&self, gone: &[u32], added: Option<RunItem>) {
        self.index.replace_runs(gone, added.map(|item| Arc::new(Merged::new(item))));
        gone.iter().for_each(|&id| drop(self.storage.remove(&merged::file_name(id))));
    }
}

fn run_id(unit: &Unit) -> Option<u32> {
    match unit {
        Unit::Run(run) => Some(run.item.id),
        Unit::Segment(_) => None,
    }
}

/// True if the manifest still names all that was merged.
fn all_named(content: &Content, units: &[Unit]) -> bool {
    units.iter().all(|unit| match unit {
        Unit::Segment(sealed) => content.segments.contains_key(&sealed.item.id),
        Unit::Run(run) => content.runs.contains_key(&run.item.id),
    })
}
