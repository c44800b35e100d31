//! A session's stream of bytes. The one place where TLS stands between session and socket, for sessions that have it:
//! the others pay one comparison a system call.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use parking_lot::Mutex;

use crate::sys::{self, Peer};
use crate::tls::Tls;

/// The longest wait of one receive that may wait; the kernel rounds it up to its tick.
const LINGER: Duration = Duration::from_millis(1);

pub(crate) struct Socket {
    fd: OwnedFd,
    is_tcp: bool,
    /// Its lock is never waited for: bytes move in the session's turn only.
    tls: Option<Box<Mutex<Tls>>>,
}

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Bytes(usize),
    Nothing,
    End,
}

pub(crate) fn got(result: io::Result<usize>) -> io::Result<Got> {
    match result {
        Ok(0) => Ok(Got::End),
        Ok(bytes) => Ok(Got::Bytes(bytes)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Got::Nothing),
            _ => Err(error),
        },
    }
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd, tls: Option<Tls>) -> io::Result<Socket> {
        let is_tcp = sys::prepare(fd.as_fd(), LINGER)?;
        Ok(Socket { fd, is_tcp, tls: tls.map(|tls| Box::new(Mutex::new(tls))) })
    }

    /// Receives into a buffer that is not empty. With `wait`, for a short while if nothing is there.
    pub(crate) fn receive(&self, buffer: &mut [u8], wait: bool) -> io::Result<Got> {
        match &self.tls {
            None => got(sys::receive(self.fd.as_fd(), buffer, wait)),
            Some(tls) => tls.lock().receive_into(self.fd.as_fd(), buffer, wait),
        }
    }

    /// Receives onto the end of a buffer that is shorter than `limit`.
    pub(crate) fn receive_more(&self, buffer: &mut Vec<u8>, limit: usize, wait: bool) -> io::Result<Got> {
        match &self.tls {
            None => got(sys::receive_more(self.fd.as_fd(), buffer, limit, wait)),
            Some(tls) => tls.lock().receive_onto(self.fd.as_fd(), buffer, limit, wait),
        }
    }

    /// Sends what can be sent; 0 if that is nothing. With `wait`, for a short while if the peer is slow to take it. (With TLS there is no waiting.)
    pub(crate) fn send(&self, slices: &[IoSlice<'_>], wait: bool) -> io::Result<usize> {
        if let Some(tls) = &self.tls {
            return tls.lock().send_from(self.fd.as_fd(), slices);
        }
        match sys::send(self.fd.as_fd(), slices, wait) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            other => other,
        }
    }

    /// Whether a peer in this condition is gone. Over TCP an end that was closed looks like one that only sends no more.
    pub(crate) fn is_abandoned(&self, peer: Peer) -> bool {
        peer == Peer::Gone || (self.is_tcp && peer == Peer::HalfGone)
    }

    /// What was sent and the client has not taken yet, as far as the kernel tells.
    pub(crate) fn queued(&self) -> Option<u64> {
        sys::queued(self.fd.as_fd())
    }

    /// No more is received; who waits for it wakes up.
    pub(crate) fn stop_receiving(&self) {
        sys::shut(self.fd.as_fd(), false);
    }

    pub(crate) fn shut(&self) {
        sys::shut(self.fd.as_fd(), true);
    }

    /// `shut` after the last turn: a client with TLS is told that this is the end, and not somebody who cut the line.
    pub(crate) fn close(&self) {
        if let Some(tls) = &self.tls {
            tls.lock().bid_farewell(self.fd.as_fd());
        }
        self.shut();
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    fn is_abandoned(socket: &Socket) -> bool {
        socket.is_abandoned(sys::peers(&[socket.as_fd()]).unwrap()[0])
    }

    #[test]
    fn a_unix_peer_is_gone_when_it_has_closed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::new(ours.into(), None).unwrap();
        assert!(!is_abandoned(&socket));
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(!is_abandoned(&socket));
        drop(theirs);
        assert!(is_abandoned(&socket));
    }

    #[test]
    fn a_tcp_peer_is_gone_when_it_sends_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Socket::new(listener.accept().unwrap().0.into(), None).unwrap();
        assert!(!is_abandoned(&socket));
        drop(theirs);
        while !is_abandoned(&socket) {
            std::thread::yield_now();
        }
    }
}
