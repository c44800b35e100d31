//! The threads: workers that give sessions their turns, and one that looks for stalled clients.
//!
//! Invariants. An event is asked for by whoever parks the session, after its turn, and once: a session waits for its
//! client, or for memory, or for room in its volume, or for its next turn. A session ends exactly once, after its last admitted write is
//! committed, and nothing of it is admitted later.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::desk::Desk;
use crate::memory::Memory;
use crate::server::{Account, Totals};
use crate::session::{Intake, Session, State};
use crate::succession;
use crate::sys::{self, Epoll, READABLE, WRITABLE};
use crate::turn::{Park, Turn};
use crate::watch::Clock;

/// The number that the bell has among the sessions', which begin at 1.
const BELL: u64 = 0;
/// How often stalled clients are looked for, unless the stall time is shorter than four of these.
const SWEEP: Duration = Duration::from_secs(1);

/// Where events come from: sockets, and the queue of sessions that somebody wakes.
pub(crate) struct Reactor {
    epoll: Epoll,
    bell: OwnedFd,
    /// One ring of the bell for each.
    woken: Mutex<VecDeque<u64>>,
}

impl Reactor {
    pub(crate) fn new() -> std::io::Result<Reactor> {
        let (epoll, bell) = (Epoll::new()?, sys::bell()?);
        epoll.add_level(bell.as_fd(), BELL)?;
        Ok(Reactor { epoll, bell, woken: Mutex::default() })
    }

    /// Adds a session, silent until it is armed or woken.
    pub(crate) fn add(&self, session: &Session) -> std::io::Result<()> {
        self.epoll.add(session.socket.as_fd(), 0, session.id)
    }

    /// Brings about a turn whatever the socket has. (An event of the socket would not do: of a client that neither
    /// sends nor reads there is none.)
    pub(crate) fn wake(&self, id: u64) {
        self.woken.lock().push_back(id);
        self.ring();
    }

    fn arm(&self, session: &Session, events: u32) {
        // Fails only for a session that has ended.
        let _ = self.epoll.arm(session.socket.as_fd(), events, session.id);
    }

    /// The next session that has something to do; None for nothing, after all.
    fn next(&self, done: &AtomicBool) -> std::io::Result<Option<u64>> {
        let event = self.epoll.wait()?;
        if event != Some(BELL) || done.load(Relaxed) {
            return Ok(event.filter(|id| *id != BELL));
        }
        sys::hear(self.bell.as_fd());
        Ok(self.woken.lock().pop_front())
    }

    pub(crate) fn ring(&self) {
        sys::ring(self.bell.as_fd());
    }
}

#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) live: HashMap<u64, Arc<Session>>,
    /// Of sessions that ended.
    pub(crate) past: Totals,
    /// The same by account.
    pub(crate) accounts: HashMap<Arc<str>, Account>,
    pub(crate) last_id: u64,
}

/// What all threads share.
pub(crate) struct Core {
    pub(crate) reactor: Arc<Reactor>,
    pub(crate) memory: Memory,
    pub(crate) clock: Clock,
    pub(crate) stall: Duration,
    pub(crate) registry: Mutex<Registry>,
    /// Rung when a session has left the registry, and when the server stops.
    pub(crate) changed: Condvar,
    pub(crate) stopping: AtomicBool,
    pub(crate) done: AtomicBool,
    idle: AtomicUsize,
    workers: usize,
}

impl Core {
    pub(crate) fn new(workers: usize, memory_bytes: usize, stall: Duration) -> std::io::Result<Core> {
        Ok(Core {
            reactor: Arc::new(Reactor::new()?),
            memory: Memory::new(memory_bytes),
            clock: Clock::new(),
            stall,
            registry: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            done: AtomicBool::new(false),
            idle: AtomicUsize::new(0),
            workers,
        })
    }

    /// True if enough other workers wait for events: this one may stay with its session. (More than one of four, since
    /// several may ask at once, and whoever stays is not available for a few milliseconds.)
    pub(crate) fn has_idle_workers(&self) -> bool {
        self.idle.load(Relaxed) > self.workers / 4
    }

    pub(crate) fn work(&self) {
        let mut desk = Desk::new();
        while !self.done.load(Relaxed) {
            self.idle.fetch_add(1, Relaxed);
            let event = self.reactor.next(&self.done);
            self.idle.fetch_sub(1, Relaxed);
            match event {
                Ok(None) => {}
                Ok(Some(id)) => self.serve(id, &mut desk),
                // Only a bug could break the epoll instance; without it there is nothing to serve.
                Err(error) => panic!("epoll: {error}"),
            }
        }
    }

    fn serve(&self, id: u64, desk: &mut Desk) {
        let Some(session) = self.registry.lock().live.get(&id).cloned() else {
            return;
        };
        session.succeeded.call_once_force(|_| succession::overtake(self, &session));
        let mut state = session.state.lock();
        if state.ended {
            return;
        }
        let turn = AssertUnwindSafe(|| Turn::new(&session, &mut state, desk, self).run());
        let park = catch_unwind(turn).unwrap_or_else(|_| {
            self.clean_up(&session, desk);
            Park::End("internal error".to_owned())
        });
        match park {
            Park::Read => self.reactor.arm(&session, READABLE),
            Park::Write => self.reactor.arm(&session, WRITABLE),
            Park::Either => self.reactor.arm(&session, READABLE | WRITABLE),
            Park::Yield | Park::Memory | Park::Room => {}
            Park::End(reason) => {
                self.retire(&session, &mut state);
                drop(state);
                return self.announce(&session, &reason);
            }
        }
        drop(state);
        // An order that came too late for the turn; one that is being carried out waits for the socket only.
        let late = session.is_cut() || (session.is_finishing() && park != Park::Write);
        if park == Park::Yield || late {
            session.wake();
        }
    }

    /// After a bug in a turn: what was admitted is committed, and the worker gets a fresh desk.
    fn clean_up(&self, session: &Session, desk: &mut Desk) {
        let mut broken = std::mem::replace(desk, Desk::new());
        if let Some(volume) = &session.volume {
            let settle = AssertUnwindSafe(|| broken.batch.settle(volume, |_, _| {}));
            let _ = catch_unwind(settle);
        }
    }

    /// Makes an end of a session whose state is held: nothing is admitted any more, its memory is free.
    pub(crate) fn retire(&self, session: &Arc<Session>, state: &mut State) {
        state.ended = true;
        state.kept = Vec::new();
        state.ahead.shrink(0);
        state.intake = Intake::Header;
        state.aside.clear();
        session.leave_queue();
        state.outbox.clear();
        state.replies.shrink(0);
        state.grant = None;
        self.memory.leave(session.id);
        drop(session.take_grant());
        session.watch.sending.clear();
        session.watch.reading.clear();
        let _ = self.reactor.epoll.remove(session.socket.as_fd());
        session.socket.close();
    }

    /// Takes a retired session off the books and says so.
    pub(crate) fn announce(&self, session: &Arc<Session>, reason: &str) {
        {
            let mut registry = self.registry.lock();
            registry.live.remove(&session.id);
            registry.past.add(session);
            registry.accounts.entry(Arc::clone(&session.agreement.account)).or_default().add(session);
        }
        let on_end = session.on_end.lock().take();
        if let Some(on_end) = on_end {
            let call = AssertUnwindSafe(|| on_end(session.id, reason));
            // The callback's own bug ends nothing else.
            let _ = catch_unwind(call);
        }
        session.over.store(true, Relaxed);
        let registry = self.registry.lock();
        self.changed.notify_all();
        self.end_if_done(&registry);
    }

    /// Lets the threads go once the server stops and the last session has ended.
    pub(crate) fn end_if_done(&self, registry: &Registry) {
        if self.stopping.load(Relaxed) && registry.live.is_empty() {
            self.done.store(true, Relaxed);
            self.reactor.ring();
            self.changed.notify_all();
        }
    }

    /// Cuts clients that owe progress for too long, until the server is done.
    pub(crate) fn sweep(&self) {
        let step = SWEEP.min(self.stall / 4).max(Duration::from_millis(5));
        let mut registry = self.registry.lock();
        while !self.done.load(Relaxed) {
            if registry.live.is_empty() {
                self.changed.wait(&mut registry);
                continue;
            }
            self.changed.wait_for(&mut registry, step);
            let live: Vec<Arc<Session>> = registry.live.values().cloned().collect();
            parking_lot::MutexGuard::unlocked(&mut registry, || {
                live.iter().for_each(|session| self.check(session));
            });
        }
    }

    fn check(&self, session: &Session) {
        // In its turn: not stalled.
        let Some(state) = session.state.try_lock() else {
            return;
        };
        let (now, watch) = (self.clock.now(), &session.watch);
        if watch.reading.is_set() {
            let queued = session.socket.queued().unwrap_or(0);
            watch.look(now, queued, state.outbox.unsent() as u64);
        }
        let sending = watch.sending.overdue(now, self.stall);
        let reading = watch.reading.overdue(now, self.stall);
        drop(state);
        if session.waits.load(Relaxed) && session.is_abandoned() {
            session.cut("client gone while its writes waited for room");
        } else if sending {
            session.cut("stalled: no progress while sending a payload");
        } else if reading {
            session.cut("stalled: no progress while reading replies");
        }
    }
}
