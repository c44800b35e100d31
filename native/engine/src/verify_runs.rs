//! Merged runs against what the footers below them give.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::index::files::Named;
use crate::index::merge::{self, Unit};
use crate::index::merged::{check_header, Head, Merged};
use crate::index::sealed::Sealed;
use crate::index::stream::{Cursor, Merge};
use crate::journal::manifest::{Manifest, RunItem};
use crate::storage::File;
use crate::units::PAGE;
use crate::verify::Finding;
use crate::volume::Volume;

impl Volume {
    pub(crate) fn verify_run(&self, item: &RunItem, findings: &mut Vec<Finding>) -> Result<()> {
        let Some(what) = self.run_damage(item)? else { return Ok(()) };
        // Merging replaces runs while this goes on, ours or another process's.
        if self.is_named_still(item)? {
            let file = Named::Run(item.id).file_name();
            findings.push(Finding { file, what, repairable: true, ..Finding::default() });
        }
        Ok(())
    }

    fn is_named_still(&self, item: &RunItem) -> Result<bool> {
        if !self.read_only {
            return Ok(self.manifest.lock().content.runs.contains_key(&item.id));
        }
        let (manifest, _) = Manifest::load(self.storage.clone(), Some(self.id))?;
        Ok(manifest.content.runs.contains_key(&item.id))
    }

    /// What is wrong with a run, if anything is. Its bytes are compared as they are made: nothing of it is in memory as a whole.
    pub(crate) fn run_damage(&self, item: &RunItem) -> Result<Option<String>> {
        let name = Named::Run(item.id).file_name();
        let io = |e: std::io::Error| Error::io("read", &name, &e);
        let file = match self.storage.open(&name, false) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Some("it is missing".into())),
            other => other.map_err(io)?,
        };
        let length = file.len().map_err(io)?;
        if length != item.file_bytes {
            return Ok(Some(format!("it has {length} bytes instead of {}", item.file_bytes)));
        }
        file.drop_cache();
        let mut page = vec![0u8; PAGE as usize];
        let got = file.read_at(&mut page, 0).map_err(io)?;
        let of = |writer: &[u8; 16]| check_header(&page[..got], writer, item);
        let writer = self.facts.family().find(|writer| of(writer).is_ok()).unwrap_or(&self.id);
        if let Err(what) = of(writer) {
            return Ok(Some(what));
        }
        let sealed = self.index.sealed();
        let within = sealed.within(item.first_lsn.0, item.last_lsn.0);
        // One that reaches beyond the run's range counts too: it holds what the run may still name.
        let meets = |s: &Sealed| s.item.first_lsn <= item.last_lsn && item.first_lsn <= s.item.last_lsn;
        let compacted = sealed.iter().any(|segment| segment.item.compacted && meets(segment));
        let below: Vec<Unit> = within.iter().cloned().map(Unit::Segment).collect();
        // A damaged footer is another finding: its batches say what it said.
        self.find_damage(&below)?;
        match Merged::new(*item).names(&self.index.files, &sealed) {
            Ok((_, 0)) => match self.difference(item, &below, &*file)? {
                // It names none that was replaced, but what has no data, and so no place, is not named.
                Some(_) if compacted => self.missing(item, &below, &*file),
                differs => Ok(differs.map(|at| format!("it differs from what the segments say, at offset {at}"))),
            },
            Ok(_) => self.missing(item, &below, &*file),
            Err(e) if e.kind == Kind::Corrupt => Ok(Some(e.message)),
            Err(e) => Err(e),
        }
    }

    /// For a run that names segments which compaction replaced: it must know at least what they hold now, be it the rest of an entry.
    fn missing(&self, item: &RunItem, below: &[Unit], file: &dyn File) -> Result<Option<String>> {
        let files = &self.index.files;
        let run = Unit::Run(Arc::new(Merged::new(*item)));
        for wide in [false, true] {
            let cursors: Result<Vec<Cursor>> = below.iter().map(|unit| unit.cursor(files, wide)).collect();
            let mut now = Merge::new(cursors?)?;
            let known = run.cursor(files, wide).and_then(|mut known| {
                let (mut near, mut ahead) = (Vec::new(), known.advance()?);
                while let Some(v) = now.advance()? {
                    while let Some(k) = ahead.filter(|k| k.start <= v.start) {
                        near.push(k);
                        ahead = known.advance()?;
                    }
                    near.retain(|k| k.end() > v.start);
                    if !near.iter().any(|k| k.lsn == v.lsn && k.end() >= v.end()) {
                        return Err(Error::corrupt(format!("it lacks record {}", v.lsn)));
                    }
                }
                while known.advance()?.is_some() {}
                Ok(())
            });
            match known {
                Err(e) if e.kind == Kind::Corrupt => return Ok(Some(e.message)),
                other => other?,
            }
        }
        // What it says can be read; bytes that say nothing may be damaged.
        let differs = self.difference(item, &[run], file)?;
        Ok(differs.map(|at| format!("a byte that holds nothing is damaged, at offset {at}")))
    }

    /// The first offset at which the file is not what merging gives.
    fn difference(&self, item: &RunItem, below: &[Unit], file: &dyn File) -> Result<Option<u64>> {
        let name = Named::Run(item.id).file_name();
        let head = Head { volume: self.id, id: item.id, nonce: item.nonce, epoch: 0, created: 0 };
        let (mut at, mut differs, mut stored) = (0, None, Vec::new());
        let mut compare = |expected: &[u8]| {
            stored.resize(expected.len(), 0);
            let got = file.read_at(&mut stored, at).map_err(|e| Error::io("read", &name, &e))?;
            let equal = stored[..got].iter().zip(expected).take_while(|(a, b)| a == b).count();
            // When it was made stands in its header alone, which was looked at.
            if at > 0 && equal < expected.len() {
                differs = differs.or(Some(at + equal as u64));
            }
            at += expected.len() as u64;
            Ok(())
        };
        let lsns = (item.first_lsn.0, item.last_lsn.0);
        let bytes = merge::write(&head, lsns, below, &self.index.files, &mut compare)?;
        Ok(differs.or((bytes != item.file_bytes).then_some(bytes.min(item.file_bytes))))
    }
}
