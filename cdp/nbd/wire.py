"""The handshake's bytes: constants and codecs of the NBD specification (doc/proto.md, branch extension-ext-header).

Invariants:
- Pure: no I/O, no state. Integers are big-endian and unsigned; names follow the specification, without its prefixes.
- A decoder takes the whole data of one option, accepts it only if every byte of it is accounted for, and raises nothing
  but Malformed and TooBig, whatever the bytes.
- A decoded string is valid UTF-8 without NUL, so equal strings are equal bytes.
- The transmission phase has its own codecs, in native code: a byte of a block is never seen here.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

INIT_MAGIC = 0x4E42444D41474943
"""NBDMAGIC, the first eight bytes of every greeting."""
OPTION_MAGIC = 0x49484156454F5054
"""IHAVEOPT: in the greeting of newstyle, and before every option."""
REPLY_MAGIC = 0x0003E889045565A9
"""Before every reply to an option."""

STRING_BYTES_MAX = 4096
"""Names, descriptions, queries and error messages ("Conventions")."""
QUERIES_MAX = 1024
"""Of one LIST_META_CONTEXT or SET_META_CONTEXT; a bound of ours, far above the contexts that exist."""
ZEROES_BYTES = 124
"""Reserved bytes after the reply to EXPORT_NAME, unless NO_ZEROES was negotiated."""

_GREETING = struct.Struct(">QQH")
_CLIENT_FLAGS = struct.Struct(">I")
_OPTION = struct.Struct(">QII")
_REPLY = struct.Struct(">QIII")
_EXPORT = struct.Struct(">QH")
_BLOCK_SIZE = struct.Struct(">III")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")

CLIENT_FLAGS_BYTES = _CLIENT_FLAGS.size
OPTION_HEADER_BYTES = _OPTION.size


class HandshakeFlag(enum.IntFlag):
    """Offered by the server (16 bits), taken up by the client (32 bits) with the same bit numbers."""

    FIXED_NEWSTYLE = 1 << 0
    NO_ZEROES = 1 << 1


class TransmissionFlag(enum.IntFlag):
    """What an export can do, 16 bits. Bits 4 (ROTATIONAL) and 9 (SEND_RESIZE) are never set here."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11
    BLOCK_STATUS_PAYLOAD = 1 << 12


class Opt(enum.IntEnum):
    """Options that this server knows ("Option types")."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class Rep(enum.IntEnum):
    """Reply types that this server sends ("Option reply types"); bit 31 marks an error."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = (1 << 31) + 1
    ERR_POLICY = (1 << 31) + 2
    ERR_INVALID = (1 << 31) + 3
    ERR_TLS_REQD = (1 << 31) + 5
    ERR_UNKNOWN = (1 << 31) + 6
    ERR_SHUTDOWN = (1 << 31) + 7
    ERR_TOO_BIG = (1 << 31) + 9
    ERR_EXT_HEADER_REQD = (1 << 31) + 10


class Info(enum.IntEnum):
    """Kinds of information about an export (NBD_REP_INFO)."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Malformed(Exception):
    """The option's data is not what its type prescribes: NBD_REP_ERR_INVALID."""


class TooBig(Exception):
    """Well-formed, but beyond a bound: NBD_REP_ERR_TOO_BIG."""


@dataclass(frozen=True)
class OptionHeader:
    """The 16 bytes before an option's data."""

    magic: int
    option: int
    length: int
    """Of the data that follows, in bytes."""


@dataclass(frozen=True)
class InfoRequest:
    """The data of NBD_OPT_INFO and NBD_OPT_GO."""

    name: str
    infos: frozenset[int]
    """Kinds asked for, known or not. One that is listed twice, which no client may do, is answered once."""


@dataclass(frozen=True)
class ContextRequest:
    """The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT."""

    name: str
    queries: tuple[str, ...]


class _Cursor:
    """Reads an option's data from front to back, never past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int, what: str) -> bytes:
        if count > len(self._data) - self._at:
            raise Malformed(f"the option ends before its {what}")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, codec: struct.Struct, what: str) -> int:
        value: int = codec.unpack(self.take(codec.size, what))[0]
        return value

    def string(self, what: str) -> str:
        """A 32-bit length and that many bytes."""
        length = self.number(_U32, f"length of the {what}")
        return decode_string(self.take(length, what), what)

    def end(self) -> None:
        if self._at != len(self._data):
            raise Malformed(f"{len(self._data) - self._at} bytes too many in the option")


def decode_client_flags(data: bytes) -> int:
    """Of CLIENT_FLAGS_BYTES bytes; which of them are allowed is for the caller to say."""
    flags: int = _CLIENT_FLAGS.unpack(data)[0]
    return flags


def decode_option_header(data: bytes) -> OptionHeader:
    """Of OPTION_HEADER_BYTES bytes; the magic is for the caller to compare."""
    return OptionHeader(*_OPTION.unpack(data))


def decode_string(data: bytes, what: str) -> str:
    """A string of the specification; `what` names it in the error."""
    if len(data) > STRING_BYTES_MAX:
        raise TooBig(f"the {what} has {len(data)} bytes, more than {STRING_BYTES_MAX}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"the {what} is not valid UTF-8") from None
    if "\0" in text:
        raise Malformed(f"the {what} contains a NUL character")
    return text


def decode_info_request(data: bytes) -> InfoRequest:
    """Name and information requests of NBD_OPT_INFO or NBD_OPT_GO."""
    cursor = _Cursor(data)
    name = cursor.string("export name")
    count = cursor.number(_U16, "number of information requests")
    kinds = cursor.take(count * _U16.size, "information requests")
    cursor.end()
    return InfoRequest(name, frozenset(struct.unpack(f">{count}H", kinds)))


def decode_context_request(data: bytes) -> ContextRequest:
    """Name and queries of NBD_OPT_LIST_META_CONTEXT or NBD_OPT_SET_META_CONTEXT."""
    cursor = _Cursor(data)
    name = cursor.string("export name")
    count = cursor.number(_U32, "number of queries")
    if count > len(data) // _U32.size:
        raise Malformed(f"{count} queries do not fit into an option of {len(data)} bytes")
    if count > QUERIES_MAX:
        raise TooBig(f"{count} queries, more than {QUERIES_MAX}")
    queries = tuple(cursor.string("query") for _ in range(count))
    cursor.end()
    return ContextRequest(name, queries)


def greeting(flags: HandshakeFlag) -> bytes:
    """The server's first bytes."""
    return _GREETING.pack(INIT_MAGIC, OPTION_MAGIC, flags)


def reply(option: int, kind: Rep, data: bytes = b"") -> bytes:
    """One reply to an option, which is echoed as the client sent it."""
    return _REPLY.pack(REPLY_MAGIC, option, kind, len(data)) + data


def reply_error(option: int, kind: Rep, message: str) -> bytes:
    """An error reply. The message is cut to what a string may hold, between characters."""
    text = message.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")
    if len(text) > STRING_BYTES_MAX:
        text = text[:STRING_BYTES_MAX].decode("utf-8", "ignore").encode()
    return reply(option, kind, text)


def reply_server(option: int, name: str, description: str) -> bytes:
    """One export of NBD_OPT_LIST."""
    raw = name.encode()
    return reply(option, Rep.SERVER, _U32.pack(len(raw)) + raw + description.encode())


def reply_info_export(option: int, size: int, flags: TransmissionFlag) -> bytes:
    """NBD_INFO_EXPORT: size in bytes and transmission flags."""
    return reply(option, Rep.INFO, _U16.pack(Info.EXPORT) + _EXPORT.pack(size, flags))


def reply_info_text(option: int, kind: Info, text: str) -> bytes:
    """NBD_INFO_NAME or NBD_INFO_DESCRIPTION."""
    return reply(option, Rep.INFO, _U16.pack(kind) + text.encode())


def reply_info_block_size(option: int, minimum: int, preferred: int, maximum: int) -> bytes:
    """NBD_INFO_BLOCK_SIZE: minimum and preferred block, maximum payload, in bytes."""
    return reply(option, Rep.INFO, _U16.pack(Info.BLOCK_SIZE) + _BLOCK_SIZE.pack(minimum, preferred, maximum))


def reply_meta_context(option: int, context: int, name: str) -> bytes:
    """One metadata context: its number for this connection, and its name."""
    return reply(option, Rep.META_CONTEXT, _U32.pack(context) + name.encode())


def export_name_answer(size: int, flags: TransmissionFlag, *, zeroes: bool) -> bytes:
    """The answer to NBD_OPT_EXPORT_NAME, which has no reply header."""
    return _EXPORT.pack(size, flags) + bytes(ZEROES_BYTES if zeroes else 0)
