//! The gate: each rule of the specification as a line of a table, and what must hold for every request.

use cdp_nbd::request::{judge, judge_selection, Command, Facts, Refusal, Terms, Verdict};
use cdp_nbd::request::{CHUNK_MAX, REQUEST_MAX, SKIP_MAX};
use cdp_nbd::wire::{self, Errno, Header};

const SIZE: u64 = 1 << 30;
const LIVE: Facts = Facts { size: SIZE, read_only: false };
const VIEW: Facts = Facts { size: SIZE, read_only: true };
const SIMPLE: Terms = Terms { structured: false, extended: false, contexts: 0 };
const CHUNKS: Terms = Terms { structured: true, extended: false, contexts: 1 };
const EXTENDED: Terms = Terms { structured: true, extended: true, contexts: 2 };

fn header(command: u16, flags: u16, offset: u64, length: u64) -> Header {
    Header { flags, command, cookie: 1, offset, length }
}

/// The errno of a refusal and the payload to be skipped.
fn refused(verdict: Verdict) -> (Errno, u64) {
    match verdict {
        Verdict::Refuse { refusal: Refusal { errno, .. }, payload } => (errno, payload),
        other => panic!("{other:?}"),
    }
}

#[test]
fn good_requests_pass_with_what_they_say() {
    use wire::*;
    let cases = [
        (CMD_READ, 0, 0, 1, SIMPLE, Command::Read { offset: 0, length: 1, df: false }),
        (CMD_READ, FLAG_DF | FLAG_FUA, 5, 9, CHUNKS, Command::Read { offset: 5, length: 9, df: true }),
        (CMD_READ, 0, 0, REQUEST_MAX, SIMPLE, Command::Read { offset: 0, length: REQUEST_MAX, df: false }),
        (CMD_READ, FLAG_DF, 0, CHUNK_MAX, CHUNKS, Command::Read { offset: 0, length: CHUNK_MAX, df: true }),
        (CMD_WRITE, FLAG_FUA, SIZE - 1, 1, SIMPLE, Command::Write { offset: SIZE - 1, length: 1, fua: true }),
        (CMD_WRITE, 0, 0, REQUEST_MAX, EXTENDED, Command::Write { offset: 0, length: REQUEST_MAX, fua: false }),
        (CMD_WRITE, FLAG_PAYLOAD_LEN, 7, 8, EXTENDED, Command::Write { offset: 7, length: 8, fua: false }),
        (CMD_FLUSH, FLAG_FUA, 0, 0, SIMPLE, Command::Flush),
        (CMD_TRIM, FLAG_FUA, 0, SIZE, EXTENDED, Command::Trim { offset: 0, length: SIZE, fua: true }),
        (
            CMD_WRITE_ZEROES,
            FLAG_NO_HOLE | FLAG_FAST_ZERO,
            0,
            SIZE,
            SIMPLE,
            Command::WriteZeroes { offset: 0, length: SIZE, fua: false },
        ),
        (CMD_CACHE, 0, 1, SIZE - 1, SIMPLE, Command::Cache { offset: 1, length: SIZE - 1 }),
        (CMD_BLOCK_STATUS, 0, 0, SIZE, CHUNKS, Command::BlockStatus { offset: 0, length: SIZE, one: false }),
        (CMD_BLOCK_STATUS, FLAG_REQ_ONE, 0, 1, EXTENDED, Command::BlockStatus { offset: 0, length: 1, one: true }),
        (
            CMD_BLOCK_STATUS,
            FLAG_PAYLOAD_LEN | FLAG_REQ_ONE,
            3,
            16,
            EXTENDED,
            Command::BlockStatusSelected { offset: 3, payload: 16, one: true },
        ),
    ];
    for (command, flags, offset, length, terms, expected) in cases {
        assert_eq!(judge(&header(command, flags, offset, length), &LIVE, &terms), Verdict::Run(expected));
    }
}

#[test]
fn wrong_requests_get_the_errno_of_the_specification() {
    use wire::*;
    let cases = [
        // Beyond the end.
        (CMD_READ, 0, SIZE - 1, 2, LIVE, SIMPLE, Errno::Invalid),
        (CMD_READ, 0, u64::MAX, 1, LIVE, SIMPLE, Errno::Invalid),
        (CMD_WRITE, 0, SIZE, 1, LIVE, SIMPLE, Errno::NoSpace),
        (CMD_WRITE_ZEROES, 0, u64::MAX, u64::MAX, LIVE, EXTENDED, Errno::NoSpace),
        (CMD_TRIM, 0, SIZE, 1, LIVE, SIMPLE, Errno::Invalid),
        (CMD_CACHE, 0, 0, SIZE + 1, LIVE, EXTENDED, Errno::Invalid),
        (CMD_BLOCK_STATUS, 0, 1, SIZE, LIVE, CHUNKS, Errno::Invalid),
        // No bytes.
        (CMD_READ, 0, 0, 0, LIVE, SIMPLE, Errno::Invalid),
        (CMD_WRITE, 0, 0, 0, LIVE, SIMPLE, Errno::Invalid),
        (CMD_TRIM, 0, 0, 0, LIVE, SIMPLE, Errno::Invalid),
        (CMD_WRITE_ZEROES, 0, 0, 0, LIVE, SIMPLE, Errno::Invalid),
        (CMD_BLOCK_STATUS, 0, 0, 0, LIVE, CHUNKS, Errno::Invalid),
        // Too long.
        (CMD_READ, 0, 0, REQUEST_MAX + 1, LIVE, SIMPLE, Errno::Invalid),
        (CMD_READ, 0, 0, REQUEST_MAX + 1, LIVE, CHUNKS, Errno::Overflow),
        (CMD_READ, FLAG_DF, 0, CHUNK_MAX + 1, LIVE, EXTENDED, Errno::Overflow),
        (CMD_WRITE, 0, 0, REQUEST_MAX + 1, LIVE, SIMPLE, Errno::Invalid),
        // Flags of other commands, or of no command, or of another mode.
        (CMD_READ, FLAG_DF, 0, 1, LIVE, SIMPLE, Errno::Invalid),
        (CMD_READ, FLAG_NO_HOLE, 0, 1, LIVE, CHUNKS, Errno::Invalid),
        (CMD_READ, FLAG_PAYLOAD_LEN, 0, 1, LIVE, EXTENDED, Errno::Invalid),
        (CMD_WRITE, FLAG_PAYLOAD_LEN, 0, 1, LIVE, CHUNKS, Errno::Invalid),
        (CMD_WRITE, 1 << 15, 0, 1, LIVE, SIMPLE, Errno::Invalid),
        (CMD_TRIM, FLAG_NO_HOLE, 0, 1, LIVE, SIMPLE, Errno::Invalid),
        (CMD_CACHE, FLAG_REQ_ONE, 0, 1, LIVE, CHUNKS, Errno::Invalid),
        (CMD_FLUSH, FLAG_DF, 0, 0, LIVE, CHUNKS, Errno::Invalid),
        (CMD_BLOCK_STATUS, FLAG_PAYLOAD_LEN, 0, 12, LIVE, CHUNKS, Errno::Invalid),
        // Read-only, before the range is looked at.
        (CMD_WRITE, 0, SIZE, 1, VIEW, SIMPLE, Errno::Perm),
        (CMD_TRIM, 0, 0, 1, VIEW, SIMPLE, Errno::Perm),
        (CMD_WRITE_ZEROES, 0, 0, 1, VIEW, SIMPLE, Errno::Perm),
        // The rest.
        (CMD_FLUSH, 0, 1, 0, LIVE, SIMPLE, Errno::Invalid),
        (CMD_FLUSH, 0, 0, 1, LIVE, SIMPLE, Errno::Invalid),
        (CMD_BLOCK_STATUS, 0, 0, 1, LIVE, SIMPLE, Errno::Invalid),
        (CMD_BLOCK_STATUS, 0, 0, 1, LIVE, Terms { contexts: 0, ..CHUNKS }, Errno::Invalid),
        (CMD_BLOCK_STATUS, FLAG_PAYLOAD_LEN, 0, 8, LIVE, EXTENDED, Errno::Invalid),
        (CMD_BLOCK_STATUS, FLAG_PAYLOAD_LEN, 0, 20, LIVE, EXTENDED, Errno::Invalid),
        (8, 0, 0, 1, LIVE, SIMPLE, Errno::Invalid),
        (u16::MAX, 0, 0, 1, LIVE, EXTENDED, Errno::Invalid),
    ];
    for case in cases {
        let (command, flags, offset, length, facts, terms, errno) = case;
        let is_payload = command == CMD_WRITE || (terms.extended && flags & FLAG_PAYLOAD_LEN != 0);
        let expected = (errno, if is_payload { length } else { 0 });
        assert_eq!(refused(judge(&header(command, flags, offset, length), &facts, &terms)), expected, "{case:?}");
    }
}

#[test]
fn a_payload_beyond_any_limit_ends_the_connection() {
    let write = |length| judge(&header(wire::CMD_WRITE, 0, 0, length), &LIVE, &EXTENDED);
    assert_eq!(refused(write(SKIP_MAX)), (Errno::Invalid, SKIP_MAX));
    assert!(matches!(write(SKIP_MAX + 1), Verdict::Abort(_)));
    assert!(matches!(write(u64::MAX), Verdict::Abort(_)));
    let trim = header(wire::CMD_TRIM, wire::FLAG_PAYLOAD_LEN, 0, u64::MAX);
    assert!(matches!(judge(&trim, &LIVE, &EXTENDED), Verdict::Abort(_)));
    // Without the flag a length is no payload.
    let trim = header(wire::CMD_TRIM, 0, 0, u64::MAX);
    assert_eq!(refused(judge(&trim, &LIVE, &EXTENDED)), (Errno::Invalid, 0));
}

#[test]
fn disconnect_is_disconnect_whatever_else_it_says() {
    for terms in [SIMPLE, CHUNKS, EXTENDED] {
        let verdict = judge(&header(wire::CMD_DISC, u16::MAX, 7, u64::MAX), &VIEW, &terms);
        assert_eq!(verdict, Verdict::Disconnect);
    }
}

/// Range of a command, and whether it changes the volume.
fn effect(command: Command) -> Option<(u64, u64, bool)> {
    match command {
        Command::Read { offset, length, .. }
        | Command::Cache { offset, length }
        | Command::BlockStatus { offset, length, .. } => Some((offset, length, false)),
        Command::Write { offset, length, .. }
        | Command::Trim { offset, length, .. }
        | Command::WriteZeroes { offset, length, .. } => Some((offset, length, true)),
        Command::Flush | Command::BlockStatusSelected { .. } => None,
    }
}

#[test]
fn nothing_that_passes_reaches_beyond_the_export_or_its_rights() {
    let edges = [0, 1, 8, 12, 511, CHUNK_MAX, REQUEST_MAX, REQUEST_MAX + 1, SIZE - 1, SIZE, SIZE + 1, u64::MAX];
    let mut passed = 0;
    for command in 0..10u16 {
        for flags in (0..128).chain([1 << 8, 1 << 15, u16::MAX]) {
            for (offset, length) in edges.iter().flat_map(|o| edges.iter().map(move |l| (*o, *l))) {
                for (facts, terms) in [LIVE, VIEW].iter().flat_map(|f| [SIMPLE, CHUNKS, EXTENDED].map(|t| (f, t))) {
                    let verdict = judge(&header(command, flags, offset, length), facts, &terms);
                    let Verdict::Run(run) = verdict else { continue };
                    passed += 1;
                    assert!(run.payload() <= REQUEST_MAX);
                    if let Some((offset, length, changes)) = effect(run) {
                        assert!(length > 0 && offset <= SIZE && length <= SIZE - offset);
                        assert!(!(changes && facts.read_only));
                    }
                }
            }
        }
    }
    assert!(passed > 1000);
}

#[test]
fn selections_name_negotiated_contexts_once() {
    let bytes = |length: u64, ids: &[u32]| {
        let mut bytes = length.to_be_bytes().to_vec();
        ids.iter().for_each(|id| bytes.extend(id.to_be_bytes()));
        bytes
    };
    let judge = |payload: &[u8], offset| judge_selection(payload, offset, &LIVE, &[5, 9]);
    let good = judge(&bytes(SIZE - 1, &[9, 5]), 1).unwrap();
    assert_eq!((good.length, good.contexts), (SIZE - 1, vec![1, 0]));
    for (payload, offset) in [
        (bytes(SIZE, &[9]), 1),
        (bytes(0, &[9]), 0),
        (bytes(1, &[7]), 0),
        (bytes(1, &[9, 9]), 0),
        (bytes(1, &[]), 0),
        (vec![0; 15], 0),
        (vec![], 0),
    ] {
        assert_eq!(judge(&payload, offset).unwrap_err().errno, Errno::Invalid);
    }
}
