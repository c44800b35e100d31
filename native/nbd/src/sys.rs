//! The system calls, and all `unsafe` of this crate.
//!
//! Nothing here decides anything: each function is one call with its arguments made safe. Sockets stay in
//! blocking mode; every call says itself whether it may wait (MSG_DONTWAIT), and a receive that waits is bounded by
//! the socket's receive timeout. No call raises SIGPIPE.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

pub(crate) const READABLE: u32 = libc::EPOLLIN as u32;
pub(crate) const WRITABLE: u32 = libc::EPOLLOUT as u32;
const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 4;

/// Bounds the arenas of the process's allocator. Each of them keeps what was freed in it; of sixteen workers that take turns, one after the other keeps as much as
/// one needs: 310 of 340 MB beside compaction. Four are more than two cores can contend for. (mallopt(3), M_ARENA_MAX; other libraries have no arenas.)
pub(crate) fn bound_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; the call sets a number.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn check_bytes(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// An epoll instance. Each descriptor carries a number of the caller's.
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the descriptor returned is new and owned by nobody else.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: as above.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, events: u32, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: number };
        // SAFETY: `event` lives through the call; the kernel copies it.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &mut event) })?;
        Ok(())
    }

    /// Adds a descriptor whose events are reported to everybody until they are gone.
    pub(crate) fn add_level(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), READABLE, number)
    }

    /// Adds a descriptor that reports one event, to one thread, and is then silent until `arm`.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, events: u32, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), events | ONESHOT, number)
    }

    /// Asks for one more event.
    pub(crate) fn arm(&self, fd: BorrowedFd<'_>, events: u32, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), events | ONESHOT, number)
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd.as_raw_fd(), 0, 0)
    }

    /// Waits for one event; the number of its descriptor. None where a signal came first.
    pub(crate) fn wait(&self) -> io::Result<Option<u64>> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event is passed, and one is asked for.
        match check(unsafe { libc::epoll_wait(self.0.as_raw_fd(), &mut event, 1, -1) }) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(event.u64)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A counter that is readable while it is not 0.
pub(crate) fn bell() -> io::Result<OwnedFd> {
    let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE;
    // SAFETY: no pointers; the descriptor is new.
    let fd = check(unsafe { libc::eventfd(0, flags) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Counts one up.
pub(crate) fn ring(bell: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight readable bytes. A failure means that the counter is full: it is readable already.
    let _ = unsafe { libc::write(bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Counts one down, if it is not 0.
pub(crate) fn hear(bell: BorrowedFd<'_>) {
    let mut count = [0u8; 8];
    // SAFETY: eight writable bytes. A failure means that somebody else heard it.
    let _ = unsafe { libc::read(bell.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

fn set_option<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let size = std::mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` points at `size` readable bytes; T is a plain C type at every call in this file.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (value as *const T).cast(), size) };
    check(result)?;
    Ok(())
}

/// Makes a stream socket ready: blocking, with a bound on each wait, without Nagle's delay where it is TCP; whether it is.
pub(crate) fn prepare(fd: BorrowedFd<'_>, wait: Duration) -> io::Result<bool> {
    // SAFETY: no pointers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) })?;
    let timeout = libc::timeval {
        tv_sec: wait.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(wait.subsec_micros()),
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &timeout)?;
    let on: libc::c_int = 1;
    match set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &on) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn wait_flags(wait: bool) -> libc::c_int {
    if wait {
        0
    } else {
        libc::MSG_DONTWAIT
    }
}

/// Receives into `buffer`; 0 is the end of the stream.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
    // SAFETY: `buffer` is writable for its length.
    check_bytes(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), wait_flags(wait)) })
}

/// Receives onto the end of `buffer`, at most until its length is `limit`, which its capacity must hold.
pub(crate) fn receive_more(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, limit: usize, wait: bool) -> io::Result<usize> {
    assert!(buffer.len() <= limit && limit <= buffer.capacity());
    let start = buffer.len();
    let room = &mut buffer.spare_capacity_mut()[..limit - start];
    // SAFETY: the spare capacity is writable, the kernel only writes to it.
    let got =
        check_bytes(unsafe { libc::recv(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), wait_flags(wait)) })?;
    // SAFETY: `got` bytes, at most limit - start, were just written behind `start`.
    unsafe { buffer.set_len(start + got) };
    Ok(got)
}

/// Sends what the socket takes now, from the slices in their order; with `wait`, what it takes within the bound set by [`prepare`].
pub(crate) fn send(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>], wait: bool) -> io::Result<usize> {
    // SAFETY: an all-zero msghdr is valid: no name, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    // SAFETY: IoSlice has the layout of iovec; sendmsg only reads the slices.
    check_bytes(unsafe { libc::sendmsg(fd.as_raw_fd(), &message, wait_flags(wait) | libc::MSG_NOSIGNAL) })
}

/// What was sent and the peer has not taken yet: bytes on TCP, on a Unix socket with what they cost the kernel besides. None if the kernel does not tell.
pub(crate) fn queued(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: room for one int, which this request writes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &mut count) }).ok()?;
    u64::try_from(count).ok()
}

/// Ends one or both directions for good; whoever waits on the socket returns. Errors mean that it is over already.
pub(crate) fn shut(fd: BorrowedFd<'_>, also_sending: bool) {
    let how = if also_sending { libc::SHUT_RDWR } else { libc::SHUT_RD };
    // SAFETY: no pointers.
    let _ = unsafe { libc::shutdown(fd.as_raw_fd(), how) };
}

/// What the peer of a socket has done, whatever is still unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Here,
    /// Sends no more; may still read.
    HalfGone,
    Gone,
}

/// Looks at the peers of all sockets with one call.
pub(crate) fn peers(sockets: &[BorrowedFd<'_>]) -> io::Result<Vec<Peer>> {
    let look = |fd: &BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    let mut polls: Vec<libc::pollfd> = sockets.iter().map(look).collect();
    // SAFETY: the array is writable for its length; timeout 0 does not wait.
    check(unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 0) })?;
    let peer = |poll: &libc::pollfd| match poll.revents {
        0 => Peer::Here,
        libc::POLLRDHUP => Peer::HalfGone,
        _ => Peer::Gone,
    };
    Ok(polls.iter().map(peer).collect())
}
