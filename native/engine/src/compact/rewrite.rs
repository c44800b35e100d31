//! Writing one group of neighbouring segments anew.

use std::sync::Arc;

use super::cut::pieces;
use super::remove::Remover;
use super::{Compacted, Pace, Unit};
use crate::error::{Error, Kind, Result};
use crate::index::activity::{Activity, Tally};
use crate::index::footer::{self, Site};
use crate::index::reachable::Mask;
use crate::index::sealed::Sealed;
use crate::journal::batch::RecordKind;
use crate::journal::compacted::{self, Builder, Row};
use crate::journal::manifest::{Edit, SegmentItem};
use crate::journal::payload;
use crate::journal::scan::{scan_directories, Window};
use crate::journal::segment::{encode_compacted_header, file_name, OpenSegment};
use crate::options::SEGMENT_ENTRIES_MAX;
use crate::storage::File;
use crate::units::{round_up, Lsn, SegmentId, PAGE, SECTOR};
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
    /// Rewrites what stays of the units, with one commit. A unit of which one segment is damaged so that what it holds is not known stays as it is.
    pub(super) fn rewrite(&self, units: &[Unit], remover: &mut Remover, pace: Pace<'_>) -> Result<Compacted> {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        let mut written = Ok(());
        for unit in units {
            let before = outputs.len();
            match self.write_outputs(unit, &mut outputs, pace) {
                Ok(true) => inputs.extend(unit.inputs.iter().cloned()),
                Ok(false) => self.forget(outputs.drain(before..)),
                Err(e) => {
                    written = Err(e);
                    break;
                }
            }
        }
        if inputs.is_empty() || written.is_err() {
            self.forget(outputs.drain(..));
            return written.map(|()| Compacted::default());
        }
        let ids: Vec<SegmentId> = outputs.iter().map(|output| output.id).collect();
        remover.wait();
        let result = self.switch(&inputs, outputs, remover);
        // After a commit of unknown outcome they may be named.
        if result.is_err() && self.poison.get().is_none() {
            ids.iter().for_each(|&id| drop(self.storage.remove(&file_name(id))));
        }
        result
    }

    /// Nobody names them; what is left is removed at the next opening.
    fn forget(&self, outputs: impl Iterator<Item = Output>) {
        outputs.for_each(|output| drop(self.storage.remove(&file_name(output.id))));
    }

    fn write_outputs(&self, unit: &Unit, outputs: &mut Vec<Output>, pace: Pace<'_>) -> Result<bool> {
        let mut left = &unit.names[..];
        let begin = outputs.len();
        for input in &unit.inputs {
            let file = self.index.files.get(input.item.id.0)?;
            let open = OpenSegment { id: input.item.id, nonce: input.item.nonce, file };
            let Some(rows) = self.rows(&open, &input.item)? else { return Ok(false) };
            let mut window = Window::new(&*open.file);
            if outputs.len() == begin {
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
                let cut = unit.cuts.get(&(row.lsn, row.start)).copied();
                self.copy(&mut window, &open, row, cut, output)?;
                if output.builder.is_full() {
                    self.write_batch(output, pace)?;
                }
            }
            if let Some(output) = outputs.last_mut() {
                output.last = (input.item.last_lsn.0, input.item.last_stamp);
            }
        }
        let mut previous = unit.inputs.first().map_or(0, |input| input.item.previous_lsn.0);
        for output in &mut outputs[begin..] {
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
        let scanned = scan_directories(open, item.footer_offset)?;
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

    /// Takes over what stays of an entry: all of it, or the pieces in `cut`.
    fn copy(
        &self,
        window: &mut Window<'_>,
        open: &OpenSegment,
        row: &Row,
        cut: Option<Mask>,
        output: &mut Output,
    ) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("read", &file_name(open.id), &e);
        let intact =
            |b: &[u8]| row.stored == 0 || payload::is_intact(b, self.facts.nonce_of(row.lsn), row.lsn, row.start);
        if let Some(bytes) = window.get(row.offset, row.stored as usize).map_err(failed)?.filter(|b| intact(b)) {
            self.keep(row, bytes, cut, output);
            return Ok(());
        }
        if row.kind != RecordKind::Data {
            // A control record that cannot be read says nothing to anybody.
            return Ok(());
        }
        // Read again past the cache before it is lost for good.
        open.file.drop_cache();
        let mut again = vec![0u8; row.stored as usize];
        let got = open.file.read_at(&mut again, row.offset).map_err(failed)?;
        if got == again.len() && intact(&again) {
            self.keep(row, &again, cut, output);
            return Ok(());
        }
        let (file, end) = (file_name(open.id), row.start + row.sectors);
        let what = format!("the payload of record {} is damaged: sectors {} to {end}", row.lsn, row.start);
        self.faults.note(format!("{file}: {what}"));
        for part in parts(row, cut) {
            output.builder.push(Row { kind: RecordKind::Damaged, stored: 0, ..part }, &[]);
        }
        Ok(())
    }

    fn keep(&self, row: &Row, stored: &[u8], cut: Option<Mask>, output: &mut Output) {
        let nonce = self.facts.nonce_of(row.lsn);
        let mut content = vec![0u8; if cut.is_some() { (row.sectors * SECTOR) as usize } else { 0 }];
        // What its checksum says is whole and does not decode all the same stays as it is: reads of it fail, as before.
        if cut.is_none() || payload::decode(stored, nonce, row.lsn, row.start, &mut content).is_err() {
            return output.builder.push(*row, stored);
        }
        for mut part in parts(row, cut) {
            let from = ((part.start - row.start) * SECTOR) as usize;
            let mut piece = Vec::new();
            let sum = payload::encode(&content[from..from + (part.sectors * SECTOR) as usize], &mut piece);
            payload::seal(&mut piece, sum, nonce, part.lsn, part.start);
            part.stored = piece.len() as u32;
            output.builder.push(part, &piece);
        }
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
            // In one piece: batches go to the disk one by one, beside the writer's, and would take their blocks in turns with them.
            file.allocate(0, self.gate.meter.segment_bytes());
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
            output.file.begin_writeback(offset, bytes.len() as u64);
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
        output.file.free_behind();
        output.file.sync().map_err(|e| Error::io("sync", &name, &e))
    }

    /// One commit: the outputs are named, the inputs are not any more. Then the inputs' files go.
    fn switch(&self, inputs: &[Arc<Sealed>], outputs: Vec<Output>, remover: &mut Remover) -> Result<Compacted> {
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
        remover.remove(gone.iter().map(|&id| file_name(SegmentId(id))).collect());
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

/// The entries that stay of one: itself, or one for each piece.
fn parts(row: &Row, cut: Option<Mask>) -> Vec<Row> {
    let Some(mask) = cut else { return vec![*row] };
    let part =
        |(from, to): (u32, u32)| Row { start: row.start + u64::from(from), sectors: u64::from(to - from), ..*row };
    pieces(mask).map(part).collect()
}

/// Rollbacks and control records are history that no later one covers.
fn is_kept_for_ever(kind: RecordKind) -> bool {
    matches!(kind, RecordKind::Rollback | RecordKind::Control)
}
