"""The fixed newstyle handshake as a machine without I/O: bytes in, events and bytes out.

    handshake = Handshake()
    loop:   send handshake.output(); act on handshake.next_event():
            NeedBytes    -> handshake.receive(bytes from the client; b"" at its end)
            ListExports  -> handshake.exports_are(names) or handshake.refused(error)
            OpenExport   -> handshake.export_is(facts) or handshake.refused(error)
            StartTls     -> the TLS handshake; then everything goes through TLS, and handshake.secured()
            Enter        -> the transmission phase begins, with what Enter holds
            End          -> hang up

Invariants:
- TRANSITIONS (states.py) is the whole life of a handshake: every change of state goes through it.
- The output depends on the bytes received, never on how they were split.
- Whatever the bytes, nothing is raised. Bytes kept are bounded by `Limits.option_bytes_max` and one `receive`; options and bytes of all
  options together are bounded as well, and an option too long to keep is passed over, answered and forgotten.
- An event stays the next event until it is answered, so asking twice is harmless. ENTERED and ENDED are final.
- Nothing that was said before TLS counts after it, and nothing that came in the clear is read as said after it.
- Every option gets exactly one final reply, in the order of the options; EXPORT_NAME, which has none, ends the handshake either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cdp import errors
from cdp.nbd import offer, wire
from cdp.nbd.offer import Facts, Negotiated
from cdp.nbd.states import (
    NEED_BYTES,
    TRANSITIONS,
    End,
    Enter,
    Event,
    Limits,
    ListExports,
    OpenExport,
    StartTls,
    State,
    Step,
    TlsOffer,
)
from cdp.nbd.wire import HandshakeFlag, Opt, Rep

OFFERED = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES

REFUSALS: dict[type[errors.CdpError], Rep] = {
    errors.Denied: Rep.ERR_POLICY,
    errors.Invalid: Rep.ERR_INVALID,
    errors.NotFound: Rep.ERR_UNKNOWN,
    errors.Closed: Rep.ERR_SHUTDOWN,
    # The specification has no reply for "it exists, but not now"; of those it has, only POLICY neither denies that the export
    # exists nor that the server knows the option. The sentence sent along says what is the matter.
    errors.Busy: Rep.ERR_POLICY,
    errors.NoSpace: Rep.ERR_POLICY,
    errors.Corrupt: Rep.ERR_POLICY,
    errors.Io: Rep.ERR_POLICY,
    errors.Poisoned: Rep.ERR_POLICY,
}


@dataclass(frozen=True)
class _Pending:
    """An option that waits for its export; `infos` of INFO and GO, `queries` of the context options."""

    option: Opt
    name: str
    infos: frozenset[int] = frozenset()
    queries: tuple[str, ...] = ()


class Handshake:
    """One connection's negotiation. See the file's head for its use."""

    def __init__(self, limits: Limits | None = None, tls: TlsOffer = TlsOffer.NONE) -> None:
        self._limits = limits or Limits()
        self._tls = tls
        self._secured = False
        self._lacked_tls = False
        self._state = State.FLAGS
        self._event: Event = NEED_BYTES
        self._input = bytearray()
        self._at_end = False
        self._output = [wire.greeting(OFFERED)]
        self._client = HandshakeFlag(0)
        self._negotiated = Negotiated()
        self._options = 0
        self._input_bytes = 0
        self._option = 0
        self._skip_bytes = 0
        self._pending: _Pending | None = None

    @property
    def state(self) -> State:
        return self._state

    @property
    def lacked_tls(self) -> bool:
        """Whether the client wanted something without TLS that it may have with TLS only."""
        return self._lacked_tls

    def output(self) -> bytes:
        """Takes what is to be sent."""
        out = b"".join(self._output)
        self._output.clear()
        return out

    def receive(self, data: bytes) -> None:
        """Adds bytes from the client; b"" says that it will send no more."""
        self._at_end = self._at_end or not data
        self._input += data

    def next_event(self) -> Event:
        """Consumes what was received, up to the point where the caller must act."""
        while (advance := _READERS.get(self._state)) is not None:
            if advance(self):
                continue
            if not self._at_end:
                return NEED_BYTES
            self._end("the client hung up")
        return self._event

    def exports_are(self, names: Iterable[tuple[str, str]]) -> None:
        """Answers ListExports: (name, description or "")."""
        assert self._state is State.LISTING
        self._output.extend(wire.reply_server(Opt.LIST, name, description) for name, description in names)
        self._acknowledge(Opt.LIST)

    def export_is(self, facts: Facts) -> None:
        """Answers OpenExport. The export is entered if the next event is Enter; otherwise the handshake has no more use for it."""
        assert self._state is State.OPENING
        assert self._pending is not None
        pending, self._pending = self._pending, None
        _FINISHERS[pending.option](self, pending, facts)

    def refused(self, error: errors.CdpError) -> None:
        """Answers ListExports or OpenExport when there is nothing to show: the client gets the error's sentence."""
        assert self._state in {State.LISTING, State.OPENING}
        pending, self._pending = self._pending, None
        if pending is not None and pending.option is Opt.EXPORT_NAME:
            return self._end(f"the export was refused: {error}")
        kind = next((REFUSALS[base] for base in type(error).__mro__ if base in REFUSALS), Rep.ERR_POLICY)
        return self._refuse(self._option, kind, str(error))

    def secured(self) -> None:
        """Answers StartTls: what is received from now on came through TLS."""
        assert self._state is State.SECURING
        self._secured = True
        self._negotiated = Negotiated()
        self._step(Step.SECURED)

    # --- what is done with the bytes of each state: True if there may be more to do

    def _read_flags(self) -> bool:
        raw = self._take(wire.CLIENT_FLAGS_BYTES)
        if raw is None:
            return False
        flags = wire.decode_client_flags(raw)
        if flags & ~int(OFFERED):
            self._end(f"unknown client flags {flags:#x}")
        else:
            self._client = HandshakeFlag(flags)
            self._step(Step.FLAGS_TAKEN)
        return True

    def _read_option(self) -> bool:
        if len(self._input) < wire.OPTION_HEADER_BYTES:
            return False
        header = wire.decode_option_header(bytes(self._input[: wire.OPTION_HEADER_BYTES]))
        if (reason := self._why_over(header)) is not None:
            self._end(reason)
            return True
        if header.length > self._limits.option_bytes_max:
            self._take(wire.OPTION_HEADER_BYTES)
            self._count(header)
            self._skip_bytes = header.length
            self._step(Step.TOO_LONG)
            return True
        raw = self._take(wire.OPTION_HEADER_BYTES + header.length)
        if raw is None:
            return False
        self._count(header)
        self._dispatch(raw[wire.OPTION_HEADER_BYTES :])
        return True

    def _read_skipped(self) -> bool:
        passed = min(self._skip_bytes, len(self._input))
        del self._input[:passed]
        self._skip_bytes -= passed
        if self._skip_bytes:
            return False
        if self._option == Opt.SET_META_CONTEXT:
            self._forget_contexts()
        if self._option == Opt.ABORT:
            self._abort(b"")
        elif self._lacks_tls(self._option):
            self._refuse_without_tls()
        elif self._option in _RULES:
            self._refuse(
                self._option, Rep.ERR_TOO_BIG, f"an option may have {self._limits.option_bytes_max} bytes of data"
            )
        else:
            self._refuse_unknown()
        return True

    def _why_over(self, header: wire.OptionHeader) -> str | None:
        """Why a header ends the connection at once, if it does."""
        if header.magic != wire.OPTION_MAGIC:
            return f"an option begins with {header.magic:#018x}"
        if self._options >= self._limits.options_max:
            return f"more than {self._limits.options_max} options"
        if self._input_bytes + wire.OPTION_HEADER_BYTES + header.length > self._limits.input_bytes_max:
            return f"more than {self._limits.input_bytes_max} bytes of options"
        if header.option == Opt.EXPORT_NAME:
            return self._why_not_export_name(header)
        if HandshakeFlag.FIXED_NEWSTYLE not in self._client:
            # Such a client would not understand our reply ("Newstyle negotiation").
            return f"option {header.option} from a client without fixed newstyle"
        return None

    def _lacks_tls(self, option: int) -> bool:
        lacking = self._tls is TlsOffer.REQUIRED and not self._secured and option not in {Opt.STARTTLS, Opt.ABORT}
        self._lacked_tls = self._lacked_tls or lacking
        return lacking

    def _why_not_export_name(self, header: wire.OptionHeader) -> str | None:
        if self._lacks_tls(header.option):
            return "EXPORT_NAME without TLS"
        if self._negotiated.extended:
            return "EXPORT_NAME after EXTENDED_HEADERS"
        if header.length > wire.STRING_BYTES_MAX:
            return f"an export name of {header.length} bytes"
        return None

    def _count(self, header: wire.OptionHeader) -> None:
        self._options += 1
        self._input_bytes += wire.OPTION_HEADER_BYTES + header.length
        self._option = header.option

    # --- options

    def _dispatch(self, data: bytes) -> None:
        if self._lacks_tls(self._option):
            return self._refuse_without_tls()
        rule = _RULES.get(self._option)
        if rule is None:
            return self._refuse_unknown()
        if data and not rule.takes_data:
            return self._refuse(
                self._option, Rep.ERR_INVALID, f"{Opt(self._option).name} takes no data, not {len(data)} bytes"
            )
        try:
            rule.act(self, data)
        except wire.Malformed as error:
            self._refuse(self._option, Rep.ERR_INVALID, str(error))
        except wire.TooBig as error:
            self._refuse(self._option, Rep.ERR_TOO_BIG, str(error))

    def _abort(self, _data: bytes) -> None:
        self._output.append(wire.reply(Opt.ABORT, Rep.ACK))
        self._end("the client aborted the negotiation")

    def _list(self, _data: bytes) -> None:
        self._event = ListExports()
        self._step(Step.NAMES_WANTED)

    def _start_tls(self, _data: bytes) -> None:
        if self._tls is TlsOffer.NONE:
            return self._refuse(Opt.STARTTLS, Rep.ERR_UNSUP, "this server does not do TLS")
        if self._secured:
            return self._refuse(Opt.STARTTLS, Rep.ERR_INVALID, "TLS has been started already")
        self._output.append(wire.reply(Opt.STARTTLS, Rep.ACK))
        self._event = StartTls(bytes(self._input))
        self._input.clear()
        return self._step(Step.TLS_WANTED)

    def _structured_reply(self, _data: bytes) -> None:
        if self._negotiated.extended:
            return self._refuse(Opt.STRUCTURED_REPLY, Rep.ERR_EXT_HEADER_REQD, "extended headers are already in use")
        # Repeated, it is acknowledged again: a client that took an error for "off" would misread every reply.
        self._negotiated.structured = True
        return self._acknowledge(Opt.STRUCTURED_REPLY)

    def _extended_headers(self, _data: bytes) -> None:
        self._negotiated.extended = True
        self._acknowledge(Opt.EXTENDED_HEADERS)

    def _export_name(self, data: bytes) -> None:
        try:
            name = wire.decode_string(data, "export name")
        except wire.Malformed as error:
            return self._end(str(error))
        return self._ask(_Pending(Opt.EXPORT_NAME, name))

    def _info(self, data: bytes) -> None:
        request = wire.decode_info_request(data)
        self._ask(_Pending(Opt(self._option), request.name, infos=request.infos))

    def _list_contexts(self, data: bytes) -> None:
        self._require_chunks()
        request = wire.decode_context_request(data)
        since = offer.instants_named(request.queries)
        self._ask(
            _Pending(Opt.LIST_META_CONTEXT, request.name, queries=request.queries),
            since,
            instants=offer.CHANGED_SINCE in request.queries,
        )

    def _set_contexts(self, data: bytes) -> None:
        self._forget_contexts()
        self._require_chunks()
        request = wire.decode_context_request(data)
        since = offer.instants_named(request.queries)
        self._ask(_Pending(Opt.SET_META_CONTEXT, request.name, queries=request.queries), since)

    def _require_chunks(self) -> None:
        if not self._negotiated.chunked:
            raise wire.Malformed("metadata contexts need structured replies or extended headers first")

    def _forget_contexts(self) -> None:
        """The specification replaces the old selection even where the new one fails."""
        self._negotiated.contexts_of, self._negotiated.contexts = None, []

    # --- options whose export is known

    def _finish_export_name(self, pending: _Pending, facts: Facts) -> None:
        flags = offer.transmission_flags(facts, self._negotiated, pending.name)
        zeroes = HandshakeFlag.NO_ZEROES not in self._client
        self._output.append(wire.export_name_answer(facts.size, flags, zeroes=zeroes))
        self._enter(pending.name)

    def _finish_info(self, pending: _Pending, facts: Facts) -> None:
        flags = offer.transmission_flags(facts, self._negotiated, pending.name)
        self._output.append(offer.information(pending.option, facts, flags, pending.infos))
        if pending.option is not Opt.GO:
            return self._acknowledge(pending.option)
        self._output.append(wire.reply(Opt.GO, Rep.ACK))
        return self._enter(pending.name)

    def _finish_list_contexts(self, pending: _Pending, facts: Facts) -> None:
        for name in offer.contexts_listed(pending.queries, facts):
            self._output.append(wire.reply_meta_context(pending.option, 0, name))
        self._acknowledge(pending.option)

    def _finish_set_contexts(self, pending: _Pending, facts: Facts) -> None:
        self._negotiated.contexts_of = pending.name
        self._negotiated.contexts = list(enumerate(offer.contexts_selected(pending.queries, facts), start=1))
        for context, name in self._negotiated.contexts:
            self._output.append(wire.reply_meta_context(pending.option, context, name))
        self._acknowledge(pending.option)

    # --- ends of an option

    def _ask(self, pending: _Pending, since: tuple[str, ...] = (), *, instants: bool = False) -> None:
        self._pending = pending
        self._event = OpenExport(pending.name, since, instants)
        self._step(Step.EXPORT_WANTED)

    def _acknowledge(self, option: int) -> None:
        self._output.append(wire.reply(option, Rep.ACK))
        self._step(Step.ANSWERED)

    def _refuse(self, option: int, kind: Rep, message: str) -> None:
        self._output.append(wire.reply_error(option, kind, message))
        self._step(Step.ANSWERED)

    def _refuse_unknown(self) -> None:
        self._refuse(self._option, Rep.ERR_UNSUP, f"this server does not know option {self._option}")

    def _refuse_without_tls(self) -> None:
        self._refuse(self._option, Rep.ERR_TLS_REQD, "this server requires TLS: start it first")

    def _enter(self, name: str) -> None:
        negotiated = self._negotiated
        self._event = Enter(
            name=name,
            structured=negotiated.structured and not negotiated.extended,
            extended=negotiated.extended,
            contexts=tuple(negotiated.contexts_for(name)),
            leftover=bytes(self._input),
        )
        self._input.clear()
        self._step(Step.EXPORT_TAKEN)

    def _end(self, reason: str) -> None:
        self._event = End(reason)
        self._input.clear()
        self._step(Step.OVER)

    def _take(self, count: int) -> bytes | None:
        if len(self._input) < count:
            return None
        taken = bytes(self._input[:count])
        del self._input[:count]
        return taken

    def _step(self, step: Step) -> None:
        self._state = TRANSITIONS[self._state][step]


@dataclass(frozen=True)
class _Rule:
    act: Callable[[Handshake, bytes], None]
    takes_data: bool = False


_READERS: dict[State, Callable[[Handshake], bool]] = {
    State.FLAGS: Handshake._read_flags,
    State.OPTIONS: Handshake._read_option,
    State.SKIPPING: Handshake._read_skipped,
}

_RULES: dict[int, _Rule] = {
    Opt.EXPORT_NAME: _Rule(Handshake._export_name, takes_data=True),
    # It may not, but a server should ignore it rather than refuse to be left.
    Opt.ABORT: _Rule(Handshake._abort, takes_data=True),
    Opt.LIST: _Rule(Handshake._list),
    Opt.STARTTLS: _Rule(Handshake._start_tls),
    Opt.INFO: _Rule(Handshake._info, takes_data=True),
    Opt.GO: _Rule(Handshake._info, takes_data=True),
    Opt.STRUCTURED_REPLY: _Rule(Handshake._structured_reply),
    Opt.LIST_META_CONTEXT: _Rule(Handshake._list_contexts, takes_data=True),
    Opt.SET_META_CONTEXT: _Rule(Handshake._set_contexts, takes_data=True),
    Opt.EXTENDED_HEADERS: _Rule(Handshake._extended_headers),
}

_FINISHERS: dict[Opt, Callable[[Handshake, _Pending, Facts], None]] = {
    Opt.EXPORT_NAME: Handshake._finish_export_name,
    Opt.INFO: Handshake._finish_info,
    Opt.GO: Handshake._finish_info,
    Opt.LIST_META_CONTEXT: Handshake._finish_list_contexts,
    Opt.SET_META_CONTEXT: Handshake._finish_set_contexts,
}
