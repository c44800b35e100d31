//! What a volume's folder holds, by kind of file.

use std::path::Path;
use std::sync::Arc;

use cdp_engine::journal::manifest::Manifest;
use cdp_engine::storage::Disk;

/// Bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    pub records: u64,
    pub footers: u64,
    pub checkpoints: u64,
    pub merged_runs: u64,
    pub segments: u64,
}

impl Sizes {
    /// What the index adds to the records.
    pub fn index(&self) -> u64 {
        self.footers + self.checkpoints + self.merged_runs
    }

    pub fn parts(&self) -> [(&'static str, u64); 5] {
        [
            ("records", self.records),
            ("footers", self.footers),
            ("checkpoints", self.checkpoints),
            ("merged_runs", self.merged_runs),
            ("index", self.index()),
        ]
    }
}

/// Of a volume's folder, as its manifest names the files.
pub fn of(folder: &Path) -> Result<Sizes, Box<dyn std::error::Error>> {
    let (manifest, _) = Manifest::load(Arc::new(Disk::new(folder)?), None)?;
    let content = manifest.content;
    let sealed = content.segments.values().filter(|s| s.sealed);
    let mut sizes = Sizes {
        checkpoints: content.checkpoints.values().map(|c| c.file_bytes).sum(),
        merged_runs: content.runs.values().map(|run| run.file_bytes).sum(),
        ..Sizes::default()
    };
    for segment in sealed {
        sizes.segments += 1;
        sizes.records += segment.footer_offset;
        sizes.footers += segment.file_bytes - segment.footer_offset;
    }
    Ok(sizes)
}
