//! Which instants show what a record wrote: those from its LSN on, until later records have covered all of it.

use crate::error::Result;
use crate::index::map::At;
use crate::index::memtable::Memtable;
use crate::index::{Version, LEAF_SECTORS};
use crate::path::Path;
use crate::units::{Lsn, SECTOR};
use crate::verify::Finding;
use crate::volume::Volume;

/// Instants that show a part of an extent as a record wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The first LSN after which nothing of it is seen any more, on the branch of the record; None: it is seen at the branch's end.
    pub until: Option<Lsn>,
    /// The live volume shows it.
    pub live: bool,
}

impl Volume {
    /// Who sees what the record `lsn` wrote at `start..end`, in sectors.
    pub fn shown(&self, lsn: Lsn, start: u64, end: u64) -> Result<Shown> {
        let live = self.is_live(lsn, start, end)?;
        let lineage = self.index.lineage();
        // The first rollback that goes behind the record ends its branch.
        let left = lineage.branches().iter().find(|&&(n, to)| n > lsn.0 && to < lsn.0).map(|&(n, _)| n);
        let head = left.map_or(u64::MAX, |n| n - 1);
        let covered = self.covered(&lineage.path(head).above(lsn.0), start, end)?;
        Ok(Shown { until: covered.or(left).map(Lsn), live })
    }

    /// The LSN on `path` with which all of `start..end` was written again.
    fn covered(&self, path: &Path, start: u64, end: u64) -> Result<Option<u64>> {
        let mut left = vec![(start, end)];
        for stretch in self.stretches().iter().filter(|s| path.meets(s.first.0, s.last.0)) {
            let of_table = |table: &Memtable| {
                let mut versions = Vec::new();
                table.collect((start, end), path, &mut versions);
                versions
            };
            let mut versions: Vec<Version> = self.index.ask(stretch.segment, of_table, |sealed| {
                let mut versions = Vec::new();
                sealed.collect(&self.index.files, (start, end), path, &mut versions).map(|()| versions)
            })?;
            versions.sort_unstable_by_key(|v| v.lsn);
            for version in versions {
                left = left.into_iter().flat_map(|piece| without(piece, (version.start, version.end()))).collect();
                if left.is_empty() {
                    return Ok(Some(version.lsn));
                }
            }
        }
        Ok(None)
    }

    fn is_live(&self, lsn: Lsn, start: u64, end: u64) -> Result<bool> {
        let mut at = start;
        while at < end {
            let upto = end.min((at / LEAF_SECTORS + 1) * LEAF_SECTORS);
            let mut mapped = Vec::new();
            self.index.resolve(At::Live, at, upto, &mut mapped)?;
            if mapped.iter().any(|extent| extent.lsn == lsn.0) {
                return Ok(true);
            }
            at = upto;
        }
        Ok(false)
    }

    /// Adds to a finding who sees it.
    pub(crate) fn note_shown(&self, finding: &mut Finding) -> Result<()> {
        if let (Some(lsn), Some(offset), Some(bytes)) = (finding.lsn, finding.offset, finding.bytes) {
            let shown = self.shown(lsn, offset / SECTOR, (offset + bytes) / SECTOR)?;
            (finding.until, finding.live) = (shown.until, Some(shown.live));
        }
        Ok(())
    }
}

/// What is left of a range without another.
fn without((start, end): (u64, u64), (from, upto): (u64, u64)) -> impl Iterator<Item = (u64, u64)> {
    [(start, end.min(from)), (start.max(upto), end)].into_iter().filter(|(start, end)| start < end)
}

#[cfg(test)]
mod tests {
    use super::without;

    #[test]
    fn a_hole_leaves_both_sides() {
        let left = |hole| without((10, 20), hole).collect::<Vec<_>>();
        assert_eq!(left((12, 15)), [(10, 12), (15, 20)]);
        assert_eq!(left((0, 15)), [(15, 20)]);
        assert_eq!(left((15, 30)), [(10, 15)]);
        assert_eq!(left((10, 20)), []);
        assert_eq!(left((20, 30)), [(10, 20)]);
        assert_eq!(left((0, 10)), [(10, 20)]);
    }
}
