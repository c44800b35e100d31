//! Two volumes that share a clock, which goes back between their writes: what was written first is at every time where what came later is.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use cdp_engine::storage::{Clock, Disk, File, Lock, Step, Storage};
use cdp_engine::{Lsn, Maintenance, Options, Stamp, Volume};

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_000 * SECOND;

#[derive(Default)]
struct Shared {
    real: AtomicU64,
    clock: Clock,
}

impl Shared {
    fn real(&self) -> u64 {
        self.real.load(Ordering::Relaxed)
    }
}

/// A disk with the clock that both have.
struct Clocked {
    disk: Disk,
    shared: Arc<Shared>,
}

impl Storage for Clocked {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.create(name)
    }
    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        self.disk.open(name, write)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
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
        self.shared.clock.stamp(|| self.shared.real())
    }
    fn pass(&self, stamp: u64) {
        self.shared.clock.pass(stamp, || self.shared.real());
    }
    fn clock_stepped(&self, known: u64) -> Option<Step> {
        self.shared.clock.stepped(known)
    }
    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }
}

fn opened(folder: &Path, name: &str, shared: &Arc<Shared>) -> Arc<Volume> {
    let path = folder.join(name);
    let fresh = !path.exists();
    std::fs::create_dir_all(&path).expect("a folder");
    let disk = Disk::new(&path).expect("a folder");
    let storage = Arc::new(Clocked { disk, shared: shared.clone() });
    if fresh {
        Volume::create(storage.clone(), [1; 16], 1 << 20, Stamp(START)).expect("a new volume");
    }
    let options = Options { maintenance: Maintenance::Inline, ..Options::default() };
    Volume::open(storage, None, options).expect("it opens")
}

/// Its LSN and stamp, when it was answered.
fn write(volume: &Arc<Volume>) -> (Lsn, Stamp) {
    let lsn = volume.write(0, &[7; 4096]).expect("room");
    let lsn = volume.commit(lsn).expect("it is written");
    (lsn, volume.instant_of(lsn).expect("it is there").stamp)
}

/// The events of that kind, as text.
fn steps(volume: &Arc<Volume>) -> usize {
    let told = volume.controls();
    told.iter().filter(|control| String::from_utf8_lossy(&control.document).contains("clock-step")).count()
}

#[test]
fn a_clock_that_goes_back_a_little_changes_no_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let shared = Arc::new(Shared::default());
    shared.real.store(START + 10 * SECOND, Ordering::Relaxed);
    let (one, two) = (opened(folder.path(), "one", &shared), opened(folder.path(), "two", &shared));
    write(&two);
    shared.real.fetch_add(SECOND / 2, Ordering::Relaxed);
    for _ in 0..10 {
        let first = write(&one);
        shared.real.fetch_sub(SECOND / 20, Ordering::Relaxed);
        let second = write(&two);
        assert!(first.1 < second.1, "what was written later has the smaller stamp");
        for stamp in [first.1 .0 - 1, first.1 .0, second.1 .0 - 1, second.1 .0] {
            let shows = |volume: &Arc<Volume>, lsn| volume.instant_at(Stamp(stamp)).expect("a time").lsn >= lsn;
            assert!(shows(&one, first.0) || !shows(&two, second.0), "the later write without the earlier one");
        }
    }
    assert_eq!(steps(&one) + steps(&two), 0);
}

#[test]
fn a_step_is_noted_by_volumes_that_were_silent() {
    let folder = tempfile::tempdir().expect("a folder");
    let shared = Arc::new(Shared::default());
    shared.real.store(START + 10 * SECOND, Ordering::Relaxed);
    let (one, two) = (opened(folder.path(), "one", &shared), opened(folder.path(), "two", &shared));
    write(&two);
    shared.real.fetch_add(100 * SECOND, Ordering::Relaxed);
    write(&one);
    // Behind the last stamp of volume one, before that of volume two: by itself volume two would not notice.
    shared.real.fetch_sub(50 * SECOND, Ordering::Relaxed);
    write(&two);
    assert_eq!((steps(&one), steps(&two)), (0, 1));
    write(&one);
    write(&two);
    assert_eq!((steps(&one), steps(&two)), (1, 1));
}

#[test]
fn an_opened_volume_passes_its_last_stamp_to_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let earlier = Arc::new(Shared::default());
    earlier.real.store(START + 10 * SECOND, Ordering::Relaxed);
    let one = opened(folder.path(), "one", &earlier);
    let first = write(&one);
    one.close().expect("it closes");
    let shared = Arc::new(Shared::default());
    shared.real.store(START + 10 * SECOND - SECOND / 2, Ordering::Relaxed);
    let (_one, two) = (opened(folder.path(), "one", &shared), opened(folder.path(), "two", &shared));
    assert!(write(&two).1 > first.1);
}
