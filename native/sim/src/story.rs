//! A volume on a machine, with the oracle beside it: runs steps, dies, comes back, compares.
//!
//! An error that no test asked for ends the story at once. After a death nothing runs until [`Story::recover`].

use std::sync::Arc;

use cdp_engine::options::Maintenance;
use cdp_engine::origin::Origin;
use cdp_engine::storage::Storage;
use cdp_engine::{Kind, Lsn, Options, Stamp, View, Volume, Zeroing};

use crate::campaign::tell;
use crate::machine::{Machine, Restart};
use crate::oracle::{compare, Change, Oracle};
use crate::scenario::Step;
use crate::seed::Rng;

/// Not a multiple of a page, and larger than any payload.
pub const VOLUME_BYTES: usize = 200 * 1024 + 3 * 512;
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

/// How much [`Story::check`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The view at every LSN.
    Every,
    /// The first, the last few and one in so many.
    OneIn(usize),
}

pub struct Story {
    pub machine: Machine,
    pub oracle: Oracle,
    pub failures: Vec<Failure>,
    /// Errors are recorded instead of ending the story.
    pub tolerant: bool,
    /// Reads may fail, but not be wrong.
    pub shaky_reads: bool,
    origin: Option<Arc<dyn Origin>>,
    volume: Option<Arc<Volume>>,
    pending: Vec<u64>,
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
        let storage: Arc<dyn Storage> = machine.boot();
        let created = Stamp(storage.now());
        Volume::create(Arc::clone(&storage), ID, VOLUME_BYTES as u64, created).expect("create on a sound machine");
        let mut first = disk.clone().unwrap_or_default();
        first.resize(VOLUME_BYTES, 0);
        let mut story = Story::on(machine, Oracle::new(first));
        story.origin = disk.map(|disk| Arc::new(Disk(disk)) as Arc<dyn Origin>);
        story.volume = Some(story.open(storage).expect("open on a sound machine"));
        story
    }

    fn on(machine: Machine, oracle: Oracle) -> Story {
        Story {
            machine,
            oracle,
            failures: Vec::new(),
            tolerant: false,
            shaky_reads: false,
            origin: None,
            volume: None,
            pending: Vec::new(),
            steps_done: 0,
        }
    }

    /// The same story up to here, to go on elsewhere: no process runs on its machine yet.
    pub fn fork(&self) -> Story {
        let mut story = Story::on(self.machine.fork(), self.oracle.clone());
        story.origin = self.origin.clone();
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
                self.oracle.refused(change);
                self.fail("write", error);
            }
        }
    }

    fn control(&mut self, number: u64) {
        let document = format!("{{\"type\": \"test\", \"number\": {number}}}");
        let result = self.volume().control(document.as_bytes());
        self.admit(result, Change::Nothing);
    }

    /// Sessions ask for their outcomes in any order.
    pub fn commit(&mut self, all: bool, seed: u64) {
        let rng = &mut Rng::new(seed);
        let mut pending = std::mem::take(&mut self.pending);
        rng.shuffle(&mut pending);
        let now = if all { pending.len() } else { pending.len().div_ceil(2) };
        self.pending = pending.split_off(now);
        for lsn in pending {
            match self.volume().commit(Lsn(lsn)) {
                Ok(()) => self.oracle.replied(lsn),
                Err(error) => {
                    self.oracle.failed(lsn);
                    self.fail("commit", error);
                }
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

    /// The live volume and one earlier instant agree with the oracle.
    fn look(&mut self, seed: u64) {
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

    /// Closes cleanly: what was admitted is kept, and durable.
    pub fn close(&mut self) -> bool {
        let Some(volume) = self.volume.take() else {
            return true;
        };
        let result = volume.close();
        for lsn in std::mem::take(&mut self.pending) {
            match volume.commit(Lsn(lsn)) {
                Ok(()) => self.oracle.replied(lsn),
                Err(error) => {
                    self.oracle.failed(lsn);
                    self.fail("commit", error);
                }
            }
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
        if !self.close() || self.machine.died().is_some() {
            return;
        }
        match self.open(self.machine.boot()) {
            Ok(volume) => {
                self.volume = Some(volume);
                if !self.tolerant {
                    let last = self.oracle.lsns().last().copied().unwrap_or(0);
                    assert_eq!(self.survivor(), last, "a clean close keeps every record");
                }
            }
            Err(error) => self.fail("open", error),
        }
    }

    /// The machine comes back, the volume is opened; `floor`: the LSN that must have survived.
    pub fn recover(&mut self, restart: Restart, floor: u64) {
        self.lose_process();
        self.machine.restart(restart);
        let volume = self.open(self.machine.boot()).unwrap_or_else(|e| panic!("open after {restart:?}: {e}"));
        tell(|| format!("{restart:?}: {:?}, faults {:?}", volume.status(), volume.faults()));
        self.volume = Some(volume);
        let faults = self.volume().faults();
        self.oracle.recovered(self.survivor(), floor);
        // Of one manifest copy nobody can tell whether a crash tore it or it rotted.
        let rot = |fault: &String| fault.contains("damage") && !fault.starts_with("manifest.");
        assert!(!faults.iter().any(rot), "a crash is not damage: {faults:?}");
    }

    /// The process dies without a word.
    pub fn lose_process(&mut self) {
        if let Some(volume) = self.volume.take() {
            self.machine.restart(Restart::Process);
            drop(volume);
        }
        self.pending.clear();
        self.oracle.crashed();
    }

    /// Every view agrees with the oracle, byte for byte, the live volume too, and there is nothing behind the last record.
    pub fn check(&mut self, depth: Depth, seed: u64) {
        let count = self.oracle.lsns().len();
        let wanted = |index: usize, _| match depth {
            Depth::Every => true,
            Depth::OneIn(n) => index + 4 >= count || (index as u64 + seed) % n as u64 == 0,
        };
        self.compare_states(wanted, &mut Rng::new(seed));
        let beyond = self.head() + 1;
        assert!(self.volume().view(Lsn(beyond)).is_err(), "a view at LSN {beyond}, behind the last record");
    }

    /// Reads of what a flush covered go on, whatever else failed.
    pub fn check_durable(&mut self, seed: u64) {
        let durable = self.oracle.last_flushed();
        let volume = Arc::clone(self.volume());
        let rng = &mut Rng::new(seed);
        let wanted = |_, lsn| lsn % 5 == seed % 5 || lsn == durable;
        self.oracle.clone().check(durable, wanted, |lsn| read_view(&volume, lsn, rng));
    }

    /// New requests find a volume that works, and get numbers that nobody ever saw.
    pub fn go_on(&mut self, seed: u64, steps: usize) {
        self.run(&crate::scenario::draw(seed, steps, VOLUME_BYTES));
    }

    /// The LSN of the last record that reads can see.
    pub fn head(&self) -> u64 {
        self.volume().latest().0 .0
    }

    /// The last record of the oracle that is still there. Recovery appends an event of its own behind it.
    fn survivor(&self) -> u64 {
        let there = |lsn: &u64| self.volume().view(Lsn(*lsn)).is_ok();
        self.oracle.lsns().into_iter().rev().find(there).unwrap_or(0)
    }

    fn open(&self, storage: Arc<dyn Storage>) -> cdp_engine::Result<Arc<Volume>> {
        Volume::open(storage, self.origin.clone(), small_options())
    }

    fn compare_states(&mut self, wanted: impl Fn(usize, u64) -> bool, rng: &mut Rng) {
        let volume = Arc::clone(self.volume());
        let head = volume.latest().0 .0;
        let last = self.oracle.check(head, wanted, |lsn| read_view(&volume, lsn, rng));
        compare(head, &last, &read_all(&volume.live(), rng, "the live volume"), "live");
    }

    fn fail(&mut self, what: &str, error: cdp_engine::Error) {
        if self.machine.died().is_some() {
            return;
        }
        assert!(self.tolerant, "step {}: {what}: {error}", self.steps_done);
        self.failures.push(Failure { step: self.steps_done, what: what.into(), kind: error.kind });
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

fn check_extents(view: &View, whole: &[u8], name: &str) {
    let mut at = 0;
    for extent in view.extents(0, whole.len() as u64, usize::MAX).unwrap_or_else(|e| panic!("{name}: {e}")) {
        let end = at + extent.bytes as usize;
        assert!(extent.bytes > 0 && end <= whole.len(), "{name}: an extent from {at} to {end}");
        assert!(!extent.zero || whole[at..end].iter().all(|&b| b == 0), "{name}: {at} to {end} should be zeros");
        at = end;
    }
    assert_eq!(at, whole.len(), "{name}: the extents end early");
}
