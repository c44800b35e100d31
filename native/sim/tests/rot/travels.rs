//! Damage travels as damage: what compaction finds damaged stays so in the segment that it writes, under the LSN that it had.
//! An older version never comes back in its place.

use std::sync::Arc;

use cdp_engine::{Lsn, Volume};
use cdp_sim::campaign::{calls, seeds, Case};
use cdp_sim::scenario::{draw, Step};
use cdp_sim::story::{small_options, VOLUME_BYTES};

use crate::rest::{compacted_story, payloads_of, thin_out, Payload, Rest};

/// A journal with segments to compact, of which some were compacted before.
fn before_compaction(seed: u64) -> Rest {
    let mut story = compacted_story(seed, 2);
    // From here on only points show what was compacted.
    story.run(&[Step::Zero { offset: 0, bytes: VOLUME_BYTES, trim: false }]);
    story.run(&draw(seed + 1, 60, VOLUME_BYTES));
    story.settle_down();
    thin_out(&mut story, 95, 9);
    assert!(story.close());
    let lsns = story.oracle.instants(u64::MAX);
    let payloads = payloads_of(&story.machine.fork(), true);
    Rest::of(story, &lsns, payloads)
}

fn compact(volume: &Arc<Volume>) {
    volume.compact(1 << 40, &mut |_| Ok(())).unwrap_or_else(|e| panic!("compact: {e}"));
}

/// Nothing but what shows the payload is lost, and that is named as long as an instant shows it.
fn is_named(rest: &Rest, volume: &Arc<Volume>, hit: &[Payload]) {
    let findings = volume.verify(&mut |_, _| Ok(())).unwrap_or_else(|e| panic!("verify: {e}"));
    let strange = findings.iter().find(|f| !f.repairable && f.lsn != Some(Lsn(hit[0].lsn)));
    assert_eq!(strange, None, "hit: {hit:?}");
    let shown = rest.instants.iter().any(|instant| !instant.shows(hit).is_empty());
    assert!(!shown || findings.iter().any(|f| f.lsn == Some(Lsn(hit[0].lsn))), "no word of {hit:?}: {findings:?}");
}

#[test]
fn damage_travels_as_damage() {
    let (mut moved, mut moved_again, mut shown) = (0, 0, 0);
    for seed in seeds(2) {
        let rest = before_compaction(seed + 610);
        for call in calls(0..rest.payloads.len() as u64, 1, seed) {
            let payload = &rest.payloads[call as usize];
            if payload.covers.is_empty() {
                continue;
            }
            let _case = Case { test: "rot damage_travels", seed, call, cut: 0 };
            let machine = rest.machine.fork();
            machine.flip(&payload.file, (payload.bytes.start + payload.bytes.end) / 2, 0x10);
            let hit = rest.hit(&machine);
            assert_eq!(hit.len(), 1);
            let volume = Volume::open(machine.boot(), None, small_options()).unwrap_or_else(|e| panic!("open: {e}"));
            // Leaves of some instants are in the cache meanwhile.
            rest.confined(&volume, &hit, 4);
            compact(&volume);
            if machine.contents(&payload.file).is_none() {
                *if payload.compacted { &mut moved_again } else { &mut moved } += 1;
                shown += usize::from(rest.instants.iter().any(|instant| !instant.shows(&hit).is_empty()));
            }
            rest.confined(&volume, &hit, 1);
            is_named(&rest, &volume, &hit);
            volume.close().expect("close");
            drop(volume);
            once_more(&rest, &machine, &hit);
        }
    }
    assert!(moved > 20 && moved_again > 5 && shown > 20, "{moved} were moved, {moved_again} again, {shown} are shown");
}

/// The same after more history was given up, and what was damaged before is compacted again.
fn once_more(rest: &Rest, machine: &cdp_sim::Machine, hit: &[Payload]) {
    let volume = Volume::open(machine.boot(), None, small_options()).unwrap_or_else(|e| panic!("open: {e}"));
    rest.confined(&volume, hit, 4);
    let last = rest.instants.last().expect("there is one");
    let kept: Vec<_> = rest.instants.iter().step_by(5).filter(|instant| instant.lsn < last.lsn).collect();
    let points: Vec<Lsn> = kept.iter().map(|instant| Lsn(instant.lsn)).collect();
    volume.retain(Lsn(last.lsn), &points).unwrap_or_else(|e| panic!("retain: {e}"));
    compact(&volume);
    for instant in kept.into_iter().chain([last]) {
        instant.is_confined(&volume, hit);
    }
}
