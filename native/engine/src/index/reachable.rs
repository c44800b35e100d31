//! Which versions some instant still sees (docs/decisions/0005-history.md, "What is reachable").
//!
//! Instants at or above the horizon see the records from there on, which all stay, and what the state at the horizon sees, or the states that later rollbacks go back
//! to. So it is enough to know, for a few *stops* at or below the horizon, who owns which sectors there. Versions are laid over each other in the order of LSNs; the
//! owner of a sector while a stop passes stays. Keeping more is harmless: what is laid over stays laid over.
//!
//! What stays of a version is told as a mask, one bit a sector: of 64 KiB of which all but a block were overwritten, a block stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::files::Files;
use super::sealed::{Sealed, SealedSet};
use super::{Version, LEAF_SECTORS};
use crate::error::Result;
use crate::path::{Lineage, Path};

/// Sectors looked at in one go.
const WINDOW: u64 = 4 * LEAF_SECTORS;

/// Stops on one branch of the timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Of the last stop.
    path: Path,
    /// LSNs on the path, ascending.
    stops: Vec<u64>,
}

impl Branch {
    /// True if a version that counts from `lsn` until before `until` is seen.
    fn sees(&self, lsn: u64, until: u64) -> bool {
        let at = self.stops.partition_point(|&stop| stop < lsn);
        self.stops.get(at).is_some_and(|&stop| stop < until)
    }
}

/// The stops for a horizon and points below it, as far as segments up to `sealed` can tell.
pub fn branches(lineage: &Lineage, horizon: u64, points: &[u64], sealed: u64) -> Vec<Branch> {
    let later = lineage.branches().iter().filter(|&&(n, to)| n > horizon && to < horizon).map(|&(_, to)| to);
    let mut by_start: BTreeMap<u64, Branch> = BTreeMap::new();
    for lsn in points.iter().copied().chain([horizon]).chain(later) {
        // Later records are all kept, and lie over what this path shows.
        let path = lineage.path(lsn).upto(sealed);
        let Some(&(start, stop)) = path.intervals().last() else { continue };
        let branch = by_start.entry(start).or_insert_with(|| Branch { path: path.clone(), stops: Vec::new() });
        if branch.path.head() < stop {
            branch.path = path;
        }
        branch.stops.push(stop);
    }
    let mut branches: Vec<Branch> = by_start.into_values().collect();
    for branch in &mut branches {
        branch.stops.sort_unstable();
        branch.stops.dedup();
    }
    branches
}

const NOBODY: u32 = u32::MAX;
/// Sectors of a version that some stop sees, the first one in the lowest bit. Of a long version (zeros) only that there are any.
pub type Mask = u128;

/// The bits of `start..end`, which lie in the version.
fn bits(version: &Version, start: u64, end: u64) -> Mask {
    if version.sectors > u64::from(Mask::BITS) {
        return Mask::MAX;
    }
    (Mask::MAX >> (u64::from(Mask::BITS) - (end - start))) << (start - version.start)
}

/// A version in a window, and what is known to stay of it.
struct Entry {
    version: Version,
    holder: usize,
    kept: Mask,
}

/// Marks the sectors of the entries that a stop sees in `range`, one cell a sector. Of two that overlap, the later one stands behind.
fn paint_cells(branch: &Branch, range: (u64, u64), entries: &mut [Entry], cells: &mut Vec<u32>) {
    cells.clear();
    cells.resize((range.1 - range.0) as usize, NOBODY);
    for i in 0..entries.len() {
        let version = &entries[i].version;
        let (lsn, start, end) = (version.lsn, version.start.max(range.0), version.end().min(range.1));
        if start >= end || !branch.path.contains(lsn) {
            continue;
        }
        let covered = &mut cells[(start - range.0) as usize..(end - range.0) as usize];
        mark_cells(branch, start, covered, entries, lsn);
        covered.fill(i as u32);
    }
    mark_cells(branch, range.0, cells, entries, u64::MAX);
}

/// Marks what a stop sees of the owners of the cells, the first of which is sector `start`, before `until`.
fn mark_cells(branch: &Branch, start: u64, cells: &[u32], entries: &mut [Entry], until: u64) {
    let mut at = start;
    for run in cells.chunk_by(|a, b| a == b) {
        let from = at;
        at += run.len() as u64;
        if run[0] == NOBODY {
            continue;
        }
        let owner = &mut entries[run[0] as usize];
        if branch.sees(owner.version.lsn, until) {
            owner.kept |= bits(&owner.version, from, at);
        }
    }
}

/// True if of entries sorted by start, any two that overlap stand in the order of their LSNs.
fn later_lies_behind(entries: &[Entry]) -> bool {
    let (mut end, mut newest) = (0, 0);
    for Entry { version, .. } in entries {
        if version.start >= end {
            newest = 0;
        } else if version.lsn < newest {
            return false;
        }
        (end, newest) = (end.max(version.end()), newest.max(version.lsn));
    }
    true
}

/// The same for a range of any length.
fn paint(branch: &Branch, range: (u64, u64), versions: &[&Version], kept: &mut [bool]) {
    // Start → (end, version); disjoint.
    let mut owners: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    for (i, version) in versions.iter().enumerate().filter(|(_, v)| branch.path.contains(v.lsn)) {
        let (start, end) = (version.start.max(range.0), version.end().min(range.1));
        if start >= end {
            continue;
        }
        let first = owners.range(..start).next_back().filter(|(_, &(until, _))| until > start).map(|(&at, _)| at);
        let covered: Vec<(u64, (u64, usize))> =
            owners.range(first.unwrap_or(start)..end).map(|(&at, &owner)| (at, owner)).collect();
        for (at, (until, owner)) in covered {
            owners.remove(&at);
            kept[owner] = kept[owner] || branch.sees(versions[owner].lsn, version.lsn);
            if at < start {
                owners.insert(at, (start, owner));
            }
            if until > end {
                owners.insert(end, (until, owner));
            }
        }
        owners.insert(start, (end, i));
    }
    for &(_, owner) in owners.values() {
        kept[owner] = kept[owner] || branch.sees(versions[owner].lsn, u64::MAX);
    }
}

/// Told of each version on record once: the place of its segment in the set, the version, and what stays of it.
pub type See<'a> = &'a mut dyn FnMut(usize, &Version, Mask) -> Result<()>;

/// Walks the index of sealed segments by address.
pub struct Walk<'a> {
    files: &'a Files,
    branches: &'a [Branch],
    cursors: Vec<Cursor>,
    /// With the places of their segments, ascending by LSN.
    wide: Vec<(Version, usize)>,
    /// Entries that go on behind the window before.
    carried: Vec<Entry>,
    cells: Vec<u32>,
}

impl<'a> Walk<'a> {
    /// Over the segments whose first LSN is at or below `upto`. Long zeros are few: they are compared with each other only, and so rather kept.
    pub fn begin(files: &'a Files, sealed: &SealedSet, upto: u64, branches: &'a [Branch]) -> Result<Walk<'a>> {
        let mut walk =
            Walk { files, branches, cursors: Vec::new(), wide: Vec::new(), carried: Vec::new(), cells: Vec::new() };
        for (place, segment) in sealed.iter().enumerate().take_while(|(_, s)| s.item.first_lsn.0 <= upto) {
            walk.wide.extend(segment.wide_versions(files)?.into_iter().map(|version| (version, place)));
            walk.cursors.push(Cursor::new(segment.clone(), files)?);
        }
        walk.wide.sort_unstable_by_key(|(v, _)| v.lsn);
        Ok(walk)
    }

    pub fn run(mut self, see: See<'_>) -> Result<()> {
        let all: Vec<&Version> = self.wide.iter().map(|(version, _)| version).collect();
        let mut kept = vec![false; all.len()];
        self.branches.iter().for_each(|branch| paint(branch, (0, u64::MAX), &all, &mut kept));
        for ((version, place), kept) in self.wide.iter().zip(kept) {
            see(*place, version, if kept { Mask::MAX } else { 0 })?;
        }
        while let Some(next) = self.next_start() {
            self.window(next / WINDOW * WINDOW, see)?;
        }
        Ok(())
    }

    /// Where the next version that is not done begins.
    fn next_start(&self) -> Option<u64> {
        let carried = self.carried.iter().map(|c| c.version.start);
        carried.chain(self.cursors.iter().filter_map(Cursor::next_start)).min()
    }

    fn window(&mut self, start: u64, see: See<'_>) -> Result<()> {
        // What is carried into a window begins before it.
        let start = self.carried.iter().map(|c| c.version.end() - 1).min().map_or(start, |end| end / WINDOW * WINDOW);
        let end = start + WINDOW;
        let mut entries = self.gather(start, end)?;
        let cells = &mut self.cells;
        self.branches.iter().for_each(|branch| paint_cells(branch, (start, end), &mut entries, cells));
        for done in entries.into_iter().filter(|entry| entry.holder != WIDE) {
            if done.version.end() > end {
                self.carried.push(done);
            } else {
                see(done.holder, &done.version, done.kept)?;
            }
        }
        Ok(())
    }

    /// What lies in the window; of two that overlap, the later one stands behind.
    ///
    /// Segments ascend by LSN, and most overlap of one's own entries is a sector written again from the same start on: most windows need no sorting.
    fn gather(&mut self, start: u64, end: u64) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut carried = std::mem::take(&mut self.carried);
        carried.sort_unstable_by_key(|c| (c.holder, c.version.start, c.version.lsn));
        let mut carried = carried.into_iter().peekable();
        for (holder, cursor) in self.cursors.iter_mut().enumerate() {
            let before = entries.len();
            entries.extend(std::iter::from_fn(|| carried.next_if(|c| c.holder == holder)));
            cursor.take_before(end, self.files, |version| entries.push(Entry { version, holder, kept: 0 }))?;
            if !later_lies_behind(&entries[before..]) {
                entries[before..].sort_unstable_by_key(|entry| entry.version.lsn);
            }
        }
        let over = self.wide.iter().filter(|(version, _)| version.overlaps(start, end));
        let narrow = entries.len();
        entries.extend(over.map(|&(version, _)| Entry { version, holder: WIDE, kept: 0 }));
        if entries.len() > narrow {
            entries.sort_unstable_by_key(|entry| entry.version.lsn);
        }
        Ok(entries)
    }
}

/// In the place of a holder: an entry of `wide`, which was told of already.
const WIDE: usize = usize::MAX;

/// The narrow versions of one segment, by start.
struct Cursor {
    segment: Arc<Sealed>,
    next_block: usize,
    /// Where the next block begins.
    next_fence: Option<u64>,
    /// The block before, of which entries from `at` on are left.
    ready: Vec<Version>,
    at: usize,
}

impl Cursor {
    fn new(segment: Arc<Sealed>, files: &Files) -> Result<Cursor> {
        let next_fence = segment.narrow_start(files, 0)?;
        Ok(Cursor { segment, next_block: 0, next_fence, ready: Vec::new(), at: 0 })
    }

    fn next_start(&self) -> Option<u64> {
        self.ready.get(self.at).map(|v| v.start).or(self.next_fence)
    }

    /// Those that begin before `end`, by start.
    fn take_before(&mut self, end: u64, files: &Files, mut take: impl FnMut(Version)) -> Result<()> {
        while self.next_start().is_some_and(|start| start < end) {
            if self.at == self.ready.len() {
                (self.ready, self.at) = (self.segment.narrow_block(files, self.next_block)?, 0);
                self.next_block += 1;
                self.next_fence = self.segment.narrow_start(files, self.next_block)?;
            }
            let taken = self.ready[self.at..].partition_point(|version| version.start < end);
            self.ready[self.at..self.at + taken].iter().for_each(|&version| take(version));
            self.at += taken;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;

    /// Every sector of every instant, one by one.
    #[test]
    fn what_an_instant_sees_is_kept_and_what_none_sees_is_not() {
        let mut seed = 3u64;
        let mut chance = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let head = 40;
            let mut rollbacks = Vec::new();
            let mut versions = Vec::new();
            for lsn in 1..=head {
                if lsn > 2 && chance(6) == 0 {
                    rollbacks.push((lsn, chance(lsn)));
                } else {
                    let start = chance(20);
                    versions.push(Version { start, sectors: 1 + chance(8), lsn, place: Place::Zero });
                }
            }
            let lineage = Lineage::new(rollbacks);
            let horizon = chance(head) + 1;
            let points: Vec<u64> = (0..chance(4)).map(|_| chance(horizon)).collect();
            let all: Vec<&Version> = versions.iter().filter(|v| v.lsn <= horizon).collect();
            let mut kept = vec![false; all.len()];
            let mut entries: Vec<Entry> = all.iter().map(|&&version| Entry { version, holder: 0, kept: 0 }).collect();
            for branch in branches(&lineage, horizon, &points, u64::MAX) {
                paint(&branch, (0, 100), &all, &mut kept);
                paint_cells(&branch, (0, 100), &mut entries, &mut Vec::new());
            }
            let in_cells: Vec<Mask> = entries.iter().map(|entry| entry.kept).collect();
            let any: Vec<bool> = in_cells.iter().map(|&mask| mask != 0).collect();
            assert_eq!(kept, any);
            let mut seen: Vec<Mask> = vec![0; all.len()];
            for instant in points.iter().copied().chain(horizon..=head) {
                let path = lineage.path(instant);
                for sector in 0..40 {
                    let covers = |v: &&Version| path.contains(v.lsn) && v.overlaps(sector, sector + 1);
                    let owner = versions.iter().filter(covers).max_by_key(|v| v.lsn);
                    if let Some(i) = owner.and_then(|owner| all.iter().position(|v| v.lsn == owner.lsn)) {
                        seen[i] |= 1 << (sector - all[i].start);
                    }
                }
            }
            assert_eq!(in_cells, seen, "{lineage:?} horizon {horizon} points {points:?}");
        }
    }
}
