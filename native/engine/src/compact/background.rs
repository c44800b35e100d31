//! The thread that compacts: when, how hard, and how it gives way to writes.
//!
//! Invariants: it runs while the volume is open for writing and ends with it; without pressure it takes a small share of the time and looks only when enough has
//! become old; a cycle that gave nothing is not repeated before something changed.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Kind, Result};
use crate::units::Lsn;
use crate::volume::Volume;

/// How often it looks, unless it is called: when room gets short, or history was given up.
const LOOK: Duration = Duration::from_millis(500);
/// Share of the time that it works while clients write and there is room.
const SHARE_IDLE: f64 = 0.2;
/// The same while it has to make room, before that is short.
const SHARE_NEED: f64 = 0.5;
/// Without pressure it looks once this part of what is old is new to it.
const NEWS: u64 = 16;
/// Where the processor is short, clients come first: whoever outruns compaction is slowed down at the gate, and it gets its share then.
const NICE: libc::c_int = 10;
/// Longest pause in one go.
const PAUSE_MAX: Duration = Duration::from_millis(200);

#[derive(Default)]
pub struct Wake {
    stop: bool,
    called: bool,
}

/// The thread and how it is called.
#[derive(Default)]
pub struct Background {
    shared: Arc<(Mutex<Wake>, Condvar)>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Background {
    /// Looks now: room gets short, or history was given up.
    pub fn call(&self) {
        self.shared.0.lock().called = true;
        self.shared.1.notify_all();
    }

    pub fn stop(&self) {
        self.shared.0.lock().stop = true;
        self.shared.1.notify_all();
    }

    /// Waits for its end. What it does meanwhile it throws away.
    pub fn join(&self) {
        self.stop();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.0.lock().stop
    }
}

/// What a volume looked like at the last cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    horizon: Lsn,
    points: usize,
    newest: u64,
    /// Bytes of segments at or below the horizon.
    old_bytes: u64,
}

/// Starts the thread. It holds no strong reference while it waits, so that dropping the volume ends it.
pub(crate) fn spawn(volume: &Arc<Volume>) -> Result<()> {
    let weak = Arc::downgrade(volume);
    let shared = volume.background.shared.clone();
    let thread = std::thread::Builder::new().name("cdp-compact".into()).stack_size(1 << 20);
    let spawned = thread.spawn(move || run(&weak, &shared));
    let thread = spawned.map_err(|e| Error::io("start", "the compaction thread", &e))?;
    *volume.background.thread.lock() = Some(thread);
    Ok(())
}

fn run(weak: &Weak<Volume>, shared: &Arc<(Mutex<Wake>, Condvar)>) {
    stand_back();
    let (wake, changed) = &**shared;
    let mut seen = Seen::default();
    // The cycle at `seen` gave nothing.
    let mut futile = false;
    let mut failed = Seen::default();
    // There is more to be freed, and it can be.
    let mut go_on = false;
    loop {
        {
            let mut wake = wake.lock();
            if !wake.stop && !wake.called && !go_on {
                changed.wait_for(&mut wake, LOOK);
            }
            if wake.stop {
                return;
            }
            wake.called = false;
        }
        go_on = false;
        let Some(volume) = weak.upgrade() else { return };
        if volume.is_closed() || volume.poison.get().is_some() {
            continue;
        }
        *volume.pace.lock() = (Some(now()), volume.ring.clock().0);
        let now = volume.seen();
        let need = volume.room_needed();
        let due =
            if need > 0 { !futile || now != seen } else { now.old_bytes > seen.old_bytes + seen.old_bytes / NEWS };
        if !due {
            continue;
        }
        seen = now;
        let outcome = volume.compact(need, &mut |_| volume.give_way(shared));
        // The reserve can be had back now, and writes go on.
        volume.gate.knock();
        match outcome {
            Ok(done) => {
                futile = done.freed == 0;
                go_on = !futile && volume.room_needed() > 0;
                if need == 0 {
                    seen = volume.seen();
                }
            }
            Err(e) => {
                // With no room on the disk the next cycle has the reserve.
                futile = e.kind != Kind::NoSpace || seen == failed;
                failed = seen;
                if !matches!(e.kind, Kind::Closed | Kind::NoSpace) {
                    volume.faults.note(format!("compaction: {}", e.message));
                }
            }
        }
    }
}

/// For the calling thread (setpriority(2), "Linux": nice values are per thread). Where it is refused all threads are equal.
fn stand_back() {
    // SAFETY: no pointers; 0 names the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// How long work takes is no part of what a volume does: the clock of stamps may be stepped, and a simulated one stands still.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

impl Volume {
    fn seen(&self) -> Seen {
        let (horizon, points) = self.reachable();
        let sealed = self.index.sealed();
        let old = sealed.iter().filter(|s| s.item.last_lsn <= horizon.lsn);
        Seen {
            horizon: horizon.lsn,
            points: points.len(),
            newest: sealed.last().map_or(0, |s| s.item.last_lsn.0),
            old_bytes: old.map(|s| s.item.file_bytes).sum(),
        }
    }

    /// Bytes that compaction has to free now; 0 where there is room.
    fn room_needed(&self) -> u64 {
        self.gate.meter.room_needed()
    }

    /// After each megabyte: lets the writers have the machine, the less the nearer they are to being slowed down.
    fn give_way(&self, shared: &Arc<(Mutex<Wake>, Condvar)>) -> Result<()> {
        if self.background.is_stopped() {
            return Err(Error::new(Kind::Closed, "the volume is closed"));
        }
        // With need it takes half of the time at once, and all of it soon: to slow writes down is dearer than what it takes from them.
        let pressure = self.gate.meter.pressure();
        let share = if pressure > 0.0 { (SHARE_NEED + 2.0 * pressure).min(1.0) } else { SHARE_IDLE };
        let (last, admitted) = *self.pace.lock();
        let latest = self.ring.clock().0;
        if latest != admitted && share < 1.0 {
            let worked = last.map_or(Duration::ZERO, |last| last.elapsed());
            let pause = worked.mul_f64((1.0 - share) / share).min(PAUSE_MAX);
            let (wake, changed) = &**shared;
            let mut wake = wake.lock();
            if !wake.stop {
                changed.wait_for(&mut wake, pause);
            }
        }
        *self.pace.lock() = (Some(now()), latest);
        Ok(())
    }
}
