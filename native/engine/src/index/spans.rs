//! What versions cover, in the order of sectors: for who asks where something was written, not what.
//!
//! Invariants: a stream ascends by start and stays inside its range; of a segment one index block at a time is in memory. Streams that were made of one
//! [`Tables`] are of one moment: a segment that compaction takes away meanwhile says Gone.

use std::ops::Range;
use std::sync::Arc;

use super::map::{Index, Tables};
use super::run::Run;
use super::sealed::Sealed;
use super::{Version, LEAF_SECTORS};
use crate::error::{Error, Kind, Result};
use crate::path::Path;

/// Ranges of at most this many leaves ask the active memtable leaf by leaf; longer ones pass over its entries.
const LEAVES_ASKED_MAX: u64 = 16;
/// Entries of the active memtable that are looked at under the lock of the index at a time.
const SLICE: usize = 8192;

/// `start..end` in sectors, ascending by start.
pub struct Spans {
    ready: std::vec::IntoIter<(u64, u64)>,
    walk: Option<Walk>,
}

/// The blocks of a run that are still to come.
struct Walk {
    sealed: Arc<Sealed>,
    run: Arc<Run>,
    blocks: Range<usize>,
    range: (u64, u64),
    path: Path,
}

impl Spans {
    /// Of spans in any order.
    pub fn of(mut spans: Vec<(u64, u64)>) -> Spans {
        spans.sort_unstable();
        Spans { ready: merged(spans.into_iter()).into_iter(), walk: None }
    }

    pub fn of_blocks(
        sealed: Arc<Sealed>,
        run: Arc<Run>,
        blocks: Range<usize>,
        range: (u64, u64),
        path: &Path,
    ) -> Spans {
        let walk = Walk { sealed, run, blocks, range, path: path.clone() };
        Spans { ready: Vec::new().into_iter(), walk: Some(walk) }
    }

    /// The next one that ends behind `covered`. Gone if the segment must be asked anew.
    pub fn next_behind(&mut self, index: &Index, covered: u64) -> Result<Option<(u64, u64)>> {
        loop {
            if let Some(span) = self.ready.find(|span| span.1 > covered) {
                return Ok(Some(span));
            }
            let Some(walk) = &mut self.walk else { return Ok(None) };
            match walk.next_block(index, covered)? {
                Some(spans) => self.ready = spans.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

impl Walk {
    fn next_block(&mut self, index: &Index, covered: u64) -> Result<Option<Vec<(u64, u64)>>> {
        let (start, end) = self.range;
        let rest = (start.max(covered), end);
        let fences = &self.run.fences;
        let Some(block) = self.blocks.find(|&block| fences[block].overlaps(rest)) else { return Ok(None) };
        // Not kept open: there may be more segments than descriptors.
        let file = index.files.get(self.sealed.item.id.0);
        let versions = match file.and_then(|file| self.run.read_block(&*file, block)) {
            Err(e) if e.kind == Kind::Corrupt => {
                self.sealed.distrust(&index.files, &e.message);
                return Err(Error::new(Kind::Gone, e.message));
            }
            other => other?,
        };
        let wanted = |v: &&Version| v.overlaps(start, end) && self.path.contains(v.lsn);
        let clipped = |v: &Version| (v.start.max(start), v.end().min(end));
        Ok(Some(merged(versions.iter().filter(wanted).map(clipped))))
    }
}

/// Neighbours as one; ascending by start.
fn merged(spans: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, end) in spans {
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

impl Index {
    /// What was written on `path` in `range`. Gone if the tables moved on: take them anew.
    pub fn stream(&self, tables: &Tables, range: (u64, u64), path: &Path) -> Result<Vec<Spans>> {
        let mut covered = Vec::new();
        self.covered_by_active(tables, range, path, &mut covered)?;
        for table in &tables.frozen {
            table.covered(0..table.len(), range, path, &mut covered);
        }
        let mut streams = vec![Spans::of(covered)];
        for sealed in tables.sealed.iter().filter(|s| path.meets(s.item.first_lsn.0, s.item.last_lsn.0)) {
            sealed.stream(&self.files, range, path, &mut streams)?;
        }
        Ok(streams)
    }

    fn covered_by_active(
        &self,
        tables: &Tables,
        range: (u64, u64),
        path: &Path,
        out: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let leaves = range.0 / LEAF_SECTORS..range.1.div_ceil(LEAF_SECTORS);
        if leaves.end - leaves.start <= LEAVES_ASKED_MAX {
            let mut versions = Vec::new();
            for leaf in leaves {
                let part = (range.0.max(leaf * LEAF_SECTORS), range.1.min((leaf + 1) * LEAF_SECTORS));
                self.with_active(|table| {
                    table.collect(part, path, &mut versions);
                    still(table.segment, tables)
                })?;
            }
            out.extend(versions.iter().map(|v| (v.start.max(range.0), v.end().min(range.1))));
            return Ok(());
        }
        let mut known = 0;
        while self.with_active(|table| {
            table.covered(known..known + SLICE, range, path, out);
            still(table.segment, tables)?;
            Ok::<_, Error>(known + SLICE < table.len())
        })? {
            known += SLICE;
        }
        Ok(())
    }
}

fn still(active: u32, tables: &Tables) -> Result<()> {
    if active == tables.active {
        return Ok(());
    }
    Err(Error::new(Kind::Gone, "the writer went on to another segment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_and_adjoining_spans_are_one() {
        assert_eq!(merged([(0, 4), (2, 3), (4, 8), (9, 10)].into_iter()), [(0, 8), (9, 10)]);
    }
}
