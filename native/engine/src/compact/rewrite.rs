//! Writing one group of neighbouring segments anew.

use std::sync::Arc;

use super::{Compacted, Pace};
use crate::error::{Error, Kind, Result};
use crate::index::activity::{Activity, Tally};
use crate::index::footer::{self, Site};
use crate::index::sealed::Sealed;
use crate::journal::batch::RecordKind;
use crate::journal::compacted::{self, Builder, Row};
use crate::journal::manifest::{Edit, SegmentItem};
use crate::journal::payload;
use crate::journal::scan::{scan, Window};
use crate::journal::segment::{encode_compacted_header, file_name, OpenSegment};
use crate::options::SEGMENT_ENTRIES_MAX;
use crate::storage::File;
use crate::units::{round_up, Lsn, SegmentId, PAGE};
use crate::volume::Volume;

/// A segment that is being written. No manifest names it yet.
struct Output {
    id: SegmentId,
    nonce: u64,
    file: Arc<dyn File>,
    builder: Builder,
    first: (u64, u64),
    last: (u64, u64),
    previous_lsn: u64,
    footer_offset: u64,
    activity: Tally,
}

impl Volume {
    /// Rewrites the entries named, (LSN, start), of the inputs, which ascend. None if one of them is damaged so that what it holds is not known: it stays as it is.
    pub(super) fn rewrite(
        &self,
        inputs: &[Arc<Sealed>],
        mut names: Vec<(u64, u64)>,
        pace: Pace<'_>,
    ) -> Result<Option<Compacted>> {
        names.sort_unstable();
        let mut outputs: Vec<Output> = Vec::new();
        let written = self.write_outputs(inputs, &names, &mut outputs, pace);
        let ids: Vec<SegmentId> = outputs.iter().map(|output| output.id).collect();
        let result = match written {
            Ok(true) => self.switch(inputs, outputs).map(Some),
            Ok(false) => Ok(None),
            Err(e) => Err(e),
        };
        if !matches!(result, Ok(Some(_))) && self.poison.get().is_none() {
            // Nobody names them; what is left is removed at the next opening. After a commit of unknown outcome they may be named.
            ids.iter().for_each(|&id| drop(self.storage.remove(&file_name(id))));
        }
        result
    }

    fn write_outputs(
        &self,
        inputs: &[Arc<Sealed>],
        names: &[(u64, u64)],
        outputs: &mut Vec<Output>,
        pace: Pace<'_>,
    ) -> Result<bool> {
        let mut left = names;
        for input in inputs {
            let file = self.index.files.get(input.item.id.0)?;
            let open = OpenSegment { id: input.item.id, nonce: input.item.nonce, file };
            let Some(rows) = self.rows(&open, &input.item)? else { return Ok(false) };
            let mut window = Window::new(&*open.file);
            if outputs.is_empty() {
                outputs.push(self.new_output(&input.item, input.item.first_lsn.0, input.item.first_stamp)?);
            }
            for activity in input.activity(&self.index.files)? {
                if let Some(output) = outputs.last_mut() {
                    output.activity.add(activity);
                }
            }
            let mut before = 0;
            for row in &rows {
                left = &left[left.partition_point(|&name| name < (row.lsn, row.start))..];
                let named = left.first() == Some(&(row.lsn, row.start)) && row.kind.covers();
                if !named && !is_kept_for_ever(row.kind) {
                    continue;
                }
                if let Some(full) =
                    outputs.last_mut().filter(|o| row.lsn != before && o.is_full(self.gate.meter.segment_bytes()))
                {
                    // All entries of an LSN lie in one segment; ranges do not overlap.
                    full.last = (row.lsn - 1, full.last.1);
                    let stamp = row.stamp;
                    outputs.push(self.new_output(&input.item, row.lsn, stamp)?);
                }
                before = row.lsn;
                let Some(output) = outputs.last_mut() else { return Ok(false) };
                output.last = (row.lsn, row.stamp);
                self.copy(&mut window, &open, row, output, pace)?;
            }
            if let Some(output) = outputs.last_mut() {
                output.last = (input.item.last_lsn.0, input.item.last_stamp);
            }
        }
        let mut previous = inputs.first().map_or(0, |input| input.item.previous_lsn.0);
        for output in outputs.iter_mut() {
            output.previous_lsn = previous;
            previous = output.last.0;
            self.finish_output(output, pace)?;
        }
        Ok(true)
    }

    /// Every entry of a segment in the order of LSNs; None where directories are lost.
    fn rows(&self, open: &OpenSegment, item: &SegmentItem) -> Result<Option<Vec<Row>>> {
        if item.compacted {
            let contents = compacted::read(open, item, &self.facts)?;
            return Ok(contents.damaged.is_empty().then_some(contents.rows));
        }
        let scanned = scan(open, Some(item.footer_offset))?;
        let mut rows = Vec::with_capacity(item.entries as usize);
        let mut last = item.previous_lsn.0;
        for meta in scanned.metas.iter().filter(|m| m.header.first_lsn <= item.last_lsn.0) {
            if meta.header.previous_lsn > last {
                return Ok(None);
            }
            for placed in meta.placed().filter(|p| p.lsn <= item.last_lsn.0) {
                let entry = placed.entry;
                rows.push(Row {
                    start: entry.start,
                    sectors: entry.sectors,
                    kind: entry.kind,
                    stored: entry.stored,
                    lsn: placed.lsn,
                    stamp: placed.stamp,
                    offset: placed.offset,
                });
                last = placed.lsn;
            }
        }
        Ok((last == item.last_lsn.0).then_some(rows))
    }

    fn copy(
        &self,
        window: &mut Window<'_>,
        open: &OpenSegment,
        row: &Row,
        output: &mut Output,
        pace: Pace<'_>,
    ) -> Result<()> {
        let stored = window.get(row.offset, row.stored as usize);
        let stored = stored.map_err(|e| Error::io("read", &file_name(open.id), &e))?;
        let nonce = self.facts.nonce_of(row.lsn);
        let intact = |b: &&[u8]| row.stored == 0 || payload::is_intact(b, nonce, row.lsn, row.start);
        match stored.filter(intact) {
            Some(bytes) => output.builder.push(*row, bytes),
            None if row.kind == RecordKind::Data => {
                // Read again past the cache before it is lost for good.
                open.file.drop_cache();
                let mut again = vec![0u8; row.stored as usize];
                let got = open.file.read_at(&mut again, row.offset);
                let got = got.map_err(|e| Error::io("read", &file_name(open.id), &e))?;
                again.truncate(got);
                if got == row.stored as usize && intact(&&again[..]) {
                    output.builder.push(*row, &again);
                } else {
                    self.faults.note(format!(
                        "{}: the payload of record {} is damaged: sectors {} to {}",
                        file_name(open.id),
                        row.lsn,
                        row.start,
                        row.start + row.sectors
                    ));
                    output.builder.push(Row { kind: RecordKind::Damaged, stored: 0, ..*row }, &[]);
                }
            }
            // A control record that cannot be read says nothing to anybody.
            None => {}
        }
        if output.builder.is_full() {
            self.write_batch(output, pace)?;
        }
        Ok(())
    }

    fn new_output(&self, like: &SegmentItem, first_lsn: u64, first_stamp: u64) -> Result<Output> {
        let (id, epoch) = {
            let mut manifest = self.manifest.lock();
            (manifest.content.reserve_segment(), manifest.content.state.epoch)
        };
        let nonce = self.storage.nonce();
        let name = file_name(id);
        let writer = self.facts.writer_of(like.first_lsn.0);
        let made = self.storage.create(&name).and_then(|file| {
            file.write_at(&encode_compacted_header(writer, id, nonce, epoch, self.storage.now()), 0)?;
            Ok(file)
        });
        let file = made.map_err(|e| Error::io("create", &name, &e))?;
        let builder = Builder::new(id.0, nonce, like.clock_epoch);
        let first = (first_lsn, first_stamp);
        Ok(Output {
            id,
            nonce,
            file,
            builder,
            first,
            last: first,
            previous_lsn: 0,
            footer_offset: 0,
            activity: Tally::default(),
        })
    }

    fn write_batch(&self, output: &mut Output, pace: Pace<'_>) -> Result<()> {
        self.check_writable()?;
        if self.is_closed() {
            return Err(Error::new(Kind::Closed, "the volume is closed"));
        }
        if let Some((offset, bytes)) = output.builder.take_batch(&self.facts) {
            let written = output.file.write_at(&bytes, offset);
            written.map_err(|e| Error::io("write", &file_name(output.id), &e))?;
            pace(bytes.len() as u64)?;
        }
        Ok(())
    }

    /// Activity, the last batch, the footer, and a sync.
    fn finish_output(&self, output: &mut Output, pace: Pace<'_>) -> Result<()> {
        let rows: Vec<Activity> = output.activity.rows().collect();
        output.builder.push_activity(&rows, output.last.0, output.last.1, &self.facts);
        self.write_batch(output, pace)?;
        output.builder.table.set_bounds(output.first, output.last);
        let name = file_name(output.id);
        let failed = |e: std::io::Error| Error::io("write the footer of", &name, &e);
        let tail_offset = output.file.len().map_err(failed)?;
        let offset = round_up(tail_offset, PAGE);
        output.footer_offset = offset;
        let site = Site {
            offset,
            tail_offset,
            tail_crc: crate::maintain::crc_of_range(&*output.file, tail_offset, offset).map_err(failed)?,
        };
        output.file.write_at(&footer::build(&output.builder.table, output.nonce, site), offset).map_err(failed)?;
        output.file.sync().map_err(|e| Error::io("sync", &name, &e))
    }

    /// One commit: the outputs are named, the inputs are not any more. Then the inputs' files go.
    fn switch(&self, inputs: &[Arc<Sealed>], outputs: Vec<Output>) -> Result<Compacted> {
        self.storage.sync_folder().map_err(|e| Error::io("sync", "the volume's folder", &e))?;
        self.check_writable()?;
        let items: Vec<SegmentItem> = outputs.iter().map(|output| self.item(output)).collect::<Result<_>>()?;
        let gone: Vec<u32> = inputs.iter().map(|input| input.item.id.0).collect();
        let mut edits: Vec<Edit> = gone.iter().map(|&id| Edit::DropSegment(SegmentId(id))).collect();
        edits.extend(items.iter().cloned().map(Edit::SetSegment));
        {
            let mut manifest = self.manifest.lock();
            // Not `state.clean`: a volume that was opened and not written to yet is clean too.
            if self.is_closed() {
                return Err(Error::new(Kind::Closed, "the volume was closed meanwhile"));
            }
            edits.insert(0, Edit::State(manifest.content.state));
            manifest.commit(&edits).map_err(|e| self.commit_failed(e))?;
        }
        let read: u64 = inputs.iter().map(|input| input.item.file_bytes).sum();
        let written: u64 = items.iter().map(|item| item.file_bytes).sum();
        let added: Vec<Arc<Sealed>> = items
            .into_iter()
            .map(|item| Arc::new(Sealed::new(item, self.facts.clone(), self.faults.clone())))
            .collect();
        self.index.replace(&gone, &added);
        gone.iter().for_each(|&id| drop(self.storage.remove(&file_name(SegmentId(id)))));
        Ok(Compacted {
            segments_in: inputs.len(),
            segments_out: added.len(),
            written,
            freed: read.saturating_sub(written),
            dead: 0,
        })
    }

    fn item(&self, output: &Output) -> Result<SegmentItem> {
        let name = file_name(output.id);
        let file_bytes = output.file.len().map_err(|e| Error::io("stat", &name, &e))?;
        let table = &output.builder.table;
        Ok(SegmentItem {
            sealed: true,
            compacted: true,
            id: output.id,
            nonce: output.nonce,
            epoch: self.manifest.lock().content.state.epoch,
            clock_epoch: table.clock_epoch,
            entries: table.len() as u32,
            first_lsn: Lsn(output.first.0),
            last_lsn: Lsn(output.last.0),
            first_stamp: output.first.1,
            last_stamp: output.last.1,
            footer_offset: output.footer_offset,
            file_bytes,
            previous_lsn: Lsn(output.previous_lsn),
        })
    }
}

impl Output {
    fn is_full(&self, segment_bytes: u64) -> bool {
        self.builder.bytes() >= segment_bytes || self.builder.entries() >= SEGMENT_ENTRIES_MAX
    }
}

/// Rollbacks and control records are history that no later one covers.
fn is_kept_for_ever(kind: RecordKind) -> bool {
    matches!(kind, RecordKind::Rollback | RecordKind::Control)
}
