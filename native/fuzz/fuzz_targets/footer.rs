//! Footers: trailer, sections and index blocks of any bytes are decoded or refused, and lookups in what was decoded end
//! inside the file. Checksums are made to fit first.
#![no_main]

use std::sync::Arc;

use cdp_engine::index::footer;
use cdp_engine::index::run::{decode_block, encode, BLOCK_BYTES};
use cdp_engine::index::sections;
use cdp_engine::storage::Storage;
use cdp_engine::PAGE;
use cdp_fuzz::{crc, crc_around, put_u16, put_u32, put_u64};
use cdp_sim::Machine;
use libfuzzer_sys::fuzz_target;

const NONCE: u64 = 0x1234_5678_9abc_def0;
const TRAILER_BYTES: usize = 96;
const BLOCK_HEADER: usize = 24;
const SEGMENTS: [u32; 3] = [1, 4, 9];

fuzz_target!(|data: &[u8]| {
    raw(data);
    one_block(data);
    whole_footer(data);
});

fn raw(data: &[u8]) {
    let _ = footer::parse_trailer(data, NONCE);
    let _ = decode_block(data, NONCE, &SEGMENTS);
    let _ = sections::decode_fences(data);
    let _ = sections::decode_stamps(data);
    let _ = sections::decode_activity(data);
    let _ = sections::decode_flush_points(data);
    let _ = sections::decode_segments(data);
    if let Some(controls) = sections::decode_controls(data) {
        assert_eq!(sections::encode_controls(&controls), data);
    }
}

/// What decodes, encodes and decodes again to the same.
fn one_block(data: &[u8]) {
    let block = block(data);
    let Some(versions) = decode_block(&block, NONCE, &SEGMENTS) else {
        return;
    };
    let blocks = encode(versions.clone(), NONCE);
    let decoded = blocks
        .bytes
        .chunks(BLOCK_BYTES)
        .flat_map(|b| decode_block(b, NONCE, &blocks.segments).expect("what was just encoded"));
    let (mut again, mut versions) = (decoded.collect::<Vec<_>>(), versions);
    again.sort_by_key(|v| (v.start, v.lsn, v.sectors, format!("{:?}", v.place)));
    versions.sort_by_key(|v| (v.start, v.lsn, v.sectors, format!("{:?}", v.place)));
    assert_eq!(again, versions);
}

/// An index block with these bytes behind its header.
fn block(data: &[u8]) -> Vec<u8> {
    let mut block = data[..data.len().min(BLOCK_BYTES)].to_vec();
    let used = block.len().max(BLOCK_HEADER);
    block.resize(BLOCK_BYTES, 0);
    put_u16(&mut block, 6, used as u16);
    let sum = crc(&[&block[4..], &NONCE.to_le_bytes()]);
    put_u32(&mut block, 0, sum);
    block
}

/// Header bytes: where to cut the rest into blocks and six sections.
fn whole_footer(data: &[u8]) {
    let Some((head, mut rest)) = data.split_at_checked(10) else {
        return;
    };
    let (narrow, wide) = (u32::from(head[0] % 4), u32::from(head[1] % 3));
    let mut bytes = vec![0; PAGE as usize];
    for i in 0..narrow + wide {
        bytes.extend(block(take(&mut rest, usize::from(head[2].rotate_left(i)))));
    }
    let sections_offset = bytes.len() as u64;
    let tags = [sections::SEGS, sections::FENC, sections::CTRL, sections::STMP, sections::FLSH, sections::STAT];
    for (tag, length) in tags.into_iter().zip(&head[3..9]) {
        let mut body = take(&mut rest, usize::from(*length)).to_vec();
        match tag {
            sections::FENC => body = fences(&body, narrow + wide),
            sections::SEGS | sections::STMP | sections::STAT => body.truncate(body.len() / 120 * 120),
            _ => {}
        }
        sections::push(&mut bytes, tag, &body, NONCE);
    }
    let end = (bytes.len() + TRAILER_BYTES).next_multiple_of(PAGE as usize);
    bytes.resize(end - TRAILER_BYTES, 0);
    bytes.extend(trailer(narrow, wide, sections_offset, head[9]));
    look_up(&bytes, end as u64);
}

fn fences(body: &[u8], count: u32) -> Vec<u8> {
    let mut fences = Vec::new();
    for i in 0..count as usize {
        let word = |at: usize| u64::from(*body.get(3 * i + at).unwrap_or(&0)) << 11;
        fences.extend([word(0), word(0) + word(1), word(2)].iter().flat_map(|w| w.to_le_bytes()));
    }
    fences
}

fn trailer(narrow: u32, wide: u32, sections_offset: u64, bend: u8) -> Vec<u8> {
    let mut t = vec![0; TRAILER_BYTES];
    t[..8].copy_from_slice(b"CDPFOOT1");
    put_u32(&mut t, 8, 1);
    put_u64(&mut t, 16, PAGE);
    put_u32(&mut t, 24, narrow);
    put_u32(&mut t, 28, wide);
    put_u64(&mut t, 32, sections_offset);
    put_u32(&mut t, 40, 6);
    if bend > 240 {
        t[usize::from(bend) % TRAILER_BYTES] ^= bend;
    }
    let sum = crc_around(&t, &NONCE.to_le_bytes());
    put_u32(&mut t, 12, sum);
    t
}

fn look_up(bytes: &[u8], end: u64) {
    let machine = Machine::new(0);
    machine.replace("segment", bytes);
    let Ok(file) = machine.boot().open("segment", false) else {
        unreachable!("the file was just made");
    };
    let file = Arc::clone(&file);
    let Ok(footer) = footer::read(&*file, NONCE, PAGE, end) else {
        return;
    };
    for block in 0..footer.run.fences.len() {
        let _ = footer.run.read_block(&*file, block);
    }
    for start in [0, 1 << 11, 1 << 19, (1 << 48) - 8192] {
        let _ = footer.run.collect(&*file, (start, start + 8192), |_| true, &mut Vec::new());
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(bytes.min(rest.len()));
    *rest = left;
    taken
}
