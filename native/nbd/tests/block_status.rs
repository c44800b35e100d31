//! BLOCK_STATUS: base:allocation and what changed in both kinds of chunk, REQ_ONE, and payloads that choose contexts.

mod support;

use cdp_engine::{Lsn, Zeroing};
use cdp_nbd::{wire, Mode};
use support::*;

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Context id and extents of a status chunk.
fn status(chunk: &Chunk) -> (u64, Vec<(u64, u64)>) {
    let (start, size) = match chunk.kind {
        wire::REPLY_BLOCK_STATUS => (4, 8),
        wire::REPLY_BLOCK_STATUS_EXT => (8, 16),
        kind => panic!("chunk of type {kind:#x}: {:?}", chunk.payload),
    };
    let entries = &chunk.payload[start..];
    assert_eq!(entries.len() % size, 0);
    if size == 16 {
        assert_eq!(be(&chunk.payload[4..8]), (entries.len() / size) as u64);
    }
    let pair = |entry: &[u8]| (be(&entry[..size / 2]), be(&entry[size / 2..]));
    (be(&chunk.payload[..4]), entries.chunks(size).map(pair).collect())
}

fn with_data() -> Bench {
    let bench = Bench::new(16 * MIB);
    let lsn = bench.volume.write(4 * MIB, &noise(MIB as usize, 1)).unwrap();
    bench.volume.commit(lsn).unwrap();
    bench
}

#[test]
fn data_and_holes_are_told_in_the_chunk_of_the_mode() {
    let bench = with_data();
    for mode in [structured(), extended()] {
        let kind = if mode.extended { wire::REPLY_BLOCK_STATUS_EXT } else { wire::REPLY_BLOCK_STATUS };
        let mut client = bench.client(mode);
        client.ask(0, wire::CMD_BLOCK_STATUS, 1, 0, 16 * MIB);
        let chunks = client.chunks(1);
        assert_eq!((chunks.len(), chunks[0].kind), (1, kind));
        assert_eq!(status(&chunks[0]), (5, vec![(4 * MIB, 3), (MIB, 0), (11 * MIB, 3)]));
        client.ask(wire::FLAG_REQ_ONE, wire::CMD_BLOCK_STATUS, 2, 4 * MIB + 512, 16384);
        assert_eq!(status(&client.chunks(2)[0]), (5, vec![(16384, 0)]));
        client.ask(wire::FLAG_REQ_ONE, wire::CMD_BLOCK_STATUS, 3, 4 * MIB + 512, 8 * MIB);
        assert_eq!(status(&client.chunks(3)[0]), (5, vec![(MIB - 512, 0)]));
    }
}

#[test]
fn a_terabyte_is_one_extent_in_extended_mode() {
    let bench = Bench::new(1 << 40);
    let mut client = bench.client(extended());
    client.ask(0, wire::CMD_BLOCK_STATUS, 1, 0, 1 << 40);
    assert_eq!(status(&client.chunks(1)[0]), (5, vec![(1 << 40, 3)]));
}

#[test]
fn a_fragmented_volume_is_told_in_parts() {
    let bench = Bench::new(64 * MIB);
    let mut last = cdp_engine::Lsn::ZERO;
    for index in 0..3000u64 {
        last = bench.volume.write(index * 8192, &noise(512, index + 1)).unwrap();
        bench.volume.commit(last).unwrap();
    }
    assert!(last.0 > 0);
    let mut client = bench.client(structured());
    let (mut at, mut runs) = (0, 0);
    while at < 64 * MIB {
        client.ask(0, wire::CMD_BLOCK_STATUS, at, at, 64 * MIB - at);
        let chunk = &client.chunks(at)[0];
        for (bytes, flags) in status(chunk).1 {
            assert_eq!(flags, if at % 8192 == 0 && at / 8192 < 3000 { 0 } else { 3 });
            (at, runs) = (at + bytes, runs + 1);
        }
    }
    assert_eq!((at, runs), (64 * MIB, 6000));
}

fn select(client: &mut Client, flags: u16, offset: u64, payload: &[u8]) -> Vec<Chunk> {
    client.ask(flags | wire::FLAG_PAYLOAD_LEN, wire::CMD_BLOCK_STATUS, 9, offset, payload.len() as u64);
    client.send(payload);
    client.chunks(9)
}

fn payload(length: u64, ids: &[u32]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    ids.iter().for_each(|id| bytes.extend(id.to_be_bytes()));
    bytes
}

#[test]
fn a_payload_chooses_length_and_contexts() {
    let bench = with_data();
    let contexts = vec![(5, "base:allocation".to_owned()), (9, "base:allocation".to_owned())];
    let mut client = bench.client(Mode { structured: true, extended: true, contexts, ..Mode::default() });
    let all = select(&mut client, 0, 0, &payload(5 * MIB, &[9, 5]));
    let told: Vec<_> = all.iter().map(status).collect();
    let extents = vec![(4 * MIB, 3), (MIB, 0)];
    assert_eq!(told, [(9, extents.clone()), (5, extents)]);
    let one = select(&mut client, wire::FLAG_REQ_ONE, 4 * MIB, &payload(MIB, &[9]));
    assert_eq!(one.iter().map(status).collect::<Vec<_>>(), [(9, vec![(MIB, 0)])]);
    client.ask(0, wire::CMD_BLOCK_STATUS, 1, 0, MIB);
    assert_eq!(client.chunks(1).iter().map(|chunk| status(chunk).0).collect::<Vec<_>>(), [5, 9]);
}

/// A mode with the allocation as 5 and what changed since each LSN as 20, 21 and so on.
fn since(bench: &Bench, mode: Mode, lsns: &[u64]) -> Mode {
    let view = |(index, &lsn): (usize, &u64)| (20 + index as u32, bench.volume.view(Lsn(lsn)).unwrap());
    Mode { since: lsns.iter().enumerate().map(view).collect(), ..mode }
}

#[test]
fn what_changed_is_told_for_each_instant_beside_the_allocation() {
    let bench = with_data();
    let write = |offset| {
        let lsn = bench.volume.write(offset, &noise(1000, 1)).unwrap();
        bench.volume.commit(lsn).unwrap();
        lsn.0
    };
    let (first, second) = (write(MIB), write(9 * MIB));
    bench.volume.commit(bench.volume.zero(4 * MIB, MIB, Zeroing::Trim).unwrap()).unwrap();
    for mode in [structured(), extended()] {
        let mut client = bench.client(since(&bench, mode, &[first, second, 0]));
        client.ask(0, wire::CMD_BLOCK_STATUS, 1, 0, 16 * MIB);
        let told: Vec<_> = client.chunks(1).iter().map(status).collect();
        assert_eq!(told.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [5, 20, 21, 22]);
        let (trimmed, before) = ((MIB, 1), (4 * MIB, 0));
        assert_eq!(told[1].1, [before, trimmed, (4 * MIB, 0), (1024, 1), (7 * MIB - 1024, 0)]);
        assert_eq!(told[2].1, [before, trimmed, (11 * MIB, 0)]);
        assert_eq!(told[3].1[..3], [(MIB, 0), (1024, 1), (3 * MIB - 1024, 0)]);
        client.ask(wire::FLAG_REQ_ONE, wire::CMD_BLOCK_STATUS, 2, 9 * MIB + 512, MIB);
        let one: Vec<_> = client.chunks(2).iter().map(|chunk| status(chunk).1).collect();
        assert_eq!(one[1..], [vec![(512, 1)], vec![(MIB, 0)], vec![(512, 1)]]);
        client.ask(wire::FLAG_REQ_ONE, wire::CMD_BLOCK_STATUS, 3, 0, 16 * MIB);
        assert_eq!(status(&client.chunks(3)[1]).1, [before]);
        // Written after the negotiation, seen by the next request.
        client.ask(0, wire::CMD_WRITE, 4, 15 * MIB, 4096);
        client.send(&noise(4096, 2));
        client.ask(0, wire::CMD_BLOCK_STATUS, 5, 15 * MIB, MIB);
        client.reply();
        assert_eq!(status(&client.chunks(5)[2]).1, [(4096, 1), (MIB - 4096, 0)]);
        bench.volume.rollback(Lsn(second + 1)).unwrap();
    }
}

#[test]
fn many_changes_are_told_in_parts_that_leave_out_nothing() {
    let bench = Bench::new(64 * MIB);
    for index in 0..3000u64 {
        let lsn = bench.volume.write(index * 8192, &noise(512, index + 1)).unwrap();
        bench.volume.commit(lsn).unwrap();
    }
    let mut client = bench.client(since(&bench, structured(), &[0]));
    let (mut at, mut runs) = (0, 0);
    while at < 64 * MIB {
        client.ask(0, wire::CMD_BLOCK_STATUS, at, at, 64 * MIB - at);
        for (bytes, flags) in status(&client.chunks(at)[1]).1 {
            assert_eq!(flags, u64::from(at % 8192 == 0 && at / 8192 < 3000));
            (at, runs) = (at + bytes, runs + 1);
        }
    }
    assert_eq!((at, runs), (64 * MIB, 6000));
}

#[test]
fn an_instant_that_was_taken_away_is_an_error_not_clean() {
    let bench = with_data();
    let mut client = bench.client(since(&bench, structured(), &[1]));
    bench.volume.revoke(Lsn(1));
    client.ask(0, wire::CMD_BLOCK_STATUS, 1, 0, MIB);
    let chunks = client.chunks(1);
    assert_eq!(chunks.last().unwrap().kind, wire::REPLY_ERROR, "{chunks:?}");
}

#[test]
fn wrong_payloads_are_consumed_and_refused() {
    let bench = with_data();
    let mut client = bench.client(extended());
    let long = payload(MIB, &vec![5; 100_000]);
    for wrong in [
        payload(MIB, &[6]),
        payload(MIB, &[5, 5]),
        payload(MIB, &[]),
        payload(17 * MIB, &[5]),
        payload(0, &[5]),
        payload(u64::MAX, &[5]),
        vec![0; 13],
        vec![0; 3],
        long,
    ] {
        let chunks = select(&mut client, 0, 0, &wrong);
        assert_eq!(chunks[0].kind, wire::REPLY_ERROR);
        assert_eq!(be(&chunks[0].payload[..4]), wire::Errno::Invalid as u64);
    }
    assert_eq!(client.read(0, 1), [0]);
}

#[test]
fn without_contexts_the_answer_is_einval() {
    let bench = with_data();
    for mode in [simple(), Mode { structured: true, ..Mode::default() }, Mode { extended: true, ..Mode::default() }] {
        let mut client = bench.client(mode);
        assert_eq!(client.run(0, wire::CMD_BLOCK_STATUS, 0, 4096), wire::Errno::Invalid as u32);
    }
}
