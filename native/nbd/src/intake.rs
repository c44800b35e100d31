//! What the next received bytes are: a header, a payload, or what is thrown away; and the memory that they need.
//!
//! Invariants. Nothing is taken from the window while something is missing for its request, so that it can be looked
//! at again after a wait. Memory is held before payload is received and before a reply with payload is made.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use crate::memory::{Hold, Share, OWN_MAX, SMALL_MAX};
use crate::reply::To;
use crate::request::{judge, Command, Refusal, Verdict};
use crate::session::{Fill, Intake};
use crate::tally::Kind;
use crate::turn::{Broken, Need, Park, Turn};
use crate::wire::{Decoded, Header};

/// Requests and bytes after which others get their turn, if any wait; also the bound of a batch.
const TURN_REQUESTS: usize = 512;
const TURN_BYTES: usize = 8 << 20;
/// Bytes of replies after which they are sent before more are made, unless one alone is longer.
const OUTPUT_MAX: usize = 128 << 10;
/// Bytes: the step in which memory for small replies is taken.
const REPLIES_STEP: usize = 64 << 10;

impl Turn<'_> {
    /// Carries out every complete request; what the next one lacks.
    pub(crate) fn take_requests(&mut self) -> Result<Need, Broken> {
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
        let mut to = To { cookie: header.cookie, offset: header.offset, kind: Kind::Refused };
        let head = Header::bytes(extended);
        match judge(&header, &self.facts, &agreement.terms()) {
            Verdict::Run(command) => {
                to.kind = Kind::of(&command).0;
                return Ok(self.begin(to, head, command));
            }
            Verdict::Refuse { refusal, payload } => {
                self.desk.window.advance(head);
                self.state.intake = Intake::Skip { left: payload, to, refusal };
            }
            Verdict::Disconnect => self.session.last_request_seen("client disconnected"),
            Verdict::Abort(why) => return Err(Broken(format!("request refused: {why}"))),
        }
        Ok(None)
    }

    /// `bytes`: what it costs this turn. None: it was refused.
    fn count(&mut self, bytes: usize, command: Option<&Command>) {
        self.requests += 1;
        self.bytes += bytes;
        let (kind, about) = command.map_or((Kind::Refused, 0), Kind::of);
        self.desk.step.count(kind, about);
        self.session.counters.requests.fetch_add(1, Relaxed);
    }

    /// Starts on a request that passed the gate. Nothing is taken from the window while something is missing.
    fn begin(&mut self, to: To, head: usize, command: Command) -> Option<Need> {
        let payload = command.payload() as usize;
        if matches!(command, Command::Write { .. }) && self.must_wait() {
            return self.begin_aside(to, head, command);
        }
        if payload == 0 {
            let hold = match self.memory_for_reply(&command) {
                Ok(hold) => hold,
                Err(need) => return Some(need),
            };
            self.desk.window.advance(head);
            self.count(head + self.reply_bytes(&command), Some(&command));
            self.execute(to, command, hold);
            return None;
        }
        if payload <= SMALL_MAX && !self.careful && !self.spill {
            if self.desk.window.unread().len() < head + payload {
                return Some(Need::Bytes);
            }
            self.count(head + payload, Some(&command));
            self.execute_in_window(to, command, head, payload);
            return None;
        }
        let Some(hold) = self.hold(payload) else {
            return Some(Need::Memory(payload));
        };
        self.fill(to, head, command, hold);
        None
    }

    /// Gives the request at the front a buffer of its own.
    pub(crate) fn fill(&mut self, to: To, head: usize, command: Command, hold: Hold) {
        let length = command.payload() as usize;
        self.spill = false;
        self.desk.window.advance(head);
        self.desk.window.forget_foreseen();
        let fill = Fill { to, command, buffer: Vec::with_capacity(length), length, mark: None, hold };
        self.state.intake = Intake::Fill(Box::new(fill));
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
            let Fill { to, command, buffer, length, hold, .. } = *fill;
            self.count(length, Some(&command));
            let _hold = self.execute_payload(to, command, &buffer, hold);
            if length > SMALL_MAX {
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
        self.count(0, None);
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
    pub(crate) fn wait_for(&mut self, bytes: usize, share: &Arc<Share>) -> Option<Park> {
        self.state.replies.shrink(0);
        let waiter = Arc::clone(self.session);
        match share.hold_or_wait(bytes, self.session.id, waiter) {
            Some(hold) => {
                self.state.grant = Some(hold);
                None
            }
            None => Some(Park::Memory),
        }
    }
}
