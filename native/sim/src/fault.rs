//! What shall go wrong, and at which call.

use std::io;

/// A storage call, in the words of `cdp_engine::storage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    SyncFolder,
    Open,
    Read,
    List,
    Len,
    Lock,
}

impl Op {
    /// Changes are counted apart from looks: the n-th change is where a test cuts the power.
    pub fn changes(self) -> bool {
        self <= Op::SyncFolder
    }
}

/// One call that a process made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub op: Op,
    pub name: String,
}

/// How a process ends in the middle of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The power goes: see [`Restart`](crate::Restart) for what is left.
    Power,
    /// kill -9: the page cache and the names stay as they are.
    Kill,
}

/// How one call fails. A fault that does not fit its call (a short write at a rename) refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done; the error number.
    Refuse(i32),
    /// Done, and reported as failed all the same.
    Belated(i32),
    /// A part of the write is done.
    Short(i32),
    /// The sync fails and the cache drops what did not reach the medium.
    SyncDrops,
    /// The sync fails and the cache goes on showing, as clean, what did not reach the medium.
    SyncHides,
}

impl Fault {
    pub(crate) fn error(self) -> io::Error {
        match self {
            Fault::Refuse(number) | Fault::Belated(number) | Fault::Short(number) => {
                io::Error::from_raw_os_error(number)
            }
            Fault::SyncDrops | Fault::SyncHides => io::Error::from_raw_os_error(EIO),
        }
    }
}

// Linux's numbers, so that a process sees what it would see there.
pub(crate) const ENOENT: i32 = 2;
pub const EIO: i32 = 5;
pub(crate) const EBADF: i32 = 9;
pub(crate) const EAGAIN: i32 = 11;
pub(crate) const EEXIST: i32 = 17;
pub const ENOSPC: i32 = 28;
pub(crate) const EROFS: i32 = 30;

/// The plan of a test for one machine. Calls are numbered from 1, changes and looks apart, over the machine's life.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) death: Option<(u64, Death)>,
    faults: Vec<Planned>,
}

#[derive(Clone, Debug)]
struct Planned {
    change: bool,
    first: u64,
    lasting: bool,
    fault: Fault,
}

impl Plan {
    pub(crate) fn add(&mut self, change: bool, first: u64, lasting: bool, fault: Fault) {
        self.faults.push(Planned { change, first, lasting, fault });
    }

    pub(crate) fn clear(&mut self) {
        *self = Plan::default();
    }

    pub(crate) fn fault(&self, change: bool, number: u64) -> Option<Fault> {
        let hit = |p: &&Planned| p.change == change && (p.first == number || p.lasting && p.first < number);
        self.faults.iter().find(hit).map(|p| p.fault)
    }
}
