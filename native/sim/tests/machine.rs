//! The simulator itself: each fault is seen through the engine's own interface.

use std::io::ErrorKind;
use std::sync::Arc;

use cdp_engine::storage::{File, Storage};
use cdp_sim::{Death, Fault, Machine, Op, Restart, EIO, ENOSPC};

fn read(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn reopen(machine: &Machine, name: &str) -> Option<Vec<u8>> {
    machine.boot().open(name, false).ok().map(|file| read(&*file))
}

/// A machine with a durable file `a` of `len` bytes.
fn with_file(len: usize) -> (Machine, Arc<cdp_sim::Process>, Arc<dyn File>) {
    let machine = Machine::new(1);
    let process = machine.boot();
    let file = process.create("a").unwrap();
    file.write_at(&vec![b's'; len], 0).unwrap();
    file.sync().unwrap();
    process.sync_folder().unwrap();
    (machine, process, file)
}

#[test]
fn files_behave_like_files() {
    let (machine, process, file) = with_file(10);
    assert_eq!(process.create("a").err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(process.open("b", false).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(process.remove("b").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(process.rename("b", "a").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(process.open("a", false).unwrap().write_at(b"x", 0).is_err(), "opened for reading");
    let mut buffer = [0; 8];
    assert_eq!(file.read_at(&mut buffer, 6).unwrap(), 4);
    assert_eq!(file.read_at(&mut buffer, 60).unwrap(), 0);
    file.write_at(b"end", 20).unwrap();
    assert_eq!(read(&*file), b"ssssssssss\0\0\0\0\0\0\0\0\0\0end");
    process.rename("a", "b").unwrap();
    assert_eq!(process.list().unwrap(), ["b"]);
    assert_eq!(machine.files(), [("b".to_string(), 23)]);
    process.remove("b").unwrap();
    assert_eq!(file.len().unwrap(), 23, "an open file outlives its name");
}

#[test]
fn the_lock_dies_with_its_value_and_with_its_process() {
    let machine = Machine::new(1);
    let process = machine.boot();
    let lock = process.lock().unwrap();
    assert_eq!(process.lock().err().unwrap().kind(), ErrorKind::WouldBlock);
    drop(lock);
    let old = process.lock().unwrap();
    let next = machine.boot();
    let held = next.lock().unwrap();
    drop(old);
    assert!(next.lock().is_err(), "the value of a dead process lets go of nothing");
    drop(held);
}

#[test]
fn kill_keeps_the_cache_and_promises_nothing_to_a_later_cut() {
    let (machine, _process, file) = with_file(4);
    file.write_at(b"NEW", 1).unwrap();
    machine.restart(Restart::Process);
    assert!(file.len().is_err(), "the process is dead");
    assert_eq!(reopen(&machine, "a").unwrap(), b"sNEW");
    assert!(!machine.is_clean());
    machine.restart(Restart::AllLost);
    assert_eq!(reopen(&machine, "a").unwrap(), b"ssss");
}

#[test]
fn a_cut_takes_unsynced_names_and_bytes() {
    let (machine, process, _file) = with_file(4);
    let made = process.create("b").unwrap();
    made.write_at(b"bb", 0).unwrap();
    made.sync().unwrap();
    let fork = machine.fork();
    machine.restart(Restart::AllLost);
    assert_eq!(reopen(&machine, "b"), None, "created, but the folder was not synced");
    fork.restart(Restart::AllKept);
    assert_eq!(reopen(&fork, "b").unwrap(), b"bb", "a fork has a fate of its own");
}

#[test]
fn death_strikes_in_the_middle_of_a_call() {
    let (mut whole, mut part, mut none) = (0, 0, 0);
    for seed in 0..60 {
        let machine = Machine::new(seed);
        let process = machine.boot();
        let file = process.create("a").unwrap();
        machine.die_at(2, Death::Kill);
        assert!(file.write_at(b"12345678", 0).is_err());
        assert_eq!(machine.died(), Some(Death::Kill));
        assert!(file.sync().is_err() && process.list().is_err() && process.create("b").is_err());
        machine.restart(Restart::Process);
        match reopen(&machine, "a").unwrap().len() {
            8 => whole += 1,
            0 => none += 1,
            _ => part += 1,
        }
    }
    assert!(whole > 5 && part > 5 && none > 5, "{whole} {part} {none}");
}

#[test]
fn a_sync_that_is_cut_off_promised_nothing() {
    for seed in 0..20 {
        let machine = Machine::new(seed);
        let process = machine.boot();
        let file = process.create("a").unwrap();
        process.sync_folder().unwrap();
        file.write_at(b"12345678", 0).unwrap();
        machine.die_at(machine.changes() + 1, Death::Power);
        assert!(file.sync().is_err());
        machine.restart(Restart::AllLost);
        assert_eq!(reopen(&machine, "a").unwrap(), b"");
    }
}

#[test]
fn planned_faults_hit_the_named_call_once_or_for_good() {
    let (machine, process, file) = with_file(4);
    machine.fail_change(machine.changes() + 2, Fault::Refuse(EIO), false);
    file.write_at(b"1", 0).unwrap();
    assert_eq!(file.write_at(b"2", 0).unwrap_err().raw_os_error(), Some(EIO));
    file.write_at(b"3", 1).unwrap();
    assert_eq!(read(&*file), b"13ss");

    machine.fail_change(machine.changes() + 1, Fault::Refuse(EIO), true);
    assert!(process.create("b").is_err() && process.rename("a", "b").is_err());
    machine.heal();
    process.rename("a", "b").unwrap();

    machine.fail_look(machine.looks() + 1, Fault::Refuse(EIO), false);
    assert!(file.read_at(&mut [0], 0).is_err());
    assert_eq!(file.read_at(&mut [0], 0).unwrap(), 1);
}

#[test]
fn a_short_write_leaves_a_part_and_a_belated_error_the_whole() {
    let lens: Vec<u64> = (0..40)
        .map(|seed| {
            let machine = Machine::new(seed);
            let file = machine.boot().create("a").unwrap();
            machine.fail_change(2, Fault::Short(ENOSPC), false);
            assert_eq!(file.write_at(&[1; 100], 0).unwrap_err().raw_os_error(), Some(ENOSPC));
            file.len().unwrap()
        })
        .collect();
    assert!(lens.iter().all(|&len| len < 100) && lens.iter().any(|&len| len > 0));

    let (machine, process, _file) = with_file(4);
    machine.fail_change(machine.changes() + 1, Fault::Belated(EIO), false);
    assert!(process.rename("a", "b").is_err());
    assert_eq!(process.list().unwrap(), ["b"], "refused, and done all the same");
}

#[test]
fn a_failed_sync_hides_or_drops_what_was_lost() {
    let lost = |fault| {
        (0..40).filter_map(move |seed| {
            let machine = Machine::new(seed);
            let file = machine.boot().create("a").unwrap();
            file.write_at(b"old", 0).unwrap();
            file.sync().unwrap();
            file.write_at(b"new", 0).unwrap();
            machine.fail_change(machine.changes() + 1, fault, false);
            assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(EIO));
            let shown = read(&*file);
            file.sync().unwrap();
            file.drop_cache();
            (read(&*file) == b"old").then_some(shown)
        })
    };
    assert!(lost(Fault::SyncHides).count() > 10);
    assert!(lost(Fault::SyncHides).all(|shown| shown == b"new"));
    assert!(lost(Fault::SyncDrops).count() > 10);
    assert!(lost(Fault::SyncDrops).all(|shown| shown == b"old"));
}

#[test]
fn a_full_disk_takes_what_fits_and_may_grow() {
    let (machine, process, file) = with_file(4096);
    machine.set_capacity(Some(machine.used() + 4096));
    let error = file.write_at(&[b'n'; 8192], 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(ENOSPC));
    assert_eq!(file.len().unwrap(), 8192);
    let other = process.create("b").unwrap();
    assert!(other.write_at(b"x", 0).is_err());
    file.write_at(b"inside", 0).unwrap();
    machine.set_capacity(Some(machine.used() + 4096));
    other.write_at(b"x", 0).unwrap();
    process.remove("a").unwrap();
    other.write_at(&[b'x'; 8192], 0).unwrap();
}

#[test]
fn a_read_only_process_changes_nothing() {
    let (machine, ..) = with_file(4);
    let before = machine.changes();
    let process = machine.boot_read_only();
    assert_eq!(process.create("b").err().unwrap().kind(), ErrorKind::ReadOnlyFilesystem);
    assert!(process.open("a", true).is_err() && process.remove("a").is_err() && process.sync_folder().is_err());
    assert_eq!(read(&*process.open("a", false).unwrap()), b"ssss");
    assert_eq!(machine.changes(), before);
}

#[test]
fn rot_reaches_cache_and_medium() {
    let (machine, _process, file) = with_file(5000);
    machine.flip("a", 7, 0x01);
    assert_eq!(read(&*file)[7], b's' ^ 1);
    machine.restart(Restart::AllLost);
    machine.zero_page("a", 1);
    let left = reopen(&machine, "a").unwrap();
    assert_eq!((left[7], left[4095], left[4096], left[4999], left.len()), (b's' ^ 1, b's', 0, 0, 5000));
    machine.replace("a", b"foreign");
    machine.replace("c", b"");
    assert_eq!(reopen(&machine, "a").unwrap(), b"foreign");
    machine.lose("a");
    machine.restart(Restart::AllLost);
    assert_eq!(machine.files(), [("c".to_string(), 0)]);
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = |seed| {
        let machine = Machine::new(seed);
        let process = machine.boot();
        for name in ["a", "b", "c"] {
            let file = process.create(name).unwrap();
            for n in 0..10u64 {
                file.write_at(&[n as u8 + 1; 700], n * 600).unwrap();
                process.now();
            }
        }
        machine.die_at(machine.changes() + 1, Death::Power);
        assert!(process.sync_folder().is_err());
        machine.restart(Restart::Power(seed));
        let contents: Vec<_> = machine.files().iter().map(|(name, _)| machine.contents(name)).collect();
        (machine.files(), contents, machine.boot().now(), machine.boot().nonce())
    };
    assert_eq!(story(4), story(4));
    assert!((5..12).any(|seed| story(seed) != story(4)));
}

#[test]
fn the_trace_names_every_change() {
    let (machine, ..) = with_file(4);
    let ops: Vec<Op> = machine.trace().iter().map(|call| call.op).collect();
    assert_eq!(ops, [Op::Create, Op::Write, Op::Sync, Op::SyncFolder]);
    assert_eq!(machine.trace()[1].name, "a");
    assert_eq!(machine.changes(), 4);
}
