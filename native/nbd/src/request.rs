//! The gate: every request passes `judge` before anything acts on it, and only here is an errno picked for a request
//! that is wrong in itself.
//!
//! Invariants. `judge` is pure: header, export and mode in, verdict out. A verdict accounts for every byte that
//! follows the header, also of a refused request, so that the stream stays in step. A command that comes out fits the
//! export: its range is not empty and lies inside, and its payload is at most `REQUEST_MAX`.

use crate::wire::{self, Errno, Header};

/// Bytes: the longest READ that is answered in one chunk where the client asks for that (DF), and what negotiation advertises as the largest payload.
pub const CHUNK_MAX: u64 = 32 << 20;
/// Bytes: the largest READ or WRITE that is served. Twice the advertised maximum: clients exist that send 64 MiB
/// whatever they were told.
pub const REQUEST_MAX: u64 = 64 << 20;
/// Bytes: the largest payload of a refused request that is read and thrown away; a larger one ends the connection,
/// as the specification allows for what looks like a denial of service.
pub const SKIP_MAX: u64 = 2 * REQUEST_MAX;

/// What the gate knows of the export.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Bytes, now.
    pub size: u64,
    pub read_only: bool,
}

/// What negotiation settled, as far as it decides what a request may say.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub structured: bool,
    pub extended: bool,
    /// Number of negotiated metadata contexts.
    pub contexts: usize,
}

/// A request that may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Read {
        offset: u64,
        length: u64,
        df: bool,
    },
    Write {
        offset: u64,
        length: u64,
        fua: bool,
    },
    Flush,
    Trim {
        offset: u64,
        length: u64,
        fua: bool,
    },
    WriteZeroes {
        offset: u64,
        length: u64,
        fua: bool,
    },
    Cache {
        offset: u64,
        length: u64,
    },
    BlockStatus {
        offset: u64,
        length: u64,
        one: bool,
    },
    /// Range and contexts are in the payload: `judge_selection` is the second half of the gate.
    BlockStatusSelected {
        offset: u64,
        payload: u64,
        one: bool,
    },
}

impl Command {
    /// Bytes that follow the header.
    pub fn payload(&self) -> u64 {
        match *self {
            Command::Write { length, .. } => length,
            Command::BlockStatusSelected { payload, .. } => payload,
            _ => 0,
        }
    }
}

/// Why a request is not carried out: the errno and a sentence for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub errno: Errno,
    pub why: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Run(Command),
    /// Answer with the error, after `payload` bytes were read and thrown away.
    Refuse {
        refusal: Refusal,
        payload: u64,
    },
    /// DISC: the client is done.
    Disconnect,
    /// No way to stay in step with this client.
    Abort(&'static str),
}

const fn refusal(errno: Errno, why: &'static str) -> Refusal {
    Refusal { errno, why }
}

/// Bytes that follow the header. In extended mode a WRITE has its payload whether or not PAYLOAD_LEN says so.
fn payload_bytes(header: &Header, terms: &Terms) -> u64 {
    let flagged = terms.extended && header.flags & wire::FLAG_PAYLOAD_LEN != 0;
    if header.command == wire::CMD_WRITE || flagged {
        header.length
    } else {
        0
    }
}

pub fn judge(header: &Header, facts: &Facts, terms: &Terms) -> Verdict {
    if header.command == wire::CMD_DISC {
        return Verdict::Disconnect;
    }
    let payload = payload_bytes(header, terms);
    match admit(header, facts, terms) {
        Ok(command) => Verdict::Run(command),
        Err(_) if payload > SKIP_MAX => Verdict::Abort("payload beyond any limit"),
        Err(refusal) => Verdict::Refuse { refusal, payload },
    }
}

fn admit(header: &Header, facts: &Facts, terms: &Terms) -> Result<Command, Refusal> {
    check_flags(header, terms)?;
    let (offset, length) = (header.offset, header.length);
    let fua = header.flags & wire::FLAG_FUA != 0;
    match header.command {
        wire::CMD_READ => {
            check_range(header, facts)?;
            let df = header.flags & wire::FLAG_DF != 0;
            check_read_length(length, df, terms)?;
            Ok(Command::Read { offset, length, df })
        }
        wire::CMD_WRITE => {
            check_writable(facts)?;
            if length > REQUEST_MAX {
                return Err(refusal(Errno::Invalid, "write of more than 64 MiB"));
            }
            check_range(header, facts)?;
            Ok(Command::Write { offset, length, fua })
        }
        wire::CMD_FLUSH if offset != 0 || length != 0 => {
            Err(refusal(Errno::Invalid, "flush with an offset or a length"))
        }
        wire::CMD_FLUSH => Ok(Command::Flush),
        wire::CMD_TRIM => {
            check_writable(facts)?;
            check_range(header, facts)?;
            Ok(Command::Trim { offset, length, fua })
        }
        wire::CMD_WRITE_ZEROES => {
            check_writable(facts)?;
            check_range(header, facts)?;
            Ok(Command::WriteZeroes { offset, length, fua })
        }
        wire::CMD_CACHE => {
            check_range(header, facts)?;
            Ok(Command::Cache { offset, length })
        }
        wire::CMD_BLOCK_STATUS => block_status(header, facts, terms),
        _ => Err(refusal(Errno::Invalid, "unknown command")),
    }
}

/// Flags that mean something for the command in this mode. FUA is accepted everywhere, as the specification demands.
fn known_flags(command: u16, terms: &Terms) -> u16 {
    let own = match command {
        wire::CMD_READ if terms.structured => wire::FLAG_DF,
        wire::CMD_WRITE if terms.extended => wire::FLAG_PAYLOAD_LEN,
        wire::CMD_WRITE_ZEROES => wire::FLAG_NO_HOLE | wire::FLAG_FAST_ZERO,
        wire::CMD_BLOCK_STATUS if terms.extended => wire::FLAG_REQ_ONE | wire::FLAG_PAYLOAD_LEN,
        wire::CMD_BLOCK_STATUS => wire::FLAG_REQ_ONE,
        _ => 0,
    };
    own | wire::FLAG_FUA
}

fn check_flags(header: &Header, terms: &Terms) -> Result<(), Refusal> {
    if header.flags & !known_flags(header.command, terms) != 0 {
        return Err(refusal(Errno::Invalid, "a flag that this command does not take"));
    }
    Ok(())
}

fn check_writable(facts: &Facts) -> Result<(), Refusal> {
    if facts.read_only {
        return Err(refusal(Errno::Perm, "the export is read-only"));
    }
    Ok(())
}

fn check_range(header: &Header, facts: &Facts) -> Result<(), Refusal> {
    check_extent(header.command, header.offset, header.length, facts)
}

fn check_extent(command: u16, offset: u64, length: u64, facts: &Facts) -> Result<(), Refusal> {
    if length == 0 {
        return Err(refusal(Errno::Invalid, "a request of no bytes"));
    }
    if offset.checked_add(length).is_some_and(|end| end <= facts.size) {
        return Ok(());
    }
    let writes = matches!(command, wire::CMD_WRITE | wire::CMD_WRITE_ZEROES);
    let errno = if writes { Errno::NoSpace } else { Errno::Invalid };
    Err(refusal(errno, "beyond the end of the export"))
}

fn check_read_length(length: u64, df: bool, terms: &Terms) -> Result<(), Refusal> {
    if df && length > CHUNK_MAX {
        return Err(refusal(Errno::Overflow, "too long for one chunk: at most 32 MiB"));
    }
    if length > REQUEST_MAX {
        // EOVERFLOW is for clients that know of chunks; to the others it would be a new word.
        let errno = if terms.structured { Errno::Overflow } else { Errno::Invalid };
        return Err(refusal(errno, "read of more than 64 MiB"));
    }
    Ok(())
}

fn block_status(header: &Header, facts: &Facts, terms: &Terms) -> Result<Command, Refusal> {
    let one = header.flags & wire::FLAG_REQ_ONE != 0;
    if !terms.structured || terms.contexts == 0 {
        return Err(refusal(Errno::Invalid, "no metadata context was negotiated"));
    }
    if header.flags & wire::FLAG_PAYLOAD_LEN == 0 {
        check_range(header, facts)?;
        return Ok(Command::BlockStatus { offset: header.offset, length: header.length, one });
    }
    // More numbers than contexts: one of them is unknown or there twice.
    let most = 8 + 4 * terms.contexts as u64;
    if header.length < 12 || header.length > most || header.length % 4 != 0 {
        return Err(refusal(Errno::Invalid, "a payload that cannot select contexts"));
    }
    Ok(Command::BlockStatusSelected { offset: header.offset, payload: header.length, one })
}

/// A BLOCK_STATUS payload that passed: the length asked about, and positions in the list of negotiated contexts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub length: u64,
    pub contexts: Vec<usize>,
}

/// The gate's second half, for what a BLOCK_STATUS payload says. `ids`: the negotiated contexts.
pub fn judge_selection(payload: &[u8], offset: u64, facts: &Facts, ids: &[u32]) -> Result<Selection, Refusal> {
    if payload.len() < 12 || payload.len() % 4 != 0 {
        return Err(refusal(Errno::Invalid, "a payload that cannot select contexts"));
    }
    let length = wire::u64_at(payload, 0);
    check_extent(wire::CMD_BLOCK_STATUS, offset, length, facts)?;
    let mut contexts = Vec::with_capacity(ids.len());
    for at in (8..payload.len()).step_by(4) {
        let id = wire::u32_at(payload, at);
        let Some(position) = ids.iter().position(|known| *known == id) else {
            return Err(refusal(Errno::Invalid, "a context that was not negotiated"));
        };
        if contexts.contains(&position) {
            return Err(refusal(Errno::Invalid, "a context that is named twice"));
        }
        contexts.push(position);
    }
    Ok(Selection { length, contexts })
}
