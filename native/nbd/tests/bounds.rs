//! Clients that stall, flood or never read: they lose their own connection at most, and nobody else notices.

mod support;

use std::io::{ErrorKind, Write};
use std::time::Duration;

use cdp_nbd::{wire, Config, Mode, Server};
use support::*;

const SMALLEST: u64 = 64 * MIB;
/// What a server with the smallest budget may hold in all: docs/nbd.md, "Bounds".
const SMALLEST_IN_ALL: u64 = 96 * MIB;

fn patient(memory_bytes: u64) -> Config {
    Config { memory_bytes, stall: Duration::from_secs(3600), ..Config::default() }
}

fn impatient() -> Config {
    Config { memory_bytes: SMALLEST, stall: Duration::from_millis(100), ..Config::default() }
}

/// Sends until the socket takes no more.
fn flood(client: &mut Client, bytes: &[u8]) {
    client.stream.set_nonblocking(true).unwrap();
    loop {
        match client.stream.write(bytes) {
            Ok(sent) if sent == bytes.len() => {}
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    client.stream.set_nonblocking(false).unwrap();
}

/// Begins a WRITE and stops half-way.
fn begin_write(client: &mut Client, length: u64) {
    client.ask(0, wire::CMD_WRITE, 1, 0, length);
    client.send(&[0x55; 100_000]);
}

/// Small and middling work of every kind, as a well-behaved client does it.
fn well_behaved(client: &mut Client) {
    for round in 0..5u64 {
        for length in [1usize, 512, 4096, 32 << 10, 128 << 10] {
            let data = noise(length, round + 1);
            assert_eq!(client.write(wire::FLAG_FUA, 0, &data), 0);
            assert!(client.read(0, length as u64) == data);
        }
        assert_eq!(client.run(0, wire::CMD_FLUSH, 0, 0), 0);
        assert_eq!(client.run(0, wire::CMD_TRIM, 0, MIB), 0);
    }
}

/// Waits until the server's facts are as wanted; a hang is a failure of the test run.
fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        std::thread::yield_now();
    }
}

#[test]
fn a_sender_that_stops_loses_its_connection_and_its_write() {
    let bench = Bench::with(80 * MIB, impatient());
    for length in [100 << 10, 3 * MIB, 64 * MIB] {
        let mut client = bench.client(simple());
        client.ask(0, wire::CMD_WRITE, 1, 0, length);
        client.send(&[0x55; 1000]);
        assert_eq!(client.end(), "stalled: no progress while sending a payload");
    }
    until(|| bench.server.totals().memory_bytes == 0);
    let mut client = bench.client(simple());
    assert!(client.read(0, 4096) == [0; 4096]);
}

#[test]
fn a_reader_that_stops_loses_its_connection() {
    let bench = Bench::with(80 * MIB, impatient());
    for (count, length) in [(2000, 4096), (100, 128 << 10), (8, 8 * MIB)] {
        let mut client = bench.client(structured());
        let requests: Vec<u8> =
            (0..count).flat_map(|cookie| request(false, wire::FLAG_DF, wire::CMD_READ, cookie, 0, length)).collect();
        flood(&mut client, &requests);
        assert_eq!(client.end(), "stalled: no progress while reading replies");
    }
    until(|| bench.server.totals().memory_bytes == 0);
}

#[test]
fn an_idle_client_and_one_with_half_a_header_are_left_alone() {
    let bench = Bench::with(4 * MIB, impatient());
    let mut idle = bench.client(simple());
    let mut half = bench.client(simple());
    let header = request(false, 0, wire::CMD_READ, 1, 0, 4);
    half.send(&header[..20]);
    // A client that is cut for its stall proves that the time has passed for the others too.
    let mut stalled = bench.client(simple());
    stalled.ask(0, wire::CMD_WRITE, 1, 0, MIB);
    stalled.send(&[1]);
    assert!(stalled.end().starts_with("stalled"));
    assert_eq!(idle.read(0, 4), [0; 4]);
    half.send(&header[20..]);
    assert_eq!(half.read_reply(1, 0, 4), [0; 4]);
}

#[test]
fn stalled_senders_of_every_size_do_not_stop_small_work() {
    let bench = Bench::with(80 * MIB, patient(SMALLEST));
    let mut stalled = Vec::new();
    for length in [64 * MIB, 64 * MIB, 64 * MIB, 4 * MIB, 4 * MIB, 4 * MIB, 4 * MIB, 4 * MIB, 4 * MIB] {
        let mut client = bench.client(simple());
        begin_write(&mut client, length);
        stalled.push(client);
    }
    for _ in 0..50 {
        let mut client = bench.client(simple());
        client.ask(0, wire::CMD_WRITE, 1, 0, 128 << 10);
        client.send(&[0x55; 100]);
        stalled.push(client);
    }
    for mode in [simple(), structured(), extended()] {
        well_behaved(&mut bench.client(mode));
    }
    assert!(bench.server.totals().memory_bytes <= SMALLEST_IN_ALL);
    assert!(stalled.iter().all(|client| !client.has_ended()));
}

#[test]
fn clients_that_never_read_do_not_stop_others_and_hold_little() {
    let bench = Bench::with(80 * MIB, patient(SMALLEST));
    let mut deaf = Vec::new();
    for index in 0..60u64 {
        let length = [4096, 64 << 10, MIB, 32 * MIB][index as usize % 4];
        let mut client = bench.client(structured());
        let requests: Vec<u8> =
            (0..64).flat_map(|cookie| request(false, wire::FLAG_DF, wire::CMD_READ, cookie, 0, length)).collect();
        flood(&mut client, &requests);
        deaf.push(client);
    }
    for mode in [simple(), structured(), extended()] {
        well_behaved(&mut bench.client(mode));
    }
    assert!(bench.server.totals().memory_bytes <= SMALLEST_IN_ALL);
    let most = bench.server.sessions().iter().map(|session| session.pending_bytes).max();
    assert!(most <= Some(33 * MIB), "{most:?} bytes pending");
    assert!(deaf.iter().all(|client| !client.has_ended()));
}

#[test]
fn a_flood_of_refused_and_empty_requests_is_bounded_too() {
    let bench = Bench::with(4 * MIB, patient(SMALLEST));
    let mut clients = Vec::new();
    for command in [wire::CMD_CACHE, wire::CMD_FLUSH, 99, wire::CMD_TRIM] {
        let (start, length) = if command == wire::CMD_FLUSH { (0, 0) } else { (2 * MIB, 512) };
        let mut client = bench.client(structured());
        let requests: Vec<u8> =
            (0..1000).flat_map(|cookie| request(false, 0, command, cookie, start, length)).collect();
        flood(&mut client, &requests);
        clients.push(client);
    }
    well_behaved(&mut bench.client(extended()));
    let most = bench.server.sessions().iter().map(|session| session.pending_bytes).max();
    assert!(most <= Some(MIB), "{most:?} bytes pending");
}

#[test]
fn waiting_large_writes_all_get_their_turn() {
    let bench = Bench::with(80 * MIB, patient(SMALLEST));
    let mut first = bench.client(simple());
    begin_write(&mut first, 64 * MIB);
    until(|| bench.server.totals().memory_bytes >= 64 * MIB);
    let data = noise(64 * MIB as usize, 3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = bench.client(simple());
                assert_eq!(client.write(0, MIB, &data), 0);
                assert!(client.read(MIB, 64 * MIB) == data);
            });
        }
        // All three wait for the one that stopped half-way; it goes, and they come one after the other.
        well_behaved(&mut bench.client(simple()));
        drop(first);
    });
    until(|| bench.server.totals().memory_bytes == 0);
}

#[test]
fn without_memory_to_receive_ahead_requests_are_served_one_by_one() {
    let bench = Bench::with(80 * MIB, patient(SMALLEST));
    // Each keeps what it received beyond the first read, whose reply it does not take.
    let mut hoarders = Vec::new();
    for _ in 0..80 {
        let mut client = bench.client(simple());
        let requests: Vec<u8> =
            (0..2000).flat_map(|cookie| request(false, 0, wire::CMD_READ, cookie, 0, 100 << 10)).collect();
        flood(&mut client, &requests);
        hoarders.push(client);
    }
    let mut client = bench.client(extended());
    well_behaved(&mut client);
    // Many in one send, and a request that is refused with its payload.
    let mut bytes = Vec::new();
    for cookie in 0..50u64 {
        bytes.extend(request(true, wire::FLAG_PAYLOAD_LEN, wire::CMD_WRITE, cookie, 512 * cookie, 512));
        bytes.extend([cookie as u8; 512]);
        bytes.extend(request(true, wire::FLAG_PAYLOAD_LEN, wire::CMD_TRIM, 100 + cookie, 0, 700));
        bytes.extend([0; 700]);
    }
    client.send(&bytes);
    let outcomes: Vec<u32> =
        (0..50).flat_map(|cookie| [cookie, 100 + cookie]).map(|cookie| client.outcome(cookie)).collect();
    assert!(outcomes.chunks(2).all(|pair| pair == [0, wire::Errno::Invalid as u32]));
    assert!(client.read(512 * 49, 512) == [49; 512]);
}

#[test]
fn sessions_beyond_the_bound_are_refused() {
    let bench = Bench::with(MIB, Config { sessions_max: 2, ..Config::default() });
    let clients = [bench.client(simple()), bench.client(simple())];
    let attach = |mode: Mode| {
        let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        bench.server.attach(theirs.into(), Vec::new(), bench.export(), mode, None)
    };
    assert_eq!(attach(simple()).unwrap_err().kind, cdp_engine::Kind::Busy);
    bench.server.disconnect(clients[0].id);
    assert!(attach(simple()).is_ok());
    let unknown = Mode { contexts: vec![(1, "qemu:dirty-bitmap:x".into())], ..structured() };
    assert_eq!(attach(unknown).unwrap_err().kind, cdp_engine::Kind::Invalid);
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let good = Config::default();
    for bad in [
        Config { memory_bytes: 64 * MIB - 1, ..good.clone() },
        Config { workers: 0, ..good.clone() },
        Config { sessions_max: 0, ..good.clone() },
        Config { stall: Duration::ZERO, ..good.clone() },
    ] {
        assert_eq!(Server::new(bad).err().unwrap().kind, cdp_engine::Kind::Invalid);
    }
    assert!(Server::new(good).is_ok());
}
