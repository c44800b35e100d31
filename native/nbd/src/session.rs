//! One connection.
//!
//! Invariants. One worker at a time has the state (its lock is a turn). A session outside its turn has no admitted
//! write that is not committed, and owns no buffer but what it holds memory for (and less than a header besides). It
//! ends once.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Once, OnceLock};
use std::time::Instant;

use cdp_engine::{Error, Permit, Result, View, Volume, Waiter as RoomWaiter, Waiting};
use parking_lot::Mutex;

use crate::memory::{Hold, Waiter};
use crate::outbox::Outbox;
use crate::reply::{To, Voice};
use crate::request::{Command, Facts, Refusal, Terms};
use crate::socket::Socket;
use crate::sys;
use crate::tally::Tally;
use crate::watch::Watch;
use crate::worker::{Core, Reactor};
use crate::{Export, Mode};

pub(crate) type OnEnd = Box<dyn FnOnce(u64, &str) + Send>;

/// A kind of metadata.
pub(crate) enum Context {
    Allocation,
    /// What was written since this instant: `x-cdp:changed-since:`.
    ChangedSince(View),
}

/// What was agreed on and does not change.
pub(crate) struct Agreement {
    pub(crate) voice: Voice,
    pub(crate) ids: Vec<u32>,
    pub(crate) contexts: Vec<Context>,
    pub(crate) account: Arc<str>,
}

impl Agreement {
    pub(crate) fn new(mode: Mode) -> Result<Agreement> {
        let structured = mode.structured || mode.extended;
        let mut agreement = Agreement {
            voice: Voice { structured, extended: mode.extended },
            ids: Vec::new(),
            contexts: Vec::new(),
            account: mode.account.into(),
        };
        for (id, name) in mode.contexts {
            if name != "base:allocation" {
                return Err(Error::invalid(format!("metadata context {name} is not known")));
            }
            agreement.add(id, Context::Allocation)?;
        }
        for (id, view) in mode.since {
            agreement.add(id, Context::ChangedSince(view))?;
        }
        Ok(agreement)
    }

    fn add(&mut self, id: u32, context: Context) -> Result<()> {
        if self.ids.contains(&id) {
            return Err(Error::invalid(format!("metadata context number {id} is used twice")));
        }
        self.ids.push(id);
        self.contexts.push(context);
        Ok(())
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms { structured: self.voice.structured, extended: self.voice.extended, contexts: self.ids.len() }
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) pending: AtomicU64,
    pub(crate) tally: Tally,
}

/// A payload that is being received.
pub(crate) struct Fill {
    pub(crate) to: To,
    pub(crate) command: Command,
    pub(crate) buffer: Vec<u8>,
    pub(crate) length: usize,
    /// Length of the buffer when progress was last seen; None before the session was parked with it.
    pub(crate) mark: Option<usize>,
    pub(crate) hold: Hold,
}

/// A write that waits for room in the volume.
pub(crate) struct Aside {
    pub(crate) to: To,
    pub(crate) fua: bool,
    /// When the request had come.
    pub(crate) arrived: Instant,
    pub(crate) waiting: Waiting,
    /// Its memory. None for one that the disk refused: it is one of a turn's.
    pub(crate) hold: Option<Hold>,
}

/// What the next received bytes are.
pub(crate) enum Intake {
    Header,
    Fill(Box<Fill>),
    /// The payload of a refused request; the answer comes after it.
    Skip {
        left: u64,
        to: To,
        refusal: Refusal,
    },
}

pub(crate) struct State {
    /// Received and not taken yet; `ahead` is its memory.
    pub(crate) kept: Vec<u8>,
    pub(crate) ahead: Hold,
    /// When bytes last came: since then, what is not taken waits for us.
    pub(crate) arrived: Instant,
    pub(crate) intake: Intake,
    pub(crate) outbox: Outbox,
    /// In the order of their coming.
    pub(crate) aside: VecDeque<Aside>,
    /// The volume was asked for the room of the first of them.
    pub(crate) asked: bool,
    /// Memory of the small replies in the outbox.
    pub(crate) replies: Hold,
    /// What a wait brought, for the request that waited.
    pub(crate) grant: Option<Hold>,
    pub(crate) sent: u64,
    pub(crate) sent_mark: u64,
    pub(crate) ended: bool,
}

/// What somebody outside wants of the session; only ever raised.
const RUN: u8 = 0;
const FINISH: u8 = 1;
const CUT: u8 = 2;

pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) socket: Socket,
    pub(crate) volume: Option<Arc<Volume>>,
    pub(crate) view: View,
    pub(crate) agreement: Agreement,
    pub(crate) counters: Counters,
    pub(crate) watch: Watch,
    pub(crate) state: Mutex<State>,
    /// Done before the first turn: predecessors are out of the way.
    pub(crate) succeeded: Once,
    pub(crate) on_end: Mutex<Option<OnEnd>>,
    /// The callback has returned.
    pub(crate) over: AtomicBool,
    granted: Mutex<Option<Hold>>,
    /// What the volume answered.
    answer: Mutex<Option<Result<Permit>>>,
    /// It is not read from until the volume has room.
    pub(crate) waits: AtomicBool,
    order: AtomicU8,
    reason: OnceLock<String>,
    reactor: Arc<Reactor>,
}

impl Session {
    pub(crate) fn new(
        id: u64,
        socket: Socket,
        leftover: Vec<u8>,
        export: Export,
        agreement: Agreement,
        on_end: Option<OnEnd>,
        core: &Core,
    ) -> Session {
        let memory = &core.memory;
        let (volume, view) = match export {
            Export::Live(volume) => {
                let view = volume.live();
                (Some(volume), view)
            }
            Export::View(view) => (None, view),
        };
        let state = State {
            kept: leftover,
            ahead: memory.ahead.nothing(),
            arrived: Instant::now(),
            intake: Intake::Header,
            outbox: Outbox::default(),
            aside: VecDeque::new(),
            asked: false,
            replies: memory.small.nothing(),
            grant: None,
            sent: 0,
            sent_mark: 0,
            ended: false,
        };
        Session {
            id,
            socket,
            volume,
            view,
            agreement,
            counters: Counters::default(),
            watch: Watch::default(),
            state: Mutex::new(state),
            succeeded: Once::new(),
            on_end: Mutex::new(on_end),
            over: AtomicBool::new(false),
            granted: Mutex::new(None),
            answer: Mutex::new(None),
            waits: AtomicBool::new(false),
            order: AtomicU8::new(RUN),
            reason: OnceLock::new(),
            reactor: Arc::clone(&core.reactor),
        }
    }

    /// The export, now.
    pub(crate) fn facts(&self) -> Facts {
        match &self.volume {
            Some(volume) => Facts { size: volume.size(), read_only: volume.is_read_only() },
            None => Facts { size: self.view.size(), read_only: true },
        }
    }

    /// Orders the session to answer what was admitted, read no more and end. The first reason counts.
    pub(crate) fn finish(&self, reason: &str) {
        let _ = self.reason.set(reason.to_owned());
        self.order.fetch_max(FINISH, Relaxed);
        self.socket.stop_receiving();
        self.wake();
    }

    /// Orders the session to end at once; what was admitted is committed all the same.
    pub(crate) fn cut(&self, reason: &str) {
        let _ = self.reason.set(reason.to_owned());
        self.order.fetch_max(CUT, Relaxed);
        self.socket.shut();
        self.wake();
    }

    pub(crate) fn is_finishing(&self) -> bool {
        self.order.load(Relaxed) >= FINISH
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.order.load(Relaxed) >= CUT
    }

    /// Turns from running to finishing inside a turn.
    pub(crate) fn last_request_seen(&self, reason: &str) {
        let _ = self.reason.set(reason.to_owned());
        self.order.fetch_max(FINISH, Relaxed);
    }

    pub(crate) fn reason(&self) -> String {
        self.reason.get().cloned().unwrap_or_default()
    }

    /// Brings about a turn.
    pub(crate) fn wake(&self) {
        self.reactor.wake(self.id);
    }

    /// Asks the volume for nothing any more.
    pub(crate) fn leave_queue(self: &Arc<Session>) {
        if let Some(volume) = &self.volume {
            let waiter: Arc<dyn RoomWaiter> = self.clone();
            volume.leave_queue(&waiter);
            drop(self.take_answer());
        }
    }

    /// Whether the client is gone, whatever is still unread.
    pub(crate) fn is_abandoned(&self) -> bool {
        let peers = sys::peers(&[self.socket.as_fd()]);
        peers.is_ok_and(|peers| peers.iter().any(|&peer| self.socket.is_abandoned(peer)))
    }

    pub(crate) fn take_answer(&self) -> Option<Result<Permit>> {
        self.answer.lock().take()
    }

    pub(crate) fn take_grant(&self) -> Option<Hold> {
        self.granted.lock().take()
    }
}

impl RoomWaiter for Session {
    fn answer(&self, answer: Result<Permit>) {
        *self.answer.lock() = Some(answer);
        self.wake();
    }
}

impl Waiter for Session {
    fn granted(&self, hold: Hold) {
        *self.granted.lock() = Some(hold);
        self.wake();
    }
}
