//! What is counted under an account: each command once, with its bytes, and each answer in one bucket.

mod support;

use std::sync::Arc;

use cdp_nbd::{wire, Account, Export, Kind, Mode};
use support::*;

fn under(account: &str, mode: Mode) -> Mode {
    Mode { account: account.into(), ..mode }
}

fn of(bench: &Bench, name: &str) -> Account {
    bench.server.accounts().get(name).cloned().unwrap_or_default()
}

/// Ends the session. (The counts of a step follow its replies; the end follows both.)
fn leave(client: &mut Client) {
    client.ask(0, wire::CMD_DISC, 0, 0, 0);
    client.end();
}

fn figures(account: &Account, kind: Kind) -> (u64, u64, u64) {
    let row = &account.rows[kind as usize];
    (row.requests, row.bytes, row.buckets.iter().sum())
}

#[test]
fn every_command_is_counted_with_its_bytes_and_answered_in_one_bucket() {
    for mode in [simple(), structured(), extended()] {
        let bench = Bench::new(8 * MIB);
        let mut client = bench.client(under("a", mode));
        // Small, and in a buffer of its own.
        assert_eq!(client.write(0, 0, &noise(4096, 1)), 0);
        assert_eq!(client.write(wire::FLAG_FUA, 4096, &noise(MIB as usize, 2)), 0);
        client.read(0, 70_000);
        assert_eq!(client.run(0, wire::CMD_TRIM, 0, 512), 0);
        assert_eq!(client.run(0, wire::CMD_WRITE_ZEROES, 512, 1024), 0);
        assert_eq!(client.run(0, wire::CMD_CACHE, 0, 100), 0);
        assert_eq!(client.run(0, wire::CMD_FLUSH, 0, 0), 0);
        assert_ne!(client.run(0, wire::CMD_READ, 9 * MIB, 1), 0);
        leave(&mut client);
        let account = of(&bench, "a");
        let expected = [
            (Kind::Write, (2, MIB + 4096, 2)),
            (Kind::Read, (1, 70_000, 1)),
            (Kind::Trim, (1, 512, 1)),
            (Kind::WriteZeroes, (1, 1024, 1)),
            (Kind::Cache, (1, 100, 1)),
            (Kind::Flush, (1, 0, 1)),
            (Kind::BlockStatus, (0, 0, 0)),
            (Kind::Refused, (1, 0, 1)),
        ];
        for (kind, figures_expected) in expected {
            assert_eq!(figures(&account, kind), figures_expected, "{}", kind.name());
        }
        assert_eq!((account.sessions, account.errors), (0, 1));
        assert!(account.rows[Kind::Write as usize].nanoseconds > 0);
    }
}

#[test]
fn sessions_of_an_account_are_added_up_and_other_accounts_are_apart() {
    let bench = Bench::new(MIB);
    let mut first = bench.client(under("a", simple()));
    let mut second = bench.client(under("a", simple()));
    let mut other = bench.client_of(Export::View(bench.volume.live()), under("b", simple()), Vec::new());
    for _ in 0..3 {
        first.write(0, 0, &[1; 512]);
        second.write(0, 512, &[2; 1024]);
    }
    other.read(0, 512);
    assert_eq!((of(&bench, "a").sessions, of(&bench, "b").sessions), (2, 1));
    leave(&mut first);
    leave(&mut second);
    leave(&mut other);
    assert_eq!(figures(&of(&bench, "a"), Kind::Write), (6, 3 * 1536, 6));
    assert_eq!(figures(&of(&bench, "b"), Kind::Read), (1, 512, 1));
    let names: Vec<Arc<str>> = bench.server.accounts().into_keys().collect();
    assert_eq!(names, ["a".into(), "b".into()]);
}
