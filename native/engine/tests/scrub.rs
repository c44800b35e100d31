//! The walk of verify: what it names, from where it goes on, and what happens to the files meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use cdp_engine::scrub::{Position, Told};
use cdp_engine::storage::Disk;
use cdp_engine::verify::Finding;
use cdp_engine::{Error, Lsn, Maintenance, Options, Stamp, Volume};

const SIZE: u64 = 8 << 20;
const BLOCK: u64 = 4096;

fn options() -> Options {
    Options {
        segment_bytes: 256 << 10,
        segment_entries: 300,
        checkpoint_segments: 2,
        maintenance: Maintenance::Inline,
        ..Options::default()
    }
}

fn create(folder: &Path) -> Arc<Volume> {
    Volume::create(Arc::new(Disk::new(folder).unwrap()), [5; 16], SIZE, Stamp(1)).unwrap();
    open(folder)
}

fn open(folder: &Path) -> Arc<Volume> {
    Volume::open(Arc::new(Disk::new(folder).unwrap()), None, options()).unwrap()
}

/// A block that does not compress, another one for each seed.
fn block(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..BLOCK / 8).flat_map(|_| next().to_le_bytes()).collect()
}

fn write(volume: &Volume, number: u64, seed: u64) -> Lsn {
    let lsn = volume.write(number * BLOCK, &block(seed)).unwrap();
    volume.commit(lsn).unwrap();
    lsn
}

/// Writes other blocks until several more segments are sealed.
fn go_on(volume: &Volume, seed: u64) {
    for i in 0..400 {
        write(volume, 100 + i % 300, seed + i);
    }
    volume.flush().unwrap();
    volume.tick().unwrap();
}

/// Flips a bit of a payload, wherever it lies.
fn damage(folder: &Path, seed: u64) {
    let wanted = &block(seed)[..64];
    let mut hits = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(64).position(|window| window == wanted) {
            bytes[at + 100] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            hits += 1;
        }
    }
    assert_eq!(hits, 1);
}

fn verify(volume: &Volume) -> Vec<Finding> {
    volume.verify(&mut |_, _| Ok(())).unwrap()
}

#[test]
fn damage_names_the_instants_that_show_it() {
    let folder = tempfile::tempdir().unwrap();
    let volume = create(folder.path());
    write(&volume, 7, 1);
    let before = write(&volume, 8, 2);
    go_on(&volume, 1000);
    let lost = write(&volume, 7, 3);
    go_on(&volume, 2000);
    assert_eq!(verify(&volume), []);
    damage(folder.path(), 3);
    let only = |volume: &Volume| {
        let mut found = verify(volume);
        assert_eq!(found.len(), 1, "{found:?}");
        let found = found.remove(0);
        assert_eq!((found.lsn, found.offset, found.bytes), (Some(lost), Some(7 * BLOCK), Some(BLOCK)));
        assert!(!found.repairable && found.segment.is_some());
        (found.until, found.live)
    };
    assert_eq!(only(&volume), (None, Some(true)));
    // Half of it is still seen.
    let lsn = volume.write(7 * BLOCK, &block(4)[..2048]).unwrap();
    volume.commit(lsn).unwrap();
    assert_eq!(only(&volume), (None, Some(true)));
    go_on(&volume, 3000);
    let lsn = volume.write(7 * BLOCK + 2048, &block(4)[..2048]).unwrap();
    volume.commit(lsn).unwrap();
    assert_eq!(only(&volume), (Some(lsn), Some(false)));
    go_on(&volume, 4000);
    assert_eq!(only(&volume), (Some(lsn), Some(false)));
    volume.rollback(lost).unwrap();
    assert_eq!(only(&volume), (None, Some(true)));
    let back = volume.rollback(before).unwrap();
    assert_eq!(only(&volume), (Some(back), Some(false)));
    go_on(&volume, 5000);
    assert_eq!(only(&volume), (Some(back), Some(false)));
    drop(volume);
}

#[test]
fn a_walk_goes_on_where_it_was_ended() {
    let folder = tempfile::tempdir().unwrap();
    let volume = create(folder.path());
    write(&volume, 7, 1);
    go_on(&volume, 1000);
    go_on(&volume, 2000);
    write(&volume, 9, 2);
    go_on(&volume, 3000);
    damage(folder.path(), 1);
    damage(folder.path(), 2);
    let mut whole: Vec<(Position, u64, usize)> = Vec::new();
    let mut note = |told: Told| {
        whole.push((told.position, told.done, told.found.len()));
        Ok(())
    };
    volume.scrub(Position::default(), None, &mut note).unwrap();
    assert_eq!(whole.iter().map(|step| step.2).sum::<usize>(), 2);
    assert!(whole.len() > 20 && whole.windows(2).all(|w| w[0].1 <= w[1].1));
    assert!(whole.iter().any(|step| step.0.checkpoint > 0) && whole.iter().any(|step| step.0.run > 0));
    for stop in 1..whole.len() - 1 {
        let mut steps = 0;
        let mut last = Position::default();
        let ended = volume.scrub(Position::default(), None, &mut |told| {
            steps += 1;
            last = told.position;
            if steps > stop {
                Err(Error::invalid("enough"))
            } else {
                Ok(())
            }
        });
        assert_eq!(ended.unwrap_err().message, "enough");
        let mut rest = Vec::new();
        let mut note = |told: Told| {
            rest.push((told.position, told.done, told.found.len()));
            Ok(())
        };
        volume.scrub(last, None, &mut note).unwrap();
        // The manifests are looked at each time.
        assert_eq!(rest[0], (last, whole[stop].1, 0));
        assert_eq!(rest[1..], whole[stop + 1..]);
    }
}

#[test]
fn who_asked_is_told_of_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::new(folder.path()).unwrap());
    Volume::create(disk.clone(), [5; 16], SIZE, Stamp(1)).unwrap();
    let large = Options { segment_bytes: 4 << 20, segment_entries: 2000, ..options() };
    let volume = Volume::open(disk, None, large).unwrap();
    for i in 0..4000 {
        write(&volume, i % 300, i);
    }
    volume.close().unwrap();
    let read = Arc::new(AtomicU64::new(0));
    let reader = read.clone();
    let mut total = 0;
    let reads = Arc::new(move |bytes| {
        reader.fetch_add(bytes, Ordering::Relaxed);
    });
    volume
        .scrub(Position::default(), Some(reads), &mut |told| {
            total = told.total;
            assert!(told.found.is_empty(), "{:?}", told.found);
            Ok(())
        })
        .unwrap();
    let read = read.load(Ordering::Relaxed);
    // Each byte counts once, however often it is looked at; less than a megabyte at the end of a file is not told.
    assert!(read <= total && read > total * 3 / 4, "{read} of {total}");
}

#[test]
fn what_compaction_takes_away_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let volume = create(folder.path());
    (0..6).for_each(|round| go_on(&volume, 1000 * round));
    let horizon = write(&volume, 1, 1);
    go_on(&volume, 10_000);
    let (mut steps, mut gone) = (0, 0);
    volume
        .scrub(Position::default(), None, &mut |told| {
            assert!(told.found.is_empty(), "{:?}", told.found);
            steps += 1;
            if steps == 3 {
                volume.retain(horizon, &[]).unwrap();
                gone = volume.compact(1 << 40, &mut |_| Ok(())).unwrap().segments_in;
            }
            Ok(())
        })
        .unwrap();
    assert!(gone > 5, "{gone} segments were replaced");
    assert_eq!(verify(&volume), []);
}

#[test]
fn damage_stays_the_same_damage_when_compaction_moves_it() {
    let folder = tempfile::tempdir().unwrap();
    let volume = create(folder.path());
    let lost = write(&volume, 7, 1);
    (0..4).for_each(|round| go_on(&volume, 1000 * round + 5));
    let horizon = write(&volume, 1, 2);
    go_on(&volume, 10_000);
    damage(folder.path(), 1);
    let name = |found: &[Finding]| found.iter().map(|f| (f.lsn, f.offset, f.bytes, f.live)).collect::<Vec<_>>();
    let before = verify(&volume);
    assert_eq!(name(&before), [(Some(lost), Some(7 * BLOCK), Some(BLOCK), Some(true))]);
    volume.retain(horizon, &[]).unwrap();
    assert!(volume.compact(1 << 40, &mut |_| Ok(())).unwrap().segments_in > 2);
    let after = verify(&volume);
    assert_eq!(name(&after), name(&before));
    assert_ne!(after[0].segment, before[0].segment);
}

#[test]
fn a_segment_that_is_replaced_while_it_is_read_is_looked_at_where_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::new(folder.path()).unwrap());
    Volume::create(disk.clone(), [5; 16], SIZE, Stamp(1)).unwrap();
    let large = Options { segment_bytes: 4 << 20, segment_entries: 2000, ..options() };
    let volume = Volume::open(disk, None, large).unwrap();
    let lost = write(&volume, 7, 77);
    for i in 0..5000 {
        write(&volume, 100 + i % 300, 1000 + i);
    }
    volume.flush().unwrap();
    volume.tick().unwrap();
    damage(folder.path(), 77);
    let first = verify(&volume)[0].segment;
    let (compacting, done) = (volume.clone(), AtomicU64::new(0));
    let reads = Arc::new(move |_| {
        if done.fetch_add(1, Ordering::Relaxed) == 0 {
            compacting.retain(compacting.latest().0, &[]).unwrap();
            assert!(compacting.compact(1 << 40, &mut |_| Ok(())).unwrap().segments_in > 0);
        }
    });
    let mut found = Vec::new();
    let mut tell = |told: Told| {
        found.extend(told.found);
        Ok(())
    };
    volume.scrub(Position::default(), Some(reads), &mut tell).unwrap();
    let places: Vec<_> = found.iter().map(|f| (f.lsn, f.offset, f.bytes)).collect();
    assert_eq!(places, [(Some(lost), Some(7 * BLOCK), Some(BLOCK))]);
    assert_ne!(found[0].segment, first);
}
