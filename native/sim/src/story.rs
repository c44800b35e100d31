//! A volume on a machine, and its clones, each with its oracle beside it: runs steps, dies, comes back, compares.
//!
//! An error that no test asked for ends the story at once. After a death nothing runs until [`Story::recover`].

use std::sync::Arc;

use cdp_engine::compact::ALL;
use cdp_engine::options::Maintenance;
use cdp_engine::origin::Origin;
use cdp_engine::storage::Storage as _;
use cdp_engine::{Kind, Lsn, Options, Stamp, Volume, Zeroing};

use crate::campaign::tell;
use crate::machine::{Machine, Restart};
use crate::oracle::{Change, Oracle};
use crate::process::Process;
use crate::scenario::Step;
use crate::seed::Rng;

mod checks;
mod clones;
mod held;

pub use checks::{read_all, Depth};
use clones::Place;
use held::Held;

/// Not a multiple of a page, and larger than any payload.
pub const VOLUME_BYTES: usize = 200 * 1024 + 3 * 512;
/// How the control records of a story begin; the engine has some of its own.
const CONTROL: &str = r#"{"type": "test", "number": "#;
const ID: [u8; 16] = *b"a simulated disk";

/// Bounds so small that a few dozen steps roll segments.
pub fn small_options() -> Options {
    // A bound that the engine gets later keeps its default until it is made small here.
    #[allow(clippy::needless_update)]
    Options {
        cache_bytes: 64 << 10,
        ring_bytes: 256 << 10,
        ring_requests: 64,
        segment_bytes: 64 << 10,
        segment_entries: 40,
        batch_bytes: 96 << 10,
        checkpoint_segments: 2,
        merge_fan: 3,
        files: 4,
        maintenance: Maintenance::Inline,
        ..Options::default()
    }
}

/// A disk under the volume.
struct Disk(Vec<u8>);

impl Origin for Disk {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> cdp_engine::Result<()> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }
}

/// An error that a step met, with the step.
#[derive(Debug)]
pub struct Failure {
    pub step: usize,
    pub what: String,
    pub kind: Kind,
}

/// Which promise has to be kept across a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// What a flush covered.
    Flushed,
    /// What was replied to.
    Replied,
}

/// How often a story came to what it is to test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Reads of views that are held at a point below the horizon.
    pub held_reads: u64,
    /// Reads of views whose instant was taken away.
    pub revoked_reads: u64,
    pub clones: u64,
    pub removed: u64,
    /// Segments that compaction wrote anew, and of those the ones in clones.
    pub compacted: u64,
    pub compacted_in_clones: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.held_reads += other.held_reads;
        self.revoked_reads += other.revoked_reads;
        self.clones += other.clones;
        self.removed += other.removed;
        self.compacted += other.compacted;
        self.compacted_in_clones += other.compacted_in_clones;
    }
}

pub struct Story {
    pub machine: Machine,
    pub oracle: Oracle,
    pub failures: Vec<Failure>,
    /// Errors are recorded instead of ending the story.
    pub tolerant: bool,
    /// Reads may fail, but not be wrong.
    pub shaky_reads: bool,
    place: Place,
    process: Option<Arc<Process>>,
    origin: Option<Arc<dyn Origin>>,
    volume: Option<Arc<Volume>>,
    pending: Vec<u64>,
    held: Vec<Held>,
    clones: Vec<Story>,
    clones_made: u64,
    tally: Tally,
    steps_done: usize,
}

impl Story {
    /// Creates and opens a volume on a sound machine.
    pub fn begin(seed: u64) -> Story {
        Story::over(seed, None)
    }

    /// The same over a disk that is a little smaller than the volume.
    pub fn begin_over_origin(seed: u64) -> Story {
        let mut disk = vec![0; VOLUME_BYTES - 5000];
        Rng::new(seed).fill(&mut disk);
        Story::over(seed, Some(disk))
    }

    fn over(seed: u64, disk: Option<Vec<u8>>) -> Story {
        let machine = Machine::new(seed);
        let process = machine.boot();
        let created = Stamp(process.now());
        Volume::create(process.clone(), ID, VOLUME_BYTES as u64, created).expect("create on a sound machine");
        let mut first = disk.clone().unwrap_or_default();
        first.resize(VOLUME_BYTES, 0);
        let mut story = Story::on(machine, Oracle::new(first), Place::of_first());
        story.origin = disk.map(|disk| Arc::new(Disk(disk)) as Arc<dyn Origin>);
        story.process = Some(process);
        story.open_again();
        story
    }

    fn on(machine: Machine, oracle: Oracle, place: Place) -> Story {
        Story {
            machine,
            oracle,
            failures: Vec::new(),
            tolerant: false,
            shaky_reads: false,
            place,
            process: None,
            origin: None,
            volume: None,
            pending: Vec::new(),
            held: Vec::new(),
            clones: Vec::new(),
            clones_made: 0,
            tally: Tally::default(),
            steps_done: 0,
        }
    }

    /// The same story up to here, to go on elsewhere: no process runs on its machine yet.
    pub fn fork(&self) -> Story {
        let machine = self.machine.fork();
        let mut story = self.elsewhere(machine.clone());
        story.clones = self.clones.iter().map(|clone| clone.elsewhere(machine.clone())).collect();
        story
    }

    fn elsewhere(&self, machine: Machine) -> Story {
        let mut story = Story::on(machine, self.oracle.clone(), self.place.clone());
        story.origin = self.origin.clone();
        story.clones_made = self.clones_made;
        story
    }

    /// Runs the steps until the end or the death of the process.
    pub fn run(&mut self, steps: &[Step]) {
        for step in steps {
            if self.machine.died().is_some() || self.volume.is_none() {
                return;
            }
            self.step(step);
            tell(|| format!("{step:?}: {} changes", self.machine.changes()));
            self.steps_done += 1;
        }
    }

    pub fn volume(&self) -> &Arc<Volume> {
        self.volume.as_ref().expect("the volume is open")
    }

    pub fn is_open(&self) -> bool {
        self.volume.is_some()
    }

    /// Of the volume and its clones.
    pub fn all_failures(&self) -> Vec<&Failure> {
        self.failures.iter().chain(self.clones.iter().flat_map(|clone| &clone.failures)).collect()
    }

    /// Of the volume and its clones.
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally;
        self.clones.iter().for_each(|clone| tally.add(&clone.tally));
        tally
    }

    fn is_poisoned(&self) -> bool {
        self.volume().status().poisoned.is_some()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { offset, content } => {
                let data = content.make();
                let result = self.volume().write(*offset as u64, &data);
                self.admit(result, Change::Write { offset: *offset, data });
            }
            Step::Zero { offset, bytes, trim } => {
                let how = if *trim { Zeroing::Trim } else { Zeroing::Zero };
                let result = self.volume().zero(*offset as u64, *bytes as u64, how);
                self.admit(result, Change::Zero { offset: *offset, bytes: *bytes });
            }
            Step::Control { number } => self.control(*number),
            Step::Commit { all, seed } => self.commit(*all, *seed),
            Step::Flush => self.flush(),
            Step::SyncTo => self.sync_to(),
            Step::Idle => self.idle(),
            Step::Look { seed } => self.look(*seed),
            Step::Rollback { seed } => self.roll_back(*seed),
            Step::Retain { seed } => self.retain(*seed),
            Step::Compact { all } => self.compact(if *all { 1 << 40 } else { 0 }),
            Step::Rewrite => self.compact(ALL),
            Step::Hold { seed } => self.hold(*seed),
            Step::ReadHeld { seed } => self.read_held(*seed),
            Step::Release { seed } => self.release(*seed),
            Step::Revoke { seed } => self.revoke(*seed),
            Step::Clone { of, seed, scratch } => self.make_clone(*of, *seed, *scratch),
            Step::Beside { which, step } => self.beside(*which, step),
            Step::Unclone { which } => self.remove_clone(*which),
            Step::StepClock { by_ns } => self.machine.step_clock(*by_ns),
            Step::Reopen => self.reopen(),
        }
    }

    fn admit(&mut self, result: cdp_engine::Result<Lsn>, change: Change) {
        match result {
            Ok(lsn) => {
                self.oracle.admitted(lsn.0, change);
                self.pending.push(lsn.0);
            }
            Err(error) => {
                assert_eq!(error.lsn, None, "a request that is not admitted has no number");
                self.fail("write", error);
            }
        }
    }

    fn control(&mut self, number: u64) {
        let result = self.volume().control(format!("{CONTROL}{number}}}").as_bytes());
        self.admit(result, Change::Control);
    }

    /// Sessions ask for their outcomes in any order.
    pub fn commit(&mut self, all: bool, seed: u64) {
        let rng = &mut Rng::new(seed);
        let mut pending = std::mem::take(&mut self.pending);
        rng.shuffle(&mut pending);
        let now = if all { pending.len() } else { pending.len().div_ceil(2) };
        self.pending = pending.split_off(now);
        for lsn in pending {
            let outcome = self.volume().commit(Lsn(lsn));
            self.learn(lsn, outcome);
        }
    }

    /// What a session is told of its request.
    fn learn(&mut self, lsn: u64, outcome: cdp_engine::Result<Lsn>) {
        match outcome {
            Ok(kept) => {
                assert_eq!(kept.0, lsn, "nothing waits for room here, so nothing gets another number");
                self.oracle.replied(lsn);
            }
            Err(error) => {
                self.oracle.failed(lsn);
                self.fail("commit", error);
            }
        }
    }

    pub fn flush(&mut self) {
        let covered = self.oracle.last_replied();
        match self.volume().flush() {
            Ok(()) => self.oracle.flushed(covered),
            Err(error) => self.fail("flush", error),
        }
    }

    fn sync_to(&mut self) {
        let lsn = self.oracle.last_replied();
        if lsn == 0 {
            return;
        }
        match self.volume().sync_to(Lsn(lsn)) {
            Ok(()) => self.oracle.flushed(lsn),
            Err(error) => self.fail("sync_to", error),
        }
    }

    fn roll_back(&mut self, seed: u64) {
        // It makes durable what lies below it, so what became of that is asked first.
        self.commit(true, seed);
        if self.machine.died().is_some() {
            return;
        }
        let instants = self.oracle.instants(self.oracle.last_replied());
        let to = instants[Rng::new(seed).below(instants.len() as u64) as usize];
        match self.volume().rollback(Lsn(to)) {
            Ok(lsn) => {
                self.oracle.admitted(lsn.0, Change::Rollback { to });
                self.oracle.replied(lsn.0);
                self.oracle.flushed(lsn.0);
            }
            Err(error) => {
                if let Some(lsn) = error.lsn {
                    self.oracle.admitted(lsn.0, Change::Rollback { to });
                    self.oracle.failed(lsn.0);
                }
                self.fail("rollback", error);
            }
        }
    }

    /// Only what is settled is given up: what nobody can look at any more could not be settled later.
    fn retain(&mut self, seed: u64) {
        let rng = &mut Rng::new(seed);
        self.commit(true, seed);
        self.flush();
        let durable = self.oracle.last_flushed();
        if self.machine.died().is_some() || !self.oracle.is_settled(durable) {
            return;
        }
        let instants = self.oracle.instants(durable);
        let chosen = rng.below(instants.len() as u64) as usize;
        let horizon = instants[chosen].max(self.oracle.horizon());
        let points: Vec<u64> = instants[..chosen].iter().copied().filter(|&l| l < horizon && rng.chance(30)).collect();
        self.give_up(horizon, &points);
    }

    /// From now on the instants are those from `horizon` on, which is durable, and the `points` below it.
    pub fn give_up(&mut self, horizon: u64, points: &[u64]) {
        // What became of an earlier call is open until the next opening.
        if self.is_poisoned() {
            return;
        }
        let held = self.pinned().into_iter().filter(|&lsn| lsn < horizon);
        let kept: Vec<u64> = points.iter().copied().chain(held).collect();
        self.oracle.giving_up(horizon, &kept);
        let lsns: Vec<Lsn> = points.iter().copied().map(Lsn).collect();
        match self.volume().retain(Lsn(horizon), &lsns) {
            Ok(()) => self.oracle.gave_up(&self.reach()),
            Err(error) => self.fail("retain", error),
        }
        // After a commit of unknown outcome the next opening decides.
        if self.machine.died().is_none() && !self.is_poisoned() {
            self.oracle.gave_up(&self.reach());
        }
    }

    /// The horizon, then the points.
    fn reach(&self) -> Vec<u64> {
        let (horizon, points) = self.volume().reachable();
        std::iter::once(horizon).chain(points).map(|point| point.lsn.0).collect()
    }

    fn compact(&mut self, need: u64) {
        match self.volume().compact(need, &mut |_| Ok(())) {
            Ok(done) => {
                let segments = done.segments_in as u64;
                self.tally.compacted += segments;
                self.tally.compacted_in_clones += if self.place.prefix.is_empty() { 0 } else { segments };
            }
            Err(error) => self.fail("compact", error),
        }
    }

    fn idle(&mut self) {
        if let Err(error) = self.volume().tick() {
            self.fail("tick", error);
        }
    }

    /// Writes, closes, opens and idles until there is a checkpoint.
    pub fn settle_down(&mut self) {
        for seed in 0..3 {
            let content = crate::scenario::Content { bytes: 5000, seed };
            self.run(&[Step::Write { offset: 77 << seed, content }, Step::Commit { all: true, seed }, Step::Idle]);
            self.reopen();
        }
        assert!(self.machine.files().iter().any(|(name, _)| name.starts_with("checkpoint")), "no checkpoint came");
    }

    /// Closes cleanly, clones first: what was admitted is kept, and durable.
    pub fn close(&mut self) -> bool {
        let closed = self.clones.iter_mut().filter_map(|clone| (!clone.close()).then_some(())).count() == 0;
        self.close_volume() && closed
    }

    fn close_volume(&mut self) -> bool {
        let Some(volume) = self.volume.take() else {
            return true;
        };
        let result = volume.close();
        self.let_go_after_closing();
        for lsn in std::mem::take(&mut self.pending) {
            let outcome = volume.commit(Lsn(lsn));
            self.learn(lsn, outcome);
        }
        drop(volume);
        if let Err(error) = result {
            self.fail("close", error);
            return false;
        }
        self.oracle.flushed(self.oracle.last_replied());
        self.oracle.stopped();
        true
    }

    /// Clean close and open by the same process.
    pub fn reopen(&mut self) {
        if !self.close_volume() || self.machine.died().is_some() {
            return;
        }
        self.open_again();
        if self.is_open() && !self.tolerant {
            let last = self.oracle.lsns().last().copied().unwrap_or(0);
            assert_eq!(self.survivor(), last, "a clean close keeps every record");
        }
    }

    /// By the same process.
    fn open_again(&mut self) {
        match self.open() {
            Ok(volume) => self.volume = Some(volume),
            Err(error) => self.fail("open", error),
        }
    }

    /// The machine comes back, the volume and its clones are opened.
    pub fn recover(&mut self, restart: Restart, kept: Kept) {
        self.lose_process();
        self.machine.restart(restart);
        let process = self.machine.boot();
        self.tidy_clones(&process);
        self.come_back(&process, kept);
        self.clones.iter_mut().for_each(|clone| clone.come_back(&process, kept));
    }

    fn come_back(&mut self, process: &Arc<Process>, kept: Kept) {
        self.process = Some(process.clone());
        let volume = self.open().unwrap_or_else(|e| panic!("opening {:?} after a death: {e}", self.place.prefix));
        tell(|| format!("{:?}: {:?}, faults {:?}", self.place.prefix, volume.status(), volume.faults()));
        self.volume = Some(volume);
        let faults = self.volume().faults();
        self.oracle.gave_up(&self.reach());
        let floor = match kept {
            Kept::Flushed => self.oracle.last_flushed(),
            Kept::Replied => self.oracle.last_replied(),
        };
        self.oracle.recovered(self.survivor(), floor);
        // Of one manifest copy nobody can tell whether a crash tore it or it rotted.
        let rot = |fault: &String| fault.contains("damage") && !fault.starts_with("manifest.");
        assert!(!faults.iter().any(rot), "a crash is not damage: {faults:?}");
    }

    /// The process dies without a word.
    pub fn lose_process(&mut self) {
        if self.is_open() || self.clones.iter().any(Story::is_open) {
            self.machine.restart(Restart::Process);
        }
        self.clones.iter_mut().for_each(Story::forget_process);
        self.forget_process();
    }

    fn forget_process(&mut self) {
        self.held.clear();
        self.volume = None;
        self.process = None;
        self.pending.clear();
        self.oracle.crashed();
    }

    /// New requests find a volume that works, and get numbers that nobody ever saw.
    pub fn go_on(&mut self, seed: u64, steps: usize) {
        self.run(&crate::scenario::draw_mix(seed, steps, VOLUME_BYTES));
    }

    fn open(&self) -> cdp_engine::Result<Arc<Volume>> {
        let process = self.process.as_ref().expect("the machine runs");
        let options = Options { volume_id: Some(self.place.id), ..small_options() };
        Volume::open(self.place.storage(process), self.origin.clone(), options)
    }

    fn fail(&mut self, what: &str, error: cdp_engine::Error) {
        if self.machine.died().is_some() {
            return;
        }
        assert!(self.tolerant, "step {}: {what}: {error}", self.steps_done);
        self.failures.push(Failure { step: self.steps_done, what: what.into(), kind: error.kind });
    }
}
