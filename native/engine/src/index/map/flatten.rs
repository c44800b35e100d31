//! The one-version map of a shard: what a checkpoint says, and what it is compared with.

use std::collections::BTreeMap;

use super::Index;
use crate::error::Result;
use crate::index::checkpoint::{self, SHARD_SECTORS};
use crate::index::leaf::{Leaf, Mapped};
use crate::index::sealed::SealedSet;
use crate::index::{Version, LEAF_SECTORS};
use crate::path::Path;

impl Index {
    /// The one-version map of a shard on `path`, of what is sealed: what a checkpoint says.
    pub fn flatten_shard(&self, shard: u64, path: &Path) -> Result<Vec<Version>> {
        let settled = self.inner.lock().settled();
        let mut versions = Vec::new();
        self.collect_sealed(&settled, shard_range(shard), path, &mut versions)?;
        self.flatten(shard, versions, &settled.sealed)
    }

    /// The same without a look into any checkpoint. In memory are the map, 20 bytes an extent, and the versions of one segment at a time.
    pub fn flatten_shard_anew(&self, shard: u64, path: &Path) -> Result<Vec<Version>> {
        let sealed = self.sealed();
        let mut leaves = BTreeMap::new();
        let mut versions = Vec::new();
        for segment in sealed.iter().filter(|s| path.meets(s.item.first_lsn.0, s.item.last_lsn.0)) {
            versions.clear();
            segment.collect(&self.files, shard_range(shard), path, &mut versions)?;
            versions.sort_unstable_by_key(|v| v.lsn);
            checkpoint::lay(&mut leaves, shard, &versions, |segment| self.first_lsn(segment));
        }
        self.map_of(leaves, &sealed)
    }

    /// What a checkpoint says of a shard, with places as they are now.
    pub fn flatten_hints(&self, shard: u64, mut versions: Vec<Version>) -> Result<Vec<Version>> {
        let sealed = self.sealed();
        sealed.hint(&mut versions);
        self.flatten(shard, versions, &sealed)
    }

    fn flatten(&self, shard: u64, mut versions: Vec<Version>, sealed: &SealedSet) -> Result<Vec<Version>> {
        versions.sort_unstable_by_key(|v| v.lsn);
        let by_leaf = checkpoint::by_leaf(shard, &versions);
        let paint = |(number, versions): (u64, Vec<Version>)| {
            (number, Leaf::paint(number, &versions, |version| self.segment_lsn(version)))
        };
        self.map_of(by_leaf.into_iter().map(paint).collect(), sealed)
    }

    fn map_of(&self, leaves: BTreeMap<u64, Leaf>, sealed: &SealedSet) -> Result<Vec<Version>> {
        let mut mapped: Vec<Mapped> = Vec::new();
        for (number, mut leaf) in leaves {
            self.settle(&mut leaf, number, sealed)?;
            let (start, end) = (number * LEAF_SECTORS, (number + 1) * LEAF_SECTORS);
            leaf.mapped(number, start, end, |segment| self.first_lsn(segment), &mut mapped);
        }
        let version = |m: Mapped| Version { start: m.start, sectors: m.sectors, lsn: m.lsn, place: m.place };
        Ok(mapped.into_iter().map(version).collect())
    }
}

fn shard_range(shard: u64) -> (u64, u64) {
    (shard * SHARD_SECTORS, (shard + 1) * SHARD_SECTORS)
}
