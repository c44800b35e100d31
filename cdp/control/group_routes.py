"""The part of the control API that is about groups of volumes (cdp/group_verbs.py); the invariants are those of cdp/control/api.py."""

from __future__ import annotations

from fastapi import FastAPI

from cdp import when
from cdp.control.bodies import Body, NewBookmark, NewName, NewRollback
from cdp.control.wire import PREFIX
from cdp.group_facts import GroupBookmarkFacts, GroupFacts, GroupInstantFacts, GroupRollbackFacts, GroupShowFacts
from cdp.group_verbs import GroupVerbs

_ONE = f"{PREFIX}/groups/{{group}}"


class NewGroup(Body):
    name: str
    volumes: list[str]


class NewGroupVolumes(Body):
    volumes: list[str]


def add_group_routes(app: FastAPI, groups: GroupVerbs) -> None:
    """Adds the verbs of `cdp group`."""
    _membership_routes(app, groups)
    _instant_routes(app, groups)


def _membership_routes(app: FastAPI, groups: GroupVerbs) -> None:
    @app.get(f"{PREFIX}/groups")
    def _list_groups() -> list[GroupFacts]:
        return groups.list()

    @app.post(f"{PREFIX}/groups", status_code=201)
    def _create_group(body: NewGroup) -> GroupFacts:
        return groups.create(body.name, body.volumes)

    @app.get(_ONE)
    def _show_group(group: str) -> GroupShowFacts:
        return groups.show(group)

    @app.delete(_ONE)
    def _delete_group(group: str) -> GroupFacts:
        return groups.delete(group)

    @app.post(f"{_ONE}/rename")
    def _rename_group(group: str, body: NewName) -> GroupFacts:
        return groups.rename(group, body.name)

    @app.post(f"{_ONE}/volumes")
    def _add_to_group(group: str, body: NewGroupVolumes) -> GroupFacts:
        return groups.add(group, body.volumes)

    @app.delete(f"{_ONE}/volumes/{{volume}}")
    def _remove_from_group(group: str, volume: str) -> GroupFacts:
        return groups.remove(group, volume)


def _instant_routes(app: FastAPI, groups: GroupVerbs) -> None:
    @app.get(f"{_ONE}/instant")
    def _group_instant(group: str, at: str) -> GroupInstantFacts:
        return groups.resolve(group, when.parse(at))

    @app.post(f"{_ONE}/bookmarks", status_code=201)
    def _group_bookmark(group: str, body: NewBookmark) -> GroupBookmarkFacts:
        at = when.parse(body.at)
        return groups.bookmark(group, body.name, at, force=body.force, held=body.held, expires_stamp=body.expires_stamp)

    @app.delete(f"{_ONE}/bookmarks/{{name}}")
    def _remove_group_bookmark(group: str, name: str) -> GroupBookmarkFacts:
        return groups.remove_bookmark(group, name)

    @app.post(f"{_ONE}/rollback")
    def _group_rollback(group: str, body: NewRollback) -> GroupRollbackFacts:
        """`to` null: to before the newest rollback of the group."""
        return groups.rollback(group, None if body.to is None else when.parse(body.to), force=body.force)
