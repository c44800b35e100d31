//! Reads that have to wait for the disk.

mod support;

use std::sync::atomic::Ordering::Relaxed;

use cdp_nbd::wire;
use support::*;

const READS: u64 = 20;
const BLOCK: u64 = 4096;

#[test]
fn what_stands_behind_a_read_that_waits_is_asked_for_before_the_wait() {
    for mode in [simple(), structured(), extended()] {
        let (bench, orders) = moody();
        let data = noise((READS * BLOCK) as usize, 3);
        for (index, block) in data.chunks(BLOCK as usize).enumerate() {
            let lsn = bench.volume.write(index as u64 * BLOCK, block).unwrap();
            bench.volume.commit(lsn).unwrap();
        }
        // All requests are there when the first one is looked at.
        let ask = |cookie| request(mode.extended, 0, wire::CMD_READ, cookie, cookie * BLOCK, BLOCK);
        let all: Vec<u8> = (0..READS).flat_map(ask).collect();
        for cold in [false, true] {
            orders.cold.store(cold, Relaxed);
            let mut client = bench.client_of(bench.export(), mode.clone(), all.clone());
            for cookie in 0..READS {
                let block = &data[(cookie * BLOCK) as usize..][..BLOCK as usize];
                assert!(client.read_reply(cookie, cookie * BLOCK, BLOCK) == block);
            }
            let mut asked = std::mem::take(&mut *orders.prefetched.lock().unwrap());
            asked.sort_unstable();
            asked.dedup();
            // Each but the first, once.
            assert_eq!(asked.len() as u64, if cold { READS - 1 } else { 0 });
            assert!(asked.iter().all(|(_, bytes)| *bytes == BLOCK + 4));
        }
    }
}
