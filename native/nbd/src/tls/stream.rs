//! A TLS connection over a socket, in the transmission phase.
//!
//! Invariants. Plain bytes count as sent when the socket has taken the whole record that they are in; until then the
//! outbox keeps them, and with them the hold of their memory. Nothing waits but where the caller says so.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use crate::socket::{got, Got};
use crate::sys;
use crate::tls::{Sink, Tls, TlsError, BATCH, RAW_MAX};

/// Bytes that one receive brings at most, beyond RAW_MAX: others wait for the thread.
const MORE_MAX: usize = 1 << 20;

thread_local! {
    /// Lent for the time of one receive.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {}", error.0))
    }
}

struct Slice<'a> {
    buffer: &'a mut [u8],
    filled: usize,
}

impl Sink for Slice<'_> {
    fn room(&self) -> usize {
        self.buffer.len() - self.filled
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buffer[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }
}

struct UpTo<'a> {
    buffer: &'a mut Vec<u8>,
    limit: usize,
}

impl Sink for UpTo<'_> {
    fn room(&self) -> usize {
        self.limit - self.buffer.len()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }
}

impl Tls {
    /// Receives into a buffer that is not empty; with `wait`, for a short while if nothing is there.
    pub(crate) fn receive_into(&mut self, fd: BorrowedFd<'_>, buffer: &mut [u8], wait: bool) -> io::Result<Got> {
        self.receive_to(fd, &mut Slice { buffer, filled: 0 }, wait)
    }

    /// Receives onto the end of a buffer that is shorter than `limit`.
    pub(crate) fn receive_onto(
        &mut self,
        fd: BorrowedFd<'_>,
        buffer: &mut Vec<u8>,
        limit: usize,
        wait: bool,
    ) -> io::Result<Got> {
        self.receive_to(fd, &mut UpTo { buffer, limit }, wait)
    }

    fn receive_to(&mut self, fd: BorrowedFd<'_>, sink: &mut impl Sink, wait: bool) -> io::Result<Got> {
        let room = sink.room();
        if !self.plain.is_empty() {
            let rest = &self.plain[self.taken..];
            let some = rest.len().min(room);
            sink.put(&rest[..some]);
            self.taken += some;
            if self.taken == self.plain.len() {
                (self.plain, self.taken) = (Vec::new(), 0);
            }
            return Ok(Got::Bytes(some));
        }
        if self.is_at_end() {
            return Ok(Got::End);
        }
        let mut raw = SPARE.take();
        raw.reserve(RAW_MAX);
        raw.append(&mut self.raw);
        let outcome = self.fill(fd, &mut raw, sink, wait);
        self.raw = raw.clone();
        raw.clear();
        SPARE.set(raw);
        match outcome? {
            Got::Bytes(_) => Ok(Got::Bytes(room - sink.room())),
            other => Ok(other),
        }
    }

    /// Receives until there is a plain byte, and then what else is there, while the sink has room for all that one
    /// receive may bring: what comes in few pieces is moved about less. `Bytes` says only that there is something.
    fn fill(&mut self, fd: BorrowedFd<'_>, raw: &mut Vec<u8>, sink: &mut impl Sink, mut wait: bool) -> io::Result<Got> {
        let room = sink.room();
        loop {
            match got(sys::receive_more(fd, raw, RAW_MAX, wait))? {
                Got::Bytes(_) => {}
                _ if sink.room() < room => return Ok(Got::Bytes(0)),
                other => return Ok(other),
            }
            wait = false;
            let was_full = raw.len() == RAW_MAX;
            let outcome = self.decrypt(raw, sink);
            if self.sent < self.out.len() && self.records.is_empty() {
                // Of the protocol itself: an alert. If the socket is full, it goes with the next reply.
                let _ = self.flush(fd);
            }
            outcome?;
            let more = was_full && sink.room() >= RAW_MAX && room - sink.room() < MORE_MAX;
            if sink.room() < room && !more {
                return Ok(Got::Bytes(0));
            }
            if self.is_at_end() {
                return Ok(if sink.room() < room { Got::Bytes(0) } else { Got::End });
            }
        }
    }

    /// Sends what can be sent without waiting; the plain bytes of whole records that left, 0 if the socket is full.
    /// `slices` begins with what was offered and did not count as sent.
    pub(crate) fn send_from(&mut self, fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut done = 0;
        loop {
            done += self.flush(fd)?;
            if self.sent < self.out.len() {
                return Ok(done);
            }
            (self.out, self.sent) = (Vec::new(), 0);
            if !self.encrypt_next(slices, done)? {
                return Ok(done);
            }
        }
    }

    /// Encrypts some of `slices` behind its first `skip` bytes; whether there was anything.
    fn encrypt_next(&mut self, slices: &[IoSlice<'_>], mut skip: usize) -> Result<bool, TlsError> {
        let mut left = BATCH;
        for slice in slices {
            let rest = &slice[skip.min(slice.len())..];
            skip -= slice.len() - rest.len();
            let some = &rest[..rest.len().min(left)];
            self.send(some)?;
            left -= some.len();
        }
        Ok(left < BATCH)
    }

    /// Sends what is encrypted; the plain bytes of the records that left.
    fn flush(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let mut plain = 0;
        while self.sent < self.out.len() {
            match sys::send(fd, &[IoSlice::new(&self.out[self.sent..])], false) {
                Ok(0) => break,
                Ok(bytes) => self.sent += bytes,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => break,
                Err(error) => return Err(error),
            }
        }
        while let Some(&(end, bytes)) = self.records.front() {
            if end > self.sent {
                break;
            }
            self.records.pop_front();
            plain += bytes;
        }
        Ok(plain)
    }

    /// Tells the client that this is the end, if everything was sent and that can be done without waiting.
    pub(crate) fn bid_farewell(&mut self, fd: BorrowedFd<'_>) {
        if self.sent == self.out.len() {
            self.close();
            let _ = self.flush(fd);
        }
    }
}
