//! `cdp-history`: makes a long history straight in the engine, and measures what it costs to look at any instant of it.
//!
//! Each step is a process of its own, so that its peak memory is its own, and every figure is one line `name value`.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Instant;

use cdp_bench::history::{self, Look, Shape};
use cdp_bench::sizes;
use cdp_engine::storage::Disk;
use cdp_engine::{Maintenance, Options, Volume};

const USAGE: &str = "usage: cdp-history fill|kill|sizes|open FOLDER WRITES
       cdp-history look COUNT FOLDER WRITES [FOLDER WRITES]…
  fill   a volume in the empty FOLDER: WRITES random writes of 4 KiB, stopped cleanly
  kill   the same, left as a kill leaves it
  sizes  bytes a write, by part
  open   opens it for writing, caches dropped
  look   opens views at COUNT random instants by time and reads 4 KiB of each, the kernel's caches dropped before every one; then as many warm";

/// Bytes of the volume that is written to.
const SIZE: u64 = 1 << 40;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["look", count, ref pairs @ ..] if !pairs.is_empty() && pairs.len() % 2 == 0 => {
            let volumes: Result<Vec<_>, _> =
                pairs.chunks(2).map(|pair| Ok((PathBuf::from(pair[0]), pair[1].parse()?))).collect();
            look(&volumes.map_err(|e: std::num::ParseIntError| e)?, SIZE, count.parse()?)?;
        }
        [verb, folder, writes] => {
            let (folder, shape) = (Path::new(folder), Shape { writes: writes.parse()?, size: SIZE });
            match verb {
                "fill" => fill(folder, &shape, true)?,
                "kill" => fill(folder, &shape, false)?,
                "sizes" => sizes(folder, &shape)?,
                "open" => open(folder)?,
                _ => return Err(USAGE.into()),
            }
        }
        _ => return Err(USAGE.into()),
    }
    println!("memory_peak_mib {}", peak_bytes()? >> 20);
    Ok(())
}

fn fill(folder: &Path, shape: &Shape, clean: bool) -> Outcome {
    let began = Instant::now();
    // In line: the same files each time, and nothing is left to do.
    let options = Options { maintenance: Maintenance::Inline, ..Options::default() };
    let written = history::fill(folder, shape, options, clean)?;
    let seconds = began.elapsed().as_secs_f64();
    let index = written.checkpoints.load(Relaxed) + written.merged_runs.load(Relaxed) + sizes::of(folder)?.footers;
    println!("written_index_bytes_a_write {:.1}", index as f64 / shape.writes as f64);
    println!("fill_s {seconds:.1}\nfill_writes_a_second {:.0}", shape.writes as f64 / seconds);
    Ok(())
}

fn sizes(folder: &Path, shape: &Shape) -> Outcome {
    let sizes = sizes::of(folder)?;
    for (name, bytes) in sizes.parts() {
        println!("{name}_bytes_a_write {:.1}", bytes as f64 / shape.writes as f64);
    }
    Ok(())
}

fn open(folder: &Path) -> Outcome {
    drop_caches()?;
    let began = Instant::now();
    let options = Options { maintenance: Maintenance::Inline, ..Options::default() };
    let volume = Volume::open(Arc::new(Disk::new(folder)?), None, options)?;
    println!("open_ms {:.1}", began.elapsed().as_secs_f64() * 1e3);
    println!("was_clean {}", u8::from(volume.status().was_clean));
    volume.close()?;
    Ok(())
}

/// Looks into several volumes in turn: whatever else the machine does meets all alike.
fn look(volumes: &[(PathBuf, u64)], size: u64, count: usize) -> Outcome {
    let mut subjects = Vec::new();
    for (folder, writes) in volumes {
        let shape = Shape { writes: *writes, size };
        let volume = Volume::open_read_only(Arc::new(Disk::new(folder)?), None, Options::default())?;
        let looks = history::looks(&shape, 2 * count, *writes);
        subjects.push(Subject { volume, shape, looks, cold: Vec::new(), warm: Vec::new() });
    }
    for i in 0..count {
        for subject in &mut subjects {
            drop_caches()?;
            subject.cold.push(first_read(&subject.volume, &subject.shape, &subject.looks[i])?);
        }
    }
    for i in count..2 * count {
        for subject in &mut subjects {
            subject.warm.push(first_read(&subject.volume, &subject.shape, &subject.looks[i])?);
        }
    }
    subjects.iter_mut().for_each(Subject::report);
    Ok(())
}

struct Subject {
    volume: Arc<Volume>,
    shape: Shape,
    looks: Vec<Look>,
    /// Milliseconds, with the kernel's caches dropped before each look, and without.
    cold: Vec<f64>,
    warm: Vec<f64>,
}

impl Subject {
    fn report(&mut self) {
        println!("writes {}", self.shape.writes);
        for (name, times) in [("cold", &mut self.cold), ("warm", &mut self.warm)] {
            times.sort_unstable_by(f64::total_cmp);
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            println!("{name}_ms_p50 {:.2}\n{name}_ms_p99 {:.2}\n{name}_ms_max {:.2}", at(0.5), at(0.99), at(1.0));
        }
        let status = self.volume.status();
        println!("files_asked_a_look {:.2}", status.places as f64 / status.looks as f64);
        println!("tables_kib {}\nleaves_kib {}", status.table_bytes >> 10, status.cached_bytes >> 10);
    }
}

/// Milliseconds from the name of an instant to the first 4 KiB of it.
fn first_read(volume: &Arc<Volume>, shape: &Shape, look: &Look) -> Result<f64, Box<dyn std::error::Error>> {
    let began = Instant::now();
    history::check(volume, shape, look)?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// The kernel forgets what it read; needs root.
fn drop_caches() -> Outcome {
    // SAFETY: sync has no arguments and no result.
    unsafe { libc::sync() };
    std::fs::write("/proc/sys/vm/drop_caches", "3")
        .map_err(|e| format!("caches are not dropped ({e}): run as root").into())
}

fn peak_bytes() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no figure")?.parse()?;
    Ok(kib << 10)
}
