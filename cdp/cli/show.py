"""`cdp show`: everything about one volume."""

from __future__ import annotations

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import bookmark_terms, counted, human_bytes, human_time, print_facts, print_json, print_table, warn
from cdp.cli.retention import meaning, policy_line
from cdp.facts import InstantFacts, OriginFacts, ParentFacts, ShowFacts


def show(
    context: typer.Context, volume: VolumeArgument, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Show a volume: its history's range, its journal, its bookmarks, and what is wrong with it."""
    with opened(context, store) as verbs:
        facts = verbs.show(volume)
    if as_json:
        print_json(facts)
        return
    _print(facts)
    for problem in (*facts.volume.problems, *facts.faults):
        warn(problem)


def _print(facts: ShowFacts) -> None:
    it, status = facts.volume, facts.status or {}
    journal = status.get("journal_bytes")
    poisoned = status.get("poisoned")
    print_facts(
        {
            "name": it.name,
            "id": it.id,
            "state": it.state,
            "size": None if it.size is None else f"{human_bytes(it.size)} ({it.size} bytes)",
            "block size": None if it.block_size is None else str(it.block_size),
            "created": None if it.created_stamp is None else human_time(it.created_stamp),
            "deleted": None if it.deleted_stamp is None else human_time(it.deleted_stamp),
            "origin": _origin(it.origin),
            "clone of": _parent(it.parent),
            "served": f"yes, to {counted(facts.uses, 'session')}" if facts.open else "no",
            "oldest": _instant(facts.oldest),
            "latest": _instant(facts.latest),
            "durable": f"lsn:{status['durable_lsn']}" if "durable_lsn" in status else None,
            "journal": f"{human_bytes(journal)} in {counted(int(status.get('segments') or 0), 'segment')}"
            if isinstance(journal, int)
            else None,
            "poisoned": poisoned if isinstance(poisoned, str) else None,
            "policy": None if facts.retention is None else policy_line(facts.retention),
            **({} if facts.retention is None else meaning(facts.retention)),
        }
    )
    if facts.bookmarks:
        print()
        rows = [
            (mark.name, f"lsn:{mark.lsn}", human_time(mark.stamp), bookmark_terms(mark)) for mark in facts.bookmarks
        ]
        print_table(("BOOKMARK", "LSN", "TIME", ""), rows)


def _origin(origin: OriginFacts | None) -> str | None:
    return None if origin is None else f"{origin.path} ({origin.kind}, {human_bytes(origin.size)})"


def _parent(parent: ParentFacts | None) -> str | None:
    return None if parent is None else f"{parent.name} at lsn:{parent.lsn} ({human_time(parent.stamp)}), {parent.id}"


def _instant(instant: InstantFacts | None) -> str | None:
    return None if instant is None else f"lsn:{instant.lsn} ({human_time(instant.stamp)})"
