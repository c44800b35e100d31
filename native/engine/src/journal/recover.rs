//! From batches to records: which of them count, which are torn, which are damaged (docs/format.md, "Recovery of open
//! segments"). Pure but for reading; nothing is written here.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::index::memtable::Memtable;
use crate::journal::batch::{Meta, RecordKind};
use crate::journal::compacted;
use crate::journal::manifest::{Content, SegmentItem};
use crate::journal::payload::CRC_BYTES;
use crate::journal::scan::{payload_is_intact, scan, scan_range, Scan, Window};
use crate::journal::segment::{file_name, OpenSegment};

/// What readers need to know of the volume.
#[derive(Clone, Debug)]
pub struct Volume {
    pub id: [u8; 16],
    /// (floor, id) of the timelines that it was cloned from, ascending.
    ancestors: Arc<[(u64, [u8; 16])]>,
}

impl Volume {
    pub fn new(content: &Content) -> Volume {
        let ancestors = content.ancestors.values().map(|a| (a.floor.0, a.id)).collect();
        Volume { id: content.id, ancestors }
    }

    /// Who wrote the record.
    pub fn writer_of(&self, lsn: u64) -> &[u8; 16] {
        let at = self.ancestors.partition_point(|&(floor, _)| floor < lsn);
        self.ancestors.get(at).map_or(&self.id, |(_, id)| id)
    }

    /// Who may have written a file of this volume: itself, and its ancestors.
    pub fn family(&self) -> impl Iterator<Item = &[u8; 16]> {
        std::iter::once(&self.id).chain(self.ancestors.iter().map(|(_, id)| id))
    }

    /// The last LSN that is an ancestor's; 0 if there is none.
    pub fn floor(&self) -> u64 {
        self.ancestors.last().map_or(0, |&(floor, _)| floor)
    }

    /// (last LSN, id) of who wrote what, ascending; the last one is the volume itself.
    pub fn writers(&self) -> impl Iterator<Item = (u64, &[u8; 16])> {
        self.ancestors.iter().map(|(floor, id)| (*floor, id)).chain([(u64::MAX, &self.id)])
    }

    /// What its payloads' checksums are bound to: the volume nonce of who wrote it.
    pub fn nonce_of(&self, lsn: u64) -> u64 {
        crate::codec::u64_at(self.writer_of(lsn), 0)
    }

    /// The volume nonce of what is written now.
    pub fn nonce(&self) -> u64 {
        crate::codec::u64_at(&self.id, 0)
    }
}

/// An open segment with the records that it keeps.
pub struct Recovered {
    pub open: OpenSegment,
    pub table: Memtable,
    /// End of the last record's payload, or of the last batch where all of it is kept.
    pub tail_offset: u64,
    /// The last record before this segment.
    pub previous_lsn: u64,
}

#[derive(Default)]
pub struct Recovery {
    /// Those that keep a record.
    pub segments: Vec<Recovered>,
    /// The last record that counts.
    pub last_lsn: u64,
    /// The first LSN that never happened, where the tail was torn.
    pub cut: Option<u64>,
    /// Sentences that name damage.
    pub damage: Vec<String>,
    pub durable_lsn: u64,
    /// The largest LSN seen in any header.
    pub seen_lsn: u64,
}

/// Reads the open segments, ascending by id. `last_lsn`: of the sealed ones.
pub fn recover(open: Vec<OpenSegment>, last_lsn: u64, volume: &Volume) -> Result<Recovery> {
    let scans: Vec<Scan> = open.iter().map(|segment| scan(segment, None)).collect::<Result<_>>()?;
    let durable_lsn = scans.iter().map(|s| s.durable_lsn).max().unwrap_or(0).max(last_lsn);
    let seen = scans.iter().flat_map(|s| &s.metas).map(|m| m.next_lsn() - 1).max().unwrap_or(0);
    let mut recovery = Recovery { last_lsn, durable_lsn, seen_lsn: seen.max(last_lsn), ..Recovery::default() };
    let has_tail = scans.iter().any(|s| s.has_tail);
    for (segment, scan) in open.into_iter().zip(scans) {
        if recovery.cut.is_some() {
            break;
        }
        name_scan_damage(&segment, &scan, durable_lsn, &mut recovery.damage);
        let mut walk = Walk {
            table: Memtable::new(segment.id.0),
            tail_offset: 0,
            last_lsn: recovery.last_lsn,
            durable_lsn,
            cut: None,
            damage: Vec::new(),
        };
        let mut window = Window::new(&*segment.file);
        for meta in &scan.metas {
            walk.step(&mut window, meta, &segment, volume)?;
            if walk.cut.is_some() {
                break;
            }
        }
        recovery.damage.append(&mut walk.damage);
        recovery.cut = walk.cut;
        if !walk.table.is_empty() {
            let previous_lsn = recovery.last_lsn;
            recovery.segments.push(Recovered {
                open: segment,
                table: walk.table,
                tail_offset: walk.tail_offset,
                previous_lsn,
            });
        }
        recovery.last_lsn = walk.last_lsn;
    }
    if recovery.cut.is_none() && has_tail {
        // A last batch without a valid header: nobody knows what it held.
        recovery.cut = Some(recovery.last_lsn + 1);
    }
    Ok(recovery)
}

/// The records of a sealed segment, from its batches.
pub fn sealed_table(segment: &OpenSegment, item: &SegmentItem, volume: &Volume) -> Result<Memtable> {
    if item.compacted {
        return compacted::read(segment, item, volume).map(|contents| contents.table);
    }
    sealed_walk(segment, item, volume).map(|(table, _, _)| table)
}

/// The records of a sealed segment, the offset of its tail, and what was scanned.
pub fn sealed_walk(segment: &OpenSegment, item: &SegmentItem, volume: &Volume) -> Result<(Memtable, u64, Scan)> {
    let scan = scan(segment, Some(item.footer_offset))?;
    let mut walk = Walk {
        table: Memtable::new(segment.id.0),
        tail_offset: 0,
        last_lsn: item.previous_lsn.0,
        // All that the manifest says is durable; what stands above it was cut.
        durable_lsn: u64::MAX,
        cut: None,
        damage: Vec::new(),
    };
    let mut window = Window::new(&*segment.file);
    for meta in scan.metas.iter().filter(|m| m.header.first_lsn <= item.last_lsn.0 + 1) {
        walk.take(&mut window, meta, segment, volume, item.last_lsn.0 + 1)?;
    }
    if walk.last_lsn < item.last_lsn.0 {
        walk.table.push_lost(walk.last_lsn + 1, item.last_lsn.0, item.first_stamp);
    }
    Ok((walk.table, walk.tail_offset, scan))
}

/// The records of batches that begin in `range`, for their stamps only; None unless they are exactly those from `lsns.0` to `lsns.1`.
pub fn table_between(segment: &OpenSegment, range: (u64, u64), lsns: (u64, u64)) -> Result<Option<Memtable>> {
    let scan = scan_range(segment, range.0, range.1)?;
    let mut table = Memtable::new(segment.id.0);
    let mut previous: Option<u64> = None;
    for meta in &scan.metas {
        if previous.is_some_and(|lsn| meta.header.previous_lsn != lsn) {
            return Ok(None);
        }
        table.push(meta, lsns.1 + 1, &mut std::iter::empty());
        previous = Some(meta.last_lsn());
    }
    let bounds = table.first().zip(table.last()).map(|(first, last)| (first.0, last.0));
    let whole = bounds == Some(lsns) && scan.from_echo.is_empty() && scan.skipped.is_empty();
    Ok(whole.then_some(table))
}

/// Names what is damaged; above the LSN known durable it is what a crash leaves.
fn name_scan_damage(segment: &OpenSegment, scan: &Scan, durable_lsn: u64, damage: &mut Vec<String>) {
    let name = file_name(segment.id);
    let durable = |&&(_, first_lsn): &&(u64, u64)| first_lsn <= durable_lsn;
    let from_echo = scan.from_echo.iter().filter(durable);
    let bad_echoes = scan.bad_echoes.iter().filter(durable);
    damage.extend(
        from_echo.map(|(at, _)| format!("{name}: the directory at offset {at} is damaged; its echo stands in")),
    );
    damage.extend(bad_echoes.map(|(at, _)| format!("{name}: an echo in or of the batch at offset {at} is damaged")));
}

struct Walk {
    table: Memtable,
    tail_offset: u64,
    last_lsn: u64,
    durable_lsn: u64,
    cut: Option<u64>,
    damage: Vec<String>,
}

impl Walk {
    fn step(&mut self, window: &mut Window<'_>, meta: &Meta, segment: &OpenSegment, volume: &Volume) -> Result<()> {
        let previous = meta.header.previous_lsn;
        if previous > self.last_lsn && self.last_lsn >= self.durable_lsn {
            self.cut = Some(self.last_lsn + 1);
            return Ok(());
        }
        if previous > self.last_lsn && previous > self.durable_lsn {
            self.lose(segment, self.durable_lsn, meta.header.base_stamp);
            self.cut = Some(self.durable_lsn + 1);
            return Ok(());
        }
        let cut = self.first_torn(window, meta, segment, volume)?;
        self.take(window, meta, segment, volume, cut.unwrap_or(u64::MAX))?;
        self.cut = cut;
        Ok(())
    }

    /// Records after `last_lsn` up to `upto` are gone with both copies of their directory.
    fn lose(&mut self, segment: &OpenSegment, upto: u64, stamp: u64) {
        let name = file_name(segment.id);
        let first = self.last_lsn + 1;
        self.damage.push(format!("{name}: records {first} to {upto} are lost with both copies of their directory"));
        self.table.push_lost(first, upto, stamp);
        self.last_lsn = upto;
    }

    /// The first LSN above `durable` whose payload is not whole.
    fn first_torn(
        &mut self,
        window: &mut Window<'_>,
        meta: &Meta,
        segment: &OpenSegment,
        volume: &Volume,
    ) -> Result<Option<u64>> {
        let io = |e: std::io::Error| Error::io("read", &file_name(segment.id), &e);
        for placed in meta.placed().filter(|p| p.lsn > self.last_lsn) {
            if payload_is_intact(window, &placed, volume.nonce_of(placed.lsn)).map_err(io)? {
                continue;
            }
            if placed.lsn > self.durable_lsn {
                return Ok(Some(placed.lsn));
            }
            let (start, sectors) = (placed.entry.start, placed.entry.sectors);
            self.damage.push(format!(
                "{}: the payload of record {} is damaged: sectors {start} to {}",
                file_name(segment.id),
                placed.lsn,
                start + sectors
            ));
        }
        Ok(None)
    }

    /// Adds the records of `meta` below `cut` to the table.
    fn take(
        &mut self,
        window: &mut Window<'_>,
        meta: &Meta,
        segment: &OpenSegment,
        volume: &Volume,
        cut: u64,
    ) -> Result<()> {
        if meta.header.previous_lsn > self.last_lsn {
            self.lose(segment, meta.header.previous_lsn, meta.header.base_stamp);
        }
        let documents =
            control_documents(window, meta, volume).map_err(|e| Error::io("read", &file_name(segment.id), &e))?;
        self.table.push(meta, cut, &mut documents.into_iter());
        if cut >= meta.next_lsn() {
            self.tail_offset = self.tail_offset.max(meta.header.end());
        }
        for placed in meta.placed().filter(|p| p.lsn < cut) {
            self.last_lsn = self.last_lsn.max(placed.lsn);
            self.tail_offset = self.tail_offset.max(placed.offset + u64::from(placed.entry.stored));
        }
        Ok(())
    }
}

fn control_documents(window: &mut Window<'_>, meta: &Meta, volume: &Volume) -> std::io::Result<Vec<Option<Vec<u8>>>> {
    let mut documents = Vec::new();
    for placed in meta.placed().filter(|p| p.entry.kind == RecordKind::Control) {
        let intact = payload_is_intact(window, &placed, volume.nonce_of(placed.lsn))?;
        let stored = window.get(placed.offset, placed.entry.stored as usize)?;
        documents.push(stored.filter(|_| intact).map(|b| b[CRC_BYTES..].to_vec()));
    }
    Ok(documents)
}
