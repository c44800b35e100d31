//! The stream of an NBD client: any bytes are taken in step or end the connection, and nothing passes the gate that
//! reaches beyond the export, its rights or the bounds. The first two bytes choose what was negotiated and the export.
#![no_main]

use cdp_nbd::request::{judge, judge_selection, Command, Facts, Terms, Verdict, REQUEST_MAX, SKIP_MAX};
use cdp_nbd::wire::{Decoded, Errno, Header};
use libfuzzer_sys::fuzz_target;

const SIZES: [u64; 8] = [512, 4096, 1 << 20, 1 << 26, 1 << 32, 1 << 40, (1 << 57) - 512, 0];
const IDS: [u32; 3] = [5, 0, u32::MAX];

fuzz_target!(|data: &[u8]| {
    let [choice, size, stream @ ..] = data else { return };
    let extended = choice & 1 != 0;
    let contexts = usize::from(choice >> 3 & 3).min(IDS.len());
    let terms = Terms { structured: extended || choice & 2 != 0, extended, contexts };
    let facts = Facts { size: SIZES[usize::from(*size) % SIZES.len()], read_only: choice & 4 != 0 };
    follow(stream, &facts, &terms);
});

/// Walks a stream as a session does, payloads included.
fn follow(mut stream: &[u8], facts: &Facts, terms: &Terms) {
    loop {
        let header = match Header::decode(stream, terms.extended) {
            Decoded::Short => return assert!(stream.len() < Header::bytes(terms.extended)),
            Decoded::Foreign(magic) => return assert_eq!(magic.to_be_bytes(), stream[..4]),
            Decoded::Header(header) => header,
        };
        let (head, rest) = stream.split_at(Header::bytes(terms.extended));
        assert_eq!(header.encode(terms.extended), head);
        let verdict = judge(&header, facts, terms);
        assert_eq!(verdict, judge(&header, facts, terms));
        let payload = match verdict {
            Verdict::Disconnect | Verdict::Abort(_) => return,
            Verdict::Refuse { refusal, payload } => {
                assert!(payload == 0 || payload == header.length && payload <= SKIP_MAX);
                assert!(terms.structured || refusal.errno != Errno::Overflow);
                payload
            }
            Verdict::Run(command) => {
                check(command, facts);
                command.payload()
            }
        };
        let Some((payload, after)) = rest.split_at_checked(payload as usize) else { return };
        if let Verdict::Run(Command::BlockStatusSelected { offset, .. }) = verdict {
            select(payload, offset, facts, &IDS[..terms.contexts]);
        }
        stream = after;
    }
}

fn inside(offset: u64, length: u64, facts: &Facts) {
    assert!(length > 0 && offset <= facts.size && length <= facts.size - offset);
}

fn check(command: Command, facts: &Facts) {
    assert!(command.payload() <= REQUEST_MAX);
    match command {
        Command::Read { offset, length, .. } => {
            assert!(length <= REQUEST_MAX);
            inside(offset, length, facts);
        }
        Command::Cache { offset, length } | Command::BlockStatus { offset, length, .. } => {
            inside(offset, length, facts);
        }
        Command::Write { offset, length, .. }
        | Command::Trim { offset, length, .. }
        | Command::WriteZeroes { offset, length, .. } => {
            assert!(!facts.read_only);
            inside(offset, length, facts);
        }
        Command::Flush | Command::BlockStatusSelected { .. } => {}
    }
}

fn select(payload: &[u8], offset: u64, facts: &Facts, ids: &[u32]) {
    if let Ok(selection) = judge_selection(payload, offset, facts, ids) {
        inside(offset, selection.length, facts);
        let mut seen = selection.contexts.clone();
        seen.sort_unstable();
        seen.dedup();
        assert!(!seen.is_empty() && seen.len() == selection.contexts.len());
        assert!(seen.iter().all(|position| *position < ids.len()));
    }
}
