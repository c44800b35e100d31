"""The control API: what `cdp.store.Store` offers, as HTTP on the store's control socket (mode 0600; cdp.control.peers).

Invariants:
- An endpoint does nothing but call the store: what it means is said there.
- An answer is the fact of `cdp.facts` as JSON; an error is `{"kind", "message"}` (cdp.control.wire.py), whoever refused: us, or the
  validation of the request.
- Calls that wait run in threads, at most as many as the event loop's limit; none of them holds up a session.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client.registry import Collector
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from cdp import __version__, when
from cdp.attach.left import TIMEOUT_SECONDS, Wish
from cdp.changes import Point, parse_point
from cdp.control.bodies import Body, NewBookmark, NewName, NewRollback
from cdp.control.group_routes import add_group_routes
from cdp.control.wire import PREFIX, to_answer
from cdp.errors import CdpError, Closed, Invalid, Io, NotFound
from cdp.facts import (
    AttachmentFacts,
    BookmarkFacts,
    CompactFacts,
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
from cdp.metrics.page import add_page
from cdp.store import Progress, Store
from cdp.timeline import INTERVAL_MAX

LSN_MAX = (1 << 64) - 1
HOLD_SECONDS = 1.0
"""Between two looks whether the client of a hold is still there."""


class Refusal(BaseModel):
    """Why something was not done: a class of `cdp.errors`, and a sentence."""

    kind: str
    message: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal, "description": "It cannot be done as it was asked for."},
    "5XX": {"model": Refusal, "description": "It could not be done."},
}


_REFUSAL = {"$ref": "#/components/schemas/Refusal"}


class Lines(StreamingResponse):
    """JSON, a line at a time."""

    media_type = "application/x-ndjson"


class NewVolume(Body):
    name: str
    size: int | None = None
    block_size: int = 4096
    origin: str | None = None


class NewSize(Body):
    size: int


class NewClone(Body):
    name: str
    at: str = "latest"


class NewSettings(Body):
    settings: dict[str, str]


class NewBudget(Body):
    budget: int | None
    thin: bool = False


class NewAttachment(Body):
    export: str
    read_only: bool = False
    driver: str | None = None
    mount: str | None = None
    timeout_seconds: int = TIMEOUT_SECONDS


def control_app(
    store: Store, health: Callable[[], HealthFacts], stopping: threading.Event, metrics: Collector | None = None
) -> FastAPI:
    """The ASGI application over a store. `stopping`: once set, long work ends with Closed. `metrics`: what GET /metrics tells."""
    app = FastAPI(
        title="cdp",
        version=__version__,
        generate_unique_id_function=lambda route: route.name.strip("_"),
        responses=REFUSALS,
    )
    _describe(app)
    _answer_errors(app)
    _volume_routes(app, store)
    _history_routes(app, store)
    _hold_route(app, store, stopping)
    _diff_route(app, store, stopping)
    _verify_route(app, store, stopping)
    _retention_routes(app, store)
    _branch_routes(app, store)
    _attach_routes(app, store)
    add_group_routes(app, store.groups)
    if metrics is not None:
        add_page(app, metrics)

    @app.get(f"{PREFIX}/health")
    def _health() -> HealthFacts:
        return health()

    return app


def _describe(app: FastAPI) -> None:
    """The description says what is answered: a malformed request is refused as everything else is, not with FastAPI's own 422."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        told = described()
        for ways in told["paths"].values():
            for way in ways.values():
                way["responses"].pop("422", None)
                for kind in REFUSALS.keys() & way["responses"].keys():
                    # FastAPI takes it for the answer's own type, where that is not JSON.
                    way["responses"][kind]["content"] = {"application/json": {"schema": _REFUSAL}}
        for unused in ("HTTPValidationError", "ValidationError"):
            told["components"]["schemas"].pop(unused, None)
        return told

    app.openapi = openapi  # type: ignore[method-assign]


def _volume_routes(app: FastAPI, store: Store) -> None:
    @app.get(f"{PREFIX}/volumes")
    def _list() -> list[VolumeFacts]:
        return store.list()

    @app.post(f"{PREFIX}/volumes", status_code=201)
    def _create(body: NewVolume) -> VolumeFacts:
        return store.create(body.name, body.size, body.block_size, body.origin)

    @app.get(f"{PREFIX}/volumes/{{volume}}")
    def _show(volume: str) -> ShowFacts:
        return store.show(volume)

    @app.delete(f"{PREFIX}/volumes/{{volume}}")
    def _delete(volume: str, now: bool = False) -> VolumeFacts:
        return store.delete(volume, now=now)

    @app.post(f"{PREFIX}/volumes/{{volume}}/rename")
    def _rename(volume: str, body: NewName) -> VolumeFacts:
        return store.rename(volume, body.name)

    @app.post(f"{PREFIX}/volumes/{{volume}}/resize")
    def _resize(volume: str, body: NewSize) -> ResizeFacts:
        return store.resize(volume, body.size)

    @app.post(f"{PREFIX}/volumes/{{volume}}/undelete")
    def _undelete(volume: str) -> VolumeFacts:
        return store.undelete(volume)

    @app.post(f"{PREFIX}/volumes/{{volume}}/accept-origin")
    def _accept_origin(volume: str) -> VolumeFacts:
        return store.accept_origin(volume)


def _history_routes(app: FastAPI, store: Store) -> None:
    @app.get(f"{PREFIX}/volumes/{{volume}}/instant")
    def _instant(volume: str, at: str) -> InstantFacts:
        return store.resolve(volume, when.parse(at))

    @app.get(f"{PREFIX}/volumes/{{volume}}/log")
    def _log(
        volume: str,
        since: str = "oldest",
        until: str = "latest",
        interval: Annotated[int, Query(ge=1, le=INTERVAL_MAX)] | None = None,
        list_flushes: bool = False,
    ) -> LogFacts:
        first, last = when.parse(since), when.parse(until)
        return store.log(volume, first, last, interval=interval, list_flushes=list_flushes)

    @app.post(f"{PREFIX}/volumes/{{volume}}/bookmarks", status_code=201)
    def _bookmark(volume: str, body: NewBookmark) -> BookmarkFacts:
        at = when.parse(body.at)
        return store.bookmark(volume, body.name, at, force=body.force, held=body.held, expires_stamp=body.expires_stamp)

    @app.delete(f"{PREFIX}/volumes/{{volume}}/bookmarks/{{name}}")
    def _remove_bookmark(volume: str, name: str) -> BookmarkFacts:
        return store.remove_bookmark(volume, name)


def _branch_routes(app: FastAPI, store: Store) -> None:
    @app.post(f"{PREFIX}/volumes/{{volume}}/rollback")
    def _rollback(volume: str, body: NewRollback) -> RollbackFacts:
        """`to` null: undoes the newest rollback."""
        return store.rollback(volume, None if body.to is None else when.parse(body.to), force=body.force)

    @app.post(f"{PREFIX}/volumes/{{volume}}/clone", status_code=201)
    def _clone(volume: str, body: NewClone) -> VolumeFacts:
        return store.clone(volume, when.parse(body.at), body.name)

    @app.get(f"{PREFIX}/volumes/{{volume}}/scratch")
    def _scratch_views(volume: str) -> tuple[ScratchFacts, ...]:
        return store.scratch_views(volume)

    @app.delete(f"{PREFIX}/volumes/{{volume}}/scratch/{{scratch_id}}")
    def _release_scratch(volume: str, scratch_id: str, force: bool = False) -> ScratchFacts:
        return store.release_scratch(volume, scratch_id, force=force)


def _attach_routes(app: FastAPI, store: Store) -> None:
    @app.get(f"{PREFIX}/attachments")
    def _attachments() -> tuple[AttachmentFacts, ...]:
        return store.attachments()

    @app.post(f"{PREFIX}/attachments", status_code=201)
    def _attach(body: NewAttachment) -> AttachmentFacts:
        """`export`: VOLUME, VOLUME@WHEN or VOLUME@WHEN+scratch=ID. Nothing is mounted: `mount` tells where the caller is going to."""
        return store.attach(Wish(**body.model_dump()))

    @app.delete(f"{PREFIX}/attachments")
    def _detach(device: str) -> AttachmentFacts:
        return store.detach(device)


def _diff_route(app: FastAPI, store: Store, stopping: threading.Event) -> None:
    @app.get(f"{PREFIX}/volumes/{{volume}}/diff", response_class=Lines)
    def _diff(volume: str, since: str, until: str) -> Lines:
        """Lines of JSON: `{"facts"}`, then `{"extents": [[offset, length], …]}` again and again, then `{"end"}`; or an error."""
        points = (parse_point(since), parse_point(until))
        return Lines(_differences(store, volume, points, stopping))


def _differences(store: Store, volume: str, points: tuple[Point, Point], stopping: threading.Event) -> Iterator[str]:
    try:
        with store.diff(volume, *points) as found:
            yield json.dumps({"facts": asdict(found.facts)}) + "\n"
            for page in found.pages:
                if stopping.is_set():
                    raise Closed("the daemon is stopping")
                yield json.dumps({"extents": page}) + "\n"
        yield json.dumps({"end": True}) + "\n"
    except CdpError as error:
        yield json.dumps(to_answer(error)[1]) + "\n"


def _hold_route(app: FastAPI, store: Store, stopping: threading.Event) -> None:
    @app.get(f"{PREFIX}/volumes/{{volume}}/hold", response_class=Lines)
    def _hold(volume: str, lsn: Annotated[int, Query(ge=0, le=LSN_MAX)]) -> Lines:
        """Keeps an instant reachable until the client hangs up: an empty line now and then."""
        lines = _held(store, volume, lsn, stopping)
        # A refusal comes before the first line, and has to be the answer.
        return Lines(itertools.chain([next(lines)], lines))


def _held(store: Store, volume: str, lsn: int, stopping: threading.Event) -> Iterator[str]:
    with store.hold(volume, lsn):
        yield "\n"
        while not stopping.wait(HOLD_SECONDS):
            yield "\n"


def _retention_routes(app: FastAPI, store: Store) -> None:
    @app.get(f"{PREFIX}/retention")
    def _store_retention() -> StoreRetentionFacts:
        return store.store_retention()

    @app.post(f"{PREFIX}/retention")
    def _set_store_budget(body: NewBudget) -> StoreRetentionFacts:
        return store.set_store_budget(body.budget, thin=body.thin)

    @app.get(f"{PREFIX}/volumes/{{volume}}/retention")
    def _retention(volume: str) -> RetentionFacts:
        return store.retention(volume)

    @app.post(f"{PREFIX}/volumes/{{volume}}/retention")
    def _set_retention(volume: str, body: NewSettings) -> RetentionFacts:
        return store.set_retention(volume, body.settings)

    @app.post(f"{PREFIX}/volumes/{{volume}}/compact")
    def _compact(volume: str) -> CompactFacts:
        return store.compact(volume)


def _verify_route(app: FastAPI, store: Store, stopping: threading.Event) -> None:
    @app.post(f"{PREFIX}/volumes/{{volume}}/verify", response_class=Lines)
    def _verify(volume: str, rate: Annotated[int, Query(ge=0)] | None = None, restart: bool = False) -> Lines:
        """Lines of JSON: `{"done", "total"}` in bytes, again and again, then the facts, or an error."""
        work = partial(store.verify, volume, rate=rate, restart=restart)
        return Lines(_verification(work, volume, stopping))


class _GoneError(Exception):
    """The client no longer listens."""


class _Verification(Protocol):
    def __call__(self, *, progress: Progress) -> VerifyFacts: ...


def _verification(verify: _Verification, volume: str, stopping: threading.Event) -> Iterator[str]:
    # The newest progress counts: a client that reads slowly gets fewer lines, and the queue stays short.
    lines: queue.Queue[dict[str, object] | None] = queue.Queue()
    gone = threading.Event()

    def progress(done: int, total: int) -> None:
        if gone.is_set():
            raise _GoneError
        if stopping.is_set():
            raise Closed("the daemon is stopping")
        if lines.empty():
            lines.put({"done": done, "total": total})

    def work() -> None:
        try:
            lines.put(asdict(verify(progress=progress)))
        except CdpError as error:
            lines.put(dict(to_answer(error)[1]))
        except _GoneError:
            pass
        finally:
            lines.put(None)

    threading.Thread(target=work, name=f"verify {volume[:40]}", daemon=True).start()
    try:
        while (line := lines.get()) is not None:
            yield json.dumps(line) + "\n"
    finally:
        gone.set()


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(Exception)
    async def _bug(_: Request, error: Exception) -> JSONResponse:
        # The server logs it.
        return JSONResponse(to_answer(Io("internal error; the daemon's log has the details"))[1], 500)

    @app.exception_handler(CdpError)
    async def _ours(_: Request, error: CdpError) -> JSONResponse:
        status, body = to_answer(error)
        return JSONResponse(body, status)

    @app.exception_handler(RequestValidationError)
    async def _malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first.get("loc", ()))
        status, body = to_answer(Invalid(f"the request's {place} is wrong: {first.get('msg')}"))
        return JSONResponse(body, status)

    @app.exception_handler(HTTPException)
    async def _unknown(request: Request, error: HTTPException) -> JSONResponse:
        refusal = NotFound if error.status_code == 404 else Invalid
        body = to_answer(refusal(f"{request.method} {request.url.path}: {error.detail}"))[1]
        return JSONResponse(body, error.status_code)
