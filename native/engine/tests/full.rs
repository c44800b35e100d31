//! A volume without room, on a disk that takes so many bytes and no more: what each policy does, that nothing acknowledged is lost, and that room that
//! comes back ends it.

mod support;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use cdp_engine::storage::{Disk, File, Lock, Storage};
use cdp_engine::{FullPolicy, Kind, Lsn, Offer, Options, Settled, Space, Stamp, Volume, Zeroing};
use parking_lot::Mutex;
use support::noise;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// A bound for a hang, never a measure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The real disk, up to `capacity` bytes of files.
struct Cramped {
    disk: Disk,
    shared: Arc<Shared>,
}

struct Shared {
    capacity: AtomicU64,
    /// Nothing is written in place: what overwrites takes room too.
    copies: AtomicBool,
    lengths: Mutex<HashMap<String, u64>>,
}

impl Shared {
    fn used(&self) -> u64 {
        self.lengths.lock().values().sum()
    }

    /// Lets a file grow to `end`, if there is room.
    fn grow(&self, name: &str, end: u64) -> io::Result<()> {
        let mut lengths = self.lengths.lock();
        let others: u64 = lengths.iter().filter(|(other, _)| *other != name).map(|(_, bytes)| bytes).sum();
        let length = lengths.entry(name.to_owned()).or_default();
        if end > *length {
            if others + end > self.capacity.load(Relaxed) {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            *length = end;
        }
        Ok(())
    }
}

struct CrampedFile {
    file: Arc<dyn File>,
    name: Mutex<String>,
    shared: Arc<Shared>,
}

impl Cramped {
    fn wrap(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(CrampedFile { file, name: Mutex::new(name.to_owned()), shared: self.shared.clone() })
    }
}

impl Storage for Cramped {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.disk.create(name)?;
        self.shared.lengths.lock().insert(name.to_owned(), 0);
        Ok(self.wrap(name, file))
    }
    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(name, self.disk.open(name, write)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)?;
        let mut lengths = self.shared.lengths.lock();
        let length = lengths.remove(from).unwrap_or(0);
        lengths.insert(to.to_owned(), length);
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)?;
        self.shared.lengths.lock().remove(name);
        Ok(())
    }
    fn links(&self, name: &str) -> io::Result<u64> {
        self.disk.links(name)
    }
    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.shared.grow(name, bytes)?;
        self.disk.reserve(name, bytes)
    }
    fn room(&self) -> io::Result<u64> {
        Ok(self.shared.capacity.load(Relaxed).saturating_sub(self.shared.used()))
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }
    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.disk.lock()
    }
    fn now(&self) -> u64 {
        self.disk.now()
    }
    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }
}

impl File for CrampedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut name = self.name.lock();
        let over = offset < self.shared.lengths.lock().get(&*name).copied().unwrap_or(0);
        let copied = self.shared.used() + bytes.len() as u64;
        if over && self.shared.copies.load(Relaxed) && copied > self.shared.capacity.load(Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        // Files are renamed once, from their temporary names.
        if let Some(stem) = name.strip_suffix(".tmp").map(str::to_owned) {
            if !self.shared.lengths.lock().contains_key(&*name) {
                *name = stem;
            }
        }
        if let Err(full) = self.shared.grow(&name, offset + bytes.len() as u64) {
            // A full disk takes a part.
            let half = bytes.len() / 2;
            if self.shared.grow(&name, offset + half as u64).is_ok() {
                self.file.write_at(&bytes[..half], offset)?;
            }
            return Err(full);
        }
        self.file.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn drop_cache(&self) {
        self.file.drop_cache();
    }
}

struct Bench {
    folder: PathBuf,
    shared: Arc<Shared>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Bench {
    fn new(capacity: u64) -> Bench {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("cdp-full-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let capacity = AtomicU64::new(capacity);
        let shared = Arc::new(Shared { capacity, copies: AtomicBool::new(false), lengths: Mutex::default() });
        let bench = Bench { folder, shared };
        Volume::create(bench.storage(), [7; 16], SIZE, Stamp(1)).unwrap();
        bench
    }

    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(Cramped { disk: Disk::new(&self.folder).unwrap(), shared: self.shared.clone() })
    }

    fn open(&self) -> Arc<Volume> {
        // A volume that was dropped, as a kill leaves it, may be in the hands of one of its threads for a moment.
        for _ in 0..PATIENCE.as_millis() {
            match Volume::open(self.storage(), None, Options::default()) {
                Err(error) if error.kind == Kind::Busy => thread::park_timeout(Duration::from_millis(1)),
                other => return other.unwrap(),
            }
        }
        panic!("it is never let go");
    }

    fn give(&self, bytes: u64) {
        self.shared.capacity.fetch_add(bytes, Relaxed);
    }

    fn files(&self) -> u64 {
        let entries = std::fs::read_dir(&self.folder).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }
}

const BLOCK: u64 = 64 * KIB;

fn put(volume: &Volume, block: u64) -> cdp_engine::Result<Lsn> {
    volume.commit(volume.write(block * BLOCK, &noise(block, BLOCK as usize))?)
}

fn holds(volume: &Arc<Volume>, blocks: u64) {
    let mut buffer = vec![0; BLOCK as usize];
    for block in 0..blocks {
        let faults = volume.live().read(block * BLOCK, &mut buffer).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        assert!(buffer == noise(block, BLOCK as usize), "block {block}");
    }
}

fn is_whole(volume: &Volume) {
    assert_eq!(volume.verify(&mut |_, _| Ok(())).unwrap(), []);
}

/// Writes blocks in a thread until told to stop; says which are done.
fn writer(volume: &Arc<Volume>, blocks: std::ops::Range<u64>) -> mpsc::Receiver<cdp_engine::Result<u64>> {
    let (say, heard) = mpsc::channel();
    let volume = volume.clone();
    thread::spawn(move || {
        for block in blocks {
            let outcome = put(&volume, block).map(|_| block);
            let failed = outcome.is_err();
            if say.send(outcome).is_err() || failed {
                return;
            }
        }
    });
    heard
}

fn until(volume: &Volume, what: &str, holds: impl Fn(&Space) -> bool) -> Space {
    // Every look is a few system calls, and the writer runs meanwhile: bounded, without a clock.
    for _ in 0..PATIENCE.as_millis() {
        let space = volume.space().unwrap();
        if holds(&space) {
            return space;
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    panic!("not {what}: {:?}", volume.space().unwrap());
}

/// How many blocks the writer has done by now.
fn done(heard: &mpsc::Receiver<cdp_engine::Result<u64>>, before: u64) -> u64 {
    heard.try_iter().map(|block| block.unwrap() + 1).last().unwrap_or(before)
}

#[test]
fn what_is_used_is_what_the_files_have() {
    let bench = Bench::new(u64::MAX / 2);
    let volume = bench.open();
    for block in 0..700 {
        put(&volume, block).unwrap();
        if block % 50 == 0 {
            volume.zero(block * BLOCK, MIB, Zeroing::Trim).and_then(|lsn| volume.commit(lsn)).unwrap();
        }
    }
    volume.flush().unwrap();
    volume.close().unwrap();
    let space = volume.space().unwrap();
    assert_eq!(space.used, bench.files());
    assert_eq!(space.used, space.segments_bytes + space.index_bytes + space.manifest_bytes + space.reserve_file);
    assert!(space.foreground_bytes > 700 * BLOCK && space.foreground_bytes < 705 * BLOCK, "{space:?}");
    assert!(space.index_written_bytes > 0 && space.reserve_file >= MIB, "{space:?}");
    drop(volume);
    let volume = bench.open();
    let again = volume.space().unwrap();
    assert_eq!((again.used, again.segments_bytes), (bench.files(), space.segments_bytes));
}

#[test]
fn an_idle_volume_stays_small() {
    let bench = Bench::new(u64::MAX / 2);
    let volume = bench.open();
    volume.set_budget(Some(1 << 30), FullPolicy::Stall);
    put(&volume, 0).unwrap();
    volume.flush().unwrap();
    assert!(bench.files() < 2 * MIB);
}

#[test]
fn writes_wait_at_the_hard_mark_and_go_on_with_a_larger_budget() {
    let bench = Bench::new(u64::MAX / 2);
    let volume = bench.open();
    // Nine writes have room between the marks: wherever the first of them comes to lie, some are slowed down.
    volume.set_budget(Some(48 * MIB), FullPolicy::Stall);
    let heard = writer(&volume, 0..900);
    let space = until(&volume, "stalled", |space| space.stalled);
    assert!(space.used <= 48 * MIB && space.hard == Some(36 * MIB) && !space.disk_full, "{space:?}");
    assert!(space.delayed_ns > 0, "nothing was slowed down before: {space:?}");
    let blocks = done(&heard, 0);
    assert!(blocks > 0 && blocks < 600, "{blocks}");
    // Reads, flushes, bookmarks and trims do not wait.
    holds(&volume, blocks);
    volume.flush().unwrap();
    volume.commit(volume.control(br#"{"type":"bookmark","name":"full","lsn":1,"stamp":1}"#).unwrap()).unwrap();
    volume.commit(volume.zero(SIZE - MIB, MIB, Zeroing::Trim).unwrap()).unwrap();
    volume.rollback(volume.latest().0).unwrap();
    assert!(heard.try_recv().is_err());
    volume.set_budget(Some(1 << 30), FullPolicy::Stall);
    assert_eq!(heard.iter().map(Result::unwrap).last(), Some(899));
    holds(&volume, 900);
    let event = |wanted: &str| {
        let controls = volume.controls();
        controls.iter().filter(|c| String::from_utf8_lossy(&c.document).contains(wanted)).count()
    };
    assert_eq!(event(r#""event":"stall","reason":"budget""#), 1);
    volume.close().unwrap();
}

#[test]
fn writes_fail_at_the_hard_mark_where_that_is_the_policy() {
    let bench = Bench::new(u64::MAX / 2);
    let volume = bench.open();
    volume.set_budget(Some(24 * MIB), FullPolicy::Fail);
    let mut blocks = 0;
    let error = loop {
        match put(&volume, blocks) {
            Ok(_) => blocks += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, Kind::NoSpace);
    assert!(volume.space().unwrap().used <= 24 * MIB);
    let latest = volume.latest().0;
    assert_eq!(put(&volume, blocks).unwrap_err().kind, Kind::NoSpace);
    assert_eq!(volume.latest().0, latest);
    holds(&volume, blocks);
    volume.set_budget(None, FullPolicy::Fail);
    put(&volume, blocks).unwrap();
    holds(&volume, blocks + 1);
}

#[test]
fn closing_lets_go_of_writes_that_wait() {
    let bench = Bench::new(u64::MAX / 2);
    let volume = bench.open();
    volume.set_budget(Some(16 * MIB), FullPolicy::DropOldest);
    let heard = writer(&volume, 0..600);
    until(&volume, "stalled", |space| space.stalled);
    let blocks = done(&heard, 0);
    volume.close().unwrap();
    let last = heard.recv_timeout(PATIENCE).unwrap();
    assert_eq!(last.unwrap_err().kind, Kind::Closed);
    holds(&bench.open(), blocks);
}

#[test]
fn a_full_disk_makes_writes_wait_until_it_has_room() {
    let bench = Bench::new(24 * MIB);
    let volume = bench.open();
    let heard = writer(&volume, 0..600);
    until(&volume, "stalled", |space| space.stalled && space.disk_full);
    let blocks = done(&heard, 0);
    assert!(blocks > 100, "{blocks}");
    holds(&volume, blocks);
    volume.flush().unwrap();
    // What must not wait has the reserve; writes do not get at it.
    volume.commit(volume.control(br#"{"type":"bookmark","name":"full","lsn":1,"stamp":1}"#).unwrap()).unwrap();
    let rolled = volume.rollback(Lsn(50)).unwrap();
    volume.rollback(Lsn(rolled.0 - 1)).unwrap();
    until(&volume, "stalled", |space| space.stalled && space.disk_full);
    assert_eq!(done(&heard, blocks), blocks);
    bench.give(100 * MIB);
    assert_eq!(heard.iter().map(Result::unwrap).last(), Some(599));
    holds(&volume, 600);
    until(&volume, "over", |space| !space.disk_full && !space.stalled);
    volume.close().unwrap();
    is_whole(&volume);
    assert!(volume.faults().is_empty(), "{:?}", volume.faults());
    drop(volume);
    holds(&bench.open(), 600);
}

#[test]
fn a_full_disk_that_writes_nothing_in_place_is_flushed_all_the_same() {
    let bench = Bench::new(24 * MIB);
    bench.shared.copies.store(true, Relaxed);
    let volume = bench.open();
    let heard = writer(&volume, 0..600);
    until(&volume, "stalled", |space| space.stalled && space.disk_full);
    let blocks = done(&heard, 0);
    volume.flush().unwrap();
    assert!(volume.faults().is_empty(), "{:?}", volume.faults());
    bench.give(100 * MIB);
    assert_eq!(heard.iter().map(Result::unwrap).last(), Some(599));
    volume.close().unwrap();
    is_whole(&volume);
    drop(volume);
    assert!(blocks > 100, "{blocks}");
    holds(&bench.open(), 600);
}

#[test]
fn a_full_disk_fails_writes_where_that_is_the_policy() {
    let bench = Bench::new(24 * MIB);
    let volume = bench.open();
    volume.set_budget(None, FullPolicy::Fail);
    let mut blocks = 0;
    while put(&volume, blocks).is_ok() {
        blocks += 1;
    }
    assert_eq!(put(&volume, blocks).unwrap_err().kind, Kind::NoSpace);
    assert!(volume.space().unwrap().disk_full);
    holds(&volume, blocks);
    volume.flush().unwrap();
    bench.give(100 * MIB);
    // Tried again by itself, without a write.
    let tries = (0..PATIENCE.as_millis()).take_while(|_| {
        thread::park_timeout(Duration::from_millis(1));
        put(&volume, blocks).is_err()
    });
    assert!(tries.count() < PATIENCE.as_millis() as usize);
    holds(&volume, blocks + 1);
    assert!(!volume.space().unwrap().disk_full);
}

#[test]
fn a_full_disk_is_closed_and_opened_again() {
    for clean in [true, false] {
        let bench = Bench::new(24 * MIB);
        let volume = bench.open();
        volume.set_budget(None, FullPolicy::Fail);
        let mut blocks = 0;
        while put(&volume, blocks).is_ok() {
            blocks += 1;
        }
        let full = volume.space().unwrap();
        assert!(full.reserve_file > 0, "{full:?}");
        if clean {
            volume.close().unwrap();
        }
        drop(volume);
        let volume = bench.open();
        holds(&volume, blocks);
        is_whole(&volume);
        assert!(volume.faults().is_empty(), "{:?}", volume.faults());
        let heard = writer(&volume, blocks..blocks + 100);
        until(&volume, "stalled", |space| space.stalled && space.disk_full);
        bench.give(100 * MIB);
        assert_eq!(heard.iter().map(Result::unwrap).last(), Some(blocks + 99));
        holds(&volume, blocks + 100);
        volume.close().unwrap();
        is_whole(&volume);
    }
}

#[test]
fn a_refused_write_of_part_of_a_sector_keeps_what_was_written_beside_it_meanwhile() {
    let bench = Bench::new(u64::MAX / 2);
    let volume = bench.open();
    put(&volume, 0).unwrap();
    bench.shared.capacity.store(bench.shared.used(), Relaxed);
    let prepared = volume.prepare_write(10, b"first", false).unwrap();
    let Offer::Admitted(first) = volume.offer(prepared).unwrap() else { panic!("it waits already") };
    let Settled::Again(waiting) = volume.settle(first).unwrap() else { panic!("the disk took it") };
    bench.give(100 * MIB);
    // Another client's, to the same sector, before the first one comes to its turn.
    volume.commit(volume.write(100, b"second").unwrap()).unwrap();
    let lsn = volume.admit_anyway(waiting).unwrap();
    volume.commit(lsn).unwrap();
    let mut sector = [0; 512];
    assert!(volume.live().read(0, &mut sector).unwrap().is_empty());
    assert_eq!((&sector[10..15], &sector[100..106]), (&b"first"[..], &b"second"[..]));
}

/// Bytes of the volume that are written again and again.
const WORKING_SET: u64 = 8 * MIB / BLOCK;

/// Writes over and over, giving up all history but the latest when it is told to.
fn overwrite(volume: &Arc<Volume>, rounds: u64) {
    for round in 0..rounds {
        let block = (round * 7) % WORKING_SET;
        put(volume, block).unwrap();
        if round % 16 == 0 {
            volume.flush().unwrap();
            volume.retain(volume.latest().0, &[]).unwrap();
        }
    }
}

#[test]
fn a_budget_holds_for_as_long_as_one_likes_where_history_is_given_up() {
    let bench = Bench::new(u64::MAX / 2);
    let volume = bench.open();
    volume.set_budget(Some(40 * MIB), FullPolicy::DropOldest);
    overwrite(&volume, 2000);
    let space = volume.space().unwrap();
    assert!(space.used <= 40 * MIB && bench.files() <= 40 * MIB, "{space:?} {}", bench.files());
    assert!(space.foreground_bytes > 120 * MIB && space.compaction_bytes > 0, "{space:?}");
    holds(&volume, WORKING_SET);
    volume.close().unwrap();
}

#[test]
fn a_full_disk_is_emptied_by_compaction_in_its_reserve() {
    let bench = Bench::new(32 * MIB);
    let volume = bench.open();
    overwrite(&volume, 1500);
    holds(&volume, WORKING_SET);
    assert!(volume.faults().is_empty(), "{:?}", volume.faults());
    volume.close().unwrap();
    assert_eq!(volume.verify(&mut |_, _| Ok(())).unwrap(), []);
}
