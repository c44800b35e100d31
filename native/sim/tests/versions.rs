//! Files of a later format are refused by name, and nothing is written: to guess would be to damage.

use cdp_engine::{Kind, Volume};
use cdp_sim::scenario::draw;
use cdp_sim::story::{small_options, Story, VOLUME_BYTES};
use cdp_sim::Machine;

/// Bytes that the checksum of a file's header covers.
fn header_bytes(file: &str) -> usize {
    if file.starts_with("manifest") {
        64
    } else {
        4096
    }
}

/// The version that a file has.
fn version_of(file: &str) -> u32 {
    if file.starts_with("manifest") {
        2
    } else {
        1
    }
}

/// Writes a version into the header of a file, under a checksum that fits.
fn set_version(machine: &Machine, file: &str, version: u32) {
    let mut bytes = machine.contents(file).expect("the file is there");
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..header_bytes(file)]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    machine.replace(file, &bytes);
}

fn at_rest() -> Machine {
    let mut story = Story::begin(5);
    story.run(&draw(5, 60, VOLUME_BYTES));
    story.settle_down();
    assert!(story.close());
    story.machine
}

#[test]
fn the_same_version_is_no_change() {
    let machine = at_rest();
    let before: Vec<_> = machine.files().iter().map(|(name, _)| machine.contents(name)).collect();
    machine.files().iter().for_each(|(name, _)| set_version(&machine, name, version_of(name)));
    let after: Vec<_> = machine.files().iter().map(|(name, _)| machine.contents(name)).collect();
    assert!(before == after, "this test does not find the checksum");
}

#[test]
fn a_later_manifest_is_refused_by_name_and_left_alone() {
    for file in ["manifest.0", "manifest.1"] {
        let machine = at_rest();
        set_version(&machine, file, 3);
        let before = (machine.changes(), machine.contents(file));
        let writing = Volume::open(machine.boot(), None, small_options()).err().expect("a writer is refused");
        let looking =
            Volume::open_read_only(machine.boot_read_only(), None, small_options()).err().expect("a reader is");
        for error in [writing, looking] {
            assert_eq!(error.kind, Kind::Invalid, "{error}");
            assert!(error.message.contains(file) && error.message.contains("version 3"), "{error}");
        }
        assert_eq!((machine.changes(), machine.contents(file)), before);
    }
}

#[test]
fn a_later_segment_or_checkpoint_is_named_and_left_alone() {
    let names: Vec<String> = at_rest().files().into_iter().map(|(name, _)| name).collect();
    for file in names.iter().filter(|name| !name.starts_with("manifest")) {
        let machine = at_rest();
        set_version(&machine, file, 3);
        let before = machine.contents(file);
        let said = match Volume::open_read_only(machine.boot_read_only(), None, small_options()) {
            Ok(volume) => format!("{:?} {:?}", volume.faults(), volume.verify(&mut |_, _| Ok(()))),
            Err(error) => error.message,
        };
        // The index can be had from the segments: to pass over a file of it as damaged is enough.
        let named = said.contains("version") || ["checkpoint", "run"].iter().any(|kind| file.starts_with(kind));
        assert!(said.contains(file.as_str()) && named, "{file}: {said}");
        let _ = Volume::open(machine.boot(), None, small_options()).map(|volume| volume.close());
        assert_eq!(machine.contents(file), before, "{file} was written to");
    }
}
