//! How sessions end: what was admitted is finished, what was half received never happened, and nothing comes late.

mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cdp_nbd::{wire, Config};
use support::*;

#[test]
fn disconnect_is_answered_by_all_replies_and_the_end() {
    let bench = Bench::new(4 * MIB);
    let mut client = bench.client(simple());
    let mut bytes = Vec::new();
    for cookie in 0..30 {
        bytes.extend(request(false, 0, wire::CMD_WRITE, cookie, cookie * 512, 512));
        bytes.extend([7; 512]);
    }
    bytes.extend(request(false, 0, wire::CMD_DISC, 0, 0, 0));
    client.send(&bytes);
    for cookie in 0..30 {
        assert_eq!(client.outcome(cookie), 0);
    }
    assert_eq!(client.rest(), []);
    assert_eq!(client.end(), "client disconnected");
    assert!(bench.client(simple()).read(0, 30 * 512).iter().all(|byte| *byte == 7));
}

#[test]
fn a_client_that_stops_sending_still_gets_its_replies() {
    let bench = Bench::new(4 * MIB);
    let mut client = bench.client(simple());
    client.ask_write(0, 1, 0, b"last words");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.outcome(1), 0);
    assert_eq!(client.rest(), []);
    assert_eq!(client.end(), "client closed the connection");
}

#[test]
fn a_half_received_write_never_happens() {
    let bench = Bench::new(70 * MIB);
    for length in [100usize, 4096, 200 << 10, 64 << 20] {
        let mut client = bench.client(simple());
        assert_eq!(client.write(0, 0, &[1; 50]), 0);
        client.ask(0, wire::CMD_WRITE, 1, 0, length as u64);
        client.send(&vec![2; length - 1]);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.rest(), []);
        client.end();
        let mut data = vec![0; 100];
        bench.volume.live().read(0, &mut data).unwrap();
        assert_eq!(data, [vec![1; 50], vec![0; 50]].concat());
    }
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let bench = Bench::new(4 * MIB);
    let mut good = bench.client(simple());
    let mut garbage = bench.client(simple());
    garbage.send(&[0xff; 100]);
    assert!(garbage.end().contains("magic"));
    let mut compact = bench.client(extended());
    compact.send(&request(false, 0, wire::CMD_READ, 1, 0, 1));
    compact.send(&[0; 4]);
    assert!(compact.end().contains("magic"));
    let mut huge = bench.client(extended());
    huge.ask(wire::FLAG_PAYLOAD_LEN, wire::CMD_WRITE, 1, 0, u64::MAX);
    assert!(huge.end().contains("payload beyond any limit"));
    assert_eq!(huge.rest(), []);
    assert_eq!(good.read(0, 2), [0, 0]);
}

#[test]
fn a_successor_is_never_overtaken_by_what_a_dead_client_left() {
    let bench = Bench::new(4 * MIB);
    for round in 0..300u64 {
        let old = noise(4096, 2 * round + 1);
        let new = noise(4096, 2 * round + 2);
        let mut dying = bench.client(simple());
        for cookie in 0..40 {
            dying.ask_write(0, cookie, 0, &old);
        }
        let Client { stream, .. } = dying;
        drop(stream);
        let mut successor = bench.client(simple());
        assert_eq!(successor.write(0, 0, &new), 0);
        // Until every other session has ended.
        while bench.server.totals().live > 1 {
            std::thread::yield_now();
        }
        assert!(successor.read(0, 4096) == new, "round {round}: a write of the dead client came late");
        bench.server.disconnect(successor.id);
    }
}

#[test]
fn a_living_neighbour_is_not_taken_for_dead() {
    let bench = Bench::new(4 * MIB);
    let mut first = bench.client(simple());
    assert_eq!(first.write(0, 0, b"one"), 0);
    for _ in 0..20 {
        let mut second = bench.client(simple());
        assert_eq!(second.read(0, 3), b"one");
    }
    assert_eq!(first.read(0, 3), b"one");
    // One that sends no more still waits for its replies.
    let mut requests: Vec<u8> =
        (0..20).flat_map(|cookie| request(false, 0, wire::CMD_READ, cookie, 0, 100 << 10)).collect();
    requests.extend(request(false, 0, wire::CMD_FLUSH, 99, 0, 0));
    first.send(&requests);
    first.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(bench.client(simple()).read(0, 3), b"one");
    (0..20).for_each(|cookie| assert_eq!(first.read_reply(cookie, 0, 100 << 10)[..3], *b"one"));
    assert_eq!(first.outcome(99), 0);
}

#[test]
fn one_worker_shares_its_time_between_a_greedy_client_and_others() {
    let bench = Bench::with(4 * MIB, Config { workers: 1, ..Config::default() });
    let mut greedy = bench.client(simple());
    let mut reader = greedy.stream.try_clone().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let many: Vec<u8> = (0..5000).flat_map(|c| request(false, 0, wire::CMD_CACHE, c, 0, 512)).collect();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                greedy.send(&many);
            }
            greedy.send(&request(false, 0, wire::CMD_DISC, 0, 0, 0));
        });
        scope.spawn(|| std::io::copy(&mut reader, &mut std::io::sink()).unwrap());
        let mut modest = bench.client(simple());
        for round in 0..50 {
            assert_eq!(modest.write(0, MIB, &[round; 4096]), 0);
            assert_eq!(modest.read(MIB, 4096), [round; 4096]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn disconnect_returns_when_the_session_has_ended() {
    let bench = Bench::new(4 * MIB);
    let mut client = bench.client(simple());
    client.ask(0, wire::CMD_WRITE, 1, 0, MIB);
    client.send(&[0; 1000]);
    bench.server.disconnect(client.id);
    assert!(client.has_ended());
    assert!(bench.server.sessions().is_empty());
    assert_eq!(client.rest(), []);
    bench.server.disconnect(client.id);
    bench.server.disconnect(u64::MAX);
    assert_eq!(bench.server.totals().memory_bytes, 0);
}

#[test]
fn stop_ends_idle_half_done_and_deaf_sessions_alike() {
    let bench = Bench::new(80 * MIB);
    let idle = bench.client(simple());
    let mut half = bench.client(simple());
    half.ask(0, wire::CMD_WRITE, 1, 0, 64 * MIB);
    half.send(&[0; 100_000]);
    let mut deaf = bench.client(simple());
    for cookie in 0..50 {
        deaf.ask(0, wire::CMD_READ, cookie, 0, MIB);
    }
    let mut waiting = bench.client(simple());
    waiting.ask(0, wire::CMD_WRITE, 1, 0, 64 * MIB);
    waiting.send(&[0; 100_000]);
    let mut done = bench.client(simple());
    assert_eq!(done.write(0, 0, b"kept"), 0);
    bench.server.stop(Duration::from_millis(50));
    for client in [idle, half, deaf, waiting, done] {
        assert_eq!(client.end(), "server stopped");
    }
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let refused = bench.server.attach(theirs.into(), Vec::new(), bench.export(), simple(), None);
    assert_eq!(refused.unwrap_err().kind, cdp_engine::Kind::Closed);
    bench.server.stop(Duration::ZERO);
    let mut data = [0; 4];
    bench.volume.live().read(0, &mut data).unwrap();
    assert_eq!(&data, b"kept");
}

#[test]
fn a_server_that_is_dropped_ends_its_sessions_without_waiting_for_them() {
    let bench = Bench::new(4 * MIB);
    let server = cdp_nbd::Server::new(Config::default()).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (free, wait) = std::sync::mpsc::channel::<()>();
    let (say, ended) = std::sync::mpsc::channel();
    let callback = Box::new(move |_: u64, reason: &str| {
        // As a callback waits for a lock that the dropping thread has.
        wait.recv().unwrap();
        say.send(reason.to_owned()).unwrap();
    });
    server.attach(theirs.into(), Vec::new(), bench.export(), simple(), Some(callback)).unwrap();
    drop(server);
    free.send(()).unwrap();
    assert_eq!(ended.recv().unwrap(), "server stopped");
    assert_eq!(std::io::Read::read(&mut ours, &mut [0]).unwrap(), 0);
}

#[test]
fn a_callback_that_panics_harms_nobody() {
    let bench = Bench::new(4 * MIB);
    for _ in 0..40 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let callback = Box::new(|_: u64, _: &str| panic!("a bug in the callback"));
        bench.server.attach(theirs.into(), Vec::new(), bench.export(), simple(), Some(callback)).unwrap();
        drop(ours);
    }
    while bench.server.totals().live > 0 {
        std::thread::yield_now();
    }
    assert_eq!(bench.client(simple()).read(0, 1), [0]);
}

#[test]
fn a_closed_volume_answers_shutdown() {
    let bench = Bench::new(4 * MIB);
    let mut client = bench.client(structured());
    assert_eq!(client.write(0, 0, b"x"), 0);
    bench.volume.close().unwrap();
    let shutdown = wire::Errno::Shutdown as u32;
    assert_eq!(client.write(0, 0, b"y"), shutdown);
    assert_eq!(client.run(0, wire::CMD_READ, 0, 1), shutdown);
    assert_eq!(client.run(0, wire::CMD_TRIM, 0, 1), shutdown);
    assert_eq!(client.run(0, wire::CMD_BLOCK_STATUS, 0, 1), shutdown);
    assert!(bench.server.totals().errors >= 4);
}

#[test]
fn tcp_serves_as_well_and_one_worker_is_enough() {
    let bench = Bench::with(4 * MIB, Config { workers: 1, ..Config::default() });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        theirs.set_nonblocking(true).unwrap();
        bench.server.attach(theirs.into(), Vec::new(), bench.export(), simple(), None).unwrap();
        clients.push(ours);
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let mut bytes = request(false, 0, wire::CMD_WRITE, index as u64, index as u64 * 512, 512);
        bytes.extend([index as u8; 512]);
        client.write_all(&bytes).unwrap();
    }
    for (index, mut client) in clients.into_iter().enumerate() {
        let mut reply = [0; 16];
        std::io::Read::read_exact(&mut client, &mut reply).unwrap();
        assert_eq!(reply[4..], [&[0; 4][..], &(index as u64).to_be_bytes()].concat());
    }
}
