//! What the client hears when the journal is damaged or the disk says no.

mod support;

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;

use cdp_engine::FullPolicy;
use cdp_nbd::wire::{self, Errno};
use cdp_nbd::Export;
use support::*;

const IO: u32 = Errno::Io as u32;

/// A bench whose volume lost one byte in the middle of the second of three writes of 64 KiB.
fn damaged() -> Bench {
    let mut bench = Bench::new(4 * MIB);
    for index in 0..3u64 {
        let lsn = bench.volume.write(index << 16, &noise(1 << 16, index + 1)).unwrap();
        bench.volume.commit(lsn).unwrap();
    }
    bench.volume.close().unwrap();
    let payload = noise(1 << 16, 2);
    let middle = &payload[30_000..30_032];
    let mut flipped = 0;
    for entry in std::fs::read_dir(&bench.folder.0).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for at in bytes.windows(32).enumerate().filter(|(_, found)| *found == middle).map(|(at, _)| at) {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    bench.volume = open(&bench.folder);
    bench
}

/// Offset and bytes of each content chunk, and the places of the errors.
fn story(chunks: &[Chunk]) -> (Vec<(u64, usize)>, Vec<u64>) {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    let (mut content, mut errors) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let payload = &chunk.payload;
        match chunk.kind {
            wire::REPLY_OFFSET_DATA => content.push((number(&payload[..8]), payload.len() - 8)),
            wire::REPLY_ERROR_OFFSET => {
                assert_eq!(payload[..4], IO.to_be_bytes());
                let text = std::str::from_utf8(&payload[6..payload.len() - 8]).unwrap();
                assert!(!text.is_empty());
                errors.push(number(&payload[payload.len() - 8..]));
            }
            wire::REPLY_NONE => {}
            kind => panic!("chunk of type {kind:#x}"),
        }
    }
    (content, errors)
}

#[test]
fn the_good_pieces_of_a_damaged_range_are_sent_with_an_error_at_its_place() {
    let bench = damaged();
    for mode in [structured(), extended()] {
        let mut client = bench.client(mode);
        client.ask(0, wire::CMD_READ, 1, 1000, 190_000);
        let chunks = client.chunks(1);
        assert!(chunks.iter().rev().skip(1).all(|chunk| !chunk.done));
        let (content, errors) = story(&chunks);
        assert_eq!(content, [(1000, 64_536), (131_072, 59_928)]);
        assert_eq!(errors, [65_536]);
        let sent = chunks.iter().find(|chunk| chunk.kind == wire::REPLY_OFFSET_DATA).unwrap();
        assert!(sent.payload[8..] == noise(1 << 16, 1)[1000..]);
        // One content chunk at most: what comes before the damage.
        client.ask(wire::FLAG_DF, wire::CMD_READ, 2, 1000, 190_000);
        assert_eq!(story(&client.chunks(2)), (vec![(1000, 64_536)], vec![65_536]));
        client.ask(wire::FLAG_DF, wire::CMD_READ, 3, 70_000, 10);
        assert_eq!(story(&client.chunks(3)), (vec![], vec![70_000]));
        assert!(client.read(131_072, 65_536) == noise(1 << 16, 3));
    }
    assert_eq!(bench.server.totals().errors, 6);
}

#[test]
fn without_chunks_a_damaged_range_is_eio_without_data() {
    let bench = damaged();
    let mut client = bench.client(simple());
    assert_eq!(client.run(0, wire::CMD_READ, 1000, 190_000), IO);
    assert!(client.read(0, 65_536) == noise(1 << 16, 1));
    assert_eq!(client.write(0, 65_536, &noise(1 << 16, 4)), 0);
    assert!(client.read(65_536, 65_536) == noise(1 << 16, 4));
}

#[test]
fn a_failed_sync_fails_the_flush_and_every_later_write() {
    let (bench, orders) = moody();
    let mut client = bench.client(structured());
    assert_eq!(client.write(wire::FLAG_FUA, 0, b"durable"), 0);
    orders.sync.store(libc::EIO, Relaxed);
    // In one turn: the plain write is in the journal and keeps its success, what asked for durability fails.
    let mut bytes = request(false, 0, wire::CMD_WRITE, 1, 512, 3);
    bytes.extend(b"abc");
    bytes.extend(request(false, wire::FLAG_FUA, wire::CMD_WRITE, 2, 1024, 3));
    bytes.extend(b"def");
    bytes.extend(request(false, 0, wire::CMD_FLUSH, 3, 0, 0));
    client.send(&bytes);
    assert_eq!([client.outcome(1), client.outcome(2), client.outcome(3)], [0, IO, IO]);
    orders.sync.store(0, Relaxed);
    assert_eq!(client.write(0, 0, b"more"), IO);
    assert_eq!(client.run(0, wire::CMD_FLUSH, 0, 0), IO);
    assert_eq!(client.run(0, wire::CMD_TRIM, 0, 512), IO);
    assert_eq!(client.read(0, 7), b"durable");
}

#[test]
fn a_full_disk_is_enospc_where_that_is_the_policy() {
    let (bench, orders) = moody();
    bench.volume.set_budget(None, FullPolicy::Fail);
    let mut client = bench.client(structured());
    assert_eq!(client.write(0, 0, &noise(4096, 1)), 0);
    orders.write.store(libc::ENOSPC, Relaxed);
    assert_eq!(client.write(0, 0, &noise(4096, 2)), Errno::NoSpace as u32);
    orders.write.store(0, Relaxed);
    assert!(client.read(0, 4096) == noise(4096, 1));
}

#[test]
fn a_view_of_a_damaged_volume_says_the_same() {
    let bench = damaged();
    let view = bench.volume.view(cdp_engine::Lsn(3)).unwrap();
    let mut client = bench.client_of(Export::View(view), structured(), Vec::new());
    client.ask(0, wire::CMD_READ, 1, 0, 196_608);
    assert_eq!(story(&client.chunks(1)), (vec![(0, 65_536), (131_072, 65_536)], vec![65_536]));
}
