//! Promise 3, "nothing rots in silence": after a clean stop every page is zeroed, every so many bytes one is flipped, and
//! files are cut, emptied, swapped and lost. It is named, and at every instant exactly the sectors that show a damaged payload cannot be read.

use cdp_engine::{Volume, PAGE};
use cdp_sim::campaign::{calls, seeds, Case};
use cdp_sim::scenario::draw;
use cdp_sim::story::{small_options, Story, VOLUME_BYTES};
use cdp_sim::Machine;

mod rest;
mod travels;

use rest::{payloads_of, rest, Rest};

/// Damage to `file` is named, and confined to the payloads that lie there.
fn judge(rest: &Rest, machine: &Machine, file: &str, one_in: usize) {
    let hit = rest.hit(machine);
    let volume = Volume::open(machine.boot(), None, small_options()).unwrap_or_else(|e| panic!("open: {e}"));
    rest.confined(&volume, &hit, one_in);
    let findings = volume.verify(&mut |_, _| Ok(())).unwrap_or_else(|e| panic!("verify: {e}"));
    let named = findings.iter().any(|f| f.file == file) || volume.faults().iter().any(|f| f.contains(file));
    assert!(named, "no word about {file}: {findings:?} {:?}", volume.faults());
}

#[test]
fn a_journal_at_rest_has_no_findings() {
    for seed in seeds(2) {
        let rest = rest(seed + 600);
        let volume = Volume::open(rest.machine.boot(), None, small_options()).expect("open");
        assert!(volume.faults().is_empty(), "{:?}", volume.faults());
        let findings = volume.verify(&mut |_, _| Ok(())).expect("verify");
        assert!(findings.is_empty(), "{findings:?}");
    }
}

#[test]
fn any_zeroed_page_is_named_and_confined() {
    for seed in seeds(1) {
        let rest = rest(seed + 600);
        for (file, length) in rest.machine.files() {
            for page in calls(0..length.div_ceil(PAGE), 1, seed) {
                let bytes = page * PAGE..((page + 1) * PAGE).min(length);
                let old = rest.machine.contents(&file).expect("listed");
                if old[bytes.start as usize..bytes.end as usize].iter().all(|&b| b == 0) {
                    continue;
                }
                let _case = Case { test: "rot any_zeroed", seed, call: page, cut: 0 };
                eprintln!("zeroing page {page} of {file}");
                let machine = rest.machine.fork();
                machine.zero_page(&file, page);
                judge(&rest, &machine, &file, 1);
            }
        }
    }
}

#[test]
fn any_flipped_byte_is_named_and_confined() {
    for seed in seeds(1) {
        let rest = rest(seed + 600);
        for (file, length) in rest.machine.files() {
            let stride = if file.starts_with("manifest") { 37 } else { 397 };
            for byte in calls(0..length, stride, seed) {
                let _case = Case { test: "rot any_flipped", seed, call: byte, cut: 0 };
                eprintln!("flipping byte {byte} of {file}");
                let machine = rest.machine.fork();
                machine.flip(&file, byte, 1 << (byte % 8));
                judge(&rest, &machine, &file, 5);
            }
        }
    }
}

/// An idle writer has noted what is durable: then even a store that was left open loses only the damaged payload.
#[test]
fn a_byte_that_rots_in_an_open_segment_costs_only_its_payload() {
    for seed in seeds(1) {
        let mut story = Story::begin(seed + 650);
        story.run(&draw(seed + 650, 80, VOLUME_BYTES));
        story.commit(true, seed);
        story.flush();
        story.volume().tick().expect("a note of what is durable");
        story.lose_process();
        let (last, flushed) = (story.oracle.last_replied(), story.oracle.last_flushed());
        assert_eq!(last, flushed);
        let instants = story.oracle.instants(last);
        let payloads = payloads_of(&story.machine.fork(), false);
        let rest = Rest::of(story, &[instants[instants.len() / 2], last], payloads);
        for (file, length) in rest.machine.files() {
            for byte in calls(0..length, 61, seed) {
                let _case = Case { test: "rot a_byte_that", seed, call: byte, cut: 0 };
                eprintln!("flipping byte {byte} of {file}");
                let machine = rest.machine.fork();
                machine.flip(&file, byte, 1 << (byte % 8));
                let hit = rest.hit(&machine);
                let volume =
                    Volume::open(machine.boot(), None, small_options()).unwrap_or_else(|e| panic!("open: {e}"));
                rest.confined(&volume, &hit, 1);
            }
        }
    }
}

#[test]
fn files_that_are_cut_empty_foreign_or_lost_are_named_and_nothing_is_written() {
    let rest = rest(600);
    let foreign = Story::begin(9).machine;
    for (file, length) in rest.machine.files() {
        let whole = rest.machine.contents(&file).expect("listed");
        let cut = whole[..whole.len() / 2].to_vec();
        let alien = foreign.contents(&file).unwrap_or_else(|| vec![0x55; length as usize]);
        let cases = [("cut", Some(cut)), ("empty", Some(Vec::new())), ("foreign", Some(alien)), ("lost", None)];
        for (what, bytes) in cases {
            let machine = rest.machine.fork();
            match bytes {
                Some(bytes) => machine.replace(&file, &bytes),
                None => machine.lose(&file),
            }
            let before = machine.changes();
            let (mut said, mut failed) = (Vec::new(), false);
            match Volume::open_read_only(machine.boot_read_only(), None, small_options()) {
                Ok(volume) => {
                    said.extend(volume.faults());
                    said.extend(volume.verify(&mut |_, _| Ok(())).expect("verify").iter().map(|f| format!("{f:?}")));
                }
                Err(error) => {
                    failed = true;
                    said.push(error.message);
                }
            }
            assert!(said.iter().any(|s| s.contains(&file)), "{what} {file}: {said:?}");
            assert!(!(failed && file.starts_with("manifest")), "{what} {file}: the other copy is enough: {said:?}");
            assert_eq!(machine.changes(), before, "looking at a {what} {file} writes");
        }
    }
}
