//! Writes real batches, manifests and footers as seeds for the fuzz targets: `cargo run --example fuzz_seeds -- FOLDER`.

use std::path::Path;
use std::sync::Arc;

use cdp_engine::journal::manifest::Manifest;
use cdp_engine::journal::segment::file_name;
use cdp_engine::storage::Storage;
use cdp_sim::scenario::draw;
use cdp_sim::story::{Story, VOLUME_BYTES};

/// Bytes of a seed at most: the fuzzer learns faster from short ones.
const SEED_BYTES: usize = 3000;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).expect("the folder of the seeds");
    for (seed, steps) in [(1, 6), (2, 9), (3, 14), (4, 25)] {
        let mut story = Story::begin(seed);
        story.run(&draw(seed, steps, VOLUME_BYTES));
        story.commit(true, seed);
        story.flush();
        save(&folder, "manifest", seed, &story.machine.contents("manifest.0").unwrap_or_default())?;
        assert!(story.close());
        let storage: Arc<dyn Storage> = story.machine.boot();
        let (manifest, _) = Manifest::load(storage, None).expect("a whole manifest");
        let Some(item) = manifest.content.segments.values().find(|item| item.sealed) else {
            continue;
        };
        let bytes = story.machine.contents(&file_name(item.id)).unwrap_or_default();
        save(&folder, "record", seed, &bytes[4096..])?;
        save(&folder, "footer", seed, &footer(&bytes[item.footer_offset as usize..]))?;
    }
    Ok(())
}

/// The shape that the footer's target takes: counts and lengths, one block, the sections' bytes.
fn footer(bytes: &[u8]) -> Vec<u8> {
    let used = usize::from(u16::from_le_bytes([bytes[6], bytes[7]])).min(255);
    let mut seed = vec![1, 0, used as u8, 8, 24, 0, 24, 1, 40, 0];
    seed.extend_from_slice(&bytes[..used]);
    seed.extend_from_slice(&bytes[4096..][..200]);
    seed
}

fn save(folder: &str, target: &str, seed: u64, bytes: &[u8]) -> std::io::Result<()> {
    let folder = Path::new(folder).join(target);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("story-{seed}")), &bytes[..bytes.len().min(SEED_BYTES)])
}
