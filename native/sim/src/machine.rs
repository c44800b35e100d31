//! The machine as a test sees it: boots processes on it, plans its faults, cuts its power, ages its disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cdp_engine::PAGE;
use parking_lot::{Mutex, MutexGuard};

use crate::clock::Clock;
use crate::fault::{Call, Death, Fault, Plan};
use crate::folder::{FileId, Folder, FolderWreck};
use crate::inode::{Inode, Wreck};
use crate::process::Process;
use crate::seed::Rng;

/// The state in which a machine comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Only the process died: page cache and names are whole, and still not on the medium.
    Process,
    /// The power went, just after everything had been written back.
    AllKept,
    /// The power went and took everything that was not synced.
    AllLost,
    /// The power went; the seed decides what of each file and name survived.
    Power(u64),
}

/// Disk, page cache, folder and clock for the journal of one volume. Clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    world: Arc<Mutex<World>>,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) files: BTreeMap<FileId, Inode>,
    pub(crate) folder: Folder,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) trace: Vec<Call>,
    pub(crate) changes: u64,
    pub(crate) looks: u64,
    pub(crate) next_file: FileId,
    /// Bytes in whole pages that all named files may have together.
    pub(crate) capacity: Option<u64>,
    /// Processes are numbered; those before the current one are dead.
    pub(crate) process: u64,
    pub(crate) died: Option<Death>,
    /// Which timelines have a writer, by prefix.
    pub(crate) locked: BTreeSet<String>,
}

impl Machine {
    pub fn new(seed: u64) -> Machine {
        let mut rng = Rng::new(seed);
        let world = World {
            files: BTreeMap::new(),
            folder: Folder::default(),
            clock: Clock::new(rng.fork()),
            rng,
            plan: Plan::default(),
            trace: Vec::new(),
            changes: 0,
            looks: 0,
            next_file: 1,
            capacity: None,
            process: 0,
            died: None,
            locked: BTreeSet::new(),
        };
        Machine { world: Arc::new(Mutex::new(world)) }
    }

    /// Starts a process; one that was still there is killed.
    pub fn boot(&self) -> Arc<Process> {
        self.start(false)
    }

    /// A process on a read-only mount: every change is refused with EROFS.
    pub fn boot_read_only(&self) -> Arc<Process> {
        self.start(true)
    }

    /// Ends the process, if it is not dead yet, and brings the machine back; faults that were planned are forgotten.
    pub fn restart(&self, restart: Restart) {
        let mut world = self.world();
        world.process += 1;
        world.locked.clear();
        world.died = None;
        world.plan.clear();
        let (mut rng, wreck, folder_wreck) = match restart {
            Restart::Process => return,
            Restart::AllKept => (Rng::new(0), Some(Wreck::AllKept), FolderWreck::AllKept),
            Restart::AllLost => (Rng::new(0), Some(Wreck::AllLost), FolderWreck::AllLost),
            Restart::Power(seed) => {
                let mut rng = Rng::new(seed);
                let folder_wreck = FolderWreck::draw(&mut rng);
                (rng, None, folder_wreck)
            }
        };
        world.folder = std::mem::take(&mut world.folder).survive(folder_wreck, &mut rng);
        let named: BTreeSet<FileId> = world.folder.names().values().copied().collect();
        for (id, file) in std::mem::take(&mut world.files) {
            if named.contains(&id) {
                let wreck = wreck.unwrap_or_else(|| Wreck::draw(&mut rng));
                world.files.insert(id, file.survive(wreck, &mut rng));
            }
        }
    }

    /// A machine of its own in the same state, with no process: for trying several ends of one story.
    pub fn fork(&self) -> Machine {
        let mut world = self.world().clone();
        world.process += 1;
        Machine { world: Arc::new(Mutex::new(world)) }
    }

    /// The process dies in the middle of the `change`-th change; whether that call itself took effect is left to chance.
    pub fn die_at(&self, change: u64, death: Death) {
        self.world().plan.death = Some((change, death));
    }

    /// The `change`-th change fails; if `lasting`, those after it too.
    pub fn fail_change(&self, change: u64, fault: Fault, lasting: bool) {
        self.world().plan.add(true, change, lasting, fault);
    }

    /// The `look`-th call that changes nothing fails; if `lasting`, those after it too.
    pub fn fail_look(&self, look: u64, fault: Fault, lasting: bool) {
        self.world().plan.add(false, look, lasting, fault);
    }

    /// Forgets faults and deaths that were planned.
    pub fn heal(&self) {
        self.world().plan.clear();
    }

    /// Limits the disk to `bytes` in whole pages; None takes the limit away.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world().capacity = bytes;
    }

    /// Bytes in whole pages that the named files take.
    pub fn used(&self) -> u64 {
        self.world().used()
    }

    /// How the current process died, if it did.
    pub fn died(&self) -> Option<Death> {
        self.world().died
    }

    /// Changes counted so far.
    pub fn changes(&self) -> u64 {
        self.world().changes
    }

    /// Other calls counted so far.
    pub fn looks(&self) -> u64 {
        self.world().looks
    }

    /// Every change so far: the n-th is `trace()[n - 1]`.
    pub fn trace(&self) -> Vec<Call> {
        self.world().trace.clone()
    }

    /// What the wall clock shows, without the time that a look takes.
    pub fn time(&self) -> u64 {
        self.world().clock.time()
    }

    /// Moves the wall clock by `by_ns`.
    pub fn step_clock(&self, by_ns: i64) {
        self.world().clock.step(by_ns);
    }

    /// Names and lengths of all files.
    pub fn files(&self) -> Vec<(String, u64)> {
        let world = self.world();
        world.folder.names().iter().map(|(name, id)| (name.clone(), world.files[id].len() as u64)).collect()
    }

    /// What a read of the whole file shows; None if there is no such file.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let world = self.world();
        let id = world.folder.get(name)?;
        Some(world.files[&id].bytes().to_vec())
    }

    /// True if nothing waits for a sync and the cache shows what the medium has.
    pub fn is_clean(&self) -> bool {
        self.world().files.values().all(Inode::is_clean)
    }

    /// Changes stored bits: the byte at `offset` is xored with `mask`. Panics if there is no such byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) {
        self.rot(name, |bytes| bytes[offset as usize] ^= mask);
    }

    /// Zeroes a stored page (the last one of a file may be short).
    pub fn zero_page(&self, name: &str, page: u64) {
        self.rot(name, |bytes| {
            let start = (page * PAGE) as usize;
            let end = (start + PAGE as usize).min(bytes.len());
            bytes[start..end].fill(0);
        });
    }

    /// Replaces a stored file by other bytes, or makes it.
    pub fn replace(&self, name: &str, new: &[u8]) {
        let mut world = self.world();
        if world.folder.get(name).is_none() {
            world.create(name);
        }
        world.folder.sync();
        drop(world);
        self.rot(name, |bytes| *bytes = new.to_vec());
    }

    /// Takes a file away without a trace.
    pub fn lose(&self, name: &str) {
        let mut world = self.world();
        world.folder.remove(name);
        world.folder.sync();
    }

    fn rot(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        let id = world.folder.get(name).unwrap_or_else(|| panic!("no file {name} to rot"));
        world.files.get_mut(&id).expect("a name without a file").rot(change);
    }

    fn start(&self, read_only: bool) -> Arc<Process> {
        let mut world = self.world();
        world.process += 1;
        world.locked.clear();
        world.died = None;
        Arc::new(Process::new(self.clone(), world.process, read_only))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }
}

impl World {
    pub(crate) fn create(&mut self, name: &str) -> FileId {
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, Inode::default());
        self.folder.create(name, id);
        id
    }

    pub(crate) fn used(&self) -> u64 {
        let files: BTreeSet<&FileId> = self.folder.names().values().collect();
        files.into_iter().map(|id| (self.files[id].len() as u64).div_ceil(PAGE) * PAGE).sum()
    }
}
