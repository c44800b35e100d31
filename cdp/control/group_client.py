"""Groups of a store whose daemon runs: the verbs of cdp/group_verbs.py, over its control socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

from cdp.group_facts import GroupBookmarkFacts, GroupFacts, GroupInstantFacts, GroupRollbackFacts, GroupShowFacts
from cdp.when import When

Facts = TypeVar("Facts")


class RemoteGroups:
    """The verbs, done by the daemon. `ask` makes a request and answers with the JSON (cdp/control/client.py)."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask

    def list(self) -> list[GroupFacts]:
        return TypeAdapter(list[GroupFacts]).validate_python(self._ask("GET", "/groups"))

    def show(self, group: str) -> GroupShowFacts:
        return self._facts(GroupShowFacts, "GET", _path(group))

    def create(self, name: str, volumes: Sequence[str]) -> GroupFacts:
        return self._facts(GroupFacts, "POST", "/groups", json={"name": name, "volumes": [*volumes]})

    def rename(self, group: str, name: str) -> GroupFacts:
        return self._facts(GroupFacts, "POST", _path(group, "rename"), json={"name": name})

    def add(self, group: str, volumes: Sequence[str]) -> GroupFacts:
        return self._facts(GroupFacts, "POST", _path(group, "volumes"), json={"volumes": [*volumes]})

    def remove(self, group: str, volume: str) -> GroupFacts:
        return self._facts(GroupFacts, "DELETE", _path(group, "volumes", volume))

    def delete(self, group: str) -> GroupFacts:
        return self._facts(GroupFacts, "DELETE", _path(group))

    def resolve(self, group: str, wanted: When) -> GroupInstantFacts:
        return self._facts(GroupInstantFacts, "GET", _path(group, "instant"), params={"at": str(wanted)})

    def bookmark(
        self, group: str, name: str, at: When, *, force: bool, held: bool = False, expires_stamp: int | None = None
    ) -> GroupBookmarkFacts:
        body = {"name": name, "at": str(at), "force": force, "held": held, "expires_stamp": expires_stamp}
        return self._facts(GroupBookmarkFacts, "POST", _path(group, "bookmarks"), json=body)

    def remove_bookmark(self, group: str, name: str) -> GroupBookmarkFacts:
        return self._facts(GroupBookmarkFacts, "DELETE", _path(group, "bookmarks", name))

    def rollback(self, group: str, to: When | None, *, force: bool) -> GroupRollbackFacts:
        body = {"to": None if to is None else str(to), "force": force}
        return self._facts(GroupRollbackFacts, "POST", _path(group, "rollback"), json=body)

    def _facts(self, kind: type[Facts], method: str, path: str, **request: Any) -> Facts:
        return TypeAdapter(kind).validate_python(self._ask(method, path, **request))


def _path(*parts: str) -> str:
    return "/groups/" + "/".join(quote(part, safe="") for part in parts)
