//! What a story compares with its oracle: states, extents, control records.

use std::sync::Arc;

use cdp_engine::verify::Finding;
use cdp_engine::{Kind, Lsn, View, Volume};

use super::{Failure, Story, CONTROL, VOLUME_BYTES};
use crate::oracle::compare;
use crate::seed::Rng;

/// How much [`Story::check`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The view at every LSN.
    Every,
    /// The first, the last few and one in so many.
    OneIn(usize),
}

impl Story {
    /// Every view agrees with the oracle, byte for byte, the live volume too, and there is nothing behind the last record; no file is damaged, missing or
    /// left over. The same of every clone.
    pub fn check(&mut self, depth: Depth, seed: u64) {
        self.check_volume(depth, seed);
        self.clones.iter_mut().filter(|clone| clone.is_open()).for_each(|clone| clone.check_volume(depth, seed));
    }

    fn check_volume(&mut self, depth: Depth, seed: u64) {
        let count = self.oracle.lsns().len();
        let wanted = |index: usize, _| match depth {
            Depth::Every => true,
            Depth::OneIn(n) => index + 4 >= count || (index as u64 + seed) % n as u64 == 0,
        };
        self.compare_states(wanted, &mut Rng::new(seed));
        self.read_all_held(&mut Rng::new(seed));
        let beyond = self.head() + 1;
        assert!(self.volume().view(Lsn(beyond)).is_err(), "a view at LSN {beyond}, behind the last record");
        self.verify();
    }

    /// A crash may tear one copy of the manifest, and the echo of a batch; all else is whole, and named.
    fn verify(&self) {
        let findings = self.volume().verify(&mut |_, _| Ok(())).unwrap_or_else(|e| panic!("verify: {e}"));
        let torn = |found: &Finding| found.file.starts_with("manifest.") || found.what.contains("echo");
        let strange = findings.iter().find(|found| !found.repairable || !torn(found));
        assert_eq!(strange, None, "what verify found");
    }

    /// Reads of what a flush covered go on, whatever else failed.
    pub fn check_durable(&mut self, seed: u64) {
        self.check_durable_volume(seed);
        self.clones.iter_mut().filter(|clone| clone.is_open()).for_each(|clone| clone.check_durable_volume(seed));
    }

    fn check_durable_volume(&mut self, seed: u64) {
        let durable = self.oracle.last_flushed();
        let volume = Arc::clone(self.volume());
        let rng = &mut Rng::new(seed);
        let wanted = |_, lsn| lsn % 5 == seed % 5 || lsn == durable;
        self.oracle.clone().check(durable, wanted, |lsn| read_view(&volume, lsn, rng));
        self.read_all_held(rng);
    }

    /// The LSN of the last record that reads can see.
    pub fn head(&self) -> u64 {
        self.volume().latest().0 .0
    }

    /// The last record of the oracle that is still there. Recovery appends an event of its own behind it.
    pub(super) fn survivor(&self) -> u64 {
        let there = |lsn: &u64| self.volume().view(Lsn(*lsn)).is_ok();
        self.oracle.lsns().into_iter().rev().find(there).unwrap_or(0)
    }

    /// The live volume and one earlier instant agree with the oracle.
    pub(super) fn look(&mut self, seed: u64) {
        if self.volume().status().poisoned.is_some() {
            return;
        }
        let rng = &mut Rng::new(seed);
        if self.shaky_reads {
            return self.look_twice(rng);
        }
        let lsns = self.oracle.lsns();
        let chosen = lsns.get(rng.below(lsns.len() as u64) as usize).copied().unwrap_or(0);
        self.compare_states(|_, lsn| lsn == chosen, rng);
    }

    /// A read gives the right bytes or says that it cannot.
    fn look_twice(&mut self, rng: &mut Rng) {
        let head = self.head();
        if !self.oracle.is_settled(head) {
            return;
        }
        let view = self.volume().live();
        let mut seen = vec![0; VOLUME_BYTES];
        match view.read(0, &mut seen) {
            Ok(faults) if faults.is_empty() => compare(head, &self.oracle.state_at(head), &seen, "live"),
            Ok(faults) => {
                self.failures.push(Failure { step: self.steps_done, what: "look".into(), kind: faults[0].kind })
            }
            Err(error) => self.fail("look", error),
        }
        let _ = view.extents(rng.below(VOLUME_BYTES as u64 / 2), 1 << 16, 9);
    }

    fn compare_states(&mut self, wanted: impl Fn(usize, u64) -> bool, rng: &mut Rng) {
        let volume = Arc::clone(self.volume());
        let head = volume.latest().0 .0;
        let last = self.oracle.check(head, wanted, |lsn| read_view(&volume, lsn, rng));
        self.compare_controls(head);
        self.compare_rollbacks(head);
        compare(head, &last, &read_all(&volume.live(), rng, "the live volume"), "live");
    }

    /// Control records are part of the timeline: those that were replied to are there, and no others.
    fn compare_controls(&self, head: u64) {
        let ours = |document: &[u8]| document.starts_with(CONTROL.as_bytes());
        let listed: Vec<u64> = self.volume().controls().iter().filter(|c| ours(&c.document)).map(|c| c.lsn).collect();
        let (done, pending) = self.oracle.controls(head);
        let missing = done.iter().find(|lsn| !listed.contains(lsn));
        assert_eq!(missing, None, "a control record is not listed: {listed:?}");
        let strange = listed.iter().find(|lsn| !done.contains(lsn) && !pending.contains(lsn));
        assert_eq!(strange, None, "a control record that nobody appended: {done:?}");
        assert!(listed.windows(2).all(|w| w[0] < w[1]), "listed out of order: {listed:?}");
    }

    /// The lineage: every rollback that was replied to, and no other.
    fn compare_rollbacks(&self, head: u64) {
        let mut listed = self.volume().branches();
        // What lies below the base is the parent's; that the clone goes on from there is a branch, too.
        let first_own = self.oracle.lsns().into_iter().find(|&lsn| lsn > self.place.base).unwrap_or(u64::MAX);
        listed.retain(|&(lsn, to)| lsn > self.place.base && (lsn >= first_own || to != self.place.base));
        let (done, pending) = self.oracle.rollbacks(head);
        let missing = done.iter().find(|rollback| !listed.contains(rollback));
        assert_eq!(missing, None, "a rollback is not in the lineage: {listed:?}");
        let strange = listed.iter().find(|rollback| !done.contains(rollback) && !pending.contains(rollback));
        assert_eq!(strange, None, "a rollback that nobody asked for: {done:?}");
    }
}

/// None where no record has that number.
fn read_view(volume: &Arc<Volume>, lsn: u64, rng: &mut Rng) -> Option<Vec<u8>> {
    match volume.view(Lsn(lsn)) {
        Ok(view) => Some(read_all(&view, rng, &format!("the view at LSN {lsn}"))),
        Err(error) if error.kind == Kind::NotFound => None,
        Err(error) => panic!("a view at LSN {lsn}: {error}"),
    }
}

/// The whole view, after some reads of odd ranges that must agree with it, and with its extents.
pub fn read_all(view: &View, rng: &mut Rng, name: &str) -> Vec<u8> {
    let size = view.size() as usize;
    let read = |offset: usize, bytes: usize| {
        let mut buffer = vec![0xAA; bytes];
        let faults =
            view.read(offset as u64, &mut buffer).unwrap_or_else(|e| panic!("{name}, {bytes} at {offset}: {e}"));
        assert!(faults.is_empty(), "{name}, {bytes} at {offset}: {faults:?}");
        buffer
    };
    let offset = rng.below(size as u64) as usize;
    let bytes = rng.between(1, (size - offset).min(9000) as u64) as usize;
    let part = read(offset, bytes);
    let whole = read(0, size);
    assert!(part == whole[offset..offset + bytes], "{name}: {bytes} at {offset} differ from a read of all");
    check_extents(view, &whole, name);
    whole
}

pub(super) fn check_extents(view: &View, whole: &[u8], name: &str) {
    let mut at = 0;
    for extent in view.extents(0, whole.len() as u64, usize::MAX).unwrap_or_else(|e| panic!("{name}: {e}")) {
        let end = at + extent.bytes as usize;
        assert!(extent.bytes > 0 && end <= whole.len(), "{name}: an extent from {at} to {end}");
        assert!(!extent.zero || whole[at..end].iter().all(|&b| b == 0), "{name}: {at} to {end} should be zeros");
        at = end;
    }
    assert_eq!(at, whole.len(), "{name}: the extents end early");
}
