//! The seam to the outside: files, clock and randomness. The engine reaches them nowhere else, so that a
//! simulator can stand in for the machine (native/sim).

mod clock;
mod disk;

pub use clock::{Clock, Step};
pub use disk::Disk;

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

/// One volume's folder.
///
/// Calls are atomic towards each other but nothing is durable before the matching sync: bytes of a file before
/// `File::sync`, names before `sync_folder` (docs/format.md, "What the medium may do").
pub trait Storage: Send + Sync {
    /// Makes a new, empty file open for reading and writing. AlreadyExists if the name is taken.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file; `write` false opens it for reading only.
    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading large stretches once: past the page cache where the machine can. Buffers, offsets and lengths of its
    /// reads are then whole pages in memory and in the file.
    fn open_uncached(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.open(name, false)
    }
    /// Replaces `to` by `from`, atomically.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes a file of `bytes` whose blocks are all there, or fails and leaves what was there; one that is there gets this size. Durable is not promised. Unsupported where there is no such thing.
    fn reserve(&self, _name: &str, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Bytes that files may still grow by. (Unless it says otherwise, there is no bound.)
    fn room(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
    /// Bytes of a file; NotFound if there is none.
    fn length(&self, name: &str) -> io::Result<u64> {
        self.open(name, false)?.len()
    }
    /// Names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Names that the file has, in all folders of the file system: other timelines may share it.
    fn links(&self, name: &str) -> io::Result<u64> {
        let _ = name;
        Ok(1)
    }
    /// Makes creations, renames and removals durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// Takes the one writer's lock; WouldBlock if another holds it. It dies with the process or the value.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;
    /// CLOCK_REALTIME in nanoseconds since 1970. On the real machine no two calls of a process get the same, and later ones get more unless the clock
    /// steps back: a time is one consistent instant of all volumes of a process (docs/decisions/0012-groups.md).
    fn now(&self) -> u64;
    /// From here on `now` gives more than this; for stamps of earlier processes.
    fn pass(&self, _stamp: u64) {}
    /// The newest step back of the clock that the volumes of this process share, if there were others than `_known`.
    fn clock_stepped(&self, _known: u64) -> Option<Step> {
        None
    }
    /// A random number that no earlier file of this folder got.
    fn nonce(&self) -> u64;
}

/// An open file. Positioned calls only: there is no cursor to share.
pub trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The same into several buffers, one behind the other.
    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        read_one_by_one(self, buffers, offset)
    }
    /// The same if it need not wait for the disk, else WouldBlock. (Who cannot tell waits.)
    fn read_vectored_now_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.read_vectored_at(buffers, offset)
    }
    /// Writes all of `bytes` or fails; a failed call may have written a part.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// The same of several buffers, one behind the other: as one write.
    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let all: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.write_at(&all, offset)
    }
    /// fdatasync: on return everything written before is durable. After an error nothing is known.
    fn sync(&self) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Begins to write a stretch to the disk that a later sync will wait for. Nothing depends on it.
    fn begin_writeback(&self, _offset: u64, _bytes: u64) {}
    /// Gives blocks to a stretch that will be written soon; the length of the file stays. Nothing depends on it.
    fn allocate(&self, _offset: u64, _bytes: u64) {}
    /// Takes back what was allocated behind the end of the file, which nobody appends to meanwhile.
    fn free_behind(&self) {}
    /// Says that a stretch will be read soon.
    fn prefetch(&self, _offset: u64, _bytes: u64) {}
    /// Drops clean cached pages, so that the next read shows what the disk has.
    fn drop_cache(&self);
}

/// A vectored read made of plain ones.
fn read_one_by_one<F: File + ?Sized>(file: &F, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    for buffer in buffers {
        let got = file.read_at(buffer, offset + done as u64)?;
        done += got;
        if got < buffer.len() {
            break;
        }
    }
    Ok(done)
}

/// Held by the one writer; dropping it lets go.
pub trait Lock: Send + Sync {}
