//! A process on the machine: the engine's `Storage`, with every call passing one gate where faults and death wait.

use std::io;
use std::sync::Arc;

use cdp_engine::storage::{File, Lock, Storage};
use cdp_engine::PAGE;
use parking_lot::MutexGuard;

use crate::fault::{Call, Fault, Op, EAGAIN, EBADF, EEXIST, EIO, ENOENT, ENOSPC, EROFS};
use crate::folder::FileId;
use crate::machine::{Machine, World};

/// One run of a program. After its death, or the boot of another, every call on it and on its files fails.
pub struct Process {
    machine: Machine,
    number: u64,
    read_only: bool,
}

struct OpenFile {
    machine: Machine,
    process: u64,
    id: FileId,
    name: String,
    writable: bool,
}

struct Held {
    machine: Machine,
    process: u64,
    prefix: String,
}

/// What the gate lets a change do.
enum Verdict {
    Done,
    /// Do a part of it (of a write so many millionths, of all else nothing), then fail.
    Part(u64, io::Error),
    /// Do all of it, then fail.
    Whole(io::Error),
    /// A sync that loses what was not written back.
    Lossy {
        hidden: bool,
        error: io::Error,
    },
}

const MILLION: u64 = 1_000_000;

impl Process {
    pub(crate) fn new(machine: Machine, number: u64, read_only: bool) -> Process {
        Process { machine, number, read_only }
    }

    fn look(&self, op: Op) -> io::Result<MutexGuard<'_, World>> {
        look(&self.machine, self.number, op)
    }

    fn change(&self, op: Op, name: &str) -> io::Result<(MutexGuard<'_, World>, Verdict)> {
        if self.read_only {
            return Err(io::Error::from_raw_os_error(EROFS));
        }
        change(&self.machine, self.number, op, name)
    }

    /// Gives a file one more name.
    pub fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut world, verdict) = self.change(Op::Create, to)?;
        let id = world.folder.get(from).ok_or_else(not_found)?;
        if world.folder.get(to).is_some() {
            return Err(io::Error::from_raw_os_error(EEXIST));
        }
        verdict.apply(|| world.folder.create(to, id))
    }

    /// Every name, also of other timelines.
    pub fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.look(Op::List)?.folder.names().keys().cloned().collect())
    }

    /// The lock of one timeline's writer.
    pub(crate) fn lock_of(&self, prefix: &str) -> io::Result<Box<dyn Lock>> {
        let mut world = self.look(Op::Lock)?;
        if !world.locked.insert(prefix.into()) {
            return Err(io::Error::from_raw_os_error(EAGAIN));
        }
        Ok(Box::new(Held { machine: self.machine.clone(), process: self.number, prefix: prefix.into() }))
    }

    fn file(&self, id: FileId, name: &str, writable: bool) -> Arc<dyn File> {
        Arc::new(OpenFile { machine: self.machine.clone(), process: self.number, id, name: name.into(), writable })
    }
}

impl Storage for Process {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let (mut world, verdict) = self.change(Op::Create, name)?;
        if world.folder.get(name).is_some() {
            return Err(io::Error::from_raw_os_error(EEXIST));
        }
        let id = verdict.apply(|| world.create(name))?;
        Ok(self.file(id, name, true))
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        let world = self.look(Op::Open)?;
        if write && self.read_only {
            return Err(io::Error::from_raw_os_error(EROFS));
        }
        let id = world.folder.get(name).ok_or_else(not_found)?;
        Ok(self.file(id, name, write))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut world, verdict) = self.change(Op::Rename, from)?;
        if world.folder.get(from).is_none() {
            return Err(not_found());
        }
        verdict.apply(|| world.folder.rename(from, to)).map(|_| ())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut world, verdict) = self.change(Op::Remove, name)?;
        if world.folder.get(name).is_none() {
            return Err(not_found());
        }
        verdict.apply(|| world.folder.remove(name)).map(|_| ())
    }

    fn links(&self, name: &str) -> io::Result<u64> {
        let world = self.look(Op::Open)?;
        let id = world.folder.get(name).ok_or_else(not_found)?;
        Ok(world.folder.names().values().filter(|&&other| other == id).count() as u64)
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        let (mut world, verdict) = self.change(Op::Create, name)?;
        let id = match world.folder.get(name) {
            Some(id) => verdict.apply(|| id)?,
            None => verdict.apply(|| world.create(name))?,
        };
        if room(&world, id) < bytes {
            world.folder.remove(name);
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        let file = world.files.get_mut(&id).expect("a named file is kept");
        let length = file.len();
        file.write(&vec![0; (bytes as usize).saturating_sub(length)], length);
        file.sync();
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names()?.into_iter().filter(|name| !name.contains('/')).collect())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let (mut world, verdict) = self.change(Op::SyncFolder, "")?;
        verdict.apply(|| world.folder.sync())
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.lock_of("")
    }

    fn now(&self) -> u64 {
        self.machine.world().clock.now()
    }

    fn nonce(&self) -> u64 {
        self.machine.world().clock.nonce()
    }
}

impl File for OpenFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = look(&self.machine, self.process, Op::Read)?;
        Ok(world.files[&self.id].read(buffer, offset as usize))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        let (mut world, verdict) = change(&self.machine, self.process, Op::Write, &self.name)?;
        let fits = room(&world, self.id).saturating_sub(offset).min(bytes.len() as u64) as usize;
        let file = world.files.get_mut(&self.id).expect("an open file is kept");
        let (done, outcome) = match verdict {
            Verdict::Done if fits < bytes.len() => (fits, Err(io::Error::from_raw_os_error(ENOSPC))),
            Verdict::Done => (bytes.len(), Ok(())),
            Verdict::Whole(error) => (fits, Err(error)),
            Verdict::Part(share, error) => (fits.min((bytes.len() as u64 * share / MILLION) as usize), Err(error)),
            Verdict::Lossy { error, .. } => (0, Err(error)),
        };
        crate::campaign::tell(|| format!("  write {} {offset} +{} -> {done} {outcome:?}", self.name, bytes.len()));
        file.write(&bytes[..done], offset as usize);
        outcome
    }

    fn sync(&self) -> io::Result<()> {
        let (mut world, verdict) = change(&self.machine, self.process, Op::Sync, &self.name)?;
        let mut rng = world.rng.fork();
        let file = world.files.get_mut(&self.id).expect("an open file is kept");
        if let Verdict::Lossy { hidden, error } = verdict {
            file.sync_fails(&mut rng, hidden);
            return Err(error);
        }
        verdict.apply(|| file.sync())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(look(&self.machine, self.process, Op::Len)?.files[&self.id].len() as u64)
    }

    fn drop_cache(&self) {
        let mut world = self.machine.world();
        if world.process == self.process && world.died.is_none() {
            world.files.get_mut(&self.id).expect("an open file is kept").drop_cache();
        }
    }
}

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        let mut world = self.machine.world();
        if world.process == self.process {
            world.locked.remove(&self.prefix);
        }
    }
}

impl Verdict {
    /// For changes that are done as a whole or not at all.
    fn apply<T>(self, act: impl FnOnce() -> T) -> io::Result<T> {
        match self {
            Verdict::Done => Ok(act()),
            Verdict::Whole(error) => {
                act();
                Err(error)
            }
            Verdict::Part(_, error) | Verdict::Lossy { error, .. } => Err(error),
        }
    }
}

/// The offset up to which a file can be written.
fn room(world: &World, id: FileId) -> u64 {
    let Some(capacity) = world.capacity else {
        return u64::MAX;
    };
    let own = (world.files[&id].len() as u64).div_ceil(PAGE) * PAGE;
    own + capacity.saturating_sub(world.used()) / PAGE * PAGE
}

fn look(machine: &Machine, process: u64, op: Op) -> io::Result<MutexGuard<'_, World>> {
    debug_assert!(!op.changes());
    let mut world = machine.world();
    check_alive(&world, process)?;
    world.looks += 1;
    match world.plan.fault(false, world.looks) {
        Some(fault) => Err(fault.error()),
        None => Ok(world),
    }
}

fn change<'m>(machine: &'m Machine, process: u64, op: Op, name: &str) -> io::Result<(MutexGuard<'m, World>, Verdict)> {
    debug_assert!(op.changes());
    let mut world = machine.world();
    check_alive(&world, process)?;
    world.changes += 1;
    world.trace.push(Call { op, name: name.into() });
    let verdict = judge(&mut world, op);
    if op != Op::Write {
        crate::campaign::tell(|| format!("  {op:?} {name} {}", matches!(verdict, Verdict::Done)));
    }
    Ok((world, verdict))
}

/// The fate of the change that was counted last.
fn judge(world: &mut World, op: Op) -> Verdict {
    let number = world.changes;
    let share = world.rng.below(MILLION);
    if let Some((_, death)) = world.plan.death.filter(|(at, _)| number >= *at) {
        world.died = Some(death);
        return match world.rng.below(3) {
            0 => Verdict::Part(0, dead()),
            1 => Verdict::Part(share, dead()),
            // A sync that is cut off has promised nothing.
            _ if matches!(op, Op::Sync | Op::SyncFolder) => Verdict::Part(0, dead()),
            _ => Verdict::Whole(dead()),
        };
    }
    match world.plan.fault(true, number) {
        None => Verdict::Done,
        Some(fault @ Fault::Refuse(_)) => Verdict::Part(0, fault.error()),
        Some(fault @ Fault::Belated(_)) => Verdict::Whole(fault.error()),
        Some(fault @ Fault::Short(_)) => Verdict::Part(share, fault.error()),
        Some(fault @ (Fault::SyncDrops | Fault::SyncHides)) => {
            Verdict::Lossy { hidden: fault == Fault::SyncHides, error: fault.error() }
        }
    }
}

fn check_alive(world: &World, process: u64) -> io::Result<()> {
    if world.process == process && world.died.is_none() {
        Ok(())
    } else {
        Err(dead())
    }
}

fn dead() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(ENOENT)
}
