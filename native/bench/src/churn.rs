//! Steady random writes under a budget: what compaction writes, what space is used, and how fast the writes are beside it.
//!
//! The policy is the simplest one that keeps up: when space runs short, history is given up to what is durable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cdp_engine::space::FullPolicy;
use cdp_engine::{Error, Lsn, Options, Result, Stamp, Volume};

use crate::clock::{Clocked, Written};
use crate::history::{scatter, BLOCK, VOLUME_ID};

const CREATED: u64 = 1_704_067_200_000_000_000;
/// Writes that are admitted before the first of them is committed.
const BATCH: u64 = 32;
/// A client that flushes now and then.
const FLUSH: u64 = 4096;
const DAY: u64 = 86_400_000_000_000;

/// A load. The writes take a day of the volume's clock.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes; None: history grows.
    pub budget: Option<u64>,
    /// Writes for each block of the volume; the first of each fills it.
    pub turns: u64,
    pub segment_bytes: u64,
}

/// What came of it. Bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub seconds: f64,
    /// Of the writes after the volume was full.
    pub steady_seconds: f64,
    pub steady_bytes: u64,
    pub foreground: u64,
    /// All that went to files, and the part of it that came after the volume was full.
    pub written: u64,
    pub steady_written: u64,
    pub compacted: u64,
    pub used_most: u64,
    pub disk_most: u64,
    pub delayed_ns: u64,
    /// Blocks that read back wrong.
    pub wrong: u64,
}

/// Runs the load in an empty folder, then reads every block back.
pub fn run(folder: &std::path::Path, load: &Load) -> Result<Outcome> {
    let clock = Clocked::new(folder, CREATED).map_err(|e| Error::io("open", &folder.to_string_lossy(), &e))?;
    let storage = Arc::new(clock);
    Volume::create(storage.clone(), VOLUME_ID, load.size, Stamp(CREATED))?;
    let options = Options { segment_bytes: load.segment_bytes, ..Options::default() };
    let volume = Volume::open(storage.clone(), None, options)?;
    volume.set_budget(load.budget, FullPolicy::DropOldest);
    let (stop, most, disk) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                most.fetch_max(give_up(&volume).unwrap_or(0), Relaxed);
                disk.fetch_max(bytes_in(folder), Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let outcome = write(&volume, &storage, load);
        stop.store(true, Relaxed);
        outcome
    })?;
    (outcome.used_most, outcome.disk_most) = (most.load(Relaxed), disk.load(Relaxed));
    let space = volume.space()?;
    (outcome.compacted, outcome.delayed_ns) = (space.compaction_bytes, space.delayed_ns);
    outcome.wrong = wrong_blocks(&volume, load)?;
    volume.close()?;
    Ok(outcome)
}

/// Gives up what is not needed once space runs short; the bytes used.
fn give_up(volume: &Volume) -> Result<u64> {
    let space = volume.space()?;
    if space.soft.is_some_and(|soft| space.used + (soft >> 5) > soft) {
        volume.retain(volume.status().durable, &[])?;
    }
    Ok(space.used)
}

fn bytes_in(folder: &std::path::Path) -> u64 {
    let Ok(names) = std::fs::read_dir(folder) else { return 0 };
    names.filter_map(|name| name.ok()?.metadata().ok()).map(|data| data.len()).sum()
}

fn write(volume: &Volume, clock: &Clocked, load: &Load) -> Result<Outcome> {
    let (blocks, written) = (load.size / BLOCK as u64, clock.written());
    let total = blocks * load.turns;
    let began = Instant::now();
    let mut full = (0.0, 0);
    let mut block = vec![0u8; BLOCK];
    let mut n = 0;
    while n < total {
        let mut batch = [Lsn::ZERO; BATCH as usize];
        for lsn in &mut batch {
            clock.set(CREATED + n * (DAY / total));
            fill(n, &mut block);
            *lsn = volume.write(place(n, blocks) * BLOCK as u64, &block)?;
            n += 1;
        }
        for lsn in batch {
            volume.commit(lsn)?;
        }
        if n % FLUSH == 0 {
            volume.flush()?;
        }
        if n == blocks {
            full = (began.elapsed().as_secs_f64(), all(&written));
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Outcome {
        seconds,
        steady_seconds: seconds - full.0,
        steady_bytes: (total - blocks) * BLOCK as u64,
        foreground: total * BLOCK as u64,
        written: all(&written),
        steady_written: all(&written) - full.1,
        ..Outcome::default()
    })
}

fn all(written: &Written) -> u64 {
    [&written.segments, &written.checkpoints, &written.merged_runs, &written.others]
        .iter()
        .map(|n| n.load(Relaxed))
        .sum()
}

/// The block of write `n`: each once, then any.
fn place(n: u64, blocks: u64) -> u64 {
    if n < blocks {
        n
    } else {
        scatter(n) % blocks
    }
}

/// Bytes that do not shrink.
fn fill(n: u64, block: &mut [u8]) {
    for (i, word) in block.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&scatter(n * 512 + i as u64).to_le_bytes());
    }
}

fn wrong_blocks(volume: &Arc<Volume>, load: &Load) -> Result<u64> {
    let blocks = load.size / BLOCK as u64;
    let mut last = vec![0; blocks as usize];
    (0..blocks * load.turns).for_each(|n| last[place(n, blocks) as usize] = n);
    let (mut expected, mut seen) = (vec![0u8; BLOCK], vec![0u8; BLOCK]);
    let live = volume.live();
    let mut wrong = 0;
    for (block, &n) in last.iter().enumerate() {
        fill(n, &mut expected);
        let faults = live.read((block * BLOCK) as u64, &mut seen)?;
        wrong += u64::from(!faults.is_empty() || seen != expected);
    }
    Ok(wrong)
}
