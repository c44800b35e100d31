//! Batch headers, directories, echoes and payloads: any bytes are decoded or refused, and what is decoded can be
//! encoded again. Checksums are made to fit first, or nothing would get past them.
#![no_main]

use std::sync::Arc;

use cdp_engine::journal::batch::{Header, Meta, ALIGN, HEADER_BYTES, MAGIC};
use cdp_engine::journal::payload;
use cdp_engine::journal::scan::{payload_is_intact, scan, Window};
use cdp_engine::journal::segment::{OpenSegment, FIRST_BATCH};
use cdp_engine::storage::Storage;
use cdp_engine::SegmentId;
use cdp_fuzz::{crc, put_u32, u32_at};
use cdp_sim::Machine;
use libfuzzer_sys::fuzz_target;

const NONCE: u64 = 0x1234_5678_9abc_def0;

fuzz_target!(|data: &[u8]| {
    let _ = Meta::parse(data, NONCE);
    one_batch(data);
    one_payload(data);
    a_segment(data);
});

fn one_batch(data: &[u8]) {
    let mut bytes = data.to_vec();
    if !mend(&mut bytes, 0) {
        return;
    }
    let Some(meta) = Meta::parse(&bytes, NONCE) else {
        return;
    };
    let (first, next) = (meta.header.first_lsn, meta.next_lsn());
    assert!(next >= first && meta.last_lsn() < next);
    assert_eq!(meta.placed().count(), meta.entries.len());
    assert!(meta.placed().all(|p| (first..next).contains(&p.lsn) && p.stamp >= meta.header.base_stamp));
    assert!(meta.placed().all(|p| p.offset + u64::from(p.entry.stored) <= meta.header.end()));
    let mut directory = Vec::new();
    meta.entries.iter().for_each(|e| e.encode(&mut directory));
    assert_eq!(Meta::parse(&meta.header.encode(&directory, NONCE), NONCE).as_ref(), Some(&meta));
}

fn one_payload(data: &[u8]) {
    let [sectors, stored @ ..] = data else {
        return;
    };
    let mut content = vec![0; (usize::from(*sectors) + 1).min(payload::SECTORS_MAX as usize) * 512];
    let _ = payload::decode(stored, NONCE, 1, 2, &mut content);
    if stored.len() > payload::CRC_BYTES {
        let mut stored = stored.to_vec();
        let sum = crc(&[&stored[payload::CRC_BYTES..], &NONCE.to_le_bytes(), &1u64.to_le_bytes(), &2u64.to_le_bytes()]);
        put_u32(&mut stored, 0, sum);
        let _ = payload::decode(&stored, NONCE, 1, 2, &mut content);
    }
}

/// The bytes as a segment behind its header: echoes stand in for their originals, nothing is read beyond the end.
fn a_segment(data: &[u8]) {
    let mut bytes = vec![0; FIRST_BATCH as usize];
    bytes.extend_from_slice(data);
    // Echoes stand at multiples of 4 and keep the offset of their original.
    for at in (FIRST_BATCH as usize..bytes.len()).step_by(4) {
        if bytes.len() - at >= HEADER_BYTES && u32_at(&bytes, at) == MAGIC {
            if at % ALIGN as usize == 0 {
                put_u32(&mut bytes, at + 40, at as u32);
            }
            mend(&mut bytes, at);
        }
    }
    let machine = Machine::new(0);
    machine.replace("segment", &bytes);
    let Ok(file) = machine.boot().open("segment", false) else {
        unreachable!("the file was just made");
    };
    let segment = OpenSegment { id: SegmentId(1), nonce: NONCE, file: Arc::clone(&file) };
    let found = scan(&segment, None).expect("a sound disk reads");
    assert!(found.metas.windows(2).all(|w| w[0].header.offset < w[1].header.offset));
    let mut window = Window::new(&*file);
    for placed in found.metas.iter().flat_map(Meta::placed) {
        let _ = payload_is_intact(&mut window, &placed, NONCE).expect("a sound disk reads");
    }
}

/// Makes magic, number of entries and checksum of the batch at `at` fit its bytes; false if there are too few.
fn mend(bytes: &mut [u8], at: usize) -> bool {
    let bytes = &mut bytes[at..];
    if bytes.len() < HEADER_BYTES {
        return false;
    }
    put_u32(bytes, 0, MAGIC);
    let room = (bytes.len() - HEADER_BYTES) / 20;
    let entries = u32_at(bytes, 44).min(room as u32);
    put_u32(bytes, 44, entries);
    let Some(header) = Header::peek(bytes) else {
        return false;
    };
    let sum = crc(&[&bytes[8..header.meta_bytes()], &NONCE.to_le_bytes()]);
    put_u32(bytes, 4, sum);
    true
}
