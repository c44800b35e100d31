//! Carries out what the gate let through.
//!
//! Invariants. A write enters the batch only when its whole payload has come. What was admitted earlier in the turn
//! is committed before anything is read.

use std::io::IoSlice;
use std::sync::atomic::Ordering::Relaxed;

use cdp_engine::{Change, Extent, Result, View, Zeroing};

use crate::foresight::foresee;
use crate::memory::Hold;
use crate::read::Reading;
use crate::reply::{errno_of, To};
use crate::request::{judge_selection, Command};
use crate::session::Context;
use crate::turn::Turn;
use crate::wire::{STATE_CHANGED, STATE_HOLE, STATE_ZERO};

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
            let (request, more) = window.unread().split_at(head + payload);
            let prepared = volume.prepare_write(offset, &request[head..], !more.is_empty());
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
                    // Who writes so much at a time waits for the speed of it.
                    let prepared = volume.prepare_write(offset, payload, true);
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
        let (session, core, facts, mut sent) = (self.session, self.core, &self.facts, 0);
        let window = &mut self.desk.window;
        let mut reading = Reading {
            voice: session.agreement.voice,
            to,
            view: &session.view,
            outbox: &mut self.state.outbox,
            spares: &mut self.desk.spares,
            // Whatever is wrong with the connection, the next send says it again.
            send: &mut |outbox, spares| {
                let send = |slices: &[IoSlice<'_>]| session.socket.send(slices, core.has_idle_workers());
                sent += outbox.send(spares, send).unwrap_or(0);
            },
            before_wait: &mut || {
                let (extended, size) = (session.agreement.voice.extended, facts.size);
                foresee(window, extended, size, |offset, bytes| session.view.prefetch(offset, bytes));
            },
        };
        let good = reading.run(offset, length, df);
        self.state.sent += sent as u64;
        session.counters.bytes_out.fetch_add(sent as u64, Relaxed);
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
            let extents = match &agreement.contexts[position] {
                Context::Allocation => self.allocation(offset, length, most),
                Context::ChangedSince(since) => self.changed(since, offset, length, most),
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

    fn changed(&self, since: &View, offset: u64, length: u64, most: usize) -> Result<Vec<(u64, u32)>> {
        // With what did not change before each of them these are at most `most`, or there is one and it comes first.
        let sought = (most / 2).max(1);
        let changes = self.session.view.changed(since, offset, length, sought)?;
        let end = if changes.len() < sought { offset + length } else { offset };
        Ok(descriptors(&changes, offset, end, most))
    }
}

/// What changed, and between it what did not, from `offset` on: as far as the last change, and at least to `end`.
fn descriptors(changes: &[Change], offset: u64, end: u64, most: usize) -> Vec<(u64, u32)> {
    let mut told = Vec::with_capacity(2 * changes.len() + 1);
    let mut at = offset;
    for change in changes {
        if change.offset > at {
            told.push((change.offset - at, 0));
        }
        told.push((change.bytes, STATE_CHANGED));
        at = change.offset + change.bytes;
    }
    if end > at {
        told.push((end - at, 0));
    }
    told.truncate(most);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_changes_did_not_change() {
        let change = |offset, bytes| Change { offset, bytes };
        assert_eq!(descriptors(&[], 512, 4096, 9), [(3584, 0)]);
        assert_eq!(descriptors(&[change(512, 512)], 512, 4096, 9), [(512, 1), (3072, 0)]);
        let two = [change(1024, 512), change(4096, 1024)];
        assert_eq!(descriptors(&two, 512, 512, 9), [(512, 0), (512, 1), (2560, 0), (1024, 1)], "and not further");
        assert_eq!(descriptors(&two[1..], 512, 8192, 1), [(3584, 0)]);
    }
}
