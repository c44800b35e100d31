//! Which records an instant is made of (docs/decisions/0005-history.md, "Lineage").
//!
//! Invariants: the intervals of a path are ascending, disjoint and not empty; of two records on a path the one with the larger LSN is later.
//! A rollback is a branch `(n, to)`: what lies in `(to, n]` is not on the path of any later LSN, unless one goes back to it.

use std::sync::Arc;

/// Intervals `(after, upto]` of LSNs, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    intervals: Arc<[(u64, u64)]>,
}

impl Path {
    /// The records `(after, upto]`.
    pub fn between(after: u64, upto: u64) -> Path {
        Path { intervals: if after < upto { Arc::new([(after, upto)]) } else { Arc::new([]) } }
    }

    pub fn contains(&self, lsn: u64) -> bool {
        let at = self.intervals.partition_point(|&(_, upto)| upto < lsn);
        self.intervals.get(at).is_some_and(|&(after, _)| after < lsn)
    }

    /// True if the state at `lsn` is a part of this path: what a checkpoint there says holds for it. (A rollback is not on its own path, but what follows it is.)
    pub fn passes(&self, lsn: u64) -> bool {
        let at = self.intervals.partition_point(|&(_, upto)| upto < lsn);
        self.contains(lsn) || self.intervals.get(at).is_some_and(|&(after, _)| after == lsn)
    }

    /// The largest LSN at or below `lsn` whose state is a part of this path.
    pub fn floor(&self, lsn: u64) -> Option<u64> {
        let at = self.intervals.partition_point(|&(after, _)| after < lsn);
        at.checked_sub(1).map(|i| self.intervals[i].1.min(lsn))
    }

    /// True if a record in `first..=last` may be on the path.
    pub fn meets(&self, first: u64, last: u64) -> bool {
        let at = self.intervals.partition_point(|&(_, upto)| upto < first);
        self.intervals.get(at).is_some_and(|&(after, _)| after < last)
    }

    /// The part of it above an LSN.
    pub fn above(&self, lsn: u64) -> Path {
        if self.intervals.first().is_none_or(|&(after, _)| after >= lsn) {
            return self.clone();
        }
        let part = self.intervals.iter().filter(|&&(_, upto)| upto > lsn).map(|&(after, upto)| (after.max(lsn), upto));
        Path { intervals: part.collect() }
    }

    /// The part of it at or below an LSN.
    pub fn upto(&self, lsn: u64) -> Path {
        let part =
            self.intervals.iter().filter(|&&(after, _)| after < lsn).map(|&(after, upto)| (after, upto.min(lsn)));
        Path { intervals: part.collect() }
    }

    /// The largest LSN that can be on it; 0 if nothing can.
    pub fn head(&self) -> u64 {
        self.intervals.last().map_or(0, |&(_, upto)| upto)
    }

    pub fn intervals(&self) -> &[(u64, u64)] {
        &self.intervals
    }

    /// What is on exactly one of the two, ascending: the records that make two instants differ.
    pub fn difference(&self, other: &Path) -> Path {
        let mut edges: Vec<u64> =
            self.intervals.iter().chain(other.intervals.iter()).flat_map(|&(after, upto)| [after, upto]).collect();
        edges.sort_unstable();
        // Every edge flips membership of one of the two, so an edge that both have flips nothing.
        let mut flips: Vec<u64> = Vec::new();
        for edge in edges {
            if flips.last() == Some(&edge) {
                flips.pop();
            } else {
                flips.push(edge);
            }
        }
        Path { intervals: flips.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect() }
    }
}

/// All rollbacks of a timeline, and the branch that a clone begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// (LSN of the rollback, LSN that it goes back to), ascending.
    branches: Vec<(u64, u64)>,
}

impl Lineage {
    pub fn new(mut branches: Vec<(u64, u64)>) -> Lineage {
        branches.sort_unstable();
        branches.dedup();
        Lineage { branches }
    }

    /// Adds a rollback; its LSN is above all others'.
    pub fn push(&mut self, lsn: u64, to: u64) {
        debug_assert!(self.branches.last().is_none_or(|&(last, _)| last < lsn) && to < lsn);
        self.branches.push((lsn, to));
    }

    pub fn branches(&self) -> &[(u64, u64)] {
        &self.branches
    }

    /// The records of the state at `lsn`.
    pub fn path(&self, lsn: u64) -> Path {
        let mut intervals = Vec::new();
        let mut upto = lsn;
        let mut known = &self.branches[..];
        loop {
            known = &known[..known.partition_point(|&(n, _)| n <= upto)];
            let Some(&(n, to)) = known.last() else {
                intervals.push((0, upto));
                break;
            };
            intervals.push((n, upto));
            upto = to;
        }
        intervals.retain(|&(after, upto)| after < upto);
        intervals.reverse();
        Path { intervals: intervals.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Follows every record one by one.
    fn slow(branches: &[(u64, u64)], lsn: u64) -> BTreeSet<u64> {
        let mut states: Vec<BTreeSet<u64>> = vec![BTreeSet::new()];
        for n in 1..=lsn {
            let state = match branches.iter().find(|b| b.0 == n) {
                Some(&(_, to)) => states[to as usize].clone(),
                None => states[n as usize - 1].iter().copied().chain([n]).collect(),
            };
            states.push(state);
        }
        states.pop().unwrap_or_default()
    }

    fn members(path: &Path, upto: u64) -> BTreeSet<u64> {
        (1..=upto).filter(|&lsn| path.contains(lsn)).collect()
    }

    #[test]
    fn a_path_is_what_following_every_record_gives() {
        let mut seed = 7u64;
        let mut chance = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let head = 30;
            let mut branches = Vec::new();
            for n in 2..=head {
                if chance(4) == 0 {
                    branches.push((n, chance(n)));
                }
            }
            let lineage = Lineage::new(branches.clone());
            for lsn in 0..=head {
                let path = lineage.path(lsn);
                let expected = slow(&branches, lsn);
                assert_eq!(members(&path, head), expected, "{branches:?} at {lsn}");
                for base in 0..=lsn {
                    let above: BTreeSet<u64> = expected.iter().copied().filter(|&n| n > base).collect();
                    assert_eq!(members(&path.above(base), head), above);
                    assert_eq!(path.above(base).meets(base, base + 3), above.range(base..=base + 3).next().is_some());
                }
                let other = lineage.path(chance(head));
                let differing: BTreeSet<u64> = expected.symmetric_difference(&members(&other, head)).copied().collect();
                assert_eq!(members(&path.difference(&other), head), differing);
            }
        }
    }

    #[test]
    fn ten_thousand_rollbacks_to_one_point_are_two_intervals() {
        let lineage = Lineage::new((1..=10_000).map(|i| (100 + 2 * i, 50)).collect());
        assert_eq!(lineage.path(30_000).intervals(), [(0, 50), (20_100, 30_000)]);
    }
}
