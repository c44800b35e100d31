//! What versions cover, in the order of sectors: for who asks where something was written, not what.
//!
//! Invariants: a stream ascends by start and stays inside its range; of a segment, or of a merged run in the place of many, one index block at a time is in memory. Streams that were made of one
//! [`Tables`] are of one moment: a segment that compaction takes away meanwhile says Gone.

use std::ops::Range;
use std::sync::Arc;

use super::map::{Index, Tables};
use super::merged::{Merged, Top};
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

/// The index blocks that are still to come, ascending by start.
struct Walk {
    blocks: Blocks,
    range: (u64, u64),
    path: Path,
}

enum Blocks {
    Segment(Arc<Sealed>, Arc<Run>, Range<usize>),
    Merged(Arc<Merged>, Arc<Top>, std::vec::IntoIter<u64>),
}

impl Blocks {
    /// The versions of the next block that reaches into `range`. Gone if the file cannot be used, and others say what it said.
    fn next(&mut self, index: &Index, range: (u64, u64)) -> Result<Option<Vec<Version>>> {
        // Files are not kept open: there may be more of them than descriptors.
        match self {
            Blocks::Segment(sealed, run, blocks) => {
                let Some(block) = blocks.find(|&block| run.fences[block].overlaps(range)) else { return Ok(None) };
                let file = index.files.get(sealed.item.id.0);
                file.and_then(|file| run.read_block(&*file, block)).map(Some).map_err(|error| {
                    if error.kind != Kind::Corrupt {
                        return error;
                    }
                    sealed.distrust(&index.files, &error.message);
                    Error::new(Kind::Gone, error.message)
                })
            }
            Blocks::Merged(merged, top, blocks) => {
                let Some(block) = blocks.next() else { return Ok(None) };
                let versions = merged.read_block(&index.files, top, block);
                versions.map(Some).map_err(|error| index.run_failed(merged, error))
            }
        }
    }
}

impl Spans {
    /// Of spans in any order.
    pub fn of(mut spans: Vec<(u64, u64)>) -> Spans {
        spans.sort_unstable();
        Spans { ready: merged(spans.into_iter()).into_iter(), walk: None }
    }

    /// Of blocks of a segment's footer.
    pub fn of_segment(
        sealed: Arc<Sealed>,
        run: Arc<Run>,
        blocks: Range<usize>,
        range: (u64, u64),
        path: &Path,
    ) -> Spans {
        Spans::of_blocks(Blocks::Segment(sealed, run, blocks), range, path)
    }

    fn of_blocks(blocks: Blocks, range: (u64, u64), path: &Path) -> Spans {
        Spans { ready: Vec::new().into_iter(), walk: Some(Walk { blocks, range, path: path.clone() }) }
    }

    /// The next one that ends behind `covered`. Gone if the segment must be asked anew.
    pub fn next_behind(&mut self, index: &Index, covered: u64) -> Result<Option<(u64, u64)>> {
        loop {
            if let Some(span) = self.ready.find(|span| span.1 > covered) {
                return Ok(Some(span));
            }
            let Some(Walk { blocks, range: (start, end), path }) = &mut self.walk else { return Ok(None) };
            let Some(versions) = blocks.next(index, (covered.max(*start), *end))? else { return Ok(None) };
            let wanted = |v: &&Version| v.overlaps(*start, *end) && path.contains(v.lsn);
            let clipped = |v: &Version| (v.start.max(*start), v.end().min(*end));
            self.ready = merged(versions.iter().filter(wanted).map(clipped)).into_iter();
        }
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
        let meets = |s: &&Arc<Sealed>| path.meets(s.item.first_lsn.0, s.item.last_lsn.0);
        let mut said: Vec<(u64, u64)> = Vec::new();
        for run in tables.runs.iter().filter(|run| run.is_usable()) {
            let (first, last) = (run.item.first_lsn.0, run.item.last_lsn.0);
            let below = tables.sealed.within(first, last);
            // It has the versions of all of them.
            if 2 * below.iter().filter(meets).count() > below.len() {
                self.stream_run(run, range, path, &mut streams)?;
                said.push((first, last));
            }
        }
        let covered = |s: &Sealed| said.iter().any(|run| run.0 <= s.item.first_lsn.0 && s.item.last_lsn.0 <= run.1);
        for sealed in tables.sealed.iter().filter(meets).filter(|s| !covered(s)) {
            sealed.stream(&self.files, range, path, &mut streams)?;
        }
        Ok(streams)
    }

    fn stream_run(&self, run: &Arc<Merged>, range: (u64, u64), path: &Path, out: &mut Vec<Spans>) -> Result<()> {
        let (top, mut narrow) = run.near(&self.files, range).map_err(|error| self.run_failed(run, error))?;
        let wide = narrow.split_off(narrow.partition_point(|&block| block < top.shape.narrow));
        for blocks in [narrow, wide].into_iter().filter(|blocks| !blocks.is_empty()) {
            out.push(Spans::of_blocks(Blocks::Merged(run.clone(), top.clone(), blocks.into_iter()), range, path));
        }
        Ok(())
    }

    /// Gone if the run is not asked again, else what went wrong.
    fn run_failed(&self, run: &Merged, error: Error) -> Error {
        run.fault(&error, &self.files).into_iter().for_each(|sentence| self.faults.note(sentence));
        if run.is_usable() {
            return error;
        }
        Error::new(Kind::Gone, error.message)
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
