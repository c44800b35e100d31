//! The gate before the ring: writes pass, are slowed down, wait, or fail, by how much room there is.
//!
//! Invariants: nobody waits with a lock held; who waits is answered, once, and in the order of asking; a closed gate lets everybody through (the
//! ring refuses them). A permit is room promised to a write until its bytes are counted or given up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Kind, Result};
use crate::journal::manifest::{Content, Edit};
use crate::space::{Class, FullPolicy, Meter, Verdict};
use crate::volume::Volume;

/// Delays are slept off in pieces of this: a thread cannot sleep for microseconds.
const BURST: Duration = Duration::from_millis(2);
/// How often a full disk is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// An episode of waiting is over when nobody had to wait for this long.
const EPISODE_END: Duration = Duration::from_secs(5);

/// Gets the answer to what it asked. Called without any lock of the engine.
pub trait Waiter: Send + Sync {
    /// Room for the write, or the reason why there will be none.
    fn answer(&self, answer: Result<Permit>);
}

/// Room for one write.
pub struct Permit {
    meter: Arc<Meter>,
    bytes: u64,
}

impl Permit {
    fn new(meter: &Arc<Meter>, bytes: u64) -> Permit {
        meter.promise(bytes);
        Permit { meter: meter.clone(), bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.meter.unpromise(self.bytes);
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Permit({})", self.bytes)
    }
}

struct Ask {
    bytes: u64,
    class: Class,
    waiter: Arc<dyn Waiter>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Ask>,
    /// Delay that nobody has slept off yet.
    owed: Duration,
    closed: bool,
    has_keeper: bool,
    /// Somebody wants the keeper to look again.
    knocked: bool,
    /// Under `Fail`: the next write may try whether the disk has room.
    may_try: bool,
    /// Since when writes wait, as a stamp, and why: until the episode is over.
    episode: Option<Episode>,
}

#[derive(Clone)]
struct Episode {
    began: u64,
    disk: bool,
    told: bool,
}

pub struct Gate {
    pub meter: Arc<Meter>,
    state: Mutex<State>,
    /// Somebody asks; wakes a keeper that has nothing to do.
    asked: Condvar,
    /// There may be room, or the gate is closed; wakes a keeper in whatever it waits for. (Who asks must not shorten a delay.)
    changed: Condvar,
    waiting: AtomicUsize,
    delayed_ns: AtomicU64,
    stalled: AtomicBool,
    volume: OnceLock<Weak<Volume>>,
}

impl Gate {
    pub fn new(meter: Meter) -> Gate {
        Gate {
            meter: Arc::new(meter),
            state: Mutex::default(),
            asked: Condvar::new(),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
            delayed_ns: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            volume: OnceLock::new(),
        }
    }

    /// Says whose gate it is. Without that there is no thread that could answer, and nobody waits: what does not fit fails.
    pub fn keep_for(&self, volume: &Arc<Volume>) {
        let _ = self.volume.set(Arc::downgrade(volume));
    }

    /// True if there is somebody who answers.
    pub fn has_keeper(&self) -> bool {
        self.volume.get().is_some()
    }

    /// True if writes wait for room instead of failing.
    pub fn lets_wait(&self) -> bool {
        self.has_keeper() && self.meter.policy() != FullPolicy::Fail
    }

    /// True if a write would pass at once.
    pub fn is_open(&self) -> bool {
        self.waiting.load(Relaxed) == 0 && self.meter.is_roomy()
    }

    /// Passes at once, or leaves `waiter` in the queue to be answered later (None). NoSpace where writes fail.
    pub fn ask(self: &Arc<Gate>, bytes: u64, class: Class, waiter: &Arc<dyn Waiter>) -> Result<Option<Permit>> {
        if self.is_open() {
            return Ok(Some(self.permit(bytes)));
        }
        let mut state = self.state.lock();
        if let Some(permit) = self.try_pass(&mut state, bytes, class)? {
            return Ok(Some(permit));
        }
        self.start_keeper(&mut state)?;
        state.queue.push_back(Ask { bytes, class, waiter: waiter.clone() });
        self.waiting.store(state.queue.len(), Relaxed);
        self.asked.notify_all();
        Ok(None)
    }

    /// Passes at once or not at all (None). NoSpace where writes fail.
    pub fn pass(&self, bytes: u64, class: Class) -> Result<Option<Permit>> {
        if self.is_open() {
            return Ok(Some(self.permit(bytes)));
        }
        self.try_pass(&mut self.state.lock(), bytes, class)
    }

    /// Room that is not asked for: for what must not wait.
    pub fn permit(&self, bytes: u64) -> Permit {
        Permit::new(&self.meter, bytes)
    }

    fn try_pass(&self, state: &mut State, bytes: u64, class: Class) -> Result<Option<Permit>> {
        if state.closed {
            return Ok(Some(self.permit(bytes)));
        }
        let verdict = self.meter.judge(bytes, class);
        if verdict == Verdict::Full && !self.lets_wait() {
            return self.try_or_fail(state, bytes).map(Some);
        }
        // Nobody overtakes who waits; zeros, which are not slowed down, are another queue in effect.
        if !state.queue.is_empty() && class == Class::Data {
            return Ok(None);
        }
        match verdict {
            Verdict::Go => Ok(Some(self.permit(bytes))),
            Verdict::Slow(delay) if self.has_keeper() => {
                state.owed += delay;
                Ok((state.owed < BURST).then(|| self.permit(bytes)))
            }
            Verdict::Slow(_) => Ok(Some(self.permit(bytes))),
            Verdict::Full => Ok(None),
        }
    }

    /// Under `Fail`. Once a second a write may find out whether the disk has room again; the others are told at once, so that a client that does not
    /// give up uses no LSNs.
    fn try_or_fail(&self, state: &mut State, bytes: u64) -> Result<Permit> {
        if self.meter.is_disk_full() && (state.may_try || !self.has_keeper()) {
            state.may_try = false;
            return Ok(self.permit(bytes));
        }
        Err(no_room(&self.meter))
    }

    /// Waits for room.
    pub fn wait(self: &Arc<Gate>, bytes: u64, class: Class) -> Result<Permit> {
        if self.is_open() {
            return Ok(self.permit(bytes));
        }
        let slot = Arc::new(Slot::default());
        let waiter: Arc<dyn Waiter> = slot.clone();
        match self.ask(bytes, class, &waiter)? {
            Some(permit) => Ok(permit),
            None => slot.take(),
        }
    }

    /// Forgets what a waiter asked for.
    pub fn leave(&self, waiter: &Arc<dyn Waiter>) {
        let mut state = self.state.lock();
        let address = |waiter: &Arc<dyn Waiter>| Arc::as_ptr(waiter).cast::<()>();
        state.queue.retain(|ask| address(&ask.waiter) != address(waiter));
        self.waiting.store(state.queue.len(), Relaxed);
    }

    /// What the manifest names from now on.
    pub fn committed(&self, edits: &[Edit], content: &Content, manifest_bytes: u64) {
        if self.meter.committed(edits, content, manifest_bytes) {
            self.knock();
        }
    }

    /// The disk refused a write.
    pub fn disk_filled(self: &Arc<Gate>) {
        let mut state = self.state.lock();
        self.meter.disk_filled();
        state.may_try = false;
        // Without the thread, the next write tries again.
        let _ = self.start_keeper(&mut state);
        self.asked.notify_all();
    }

    /// The disk took a write.
    pub fn disk_took(&self) {
        self.meter.disk_has_room();
        self.knock();
    }

    /// There may be more room: look again.
    pub fn knock(&self) {
        self.state.lock().knocked = true;
        self.asked.notify_all();
        self.changed.notify_all();
    }

    /// Lets everybody through, and ends the thread.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.asked.notify_all();
        self.changed.notify_all();
    }

    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    pub fn delayed_ns(&self) -> u64 {
        self.delayed_ns.load(Relaxed)
    }

    fn start_keeper(self: &Arc<Gate>, state: &mut State) -> Result<()> {
        if state.has_keeper || state.closed || !self.has_keeper() {
            return Ok(());
        }
        let gate = self.clone();
        let thread = std::thread::Builder::new().name("cdp-gate".into()).stack_size(1 << 20);
        thread.spawn(move || gate.keep()).map_err(|e| Error::io("start", "the gate's thread", &e))?;
        state.has_keeper = true;
        Ok(())
    }

    /// The thread that answers who waits.
    fn keep(self: Arc<Gate>) {
        let mut state = self.state.lock();
        while !state.closed {
            state.knocked = false;
            match state.queue.front().map(|ask| self.meter.judge(ask.bytes, ask.class)) {
                None => self.idle(&mut state),
                Some(Verdict::Go) => self.let_one_in(&mut state),
                Some(Verdict::Slow(delay)) => self.slow_down(&mut state, delay),
                Some(Verdict::Full) => self.wait_for_room(&mut state),
            }
        }
        while !state.queue.is_empty() {
            self.let_one_in(&mut state);
        }
    }

    fn idle(&self, state: &mut MutexGuard<'_, State>) {
        self.stalled.store(false, Relaxed);
        if self.meter.is_disk_full() {
            if self.asked.wait_for(state, RETRY).timed_out() {
                state.may_try = true;
                self.try_the_disk(state, false);
            }
        } else if state.episode.is_none() {
            self.asked.wait(state);
        } else if self.asked.wait_for(state, EPISODE_END).timed_out() {
            self.end_episode(state);
        }
    }

    fn let_one_in(&self, state: &mut MutexGuard<'_, State>) {
        let Some(ask) = state.queue.pop_front() else { return };
        self.waiting.store(state.queue.len(), Relaxed);
        let permit = self.permit(ask.bytes);
        MutexGuard::unlocked(state, || ask.waiter.answer(Ok(permit)));
    }

    fn slow_down(&self, state: &mut MutexGuard<'_, State>, delay: Duration) {
        self.stalled.store(false, Relaxed);
        state.owed += delay;
        if state.owed >= BURST {
            let owed = std::mem::take(&mut state.owed);
            self.delayed_ns.fetch_add(u64::try_from(owed.as_nanos()).unwrap_or(u64::MAX), Relaxed);
            // Cut short where something changed: who closes, leaves, or makes room does not wait for the rest.
            if !state.closed && !state.knocked {
                self.changed.wait_for(state, owed);
            }
        }
        self.let_one_in(state);
    }

    fn wait_for_room(&self, state: &mut MutexGuard<'_, State>) {
        if self.meter.policy() == FullPolicy::Fail {
            let Some(ask) = state.queue.pop_front() else { return };
            self.waiting.store(state.queue.len(), Relaxed);
            let error = no_room(&self.meter);
            return MutexGuard::unlocked(state, || ask.waiter.answer(Err(error)));
        }
        self.stalled.store(true, Relaxed);
        self.begin_episode(state);
        if state.closed || state.knocked {
            return;
        }
        if !self.meter.is_disk_full() {
            self.changed.wait(state);
        } else if self.changed.wait_for(state, RETRY).timed_out() || state.knocked {
            self.try_the_disk(state, true);
        }
    }

    /// Finds out whether the disk has room: by taking the reserve back where it was given up, else by letting one write try.
    fn try_the_disk(&self, state: &mut MutexGuard<'_, State>, let_in: bool) {
        let Some(volume) = self.volume.get().and_then(Weak::upgrade) else { return };
        let back = MutexGuard::unlocked(state, || volume.take_reserve_back());
        match back {
            Some(true) => self.meter.disk_has_room(),
            Some(false) => {}
            None if let_in => self.let_one_in(state),
            None => {}
        }
        MutexGuard::unlocked(state, || drop(volume));
    }

    /// What writes wait for is noted on the timeline at once where the budget leaves room for that; of a full disk, when it is over.
    fn begin_episode(&self, state: &mut MutexGuard<'_, State>) {
        let disk = self.meter.is_disk_full();
        let episode = state.episode.get_or_insert(Episode { began: 0, disk, told: false });
        if (episode.told || disk) && episode.began > 0 {
            return;
        }
        let Some(volume) = self.volume.get().and_then(Weak::upgrade) else { return };
        if episode.began == 0 {
            episode.began = volume.storage.now();
        }
        episode.told = !disk;
        let text = episode_event("stall", episode, "");
        MutexGuard::unlocked(state, || {
            if !disk {
                volume.note_event(&text);
            }
            drop(volume);
        });
    }

    fn end_episode(&self, state: &mut MutexGuard<'_, State>) {
        let Some(episode) = state.episode.take() else { return };
        MutexGuard::unlocked(state, || {
            let Some(volume) = self.volume.get().and_then(Weak::upgrade) else { return };
            let ended = format!(r#","ended":{}"#, volume.storage.now().saturating_sub(EPISODE_END.as_nanos() as u64));
            volume.note_event(&episode_event("stall-ended", &episode, &ended));
        });
    }
}

fn episode_event(event: &str, episode: &Episode, more: &str) -> String {
    let reason = if episode.disk { "disk" } else { "budget" };
    format!(r#"{{"type":"event","event":"{event}","reason":"{reason}","began":{}{more}}}"#, episode.began)
}

fn no_room(meter: &Meter) -> Error {
    let what = if meter.is_disk_full() { "the disk is full" } else { "the volume has used its budget" };
    Error::new(Kind::NoSpace, format!("{what} ({} bytes), and its policy is to fail writes", meter.used()))
}

/// A thread that waits for its answer.
#[derive(Default)]
struct Slot {
    answer: Mutex<Option<Result<Permit>>>,
    changed: Condvar,
}

impl Slot {
    fn take(&self) -> Result<Permit> {
        let mut answer = self.answer.lock();
        loop {
            if let Some(answer) = answer.take() {
                return answer;
            }
            self.changed.wait(&mut answer);
        }
    }
}

impl Waiter for Slot {
    fn answer(&self, answer: Result<Permit>) {
        *self.answer.lock() = Some(answer);
        self.changed.notify_all();
    }
}
