//! Many connections are neither as many threads nor as many buffers. (Alone in its process: it counts.)

mod support;

use cdp_nbd::{wire, Config};
use support::*;

fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn idle_sessions_cost_little() {
    let bench = Bench::with(4 * MIB, Config { workers: 4, sessions_max: 2000, ..Config::default() });
    let mut first = bench.client(simple());
    assert_eq!(first.write(0, 0, &noise(4096, 1)), 0);
    let (threads, kib) = (status("Threads:"), status("VmRSS:"));
    let mut clients: Vec<Client> = (0..480).map(|_| bench.client(structured())).collect();
    for client in &mut clients {
        client.ask(0, wire::CMD_READ, 1, 0, 4096);
    }
    for client in &mut clients {
        assert!(client.read_reply(1, 0, 4096) == noise(4096, 1));
    }
    assert_eq!(status("Threads:"), threads);
    // 480 windows would be 120 MiB.
    assert!(status("VmRSS:") - kib < 16 << 10, "{} KiB more", status("VmRSS:") - kib);
    assert_eq!(bench.server.totals().live, 481);
}
