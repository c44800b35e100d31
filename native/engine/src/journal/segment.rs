//! A segment's name, header and the file behind it (docs/format.md, "Segments").

use std::sync::Arc;

use crate::codec::*;
use crate::error::{Error, Result};
use crate::storage::{File, Storage};
use crate::units::{SegmentId, PAGE};

/// Of segments as they are written by clients, their footers, and checkpoints.
pub const FORMAT_VERSION: u32 = 1;
/// Of compacted segments, and the largest that this program knows.
pub const COMPACTED_VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"CDPSEG01";

/// Offset of the first batch.
pub const FIRST_BATCH: u64 = PAGE;

pub fn file_name(id: SegmentId) -> String {
    format!("segment-{:08x}", id.0)
}

/// A segment whose file is open.
#[derive(Clone)]
pub struct OpenSegment {
    pub id: SegmentId,
    pub nonce: u64,
    pub file: Arc<dyn File>,
}

/// The header page of a segment file.
pub fn encode_header(volume: &[u8; 16], id: SegmentId, nonce: u64, epoch: u64, created: u64) -> Vec<u8> {
    encode_page_header(MAGIC, volume, id.0, nonce, epoch, created)
}

/// The header page of a compacted segment.
pub fn encode_compacted_header(volume: &[u8; 16], id: SegmentId, nonce: u64, epoch: u64, created: u64) -> Vec<u8> {
    let mut b = encode_page_header(MAGIC, volume, id.0, nonce, epoch, created);
    put_u32(&mut b, 8, COMPACTED_VERSION);
    let sum = crc_around(&b);
    put_u32(&mut b, 12, sum);
    b
}

/// The first page of a segment or checkpoint: who it belongs to.
pub fn encode_page_header(
    magic: &[u8; 8],
    volume: &[u8; 16],
    id: u32,
    nonce: u64,
    epoch: u64,
    created: u64,
) -> Vec<u8> {
    let mut b = vec![0u8; PAGE as usize];
    b[..8].copy_from_slice(magic);
    put_u32(&mut b, 8, FORMAT_VERSION);
    b[16..32].copy_from_slice(volume);
    put_u32(&mut b, 32, id);
    put_u64(&mut b, 40, nonce);
    put_u64(&mut b, 48, epoch);
    put_u64(&mut b, 56, created);
    let sum = crc_around(&b);
    put_u32(&mut b, 12, sum);
    b
}

/// Checks a header page against what the manifest says. Err names what does not fit.
pub fn check_header(b: &[u8], volume: &[u8; 16], id: SegmentId, nonce: u64) -> std::result::Result<(), String> {
    if b.len() < PAGE as usize {
        return Err("it ends inside its header".into());
    }
    if &b[..8] != MAGIC {
        return Err("it is not a segment".into());
    }
    if u32_at(b, 12) != crc_around(&b[..PAGE as usize]) {
        return Err("its header's checksum does not fit".into());
    }
    if u32_at(b, 8) == 0 || u32_at(b, 8) > COMPACTED_VERSION {
        return Err(format!("its format version is {}, this reader knows {COMPACTED_VERSION}", u32_at(b, 8)));
    }
    if &b[16..32] != volume || u32_at(b, 32) != id.0 || u64_at(b, 40) != nonce {
        return Err("it belongs to another volume or another use of the file".into());
    }
    Ok(())
}

/// Makes a segment file and writes its header; durable when this returns, its name included.
pub fn create(
    storage: &dyn Storage,
    volume: &[u8; 16],
    id: SegmentId,
    epoch: u64,
    sync_folder: bool,
) -> Result<OpenSegment> {
    let name = file_name(id);
    let nonce = storage.nonce();
    let made = || -> std::io::Result<Arc<dyn File>> {
        // A file of this name is not in the manifest: an attempt before this one left it.
        let file = match storage.create(&name) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                storage.remove(&name)?;
                storage.create(&name)?
            }
            other => other?,
        };
        file.write_at(&encode_header(volume, id, nonce, epoch, storage.now()), 0)?;
        file.sync()?;
        if sync_folder {
            storage.sync_folder()?;
        }
        Ok(file)
    };
    match made() {
        Ok(file) => Ok(OpenSegment { id, nonce, file }),
        Err(e) => {
            // Best effort: a leftover is not named by any manifest and is removed at the next opening.
            let _ = storage.remove(&name);
            Err(Error::io("create", &name, &e))
        }
    }
}

pub fn open(storage: &dyn Storage, id: SegmentId, nonce: u64, write: bool) -> Result<OpenSegment> {
    Ok(OpenSegment { id, nonce, file: open_file(storage, id, write)? })
}

/// Opens a segment's file. Corrupt if it is missing: the manifest names it. Invalid if a later version of the format wrote it.
pub fn open_file(storage: &dyn Storage, id: SegmentId, write: bool) -> Result<Arc<dyn File>> {
    let name = file_name(id);
    let file = storage.open(&name, write).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::corrupt(format!("{name} is missing")),
        _ => Error::io("open", &name, &e),
    })?;
    let mut page = [0u8; PAGE as usize];
    let got = file.read_at(&mut page, 0).map_err(|e| Error::io("read", &name, &e))?;
    let checked = got == page.len() && &page[..8] == MAGIC && u32_at(&page, 12) == crc_around(&page);
    if checked && u32_at(&page, 8) > COMPACTED_VERSION {
        let version = u32_at(&page, 8);
        return Err(Error::invalid(format!(
            "{name}: format version {version}; this program knows {COMPACTED_VERSION}"
        )));
    }
    Ok(file)
}
