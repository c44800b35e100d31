//! All versions of one segment that is not sealed yet, and what its footer will say.
//!
//! Batches are pushed in the order of their LSNs. Entries hang on a chain for each leaf that they touch; those that touch
//! many leaves (long zeros) hang on one list of their own.

use std::collections::HashMap;
use std::ops::Range;

use super::activity::{Activity, Counted, Tally};
use super::{Place, Version, LEAF_SECTORS};
use crate::journal::batch::{Meta, RecordKind};
use crate::journal::compacted::Row;
use crate::path::Path;
use crate::rollback;
use crate::sizes::SECTORS_MAX;

const END: u32 = u32::MAX;
/// Entries that touch more leaves than this are wide: a data entry touches two at most.
const CHAINS_MAX: u64 = 16;

#[derive(Clone, Copy, Debug)]
struct Item {
    start: u64,
    sectors: u64,
    lsn: u64,
    offset: u32,
    stored: u32,
    stamp_delta: u32,
    kind: RecordKind,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    item: u32,
    next: u32,
}

/// A batch with records, for stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMark {
    pub first_lsn: u64,
    pub base_stamp: u64,
    pub offset: u64,
    first_item: u32,
}

/// A control record: a bookmark, an event, a resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub lsn: u64,
    pub stamp: u64,
    pub document: Vec<u8>,
}

pub struct Memtable {
    pub segment: u32,
    pub clock_epoch: u32,
    items: Vec<Item>,
    links: Vec<Link>,
    chains: HashMap<u64, u32>,
    wide: Vec<u32>,
    batches: Vec<BatchMark>,
    pub controls: Vec<Control>,
    pub flush_points: Vec<u64>,
    tally: Tally,
    first: Option<(u64, u64)>,
    last: Option<(u64, u64)>,
}

impl Memtable {
    pub fn new(segment: u32) -> Memtable {
        Memtable {
            segment,
            clock_epoch: 0,
            items: Vec::new(),
            links: Vec::new(),
            chains: HashMap::new(),
            wide: Vec::new(),
            batches: Vec::new(),
            controls: Vec::new(),
            flush_points: Vec::new(),
            tally: Tally::default(),
            first: None,
            last: None,
        }
    }

    /// Adds a batch, or the part of it below `cut`; nothing of one whose records are all above. `documents` are those of its control records, in order; None was damaged.
    pub fn push(&mut self, meta: &Meta, cut: u64, documents: &mut dyn Iterator<Item = Option<Vec<u8>>>) {
        if !meta.entries.is_empty() && meta.header.first_lsn >= cut {
            return;
        }
        self.clock_epoch = meta.header.clock_epoch;
        if meta.header.flush_point && self.flush_points.last().is_none_or(|&last| last < meta.header.durable_lsn) {
            self.flush_points.push(meta.header.durable_lsn);
        }
        if !meta.entries.is_empty() {
            self.batches.push(BatchMark {
                first_lsn: meta.header.first_lsn,
                base_stamp: meta.header.base_stamp,
                offset: u64::from(meta.header.offset),
                first_item: self.items.len() as u32,
            });
        }
        for placed in meta.placed().take_while(|p| p.lsn < cut) {
            self.count(&placed.entry, placed.lsn, placed.stamp);
            if placed.entry.kind == RecordKind::Control {
                if let Some(document) = documents.next().flatten() {
                    self.controls.push(Control { lsn: placed.lsn, stamp: placed.stamp, document });
                }
            }
            if placed.entry.kind == RecordKind::Rollback {
                let document = rollback::document(placed.entry.start);
                self.controls.push(Control { lsn: placed.lsn, stamp: placed.stamp, document });
            }
            self.add(Item {
                start: placed.entry.start,
                sectors: placed.entry.sectors,
                lsn: placed.lsn,
                offset: placed.offset as u32,
                stored: placed.entry.stored,
                stamp_delta: placed.entry.stamp_delta,
                kind: placed.entry.kind,
            });
        }
    }

    /// Adds a *damaged* entry for all sectors that a volume can have at the first of the lost LSNs `lsn..=upto`. Its stamp is that of the record before it, else `stamp`.
    pub fn push_lost(&mut self, lsn: u64, upto: u64, stamp: u64) {
        let stamp = self.last.map_or(stamp, |(_, stamp)| stamp);
        self.first.get_or_insert((lsn, stamp));
        self.last = Some((upto, stamp));
        let kind = RecordKind::Damaged;
        self.add(Item { start: 0, sectors: SECTORS_MAX, lsn, offset: 0, stored: 0, stamp_delta: 0, kind });
    }

    /// Adds an entry of a compacted segment; `document` is that of a control record, None was damaged.
    pub fn push_row(&mut self, row: &Row, document: Option<Vec<u8>>) {
        let (start, sectors, kind) = (row.start, row.sectors, row.kind);
        let document = if kind == RecordKind::Rollback { Some(rollback::document(start)) } else { document };
        self.controls.extend(document.map(|document| Control { lsn: row.lsn, stamp: row.stamp, document }));
        let (offset, stored) = (row.offset as u32, row.stored);
        self.add(Item { start, sectors, lsn: row.lsn, offset, stored, stamp_delta: 0, kind });
    }

    pub fn add_activity(&mut self, activity: Activity) {
        self.tally.add(activity);
    }

    /// (LSN, stamp) of the range that a compacted segment covers.
    pub fn set_bounds(&mut self, first: (u64, u64), last: (u64, u64)) {
        (self.first, self.last) = (Some(first), Some(last));
    }

    fn add(&mut self, item: Item) {
        let index = self.items.len() as u32;
        self.items.push(item);
        if !item.kind.covers() {
            return;
        }
        let (first, last) = (item.start / LEAF_SECTORS, (item.start + item.sectors - 1) / LEAF_SECTORS);
        if last - first >= CHAINS_MAX {
            self.wide.push(index);
            return;
        }
        for leaf in first..=last {
            let head = self.chains.entry(leaf).or_insert(END);
            self.links.push(Link { item: index, next: *head });
            *head = (self.links.len() - 1) as u32;
        }
    }

    fn count(&mut self, entry: &crate::journal::batch::Entry, lsn: u64, stamp: u64) {
        self.first.get_or_insert((lsn, stamp));
        self.last = Some((lsn, stamp));
        let (kind, continues, sectors, stored) = (entry.kind, entry.continues, entry.sectors, entry.stored);
        self.tally.count(Counted { stamp, kind, continues, sectors, stored });
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes of memory that it takes, about.
    pub fn bytes(&self) -> usize {
        use std::mem::size_of;
        self.items.capacity() * size_of::<Item>()
            + self.links.capacity() * size_of::<Link>()
            + self.chains.capacity() * 17
            + self.batches.capacity() * size_of::<BatchMark>()
            + self.flush_points.capacity() * 8
            + self.controls.iter().map(|c| c.document.len() + size_of::<Control>()).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// (LSN, stamp) of the first record.
    pub fn first(&self) -> Option<(u64, u64)> {
        self.first
    }

    pub fn last(&self) -> Option<(u64, u64)> {
        self.last
    }

    pub fn batches(&self) -> &[BatchMark] {
        &self.batches
    }

    /// Items in the batch with this index and before.
    pub fn items_before(&self, batch: usize) -> u32 {
        self.batches[batch].first_item
    }

    pub fn activity(&self) -> impl Iterator<Item = Activity> + '_ {
        self.tally.rows()
    }

    /// Appends every version that overlaps `range` on `path`, in no order.
    pub fn collect(&self, (start, end): (u64, u64), path: &Path, out: &mut Vec<Version>) {
        if end > (start / LEAF_SECTORS + 1) * LEAF_SECTORS {
            let wanted = |v: &Version| path.contains(v.lsn) && v.overlaps(start, end);
            out.extend(self.versions().filter(wanted));
            return;
        }
        let mut take = |index: u32| {
            let version = self.version(&self.items[index as usize]);
            if path.contains(version.lsn) && version.overlaps(start, end) {
                out.push(version);
            }
        };
        self.wide.iter().for_each(|&index| take(index));
        let mut at = self.chains.get(&(start / LEAF_SECTORS)).copied().unwrap_or(END);
        while at != END {
            let link = self.links[at as usize];
            take(link.item);
            at = link.next;
        }
    }

    /// Appends what the items with these numbers cover of `range` on `path`, in no order.
    pub fn covered(&self, items: Range<usize>, (start, end): (u64, u64), path: &Path, out: &mut Vec<(u64, u64)>) {
        let items = self.items.get(items.start..items.end.min(self.items.len())).unwrap_or_default();
        let wanted = |item: &&Item| {
            item.kind.covers() && item.start < end && start < item.start + item.sectors && path.contains(item.lsn)
        };
        let clipped = |item: &Item| (item.start.max(start), (item.start + item.sectors).min(end));
        out.extend(items.iter().filter(wanted).map(clipped));
    }

    /// Every version, in the order of LSNs.
    pub fn versions(&self) -> impl Iterator<Item = Version> + '_ {
        self.items.iter().filter(|item| item.kind.covers()).map(|item| self.version(item))
    }

    fn version(&self, item: &Item) -> Version {
        let place = match item.kind {
            RecordKind::Data => Place::Data {
                segment: self.segment,
                offset: item.offset,
                stored: item.stored,
                skip: 0,
                record_sectors: item.sectors as u8,
            },
            RecordKind::Damaged => Place::Damaged,
            _ => Place::Zero,
        };
        Version { start: item.start, sectors: item.sectors, lsn: item.lsn, place }
    }

    /// The largest LSN whose stamp is at or before `stamp`, with its stamp.
    pub fn at_stamp(&self, stamp: u64) -> Option<(u64, u64)> {
        let batch = self.batches.partition_point(|b| b.base_stamp <= stamp).checked_sub(1)?;
        let stamps = self.stamps(batch);
        stamps.take_while(|&(_, s)| s <= stamp).last()
    }

    /// The stamp of a record; None if this table has none of that number.
    pub fn stamp_of(&self, lsn: u64) -> Option<u64> {
        let batch = self.batches.partition_point(|b| b.first_lsn <= lsn).checked_sub(1)?;
        self.stamps(batch).find(|&(l, _)| l == lsn).map(|(_, s)| s)
    }

    fn stamps(&self, batch: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.stamped(batch).map(|(item, stamp)| (item.lsn, stamp))
    }

    fn stamped(&self, batch: usize) -> impl Iterator<Item = (&Item, u64)> + '_ {
        let mark = self.batches[batch];
        let end = self.batches.get(batch + 1).map_or(self.items.len(), |next| next.first_item as usize);
        let items = &self.items[mark.first_item as usize..end];
        // What stands for lost records has no stamp.
        let real = items.iter().filter(|item| item.kind != RecordKind::Damaged);
        real.map(move |item| (item, mark.base_stamp.saturating_add(u64::from(item.stamp_delta))))
    }
}
