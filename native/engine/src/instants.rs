//! From a time or a number to an instant.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::index::memtable::Memtable;
use crate::index::sealed::Sealed;
use crate::journal::manifest::PointItem;
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
    pub compacted: bool,
}

impl Volume {
    /// The newest record, or the creation.
    pub fn latest(&self) -> (Lsn, Stamp) {
        let horizon = self.reach.lock().horizon;
        let last = self.stretches().last().map(|stretch| stretch.last).filter(|&(lsn, _)| lsn > horizon.lsn.0);
        last.map_or((horizon.lsn, Stamp(horizon.stamp)), |(lsn, stamp)| (Lsn(lsn), Stamp(stamp)))
    }

    /// The oldest instant that can be reached.
    pub fn oldest(&self) -> Instant {
        instant(self.reach.lock().oldest())
    }

    /// NotFound, naming the reachable range, for a number that no record has or whose instant was given up.
    pub fn instant_of(&self, lsn: Lsn) -> Result<Instant> {
        let (known, horizon) = {
            let reach = self.reach.lock();
            (reach.known(lsn), reach.horizon.lsn)
        };
        if let Some(point) = known {
            return Ok(instant(point));
        }
        if lsn < horizon {
            return Err(self.unreachable(&format!("LSN {lsn} lies before the horizon, and was not kept")));
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

    /// The state at a time: waits until every record stamped at or before it is visible; below the horizon the newest point not after it. NotFound, naming the
    /// range, in the future and before the oldest instant that can be reached.
    pub fn instant_at(&self, stamp: Stamp) -> Result<Instant> {
        // A clone begins with an instant that is older than itself.
        if stamp < self.created.min(self.oldest().stamp) {
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
            return self.oldest_at(stamp);
        };
        let mut found = self.find_in_epoch(&stretches, newest, stamp)?;
        let holds_too = |epoch: &&u32| stretches.iter().filter(|s| s.clock_epoch == **epoch).any(|s| s.last.1 >= stamp);
        if let Some(&other) = older.iter().rev().find(holds_too) {
            found.other = self.find_in_epoch(&stretches, other, stamp).ok().map(|other| other.lsn);
        }
        Ok(found)
    }

    /// For a time that no record holds: before the first one.
    fn oldest_at(&self, stamp: u64) -> Result<Instant> {
        let oldest = self.oldest();
        if oldest.stamp.0 <= stamp {
            return Ok(oldest);
        }
        Err(self.unreachable("the history of that time was given up"))
    }

    fn find_in_epoch(&self, stretches: &[Stretch], epoch: u32, stamp: u64) -> Result<Instant> {
        let (horizon, point) = {
            let reach = self.reach.lock();
            (reach.horizon, reach.point_at(epoch, stamp))
        };
        // Below the horizon only points are instants, and compaction may have taken the records between them.
        let mut inside = stretches.iter().filter(|s| s.clock_epoch == epoch && s.first.1 <= stamp);
        let stretch = inside.next_back().filter(|s| s.last.0 > horizon.lsn.0);
        let Some(stretch) = stretch.filter(|_| epoch > horizon.clock_epoch || stamp >= horizon.stamp) else {
            return point.map_or_else(|| self.oldest_at(stamp), |point| Ok(instant(point)));
        };
        let found = if stretch.last.1 <= stamp {
            Some(stretch.last)
        } else {
            let files = &self.index.files;
            self.index.ask(stretch.segment, |table| table.at_stamp(stamp), |sealed| sealed.at_stamp(files, stamp))?
        };
        let (lsn, stamp) = found.unwrap_or(stretch.first);
        if lsn <= horizon.lsn.0 {
            return Ok(instant(horizon));
        }
        Ok(Instant { lsn: Lsn(lsn), stamp: Stamp(stamp), clock_epoch: epoch, other: None })
    }

    /// The record with this number or, where none has it, one before it.
    pub(crate) fn record_at_or_before(&self, lsn: Lsn) -> Result<Lsn> {
        let stretches = self.stretches();
        let Some(stretch) = stretches.iter().rev().find(|s| s.first.0 <= lsn.0) else { return Ok(Lsn::ZERO) };
        if lsn.0 >= stretch.last.0 {
            return Ok(Lsn(stretch.last.0));
        }
        Ok(match self.stamp_in(stretch, lsn.0)? {
            Some(_) => lsn,
            None => Lsn(stretch.first.0),
        })
    }

    /// The newest record below `lsn`, or the horizon's. Numbers that nobody used are passed over one by one: there are as many as requests failed in a row.
    pub(crate) fn record_before(&self, lsn: Lsn) -> Result<Lsn> {
        let horizon = self.reach.lock().horizon.lsn;
        let stretches = self.stretches();
        let Some(stretch) = stretches.iter().rev().find(|s| s.first.0 < lsn.0) else { return Ok(horizon) };
        let mut at = (lsn.0 - 1).min(stretch.last.0);
        while at > stretch.first.0.max(horizon.0) && self.stamp_in(stretch, at)?.is_none() {
            at -= 1;
        }
        Ok(Lsn(at))
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
            compacted: s.item.compacted,
        };
        // What an ancestor wrote is no instant of this timeline, but for the base, which is the horizon's.
        let own = sealed.iter().filter(|s| s.item.first_lsn.0 > self.facts.floor());
        let mut all: Vec<Stretch> = own.map(of_sealed).collect();
        all.extend(tables.iter().filter_map(|table| stretch_of(table)));
        all.extend(active);
        all.sort_by_key(|s| s.first.0);
        all.dedup_by_key(|s| s.segment);
        all
    }

    fn unreachable(&self, why: &str) -> Error {
        let (lsn, stamp) = self.latest();
        let oldest = self.oldest();
        let range = format!("LSN {} to {lsn}, stamps {} to {}", oldest.lsn, oldest.stamp.0, stamp.0);
        Error::new(Kind::NotFound, format!("{why}; what can be reached: {range}"))
    }
}

fn instant(point: PointItem) -> Instant {
    Instant { lsn: point.lsn, stamp: Stamp(point.stamp), clock_epoch: point.clock_epoch, other: None }
}

fn stretch_of(table: &Memtable) -> Option<Stretch> {
    let (first, last) = (table.first()?, table.last()?);
    Some(Stretch { segment: table.segment, first, last, clock_epoch: table.clock_epoch, compacted: false })
}
