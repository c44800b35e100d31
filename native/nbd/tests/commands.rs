//! Every command in every mode, against a real volume.

mod support;

use cdp_nbd::{wire, Export};
use support::*;

fn modes() -> Vec<cdp_nbd::Mode> {
    vec![simple(), structured(), extended()]
}

#[test]
fn what_is_written_is_read_at_every_alignment() {
    for mode in modes() {
        let bench = Bench::new(8 * MIB);
        let mut client = bench.client(mode);
        let mut model = vec![0; 8 * MIB as usize];
        let ranges = [(0, 1), (511, 2), (4096, 4096), (12_345, 70_001), (MIB, 300_000), (8 * MIB - 3, 3)];
        for (seed, (offset, length)) in ranges.into_iter().enumerate() {
            let data = noise(length, seed as u64 + 1);
            assert_eq!(client.write(0, offset, &data), 0);
            model[offset as usize..offset as usize + length].copy_from_slice(&data);
        }
        for (offset, length) in [(0, 8 * MIB), (500, 20), (12_000, 80_000), (8 * MIB - 1, 1)] {
            assert!(client.read(offset, length) == model[offset as usize..(offset + length) as usize]);
        }
    }
}

#[test]
fn zeroes_and_trims_read_back_as_zeros() {
    for mode in modes() {
        let bench = Bench::new(4 * MIB);
        let mut client = bench.client(mode);
        for (command, flags) in [
            (wire::CMD_TRIM, 0),
            (wire::CMD_TRIM, wire::FLAG_FUA),
            (wire::CMD_WRITE_ZEROES, 0),
            (wire::CMD_WRITE_ZEROES, wire::FLAG_NO_HOLE | wire::FLAG_FUA),
            (wire::CMD_WRITE_ZEROES, wire::FLAG_FAST_ZERO),
            (wire::CMD_WRITE_ZEROES, wire::FLAG_FAST_ZERO | wire::FLAG_NO_HOLE),
        ] {
            assert_eq!(client.write(0, 0, &[0xaa; 65536]), 0);
            assert_eq!(client.run(flags, command, 1000, 40_000), 0);
            let data = client.read(0, 65536);
            assert!(data[1000..41_000].iter().all(|byte| *byte == 0));
            assert!(data[..1000].iter().chain(&data[41_000..]).all(|byte| *byte == 0xaa));
        }
    }
}

#[test]
fn zeroes_of_the_whole_volume_in_one_request() {
    let bench = Bench::new(1 << 40);
    let mut client = bench.client(extended());
    assert_eq!(client.write(0, (1 << 40) - 4096, &noise(4096, 1)), 0);
    assert_eq!(client.run(0, wire::CMD_WRITE_ZEROES, 0, 1 << 40), 0);
    assert_eq!(client.run(0, wire::CMD_TRIM, 0, 1 << 40), 0);
    assert_eq!(client.run(0, wire::CMD_CACHE, 0, 1 << 40), 0);
    assert!(client.read((1 << 40) - 4096, 4096) == [0; 4096]);
}

#[test]
fn flush_and_fua_and_cache_succeed_in_every_mode() {
    for mode in modes() {
        let bench = Bench::new(4 * MIB);
        let mut client = bench.client(mode);
        assert_eq!(client.run(0, wire::CMD_FLUSH, 0, 0), 0);
        assert_eq!(client.write(wire::FLAG_FUA, 0, b"kept"), 0);
        assert_eq!(client.run(wire::FLAG_FUA, wire::CMD_FLUSH, 0, 0), 0);
        assert_eq!(client.run(wire::FLAG_FUA, wire::CMD_CACHE, 0, 4096), 0);
        assert_eq!(client.read(0, 4), b"kept");
    }
}

#[test]
fn a_write_without_payload_len_has_its_payload_in_extended_mode() {
    let bench = Bench::new(4 * MIB);
    let mut client = bench.client(extended());
    client.ask(0, wire::CMD_WRITE, 1, 0, 5);
    client.send(b"hello");
    assert_eq!(client.outcome(1), 0);
    assert_eq!(client.read(0, 5), b"hello");
}

#[test]
fn extended_replies_repeat_cookie_and_offset() {
    let bench = Bench::new(4 * MIB);
    let mut client = bench.client(extended());
    client.ask(0, wire::CMD_READ, 77, 4096, 10);
    let chunks = client.chunks(77);
    assert!(chunks.iter().all(|chunk| chunk.offset == 4096));
    client.ask(0, wire::CMD_TRIM, 78, 512, 1 << 50);
    assert_eq!(client.chunks(78)[0].offset, 512);
}

#[test]
fn holes_are_chunks_of_their_own_unless_df_forbids() {
    for mode in [structured(), extended()] {
        let bench = Bench::new(8 * MIB);
        let mut client = bench.client(mode);
        assert_eq!(client.write(0, MIB, &noise(65536, 3)), 0);
        client.ask(0, wire::CMD_READ, 1, 0, 4 * MIB);
        let chunks = client.chunks(1);
        let holes = chunks.iter().filter(|chunk| chunk.kind == wire::REPLY_OFFSET_HOLE).count();
        let data: usize =
            chunks.iter().filter(|chunk| chunk.kind == wire::REPLY_OFFSET_DATA).map(|chunk| chunk.payload.len()).sum();
        assert_eq!((holes, data), (2, 65536 + 8));
        client.ask(wire::FLAG_DF, wire::CMD_READ, 2, 0, 4 * MIB);
        let whole = client.chunks(2);
        assert_eq!(whole[0].kind, wire::REPLY_OFFSET_DATA);
        assert_eq!(whole[0].payload.len() as u64, 8 + 4 * MIB);
        assert!(whole[1..].iter().all(|chunk| chunk.kind == wire::REPLY_NONE));
    }
}

#[test]
fn a_large_read_comes_in_several_chunks() {
    let bench = Bench::new(65 * MIB);
    let mut client = bench.client(structured());
    let data = noise(64 * MIB as usize, 9);
    client.ask_write(0, 1, MIB, &data);
    assert_eq!(client.outcome(1), 0);
    client.ask(0, wire::CMD_READ, 2, MIB, 64 * MIB);
    let chunks = client.chunks(2);
    assert_eq!(chunks.len(), 512);
    assert!(chunks.iter().all(|chunk| chunk.payload.len() == 8 + (128 << 10)));
    assert!(chunks.iter().enumerate().all(|(index, chunk)| chunk.done == (index == 511)));
    let mut read = vec![0; data.len()];
    chunks.iter().for_each(|chunk| {
        put(chunk, MIB, &mut read);
    });
    assert!(read == data);
    client.ask(wire::FLAG_DF, wire::CMD_READ, 3, 0, 32 * MIB + 1);
    assert_eq!(client.outcome(3), wire::Errno::Overflow as u32);
    assert_eq!(client.run(0, wire::CMD_READ, 0, 64 * MIB + 1), wire::Errno::Overflow as u32);
    let mut old = bench.client(simple());
    assert!(old.read(MIB, 64 * MIB) == data);
    assert_eq!(old.run(0, wire::CMD_READ, 0, 64 * MIB + 1), wire::Errno::Invalid as u32);
}

#[test]
fn refused_requests_leave_the_stream_in_step() {
    for mode in modes() {
        let bench = Bench::new(4 * MIB);
        let mut client = bench.client(mode);
        let (nospace, invalid) = (wire::Errno::NoSpace as u32, wire::Errno::Invalid as u32);
        assert_eq!(client.write(0, 4 * MIB - 1, b"xy"), nospace);
        assert_eq!(client.write(0, u64::MAX, &noise(300_000, 1)), nospace);
        assert_eq!(client.write(1 << 14, 0, &noise(300_000, 1)), invalid);
        assert_eq!(client.run(0, wire::CMD_WRITE_ZEROES, 0, 4 * MIB + 1), nospace);
        assert_eq!(client.run(0, wire::CMD_TRIM, 0, 4 * MIB + 1), invalid);
        assert_eq!(client.run(0, wire::CMD_READ, 4 * MIB, 1), invalid);
        assert_eq!(client.run(0, 99, 0, 1), invalid);
        assert_eq!(client.run(0, wire::CMD_READ, 0, 0), invalid);
        let large = noise(64 * MIB as usize + 1, 1);
        assert_eq!(client.write(0, 0, &large), invalid);
        assert_eq!(client.read(0, 4), [0; 4]);
    }
}

#[test]
fn a_view_refuses_writes_and_still_reads() {
    for mode in modes() {
        let bench = Bench::new(4 * MIB);
        let mut writer = bench.client(simple());
        assert_eq!(writer.write(0, 0, b"before"), 0);
        let lsn = bench.volume.write(8, b"now").unwrap();
        bench.volume.commit(lsn).unwrap();
        let mut client = bench.client_of(Export::View(bench.volume.view(lsn).unwrap()), mode, Vec::new());
        assert_eq!(writer.write(0, 0, b"after!"), 0);
        let permission = wire::Errno::Perm as u32;
        assert_eq!(client.write(0, 0, b"never"), permission);
        assert_eq!(client.run(0, wire::CMD_TRIM, 0, 512), permission);
        assert_eq!(client.run(0, wire::CMD_WRITE_ZEROES, 0, 512), permission);
        assert_eq!(client.run(0, wire::CMD_FLUSH, 0, 0), 0);
        assert_eq!(client.read(0, 11), b"before\0\0now");
    }
}

#[test]
fn many_requests_in_one_send_are_all_answered_in_their_meaning() {
    let bench = Bench::new(4 * MIB);
    let mut client = bench.client(structured());
    let mut bytes = Vec::new();
    for cookie in 0..200u64 {
        bytes.extend(request(false, 0, wire::CMD_WRITE, cookie, 4096, 4096));
        bytes.extend([cookie as u8 + 1; 4096]);
        if cookie % 10 == 9 {
            bytes.extend(request(false, 0, wire::CMD_READ, 10_000 + cookie, 4096, 4096));
            bytes.extend(request(false, 0, wire::CMD_FLUSH, 20_000 + cookie, 0, 0));
        }
    }
    let mut sender = client.stream.try_clone().unwrap();
    let thread = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &bytes).unwrap());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..240 {
        match client.reply() {
            Reply::Simple { errno, cookie } => {
                assert_eq!(errno, 0);
                assert!(seen.insert(cookie));
            }
            Reply::Chunk(chunk) => {
                assert!(chunk.done && seen.insert(chunk.cookie));
                let least = (chunk.cookie - 10_000) as u8 + 1;
                assert!(chunk.payload[8..].iter().all(|byte| *byte == least), "a read saw another write than its own");
            }
        }
    }
    thread.join().unwrap();
    assert_eq!(bench.server.totals().requests, 240);
}

#[test]
fn requests_cut_anywhere_arrive_whole() {
    for mode in modes() {
        let bench = Bench::new(4 * MIB);
        let mut client = bench.client(mode);
        let extended = client.extended;
        let mut bytes = request(extended, 0, wire::CMD_WRITE, 1, 100, 50);
        bytes.extend(noise(50, 4));
        bytes.extend(request(extended, 0, wire::CMD_FLUSH, 2, 0, 0));
        for byte in &bytes {
            client.send(std::slice::from_ref(byte));
        }
        assert_eq!((client.outcome(1), client.outcome(2)), (0, 0));
        assert!(client.read(100, 50) == noise(50, 4));
        // What negotiation had read already comes first.
        for cut in [1, 27, 31, 40, bytes.len()] {
            let mut second = bench.client_of(bench.export(), simple_or(extended), bytes[..cut].to_vec());
            second.send(&bytes[cut..]);
            assert_eq!((second.outcome(1), second.outcome(2)), (0, 0));
        }
    }
}

fn simple_or(is_extended: bool) -> cdp_nbd::Mode {
    if is_extended {
        extended()
    } else {
        simple()
    }
}
