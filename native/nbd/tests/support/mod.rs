//! A client in the open, and a real volume on a temporary folder.
#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

use cdp_engine::storage::Disk;
use cdp_engine::{Options, Stamp, Volume};
use cdp_nbd::wire::{self, Header};
use cdp_nbd::{Config, Export, Mode, Server};

#[allow(unused_imports)]
pub use moody::moody;

mod moody;

pub const MIB: u64 = 1 << 20;
/// How long a test waits for what must come: a bound for a hang, never a measure.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that goes when its value goes.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cdp-nbd-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server with one volume. Fields are dropped in their order: server, volume, folder.
pub struct Bench {
    pub server: Server,
    pub volume: Arc<Volume>,
    pub folder: Folder,
}

pub fn open(folder: &Folder) -> Arc<Volume> {
    let disk = Arc::new(Disk::new(&folder.0).unwrap());
    Volume::open(disk, None, Options::default()).unwrap()
}

impl Bench {
    pub fn new(size: u64) -> Bench {
        Bench::with(size, Config::default())
    }

    pub fn with(size: u64, config: Config) -> Bench {
        let folder = Folder::new();
        let disk = Arc::new(Disk::new(&folder.0).unwrap());
        Volume::create(disk, [7; 16], size, Stamp(1_700_000_000_000_000_000)).unwrap();
        let volume = open(&folder);
        Bench { server: Server::new(config).unwrap(), volume, folder }
    }

    pub fn export(&self) -> Export {
        Export::Live(Arc::clone(&self.volume))
    }

    pub fn client(&self, mode: Mode) -> Client {
        self.client_of(self.export(), mode, Vec::new())
    }

    pub fn client_of(&self, export: Export, mode: Mode, leftover: Vec<u8>) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE)).unwrap();
        let (say, ended) = mpsc::channel();
        let extended = mode.extended;
        let on_end = Box::new(move |id: u64, reason: &str| {
            let _ = say.send((id, reason.to_owned()));
        });
        let id = self.server.attach(theirs.into(), leftover, export, mode, Some(on_end)).unwrap();
        Client { stream: ours, extended, id, ended }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.server.stop(Duration::ZERO);
    }
}

pub fn simple() -> Mode {
    Mode::default()
}

pub fn structured() -> Mode {
    Mode { structured: true, extended: false, contexts: vec![(5, "base:allocation".into())], ..Mode::default() }
}

pub fn extended() -> Mode {
    Mode { structured: false, extended: true, contexts: vec![(5, "base:allocation".into())], ..Mode::default() }
}

pub struct Client {
    pub stream: UnixStream,
    pub extended: bool,
    pub id: u64,
    ended: mpsc::Receiver<(u64, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub done: bool,
    pub kind: u16,
    pub cookie: u64,
    /// The request's, as an extended reply repeats it; 0 in a compact one.
    pub offset: u64,
    pub payload: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Simple { errno: u32, cookie: u64 },
    Chunk(Chunk),
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().unwrap())
}

pub fn request(extended: bool, flags: u16, command: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    Header { flags, command, cookie, offset, length }.encode(extended)
}

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn ask(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, length: u64) {
        let bytes = request(self.extended, flags, command, cookie, offset, length);
        self.send(&bytes);
    }

    pub fn ask_write(&mut self, flags: u16, cookie: u64, offset: u64, data: &[u8]) {
        let flags = if self.extended { flags | wire::FLAG_PAYLOAD_LEN } else { flags };
        self.ask(flags, wire::CMD_WRITE, cookie, offset, data.len() as u64);
        self.send(data);
    }

    pub fn take(&mut self, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        self.stream.read_exact(&mut buffer).unwrap();
        buffer
    }

    pub fn reply(&mut self) -> Reply {
        let magic = be32(&self.take(4));
        if magic == wire::SIMPLE_REPLY_MAGIC {
            let rest = self.take(12);
            return Reply::Simple { errno: be32(&rest), cookie: be64(&rest[4..]) };
        }
        let expected = if self.extended { wire::EXTENDED_REPLY_MAGIC } else { wire::STRUCTURED_REPLY_MAGIC };
        assert_eq!(magic, expected);
        let head = self.take(if self.extended { 28 } else { 16 });
        let flags = u16::from_be_bytes([head[0], head[1]]);
        assert!(flags <= 1);
        let (offset, length) =
            if self.extended { (be64(&head[12..]), be64(&head[20..])) } else { (0, u64::from(be32(&head[12..]))) };
        Reply::Chunk(Chunk {
            done: flags == 1,
            kind: u16::from_be_bytes([head[2], head[3]]),
            cookie: be64(&head[4..]),
            offset,
            payload: self.take(length as usize),
        })
    }

    /// All chunks of one reply, which must come in one run.
    pub fn chunks(&mut self, cookie: u64) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        loop {
            let Reply::Chunk(chunk) = self.reply() else { panic!("a simple reply") };
            assert_eq!(chunk.cookie, cookie);
            let done = chunk.done;
            chunks.push(chunk);
            if done {
                return chunks;
            }
        }
    }

    /// The errno of a reply without content; 0 for success.
    pub fn outcome(&mut self, cookie: u64) -> u32 {
        match self.reply() {
            Reply::Simple { errno, cookie: theirs } => {
                assert_eq!(theirs, cookie);
                errno
            }
            Reply::Chunk(chunk) => {
                assert_eq!((chunk.cookie, chunk.done), (cookie, true));
                match chunk.kind {
                    wire::REPLY_NONE => 0,
                    wire::REPLY_ERROR => be32(&chunk.payload),
                    kind => panic!("chunk of type {kind}"),
                }
            }
        }
    }

    pub fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        self.ask_write(flags, 1000, offset, data);
        self.outcome(1000)
    }

    pub fn run(&mut self, flags: u16, command: u16, offset: u64, length: u64) -> u32 {
        self.ask(flags, command, 1001, offset, length);
        self.outcome(1001)
    }

    /// The data of a READ that must succeed, from whatever kind of reply.
    pub fn read(&mut self, offset: u64, length: u64) -> Vec<u8> {
        self.ask(0, wire::CMD_READ, 1002, offset, length);
        self.read_reply(1002, offset, length)
    }

    pub fn read_reply(&mut self, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
        let mut data = vec![0xee; length as usize];
        let mut covered = 0;
        loop {
            match self.reply() {
                Reply::Simple { errno, cookie: theirs } => {
                    assert_eq!((errno, theirs), (0, cookie));
                    return self.take(length as usize);
                }
                Reply::Chunk(chunk) => {
                    assert_eq!(chunk.cookie, cookie);
                    covered += put(&chunk, offset, &mut data);
                    if chunk.done {
                        assert_eq!(covered, length);
                        return data;
                    }
                }
            }
        }
    }

    /// Bytes that come before the connection ends.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => bytes,
        }
    }

    /// Why the session ended, once it has.
    pub fn end(&self) -> String {
        let (id, reason) = self.ended.recv_timeout(PATIENCE).unwrap();
        assert_eq!(id, self.id);
        reason
    }

    pub fn has_ended(&self) -> bool {
        self.ended.try_recv().is_ok()
    }
}

/// Puts a content chunk in its place; how many bytes it covers.
pub fn put(chunk: &Chunk, offset: u64, data: &mut [u8]) -> u64 {
    let start = || (be64(&chunk.payload) - offset) as usize;
    match chunk.kind {
        wire::REPLY_NONE => 0,
        wire::REPLY_OFFSET_DATA => {
            let bytes = &chunk.payload[8..];
            data[start()..start() + bytes.len()].copy_from_slice(bytes);
            bytes.len() as u64
        }
        wire::REPLY_OFFSET_HOLE => {
            let length = be32(&chunk.payload[8..]) as usize;
            data[start()..start() + length].fill(0);
            length as u64
        }
        kind => panic!("chunk of type {kind:#x} in a good read"),
    }
}

/// Bytes that do not repeat within a page and do not shrink.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
