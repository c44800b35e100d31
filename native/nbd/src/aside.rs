//! Writes that wait for room in their volume (a budget, a full disk) are set aside: requests behind them go on, and no
//! worker waits.
//!
//! Invariants. What is set aside has no LSN. It is admitted in the order of its coming, once the volume says that there
//! is room; of a session that ends while its volume is stalled, never. One question to the volume is open at most.

use std::sync::Arc;

use cdp_engine::{Error, Kind, Offer, Result, Settled, Waiter, Waiting};

use crate::memory::Hold;
use crate::reply::To;
use crate::request::Command;
use crate::session::Aside;
use crate::turn::{Need, Turn};

/// Bytes of payload that a session may have set aside before it is not read from any more, unless one alone is longer.
const ASIDE_MAX: usize = 1 << 20;

impl Turn<'_> {
    /// True if a write of this session would have to wait.
    pub(crate) fn must_wait(&self) -> bool {
        let has_room = self.session.volume.as_ref().is_none_or(|volume| volume.has_room());
        !has_room || !self.state.aside.is_empty()
    }

    /// Receives the payload of a write that will wait, into memory that is for such writes.
    pub(crate) fn begin_aside(&mut self, to: To, head: usize, command: Command) -> Option<Need> {
        let bytes = command.payload() as usize;
        let before: usize = self.state.aside.iter().filter_map(|aside| aside.hold.as_ref()).map(Hold::bytes).sum();
        if before > 0 && before + bytes > ASIDE_MAX {
            return Some(Need::Room);
        }
        let share = &self.core.memory.aside;
        let hold = match self.state.grant.take() {
            Some(grant) if grant.is_of(share) && grant.bytes() >= bytes => Some(grant),
            _ => share.try_hold(bytes),
        };
        match hold {
            Some(hold) => self.fill(to, head, command, hold),
            None if before > 0 => return Some(Need::Room),
            None => return Some(Need::Aside(bytes)),
        }
        None
    }

    /// Admits a write, or sets it aside. Gives its memory back in the first case.
    pub(crate) fn offer(&mut self, to: To, fua: bool, prepared: Result<Waiting>, hold: Option<Hold>) -> Option<Hold> {
        let volume = self.session.volume.as_ref()?;
        let offer = prepared.and_then(|waiting| volume.offer(waiting));
        match offer {
            Ok(Offer::Admitted(lsn)) => self.desk.batch.write(to, Ok(lsn), fua),
            Ok(Offer::Waits(waiting)) => {
                let arrived = self.desk.step.defer(to.kind, self.state.arrived);
                self.state.aside.push_back(Aside { to, fua, arrived, waiting, hold });
                return None;
            }
            Err(error) => self.desk.batch.write(to, Err(error), fua),
        }
        hold
    }

    /// Admits what was set aside, as far as there is room.
    pub(crate) fn let_in(&mut self) {
        let Some(volume) = &self.session.volume else { return };
        let mut answer = self.session.take_answer();
        if answer.is_some() {
            self.state.asked = false;
        }
        let waiter: Arc<dyn Waiter> = Arc::clone(self.session) as Arc<dyn Waiter>;
        while let Some(Aside { waiting, .. }) = self.state.aside.front() {
            let room = match answer.take() {
                Some(answer) => answer.map(Some),
                None if self.state.asked => return,
                None => volume.ask_room(waiting, &waiter),
            };
            let permit = match room {
                Ok(None) => {
                    self.state.asked = true;
                    return;
                }
                Ok(Some(permit)) => Ok(permit),
                Err(error) => Err(error),
            };
            let Some(Aside { to, fua, arrived, waiting, .. }) = self.state.aside.pop_front() else { return };
            self.desk.step.resume(to.kind, arrived);
            let admitted = permit.and_then(|permit| volume.offer_again(waiting, permit));
            self.desk.batch.write(to, admitted, fua);
        }
    }

    /// At the end of a turn: asks for the room of the first, so that the session is woken when it is there.
    pub(crate) fn ask_for_room(&mut self) {
        let (Some(volume), Some(first)) = (&self.session.volume, self.state.aside.front()) else { return };
        if self.state.asked || self.session.is_finishing() {
            return;
        }
        self.state.asked = true;
        let waiter: Arc<dyn Waiter> = Arc::clone(self.session) as Arc<dyn Waiter>;
        match volume.ask_room(&first.waiting, &waiter) {
            Ok(None) => {}
            Ok(Some(permit)) => waiter.answer(Ok(permit)),
            Err(error) => waiter.answer(Err(error)),
        }
    }

    /// The connection ends. What waits only for its turn is written all the same; with a stalled volume nobody waits for
    /// that.
    pub(crate) fn let_last_in(&mut self) {
        let Some(volume) = &self.session.volume else { return };
        if self.state.aside.is_empty() {
            return;
        }
        self.session.leave_queue();
        for Aside { to, fua, arrived, waiting, .. } in std::mem::take(&mut self.state.aside) {
            self.desk.step.resume(to.kind, arrived);
            let admitted = if volume.is_stalled() { Err(too_late()) } else { volume.admit_anyway(waiting) };
            let settled = admitted.and_then(|lsn| match volume.settle(lsn)? {
                Settled::Done => Ok(lsn),
                Settled::Again(_) => Err(too_late()),
            });
            self.desk.batch.done(to, settled, fua);
        }
        self.settle();
    }
}

fn too_late() -> Error {
    Error::new(Kind::Closed, "the connection ended before there was room for the write")
}
