//! Promise 3, "nothing rots in silence": after a clean stop every page is zeroed, every so many bytes one is flipped, and
//! files are cut, emptied, swapped and lost. It is named, and only the sectors of the damaged payload cannot be read.

use std::ops::Range;
use std::sync::Arc;

use cdp_engine::journal::batch::RecordKind;
use cdp_engine::journal::manifest::Manifest;
use cdp_engine::journal::scan::scan;
use cdp_engine::journal::segment::{file_name, open};
use cdp_engine::storage::Storage;
use cdp_engine::{Lsn, Volume, PAGE, SECTOR};
use cdp_sim::campaign::{calls, seeds, Case};
use cdp_sim::scenario::draw;
use cdp_sim::story::{small_options, Story, VOLUME_BYTES};
use cdp_sim::Machine;

/// Where the payload of one directory entry lies, and what it covers.
struct Payload {
    file: String,
    bytes: Range<u64>,
    lsn: u64,
    covers: Range<u64>,
}

/// A journal at rest, with what it must hold.
struct Rest {
    machine: Machine,
    states: Vec<(u64, Vec<u8>)>,
    payloads: Vec<Payload>,
}

fn rest(seed: u64) -> Rest {
    let mut story = Story::begin(seed);
    story.run(&draw(seed, 90, VOLUME_BYTES));
    story.settle_down();
    assert!(story.close());
    let lsns = story.oracle.instants(u64::MAX);
    let chosen = [0, lsns.len() / 3, lsns.len() * 2 / 3, lsns.len() - 1];
    let states = chosen.iter().map(|&i| (lsns[i], story.oracle.state_at(lsns[i]))).collect();
    let payloads = payloads(&story.machine.fork());
    Rest { machine: story.machine, states, payloads }
}

fn payloads(machine: &Machine) -> Vec<Payload> {
    payloads_of(machine, true)
}

fn payloads_of(machine: &Machine, sealed: bool) -> Vec<Payload> {
    let storage: Arc<dyn Storage> = machine.boot();
    let (manifest, _) = Manifest::load(storage.clone(), None).expect("a whole manifest");
    let mut payloads = Vec::new();
    for item in manifest.content.segments.values().filter(|item| item.sealed || !sealed) {
        let segment = open(&*storage, item.id, item.nonce, false).expect("a segment that the manifest names");
        let found = scan(&segment, item.sealed.then_some(item.footer_offset)).expect("a sound disk reads");
        for placed in found.metas.iter().flat_map(|meta| meta.placed()) {
            let entry = placed.entry;
            let covers = match entry.kind {
                RecordKind::Data => entry.start * SECTOR..(entry.start + entry.sectors) * SECTOR,
                RecordKind::Control => 0..0,
                _ => continue,
            };
            let bytes = placed.offset..placed.offset + u64::from(entry.stored);
            payloads.push(Payload { file: file_name(item.id), bytes, lsn: placed.lsn, covers });
        }
    }
    assert!(payloads.len() > 20, "too small a journal to say anything");
    payloads
}

/// Damage to `bytes` of `file` is named, and confined to the payloads that lie there.
fn judge(rest: &Rest, machine: &Machine, file: &str, bytes: Range<u64>) {
    let volume = Volume::open(machine.boot(), None, small_options()).unwrap_or_else(|e| panic!("open: {e}"));
    confined(rest, &volume, file, bytes);
    let findings = volume.verify(&mut |_, _| Ok(())).unwrap_or_else(|e| panic!("verify: {e}"));
    let named = findings.iter().any(|f| f.file == file) || volume.faults().iter().any(|f| f.contains(file));
    assert!(named, "no word about {file}: {findings:?} {:?}", volume.faults());
}

/// What can be read is right, and what cannot lies in a payload that was hit.
fn confined(rest: &Rest, volume: &Arc<Volume>, file: &str, bytes: Range<u64>) {
    let hit = |p: &&Payload| p.file == file && p.bytes.start < bytes.end && bytes.start < p.bytes.end;
    let hit: Vec<&Payload> = rest.payloads.iter().filter(hit).collect();
    for (lsn, state) in &rest.states {
        let view = volume.view(Lsn(*lsn)).unwrap_or_else(|e| panic!("a view at LSN {lsn}: {e}"));
        let mut seen = vec![0; state.len()];
        let mut want = state.clone();
        for fault in view.read(0, &mut seen).unwrap_or_else(|e| panic!("read at LSN {lsn}: {e}")) {
            let (start, end) = (fault.offset, fault.offset + fault.bytes);
            let own = |p: &&Payload| p.lsn == fault.lsn.0 && p.covers.start <= start && end <= p.covers.end;
            assert!(hit.iter().any(own), "LSN {lsn}: {start} to {end} was not hit: {fault:?}");
            want[start as usize..end as usize].fill(0);
        }
        cdp_sim::oracle::compare(*lsn, &want, &seen, "outside of the faults");
    }
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
                judge(&rest, &machine, &file, bytes);
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
                judge(&rest, &machine, &file, byte..byte + 1);
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
        let states = [instants[instants.len() / 2], last].map(|lsn| (lsn, story.oracle.state_at(lsn))).to_vec();
        let payloads = payloads_of(&story.machine.fork(), false);
        let rest = Rest { machine: story.machine, states, payloads };
        for (file, length) in rest.machine.files() {
            for byte in calls(0..length, 61, seed) {
                let _case = Case { test: "rot a_byte_that", seed, call: byte, cut: 0 };
                eprintln!("flipping byte {byte} of {file}");
                let machine = rest.machine.fork();
                machine.flip(&file, byte, 1 << (byte % 8));
                let volume =
                    Volume::open(machine.boot(), None, small_options()).unwrap_or_else(|e| panic!("open: {e}"));
                confined(&rest, &volume, &file, byte..byte + 1);
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
