//! Which records an instant is made of (docs/decisions/0005-history.md, "Lineage").
//!
//! Invariants: the intervals of a path are ascending, disjoint and not empty; of two records on a path the one with the larger LSN is later.
//! A rollback is a branch `(n, to)`: what lies in `(to, n]` is not on the path of any later LSN, unless one goes back to it.

use std::sync::Arc;

/// Intervals `(after, upto]` of LSNs, ascending. Cheap to clone and to cut off below: a path may have as many intervals as there were rollbacks.
#[derive(Clone, Debug)]
pub struct Path {
    /// Those from `skip` on, as far as they lie above `over`.
    all: Arc<[(u64, u64)]>,
    skip: usize,
    over: u64,
}

impl PartialEq for Path {
    fn eq(&self, other: &Path) -> bool {
        self.intervals() == other.intervals()
    }
}

impl Eq for Path {}

impl FromIterator<(u64, u64)> for Path {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(intervals: T) -> Path {
        Path { all: intervals.into_iter().collect(), skip: 0, over: 0 }
    }
}

impl Path {
    /// The records `(after, upto]`.
    pub fn between(after: u64, upto: u64) -> Path {
        Some((after, upto)).into_iter().filter(|&(after, upto)| after < upto).collect()
    }

    fn part(&self) -> &[(u64, u64)] {
        &self.all[self.skip..]
    }

    /// Where the first interval that ends at or above `lsn` begins.
    fn begin(&self, lsn: u64) -> Option<u64> {
        let part = self.part();
        // Most of a long history lies before the first rollback.
        let at = if part.first()?.1 >= lsn { 0 } else { part.partition_point(|&(_, upto)| upto < lsn) };
        part.get(at).map(|&(after, _)| after.max(self.over))
    }

    pub fn contains(&self, lsn: u64) -> bool {
        self.begin(lsn).is_some_and(|after| after < lsn)
    }

    /// True if the state at `lsn` is a part of this path: what a checkpoint there says holds for it. (A rollback is not on its own path, but what follows it is.)
    pub fn passes(&self, lsn: u64) -> bool {
        self.begin(lsn).is_some_and(|after| after <= lsn)
    }

    /// The largest LSN at or below `lsn` whose state is a part of this path.
    pub fn floor(&self, lsn: u64) -> Option<u64> {
        let at = self.part().partition_point(|&(after, _)| after.max(self.over) < lsn);
        at.checked_sub(1).map(|i| self.part()[i].1.min(lsn))
    }

    /// True if a record in `first..=last` may be on the path.
    pub fn meets(&self, first: u64, last: u64) -> bool {
        self.begin(first).is_some_and(|after| after < last)
    }

    /// The part of it above an LSN.
    pub fn above(&self, lsn: u64) -> Path {
        let skip = self.skip + self.part().partition_point(|&(_, upto)| upto <= lsn);
        Path { all: self.all.clone(), skip, over: self.over.max(lsn) }
    }

    /// The part of it at or below an LSN.
    pub fn upto(&self, lsn: u64) -> Path {
        let part = self.intervals().into_iter().filter(|&(after, _)| after < lsn);
        part.map(|(after, upto)| (after, upto.min(lsn))).collect()
    }

    /// The largest LSN that can be on it; 0 if nothing can.
    pub fn head(&self) -> u64 {
        self.part().last().map_or(0, |&(_, upto)| upto)
    }

    pub fn intervals(&self) -> Vec<(u64, u64)> {
        self.part().iter().map(|&(after, upto)| (after.max(self.over), upto)).collect()
    }

    /// What is on exactly one of the two, ascending: the records that make two instants differ.
    pub fn difference(&self, other: &Path) -> Path {
        let mut edges: Vec<u64> =
            self.intervals().into_iter().chain(other.intervals()).flat_map(|(after, upto)| [after, upto]).collect();
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
        flips.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
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
            known = upto_lsn(known, upto);
            let Some(&(n, to)) = known.last() else {
                intervals.push((0, upto));
                break;
            };
            intervals.push((n, upto));
            upto = to;
        }
        intervals.retain(|&(after, upto)| after < upto);
        intervals.reverse();
        intervals.into_iter().collect()
    }
}

/// The branches up to an LSN. Looks from the end on, in growing steps: a path goes back from branch to branch, and the next one is mostly near.
fn upto_lsn(branches: &[(u64, u64)], lsn: u64) -> &[(u64, u64)] {
    let mut step = 1;
    while step <= branches.len() && branches[branches.len() - step].0 > lsn {
        step *= 2;
    }
    let from = branches.len().saturating_sub(step);
    &branches[..from + branches[from..].partition_point(|&(n, _)| n <= lsn)]
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
