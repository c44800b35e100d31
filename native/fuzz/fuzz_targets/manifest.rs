//! Manifests: any bytes are decoded or refused, what is decoded can be written and read again, and a second, sound copy
//! is always enough.
#![no_main]

use std::sync::Arc;

use cdp_engine::journal::manifest::{parse_copy, Manifest};
use cdp_engine::storage::Storage;
use cdp_fuzz::{crc, crc_around, put_u32, put_u64, u32_at};
use cdp_sim::Machine;
use libfuzzer_sys::fuzz_target;

const HEADER_BYTES: usize = 64;
const FRAME_BYTES: usize = 32;
const ITEM_BYTES: usize = 96;

fuzz_target!(|data: &[u8]| {
    let _ = parse_copy("raw", data);
    let mended = mend(data);
    let parsed = parse_copy("mended", &mended);
    if let Ok(copy) = &parsed {
        let valid = copy.valid_bytes as usize;
        assert!(valid <= mended.len() && copy.has_tail == (valid < mended.len()));
        let front = parse_copy("front", &mended[..valid]).expect("the valid part by itself is valid");
        assert_eq!(front.content, copy.content);
        assert!(!front.has_tail);
    }
    two_copies(&mended);
});

/// Both places hold the bytes: if they load, they can be written and load as the same.
fn two_copies(bytes: &[u8]) {
    let machine = Machine::new(0);
    machine.replace("manifest.0", bytes);
    machine.replace("manifest.1", bytes);
    let storage: Arc<dyn Storage> = machine.boot();
    let Ok((mut manifest, _)) = Manifest::load(Arc::clone(&storage), None) else {
        return;
    };
    if manifest.content.generation == u64::MAX {
        return; // No writer lives that long.
    }
    manifest.rewrite().expect("a sound disk writes");
    let (again, notes) = Manifest::load(storage, None).expect("what was just written");
    assert_eq!(again.content, manifest.content);
    assert!(notes.damage.is_empty() && !notes.must_rewrite);
}

/// Header and frames with checksums, lengths and generations made to fit; each frame gets one to four items.
fn mend(data: &[u8]) -> Vec<u8> {
    let mut b = data.to_vec();
    if b.len() < HEADER_BYTES {
        return b;
    }
    b[..8].copy_from_slice(b"CDPMAN01");
    put_u32(&mut b, 8, 1);
    let sum = crc_around(&b[..HEADER_BYTES], &[]);
    put_u32(&mut b, 12, sum);
    let id: [u8; 16] = b[16..32].try_into().expect("16 bytes");
    let mut at = HEADER_BYTES;
    let mut generation = 7;
    while b.len() >= at + FRAME_BYTES {
        let frame = &mut b[at..];
        let items = (frame[16] as usize % 4 + 1).min((frame.len() - FRAME_BYTES) / ITEM_BYTES);
        let end = FRAME_BYTES + items * ITEM_BYTES;
        frame[..4].copy_from_slice(b"CDPF");
        put_u64(frame, 8, generation);
        put_u32(frame, 16, (items * ITEM_BYTES) as u32);
        let kind = if at == HEADER_BYTES { 1 } else { u32_at(frame, 20) % 2 + 1 };
        put_u32(frame, 20, kind);
        for item in frame[FRAME_BYTES..end].chunks_exact_mut(ITEM_BYTES) {
            item[0] = item[0] % 5 + 1;
        }
        let sum = crc(&[&frame[8..end], &id]);
        put_u32(frame, 4, sum);
        generation += 1;
        at += end;
    }
    b
}
