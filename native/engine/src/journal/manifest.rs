//! The manifest: which files make up a volume's journal, and nothing else (docs/format.md, "manifest.0, manifest.1").
//!
//! Invariants: a commit is durable in both copies when it returns; a file it names was durable before; one valid copy is
//! enough to open. A failed commit has either changed nothing or has an unknown outcome ([`CommitError`]): then the caller poisons the
//! volume, and the next opening reads it anew.

mod item;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::codec::*;
use crate::error::{Error, Kind, Result};
use crate::gate::Gate;
use crate::index::files::Named;
use crate::storage::{File, Storage};
use crate::units::{Lsn, SegmentId, SECTOR};

use item::ITEM_BYTES;
pub use item::{AncestorItem, CheckpointItem, Edit, PointItem, RunItem, SegmentItem, StateItem};

/// Version 1 knew no horizon, points, runs, ancestors and compacted segments; it is read as a manifest without them.
pub const MANIFEST_VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"CDPMAN01";
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"CDPF");
const HEADER_BYTES: usize = 64;
const FRAME_BYTES: usize = 32;
/// Bytes of one manifest at most; 16 million segments are a petabyte.
const FILE_MAX: u64 = 1 << 31;
/// A copy with more edits than this and than its snapshot is written anew.
const EDITS_MAX: u64 = 64 << 10;
const NAMES: [&str; 2] = ["manifest.0", "manifest.1"];

/// What one copy, or both, say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub id: [u8; 16],
    pub size: u64,
    pub created: u64,
    pub generation: u64,
    pub segments: BTreeMap<SegmentId, SegmentItem>,
    pub checkpoints: BTreeMap<u32, CheckpointItem>,
    pub runs: BTreeMap<u32, RunItem>,
    /// Every record at or above it is an instant.
    pub horizon: PointItem,
    /// Instants below the horizon.
    pub points: BTreeMap<Lsn, PointItem>,
    /// By floor.
    pub ancestors: BTreeMap<Lsn, AncestorItem>,
    pub state: StateItem,
}

impl Content {
    /// The id of the next segment: above all that are named, whatever the state says.
    pub fn next_segment(&self) -> SegmentId {
        let named = self.segments.keys().next_back().map_or(0, |id| id.0);
        SegmentId(self.state.next_segment.max(named.saturating_add(1)))
    }

    /// Of all files of the journal and its index.
    pub fn file_names(&self) -> HashSet<String> {
        let segments = self.segments.keys().map(|id| Named::Segment(id.0));
        let checkpoints = self.checkpoints.keys().map(|&id| Named::Checkpoint(id));
        let runs = self.runs.keys().map(|&id| Named::Run(id));
        segments.chain(checkpoints).chain(runs).map(Named::file_name).collect()
    }

    /// Takes an id for a file that is named later, or never: what a crash leaves of it is swept.
    pub fn reserve_segment(&mut self) -> SegmentId {
        let id = self.next_segment();
        self.state.next_segment = id.0 + 1;
        id
    }

    pub(crate) fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::SetSegment(s) => drop(self.segments.insert(s.id, s.clone())),
            Edit::DropSegment(id) => drop(self.segments.remove(id)),
            Edit::SetCheckpoint(c) => drop(self.checkpoints.insert(c.id, *c)),
            Edit::DropCheckpoint(id) => drop(self.checkpoints.remove(id)),
            Edit::State(s) => self.state = *s,
            Edit::Horizon(point) => self.horizon = *point,
            Edit::SetPoint(point) => drop(self.points.insert(point.lsn, *point)),
            Edit::DropPoint(lsn) => drop(self.points.remove(lsn)),
            Edit::SetRun(run) => drop(self.runs.insert(run.id, *run)),
            Edit::DropRun(id) => drop(self.runs.remove(id)),
            Edit::SetAncestor(ancestor) => drop(self.ancestors.insert(ancestor.floor, *ancestor)),
        }
    }

    fn snapshot(&self) -> Vec<Edit> {
        let segments = self.segments.values().cloned().map(Edit::SetSegment);
        let checkpoints = self.checkpoints.values().copied().map(Edit::SetCheckpoint);
        let ancestors = self.ancestors.values().copied().map(Edit::SetAncestor);
        let runs = self.runs.values().copied().map(Edit::SetRun);
        let points = self.points.values().copied().map(Edit::SetPoint);
        let first = [Edit::State(self.state), Edit::Horizon(self.horizon)];
        first.into_iter().chain(ancestors).chain(points).chain(segments).chain(checkpoints).chain(runs).collect()
    }

    fn encode_header(&self) -> Vec<u8> {
        let mut b = vec![0u8; HEADER_BYTES];
        b[..8].copy_from_slice(MAGIC);
        put_u32(&mut b, 8, MANIFEST_VERSION);
        b[16..32].copy_from_slice(&self.id);
        put_u64(&mut b, 32, self.size);
        put_u64(&mut b, 40, self.created);
        let sum = crc_around(&b);
        put_u32(&mut b, 12, sum);
        b
    }

    fn encode_frame(&self, generation: u64, edits: &[Edit], snapshot: bool) -> Vec<u8> {
        let mut b = vec![0u8; FRAME_BYTES];
        edits.iter().for_each(|edit| edit.encode(&mut b));
        let body = (b.len() - FRAME_BYTES) as u32;
        put_u32(&mut b, 0, FRAME_MAGIC);
        put_u64(&mut b, 8, generation);
        put_u32(&mut b, 16, body);
        put_u32(&mut b, 20, if snapshot { 1 } else { 2 });
        let sum = crc32c::crc32c_append(crc(&b[8..]), &self.id);
        put_u32(&mut b, 4, sum);
        b
    }
}

/// One copy, read.
#[derive(Debug, PartialEq, Eq)]
pub struct Copy {
    pub content: Content,
    /// Bytes that hold valid frames; anything behind them is torn or damaged.
    pub valid_bytes: u64,
    pub has_tail: bool,
}

/// Decodes one copy's bytes. Err says why nothing of it can be used; a version above ours is Invalid, not Corrupt, so that it stops everything.
pub fn parse_copy(name: &str, b: &[u8]) -> Result<Copy> {
    let corrupt = |what: &str| Error::corrupt(format!("{name}: {what}"));
    if b.len() < HEADER_BYTES {
        return Err(corrupt(if b.is_empty() { "it is empty" } else { "it ends inside its header" }));
    }
    if &b[..8] != MAGIC {
        return Err(corrupt("it is not a manifest"));
    }
    let whole = u32_at(b, 12) == crc_around(&b[..HEADER_BYTES]);
    if whole && u32_at(b, 8) > MANIFEST_VERSION {
        let version = u32_at(b, 8);
        return Err(Error::invalid(format!("{name}: format version {version}; this program knows {MANIFEST_VERSION}")));
    }
    if !whole || u32_at(b, 8) == 0 {
        return Err(corrupt("its header is damaged"));
    }
    if u64_at(b, 32) == 0 || u64_at(b, 32) % SECTOR != 0 {
        return Err(corrupt("its volume has an impossible size"));
    }
    let mut content = Content { size: u64_at(b, 32), created: u64_at(b, 40), ..Content::default() };
    content.horizon.stamp = content.created;
    content.id.copy_from_slice(&b[16..32]);
    let mut at = HEADER_BYTES;
    while let Some(bytes) = apply_frame(&mut content, &b[at..], at == HEADER_BYTES) {
        at += bytes;
    }
    if at == HEADER_BYTES {
        return Err(corrupt("its first frame is damaged"));
    }
    Ok(Copy { content, valid_bytes: at as u64, has_tail: at != b.len() })
}

fn apply_frame(content: &mut Content, b: &[u8], first: bool) -> Option<usize> {
    if b.len() < FRAME_BYTES || u32_at(b, 0) != FRAME_MAGIC {
        return None;
    }
    let body = u32_at(b, 16) as usize;
    let frame = b.get(..FRAME_BYTES.checked_add(body)?)?;
    if u32_at(b, 4) != crc32c::crc32c_append(crc(&frame[8..]), &content.id) || body % ITEM_BYTES != 0 {
        return None;
    }
    let snapshot = match u32_at(b, 20) {
        1 => true,
        2 if !first => false,
        _ => return None,
    };
    let generation = u64_at(b, 8);
    if !first && Some(generation) != content.generation.checked_add(1) {
        return None;
    }
    let edits: Option<Vec<Edit>> = frame[FRAME_BYTES..].chunks_exact(ITEM_BYTES).map(Edit::parse).collect();
    let edits = edits?;
    if snapshot {
        content.segments.clear();
        content.checkpoints.clear();
        content.runs.clear();
        content.points.clear();
        content.ancestors.clear();
    }
    edits.iter().for_each(|edit| content.apply(edit));
    content.generation = generation;
    Some(frame.len())
}

/// The manifest of a volume, both copies.
pub struct Manifest {
    storage: Arc<dyn Storage>,
    pub content: Content,
    copies: Option<[OpenCopy; 2]>,
    /// Of both copies, as they were read.
    loaded_bytes: u64,
    /// Counts the bytes of what is named.
    gate: Option<Arc<Gate>>,
}

struct OpenCopy {
    file: Arc<dyn File>,
    bytes: u64,
    snapshot_bytes: u64,
}

/// What reading both copies found besides the content.
#[derive(Debug, Default)]
pub struct Notes {
    /// Sentences that name damage, or a torn frame, which looks the same.
    pub damage: Vec<String>,
    /// True if a writer has to write both copies anew before it may append.
    pub must_rewrite: bool,
}

impl Manifest {
    /// Lays both copies of an empty volume.
    pub fn create(storage: Arc<dyn Storage>, id: [u8; 16], size: u64, created: u64) -> Result<Manifest> {
        let state = StateItem {
            clean: true,
            next_lsn: Lsn(1),
            next_segment: 1,
            next_checkpoint: 1,
            next_run: 1,
            last_stamp: created,
            ..StateItem::default()
        };
        let horizon = PointItem { stamp: created, ..PointItem::default() };
        Manifest::lay(storage, Content { id, size, created, state, horizon, ..Content::default() })
    }

    /// Lays both copies of a new volume; durable, with the names of all files in its folder.
    pub fn lay(storage: Arc<dyn Storage>, content: Content) -> Result<Manifest> {
        let mut manifest = Manifest { storage, content, copies: None, loaded_bytes: 0, gate: None };
        manifest.rewrite()?;
        Ok(manifest)
    }

    /// Reads both copies and changes nothing. A copy of another volume than `expected` counts as damaged. Invalid for a format version above ours, NotFound or Corrupt if no copy can be used.
    pub fn load(storage: Arc<dyn Storage>, expected: Option<[u8; 16]>) -> Result<(Manifest, Notes)> {
        let read = NAMES.map(|name| read_copy(&*storage, name));
        let mut notes = Notes::default();
        let mut copies = Vec::new();
        for (name, result) in NAMES.into_iter().zip(read) {
            match result {
                Err(e) if e.kind == Kind::Invalid => return Err(e),
                Err(e) => notes.damage.push(e.message),
                Ok(copy) if expected.is_some_and(|id| id != copy.content.id) => {
                    notes.damage.push(format!("{name}: it belongs to another volume"));
                }
                Ok(copy) => copies.push((name, copy)),
            }
        }
        for (name, copy) in &copies {
            if copy.has_tail {
                notes.damage.push(format!("{name}: its last frame is torn or damaged; the other copy is used for it"));
            }
        }
        if copies.windows(2).any(|pair| pair[0].1.content.id != pair[1].1.content.id) {
            return Err(Error::corrupt("manifest.0 and manifest.1 belong to different volumes"));
        }
        let loaded_bytes = copies.iter().map(|(_, copy)| copy.valid_bytes).sum();
        copies.sort_by_key(|(_, copy)| copy.content.generation);
        let Some((_, best)) = copies.pop() else {
            return Err(Error::corrupt(format!("both manifests are unusable: {}", notes.damage.join("; "))));
        };
        match copies.pop() {
            Some((_, other)) if other.content == best.content => notes.must_rewrite = other.has_tail || best.has_tail,
            Some((name, other)) => {
                notes.must_rewrite = true;
                // A crash between the two copies leaves copy 1 one generation behind.
                if !other.has_tail && other.content.generation + 1 != best.content.generation {
                    notes.damage.push(format!("{name}: it lags behind the other copy by more than a crash explains"));
                }
            }
            None => notes.must_rewrite = true,
        }
        Ok((Manifest { storage, content: best.content, copies: None, loaded_bytes, gate: None }, notes))
    }

    /// Makes the edits durable in both copies. NoSpace or Io before anything was written to copy 0 leaves the manifest as it was; see [`CommitError`].
    pub fn commit(&mut self, edits: &[Edit]) -> std::result::Result<(), CommitError> {
        let before = self.content.clone();
        edits.iter().for_each(|edit| self.content.apply(edit));
        self.content.generation += 1;
        let frame = self.content.encode_frame(self.content.generation, edits, false);
        let result = match &mut self.copies {
            Some(copies) if copies.iter().all(|c| c.bytes < EDITS_MAX + 2 * c.snapshot_bytes) => {
                match append(copies, &frame) {
                    // Nothing may be appended behind the torn frame in copy 0; both are written anew, now or by the next commit.
                    Err(CommitError::NotDone(e)) => match self.rewrite_copies() {
                        // Unless the disk had no room for all of the frame, it may be whole.
                        Err(CommitError::NotDone(_)) if e.kind != Kind::NoSpace => Err(CommitError::Unknown(e)),
                        other => other,
                    },
                    Err(CommitError::Half(_)) => {
                        self.copies = None;
                        Ok(())
                    }
                    other => other,
                }
            }
            _ => self.rewrite_copies(),
        };
        match &result {
            Err(CommitError::NotDone(_)) => self.content = before,
            _ => self.tell(edits),
        }
        result
    }

    /// Tells a gate of every commit from now on, and of what there is.
    pub fn count_in(&mut self, gate: Arc<Gate>) {
        self.gate = Some(gate);
        self.tell(&[]);
    }

    fn tell(&self, edits: &[Edit]) {
        let Some(gate) = &self.gate else { return };
        let bytes = match &self.copies {
            Some(copies) => copies.iter().map(|copy| copy.bytes).sum(),
            None => self.loaded_bytes,
        };
        gate.committed(edits, &self.content, bytes);
    }

    /// Writes both copies anew, each with one snapshot.
    pub fn rewrite(&mut self) -> Result<()> {
        self.content.generation += 1;
        self.rewrite_copies().map_err(CommitError::into_error)
    }

    fn rewrite_copies(&mut self) -> std::result::Result<(), CommitError> {
        self.copies = None;
        let frame = self.content.encode_frame(self.content.generation, &self.content.snapshot(), true);
        let mut bytes = self.content.encode_header();
        bytes.extend_from_slice(&frame);
        let storage = &*self.storage;
        // Nothing is replaced before both new files are durable, so a full disk changes nothing.
        let mut files = Vec::new();
        for name in NAMES {
            match write_temporary(storage, name, &bytes) {
                Ok(file) => files.push(file),
                Err(e) => {
                    NAMES.iter().for_each(|name| drop(storage.remove(&temporary(name))));
                    return Err(CommitError::NotDone(e));
                }
            }
        }
        for name in NAMES {
            let switched = storage.rename(&temporary(name), name).and_then(|()| storage.sync_folder());
            switched.map_err(|e| CommitError::Unknown(Error::io("replace", name, &e)))?;
        }
        let length = bytes.len() as u64;
        self.loaded_bytes = 2 * length;
        let mut open = files.into_iter().map(|file| OpenCopy { file, bytes: length, snapshot_bytes: length });
        self.copies = open.next().zip(open.next()).map(|(a, b)| [a, b]);
        Ok(())
    }
}

/// A commit that failed.
#[derive(Debug)]
pub enum CommitError {
    /// Nothing was changed.
    NotDone(Error),
    /// Copy 0 has it and copy 1 could not be written: it counts, and copy 1 has to be written anew.
    Half(Error),
    /// Both outcomes are possible until the next opening: poison.
    Unknown(Error),
}

impl CommitError {
    pub fn into_error(self) -> Error {
        match self {
            CommitError::NotDone(e) | CommitError::Half(e) | CommitError::Unknown(e) => e,
        }
    }
}

fn append(copies: &mut [OpenCopy; 2], frame: &[u8]) -> std::result::Result<(), CommitError> {
    for (i, (copy, name)) in copies.iter_mut().zip(NAMES).enumerate() {
        let failed = |e: std::io::Error| Error::io("append to", name, &e);
        copy.file.write_at(frame, copy.bytes).map_err(|e| match i {
            0 => CommitError::NotDone(failed(e)),
            _ => CommitError::Half(failed(e)),
        })?;
        copy.file.sync().map_err(|e| CommitError::Unknown(failed(e)))?;
        copy.bytes += frame.len() as u64;
    }
    Ok(())
}

fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

fn write_temporary(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<Arc<dyn File>> {
    let name = temporary(name);
    let _ = storage.remove(&name);
    let written = storage.create(&name).and_then(|file| {
        file.write_at(bytes, 0)?;
        file.sync()?;
        Ok(file)
    });
    written.map_err(|e| Error::io("write", &name, &e))
}

fn read_copy(storage: &dyn Storage, name: &str) -> Result<Copy> {
    let bytes = read_whole(storage, name)?;
    parse_copy(name, &bytes)
}

fn read_whole(storage: &dyn Storage, name: &str) -> Result<Vec<u8>> {
    let io = |e: std::io::Error| Error::io("read", name, &e);
    let file = storage.open(name, false).map_err(io)?;
    // After a failed sync the cache may show what the disk never got.
    file.drop_cache();
    let length = file.len().map_err(io)?;
    if length > FILE_MAX {
        return Err(Error::corrupt(format!("{name}: {length} bytes is too long for a manifest")));
    }
    let mut bytes = vec![0u8; length as usize];
    let got = file.read_at(&mut bytes, 0).map_err(io)?;
    bytes.truncate(got);
    Ok(bytes)
}
