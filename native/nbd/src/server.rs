//! The server as its owner sees it: attach, watch, disconnect, stop.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cdp_engine::{Error, Kind, Result};
use parking_lot::Mutex;

use crate::memory::WINDOW;
use crate::request::REQUEST_MAX;
use crate::session::{Agreement, OnEnd, Session};
use crate::socket::Socket;
use crate::sys;
use crate::tally::{Row, KINDS};
use crate::tls::Tls;
use crate::worker::Core;
use crate::{Config, Export, Mode};

/// A live session; bytes as they passed the socket, with TLS those inside it.
#[derive(Clone, Debug, Default)]
pub struct SessionFacts {
    pub id: u64,
    pub requests: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub errors: u64,
    /// Bytes of replies that the client has not taken.
    pub pending_bytes: u64,
}

/// All sessions, the ended ones included.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub sessions: u64,
    pub live: u64,
    pub requests: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub errors: u64,
    /// Payload memory in use.
    pub memory_bytes: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, session: &Session) {
        let counters = &session.counters;
        self.requests += counters.requests.load(Relaxed);
        self.bytes_in += counters.bytes_in.load(Relaxed);
        self.bytes_out += counters.bytes_out.load(Relaxed);
        self.errors += counters.errors.load(Relaxed);
    }
}

/// What was asked for under an account, by sessions that live and that ended.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Live sessions.
    pub sessions: u64,
    pub errors: u64,
    /// By `Kind`.
    pub rows: [Row; KINDS],
}

impl Account {
    pub(crate) fn add(&mut self, session: &Session) {
        self.errors += session.counters.errors.load(Relaxed);
        session.counters.tally.add_to(&mut self.rows);
    }
}

/// The transmission phase for many sessions: a fixed set of threads over epoll. Dropped without `stop`, its threads
/// end on their own.
pub struct Server {
    core: Arc<Core>,
    sessions_max: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// Starts the threads. Invalid for a configuration that cannot work, Io if the system refuses.
    pub fn new(config: Config) -> Result<Server> {
        if config.workers == 0 || config.sessions_max == 0 || config.stall.is_zero() {
            return Err(Error::invalid("workers, sessions and stall time must be more than zero"));
        }
        if config.memory_bytes < REQUEST_MAX {
            return Err(Error::invalid("payload memory must be at least 64 MiB: one request"));
        }
        let memory_bytes = usize::try_from(config.memory_bytes)
            .map_err(|_| Error::invalid("payload memory beyond the address space"))?;
        sys::bound_arenas();
        let core = Core::new(config.workers, memory_bytes, config.stall).map_err(|error| io("epoll", &error))?;
        let server = Server { core: Arc::new(core), sessions_max: config.sessions_max, threads: Mutex::default() };
        for index in 0..config.workers {
            server.spawn(format!("nbd-{index}"), Core::work)?;
        }
        server.spawn("nbd-sweep".to_owned(), Core::sweep)?;
        Ok(server)
    }

    fn spawn(&self, name: String, run: fn(&Core)) -> Result<()> {
        let core = Arc::clone(&self.core);
        let thread = std::thread::Builder::new().name(name).spawn(move || run(&core));
        self.threads.lock().push(thread.map_err(|error| io("thread", &error))?);
        Ok(())
    }

    /// Takes over a connected stream socket (Unix or TCP) after negotiation. `leftover`: bytes already read beyond
    /// it, at most 256 KiB. `on_end` is called once, from a thread of the server, with the session's number and why
    /// it ended. The session's number; Closed when stopping, Busy at the bound of sessions, Invalid for a context
    /// that is not known.
    pub fn attach(
        &self,
        socket: OwnedFd,
        leftover: Vec<u8>,
        export: Export,
        mode: Mode,
        on_end: Option<OnEnd>,
    ) -> Result<u64> {
        self.attach_over(socket, None, leftover, export, mode, on_end)
    }

    /// `attach` of a socket over which TLS is spoken: its handshake is done, and what it had to send was sent.
    /// `leftover` is decrypted.
    pub fn attach_over(
        &self,
        socket: OwnedFd,
        tls: Option<Tls>,
        leftover: Vec<u8>,
        export: Export,
        mode: Mode,
        on_end: Option<OnEnd>,
    ) -> Result<u64> {
        if leftover.len() > WINDOW {
            return Err(Error::invalid("more than 256 KiB were read beyond the negotiation"));
        }
        let agreement = Agreement::new(mode)?;
        let socket = Socket::new(socket, tls).map_err(|error| io("socket", &error))?;
        let core = &self.core;
        let mut registry = core.registry.lock();
        if core.stopping.load(Relaxed) {
            return Err(Error::new(Kind::Closed, "the server is stopping"));
        }
        if registry.live.len() >= self.sessions_max {
            let message = format!("{} sessions are live, the most allowed", self.sessions_max);
            return Err(Error::new(Kind::Busy, message));
        }
        let id = registry.last_id + 1;
        let read = leftover.len() as u64;
        let session = Session::new(id, socket, leftover, export, agreement, on_end, core);
        session.counters.bytes_in.store(read, Relaxed);
        core.reactor.add(&session).map_err(|error| io("epoll", &error))?;
        registry.last_id = id;
        registry.live.insert(id, Arc::new(session));
        core.reactor.wake(id);
        core.changed.notify_all();
        Ok(id)
    }

    /// The live sessions, by number.
    pub fn sessions(&self) -> Vec<SessionFacts> {
        let registry = self.core.registry.lock();
        let mut facts: Vec<SessionFacts> = registry.live.values().map(|session| facts_of(session)).collect();
        facts.sort_unstable_by_key(|session| session.id);
        facts
    }

    /// What was asked for, by account (`Mode::account`), in the order of their names. An account stays when its sessions end.
    pub fn accounts(&self) -> BTreeMap<Arc<str>, Account> {
        let registry = self.core.registry.lock();
        let past = registry.accounts.iter().map(|(name, account)| (Arc::clone(name), account.clone()));
        let mut accounts: BTreeMap<Arc<str>, Account> = past.collect();
        for session in registry.live.values() {
            let account = accounts.entry(Arc::clone(&session.agreement.account)).or_default();
            account.sessions += 1;
            account.add(session);
        }
        accounts
    }

    pub fn totals(&self) -> Totals {
        let registry = self.core.registry.lock();
        let mut totals = registry.past.clone();
        registry.live.values().for_each(|session| totals.add(session));
        totals.sessions = registry.last_id;
        totals.live = registry.live.len() as u64;
        totals.memory_bytes = self.core.memory.used() as u64;
        totals
    }

    /// Ends a session: its admitted writes are finished and answered, nothing more is read. Returns when it has
    /// ended and its callback has returned; so not to be called from that callback. An unknown number is no error.
    pub fn disconnect(&self, id: u64) {
        let mut registry = self.core.registry.lock();
        let Some(session) = registry.live.get(&id).cloned() else {
            return;
        };
        session.finish("disconnected by the server");
        while !session.over.load(Relaxed) {
            self.core.changed.wait(&mut registry);
        }
    }

    /// Reads no more requests, answers the admitted ones, and closes all; after `grace` without waiting for clients
    /// that do not read. Returns when every session has ended and the threads are gone. Idempotent.
    pub fn stop(&self, grace: Duration) {
        let core = &self.core;
        let mut registry = core.registry.lock();
        core.stopping.store(true, Relaxed);
        registry.live.values().for_each(|session| session.finish("server stopped"));
        let deadline = Instant::now() + grace;
        while !registry.live.is_empty() {
            if core.changed.wait_until(&mut registry, deadline).timed_out() {
                registry.live.values().for_each(|session| session.cut("server stopped"));
                break;
            }
        }
        while !registry.live.is_empty() {
            core.changed.wait(&mut registry);
        }
        core.end_if_done(&registry);
        drop(registry);
        for thread in self.threads.lock().drain(..) {
            // A worker that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    /// Ends all as `stop` does, without waiting: whoever drops may hold what a callback waits for.
    fn drop(&mut self) {
        let registry = self.core.registry.lock();
        self.core.stopping.store(true, Relaxed);
        registry.live.values().for_each(|session| session.cut("server stopped"));
        self.core.end_if_done(&registry);
    }
}

fn io(what: &str, error: &std::io::Error) -> Error {
    Error::new(Kind::Io, format!("{what}: {error}"))
}

fn facts_of(session: &Session) -> SessionFacts {
    let counters = &session.counters;
    SessionFacts {
        id: session.id,
        requests: counters.requests.load(Relaxed),
        bytes_in: counters.bytes_in.load(Relaxed),
        bytes_out: counters.bytes_out.load(Relaxed),
        errors: counters.errors.load(Relaxed),
        pending_bytes: counters.pending.load(Relaxed),
    }
}
