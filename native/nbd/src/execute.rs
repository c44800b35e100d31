//! Carries out what the gate let through.
//!
//! Invariants. A write enters the batch only when its whole payload has come. What was admitted earlier in the turn
//! is committed before anything is read.

use std::sync::atomic::Ordering::Relaxed;

use cdp_engine::{Extent, Result, Zeroing};

use crate::memory::Hold;
use crate::read::Reading;
use crate::reply::{errno_of, To};
use crate::request::{judge_selection, Command};
use crate::session::Context;
use crate::turn::Turn;
use crate::wire::{STATE_HOLE, STATE_ZERO};

/// Extents in one BLOCK_STATUS chunk at most; the specification lets a server say less than it was asked.
const EXTENTS_MAX: usize = 2048;
/// Bytes of such a chunk, extended, with its head.
const STATUS_BYTES: usize = 16 * EXTENTS_MAX + 64;

impl Turn<'_> {
    /// Bytes of memory that the reply's payload takes; 0 for one without.
    pub(crate) fn reply_bytes(&self, command: &Command) -> usize {
        match *command {
            Command::Read { length, .. } => length as usize,
            Command::BlockStatus { .. } => STATUS_BYTES,
            _ => 0,
        }
    }

    /// A command without payload. `hold`: memory of a large reply.
    pub(crate) fn execute(&mut self, to: To, command: Command, hold: Option<Hold>) {
        match command {
            Command::Read { offset, length, df } => self.read(to, offset, length, df, hold),
            Command::Flush if self.session.volume.is_some() => self.desk.batch.flush(to),
            Command::Trim { offset, length, fua } => {
                self.zero(to, offset, length, Zeroing::Trim, fua);
            }
            Command::WriteZeroes { offset, length, fua } => {
                self.zero(to, offset, length, Zeroing::Zero, fua);
            }
            Command::BlockStatus { offset, length, one } => {
                let all: Vec<usize> = (0..self.session.agreement.ids.len()).collect();
                self.block_status(to, offset, length, one, &all);
            }
            // FLUSH of what cannot change; CACHE, which the engine's own cache makes needless; and the commands with
            // payload do not come here.
            Command::Flush | Command::Cache { .. } | Command::Write { .. } | Command::BlockStatusSelected { .. } => {
                let bytes = self.session.agreement.voice.success(to);
                self.state.outbox.put(&bytes, &mut self.desk.spares);
            }
        }
    }

    /// A command whose payload stands in the window behind `head` bytes of header; both are taken.
    pub(crate) fn execute_in_window(&mut self, to: To, command: Command, head: usize, payload: usize) {
        if let (Command::Write { offset, fua, .. }, Some(volume)) = (command, &self.session.volume) {
            let window = &mut self.desk.window;
            let prepared = volume.prepare_write(offset, &window.unread()[head..head + payload]);
            window.advance(head + payload);
            self.offer(to, fua, prepared, None);
            return;
        }
        let bytes = self.desk.window.unread()[head..head + payload].to_vec();
        self.desk.window.advance(head + payload);
        self.execute_payload(to, command, &bytes, self.core.memory.small.nothing());
    }

    /// A command with its payload. Its memory is given back, unless it is needed for longer.
    pub(crate) fn execute_payload(&mut self, to: To, command: Command, payload: &[u8], hold: Hold) -> Option<Hold> {
        match command {
            Command::Write { offset, fua, .. } => {
                if let Some(volume) = &self.session.volume {
                    let prepared = volume.prepare_write(offset, payload);
                    return self.offer(to, fua, prepared, Some(hold));
                }
            }
            Command::BlockStatusSelected { offset, one, .. } => {
                let ids = &self.session.agreement.ids;
                match judge_selection(payload, offset, &self.facts, ids) {
                    Ok(chosen) => {
                        self.block_status(to, offset, chosen.length, one, &chosen.contexts);
                    }
                    Err(refusal) => self.refuse(to, refusal),
                }
            }
            _ => {}
        }
        Some(hold)
    }

    fn zero(&mut self, to: To, offset: u64, length: u64, how: Zeroing, fua: bool) {
        if let Some(volume) = &self.session.volume {
            let prepared = volume.prepare_zero(offset, length, how);
            self.offer(to, fua, prepared, None);
        }
    }

    fn commit(&mut self) {
        if let Some(volume) = &self.session.volume {
            self.desk.batch.commit(volume);
        }
    }

    fn read(&mut self, to: To, offset: u64, length: u64, df: bool, hold: Option<Hold>) {
        self.commit();
        let mut reading = Reading {
            voice: self.session.agreement.voice,
            to,
            view: &self.session.view,
            outbox: &mut self.state.outbox,
            spares: &mut self.desk.spares,
        };
        let good = reading.run(offset, length, df);
        if let Some(hold) = hold {
            self.state.outbox.attach(hold);
        }
        if !good {
            self.session.counters.errors.fetch_add(1, Relaxed);
        }
    }

    fn block_status(&mut self, to: To, offset: u64, length: u64, one: bool, contexts: &[usize]) {
        self.commit();
        let most = if one { 1 } else { EXTENTS_MAX };
        let agreement = &self.session.agreement;
        for (index, &position) in contexts.iter().enumerate() {
            let last = index + 1 == contexts.len();
            let extents = match agreement.contexts[position] {
                Context::Allocation => self.allocation(offset, length, most),
            };
            let bytes = match extents {
                Ok(extents) => agreement.voice.status(to, agreement.ids[position], &extents, last),
                Err(error) => {
                    let bytes = agreement.voice.error(to, errno_of(error.kind), &error.message);
                    return self.fail(&bytes);
                }
            };
            self.state.outbox.put(&bytes, &mut self.desk.spares);
        }
    }

    fn allocation(&self, offset: u64, length: u64, most: usize) -> Result<Vec<(u64, u32)>> {
        let extents = self.session.view.extents(offset, length, most)?;
        let status = |extent: &Extent| {
            if extent.zero {
                STATE_HOLE | STATE_ZERO
            } else {
                0
            }
        };
        Ok(extents.iter().map(|extent| (extent.bytes, status(extent))).collect())
    }
}
