//! Promise 1, stamps and times: a stamp lies between the arrival of its request and its reply; a step back of up to a second
//! is clamped, a longer one begins a clock epoch; a time names the state that docs/format.md says; nothing of it changes later.

use std::sync::Arc;

use cdp_engine::storage::Storage;
use cdp_engine::{Instant, Lsn, Stamp, Volume};
use cdp_sim::campaign::{seeds, Case};
use cdp_sim::story::{small_options, VOLUME_BYTES};
use cdp_sim::{Machine, Restart, Rng};

const SECOND: i64 = 1_000_000_000;
const CLAMP: u64 = SECOND as u64;

/// A record as it was when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    lsn: u64,
    stamp: u64,
    epoch: u32,
}

struct Run {
    machine: Machine,
    volume: Arc<Volume>,
    created: u64,
    records: Vec<Record>,
    /// The next stamp is at least this one: it lies behind every time asked for since the last write.
    fenced: u64,
}

impl Run {
    fn begin(seed: u64) -> Run {
        let machine = Machine::new(seed);
        let storage: Arc<dyn Storage> = machine.boot();
        let created = storage.now();
        Volume::create(storage.clone(), *b"a disk with time", VOLUME_BYTES as u64, Stamp(created)).expect("create");
        let volume = Volume::open(storage, None, small_options()).expect("open");
        Run { machine, volume, created, records: Vec::new(), fenced: 0 }
    }

    fn instant(&self, lsn: u64) -> Option<Record> {
        let Instant { stamp, clock_epoch, .. } = self.volume.instant_of(Lsn(lsn)).ok()?;
        Some(Record { lsn, stamp: stamp.0, epoch: clock_epoch })
    }

    /// Writes, and takes over every record that came to be: clock steps are records, too.
    fn write(&mut self, rng: &mut Rng) {
        let arrived = self.machine.time();
        let lsn = self.volume.write(rng.below(1000) * 100, &[1; 700]).expect("admitted").0;
        let admitted = self.machine.time();
        if rng.chance(70) {
            self.volume.commit(Lsn(lsn)).expect("committed");
        }
        self.volume.commit(Lsn(lsn)).expect("committed");
        let before = self.records.last().copied();
        let first = before.map_or(1, |r| r.lsn + 1).max(lsn.saturating_sub(2));
        let new: Vec<Record> = (first..=lsn).filter_map(|lsn| self.instant(lsn)).collect();
        let own = *new.last().expect("a record for a write");
        assert_eq!(own.lsn, lsn);
        // Where the clock is a little behind the record before, that record's stamp stands in for the arrival.
        let behind = before.filter(|b| b.epoch == own.epoch && b.stamp > arrived);
        let earliest = behind.map_or(arrived, |b| b.stamp);
        assert!(
            (earliest..=admitted.max(earliest).max(self.fenced)).contains(&own.stamp),
            "{own:?}: {arrived} to {admitted}, {before:?}"
        );
        // The stamp is taken between the two, and that is when the clock must not be too far behind.
        assert!(earliest.saturating_sub(admitted) <= CLAMP, "{before:?} {own:?}, admitted {admitted}");
        if let Some(b) = before {
            let stepped = own.stamp < b.stamp;
            // A time that was asked for counts like a stamp, unless a crash came between.
            let may_have_stepped = own.stamp < self.fenced && own.epoch == b.epoch + 1;
            assert!(own.epoch == b.epoch + u32::from(stepped) || may_have_stepped, "{b:?} {own:?}");
        }
        self.records.extend(new);
        self.fenced = 0;
    }

    /// The rule of docs/format.md, "The state at an LSN".
    fn expected_at(&self, stamp: u64) -> u64 {
        let first = |epoch: u32| self.records.iter().find(|r| r.epoch == epoch).map(|r| r.stamp);
        let newest = self.records.iter().map(|r| r.epoch).filter(|&e| first(e).is_some_and(|s| s <= stamp)).max();
        let held = self.records.iter().filter(|r| Some(r.epoch) == newest && r.stamp <= stamp);
        held.map(|r| r.lsn).max().unwrap_or(0)
    }

    fn ask(&mut self, rng: &mut Rng) {
        let last = self.records.last().map_or(self.created, |r| r.stamp);
        let near = self.records.get(rng.below(self.records.len() as u64) as usize).map_or(last, |r| r.stamp);
        let stamp = match rng.below(4) {
            0 => near,
            1 => near + 1,
            2 => near.saturating_sub(1),
            _ => rng.between(self.created, last.max(self.created)),
        };
        let now = self.machine.time().max(last);
        match self.volume.instant_at(Stamp(stamp)) {
            Ok(instant) => {
                assert_eq!(instant.lsn.0, self.expected_at(stamp), "at {stamp}: {instant:?}");
                self.fenced = self.fenced.max(stamp + 1);
            }
            Err(error) => assert!(stamp < self.created || stamp > now, "at {stamp}: {error}"),
        }
    }

    fn reopen(&mut self, restart: Restart) {
        let clean = restart == Restart::Process;
        if clean {
            self.volume.close().expect("close");
        } else {
            self.volume.flush().expect("flush");
        }
        self.machine.restart(restart);
        self.volume = Volume::open(self.machine.boot(), None, small_options()).expect("open");
        for record in &self.records {
            assert_eq!(self.instant(record.lsn).as_ref(), Some(record), "after {restart:?}");
        }
        // What recovery noted, and its place on the timeline.
        let (latest, _) = self.volume.latest();
        if self.records.last().is_some_and(|r| r.lsn < latest.0) {
            self.records.extend(self.instant(latest.0));
            if let Some(step) = self.instant(latest.0 - 1) {
                let at = self.records.len() - 1;
                self.records.insert(at, step);
            }
        }
    }
}

fn step(rng: &mut Rng) -> i64 {
    let far = [SECOND * 2, SECOND * 60, SECOND * 3600, SECOND * 86_400][rng.below(4) as usize];
    let by = if rng.chance(60) { rng.between(1, CLAMP * 9 / 10) as i64 } else { far };
    if rng.chance(50) {
        by
    } else {
        -by
    }
}

#[test]
fn stamps_and_times_hold_through_clock_steps_and_restarts() {
    for seed in seeds(30) {
        let _case = Case { test: "clock stamps_and", seed, call: 0, cut: 0 };
        let rng = &mut Rng::new(seed + 800);
        let mut run = Run::begin(seed);
        run.write(rng);
        for _ in 0..120 {
            match rng.below(20) {
                0 | 1 => run.machine.step_clock(step(rng)),
                2 => run.reopen([Restart::Process, Restart::AllLost, Restart::AllKept][rng.below(3) as usize]),
                3..=9 => run.ask(rng),
                _ => run.write(rng),
            }
        }
    }
}

#[test]
fn a_time_in_the_future_or_before_the_creation_is_refused() {
    let mut run = Run::begin(1);
    run.write(&mut Rng::new(1));
    for stamp in [0, run.created - 1, run.machine.time() + 3600 * SECOND as u64] {
        let error = run.volume.instant_at(Stamp(stamp)).expect_err("refused");
        assert_eq!(error.kind, cdp_engine::Kind::NotFound);
        assert!(error.message.contains("LSN"), "the reachable range is named: {error}");
    }
}
