"""`cdp retention`: what a volume keeps, in what space, and what gives way; the budget that all volumes share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cdp.cli.options import JsonOption, StoreOption, opened
from cdp.cli.output import counted, human_bytes, human_span, human_time, print_facts, print_json, print_table
from cdp.errors import Invalid
from cdp.facts import PinFacts, RetentionFacts, SpaceFacts, StoreRetentionFacts
from cdp.sizes import parse_size

TERMS_HELP = "TIME: 90s, 15m (minutes), 24h, 2d, 2w, 1y, 1d12h, 0 or forever, back from the newest write. SIZE: 10GiB, 512M, bytes, or none"


def _option(metavar: str, text: str) -> Any:
    return typer.Option(metavar=metavar, help=text, show_default=False)


def retention(
    context: typer.Context,
    *,
    volume: Annotated[
        str | None, typer.Argument(metavar="VOLUME", help="Name (or ID) of the volume.", show_default=False)
    ] = None,
    every_write: Annotated[str | None, _option("TIME", "Keep every write for so long.")] = None,
    minutes: Annotated[str | None, _option("TIME", "Keep one instant a minute for so long.")] = None,
    hours: Annotated[str | None, _option("TIME", "Keep one instant an hour for so long.")] = None,
    days: Annotated[str | None, _option("TIME", "Keep one instant a day for so long.")] = None,
    minimum: Annotated[str | None, _option("TIME", "History of so long is not given up for space.")] = None,
    budget: Annotated[str | None, _option("SIZE", "Disk space for the volume with its history.")] = None,
    full: Annotated[
        str | None, _option("drop-oldest|stall|fail", "When it is used up: history goes, writes wait, or they fail.")
    ] = None,
    thin: Annotated[
        bool | None, typer.Option("--thin/--no-thin", help="Allow a budget that the live disk could outgrow.")
    ] = None,
    store_budget: Annotated[str | None, _option("SIZE", "Without VOLUME: what all volumes share.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show or change what a volume keeps. Without settings nothing changes; without VOLUME it is about the store."""
    given = {
        "every_write": every_write,
        "minutes": minutes,
        "hours": hours,
        "days": days,
        "minimum": minimum,
        "budget": None if budget is None else _bytes(budget),
        "full": full,
        "thin": None if thin is None else "yes" if thin else "no",
    }
    settings = {name: text for name, text in given.items() if text is not None}
    if volume is None:
        _of_store(context, store, settings, store_budget, as_json=as_json)
        return
    if store_budget is not None:
        raise Invalid("--store-budget is for all volumes: leave VOLUME out, or give --budget for the one")
    with opened(context, store) as verbs:
        facts = verbs.set_retention(volume, settings) if settings else verbs.retention(volume)
    if as_json:
        print_json(facts)
    else:
        print_volume(facts)


def _of_store(
    context: typer.Context, store: Any, settings: dict[str, str], budget: str | None, *, as_json: bool
) -> None:
    thin = settings.pop("thin", "no") == "yes"
    if settings:
        raise Invalid(
            "these settings are a volume's: say which VOLUME. For all of them together there is --store-budget"
        )
    with opened(context, store) as verbs:
        if budget is None:
            facts = verbs.store_retention()
        else:
            text = _bytes(budget)
            facts = verbs.set_store_budget(None if text == "none" else int(text), thin=thin)
    if as_json:
        print_json(facts)
    else:
        _print_store(facts)


def _bytes(text: str) -> str:
    return text if text == "none" else str(parse_size(text))


def print_volume(facts: RetentionFacts) -> None:
    """The policy, and what it means now."""
    policy = facts.policy
    set_at = "the default" if policy.set_stamp is None else f"set {human_time(policy.set_stamp)}"
    print_facts({"volume": facts.volume.name, "policy": set_at, **_settings(facts), **meaning(facts)})


def _settings(facts: RetentionFacts) -> dict[str, str | None]:
    policy = facts.policy
    texts = dict(policy.settings)
    budget = "none" if policy.budget_bytes is None else human_bytes(policy.budget_bytes)
    return {
        "every write": f"for {texts['every_write']}",
        "one a minute": f"for {texts['minutes']}",
        "one an hour": f"for {texts['hours']}",
        "one a day": f"for {texts['days']}",
        "minimum": texts["minimum"],
        "budget": budget + (" (thin)" if policy.thin else ""),
        "when full": policy.full,
    }


def policy_line(facts: RetentionFacts) -> str:
    """The policy in one line, as `cdp retention` takes it."""
    texts = facts.policy.settings
    words = [f"--{name.replace('_', '-')} {text}" for name, text in texts.items() if name != "thin"]
    return " ".join([*words, *(["--thin"] if facts.policy.thin else [])])


def meaning(facts: RetentionFacts) -> dict[str, str | None]:
    """What the policy means now: for `cdp retention` and `cdp show`."""
    broken = ", the minimum is broken" if facts.minimum_broken else ", shortened for space" if facts.shortened else ""
    return {
        "every write since": f"lsn:{facts.horizon.lsn} ({human_time(facts.horizon.stamp)})",
        "kept before that": counted(facts.points, "instant"),
        "history": f"reaches back {human_span(facts.reached_seconds)} of {human_span(facts.promised_seconds)}{broken}",
        "space": _space(facts.space),
        "condition": facts.condition,
        "time until full": None
        if facts.space.seconds_until_full is None
        else f"{human_span(facts.space.seconds_until_full)}, at the pace of the last hour",
        "pins": "; ".join(_pin(pin) for pin in facts.pins) or None,
    }


def _space(space: SpaceFacts) -> str:
    of = "" if space.allowed_bytes is None else f" of {human_bytes(space.allowed_bytes)}"
    parts = [
        f"{human_bytes(space.used_bytes)}{of} used",
        f"{human_bytes(space.dead_bytes)} can be freed" if space.dead_bytes else "",
        f"{human_bytes(space.shared_bytes)} shared with clones" if space.shared_bytes else "",
        f"{human_bytes(space.disk_free_bytes)} free on disk" if space.disk_free_bytes is not None else "",
        f"{space.write_amplification:.2f} bytes written by byte of the clients'" if space.write_amplification else "",
    ]
    return ", ".join(part for part in parts if part)


def _pin(pin: PinFacts) -> str:
    held = "" if not pin.held_bytes else f", holds back up to {human_bytes(pin.held_bytes)}"
    return (f"bookmark {pin.name}" if pin.name else f"{pin.kind} of lsn:{pin.lsn}") + held


def _print_store(facts: StoreRetentionFacts) -> None:
    budget = "none" if facts.budget_bytes is None else human_bytes(facts.budget_bytes)
    print_facts(
        {
            "store budget": budget + (" (thin)" if facts.thin else ""),
            "used": human_bytes(facts.used_bytes),
            "free on disk": human_bytes(facts.disk_free_bytes),
        }
    )
    if facts.volumes:
        print()
        rows = [(it.name or it.id, human_bytes(it.used_bytes), human_bytes(it.own_bytes)) for it in facts.volumes]
        print_table(("VOLUME", "USED", "ITS OWN"), rows, right=(1, 2))
