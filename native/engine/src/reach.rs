//! Which instants there are: every record from the horizon on, and the points below it.
//!
//! Invariants: the horizon never goes back and is durable; what `retain` gave up is refused from then on, whether or not its bytes are still there;
//! an instant that somebody holds is a point until it is let go. The lock of [`Reach`] covers both sides: who finds an instant reachable under it and pins it, keeps it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::error::{Error, Result};
use crate::journal::manifest::{Content, Edit, PointItem};
use crate::units::Lsn;
use crate::volume::Volume;

/// Horizon, points and pins of a volume that is open.
pub struct Reach {
    pub horizon: PointItem,
    pub points: BTreeMap<Lsn, PointItem>,
    pins: BTreeMap<Lsn, Weak<Held>>,
}

/// One instant that is held, by as many as there are references.
#[derive(Default)]
struct Held {
    revoked: AtomicBool,
}

/// Keeps an instant reachable while it lives.
#[derive(Clone)]
pub struct Pin {
    held: Arc<Held>,
}

impl Pin {
    /// True once the instant was taken away: what is read now may be wrong.
    pub fn is_revoked(&self) -> bool {
        self.held.revoked.load(Ordering::Acquire)
    }
}

impl Reach {
    pub fn new(content: &Content) -> Reach {
        Reach { horizon: content.horizon, points: content.points.clone(), pins: BTreeMap::new() }
    }

    /// The newest instant at or below the horizon that a time in a clock epoch names.
    pub fn point_at(&self, clock_epoch: u32, stamp: u64) -> Option<PointItem> {
        let mut all = self.points.values().chain([&self.horizon]);
        all.rfind(|p| p.clock_epoch == clock_epoch && p.stamp <= stamp).copied()
    }

    pub fn oldest(&self) -> PointItem {
        self.points.values().next().copied().unwrap_or(self.horizon)
    }

    /// What is known of an LSN below the horizon or at it.
    pub fn known(&self, lsn: Lsn) -> Option<PointItem> {
        if lsn == self.horizon.lsn {
            return Some(self.horizon);
        }
        self.points.get(&lsn).copied()
    }

    fn hold(&mut self, lsn: Lsn) -> Pin {
        self.pins.retain(|_, held| held.strong_count() > 0);
        if let Some(held) = self.pins.get(&lsn).and_then(Weak::upgrade).filter(|h| !h.revoked.load(Ordering::Acquire)) {
            return Pin { held };
        }
        let held = Arc::new(Held::default());
        self.pins.insert(lsn, Arc::downgrade(&held));
        Pin { held }
    }

    fn pinned(&self) -> impl Iterator<Item = Lsn> + '_ {
        let alive = |held: &Weak<Held>| held.upgrade().is_some_and(|h| !h.revoked.load(Ordering::Acquire));
        self.pins.iter().filter(move |(_, held)| alive(held)).map(|(&lsn, _)| lsn)
    }
}

impl Volume {
    /// Holds an instant. NotFound, naming the range, if it cannot be reached.
    pub fn pin(&self, lsn: Lsn) -> Result<Pin> {
        loop {
            // Reads the journal, so not under the lock.
            self.instant_of(lsn)?;
            let mut reach = self.reach.lock();
            if lsn >= reach.horizon.lsn || reach.points.contains_key(&lsn) {
                return Ok(reach.hold(lsn));
            }
        }
    }

    /// Instants that are held, with the number of their holders, ascending.
    pub fn pins(&self) -> Vec<(Lsn, usize)> {
        let reach = self.reach.lock();
        let count = |held: &Weak<Held>| held.upgrade().map(|h| Arc::strong_count(&h) - 1);
        reach.pinned().filter_map(|lsn| Some((lsn, count(reach.pins.get(&lsn)?)?))).collect()
    }

    /// Takes an instant away from all who hold it: their reads fail from now on. How many there were.
    pub fn revoke(&self, lsn: Lsn) -> usize {
        let mut reach = self.reach.lock();
        let Some(held) = reach.pins.remove(&lsn).and_then(|held| held.upgrade()) else { return 0 };
        held.revoked.store(true, Ordering::Release);
        Arc::strong_count(&held) - 1
    }

    /// The horizon and the points below it, ascending.
    pub fn reachable(&self) -> (PointItem, Vec<PointItem>) {
        let reach = self.reach.lock();
        (reach.horizon, reach.points.values().copied().collect())
    }

    /// From now on the instants are: every record at or above `horizon`, the `points` below it, and what is held. Durable, in one manifest commit, when it returns.
    ///
    /// A horizon below the present one, or above what is durable, counts as that. NotFound if a point cannot be reached now, Invalid if one lies above the horizon.
    pub fn retain(&self, horizon: Lsn, points: &[Lsn]) -> Result<()> {
        self.check_writable()?;
        // Giving history up is what makes room.
        while !self.with_reserve(|| self.try_retain(horizon, points))? {}
        Ok(())
    }

    /// False if somebody began meanwhile to hold an instant that would go.
    fn try_retain(&self, horizon: Lsn, points: &[Lsn]) -> Result<bool> {
        let horizon = self.settled_horizon(horizon)?;
        let mut wanted: BTreeMap<Lsn, PointItem> = BTreeMap::new();
        for &lsn in points.iter().filter(|&&lsn| lsn != horizon.lsn) {
            if lsn > horizon.lsn {
                return Err(Error::invalid(format!("the point {lsn} lies above the horizon {}", horizon.lsn)));
            }
            wanted.insert(lsn, self.point_of(lsn)?);
        }
        let held: Vec<Lsn> = self.reach.lock().pinned().collect();
        for lsn in held.into_iter().filter(|&lsn| lsn < horizon.lsn) {
            // One that was let go meanwhile may be gone.
            if let Ok(point) = self.point_of(lsn) {
                wanted.insert(lsn, point);
            }
        }
        self.commit_reach(horizon, wanted)
    }

    /// The newest record that no crash can take back: the horizon lies no higher. A sealed segment was synced, also where nobody asked for that.
    pub fn settled(&self) -> Lsn {
        let sealed = self.index.sealed().last().map_or(Lsn::ZERO, |s| s.item.last_lsn);
        Lsn(self.durability.record()).max(sealed)
    }

    /// The horizon to set: durable, an instant, not below the present one.
    fn settled_horizon(&self, wanted: Lsn) -> Result<PointItem> {
        let present = self.reach.lock().horizon;
        let lsn = wanted.min(self.settled()).max(present.lsn);
        // Not every number is a record: one that was passed over counts as the record before it.
        let lsn = self.record_at_or_before(lsn)?.max(present.lsn);
        self.point_of(lsn)
    }

    fn point_of(&self, lsn: Lsn) -> Result<PointItem> {
        let instant = self.instant_of(lsn)?;
        Ok(PointItem { lsn, stamp: instant.stamp.0, clock_epoch: instant.clock_epoch })
    }

    fn commit_reach(&self, horizon: PointItem, mut points: BTreeMap<Lsn, PointItem>) -> Result<bool> {
        let mut reach = self.reach.lock();
        if horizon.lsn < reach.horizon.lsn {
            // Another call went further.
            return Ok(true);
        }
        // Pinned since: what is reachable under this lock and held stays.
        let late: Vec<Lsn> = reach.pinned().filter(|&lsn| lsn < horizon.lsn && !points.contains_key(&lsn)).collect();
        for lsn in late {
            match reach.known(lsn) {
                Some(point) => drop(points.insert(lsn, point)),
                None => return Ok(false),
            }
        }
        let gone = reach.points.keys().filter(|lsn| !points.contains_key(lsn)).map(|&lsn| Edit::DropPoint(lsn));
        let new = points.values().filter(|p| !reach.points.contains_key(&p.lsn)).map(|&p| Edit::SetPoint(p));
        let mut edits: Vec<Edit> = gone.chain(new).collect();
        if horizon != reach.horizon {
            edits.push(Edit::Horizon(horizon));
        }
        if edits.is_empty() {
            return Ok(true);
        }
        let committed = self.manifest.lock().commit(&edits);
        committed.map_err(|e| self.commit_failed(e))?;
        reach.horizon = horizon;
        reach.points = points;
        drop(reach);
        self.background.call();
        Ok(true)
    }
}
