//! A session's turn at a worker: take requests, settle them, send replies, receive more; until it would block.
//!
//! Invariants. The batch is settled before anything is sent, and before the turn ends in whatever way. Memory is held
//! before payload is received and before a reply with payload is made. Replies that the client does not take stop
//! further requests.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Instant;

use crate::batch::Refused;
use crate::desk::Desk;
use crate::memory::WINDOW;
use crate::reply::errno_of;
use crate::request::Facts;
use crate::session::{Aside, Intake, Session, State};
use crate::socket::Got;
use crate::watch::PROGRESS;
use crate::wire::{Header, LARGEST_REQUEST};
use crate::worker::Core;

/// How a turn ended, or what the session waits for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Park {
    Read,
    Write,
    Either,
    /// For its next turn only.
    Yield,
    /// For memory; the grant wakes it.
    Memory,
    /// For room in the volume; its answer wakes it.
    Room,
    End(String),
}

/// What is missing for the next request.
pub(crate) enum Need {
    Bytes,
    Output,
    Turn,
    Memory(usize),
    /// Memory for a write that is to wait for room in the volume.
    Aside(usize),
    /// Room in the volume, for the writes that were set aside.
    Room,
}

/// The connection is of no more use.
pub(crate) struct Broken(pub(crate) String);

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken(format!("connection lost: {error}"))
    }
}

pub(crate) struct Turn<'a> {
    pub(crate) session: &'a Arc<Session>,
    pub(crate) state: &'a mut State,
    pub(crate) desk: &'a mut Desk,
    pub(crate) core: &'a Core,
    pub(crate) facts: Facts,
    /// No memory to receive ahead: request by request.
    pub(crate) careful: bool,
    /// The request at the front gets a buffer of its own: the turn is to end before it is complete.
    pub(crate) spill: bool,
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(session: &'a Arc<Session>, state: &'a mut State, desk: &'a mut Desk, core: &'a Core) -> Turn<'a> {
        desk.window.load(&state.kept);
        state.kept = Vec::new();
        if let Some(grant) = session.take_grant() {
            state.grant = Some(grant);
        }
        let careful = !state.ahead.cover(WINDOW);
        let facts = session.facts();
        Turn { session, state, desk, core, facts, careful, spill: false, requests: 0, bytes: 0 }
    }

    pub(crate) fn run(mut self) -> Park {
        let park = loop {
            match self.step() {
                Ok(None) => {}
                Ok(Some(park)) => break park,
                Err(Broken(reason)) if self.session.is_cut() => {
                    let ordered = self.session.reason();
                    break Park::End(if ordered.is_empty() { reason } else { ordered });
                }
                Err(Broken(reason)) => break Park::End(reason),
            }
        };
        self.leave(&park);
        park
    }

    fn step(&mut self) -> Result<Option<Park>, Broken> {
        if self.session.is_cut() {
            return Ok(Some(Park::End(self.session.reason())));
        }
        if self.session.is_finishing() {
            self.let_last_in();
            let sent = self.send();
            self.desk.step.end(&self.session.counters.tally, self.state.arrived);
            return Ok(Some(if sent? { Park::End(self.session.reason()) } else { Park::Write }));
        }
        self.let_in();
        let need = self.take_requests();
        self.settle();
        let sent = self.send();
        self.desk.step.end(&self.session.counters.tally, self.state.arrived);
        let (need, sent) = (need?, sent?);
        match need {
            Need::Bytes => self.receive(sent),
            _ if self.session.is_finishing() => Ok(None),
            Need::Output | Need::Memory(_) | Need::Aside(_) | Need::Room if !sent => Ok(Some(Park::Write)),
            Need::Output => Ok(None),
            Need::Memory(bytes) => Ok(self.wait_for(bytes, &Arc::clone(self.core.memory.share_for(bytes)))),
            Need::Aside(bytes) => Ok(self.wait_for(bytes, &Arc::clone(&self.core.memory.aside))),
            Need::Room => Ok(Some(Park::Room)),
            Need::Turn if self.core.has_idle_workers() => {
                (self.requests, self.bytes) = (0, 0);
                Ok(None)
            }
            Need::Turn => Ok(Some(Park::Yield)),
        }
    }

    /// Commits and syncs what the turn admitted, and queues the replies.
    pub(crate) fn settle(&mut self) {
        let Some(volume) = &self.session.volume else {
            return;
        };
        let Desk { batch, spares, step, .. } = &mut *self.desk;
        if batch.is_empty() {
            return;
        }
        let (voice, outbox) = (self.session.agreement.voice, &mut self.state.outbox);
        let mut errors = 0;
        batch.settle(volume, |to, outcome| match outcome {
            Ok(()) => outbox.put(&voice.success(to), spares),
            Err(error) => {
                errors += 1;
                outbox.put(&voice.error(to, errno_of(error.kind), &error.message), spares);
            }
        });
        for Refused { to, fua, waiting } in batch.refused.drain(..).rev() {
            let arrived = step.defer(to.kind, self.state.arrived);
            self.state.aside.push_front(Aside { to, fua, arrived, waiting, hold: None });
        }
        self.session.counters.errors.fetch_add(errors, Relaxed);
    }

    /// Sends until everything is sent (true) or the socket is full.
    fn send(&mut self) -> Result<bool, Broken> {
        while self.state.outbox.unsent() > 0 {
            let socket = &self.session.socket;
            // As with receiving: a change of threads is dearer than a short wait.
            let wait = self.core.has_idle_workers();
            let sent = self.state.outbox.send(&mut self.desk.spares, |slices| socket.send(slices, wait))?;
            if sent == 0 {
                return Ok(false);
            }
            self.state.sent += sent as u64;
            let counters = &self.session.counters;
            counters.bytes_out.fetch_add(sent as u64, Relaxed);
        }
        Ok(true)
    }

    fn receive(&mut self, sent: bool) -> Result<Option<Park>, Broken> {
        let mut got = self.receive_once(false)?;
        if got == Got::Nothing && sent && self.core.has_idle_workers() {
            // Nobody else needs this thread: waiting here saves two system calls and a change of threads.
            got = self.receive_once(true)?;
        }
        match got {
            Got::Bytes(bytes) => {
                self.state.arrived = Instant::now();
                let counters = &self.session.counters;
                counters.bytes_in.fetch_add(bytes as u64, Relaxed);
                Ok(None)
            }
            Got::End => {
                self.session.last_request_seen("client closed the connection");
                Ok(None)
            }
            Got::Nothing if self.has_begun_payload() => {
                self.spill = true;
                Ok(None)
            }
            Got::Nothing => Ok(Some(if sent { Park::Read } else { Park::Either })),
        }
    }

    /// A header stands in the window, and its payload does not fit behind it yet.
    fn has_begun_payload(&self) -> bool {
        let head = Header::bytes(self.session.agreement.voice.extended);
        matches!(self.state.intake, Intake::Header) && self.desk.window.unread().len() >= head
    }

    fn receive_once(&mut self, wait: bool) -> io::Result<Got> {
        let socket = &self.session.socket;
        let window = &mut self.desk.window;
        let most = match &mut self.state.intake {
            Intake::Fill(fill) => return socket.receive_more(&mut fill.buffer, fill.length, wait),
            _ if !self.careful => usize::MAX,
            Intake::Header => Header::bytes(self.session.agreement.voice.extended) - window.unread().len(),
            Intake::Skip { left, .. } => usize::try_from(*left).unwrap_or(usize::MAX),
        };
        let got = socket.receive(window.room(most), wait)?;
        if let Got::Bytes(bytes) = got {
            window.filled(bytes);
        }
        Ok(got)
    }

    /// Ends the turn: the batch is settled, lent buffers go back, memory shrinks to what is still needed.
    fn leave(&mut self, park: &Park) {
        self.settle();
        self.ask_for_room();
        self.session.waits.store(*park == Park::Room, Relaxed);
        let unread = self.desk.window.unread();
        self.state.kept = unread.to_vec();
        // Less than a header needs no memory held: it is as small as the session itself.
        let kept = if unread.len() < LARGEST_REQUEST { 0 } else { unread.len() };
        self.state.ahead.shrink(kept);
        self.desk.window.advance(unread.len());
        self.state.outbox.settle(&mut self.desk.spares);
        let unsent = self.state.outbox.unsent();
        self.state.replies.shrink(unsent);
        self.state.grant = None;
        self.session.counters.pending.store(unsent as u64, Relaxed);
        self.mark(park);
    }

    /// Notes whether the client owes progress from now on.
    fn mark(&mut self, park: &Park) {
        let (now, watch) = (self.core.clock.now(), &self.session.watch);
        match &mut self.state.intake {
            Intake::Fill(fill) => {
                let moved = fill.mark.map_or(PROGRESS, |mark| fill.buffer.len() - mark);
                if moved >= PROGRESS || !watch.sending.is_set() {
                    fill.mark = Some(fill.buffer.len());
                    watch.sending.set(now);
                }
            }
            _ => watch.sending.clear(),
        }
        let moved = self.state.sent - self.state.sent_mark;
        let unsent = self.state.outbox.unsent();
        let progress = if unsent < PROGRESS { moved > 0 } else { moved >= PROGRESS as u64 };
        match park {
            Park::Yield => watch.reading.clear(),
            _ if unsent == 0 => watch.reading.clear(),
            _ if progress || !watch.reading.is_set() => {
                self.state.sent_mark = self.state.sent;
                watch.reading.set(now);
            }
            _ => {}
        }
    }
}
