//! The journal: batches in segments, named by a manifest.

pub mod batch;
pub mod compacted;
pub mod manifest;
pub mod payload;
pub mod recover;
pub mod scan;
pub mod segment;
pub mod writer;
