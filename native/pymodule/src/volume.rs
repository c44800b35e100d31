//! Volumes and instants.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::timeline::Interval;
use cdp_engine::{Error, Fork, FullPolicy, Instant, Lsn, Options, Stamp, Volume, Zeroing};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::raise;
use crate::origin;
use crate::scrub;
use crate::view::{with_progress, PyView};

fn disk(folder: &str) -> Result<Arc<Disk>, Error> {
    Ok(Arc::new(Disk::new(Path::new(folder)).map_err(|e| Error::io("open", folder, &e))?))
}

/// The id that a folder's name says, in 32 lower-case hex digits.
fn id_of(folder: &str) -> Option<[u8; 16]> {
    let name = Path::new(folder).file_name()?.to_str()?;
    let is_id = name.len() == 32 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_id.then(|| u128::from_str_radix(name, 16).ok().map(u128::to_be_bytes))?
}

/// Lays an empty journal into an existing folder.
#[pyfunction]
pub fn create(py: Python<'_>, folder: &str, volume_id: &[u8], size: u64, created: u64) -> PyResult<()> {
    let id = <[u8; 16]>::try_from(volume_id).map_err(|_| raise(Error::invalid("a volume's id has 16 bytes")))?;
    py.detach(|| Volume::create(disk(folder)?, id, size, Stamp(created))).map_err(raise)
}

/// Minute, data records, zero and trim records, raw bytes, stored bytes.
type ActivityRow = (u64, u64, u64, u64, u64);
/// Begin, data records, zero and trim records, raw, stored and distinct bytes, flush points, the last of them.
type IntervalRow = (u64, u64, u64, u64, u64, Option<u64>, u64, Option<u64>);

#[pyclass(name = "Instant", module = "cdp._native", frozen, get_all)]
pub struct PyInstant {
    lsn: u64,
    stamp: u64,
    clock_epoch: u32,
    other: Option<u64>,
}

impl From<Instant> for PyInstant {
    fn from(instant: Instant) -> PyInstant {
        let Instant { lsn, stamp, clock_epoch, other } = instant;
        PyInstant { lsn: lsn.0, stamp: stamp.0, clock_epoch, other: other.map(|lsn| lsn.0) }
    }
}

#[pymethods]
impl PyInstant {
    fn __repr__(&self) -> String {
        format!("Instant(lsn={}, stamp={}, clock_epoch={})", self.lsn, self.stamp, self.clock_epoch)
    }
}

#[pyclass(name = "Volume", module = "cdp._native", frozen)]
pub struct PyVolume {
    pub volume: Arc<Volume>,
    folder: PathBuf,
}

#[pymethods]
impl PyVolume {
    #[staticmethod]
    #[pyo3(signature = (folder, *, read_only = false, origin_path = None, origin_reader = None, cache_bytes = 134_217_728))]
    fn open(
        py: Python<'_>,
        folder: &str,
        read_only: bool,
        origin_path: Option<&str>,
        origin_reader: Option<&Bound<'_, PyAny>>,
        cache_bytes: usize,
    ) -> PyResult<PyVolume> {
        let origin = match (origin_path, origin_reader) {
            (Some(path), _) => Some(origin::open_file(path).map_err(raise)?),
            (None, Some(reader)) => Some(origin::open_python(reader)?),
            (None, None) => None,
        };
        let options = Options { cache_bytes, volume_id: id_of(folder), ..Options::default() };
        let opened = py.detach(|| {
            let disk = disk(folder)?;
            if read_only {
                Volume::open_read_only(disk, origin, options)
            } else {
                Volume::open(disk, origin, options)
            }
        });
        Ok(PyVolume { volume: opened.map_err(raise)?, folder: folder.into() })
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.volume.close()).map_err(raise)
    }

    #[getter]
    fn size(&self) -> u64 {
        self.volume.size()
    }

    #[getter]
    fn read_only(&self) -> bool {
        self.volume.is_read_only()
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (status, journal_bytes) = py.detach(|| (self.volume.status(), self.volume.journal_bytes()));
        let oldest = self.volume.oldest();
        let facts = PyDict::new(py);
        facts.set_item("size", status.size)?;
        facts.set_item("created", status.created.0)?;
        facts.set_item("epoch", status.epoch)?;
        facts.set_item("clock_epoch", status.clock_epoch)?;
        facts.set_item("oldest_lsn", oldest.lsn.0)?;
        facts.set_item("oldest_stamp", oldest.stamp.0)?;
        facts.set_item("latest_lsn", status.latest.0)?;
        facts.set_item("latest_stamp", status.latest_stamp.0)?;
        facts.set_item("durable_lsn", status.durable.0)?;
        facts.set_item("segments", status.segments)?;
        facts.set_item("payloads", status.payloads.0)?;
        facts.set_item("payloads_raw", status.payloads.1)?;
        facts.set_item("journal_bytes", journal_bytes.map_err(raise)?)?;
        facts.set_item("poisoned", status.poisoned)?;
        let [bytes, requests] = status.ring;
        facts.set_item("ring_bytes", bytes.0)?;
        facts.set_item("ring_bytes_max", bytes.1)?;
        facts.set_item("ring_requests", requests.0)?;
        facts.set_item("ring_requests_max", requests.1)?;
        facts.set_item("read_only", status.read_only)?;
        facts.set_item("clean", status.was_clean)?;
        facts.set_item("cached_extents", status.cached_extents)?;
        facts.set_item("cached_bytes", status.cached_bytes)?;
        Ok(facts)
    }

    fn latest(&self, py: Python<'_>) -> PyResult<PyInstant> {
        let instant = py.detach(|| self.volume.instant_of(self.volume.latest().0));
        instant.map(PyInstant::from).map_err(raise)
    }

    fn oldest(&self) -> PyInstant {
        self.volume.oldest().into()
    }

    fn instant_of_lsn(&self, py: Python<'_>, lsn: u64) -> PyResult<PyInstant> {
        py.detach(|| self.volume.instant_of(Lsn(lsn))).map(PyInstant::from).map_err(raise)
    }

    fn instant_at(&self, py: Python<'_>, stamp: u64) -> PyResult<PyInstant> {
        py.detach(|| self.volume.instant_at(Stamp(stamp))).map(PyInstant::from).map_err(raise)
    }

    fn view(&self, py: Python<'_>, lsn: u64) -> PyResult<PyView> {
        Ok(PyView { view: py.detach(|| self.volume.view(Lsn(lsn))).map_err(raise)? })
    }

    fn live(&self) -> PyView {
        PyView { view: self.volume.live() }
    }

    fn write(&self, py: Python<'_>, offset: u64, data: &[u8]) -> PyResult<u64> {
        py.detach(|| self.commit(self.volume.write(offset, data)?)).map_err(raise)
    }

    #[pyo3(signature = (offset, length, trim = false))]
    fn zero(&self, py: Python<'_>, offset: u64, length: u64, trim: bool) -> PyResult<u64> {
        let how = if trim { Zeroing::Trim } else { Zeroing::Zero };
        py.detach(|| self.commit(self.volume.zero(offset, length, how)?)).map_err(raise)
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.volume.flush()).map_err(raise)
    }

    fn append_control(&self, py: Python<'_>, document: &[u8]) -> PyResult<u64> {
        let append = || {
            let lsn = self.commit(self.volume.control(document)?)?;
            self.volume.sync_to(Lsn(lsn))?;
            Ok(lsn)
        };
        py.detach(append).map_err(raise)
    }

    fn controls<'py>(&self, py: Python<'py>) -> Vec<(u64, u64, Bound<'py, PyBytes>)> {
        let controls = py.detach(|| self.volume.controls());
        controls.iter().map(|c| (c.lsn, c.stamp, PyBytes::new(py, &c.document))).collect()
    }

    fn activity(&self, py: Python<'_>, since_lsn: u64, until_lsn: u64) -> PyResult<Vec<ActivityRow>> {
        let rows = py.detach(|| self.volume.activity(Lsn(since_lsn), Lsn(until_lsn))).map_err(raise)?;
        Ok(rows.iter().map(|a| (a.minute, a.data_records, a.zero_records, a.raw_bytes, a.stored_bytes)).collect())
    }

    fn flush_points(&self, py: Python<'_>, since_lsn: u64, until_lsn: u64) -> PyResult<Vec<u64>> {
        let points = py.detach(|| self.volume.flush_points(Lsn(since_lsn), Lsn(until_lsn))).map_err(raise)?;
        Ok(points.into_iter().map(|lsn| lsn.0).collect())
    }

    fn timeline(
        &self,
        py: Python<'_>,
        since_lsn: u64,
        until_lsn: u64,
        length: u64,
    ) -> PyResult<(u64, Vec<IntervalRow>)> {
        let told = py.detach(|| self.volume.timeline(Lsn(since_lsn), Lsn(until_lsn), length)).map_err(raise)?;
        let row = |it: &Interval| {
            let last_flush = it.last_flush.map(|lsn| lsn.0);
            let (records, bytes) = ((it.data_records, it.zero_records), (it.raw_bytes, it.stored_bytes));
            (it.stamp, records.0, records.1, bytes.0, bytes.1, it.distinct_bytes, it.flush_points, last_flush)
        };
        Ok((told.length, told.intervals.iter().map(row).collect()))
    }

    fn stamps(&self, py: Python<'_>, lsns: Vec<u64>) -> PyResult<Vec<(u64, u64)>> {
        let lsns: Vec<Lsn> = lsns.into_iter().map(Lsn).collect();
        let found = py.detach(|| self.volume.stamps(&lsns)).map_err(raise)?;
        Ok(found.into_iter().map(|(lsn, stamp)| (lsn.0, stamp.0)).collect())
    }

    fn rollback(&self, py: Python<'_>, to_lsn: u64) -> PyResult<u64> {
        py.detach(|| self.volume.rollback(Lsn(to_lsn))).map(|lsn| lsn.0).map_err(raise)
    }

    fn last_rollback(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        py.detach(|| self.volume.last_rollback()).map(|(lsn, before)| (lsn.0, before.0)).map_err(raise)
    }

    fn fork(&self, py: Python<'_>, base: u64, folder: &str, new_id: &[u8], created: u64) -> PyResult<()> {
        let id = <[u8; 16]>::try_from(new_id).map_err(|_| raise(Error::invalid("a volume's id has 16 bytes")))?;
        let link = |name: &str| std::fs::hard_link(self.folder.join(name), Path::new(folder).join(name));
        let fork = || {
            let fork = Fork { id, created: Stamp(created), target: disk(folder)?, link: &link };
            self.volume.fork(Lsn(base), &fork)
        };
        py.detach(fork).map_err(raise)
    }

    fn resize(&self, py: Python<'_>, size: u64) -> PyResult<Option<u64>> {
        py.detach(|| self.volume.resize(size)).map(|lsn| lsn.map(|lsn| lsn.0)).map_err(raise)
    }

    fn branches(&self) -> Vec<(u64, u64)> {
        self.volume.branches()
    }

    fn retain(&self, py: Python<'_>, horizon_lsn: u64, points: Vec<u64>) -> PyResult<()> {
        let points: Vec<Lsn> = points.into_iter().map(Lsn).collect();
        py.detach(|| self.volume.retain(Lsn(horizon_lsn), &points)).map_err(raise)
    }

    fn reach<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (horizon, points) = self.volume.reachable();
        let points: Vec<_> = points.iter().map(|p| (p.lsn.0, p.stamp, p.clock_epoch)).collect();
        let facts = PyDict::new(py);
        facts.set_item("horizon", horizon.lsn.0)?;
        facts.set_item("horizon_stamp", horizon.stamp)?;
        facts.set_item("settled", self.volume.settled().0)?;
        facts.set_item("points", points)?;
        Ok(facts)
    }

    #[pyo3(signature = (max_bytes = 0))]
    fn compact<'py>(&self, py: Python<'py>, max_bytes: u64) -> PyResult<Bound<'py, PyDict>> {
        let done = py.detach(|| self.volume.compact(max_bytes, &mut |_| Ok(()))).map_err(raise)?;
        let facts = PyDict::new(py);
        facts.set_item("segments_in", done.segments_in)?;
        facts.set_item("segments_out", done.segments_out)?;
        facts.set_item("written", done.written)?;
        facts.set_item("freed", done.freed)?;
        facts.set_item("dead", done.dead)?;
        Ok(facts)
    }

    fn pins(&self) -> Vec<(u64, usize)> {
        self.volume.pins().into_iter().map(|(lsn, holders)| (lsn.0, holders)).collect()
    }

    fn close_views(&self, lsn: u64) -> usize {
        self.volume.revoke(Lsn(lsn))
    }

    fn space<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let space = py.detach(|| self.volume.space()).map_err(raise)?;
        let facts = PyDict::new(py);
        facts.set_item("used", space.used)?;
        facts.set_item("budget", space.budget)?;
        facts.set_item("soft", space.soft)?;
        facts.set_item("hard", space.hard)?;
        facts.set_item("segments_bytes", space.segments_bytes)?;
        facts.set_item("index_bytes", space.index_bytes)?;
        facts.set_item("manifest_bytes", space.manifest_bytes)?;
        facts.set_item("shared", space.shared)?;
        facts.set_item("dead", space.dead)?;
        facts.set_item("looked_at", space.looked_at)?;
        facts.set_item("reserve", space.reserve)?;
        facts.set_item("reserve_file", space.reserve_file)?;
        facts.set_item("foreground_bytes", space.foreground_bytes)?;
        facts.set_item("compaction_bytes", space.compaction_bytes)?;
        facts.set_item("index_written_bytes", space.index_written_bytes)?;
        facts.set_item("delayed_ns", space.delayed_ns)?;
        facts.set_item("stalled", space.stalled)?;
        facts.set_item("disk_full", space.disk_full)?;
        Ok(facts)
    }

    fn set_budget(&self, py: Python<'_>, budget: Option<u64>, policy: &str) -> PyResult<()> {
        let policy = match policy {
            "drop-oldest" => FullPolicy::DropOldest,
            "stall" => FullPolicy::Stall,
            "fail" => FullPolicy::Fail,
            other => return Err(raise(Error::invalid(format!("{other} is no policy for a full journal")))),
        };
        py.detach(|| self.volume.set_budget(budget, policy));
        Ok(())
    }

    fn faults(&self) -> Vec<String> {
        self.volume.faults()
    }

    #[pyo3(signature = (progress = None))]
    fn verify<'py>(&self, py: Python<'py>, progress: Option<Py<PyAny>>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let findings = with_progress(py, progress, |report| self.volume.verify(report))?;
        findings.iter().map(|it| scrub::finding(py, it)).collect()
    }

    #[pyo3(signature = (tell, position = (0, 0, 0), reads = None))]
    fn scrub(
        &self,
        py: Python<'_>,
        tell: Py<PyAny>,
        position: (u64, u32, u32),
        reads: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        scrub::run(py, &self.volume, &tell, position, reads)
    }
}

impl PyVolume {
    fn commit(&self, lsn: Lsn) -> cdp_engine::Result<u64> {
        Ok(self.volume.commit(lsn)?.0)
    }
}
