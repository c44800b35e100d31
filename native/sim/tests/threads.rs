//! The promises of crash.rs with real threads: sessions that race each other and the volume's own thread, until the power goes.
//!
//! Which thread runs when is not repeatable; what must hold is: each session fills its region with a count, so a region that
//! is not uniform is half a request, and a count below the one that was flushed is a broken promise.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use cdp_engine::storage::Storage;
use cdp_engine::{Lsn, Maintenance, Options, Stamp, View, Volume};
use cdp_sim::campaign::{seeds, Case};
use cdp_sim::story::small_options;
use cdp_sim::{Death, Machine, Restart, Rng};

const SESSIONS: usize = 4;
/// Neither aligned nor a multiple of a sector: neighbours share sectors and must not lose each other's bytes.
const REGION_BYTES: usize = 9001;
const VOLUME_BYTES: u64 = 40_960;

/// What one session was promised.
#[derive(Default)]
struct Promise {
    tried: AtomicU64,
    committed: AtomicU64,
    flushed: AtomicU64,
}

fn options() -> Options {
    Options { maintenance: Maintenance::Thread, ..small_options() }
}

/// Writes counts until the process is dead.
fn session(volume: &Volume, promise: &Promise, number: usize, seed: u64) {
    let rng = &mut Rng::new(seed);
    let offset = (number * REGION_BYTES) as u64;
    for count in 1.. {
        promise.tried.store(count, Ordering::SeqCst);
        let content: Vec<u8> = count.to_le_bytes().iter().copied().cycle().take(REGION_BYTES).collect();
        let Ok(lsn) = volume.write(offset, &content) else { return };
        if volume.commit(lsn).is_err() {
            return;
        }
        promise.committed.store(count, Ordering::SeqCst);
        let synced = match rng.below(6) {
            0 => volume.flush(),
            1 => volume.sync_to(lsn),
            _ => continue,
        };
        if synced.is_err() {
            return;
        }
        promise.flushed.store(count, Ordering::SeqCst);
    }
}

/// The count that fills a session's region, or why it cannot be read; panics where it is half of one.
fn count_in(view: &View, number: usize) -> Result<u64, String> {
    let mut seen = vec![0; REGION_BYTES];
    let faults = view.read((number * REGION_BYTES) as u64, &mut seen).map_err(|e| e.to_string())?;
    if let Some(fault) = faults.first() {
        return Err(format!("{fault:?}"));
    }
    let mut count = [0; 8];
    count.copy_from_slice(&seen[..8]);
    let uniform = seen.iter().zip(count.iter().cycle()).all(|(a, b)| a == b);
    assert!(uniform, "half a request in the region of session {number}, view {:?}", view.lsn());
    Ok(u64::from_le_bytes(count))
}

/// Looks at the newest instant again and again: it shows whole requests, and does not change under the eyes.
fn look(volume: &Arc<Volume>, machine: &Machine) {
    while machine.died().is_none() {
        let Ok(view) = volume.view(volume.latest().0) else { continue };
        for number in 0..SESSIONS {
            let (first, again) = (count_in(&view, number), count_in(&view, number));
            assert!(machine.died().is_some() || first.is_ok() && first == again, "{first:?}, then {again:?}");
        }
    }
}

fn run_until_death(machine: &Machine, seed: u64, death: Death) -> Vec<Promise> {
    let storage: Arc<dyn Storage> = machine.boot();
    Volume::create(storage.clone(), *b"a disk in a race", VOLUME_BYTES, Stamp(storage.now())).expect("create");
    machine.die_at(machine.changes() + 30 + seed * 37 % 400, death);
    let volume = Volume::open(storage, None, options()).expect("open");
    let promises: Vec<Promise> = (0..SESSIONS).map(|_| Promise::default()).collect();
    std::thread::scope(|scope| {
        for (number, promise) in promises.iter().enumerate() {
            let volume = &volume;
            scope.spawn(move || session(volume, promise, number, seed * 10 + number as u64));
        }
        scope.spawn(|| look(&volume, machine));
    });
    assert_eq!(machine.died(), Some(death), "the sessions ended, but not by death");
    promises
}

fn check(volume: &Arc<Volume>, promises: &[Promise], death: Death, rng: &mut Rng) {
    for (number, promise) in promises.iter().enumerate() {
        let count = count_in(&volume.live(), number).expect("a sound disk reads");
        let floor = match death {
            Death::Power => promise.flushed.load(Ordering::SeqCst),
            Death::Kill => promise.committed.load(Ordering::SeqCst),
        };
        let tried = promise.tried.load(Ordering::SeqCst);
        assert!((floor..=tried).contains(&count), "session {number}: {floor} promised, {count} there, {tried} tried");
    }
    let latest = volume.latest().0 .0;
    let mut counts = [0; SESSIONS];
    let mut lsns: Vec<u64> = (0..12).map(|_| rng.between(1, latest.min(600))).collect();
    lsns.sort();
    for lsn in lsns {
        let Ok(view) = volume.view(Lsn(lsn)) else { continue };
        for (number, last) in counts.iter_mut().enumerate() {
            let count = count_in(&view, number).expect("a sound disk reads");
            assert!(count >= *last, "session {number} goes back from {last} to {count} at LSN {lsn}");
            *last = count;
        }
    }
}

#[test]
fn sessions_that_race_until_the_end_keep_their_promises() {
    for seed in seeds(60) {
        let _case = Case { test: "threads sessions", seed, call: 0, cut: 0 };
        let rng = &mut Rng::new(seed);
        let machine = Machine::new(seed);
        let (death, restart) = match seed % 4 {
            0 => (Death::Kill, Restart::Process),
            1 => (Death::Power, Restart::AllLost),
            _ => (Death::Power, Restart::Power(seed)),
        };
        let promises = run_until_death(&machine, seed, death);
        machine.restart(restart);
        let volume = Volume::open(machine.boot(), None, options()).expect("recover");
        assert!(!volume.faults().iter().any(|f| f.contains("lost")), "{:?}", volume.faults());
        check(&volume, &promises, death, rng);
        volume.close().expect("close");
        drop(volume);
        let volume = Volume::open(machine.boot(), None, options()).expect("open");
        check(&volume, &promises, death, rng);
    }
}
