//! Opening: manifest, then what a crash left open, then the volume (docs/format.md, "Recovery of open segments").
//!
//! A writer ends with every segment sealed and one manifest commit that says so; who only looks keeps the same in memory.

use std::collections::HashSet;
use std::sync::Arc;

use crate::compact::background;
use crate::error::{Error, Kind, Result};
use crate::faults::Faults;
use crate::full::RESERVE;
use crate::index::checkpoint::Checkpoint;
use crate::index::files::Files;
use crate::index::map::Parts;
use crate::index::memtable::Control;
use crate::index::merged::Merged;
use crate::index::sealed::Sealed;
use crate::journal::manifest::{CommitError, Content, Edit, Manifest, SegmentItem, StateItem};
use crate::journal::recover::{self, Recovery};
use crate::journal::segment::{self, file_name};
use crate::maintain;
use crate::options::{Maintenance, Options, LSN_RESERVE};
use crate::origin::Origin;
use crate::path::Lineage;
use crate::rollback;
use crate::storage::{Lock, Storage};
use crate::units::Lsn;
use crate::volume::{sealed_items, Found, Volume};

/// Readings of a store that a writer may be changing before a fault is believed.
const LOOKS: usize = 4;

pub(crate) fn open(
    storage: Arc<dyn Storage>,
    origin: Option<Arc<dyn Origin>>,
    options: Options,
    read_only: bool,
) -> Result<Arc<Volume>> {
    let lock = if read_only { None } else { Some(take_lock(&*storage)?) };
    let found = match lock {
        Some(lock) => open_writer(&storage, lock, &options)?,
        None => look(&storage, &options)?,
    };
    let recovered = found.recovered;
    let maintenance = options.maintenance;
    let volume = found.found.into_volume(storage, origin, options, read_only);
    if !read_only && maintenance == Maintenance::Thread {
        volume.gate.keep_for(&volume);
        maintain::spawn(&volume)?;
        background::spawn(&volume)?;
    }
    if let (false, Some(event)) = (read_only, recovered) {
        let lsn = volume.control(event.as_bytes())?;
        match volume.commit(lsn) {
            // Not even the reserve is there: the event is lost, the volume is not.
            Err(e) if e.kind == Kind::NoSpace => {}
            other => drop(other?),
        }
    }
    Ok(volume)
}

struct Opened {
    found: Found,
    /// The event to note, after an unclean end.
    recovered: Option<String>,
}

fn take_lock(storage: &dyn Storage) -> Result<Box<dyn Lock>> {
    storage.lock().map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => Error::new(Kind::Busy, "the volume is open for writing elsewhere"),
        _ => Error::io("lock", "lock", &e),
    })
}

/// Reads again while a live writer may explain what was seen.
fn look(storage: &Arc<dyn Storage>, options: &Options) -> Result<Opened> {
    let mut attempt = 1;
    loop {
        let result = look_once(storage, options);
        let explained = match &result {
            Ok(opened) => opened.found.parts.faults.is_empty() && opened.recovered.is_none(),
            Err(e) => e.kind == Kind::Invalid,
        };
        if explained || attempt == LOOKS {
            return result.map(|opened| Opened { recovered: None, ..opened });
        }
        attempt += 1;
    }
}

fn look_once(storage: &Arc<dyn Storage>, options: &Options) -> Result<Opened> {
    let (manifest, notes) = Manifest::load(storage.clone(), options.volume_id)?;
    let recovery = recover_open(storage, &manifest, false)?;
    let cut = recovery.cut.map(|cut| cut.to_string());
    let faults = notes.damage.iter().chain(&recovery.damage).cloned().collect::<Faults>();
    let frozen = recovery.segments.into_iter().map(|segment| Arc::new(segment.table)).collect::<Vec<_>>();
    let sealed = sealed_segments(&manifest, &faults);
    let files = Files::new(storage.clone(), options, true);
    let (checkpoints, mut controls) = open_checkpoints(&files, &manifest, &faults);
    controls.extend(sealed_controls(&files, &sealed, &checkpoints)?);
    controls.extend(frozen.iter().flat_map(|table| table.controls.iter().cloned()));
    let controls = own_controls(&manifest.content, controls);
    let state = manifest.content.state;
    let items = sealed_items(&manifest.content);
    let newest = frozen.iter().filter_map(|table| Some((table.last()?, table.clock_epoch))).next_back();
    let (last_stamp, clock_epoch) = match newest {
        Some(((_, stamp), epoch)) => (stamp, epoch),
        None => items.last().map_or((manifest.content.created, 0), |item| (item.last_stamp, item.clock_epoch)),
    };
    let found = Found {
        parts: Parts {
            sealed,
            frozen,
            checkpoints,
            runs: merged_runs(&manifest),
            lineage: lineage(&manifest.content, &controls),
            faults,
        },
        controls,
        last_lsn: recovery.last_lsn,
        next_lsn: recovery.last_lsn + 1,
        last_stamp,
        clock_epoch,
        was_clean: state.clean,
        lock: None,
        reserve_given_up: None,
        manifest,
    };
    Ok(Opened { found, recovered: cut })
}

fn open_writer(storage: &Arc<dyn Storage>, lock: Box<dyn Lock>, options: &Options) -> Result<Opened> {
    let (mut manifest, notes) = Manifest::load(storage.clone(), options.volume_id)?;
    let was_clean = manifest.content.state.clean;
    let recovery = recover_open(storage, &manifest, true)?;
    let faults = notes.damage.iter().chain(&recovery.damage).cloned().collect::<Faults>();
    let event = (!was_clean).then(|| recovery_event(&recovery));
    let settle = |manifest: &mut Manifest| match (was_clean, notes.must_rewrite) {
        (false, _) => seal_recovered(manifest, &recovery),
        (true, true) => manifest.rewrite(),
        (true, false) => Ok(()),
    };
    let mut reserve_given_up = None;
    match settle(&mut manifest) {
        Err(e) if e.kind == Kind::NoSpace => {
            // What a crash left is removed at the end only; the reserve is for this.
            reserve_given_up = Some(storage.length(RESERVE).map_err(|_| e)?);
            storage.remove(RESERVE).map_err(|e| Error::io("remove", RESERVE, &e))?;
            settle(&mut manifest)?;
        }
        other => other?,
    }
    sweep(&**storage, &manifest)?;
    let sealed = sealed_segments(&manifest, &faults);
    let files = Files::new(storage.clone(), options, true);
    let (checkpoints, mut controls) = open_checkpoints(&files, &manifest, &faults);
    controls.extend(sealed_controls(&files, &sealed, &checkpoints)?);
    let controls = own_controls(&manifest.content, controls);
    let state = manifest.content.state;
    let found = Found {
        parts: Parts {
            sealed,
            frozen: Vec::new(),
            checkpoints,
            runs: merged_runs(&manifest),
            lineage: lineage(&manifest.content, &controls),
            faults,
        },
        controls,
        last_lsn: recovery.last_lsn,
        next_lsn: state.next_lsn.0,
        last_stamp: state.last_stamp,
        clock_epoch: state.clock_epoch,
        was_clean,
        lock: Some(lock),
        reserve_given_up,
        manifest,
    };
    Ok(Opened { found, recovered: event })
}

/// Reads the open segments that the manifest names. A writer first makes durable what the cache has, and then reads what the disk has.
fn recover_open(storage: &Arc<dyn Storage>, manifest: &Manifest, write: bool) -> Result<Recovery> {
    let content = &manifest.content;
    let facts = recover::Volume::new(content);
    let sealed = content.segments.values().filter(|s| s.sealed).map(|s| s.last_lsn.0);
    // What ancestors wrote may be gone, and is not missed.
    let last_sealed = sealed.max().unwrap_or(0).max(facts.floor());
    let (mut open, mut missing) = (Vec::new(), Vec::new());
    for item in content.segments.values().filter(|s| !s.sealed) {
        let segment = match segment::open(&**storage, item.id, item.nonce, write) {
            // Where a crash fell between a commit of unknown outcome and the next try, there was nothing in it yet.
            Err(e) if e.kind == Kind::Corrupt => {
                missing.push(e.message);
                continue;
            }
            other => other?,
        };
        if write {
            segment.file.sync().map_err(|e| Error::io("sync", &file_name(item.id), &e))?;
            segment.file.drop_cache();
        }
        open.push(segment);
    }
    let mut recovery = recover::recover(open, last_sealed, &facts)?;
    recovery.damage.extend(missing);
    Ok(recovery)
}

/// Writes footers, then one manifest commit: the kept segments are sealed, the others gone, LSNs go on above all that may have been given.
fn seal_recovered(manifest: &mut Manifest, recovery: &Recovery) -> Result<()> {
    let state = manifest.content.state;
    let mut items: Vec<SegmentItem> = Vec::new();
    for segment in &recovery.segments {
        let epoch = manifest.content.segments.get(&segment.open.id).map_or(state.epoch, |item| item.epoch);
        let (open, table) = (&segment.open, &segment.table);
        items.push(maintain::write_footer(open, table, segment.tail_offset, segment.previous_lsn, epoch)?);
        open.file.sync().map_err(|e| Error::io("sync", &file_name(open.id), &e))?;
    }
    let newest = items.last().cloned().or_else(|| sealed_items(&manifest.content).pop());
    let (last_stamp, clock_epoch) =
        newest.map_or((manifest.content.created, 0), |item| (item.last_stamp, item.clock_epoch));
    let floor = state.next_lsn.0.max(recovery.seen_lsn) + LSN_RESERVE;
    let kept: HashSet<u32> = items.iter().map(|item| item.id.0).collect();
    let gone = |item: &&SegmentItem| !item.sealed && !kept.contains(&item.id.0);
    let dropped: Vec<Edit> =
        manifest.content.segments.values().filter(gone).map(|item| Edit::DropSegment(item.id)).collect();
    // Not clean: until this run has noted the unclean end on the timeline, the next opening has to.
    let state = StateItem { clean: false, next_lsn: Lsn(floor), last_stamp, clock_epoch, ..state };
    let mut edits = vec![Edit::State(state)];
    edits.extend(dropped);
    edits.extend(items.into_iter().map(Edit::SetSegment));
    manifest.commit(&edits).map_err(CommitError::into_error)
}

/// Removes what no manifest names: left by a crash.
fn sweep(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    let content = &manifest.content;
    let named = content.file_names();
    let names = storage.list().map_err(|e| Error::io("list", "the volume's folder", &e))?;
    let left = |name: &&String| {
        (name.starts_with("manifest.") && name.ends_with(".tmp"))
            || (["segment-", "checkpoint-", "run-"].iter().any(|kind| name.starts_with(kind)) && !named.contains(*name))
    };
    names.iter().filter(left).for_each(|name| drop(storage.remove(name)));
    Ok(())
}

fn sealed_segments(manifest: &Manifest, faults: &Faults) -> Vec<Arc<Sealed>> {
    let facts = recover::Volume::new(&manifest.content);
    let items = sealed_items(&manifest.content);
    items.into_iter().map(|item| Arc::new(Sealed::new(item, facts.clone(), faults.clone()))).collect()
}

/// The checkpoints that can be used, ascending, and the control records that the newest one holds. A damaged one is passed over.
fn open_checkpoints(files: &Files, manifest: &Manifest, faults: &Faults) -> (Vec<Arc<Checkpoint>>, Vec<Control>) {
    let mut items: Vec<_> = manifest.content.checkpoints.values().copied().collect();
    items.sort_by_key(|item| item.lsn);
    let (mut checkpoints, mut controls) = (Vec::new(), Vec::new());
    for item in items {
        match Checkpoint::open(files, item) {
            Ok((checkpoint, known)) => {
                checkpoints.push(Arc::new(checkpoint));
                controls = known;
            }
            Err(e) => faults.note(format!("{}; the segments are asked instead", e.message)),
        }
    }
    (checkpoints, controls)
}

/// Ascending. Nothing of them is read before a lookup needs it.
fn merged_runs(manifest: &Manifest) -> Vec<Arc<Merged>> {
    let mut items: Vec<_> = manifest.content.runs.values().copied().collect();
    items.sort_by_key(|item| item.first_lsn);
    items.into_iter().map(|item| Arc::new(Merged::new(item))).collect()
}

/// Control records of the segments behind the newest checkpoint.
fn sealed_controls(files: &Files, sealed: &[Arc<Sealed>], checkpoints: &[Arc<Checkpoint>]) -> Result<Vec<Control>> {
    let known = checkpoints.last().map_or(0, |c| c.item.lsn.0);
    let mut controls = Vec::new();
    for segment in sealed.iter().filter(|s| s.item.last_lsn.0 > known) {
        controls.extend(segment.controls(files)?);
    }
    Ok(controls)
}

/// Rollbacks, and the branches that clones begin with. What an ancestor wrote behind the base says nothing here.
fn lineage(content: &Content, controls: &[Control]) -> Lineage {
    let clones = content.ancestors.values().map(|a| (a.floor.0, a.base.0)).filter(|&(floor, base)| base < floor);
    Lineage::new(rollback::branches(controls).into_iter().chain(clones).collect())
}

/// The control records that stand on this timeline: of an ancestor's, those of its path.
fn own_controls(content: &Content, mut controls: Vec<Control>) -> Vec<Control> {
    let beyond = |lsn: u64| content.ancestors.values().any(|a| a.base.0 < lsn && lsn <= a.floor.0);
    controls.retain(|control| !beyond(control.lsn));
    controls.sort_by_key(|control| control.lsn);
    controls.dedup_by_key(|control| control.lsn);
    controls
}

fn recovery_event(recovery: &Recovery) -> String {
    let cut = recovery.cut.map_or("null".to_string(), |lsn| lsn.to_string());
    let (last, durable, damaged) = (recovery.last_lsn, recovery.durable_lsn, recovery.damage.len());
    format!(
        r#"{{"type":"event","event":"recovery","last_lsn":{last},"durable_lsn":{durable},"cut_lsn":{cut},"damage":{damaged}}}"#
    )
}
