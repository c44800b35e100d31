//! Views that stay open while the volume goes on: each read shows the instant as it was when it was opened, or says why not.
//!
//! Only what is settled is held, so that the model knows the bytes for good.

use cdp_engine::{Kind, Lsn, View};

use super::{Failure, Story};
use crate::oracle::compare;
use crate::seed::Rng;

/// Open at a time.
const HELD_MAX: usize = 4;

pub(super) struct Held {
    view: View,
    lsn: u64,
    bytes: Vec<u8>,
    /// Taken away: no read succeeds any more.
    revoked: bool,
}

impl Story {
    /// Opens a view at an instant that the seed picks, and keeps it.
    pub(super) fn hold(&mut self, seed: u64) {
        let mut instants = self.oracle.instants(self.oracle.last_replied());
        instants.retain(|&lsn| self.oracle.is_settled(lsn));
        if self.held.len() == HELD_MAX || instants.is_empty() || self.is_poisoned() {
            return;
        }
        let lsn = instants[Rng::new(seed).below(instants.len() as u64) as usize];
        match self.volume().view(Lsn(lsn)) {
            Ok(view) => {
                let bytes = self.oracle.state_at(lsn);
                self.held.push(Held { view, lsn, bytes, revoked: false });
            }
            Err(error) => self.fail("hold", error),
        }
        self.compare_pins();
    }

    pub(super) fn read_held(&mut self, seed: u64) {
        let rng = &mut Rng::new(seed);
        let chosen = rng.below(self.held.len() as u64) as usize;
        if let Some(held) = self.held.get(chosen) {
            let failure = self.read_one(held, rng);
            self.tally.held_reads += u64::from(!held.revoked && held.lsn < self.oracle.horizon());
            self.tally.revoked_reads += u64::from(held.revoked);
            self.failures.extend(failure);
        }
    }

    /// All of them, at odd ranges first.
    pub(super) fn read_all_held(&self, rng: &mut Rng) {
        self.held.iter().for_each(|held| drop(self.read_one(held, rng)));
    }

    /// Reads are right, or fail where that is allowed.
    fn read_one(&self, held: &Held, rng: &mut Rng) -> Option<Failure> {
        let name = format!("the view that is held at LSN {}", held.lsn);
        let size = held.bytes.len() as u64;
        let offset = rng.below(size);
        let some = rng.between(1, (size - offset).min(9000));
        for (offset, bytes) in [(offset, some), (0, size)] {
            let mut seen = vec![0xAA; bytes as usize];
            let outcome = held.view.read(offset, &mut seen);
            if held.revoked {
                let error = outcome.expect_err(&name);
                assert_eq!(error.kind, Kind::Io, "{name}, which was taken away: {error}");
                let extents = held.view.extents(offset, bytes, 9);
                assert!(extents.is_err_and(|e| e.kind == Kind::Io), "{name}: extents of what was taken away");
                continue;
            }
            let faults = match outcome {
                Ok(faults) => faults,
                Err(error) => return Some(self.excused(held, error.kind, format!("{name}: {error}"))),
            };
            let mut want = held.bytes[offset as usize..][..bytes as usize].to_vec();
            for fault in &faults {
                want[(fault.offset - offset) as usize..][..fault.bytes as usize].fill(0);
            }
            compare(held.lsn, &want, &seen, "held");
            if let Some(fault) = faults.first() {
                return Some(self.excused(held, fault.kind, format!("{name}: {fault:?}")));
            }
        }
        if !held.revoked && !self.shaky_reads {
            super::checks::check_extents(&held.view, &held.bytes, &name);
        }
        None
    }

    /// A failure to read, where one is allowed: while files cannot be read, or of what a poisoned volume never made durable.
    fn excused(&self, held: &Held, kind: Kind, what: String) -> Failure {
        let lost = self.is_poisoned() && held.lsn > self.oracle.last_flushed();
        assert!(self.shaky_reads || lost, "step {}: {what}", self.steps_done);
        Failure { step: self.steps_done, what: "read held".into(), kind }
    }

    pub(super) fn release(&mut self, seed: u64) {
        if !self.held.is_empty() {
            let chosen = Rng::new(seed).below(self.held.len() as u64) as usize;
            self.held.swap_remove(chosen);
            self.compare_pins();
        }
    }

    /// Takes an instant away from all who hold it.
    pub(super) fn revoke(&mut self, seed: u64) {
        let chosen = Rng::new(seed).below(self.held.len() as u64) as usize;
        let Some(lsn) = self.held.get(chosen).map(|held| held.lsn) else { return };
        let of_it = |held: &&mut Held| held.lsn == lsn && !held.revoked;
        let holders = self.held.iter_mut().filter(of_it).map(|held| held.revoked = true).count();
        let volume = self.volume().clone();
        assert_eq!(volume.revoke(Lsn(lsn)), holders, "who held LSN {lsn}");
        self.compare_pins();
    }

    /// What the volume must keep because somebody looks at it, ascending.
    pub(super) fn pinned(&self) -> Vec<u64> {
        let mut lsns: Vec<u64> = self.held.iter().filter(|held| !held.revoked).map(|held| held.lsn).collect();
        lsns.sort_unstable();
        lsns
    }

    fn compare_pins(&self) {
        let listed = self.volume().pins();
        let listed: Vec<u64> = listed.into_iter().flat_map(|(lsn, holders)| vec![lsn.0; holders]).collect();
        assert_eq!(listed, self.pinned(), "the instants that are held");
    }

    /// The volume was closed: whoever still looks is told so.
    pub(super) fn let_go_after_closing(&mut self) {
        for held in self.held.drain(..) {
            let error = held.view.read(0, &mut [0; 512]).expect_err("a read of a closed volume");
            let want = if held.revoked { Kind::Io } else { Kind::Closed };
            assert_eq!(error.kind, want, "{error}");
        }
    }
}
