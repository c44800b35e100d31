//! What is still to be sent, in order.
//!
//! Invariants. Bytes leave in the order in which they came in. An empty outbox owns no buffer. Small replies share
//! buffers of `STAGE` bytes, which a worker lends and gets back, as it does those for the chunks of a large one; a reply that is larger still has its own. The hold of a
//! reply's memory is dropped when the last of it was sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::memory::Hold;

/// Bytes of a lent buffer.
const STAGE: usize = 64 << 10;
/// Bytes of a chunk of a large reply. What is made and sent in steps of this stays in the processor's cache meanwhile, and the client takes one while the next is made.
pub(crate) const CHUNK: usize = 128 << 10;
/// Bytes of a lent buffer for one: with room for its head.
const CHUNK_STAGE: usize = CHUNK + 64;
/// Buffers that a worker keeps for the next session, and of those for chunks.
const SPARES_MAX: usize = 8;
const CHUNK_SPARES_MAX: usize = 2;
/// Slices of one send.
const SLICES_MAX: usize = 16;

/// A worker's store of lent buffers; their contents mean nothing.
#[derive(Default)]
pub(crate) struct Spares {
    stages: Vec<Vec<u8>>,
    chunks: Vec<Vec<u8>>,
}

impl Spares {
    /// At least so many bytes.
    fn lend(&mut self, bytes: usize) -> Vec<u8> {
        if bytes <= STAGE {
            return self.stages.pop().unwrap_or_else(|| vec![0; STAGE]);
        }
        if bytes <= CHUNK_STAGE {
            return self.chunks.pop().unwrap_or_else(|| vec![0; CHUNK_STAGE]);
        }
        vec![0; bytes]
    }

    fn take_back(&mut self, buffer: Vec<u8>) {
        let (kept, most) = match buffer.len() {
            STAGE => (&mut self.stages, SPARES_MAX),
            CHUNK_STAGE => (&mut self.chunks, CHUNK_SPARES_MAX),
            _ => return,
        };
        if kept.len() < most {
            kept.push(buffer);
        }
    }
}

struct Segment {
    buffer: Vec<u8>,
    /// `sent..filled` is to be sent.
    sent: usize,
    filled: usize,
    hold: Option<Hold>,
}

#[derive(Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    unsent: usize,
}

impl Outbox {
    /// Bytes still to be sent.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Appends `bytes` bytes for the caller to fill.
    pub(crate) fn space(&mut self, bytes: usize, spares: &mut Spares) -> &mut [u8] {
        let fits = self.segments.back().is_some_and(|last| last.buffer.len() - last.filled >= bytes);
        if !fits {
            let buffer = spares.lend(bytes);
            self.segments.push_back(Segment { buffer, sent: 0, filled: 0, hold: None });
        }
        self.unsent += bytes;
        let last = self.segments.len() - 1;
        let segment = &mut self.segments[last];
        let start = segment.filled;
        segment.filled += bytes;
        &mut segment.buffer[start..start + bytes]
    }

    pub(crate) fn put(&mut self, bytes: &[u8], spares: &mut Spares) {
        self.space(bytes.len(), spares).copy_from_slice(bytes);
    }

    /// Takes back the last `bytes` bytes, which came from one `space`.
    pub(crate) fn retract(&mut self, bytes: usize, spares: &mut Spares) {
        let Some(mut last) = self.segments.pop_back() else {
            return;
        };
        last.filled -= bytes;
        self.unsent -= bytes;
        if last.filled > last.sent {
            self.segments.push_back(last);
        } else {
            spares.take_back(last.buffer);
        }
    }

    /// Ties a hold to what was appended last: it is dropped when that has been sent.
    pub(crate) fn attach(&mut self, hold: Hold) {
        if let Some(last) = self.segments.back_mut() {
            match &mut last.hold {
                Some(held) => held.absorb(hold),
                none => *none = Some(hold),
            }
        }
    }

    /// Hands the first slices to `send` once; how many bytes it took.
    pub(crate) fn send(
        &mut self,
        spares: &mut Spares,
        send: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = IoSlice::new(&segment.buffer[segment.sent..segment.filled]);
            count += 1;
        }
        let sent = send(&slices[..count])?;
        self.advance(sent, spares);
        Ok(sent)
    }

    fn advance(&mut self, sent: usize, spares: &mut Spares) {
        self.unsent -= sent;
        let mut left = sent;
        while let Some(first) = self.segments.front_mut() {
            let step = left.min(first.filled - first.sent);
            first.sent += step;
            left -= step;
            if first.sent < first.filled {
                return;
            }
            if let Some(segment) = self.segments.pop_front() {
                spares.take_back(segment.buffer);
            }
        }
    }

    /// Before the worker leaves: lent buffers go back, what they still hold moves to one of its own size.
    pub(crate) fn settle(&mut self, spares: &mut Spares) {
        for segment in &mut self.segments {
            let rest = segment.filled - segment.sent;
            if segment.buffer.len() == STAGE && rest < STAGE {
                let own = segment.buffer[segment.sent..segment.filled].to_vec();
                spares.take_back(std::mem::replace(&mut segment.buffer, own));
                (segment.sent, segment.filled) = (0, rest);
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.segments.clear();
        self.unsent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, spares: &mut Spares, step: usize) -> Vec<u8> {
        let mut stream = Vec::new();
        while outbox.unsent() > 0 {
            let take = |slices: &[IoSlice<'_>]| {
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                let some = &all[..step.min(all.len())];
                stream.extend(some);
                Ok(some.len())
            };
            outbox.send(spares, take).unwrap();
            outbox.settle(spares);
        }
        stream
    }

    #[test]
    fn bytes_leave_in_order_whatever_the_socket_takes() {
        for step in [1, 7, 4096, STAGE, 1 << 20] {
            let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
            let mut expected = Vec::new();
            for (index, length) in
                [16, 4096, STAGE - 16, 300, STAGE + 1, 5, CHUNK + 16, 2, 2 * CHUNK].iter().enumerate()
            {
                let bytes = vec![index as u8 + 1; *length];
                outbox.put(&bytes, &mut spares);
                expected.extend(bytes);
            }
            outbox.put(&[9; 100], &mut spares);
            outbox.retract(100, &mut spares);
            assert_eq!(outbox.unsent(), expected.len());
            if step == 1 {
                outbox.settle(&mut spares);
            }
            assert!(drain(&mut outbox, &mut spares, step.max(64)) == expected);
            assert!(outbox.segments.is_empty());
            assert!(spares.stages.len() <= SPARES_MAX && spares.chunks.len() <= CHUNK_SPARES_MAX);
        }
    }
}
