//! A session's turn at a worker: take requests, settle them, send replies, receive more; until it would block.
//!
//! Invariants. The batch is settled before anything is sent, and before the turn ends in whatever way. Memory is held before payload is received
//! and before a reply with payload is made. Replies that the client does not take stop further requests.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use crate::desk::Desk;
use crate::memory::{Hold, OWN_MAX, SMALL_MAX, WINDOW};
use crate::reply::{errno_of, To};
use crate::request::{judge, Command, Facts, Refusal, Verdict};
use crate::session::{Fill, Intake, Session, State};
use crate::socket::Got;
use crate::watch::PROGRESS;
use crate::wire::{Decoded, Header, LARGEST_REQUEST};
use crate::worker::Core;

/// Requests and bytes after which others get their turn, if any wait; also the bound of a batch.
const TURN_REQUESTS: usize = 512;
const TURN_BYTES: usize = 8 << 20;
/// Bytes of replies after which they are sent before more are made, unless one alone is longer.
const OUTPUT_MAX: usize = 128 << 10;
/// Bytes: the step in which memory for small replies is taken.
const REPLIES_STEP: usize = 64 << 10;

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
    End(String),
}

/// What is missing for the next request.
pub(crate) enum Need {
    Bytes,
    Output,
    Turn,
    Memory(usize),
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
    core: &'a Core,
    pub(crate) facts: Facts,
    /// No memory to receive ahead: request by request.
    careful: bool,
    /// The request at the front gets a buffer of its own: the turn is to end before it is complete.
    spill: bool,
    requests: usize,
    bytes: usize,
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
            let sent = self.send()?;
            return Ok(Some(if sent { Park::End(self.session.reason()) } else { Park::Write }));
        }
        let need = self.take_requests();
        self.settle();
        let sent = self.send();
        let (need, sent) = (need?, sent?);
        match need {
            Need::Bytes => self.receive(sent),
            _ if self.session.is_finishing() => Ok(None),
            Need::Output | Need::Memory(_) if !sent => Ok(Some(Park::Write)),
            Need::Output => Ok(None),
            Need::Memory(bytes) => Ok(self.wait_for(bytes)),
            Need::Turn if self.core.has_idle_worker() => {
                (self.requests, self.bytes) = (0, 0);
                Ok(None)
            }
            Need::Turn => Ok(Some(Park::Yield)),
        }
    }

    /// Carries out every complete request; what the next one lacks.
    fn take_requests(&mut self) -> Result<Need, Broken> {
        self.facts = self.session.facts();
        loop {
            if self.requests >= TURN_REQUESTS || self.bytes >= TURN_BYTES {
                return Ok(Need::Turn);
            }
            let need = match self.state.intake {
                Intake::Header => self.take_header()?,
                Intake::Fill(_) => self.take_payload(),
                Intake::Skip { .. } => self.skip(),
            };
            if let Some(need) = need {
                return Ok(need);
            }
            if self.session.is_finishing() {
                return Ok(Need::Output);
            }
        }
    }

    fn take_header(&mut self) -> Result<Option<Need>, Broken> {
        if self.state.outbox.unsent() > OWN_MAX + self.state.replies.bytes() {
            return Ok(Some(Need::Output));
        }
        let agreement = &self.session.agreement;
        let extended = agreement.voice.extended;
        let header = match Header::decode(self.desk.window.unread(), extended) {
            Decoded::Short => return Ok(Some(Need::Bytes)),
            Decoded::Foreign(magic) => return Err(Broken(format!("request with the wrong magic {magic:#010x}"))),
            Decoded::Header(header) => header,
        };
        let to = To { cookie: header.cookie, offset: header.offset };
        let head = Header::bytes(extended);
        match judge(&header, &self.facts, &agreement.terms()) {
            Verdict::Run(command) => return Ok(self.begin(to, head, command)),
            Verdict::Refuse { refusal, payload } => {
                self.desk.window.advance(head);
                self.state.intake = Intake::Skip { left: payload, to, refusal };
            }
            Verdict::Disconnect => self.session.last_request_seen("client disconnected"),
            Verdict::Abort(why) => return Err(Broken(format!("request refused: {why}"))),
        }
        Ok(None)
    }

    fn count(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
        self.session.counters.requests.fetch_add(1, Relaxed);
    }

    /// Starts on a request that passed the gate. Nothing is taken from the window while something is missing.
    fn begin(&mut self, to: To, head: usize, command: Command) -> Option<Need> {
        let payload = command.payload() as usize;
        if payload == 0 {
            let hold = match self.memory_for_reply(&command) {
                Ok(hold) => hold,
                Err(need) => return Some(need),
            };
            self.desk.window.advance(head);
            self.count(head + self.reply_bytes(&command));
            self.execute(to, command, hold);
            return None;
        }
        if payload <= SMALL_MAX && !self.careful && !self.spill {
            if self.desk.window.unread().len() < head + payload {
                return Some(Need::Bytes);
            }
            self.count(head + payload);
            self.execute_in_window(to, command, head, payload);
            return None;
        }
        let Some(hold) = self.hold(payload) else {
            return Some(Need::Memory(payload));
        };
        self.spill = false;
        self.desk.window.advance(head);
        let fill = Fill { to, command, buffer: Vec::with_capacity(payload), length: payload, mark: None, _hold: hold };
        self.state.intake = Intake::Fill(Box::new(fill));
        None
    }

    fn take_payload(&mut self) -> Option<Need> {
        let Intake::Fill(fill) = &mut self.state.intake else {
            return None;
        };
        let unread = self.desk.window.unread();
        let some = unread.len().min(fill.length - fill.buffer.len());
        fill.buffer.extend_from_slice(&unread[..some]);
        self.desk.window.advance(some);
        if fill.buffer.len() < fill.length {
            return Some(Need::Bytes);
        }
        if let Intake::Fill(fill) = std::mem::replace(&mut self.state.intake, Intake::Header) {
            self.count(fill.length);
            self.execute_payload(fill.to, fill.command, &fill.buffer);
            if fill.length > SMALL_MAX {
                // The hold ends with this scope: what it stands for must be in the journal.
                self.settle();
            }
        }
        None
    }

    fn skip(&mut self) -> Option<Need> {
        let Intake::Skip { left, to, refusal } = &mut self.state.intake else {
            return None;
        };
        let some = self.desk.window.unread().len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        self.desk.window.advance(some);
        *left -= some as u64;
        self.bytes += some;
        if *left > 0 {
            return Some(Need::Bytes);
        }
        let (to, refusal) = (*to, *refusal);
        self.state.intake = Intake::Header;
        self.count(0);
        self.refuse(to, refusal);
        None
    }

    pub(crate) fn refuse(&mut self, to: To, refusal: Refusal) {
        let bytes = self.session.agreement.voice.error(to, refusal.errno, refusal.why);
        self.fail(&bytes);
    }

    /// Queues an error reply.
    pub(crate) fn fail(&mut self, bytes: &[u8]) {
        self.session.counters.errors.fetch_add(1, Relaxed);
        self.state.outbox.put(bytes, &mut self.desk.spares);
    }

    /// Memory for a payload or a reply of its own: what a wait brought, or what is there.
    fn hold(&mut self, bytes: usize) -> Option<Hold> {
        let share = self.core.memory.share_for(bytes);
        match self.state.grant.take() {
            Some(grant) if grant.is_of(share) && grant.bytes() >= bytes => Some(grant),
            _ if bytes <= OWN_MAX => Some(share.nothing()),
            _ => share.try_hold(bytes),
        }
    }

    /// Memory for the reply of a command. Small replies of a turn share one hold, others have their own.
    fn memory_for_reply(&mut self, command: &Command) -> Result<Option<Hold>, Need> {
        let bytes = self.reply_bytes(command);
        if bytes == 0 {
            return Ok(None);
        }
        let unsent = self.state.outbox.unsent();
        if unsent > 0 && unsent + bytes > OUTPUT_MAX {
            return Err(Need::Output);
        }
        if bytes > SMALL_MAX {
            return self.hold(bytes).map(Some).ok_or(Need::Memory(bytes));
        }
        if let Some(grant) = self.state.grant.take() {
            if grant.is_of(&self.core.memory.small) {
                self.state.replies.absorb(grant);
            }
        }
        // Replies without payload are in `unsent` too: OWN_MAX is for both.
        let wanted = (unsent + bytes).saturating_sub(OWN_MAX);
        if self.state.replies.cover(wanted.next_multiple_of(REPLIES_STEP)) || self.state.replies.cover(wanted) {
            return Ok(None);
        }
        Err(Need::Memory(bytes))
    }

    /// Queues up for memory. By now nothing is unsent, so nothing of it is held.
    fn wait_for(&mut self, bytes: usize) -> Option<Park> {
        self.state.replies.shrink(0);
        let share = self.core.memory.share_for(bytes);
        let waiter = Arc::clone(self.session);
        match share.hold_or_wait(bytes, self.session.id, waiter) {
            Some(hold) => {
                self.state.grant = Some(hold);
                None
            }
            None => Some(Park::Memory),
        }
    }

    /// Commits and syncs what the turn admitted, and queues the replies.
    fn settle(&mut self) {
        let Some(volume) = &self.session.volume else {
            return;
        };
        let Desk { batch, spares, .. } = &mut *self.desk;
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
        self.session.counters.errors.fetch_add(errors, Relaxed);
    }

    /// Sends until everything is sent (true) or the socket is full.
    fn send(&mut self) -> Result<bool, Broken> {
        while self.state.outbox.unsent() > 0 {
            let socket = &self.session.socket;
            let sent = self.state.outbox.send(&mut self.desk.spares, |slices| socket.send(slices))?;
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
        if got == Got::Nothing && sent && self.core.has_idle_worker() {
            // Nobody else needs this thread: waiting here saves two system calls and a change of threads.
            got = self.receive_once(true)?;
        }
        match got {
            Got::Bytes(bytes) => {
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
