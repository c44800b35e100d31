//! One TLS connection, without I/O: bytes of the wire in and out, plain bytes out and in.
//!
//! Invariants. Between calls no whole record waits to be decrypted, so encrypting never meets one. What is encrypted
//! leaves in its order, each byte once. Bounds: RAW_MAX bytes received and not decrypted (a part of a record, or of a
//! handshake message), as many decrypted and not taken, BATCH encrypted and not sent, each with what records cost. A
//! connection at rest owns no buffer but a part of a record. Sessions are never resumed: every connection proves anew
//! who it is.

pub mod credentials;
pub mod identity;
pub(crate) mod stream;

use std::collections::VecDeque;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use rustls::CertificateError;

use credentials::Credentials;

/// Bytes received at once, behind what is left of the last record. Above the largest handshake message of 64 KiB.
pub(crate) const RAW_MAX: usize = 80 << 10;
/// Bytes of a record's content.
const FRAGMENT: usize = 16 << 10;
/// Plain bytes encrypted before they are sent.
pub(crate) const BATCH: usize = 4 * FRAGMENT;
/// Bytes encrypted and not sent at which a client that makes us answer without reading is given up: BATCH, in as many
/// records as the outbox has slices, and answers of the protocol itself.
const OUT_MAX: usize = BATCH + FRAGMENT;
/// Room for what a record, and a waiting message of the protocol itself, take beside their content.
const OVERHEAD: usize = 256;

/// Why a connection is of no more use: one sentence.
#[derive(Debug)]
pub struct TlsError(pub String);

impl<E: std::error::Error> From<E> for TlsError {
    fn from(error: E) -> TlsError {
        TlsError(error.to_string())
    }
}

/// Where decrypted bytes go.
pub(crate) trait Sink {
    /// Bytes that it still takes.
    fn room(&self) -> usize;
    /// At most `room` bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn room(&self) -> usize {
        usize::MAX
    }

    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// The server's end of a connection.
pub struct Tls {
    connection: UnbufferedServerConnection,
    /// Received and not decrypted.
    raw: Vec<u8>,
    /// Decrypted; `taken` bytes of it are gone.
    plain: Vec<u8>,
    taken: usize,
    /// Encrypted; `sent` bytes of it are gone.
    out: Vec<u8>,
    sent: usize,
    /// For each record in `out`: where it ends, and the plain bytes in it.
    records: VecDeque<(usize, usize)>,
    handshaking: bool,
    at_end: bool,
}

impl Tls {
    /// Waits for a client's first message.
    pub fn new(credentials: &Credentials) -> Result<Tls, TlsError> {
        Ok(Tls {
            connection: UnbufferedServerConnection::new(credentials.config())?,
            raw: Vec::new(),
            plain: Vec::new(),
            taken: 0,
            out: Vec::new(),
            sent: 0,
            records: VecDeque::new(),
            handshaking: true,
            at_end: false,
        })
    }

    /// Whether the handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.handshaking
    }

    /// Whether the client has said that it sends no more.
    pub fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// The client's own certificate (DER), verified; None before it came, or where none is asked for.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.connection.peer_certificates().and_then(|chain| chain.first()).map(AsRef::as_ref)
    }

    /// Version and cipher suite, for people.
    pub fn agreed(&self) -> Option<String> {
        let (version, suite) = (self.connection.protocol_version()?, self.connection.negotiated_cipher_suite()?);
        Some(format!("{version:?} {:?}", suite.suite()))
    }

    /// Takes bytes from the wire; the plain bytes in them. After an error `take_output` still has what to tell the
    /// client.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, TlsError> {
        let mut plain = Vec::new();
        let mut raw = std::mem::take(&mut self.raw);
        let mut outcome = Ok(());
        while outcome.is_ok() && !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(RAW_MAX - raw.len()));
            raw.extend_from_slice(now);
            bytes = later;
            outcome = self.decrypt(&mut raw, &mut plain);
        }
        self.raw = raw;
        outcome.map(|()| plain)
    }

    /// Takes plain bytes to be sent.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        bytes.chunks(FRAGMENT).try_for_each(|some| self.encrypt(some))
    }

    /// What is to be sent over the wire. Not for a connection in the transmission phase, which sends by itself.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.records.clear();
        let mut out = std::mem::take(&mut self.out);
        out.drain(..std::mem::take(&mut self.sent));
        out
    }

    /// Says that no more will be sent.
    pub fn close(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        let status = self.connection.process_tls_records(&mut self.raw);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state {
            // Where it does not fit or the keys are used up, the end of the stream says the same.
            let _ = append(&mut out, OVERHEAD, |room| traffic.queue_close_notify(room));
        }
        self.out = out;
    }

    /// Decrypts every whole record of `raw`, which keeps the rest. What `sink` has no room for is kept here.
    pub(crate) fn decrypt(&mut self, raw: &mut Vec<u8>, sink: &mut impl Sink) -> Result<(), TlsError> {
        let mut start = 0;
        let outcome = loop {
            let UnbufferedStatus { mut discard, state, .. } = self.connection.process_tls_records(&mut raw[start..]);
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    let Some(record) = traffic.next_record() else { break Ok(true) };
                    let Ok(record) = record else { break Err(TlsError("a record cannot be read".to_owned())) };
                    discard += record.discard;
                    let (now, later) = record.payload.split_at(record.payload.len().min(sink.room()));
                    sink.put(now);
                    self.plain.extend_from_slice(later);
                },
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.out).map(|()| true),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(true)
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.at_end = true;
                    Ok(false)
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.handshaking = false;
                    Ok(false)
                }
                Ok(ConnectionState::BlockedHandshake) => Ok(false),
                Ok(other) => Err(TlsError(format!("{other:?} is not expected"))),
                Err(error) => Err(explained(&error)),
            };
            start += discard;
            match step {
                Ok(true) if self.out.len() - self.sent > OUT_MAX => {
                    break Err(TlsError("the client makes us answer without reading".to_owned()))
                }
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        raw.drain(..start);
        if outcome.is_err() {
            self.take_alerts(raw);
        } else if raw.len() >= RAW_MAX {
            return Err(TlsError("a message that does not end".to_owned()));
        }
        outcome
    }

    /// After an error: what tells the client of it.
    fn take_alerts(&mut self, raw: &mut [u8]) {
        while let Ok(ConnectionState::EncodeTlsData(data)) = self.connection.process_tls_records(raw).state {
            if encode(data, &mut self.out).is_err() {
                return;
            }
        }
    }

    /// Encrypts at most FRAGMENT bytes, as one record.
    fn encrypt(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        loop {
            match self.connection.process_tls_records(&mut self.raw).state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    append(&mut self.out, bytes.len() + OVERHEAD, |room| traffic.encrypt(bytes, room))?;
                    self.records.push_back((self.out.len(), bytes.len()));
                    return Ok(());
                }
                ConnectionState::EncodeTlsData(data) => encode(data, &mut self.out)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.at_end = true,
                other => return Err(TlsError(format!("nothing can be sent: {other:?}"))),
            }
        }
    }
}

/// In the words of who reads the server's log.
fn explained(error: &rustls::Error) -> TlsError {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer};
    let why = match error {
        rustls::Error::NoCertificatesPresented => "it sent no certificate of an authority that is trusted here",
        rustls::Error::InvalidCertificate(UnknownIssuer) => "no authority that is trusted here issued its certificate",
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => "its certificate has expired",
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "its certificate is not valid yet"
        }
        rustls::Error::InvalidCertificate(_) => "its certificate is not valid",
        rustls::Error::AlertReceived(_) => "it refuses the connection",
        rustls::Error::PeerIncompatible(_) => "it can do nothing that is safe enough",
        _ => "it does not speak TLS as it should",
    };
    TlsError(format!("{why} ({error})"))
}

fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) -> Result<(), TlsError> {
    let start = out.len();
    let Err(EncodeError::InsufficientSize(short)) = data.encode(&mut []) else {
        return Ok(());
    };
    out.resize(start + short.required_size, 0);
    data.encode(&mut out[start..])?;
    Ok(())
}

/// Lets `write` append to `out`, with as much room as it turns out to need.
fn append(
    out: &mut Vec<u8>,
    guess: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), TlsError> {
    let start = out.len();
    out.resize(start + guess, 0);
    let written = match write(&mut out[start..]) {
        Err(EncryptError::InsufficientSize(short)) => {
            out.resize(start + short.required_size, 0);
            write(&mut out[start..])
        }
        other => other,
    };
    out.truncate(start + *written.as_ref().unwrap_or(&0));
    written?;
    Ok(())
}
