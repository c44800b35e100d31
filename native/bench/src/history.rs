//! A history that anybody can compute: write *n* of a volume has LSN *n*, and its place, stamp and content follow from *n* alone.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use cdp_engine::{Error, Lsn, Options, Result, Stamp, Volume};

use crate::clock::{Clocked, Written};

pub const BLOCK: usize = 4096;
pub const VOLUME_ID: [u8; 16] = [7; 16];
/// 2024-01-01 00:00:00 UTC.
const CREATED: u64 = 1_704_067_200_000_000_000;
/// Nanoseconds between two writes.
const STEP: u64 = 1_000_000;
/// Writes that are admitted before the first of them is committed.
const BATCH: u64 = 1000;

/// What the history looks like: how long it is, and over how much space its writes are strewn.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub writes: u64,
    /// Bytes of the volume, whole blocks.
    pub size: u64,
}

impl Shape {
    /// The byte offset of write `n`: anywhere, each block equally likely.
    pub fn place(&self, n: u64) -> u64 {
        scatter(n) % (self.size / BLOCK as u64) * BLOCK as u64
    }

    pub fn stamp(&self, n: u64) -> Stamp {
        Stamp(CREATED + n * STEP)
    }
}

/// The content of write `n` at `offset`: both, again and again.
pub fn content(n: u64, offset: u64, block: &mut [u8]) {
    for pair in block.chunks_exact_mut(16) {
        pair[..8].copy_from_slice(&n.to_le_bytes());
        pair[8..].copy_from_slice(&offset.to_le_bytes());
    }
}

/// The finalizer of splitmix64: every bit of the answer depends on every bit of `n`.
pub fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Lays a volume into an empty folder and writes its history, then stops it cleanly, or leaves it as a kill does. What was written, by kind of file.
pub fn fill(folder: &Path, shape: &Shape, options: Options, clean: bool) -> Result<Arc<Written>> {
    let storage =
        Arc::new(Clocked::new(folder, CREATED).map_err(|e| Error::io("open", &folder.to_string_lossy(), &e))?);
    Volume::create(storage.clone(), VOLUME_ID, shape.size, Stamp(CREATED))?;
    let volume = Volume::open(storage.clone(), None, options)?;
    let mut block = vec![0u8; BLOCK];
    let mut first = 1;
    while first <= shape.writes {
        let last = shape.writes.min(first + BATCH - 1);
        for n in first..=last {
            let offset = shape.place(n);
            content(n, offset, &mut block);
            storage.set(shape.stamp(n).0);
            let lsn = volume.write(offset, &block)?;
            debug_assert_eq!(lsn, Lsn(n));
        }
        (first..=last).try_for_each(|n| volume.commit(Lsn(n)).map(drop))?;
        first = last + 1;
    }
    if clean {
        volume.close()?;
    }
    Ok(storage.written())
}

/// An instant and a block of it.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub lsn: u64,
    pub offset: u64,
    /// The write that the block shows; 0 for zeros.
    pub shows: u64,
}

/// Random instants, each with a block that was written by then; every eighth with one that may never have been.
pub fn looks(shape: &Shape, count: usize, seed: u64) -> Vec<Look> {
    let mut looks: Vec<Look> = (0..count as u64)
        .map(|i| {
            let lsn = 1 + scatter(seed ^ (3 * i) << 32) % shape.writes;
            let written = 1 + scatter(seed ^ (3 * i + 1) << 32) % lsn;
            let elsewhere = scatter(seed ^ (3 * i + 2) << 32);
            let offset = if i % 8 == 7 { shape.place(elsewhere) } else { shape.place(written) };
            Look { lsn, offset, shows: 0 }
        })
        .collect();
    let mut at: HashMap<u64, Vec<usize>> = HashMap::new();
    looks.iter().enumerate().for_each(|(i, look)| at.entry(look.offset).or_default().push(i));
    for n in 1..=shape.writes {
        for &i in at.get(&shape.place(n)).into_iter().flatten() {
            if n <= looks[i].lsn {
                looks[i].shows = n;
            }
        }
    }
    looks
}

/// Names the instant by its time and reads the block; an error says what was not as the history says.
pub fn check(volume: &Arc<Volume>, shape: &Shape, look: &Look) -> std::result::Result<(), String> {
    let (mut block, mut expected) = ([1u8; BLOCK], [0u8; BLOCK]);
    let instant = volume.instant_at(shape.stamp(look.lsn)).map_err(|e| e.message)?;
    let view = volume.view(instant.lsn).map_err(|e| e.message)?;
    let faults = view.read(look.offset, &mut block).map_err(|e| e.message)?;
    if look.shows > 0 {
        content(look.shows, look.offset, &mut expected);
    }
    if instant.lsn.0 != look.lsn || !faults.is_empty() || block != expected {
        return Err(format!("{look:?}: LSN {}, {faults:?}, the block begins {:?}", instant.lsn, &block[..16]));
    }
    Ok(())
}
