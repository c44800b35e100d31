//! A volume without room: its writes wait, and nothing else does.

mod support;

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use cdp_engine::FullPolicy;
use cdp_nbd::wire::{self, Errno};
use cdp_nbd::{Config, Export, Kind, Mode};
use support::*;

const BLOCK: u64 = 64 << 10;
const BUDGET: u64 = 16 * MIB;

/// A bench with a volume that has used its budget, and how many blocks it holds.
fn full(policy: FullPolicy, config: Config) -> (Bench, u64) {
    let bench = Bench::with(64 * MIB, config);
    bench.volume.set_budget(Some(BUDGET), FullPolicy::Fail);
    let mut client = bench.client(simple());
    let blocks = (0..).find(|&block| client.write(0, block * BLOCK, &noise(BLOCK as usize, block)) != 0).unwrap();
    bench.volume.set_budget(Some(BUDGET), policy);
    (bench, blocks)
}

fn stalled(bench: &Bench) {
    // The answer comes from a thread of the volume's: bounded, without a clock.
    for _ in 0..30_000 {
        if bench.volume.space().unwrap().stalled {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    panic!("{:?}", bench.volume.space().unwrap());
}

#[test]
fn a_budget_that_is_used_up_is_enospc_where_that_is_the_policy() {
    let (bench, blocks) = full(FullPolicy::Fail, Config::default());
    let mut client = bench.client(structured());
    for length in [BLOCK, 100_000, 5 * MIB] {
        assert_eq!(client.write(0, 0, &noise(length as usize, 1)), Errno::NoSpace as u32, "{length}");
    }
    assert_eq!(client.run(0, wire::CMD_FLUSH, 0, 0), 0);
    assert!(client.read(0, BLOCK) == noise(BLOCK as usize, 0));
    assert!(client.read((blocks - 1) * BLOCK, BLOCK) == noise(BLOCK as usize, blocks - 1));
}

#[test]
fn writes_that_wait_hold_up_neither_reads_nor_flushes_nor_trims_of_their_own_connection() {
    let (bench, _) = full(FullPolicy::Stall, Config { workers: 2, ..Config::default() });
    for mode in [simple(), structured(), extended()] {
        let mut client = bench.client(mode);
        for cookie in 0..8 {
            client.ask_write(wire::FLAG_FUA, cookie, 60 * MIB + cookie * BLOCK, &noise(BLOCK as usize, 100 + cookie));
        }
        stalled(&bench);
        assert!(client.read(BLOCK, BLOCK) == noise(BLOCK as usize, 1));
        assert_eq!(client.run(0, wire::CMD_FLUSH, 0, 0), 0);
        assert_eq!(client.run(0, wire::CMD_TRIM, 40 * MIB, BLOCK), 0);
        bench.volume.set_budget(Some(1 << 30), FullPolicy::Stall);
        for cookie in 0..8 {
            assert_eq!(client.outcome(cookie), 0);
        }
        for cookie in 0..8 {
            assert!(client.read(60 * MIB + cookie * BLOCK, BLOCK) == noise(BLOCK as usize, 100 + cookie));
        }
        bench.volume.set_budget(Some(BUDGET), FullPolicy::Stall);
    }
}

#[test]
fn many_stalled_connections_leave_other_volumes_and_readers_alone() {
    let (bench, _) = full(FullPolicy::DropOldest, Config { workers: 2, ..Config::default() });
    let mut waiting: Vec<Client> = (0..40).map(|_| bench.client(structured())).collect();
    for (index, client) in waiting.iter_mut().enumerate() {
        let index = index as u64;
        client.ask_write(0, 1, 20 * MIB + index * BLOCK, &noise(BLOCK as usize, index));
        client.ask_write(0, 2, 30 * MIB, &noise(900 << 10, 7));
        if index % 2 == 0 {
            // More than a connection may set aside: it is not read from any more.
            client.ask_write(0, 3, 32 * MIB, &noise(96 << 10, 7));
        }
    }
    stalled(&bench);
    let other = Bench::new(64 * MIB);
    let mut elsewhere = bench.client_of(Export::Live(other.volume.clone()), structured(), Vec::new());
    for length in [4096, BLOCK, MIB, 8 * MIB] {
        assert_eq!(elsewhere.write(0, 0, &noise(length as usize, 5)), 0);
        assert!(elsewhere.read(0, length) == noise(length as usize, 5));
    }
    let mut reader = bench.client(structured());
    assert!(reader.read(0, BLOCK) == noise(BLOCK as usize, 0));
    bench.volume.set_budget(None, FullPolicy::DropOldest);
    for (index, client) in waiting.iter_mut().enumerate() {
        let mut left: Vec<u64> = if index % 2 == 0 { vec![1, 2, 3] } else { vec![1, 2] };
        while !left.is_empty() {
            let cookie = left.remove(0);
            assert_eq!(client.outcome(cookie), 0);
        }
    }
    for index in 0..40 {
        assert!(reader.read(20 * MIB + index * BLOCK, BLOCK) == noise(BLOCK as usize, index));
    }
}

#[test]
fn a_client_that_goes_away_while_its_writes_wait_is_let_go() {
    let (bench, _) = full(FullPolicy::Stall, Config { stall: Duration::from_millis(100), ..Config::default() });
    let mut gone = Vec::new();
    for large in [false, true] {
        let mut client = bench.client(structured());
        client.ask_write(0, 1, 20 * MIB, &noise(MIB as usize, 1));
        if large {
            client.ask_write(0, 2, 22 * MIB, &noise(BLOCK as usize, 1));
        }
        gone.push(client);
    }
    let mut polite = bench.client(structured());
    polite.ask_write(0, 1, 24 * MIB, &noise(BLOCK as usize, 1));
    stalled(&bench);
    polite.ask(0, wire::CMD_DISC, 2, 0, 0);
    assert_eq!(polite.outcome(1), Errno::Shutdown as u32);
    assert_eq!(polite.end(), "client disconnected");
    for client in gone {
        client.stream.shutdown(std::net::Shutdown::Both).unwrap();
        client.end();
    }
    bench.volume.set_budget(None, FullPolicy::Stall);
    // Nobody was told that these were written; here they were not.
    assert!(bench.client(simple()).read(20 * MIB, 6 * MIB).iter().all(|byte| *byte == 0));
}

#[test]
fn closing_the_volume_ends_the_wait() {
    let (bench, _) = full(FullPolicy::Stall, Config::default());
    let mut client = bench.client(structured());
    client.ask_write(0, 1, 20 * MIB, &noise(BLOCK as usize, 1));
    stalled(&bench);
    bench.volume.close().unwrap();
    assert_eq!(client.outcome(1), Errno::Shutdown as u32);
}

#[test]
fn writes_that_are_slowed_down_are_finished_before_a_disconnect() {
    let bench = Bench::new(64 * MIB);
    bench.volume.set_budget(Some(BUDGET), FullPolicy::Stall);
    // Just above the soft mark: eight more small ones stay below the hard one.
    const SMALL: u64 = 4096;
    let slow = |space: cdp_engine::space::Space| space.soft.is_some_and(|soft| space.used > soft);
    let mut block = 0;
    while !slow(bench.volume.space().unwrap()) {
        bench.volume.commit(bench.volume.write(block * SMALL, &noise(SMALL as usize, block)).unwrap()).unwrap();
        block += 1;
    }
    let mut client = bench.client(structured());
    let mut bytes = Vec::new();
    for cookie in 0..8u64 {
        bytes.extend(request(false, 0, wire::CMD_WRITE, cookie, 20 * MIB + cookie * SMALL, SMALL));
        bytes.extend(noise(SMALL as usize, cookie));
    }
    bytes.extend(request(false, 0, wire::CMD_DISC, 9, 0, 0));
    client.send(&bytes);
    for cookie in 0..8 {
        assert_eq!(client.outcome(cookie), 0);
    }
    assert_eq!(client.end(), "client disconnected");
}

#[test]
fn what_a_full_disk_refused_is_written_when_it_has_room_and_made_durable_then() {
    let (bench, orders) = moody();
    let mut client = bench.client(structured());
    assert_eq!(client.write(0, 0, &noise(4096, 1)), 0);
    orders.write.store(libc::ENOSPC, Relaxed);
    // Odd places too: what lies around them is looked up again.
    for cookie in 0..20u64 {
        client.ask_write(wire::FLAG_FUA, cookie, 5 + cookie * 5000, &noise(5000, cookie));
    }
    stalled(&bench);
    assert!(client.read(0, 4096) == noise(4096, 1));
    let durable = bench.volume.status().durable;
    orders.write.store(0, Relaxed);
    for cookie in 0..20 {
        assert_eq!(client.outcome(cookie), 0);
    }
    assert!(bench.volume.status().durable.0 >= durable.0 + 20);
    let expected: Vec<u8> = (0..20).flat_map(|cookie| noise(5000, cookie)).collect();
    assert!(client.read(5, 100_000) == expected);
    assert!(client.read(0, 5) == noise(4096, 1)[..5]);
}

#[test]
fn the_wait_for_room_is_part_of_a_write_s_latency() {
    let (bench, _) = full(FullPolicy::Stall, Config::default());
    let mut client = bench.client(Mode { account: "a".into(), ..simple() });
    for cookie in 0..2 {
        client.ask_write(0, cookie, 60 * MIB + cookie * BLOCK, &noise(BLOCK as usize, cookie));
    }
    stalled(&bench);
    let since = Instant::now();
    client.read(0, BLOCK);
    let row = |kind: Kind| bench.server.accounts()["a"].rows[kind as usize].clone();
    assert_eq!((row(Kind::Write).requests, row(Kind::Write).nanoseconds), (2, 0), "not answered yet");
    let waited = since.elapsed().as_nanos() as u64;
    bench.volume.set_budget(Some(1 << 30), FullPolicy::Stall);
    for cookie in 0..2 {
        assert_eq!(client.outcome(cookie), 0);
    }
    client.ask(0, wire::CMD_DISC, 0, 0, 0);
    client.end();
    assert_eq!(row(Kind::Write).buckets.iter().sum::<u64>(), 2);
    assert!(row(Kind::Write).nanoseconds >= 2 * waited);
}
