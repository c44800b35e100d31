//! From a time or a number to an instant.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::index::memtable::Memtable;
use crate::index::sealed::Sealed;
use crate::units::{Lsn, Stamp};
use crate::volume::Volume;

/// A state of the volume: the one after the record `lsn` (0: before the first).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    pub lsn: Lsn,
    /// Of the record; of the creation for LSN 0.
    pub stamp: Stamp,
    pub clock_epoch: u32,
    /// Where a time is held by two clock epochs: the LSN in the older one.
    pub other: Option<Lsn>,
}

/// A segment's part of the journal, sealed or not.
pub(crate) struct Stretch {
    pub segment: u32,
    /// (LSN, stamp).
    pub first: (u64, u64),
    pub last: (u64, u64),
    pub clock_epoch: u32,
}

impl Volume {
    /// The newest record, or the creation.
    pub fn latest(&self) -> (Lsn, Stamp) {
        let last = self.stretches().last().map(|stretch| stretch.last);
        last.map_or((Lsn::ZERO, self.created), |(lsn, stamp)| (Lsn(lsn), Stamp(stamp)))
    }

    /// The oldest instant that can be reached.
    pub fn oldest(&self) -> Instant {
        Instant { lsn: Lsn::ZERO, stamp: self.created, clock_epoch: 0, other: None }
    }

    /// NotFound, naming the reachable range, for a number that no record has.
    pub fn instant_of(&self, lsn: Lsn) -> Result<Instant> {
        if lsn == Lsn::ZERO {
            return Ok(self.oldest());
        }
        let stretches = self.stretches();
        let holds = |s: &&Stretch| s.first.0 <= lsn.0 && lsn.0 <= s.last.0;
        let found = match stretches.iter().find(holds) {
            Some(stretch) => self.stamp_in(stretch, lsn.0)?.map(|stamp| (stamp, stretch.clock_epoch)),
            None => None,
        };
        match found {
            Some((stamp, clock_epoch)) => Ok(Instant { lsn, stamp: Stamp(stamp), clock_epoch, other: None }),
            None => Err(self.unreachable(&format!("no record has LSN {lsn}"))),
        }
    }

    /// The state at a time: waits until every record stamped at or before it is visible. NotFound, naming the range, before creation or in the future.
    pub fn instant_at(&self, stamp: Stamp) -> Result<Instant> {
        if stamp < self.created {
            return Err(self.unreachable("the time lies before the volume's creation"));
        }
        let now = || self.storage.now();
        if self.read_only {
            if stamp.0 > now().max(self.ring.clock().1) {
                return Err(self.unreachable("the time lies in the future"));
            }
        } else {
            let given = self.ring.fence_stamp(stamp.0, now).map_err(|e| self.unreachable(&e.message))?;
            self.wait_published(given);
        }
        self.find_stamp(stamp.0)
    }

    fn wait_published(&self, lsn: u64) {
        while !self.ring.wait_done(lsn) {
            if self.ring.try_lead() {
                self.lead();
            }
        }
    }

    fn find_stamp(&self, stamp: u64) -> Result<Instant> {
        let stretches = self.stretches();
        let mut epochs: Vec<u32> = stretches.iter().map(|s| s.clock_epoch).collect();
        epochs.dedup();
        let first_stamp =
            |epoch: u32| stretches.iter().find(|s| s.clock_epoch == epoch).map_or(u64::MAX, |s| s.first.1);
        let holding: Vec<u32> = epochs.iter().copied().filter(|&epoch| first_stamp(epoch) <= stamp).collect();
        let Some((&newest, older)) = holding.split_last() else {
            return Ok(self.oldest());
        };
        let mut found = self.find_in_epoch(&stretches, newest, stamp)?;
        let holds_too = |epoch: &&u32| stretches.iter().filter(|s| s.clock_epoch == **epoch).any(|s| s.last.1 >= stamp);
        if let Some(&other) = older.iter().rev().find(holds_too) {
            found.other = Some(self.find_in_epoch(&stretches, other, stamp)?.lsn);
        }
        Ok(found)
    }

    fn find_in_epoch(&self, stretches: &[Stretch], epoch: u32, stamp: u64) -> Result<Instant> {
        let mut inside = stretches.iter().filter(|s| s.clock_epoch == epoch && s.first.1 <= stamp);
        let Some(stretch) = inside.next_back() else {
            return Ok(self.oldest());
        };
        let found = if stretch.last.1 <= stamp {
            Some(stretch.last)
        } else {
            let files = &self.index.files;
            self.index.ask(stretch.segment, |table| table.at_stamp(stamp), |sealed| sealed.at_stamp(files, stamp))?
        };
        let (lsn, stamp) = found.unwrap_or(stretch.first);
        Ok(Instant { lsn: Lsn(lsn), stamp: Stamp(stamp), clock_epoch: epoch, other: None })
    }

    pub(crate) fn stamp_in(&self, stretch: &Stretch, lsn: u64) -> Result<Option<u64>> {
        if let Some(&(_, stamp)) = [stretch.first, stretch.last].iter().find(|known| known.0 == lsn) {
            return Ok(Some(stamp));
        }
        let files = &self.index.files;
        self.index.ask(stretch.segment, |table| table.stamp_of(lsn), |sealed| sealed.stamp_of(files, lsn))
    }

    /// Ascending by LSN.
    pub(crate) fn stretches(&self) -> Vec<Stretch> {
        // From the active table up: what moves on meanwhile is then seen twice, never missed.
        let active = self.index.with_active(stretch_of);
        let tables = self.index.frozen();
        let sealed = self.index.sealed();
        let of_sealed = |s: &Arc<Sealed>| Stretch {
            segment: s.item.id.0,
            first: (s.item.first_lsn.0, s.item.first_stamp),
            last: (s.item.last_lsn.0, s.item.last_stamp),
            clock_epoch: s.item.clock_epoch,
        };
        let mut all: Vec<Stretch> = sealed.iter().map(of_sealed).collect();
        all.extend(tables.iter().filter_map(|table| stretch_of(table)));
        all.extend(active);
        all.sort_by_key(|s| s.first.0);
        all.dedup_by_key(|s| s.segment);
        all
    }

    fn unreachable(&self, why: &str) -> Error {
        let (lsn, stamp) = self.latest();
        let (first, created) = (Lsn::ZERO, self.created);
        let range = format!("LSN {first} to {lsn}, stamps {} to {}", created.0, stamp.0);
        Error::new(Kind::NotFound, format!("{why}; what can be reached: {range}"))
    }
}

fn stretch_of(table: &Memtable) -> Option<Stretch> {
    let (first, last) = (table.first()?, table.last()?);
    Some(Stretch { segment: table.segment, first, last, clock_epoch: table.clock_epoch })
}
