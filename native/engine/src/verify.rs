//! Checking every byte of a volume: manifests, segment headers, batches, echoes, payloads, the bytes between, and the index against what the
//! batches say. Nothing is changed. May run beside writes. In which order, from where and how fast: scrub.rs.

use crate::error::{Error, Kind, Result};
use crate::full::RESERVE;
use crate::index::checkpoint::{self, Builder, Checkpoint, SHARD_SECTORS};
use crate::index::footer::{self, Site};
use crate::index::map::At;
use crate::index::sealed::Sealed;
use crate::journal::batch::{Meta, RecordKind};
use crate::journal::compacted;
use crate::journal::manifest::{CheckpointItem, Manifest, SegmentItem};
use crate::journal::payload;
use crate::journal::recover;
use crate::journal::scan::{is_zero, payload_is_intact, scan, Scan, Window};
use crate::journal::segment::{check_header, file_name, OpenSegment, FIRST_BATCH};
use crate::maintain::crc_of_range;
use crate::scrub::{self, Position, Reads};
use crate::storage::File;
use crate::units::{Lsn, SegmentId, PAGE, SECTOR};
use crate::volume::Volume;

/// What stands in a volume's folder beside the files that the manifest names (docs/format.md, "The store").
const OTHER_FILES: [&str; 8] =
    ["manifest.0", "manifest.1", "volume.0", "volume.1", "lock", RESERVE, "verify.json", "verify.json.tmp"];

/// Something that is not as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    pub file: String,
    pub what: String,
    pub segment: Option<SegmentId>,
    pub lsn: Option<Lsn>,
    /// The bytes of the volume that cannot be read because of it.
    pub offset: Option<u64>,
    pub bytes: Option<u64>,
    /// Nothing is lost: another copy holds the same.
    pub repairable: bool,
    /// The first LSN after which those bytes are not seen any more, on the branch of the record; None: not known, or its end sees them.
    pub until: Option<Lsn>,
    /// Whether the live volume shows them.
    pub live: Option<bool>,
}

impl Volume {
    /// All that is damaged, file by file. `progress(done, total)` in bytes; an error of its ends the work.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        self.scrub(Position::default(), None, &mut |told| {
            findings.extend(told.found);
            progress(told.done, told.total)
        })?;
        Ok(findings)
    }

    /// Bytes of the journal's files.
    pub fn journal_bytes(&self) -> Result<u64> {
        let sealed: u64 = self.index.sealed().iter().map(|s| s.item.file_bytes).sum();
        let open = self.open_segments();
        let lengths = open.iter().map(|segment| segment.file.len().unwrap_or(0));
        Ok(sealed + lengths.sum::<u64>())
    }

    pub(crate) fn verify_manifest(&self) -> Result<Vec<Finding>> {
        // The lock keeps a commit from being half done.
        let _guard = self.manifest.lock();
        let (_, notes) = Manifest::load(self.storage.clone(), Some(self.id))?;
        let finding = |what: String| Finding {
            file: what.split(':').next().unwrap_or("manifest").to_owned(),
            what,
            repairable: true,
            ..Finding::default()
        };
        Ok(notes.damage.into_iter().map(finding).collect())
    }

    pub(crate) fn verify_sealed(
        &self,
        sealed: &Sealed,
        reads: Option<&Reads>,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let item = &sealed.item;
        let mut check = Check { id: item.id, findings };
        let file = match self.index.files.get(item.id.0) {
            Ok(file) => file,
            Err(e) if e.kind == Kind::Corrupt => {
                check.add(format!("it is missing: records {} to {}", item.first_lsn, item.last_lsn));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let length = file.len().map_err(|e| Error::io("stat", &file_name(item.id), &e))?;
        if length != item.file_bytes {
            check.add(format!("it has {length} bytes instead of {}", item.file_bytes));
        }
        let open = scrub::from_disk(item.id, item.nonce, file, reads);
        self.check_header_page(&open, item.first_lsn.0, &mut check)?;
        let checked = match item.compacted {
            true => self.verify_compacted(&open, item, &mut check),
            false => self.verify_batches(&open, item, &mut check),
        };
        open.file.drop_cache();
        checked
    }

    fn verify_batches(&self, open: &OpenSegment, item: &SegmentItem, check: &mut Check<'_>) -> Result<()> {
        let (table, tail_offset, scanned) = recover::sealed_walk(open, item, &self.facts)?;
        check.scan(&scanned);
        check.echoes(&scanned);
        check.gaps(open, &scanned, item.last_lsn)?;
        let damaged_control = check.payloads(open, &scanned, &self.facts, item.last_lsn)?;
        if !damaged_control {
            let site = self.site(open, item, tail_offset)?;
            check.footer(&*open.file, &footer::build(&table, item.nonce, site), item.footer_offset, item.file_bytes)?;
        }
        Ok(())
    }

    fn site(&self, open: &OpenSegment, item: &SegmentItem, tail_offset: u64) -> Result<Site> {
        let tail_crc = crc_of_range(&*open.file, tail_offset, item.footer_offset);
        let tail_crc = tail_crc.map_err(|e| Error::io("read", &file_name(item.id), &e))?;
        Ok(Site { offset: item.footer_offset, tail_offset, tail_crc })
    }

    fn verify_compacted(&self, open: &OpenSegment, item: &SegmentItem, check: &mut Check<'_>) -> Result<()> {
        let contents = compacted::read(open, item, &self.facts)?;
        for at in &contents.damaged {
            check.add_repairable(format!("the directory at offset {at} is damaged; the footer has the same"));
        }
        let mut window = Window::new(&*open.file);
        let mut damaged_control = false;
        for row in &contents.rows {
            let stored = window.get(row.offset, row.stored as usize);
            let stored = stored.map_err(|e| Error::io("read", &file_name(item.id), &e))?;
            let nonce = self.facts.nonce_of(row.lsn);
            if row.kind == RecordKind::Damaged {
                check.lost(row.lsn, row.start, row.sectors);
                continue;
            }
            if row.stored == 0 || stored.is_some_and(|b| payload::is_intact(b, nonce, row.lsn, row.start)) {
                continue;
            }
            damaged_control |= row.kind != RecordKind::Data;
            check.push(Finding {
                what: format!("the payload of record {} at offset {} is damaged", row.lsn, row.offset),
                lsn: Some(Lsn(row.lsn)),
                offset: (row.sectors > 0).then_some(row.start * SECTOR),
                bytes: (row.sectors > 0).then_some(row.sectors * SECTOR),
                ..Finding::default()
            });
        }
        if !damaged_control && contents.damaged.is_empty() {
            let site = self.site(open, item, contents.tail_offset)?;
            let expected = footer::build(&contents.table, item.nonce, site);
            check.footer(&*open.file, &expected, item.footer_offset, item.file_bytes)?;
        }
        Ok(())
    }

    /// A checkpoint against the map that the segments give.
    pub(crate) fn verify_checkpoint(&self, item: &CheckpointItem, findings: &mut Vec<Finding>) -> Result<()> {
        if let Some(what) = self.checkpoint_damage(item)? {
            let file = checkpoint::file_name(item.id);
            findings.push(Finding { file, what, repairable: true, ..Finding::default() });
        }
        Ok(())
    }

    fn checkpoint_damage(&self, item: &CheckpointItem) -> Result<Option<String>> {
        let name = checkpoint::file_name(item.id);
        let io = |e: std::io::Error| Error::io("read", &name, &e);
        let file = match self.storage.open(&name, false) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Some("it is missing".into())),
            other => other.map_err(io)?,
        };
        let length = file.len().map_err(io)?;
        if length != item.file_bytes {
            return Ok(Some(format!("it has {length} bytes instead of {}", item.file_bytes)));
        }
        file.drop_cache();
        let mut bytes = vec![0u8; length as usize];
        let got = file.read_at(&mut bytes, 0).map_err(io)?;
        if got < bytes.len() || bytes.len() < PAGE as usize {
            return Ok(Some("it ends early".into()));
        }
        // At a base each timeline that begins there may have written it.
        let of = |writer: &[u8; 16]| checkpoint::check_header(&bytes, writer, item);
        let writer = self.facts.family().find(|writer| of(writer).is_ok()).unwrap_or(&self.id);
        if let Err(what) = of(writer) {
            return Ok(Some(what));
        }
        let tail = match checkpoint::read_tail(&*file, item) {
            Ok(tail) => tail,
            Err(e) if e.kind == Kind::Corrupt => return Ok(Some(e.message)),
            Err(e) => return Err(e),
        };
        let path = self.index.path(At::Lsn(item.lsn.0));
        if self.index.sealed().iter().any(|s| s.item.compacted && s.item.first_lsn <= item.lsn) {
            // Its places are hints by now, and what no instant sees is gone: the rows can be read, and an instant must find all of them.
            return self.checkpoint_rows_damage(item, &tail, &bytes);
        }
        let mut builder = Builder::new(&self.id, item.id, item.nonce, 0, 0);
        for row in &tail.rows {
            builder.push(row.shard, self.index.flatten_shard_anew(row.shard, &path)?);
        }
        let differs = first_difference(&bytes, &builder.finish(item.lsn.0, &tail.controls));
        Ok(differs.map(|at| format!("it differs from what the segments say, at offset {at}")))
    }

    fn checkpoint_rows_damage(
        &self,
        item: &CheckpointItem,
        tail: &checkpoint::Tail,
        bytes: &[u8],
    ) -> Result<Option<String>> {
        let path = self.index.path(At::Lsn(item.lsn.0));
        let (opened, _) = Checkpoint::open(&self.index.files, *item)?;
        let mut builder = Builder::new(&self.id, item.id, item.nonce, 0, 0);
        for row in &tail.rows {
            let mut versions = Vec::new();
            let range = (row.shard * SHARD_SECTORS, (row.shard + 1) * SHARD_SECTORS);
            if let Err(what) = opened.collect(&self.index.files, range, &mut versions) {
                return Ok(what);
            }
            builder.push(row.shard, versions.clone());
            if self.instant_of(item.lsn).is_err() {
                continue;
            }
            let said = self.index.flatten_hints(row.shard, versions)?;
            if said != self.index.flatten_shard_anew(row.shard, &path)? {
                return Ok(Some(format!("shard {} differs from what the segments say", row.shard)));
            }
        }
        // What it says can be read; bytes that say nothing may be damaged.
        let differs = first_difference(bytes, &builder.finish(item.lsn.0, &tail.controls));
        Ok(differs.map(|at| format!("a byte that holds nothing is damaged, at offset {at}")))
    }

    /// Segments that are not sealed: what stands below the writer's end.
    pub(crate) fn verify_open(&self, findings: &mut Vec<Finding>) -> Result<()> {
        let published = Lsn(self.index.published());
        for segment in self.open_segments() {
            let mut check = Check { id: segment.id, findings };
            self.check_header_page(&segment, u64::MAX, &mut check)?;
            let end = self.writer.lock().as_ref().filter(|w| w.segment.id == segment.id).map(|w| w.offset());
            let scanned = scan(&segment, end)?;
            if !self.read_only {
                check.scan(&scanned);
            }
            check.payloads(&segment, &scanned, &self.facts, published)?;
        }
        Ok(())
    }

    fn open_segments(&self) -> Vec<OpenSegment> {
        let open: Vec<_> = self.manifest.lock().content.segments.values().filter(|s| !s.sealed).cloned().collect();
        let opened = open.into_iter().filter_map(|item| {
            let file = self.index.files.get(item.id.0).ok()?;
            Some(OpenSegment { id: item.id, nonce: item.nonce, file })
        });
        opened.collect()
    }

    fn check_header_page(&self, segment: &OpenSegment, first_lsn: u64, check: &mut Check<'_>) -> Result<()> {
        let mut page = [0u8; PAGE as usize];
        let got = segment.file.read_at(&mut page, 0).map_err(|e| Error::io("read", &file_name(segment.id), &e))?;
        if let Err(what) = check_header(&page[..got], self.facts.writer_of(first_lsn), segment.id, segment.nonce) {
            check.add_repairable(what);
        }
        Ok(())
    }

    /// A writer, this one or the one beside whom we look, names files after it has made them.
    fn is_in_the_making(&self, name: &str) -> bool {
        let prefixes = ["segment-", "checkpoint-", "run-"];
        prefixes.iter().zip(self.opening_ids).any(|(prefix, next)| {
            let id = name.strip_prefix(prefix).and_then(|digits| u32::from_str_radix(digits, 16).ok());
            id.is_some_and(|id| id >= next)
        })
    }

    pub(crate) fn verify_names(&self, findings: &mut Vec<Finding>) -> Result<()> {
        let manifest = self.manifest.lock();
        let named = manifest.content.file_names();
        let names = self.storage.list().map_err(|e| Error::io("list", "the volume's folder", &e))?;
        let known =
            |name: &String| named.contains(name) || self.is_in_the_making(name) || OTHER_FILES.contains(&name.as_str());
        for name in names.into_iter().filter(|name| !known(name)) {
            let what = "no manifest names this file; the next writer removes it if it is a crash's".to_owned();
            findings.push(Finding { file: name, what, repairable: true, ..Finding::default() });
        }
        Ok(())
    }
}

/// Where a checkpoint differs from the bytes that it should have; its header, which was looked at, has times of its own.
fn first_difference(bytes: &[u8], expected: &[u8]) -> Option<usize> {
    let page = PAGE as usize;
    let same = bytes[page..].iter().zip(&expected[page..]).take_while(|(a, b)| a == b).count();
    (page + same < bytes.len().max(expected.len())).then_some(page + same)
}

/// The findings of one segment.
struct Check<'a> {
    id: SegmentId,
    findings: &'a mut Vec<Finding>,
}

impl Check<'_> {
    fn push(&mut self, finding: Finding) {
        self.findings.push(Finding { file: file_name(self.id), segment: Some(self.id), ..finding });
    }

    fn add(&mut self, what: String) {
        self.push(Finding { what, ..Finding::default() });
    }

    fn add_repairable(&mut self, what: String) {
        self.push(Finding { what, repairable: true, ..Finding::default() });
    }

    /// What was found damaged before, and carried on as such.
    fn lost(&mut self, lsn: u64, start: u64, sectors: u64) {
        self.push(Finding {
            what: format!("a payload of record {lsn} was lost before this segment was written"),
            lsn: Some(Lsn(lsn)),
            offset: Some(start * SECTOR),
            bytes: Some(sectors * SECTOR),
            ..Finding::default()
        });
    }

    fn scan(&mut self, scanned: &Scan) {
        for (at, _) in &scanned.from_echo {
            self.add_repairable(format!("the directory at offset {at} is damaged; its echo stands in"));
        }
        for (at, _) in &scanned.bad_echoes {
            self.add_repairable(format!("an echo in or of the batch at offset {at} is damaged"));
        }
    }

    /// Every batch with entries was written a second time, if a batch in a later page follows.
    fn echoes(&mut self, scanned: &Scan) {
        for (i, meta) in scanned.metas.iter().enumerate().filter(|(_, meta)| !meta.entries.is_empty()) {
            let offset = u64::from(meta.header.offset);
            let last_page = (offset + meta.header.meta_bytes() as u64 - 1) / PAGE;
            let due = scanned.metas[i + 1..].iter().any(|later| u64::from(later.header.offset) / PAGE > last_page);
            if due && !scanned.echoed.contains(&offset) {
                self.add_repairable(format!("the echo of the batch at offset {offset} is missing"));
            }
        }
    }

    /// Bytes between batches are zero.
    fn gaps(&mut self, segment: &OpenSegment, scanned: &Scan, last: Lsn) -> Result<()> {
        let mut window = Window::new(&*segment.file);
        let mut at = FIRST_BATCH;
        for meta in scanned.metas.iter().filter(|m| m.header.first_lsn <= last.0 + 1) {
            let start = u64::from(meta.header.offset);
            if start > at && !is_zero(&mut window, at, start).map_err(|e| Error::io("read", &file_name(self.id), &e))? {
                self.add_repairable(format!("bytes {at} to {start}, which hold nothing, are not zero"));
            }
            at = at.max(meta.header.end());
        }
        Ok(())
    }

    /// True if the payload of a control record is damaged.
    fn payloads(&mut self, segment: &OpenSegment, scanned: &Scan, facts: &recover::Volume, last: Lsn) -> Result<bool> {
        let mut window = Window::new(&*segment.file);
        let mut damaged_control = false;
        let mut previous: Option<&Meta> = None;
        for meta in &scanned.metas {
            if previous.is_some_and(|p| p.last_lsn() < meta.header.previous_lsn) && meta.header.previous_lsn <= last.0 {
                self.add(format!(
                    "records up to {} are lost with both copies of their directory",
                    meta.header.previous_lsn
                ));
            }
            previous = Some(meta);
            for placed in meta.placed().filter(|p| p.lsn <= last.0) {
                let intact = payload_is_intact(&mut window, &placed, facts.nonce_of(placed.lsn));
                if intact.map_err(|e| Error::io("read", &file_name(self.id), &e))? {
                    continue;
                }
                let covers = placed.entry.kind.covers();
                damaged_control |= !covers;
                self.push(Finding {
                    what: format!("the payload at offset {} is damaged", placed.offset),
                    lsn: Some(Lsn(placed.lsn)),
                    offset: covers.then_some(placed.entry.start * SECTOR),
                    bytes: covers.then_some(placed.entry.sectors * SECTOR),
                    ..Finding::default()
                });
            }
        }
        Ok(damaged_control)
    }

    fn footer(&mut self, file: &dyn File, expected: &[u8], offset: u64, end: u64) -> Result<()> {
        let mut stored = vec![0u8; expected.len()];
        let got = file.read_at(&mut stored, offset).map_err(|e| Error::io("read", &file_name(self.id), &e))?;
        let same = stored[..got].iter().zip(expected).take_while(|(a, b)| a == b).count();
        if same < expected.len() || offset + expected.len() as u64 != end {
            let at = offset + same as u64;
            self.add_repairable(format!("the footer differs from what the batches say, at offset {at}"));
        }
        Ok(())
    }
}
