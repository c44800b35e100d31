//! A volume: opened, written, looked at, closed. The way of a write is in append.rs, of a flush in durable.rs, of a read in
//! read.rs; sealing and spare segments are in maintain.rs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex};

use crate::compact::background::Background;
use crate::durable::Durability;
use crate::error::{Error, Kind, Result};
use crate::faults::Faults;
use crate::full::{Settled, Waiting, RESERVE};
use crate::gate::Gate;
use crate::haste::{self, Haste, LARGE};
use crate::index::files::Files;
use crate::index::map::{Index, Parts};
use crate::index::memtable::Control;
use crate::journal::batch::RecordKind;
use crate::journal::manifest::{Content, Manifest, SegmentItem};
use crate::journal::recover;
use crate::journal::segment::OpenSegment;
use crate::journal::writer::Writer;
use crate::maintain;
use crate::opening;
use crate::options::Options;
use crate::origin::Origin;
use crate::prune::Looked;
use crate::reach::Reach;
use crate::request::{check_range, Request};
use crate::ring::{Admission, Ring};
use crate::sizes::{self, Sizes};
use crate::space::{FullPolicy, Meter};
use crate::storage::{Lock, Storage};
use crate::units::{Lsn, Stamp};
use crate::view::View;

/// Why a range reads as zeros from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    Zero,
    Trim,
}

/// A volume open for writing, or for looking only. All calls may come from any thread.
pub struct Volume {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) id: [u8; 16],
    pub(crate) created: Stamp,
    pub(crate) facts: recover::Volume,
    pub(crate) origin: Option<Arc<dyn Origin>>,
    pub(crate) options: Options,
    pub(crate) read_only: bool,
    /// Bytes of the live volume, and of every instant.
    pub(crate) size: AtomicU64,
    pub(crate) sizes: Mutex<Sizes>,
    pub(crate) resizing: Mutex<()>,
    pub(crate) manifest: Mutex<Manifest>,
    pub(crate) index: Index,
    /// What lets writes into the ring.
    pub(crate) gate: Arc<Gate>,
    /// Bytes that the reserve on the disk had when it was given up; None where it was not.
    pub(crate) reserve: Mutex<Option<u64>>,
    pub(crate) ring: Ring,
    /// None until the first write of this run, and after closing. Only the leader appends; a sync looks in to learn what to cover.
    pub(crate) writer: Mutex<Option<Writer>>,
    pub(crate) spare: Mutex<Option<OpenSegment>>,
    pub(crate) durability: Durability,
    pub(crate) poison: OnceLock<String>,
    pub(crate) closed: AtomicBool,
    /// Damage and anomalies met so far: one sentence each.
    pub(crate) faults: Faults,
    pub(crate) controls: Mutex<Vec<Control>>,
    /// Which instants there are, and who holds which.
    pub(crate) reach: Mutex<Reach>,
    /// The next ids of segments, checkpoints and runs when it was opened: files from there on may be in the making.
    pub(crate) opening_ids: [u32; 3],
    pub(crate) compaction: Mutex<()>,
    pub(crate) checkpoints_looked: Mutex<Looked>,
    /// The last sealed LSN when there was no room for the index.
    pub(crate) index_waits: AtomicU64,
    pub(crate) background: Background,
    /// Of compaction: when it last gave way, and the next LSN then.
    pub(crate) pace: Mutex<(Option<std::time::Instant>, u64)>,
    pub(crate) maintenance: Mutex<()>,
    pub(crate) making_spare: Mutex<()>,
    pub(crate) haste: Haste,
    pub(crate) maintenance_wake: Arc<(Mutex<maintain::Wake>, Condvar)>,
    pub(crate) maintenance_thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// The last stop was clean.
    pub(crate) was_clean: bool,
    pub(crate) lock: Mutex<Option<Box<dyn Lock>>>,
}

/// Figures of a volume.
#[derive(Clone, Debug)]
pub struct Status {
    pub size: u64,
    pub created: Stamp,
    pub epoch: u64,
    pub clock_epoch: u32,
    pub latest: Lsn,
    pub latest_stamp: Stamp,
    pub durable: Lsn,
    pub segments: usize,
    pub poisoned: Option<String>,
    /// The bytes and the requests that wait in the ring, each with its bound.
    pub ring: [(usize, usize); 2],
    pub read_only: bool,
    pub was_clean: bool,
    pub cached_extents: usize,
    pub cached_bytes: usize,
    /// Bytes of tables of index files in memory.
    pub table_bytes: usize,
    /// Data payloads that were written since it was opened, and those that are stored as they are.
    pub payloads: (u64, u64),
    /// Leaves and shards that were looked up past the cache, and files of the index that were asked for them.
    pub looks: u64,
    pub places: u64,
}

impl Volume {
    /// Lays an empty volume into an existing, empty folder. `size` in bytes, whole sectors.
    pub fn create(storage: Arc<dyn Storage>, id: [u8; 16], size: u64, created: Stamp) -> Result<()> {
        if !sizes::is_possible(size) {
            return Err(Error::invalid(format!(
                "a volume of {size} bytes: it must be 1 to 2^48 - 1 sectors of 512 bytes"
            )));
        }
        let names = storage.list().map_err(|e| Error::io("list", "the volume's folder", &e))?;
        if names.iter().any(|name| name.starts_with("manifest.")) {
            return Err(Error::invalid("there is a volume in this folder already"));
        }
        Manifest::create(storage, id, size, created.0).map(drop)
    }

    /// Opens for writing: takes the lock (Busy if another holds it), recovers after an unclean end.
    pub fn open(storage: Arc<dyn Storage>, origin: Option<Arc<dyn Origin>>, options: Options) -> Result<Arc<Volume>> {
        opening::open(storage, origin, options, false)
    }

    /// Opens for looking: no lock, nothing is changed on disk, also beside a live writer, whose later records it does not see.
    pub fn open_read_only(
        storage: Arc<dyn Storage>,
        origin: Option<Arc<dyn Origin>>,
        options: Options,
    ) -> Result<Arc<Volume>> {
        opening::open(storage, origin, options, true)
    }

    /// Bytes, now.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Admits a write: copies (and compresses) `data`, gives it its LSN and stamp. Any offset and length inside `size`; empty is Invalid. Not yet in the
    /// journal: reply only after `commit`. May wait for room in the ring, and in the volume's budget or on the disk where that is the policy.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<Lsn> {
        self.admit_when_room(self.encode_write(offset, data, false)?)
    }

    /// `hurried`: who wrote it has sent more already, which waits for this.
    pub(crate) fn encode_write(&self, offset: u64, data: &[u8], hurried: bool) -> Result<Request> {
        self.check_writable()?;
        check_range(offset, data.len() as u64, self.size(), true)?;
        if data.len() < LARGE || !hurried {
            return Ok(Request::write(offset, data, false));
        }
        if self.haste.is_called_for() {
            return Ok(Request::write(offset, data, true));
        }
        let begun = haste::begin();
        let request = Request::write(offset, data, false);
        self.haste.compressed(data.len(), request.payload.len(), begun);
        Ok(request)
    }

    /// Admits a WRITE_ZEROES or TRIM of any length inside `size`.
    pub fn zero(&self, offset: u64, bytes: u64, how: Zeroing) -> Result<Lsn> {
        self.admit_when_room(self.encode_zero(offset, bytes, how)?)
    }

    pub(crate) fn encode_zero(&self, offset: u64, bytes: u64, how: Zeroing) -> Result<Request> {
        self.check_writable()?;
        check_range(offset, bytes, self.size(), false)?;
        let kind = if how == Zeroing::Trim { RecordKind::Trim } else { RecordKind::Zero };
        Ok(Request::zero(offset, bytes, kind))
    }

    /// Admits a control record: a JSON document of at most 1 MiB. It never waits for room, and may use the reserve.
    pub fn control(&self, document: &[u8]) -> Result<Lsn> {
        self.check_writable()?;
        self.admit(Request::control(document)?)
    }

    pub(crate) fn admit(&self, mut request: Request) -> Result<Lsn> {
        loop {
            match self.ring.admit(request, || self.storage.now(), |known| self.storage.clock_stepped(known))? {
                Admission::Admitted(lsn) => return Ok(Lsn(lsn)),
                Admission::Full(back) => {
                    request = *back;
                    if self.ring.try_lead() {
                        self.lead();
                    }
                }
            }
        }
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::invalid("the volume is open for looking only"));
        }
        match self.poison.get() {
            Some(why) => Err(Error::new(Kind::Poisoned, format!("the volume accepts no more writes: {why}"))),
            None => Ok(()),
        }
    }

    /// Waits until the record is in the journal and visible to reads; its own outcome. To be called once for each
    /// admitted LSN; the first call of several takes all that is pending with it, the others are then cheap. The LSN that it has: a later one than
    /// `lsn` if it had to wait for room on the disk.
    pub fn commit(&self, mut lsn: Lsn) -> Result<Lsn> {
        loop {
            match self.settle(lsn)? {
                Settled::Done => return Ok(lsn),
                Settled::Again(Waiting(request)) => lsn = self.admit_when_room(*request)?,
            }
        }
    }

    /// The live volume: its reads see every committed write.
    pub fn live(self: &Arc<Volume>) -> View {
        View::live(self.clone())
    }

    /// The volume as it was at `lsn`, which stays reachable while the view is open; NotFound for a number that no record has, or that was given up.
    pub fn view(self: &Arc<Volume>, lsn: Lsn) -> Result<View> {
        let pin = self.pin(lsn)?;
        Ok(View::at(self.clone(), lsn, pin))
    }

    /// Stops: appends what was admitted, makes it durable, seals, notes the clean stop, lets go of the lock. Later calls fail with Closed.
    /// A volume that was poisoned, or whose closing failed, is recovered at its next opening.
    pub fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.ring.close(Error::new(Kind::Closed, "the volume is closed"));
        self.gate.close();
        self.background.stop();
        let result = if self.read_only { Ok(()) } else { self.finish() };
        self.stop_maintenance();
        self.background.join();
        // A cycle that somebody asked for ends, too, before the lock is let go.
        drop(self.compaction.lock());
        // Nobody writes into the folder any more before the lock is let go.
        if let Some(thread) = self.maintenance_thread.lock().take() {
            let _ = thread.join();
        }
        *self.lock.lock() = None;
        result
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub fn status(&self) -> Status {
        let (latest, latest_stamp) = self.latest();
        let cache = self.index.cache_facts();
        let (segments, epoch) = {
            let manifest = self.manifest.lock();
            (manifest.content.segments.len(), manifest.content.state.epoch)
        };
        Status {
            size: self.size(),
            created: self.created,
            epoch,
            clock_epoch: self.ring.clock().2,
            latest,
            latest_stamp,
            durable: Lsn(self.durability.lsn()),
            segments,
            poisoned: self.poison.get().cloned(),
            ring: self.ring.fill(),
            read_only: self.read_only,
            was_clean: self.was_clean,
            cached_extents: cache.extents,
            cached_bytes: cache.bytes,
            table_bytes: cache.table_bytes,
            payloads: self.haste.payloads(),
            looks: cache.looks,
            places: cache.places,
        }
    }

    /// Damage and anomalies met so far: one sentence each.
    pub fn faults(&self) -> Vec<String> {
        self.faults.all()
    }

    /// (LSN, LSN gone back to) of every rollback, and of the branch that a clone begins with; ascending.
    pub fn branches(&self) -> Vec<(u64, u64)> {
        self.index.lineage().branches().to_vec()
    }

    /// Every control record of this timeline, ascending; those of ancestors are theirs.
    pub fn controls(&self) -> Vec<Control> {
        let floor = self.facts.floor();
        self.controls.lock().iter().filter(|control| control.lsn > floor).cloned().collect()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Without `close` this is what a kill leaves; only the threads have to go.
        self.stop_maintenance();
        self.gate.close();
        self.background.stop();
    }
}

/// Everything that opening found, ready to become a volume.
pub(crate) struct Found {
    pub manifest: Manifest,
    pub parts: Parts,
    pub controls: Vec<Control>,
    pub last_lsn: u64,
    pub next_lsn: u64,
    pub last_stamp: u64,
    pub clock_epoch: u32,
    pub was_clean: bool,
    pub lock: Option<Box<dyn Lock>>,
    /// Bytes of the reserve that opening needed.
    pub reserve_given_up: Option<u64>,
}

impl Found {
    pub fn into_volume(
        mut self,
        storage: Arc<dyn Storage>,
        origin: Option<Arc<dyn Origin>>,
        options: Options,
        read_only: bool,
    ) -> Arc<Volume> {
        let Content { id, size, created, .. } = self.manifest.content;
        let sizes = Sizes::new(size, &self.controls);
        let size = sizes.at(|| self.parts.lineage.path(self.last_lsn));
        let files = Files::new(storage.clone(), &options, read_only);
        let state = &self.manifest.content.state;
        let opening_ids = [self.manifest.content.next_segment().0, state.next_checkpoint, state.next_run];
        let faults = self.parts.faults.clone();
        let bounds = (options.ring_bytes, options.ring_requests);
        let gate = self.gate(&*storage, &options);
        if !read_only {
            storage.pass(self.last_stamp);
        }
        let steps = storage.clock_stepped(0).map_or(0, |step| step.count);
        Arc::new(Volume {
            id,
            created: Stamp(created),
            facts: recover::Volume::new(&self.manifest.content),
            reach: Mutex::new(Reach::new(&self.manifest.content)),
            origin,
            read_only,
            size: AtomicU64::new(size),
            sizes: Mutex::new(sizes),
            resizing: Mutex::new(()),
            manifest: Mutex::new(self.manifest),
            index: Index::new(files, options.cache_bytes, self.parts, self.last_lsn),
            gate,
            reserve: Mutex::new(self.reserve_given_up),
            ring: Ring::new(self.next_lsn, self.last_stamp, self.clock_epoch, steps, bounds),
            writer: Mutex::new(None),
            spare: Mutex::new(None),
            durability: Durability::new(self.next_lsn.saturating_sub(1), self.last_lsn),
            poison: OnceLock::new(),
            closed: AtomicBool::new(false),
            faults,
            controls: Mutex::new(self.controls),
            opening_ids,
            compaction: Mutex::new(()),
            checkpoints_looked: Mutex::default(),
            index_waits: AtomicU64::new(u64::MAX),
            background: Background::default(),
            pace: Mutex::new((None, 0)),
            maintenance: Mutex::new(()),
            making_spare: Mutex::new(()),
            haste: Haste::default(),
            maintenance_wake: Arc::default(),
            maintenance_thread: Mutex::new(None),
            was_clean: self.was_clean,
            lock: Mutex::new(self.lock),
            storage,
            options,
        })
    }
}

impl Found {
    /// The gate, with what the manifest names counted.
    fn gate(&mut self, storage: &dyn Storage, options: &Options) -> Arc<Gate> {
        let gate = Arc::new(Gate::new(Meter::new(options.segment_bytes, FullPolicy::default())));
        gate.meter.set_reserve_file(storage.length(RESERVE).unwrap_or(0));
        self.manifest.count_in(gate.clone());
        gate.meter.set_room(storage.room().unwrap_or(u64::MAX));
        if self.reserve_given_up.is_some() {
            gate.meter.set_reserve_is_out(true);
            gate.meter.disk_filled();
        }
        gate
    }
}

/// The items of sealed segments, ascending by LSN.
pub(crate) fn sealed_items(content: &Content) -> Vec<SegmentItem> {
    let mut items: Vec<SegmentItem> = content.segments.values().filter(|s| s.sealed).cloned().collect();
    items.sort_by_key(|item| item.first_lsn);
    items
}
