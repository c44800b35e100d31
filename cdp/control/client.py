"""A store whose daemon runs: the verbs, over its control socket.

Invariants:
- Same facts and same errors as `cdp.store.LocalStore`: who calls cannot tell the difference.
- Whether a daemon is there is asked once, before the first verb: an answer within ANSWER_SECONDS. A daemon that takes connections but does
  not answer is left to the locks: looking works without it, changing is Busy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from cdp import config, sockets
from cdp.attach.left import Wish
from cdp.changes import Differences, Extents, Point
from cdp.control.group_client import RemoteGroups
from cdp.control.wire import PREFIX, from_answer
from cdp.errors import CdpError, Closed
from cdp.facts import (
    AttachmentFacts,
    BookmarkFacts,
    CompactFacts,
    DiffFacts,
    HealthFacts,
    InstantFacts,
    LogFacts,
    ResizeFacts,
    RetentionFacts,
    RollbackFacts,
    ScratchFacts,
    ShowFacts,
    StoreRetentionFacts,
    VerifyFacts,
    VolumeFacts,
)
from cdp.store import Progress
from cdp.when import When

ANSWER_SECONDS = 5.0
Facts = TypeVar("Facts")


class RemoteStore:
    """The verbs of `cdp.store.Store`, done by the daemon. Close it when done."""

    def __init__(self, store: Path) -> None:
        self._stack = ExitStack()
        name = self._stack.enter_context(sockets.unix_name(config.control_socket(store)))
        # No bound on an answer: checking a volume takes as long as it takes.
        timeout = httpx.Timeout(None, connect=ANSWER_SECONDS)
        transport = httpx.HTTPTransport(uds=name)
        base = f"http://cdp{PREFIX}"
        self._http = self._stack.enter_context(httpx.Client(transport=transport, base_url=base, timeout=timeout))
        self.groups = RemoteGroups(self._ask)

    def close(self) -> None:
        """Gives the connection back."""
        self._stack.close()

    def answers(self) -> bool:
        """Whether the daemon is there."""
        try:
            self.health()
        except CdpError:
            return False
        return True

    def health(self) -> HealthFacts:
        """Answers within ANSWER_SECONDS, or Closed."""
        return self._facts(HealthFacts, "GET", "/health", timeout=ANSWER_SECONDS)

    def list(self) -> list[VolumeFacts]:
        return TypeAdapter(list[VolumeFacts]).validate_python(self._ask("GET", "/volumes"))

    def show(self, volume: str) -> ShowFacts:
        return self._facts(ShowFacts, "GET", _path(volume))

    def create(self, name: str, size: int | None, block_size: int, origin: str | None) -> VolumeFacts:
        body = {"name": name, "size": size, "block_size": block_size, "origin": origin}
        return self._facts(VolumeFacts, "POST", "/volumes", json=body)

    def rename(self, volume: str, name: str) -> VolumeFacts:
        return self._facts(VolumeFacts, "POST", _path(volume, "rename"), json={"name": name})

    def resize(self, volume: str, size: int) -> ResizeFacts:
        return self._facts(ResizeFacts, "POST", _path(volume, "resize"), json={"size": size})

    def delete(self, volume: str, *, now: bool) -> VolumeFacts:
        return self._facts(VolumeFacts, "DELETE", _path(volume), params={"now": now})

    def undelete(self, volume: str) -> VolumeFacts:
        return self._facts(VolumeFacts, "POST", _path(volume, "undelete"))

    def log(
        self, volume: str, since: When, until: When, *, interval: int | None = None, list_flushes: bool = False
    ) -> LogFacts:
        asked = {"since": str(since), "until": str(until), "list_flushes": list_flushes}
        if interval is not None:
            asked["interval"] = interval
        return self._facts(LogFacts, "GET", _path(volume, "log"), params=asked)

    def bookmark(
        self, volume: str, name: str, at: When, *, force: bool, held: bool = False, expires_stamp: int | None = None
    ) -> BookmarkFacts:
        body = {"name": name, "at": str(at), "force": force, "held": held, "expires_stamp": expires_stamp}
        return self._facts(BookmarkFacts, "POST", _path(volume, "bookmarks"), json=body)

    def remove_bookmark(self, volume: str, name: str) -> BookmarkFacts:
        return self._facts(BookmarkFacts, "DELETE", _path(volume, "bookmarks", name))

    def resolve(self, volume: str, wanted: When) -> InstantFacts:
        return self._facts(InstantFacts, "GET", _path(volume, "instant"), params={"at": str(wanted)})

    @contextmanager
    def diff(self, volume: str, since: Point, until: Point) -> Iterator[Differences]:
        asked = {"since": str(since), "until": str(until)}
        with _connected(), self._http.stream("GET", _path(volume, "diff"), params=asked) as answer:
            if answer.is_error:
                answer.read()
                raise from_answer(answer.status_code, _json(answer.text))
            lines = answer.iter_lines()
            told = _json(next(lines, ""))
            if "facts" not in told:
                raise from_answer(answer.status_code, told)
            yield Differences(TypeAdapter(DiffFacts).validate_python(told["facts"]), _pages(volume, lines))

    @contextmanager
    def hold(self, volume: str, lsn: int) -> Iterator[None]:
        # It is held as long as the connection is: whatever ends us lets go of it.
        with _connected(), self._http.stream("GET", _path(volume, "hold"), params={"lsn": lsn}) as answer:
            if answer.is_error:
                answer.read()
                raise from_answer(answer.status_code, _json(answer.text))
            yield

    def accept_origin(self, volume: str) -> VolumeFacts:
        return self._facts(VolumeFacts, "POST", _path(volume, "accept-origin"))

    def retention(self, volume: str) -> RetentionFacts:
        return self._facts(RetentionFacts, "GET", _path(volume, "retention"))

    def set_retention(self, volume: str, settings: Mapping[str, str]) -> RetentionFacts:
        return self._facts(RetentionFacts, "POST", _path(volume, "retention"), json={"settings": dict(settings)})

    def store_retention(self) -> StoreRetentionFacts:
        return self._facts(StoreRetentionFacts, "GET", "/retention")

    def set_store_budget(self, budget: int | None, *, thin: bool) -> StoreRetentionFacts:
        return self._facts(StoreRetentionFacts, "POST", "/retention", json={"budget": budget, "thin": thin})

    def rollback(self, volume: str, to: When | None, *, force: bool) -> RollbackFacts:
        body = {"to": None if to is None else str(to), "force": force}
        return self._facts(RollbackFacts, "POST", _path(volume, "rollback"), json=body)

    def clone(self, volume: str, at: When, name: str) -> VolumeFacts:
        return self._facts(VolumeFacts, "POST", _path(volume, "clone"), json={"name": name, "at": str(at)})

    def scratch_views(self, volume: str) -> tuple[ScratchFacts, ...]:
        return TypeAdapter(tuple[ScratchFacts, ...]).validate_python(self._ask("GET", _path(volume, "scratch")))

    def release_scratch(self, volume: str, scratch_id: str, *, force: bool) -> ScratchFacts:
        return self._facts(ScratchFacts, "DELETE", _path(volume, "scratch", scratch_id), params={"force": force})

    def attach(self, wish: Wish) -> AttachmentFacts:
        return self._facts(AttachmentFacts, "POST", "/attachments", json=asdict(wish))

    def detach(self, device: str) -> AttachmentFacts:
        return self._facts(AttachmentFacts, "DELETE", "/attachments", params={"device": device})

    def attachments(self) -> tuple[AttachmentFacts, ...]:
        return TypeAdapter(tuple[AttachmentFacts, ...]).validate_python(self._ask("GET", "/attachments"))

    def compact(self, volume: str) -> CompactFacts:
        return self._facts(CompactFacts, "POST", _path(volume, "compact"))

    def verify(
        self, volume: str, progress: Progress | None, *, rate: int | None = None, restart: bool = False
    ) -> VerifyFacts:
        asked: dict[str, int | bool] = {"restart": restart}
        if rate is not None:
            asked["rate"] = rate
        with _connected(), self._http.stream("POST", _path(volume, "verify"), params=asked) as answer:
            if answer.is_error:
                answer.read()
                raise from_answer(answer.status_code, _json(answer.text))
            for line in answer.iter_lines():
                told = _json(line)
                if "findings" in told:
                    return TypeAdapter(VerifyFacts).validate_python(told)
                if "kind" in told:
                    raise from_answer(answer.status_code, told)
                if progress is not None:
                    progress(int(told["done"]), int(told["total"]))
        raise Closed(f"the daemon ended before it had checked {volume}")

    def _facts(self, kind: type[Facts], method: str, path: str, **request: Any) -> Facts:
        return TypeAdapter(kind).validate_python(self._ask(method, path, **request))

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        with _connected():
            answer = self._http.request(method, path, **request)
        if answer.is_error:
            raise from_answer(answer.status_code, _json(answer.text))
        return _json(answer.text)


def _pages(volume: str, lines: Iterator[str]) -> Iterator[Extents]:
    for line in lines:
        told = _json(line)
        if "extents" in told:
            yield [(int(offset), int(length)) for offset, length in told["extents"]]
        elif "end" in told:
            return
        else:
            raise from_answer(500, told)
    raise Closed(f"the daemon ended before it had compared {volume}")


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise Closed(f"the daemon does not answer: {error}") from error
    except ValidationError as error:
        raise CdpError(f"the daemon's answer is not understood; is it of another version? {error}") from error


def _path(*parts: str) -> str:
    return "/volumes/" + "/".join(quote(part, safe="") for part in parts)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}
