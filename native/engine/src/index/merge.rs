//! Merging: which neighbours become one run, and the bytes of that run, made as a stream.
//!
//! Memory while merging: of each input two reads of 64 KiB and what they decode to, [`run::LOOK_AHEAD`] versions, and 24 bytes for each block of the output
//! (0.09 bytes an entry).

use std::sync::Arc;

use super::files::Files;
use super::merged::{self, Head, Merged, Shape};
use super::run;
use super::sealed::{Sealed, SealedSet};
use super::stream::{Cursor, Encoder, Merge};
use crate::error::{Kind, Result};
use crate::units::PAGE;

/// What is merged: a sealed segment's footer (level 0), or a merged run.
#[derive(Clone)]
pub enum Unit {
    Segment(Arc<Sealed>),
    Run(Arc<Merged>),
}

impl Unit {
    pub fn level(&self) -> u32 {
        match self {
            Unit::Segment(_) => 0,
            Unit::Run(run) => run.item.level,
        }
    }

    /// Bytes that its index takes on disk; what is merged from it takes no more, but for the rest of a block.
    pub fn bytes(&self) -> u64 {
        match self {
            Unit::Segment(sealed) => sealed.item.file_bytes.saturating_sub(sealed.item.footer_offset),
            Unit::Run(run) => run.item.file_bytes,
        }
    }

    /// First and last LSN.
    pub fn lsns(&self) -> (u64, u64) {
        match self {
            Unit::Segment(sealed) => (sealed.item.first_lsn.0, sealed.item.last_lsn.0),
            Unit::Run(run) => (run.item.first_lsn.0, run.item.last_lsn.0),
        }
    }

    /// Reads all of it. If it is damaged it is passed over from now on; a sentence that says so.
    pub fn find_damage(&self, files: &Files) -> Result<Option<String>> {
        let read = || -> Result<()> {
            for wide in [false, true] {
                let mut cursor = self.cursor(files, wide)?;
                while cursor.advance()?.is_some() {}
            }
            Ok(())
        };
        match (read(), self) {
            (Ok(()), _) => Ok(None),
            (Err(e), _) if e.kind != Kind::Corrupt => Err(e),
            (Err(e), Unit::Run(run)) => Ok(run.fault(&e, files)),
            (Err(e), Unit::Segment(sealed)) => {
                sealed.distrust(files, &e.message);
                Ok(None)
            }
        }
    }

    fn segments(&self, files: &Files) -> Result<Vec<u32>> {
        match self {
            Unit::Segment(sealed) => sealed.data_segments(files),
            Unit::Run(run) => Ok(run.top(files)?.segments.clone()),
        }
    }

    pub fn cursor(&self, files: &Files, wide: bool) -> Result<Cursor> {
        match self {
            Unit::Segment(sealed) => sealed.cursor(files, wide),
            Unit::Run(run) => run.cursor(files, wide),
        }
    }
}

/// The units that lookups ask, ascending: runs, and the segments that no run covers.
pub fn units(sealed: &[Arc<Sealed>], runs: &[Arc<Merged>]) -> Vec<Unit> {
    let covered = |first: u64, last: u64| runs.iter().any(|r| r.item.first_lsn.0 <= first && last <= r.item.last_lsn.0);
    let uncovered = sealed.iter().filter(|s| !covered(s.item.first_lsn.0, s.item.last_lsn.0));
    let mut units: Vec<Unit> = uncovered.cloned().map(Unit::Segment).collect();
    units.extend(runs.iter().cloned().map(Unit::Run));
    units.sort_by_key(Unit::lsns);
    units
}

/// What to read for `unit`: itself or, where compaction replaced segments that it names, the segments in its place.
pub fn expand(unit: &Unit, files: &Files, sealed: &SealedSet) -> Result<Vec<Unit>> {
    match unit {
        Unit::Run(run) if run.names(files, sealed)?.1 > 0 => {
            let (first, last) = unit.lsns();
            Ok(sealed.within(first, last).iter().cloned().map(Unit::Segment).collect())
        }
        _ => Ok(vec![unit.clone()]),
    }
}

/// The oldest `fan` neighbours of one level, or None; `levels` of the units, oldest first. A unit that has a newer one of a higher level can get no more
/// neighbours of its own level (compaction made it), and counts as of that level.
pub fn choose(levels: &[u32], fan: usize) -> Option<(std::ops::Range<usize>, u32)> {
    let mut effective = levels.to_vec();
    for i in (1..effective.len()).rev() {
        effective[i - 1] = effective[i - 1].max(effective[i]);
    }
    let mut first = 0;
    while first < effective.len() {
        let level = effective[first];
        let end = first + effective[first..].iter().take_while(|&&l| l == level).count();
        if end - first >= fan {
            return Some((first..first + fan, level + 1));
        }
        first = end;
    }
    None
}

/// The bytes of the run over `inputs`, block by block into `sink`; how many there are. `lsns`: first and last LSN that it covers.
pub fn write(
    head: &Head,
    lsns: (u64, u64),
    inputs: &[Unit],
    files: &Files,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let mut segments: Vec<u32> = Vec::new();
    for unit in inputs {
        segments.extend(unit.segments(files)?);
    }
    segments.sort_unstable();
    segments.dedup();
    let mut encoder = Encoder::new(segments.clone(), head.nonce);
    let mut entries = 0;
    let mut narrow = 0;
    sink(&merged::header(head))?;
    for wide in [false, true] {
        let cursors: Result<Vec<Cursor>> = inputs.iter().map(|unit| unit.cursor(files, wide)).collect();
        let mut merge = Merge::new(cursors?)?;
        while let Some(version) = merge.advance()? {
            encoder.push(version, sink)?;
            entries += 1;
        }
        encoder.finish(sink)?;
        if !wide {
            narrow = encoder.fences.len() as u64;
        }
    }
    let blocks = encoder.fences.len() as u64;
    let shape = Shape { narrow, wide: blocks - narrow, entries, first_lsn: lsns.0, last_lsn: lsns.1 };
    let end = PAGE + blocks * run::BLOCK_BYTES as u64;
    let tail = merged::tail(&shape, &encoder.fences, &segments, end, head.nonce);
    sink(&tail)?;
    Ok(end + tail.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_neighbours_of_a_level_are_merged() {
        assert_eq!(choose(&[], 3), None);
        assert_eq!(choose(&[0, 0], 3), None);
        assert_eq!(choose(&[0, 0, 0, 0], 3), Some((0..3, 1)));
        assert_eq!(choose(&[1, 1, 0, 0], 3), None);
        assert_eq!(choose(&[1, 1, 1, 0, 0], 3), Some((0..3, 2)));
        assert_eq!(choose(&[2, 1, 0, 0, 0], 3), Some((2..5, 1)));
    }

    #[test]
    fn what_compaction_left_behind_is_merged_with_its_newer_neighbours() {
        assert_eq!(choose(&[0, 0, 1, 0], 3), Some((0..3, 2)));
        assert_eq!(choose(&[0, 2, 1, 1, 0], 3), None);
    }

    /// Appending alone: never more than `fan - 1` units a level, and each segment is merged once a level.
    #[test]
    fn units_stay_few() {
        let (mut levels, fan, mut merged) = (Vec::new(), 8, 0u64);
        let mut sizes: Vec<u64> = Vec::new();
        for _ in 0..8u64.pow(4) {
            levels.push(0);
            sizes.push(1);
            while let Some((range, level)) = choose(&levels, fan) {
                let sum = sizes[range.clone()].iter().sum();
                merged += sum;
                levels.splice(range.clone(), [level]);
                sizes.splice(range, [sum]);
            }
            assert!((0..5).all(|level| levels.iter().filter(|&&l| l == level).count() < fan));
        }
        assert_eq!((sizes, merged), (vec![4096], 4 * 4096));
    }
}
