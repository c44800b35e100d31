"""Log lines: one an event, whatever is in it, and what it is about as fields."""

from __future__ import annotations

import json
import logging
from datetime import datetime

import pytest
import trio
from trio.testing import MockClock

from cdp.logs import JsonLines, Seldom, TextLines


def _record(message: str, *args: object, **more: object) -> logging.LogRecord:
    return logging.getLogger("cdp.test").makeRecord(
        "cdp.test", logging.WARNING, "file", 1, message, args, None, extra=dict(more)
    )


def test_json_has_the_sentence_and_what_it_is_about() -> None:
    record = _record('volume "%s"\n is slow', "a\x00é", volume="a", session=7, other="no")
    line = JsonLines().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert datetime.fromisoformat(told.pop("time")).timestamp() == pytest.approx(record.created, abs=1e-5)
    assert told == {
        "level": "warning",
        "logger": "cdp.test",
        "message": 'volume "a\x00é"\n is slow',
        "volume": "a",
        "session": 7,
    }


def test_a_traceback_is_a_field() -> None:
    record = _record("failed")
    try:
        raise ValueError("why")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "ValueError: why" in json.loads(line)["traceback"]


def test_text_is_one_line() -> None:
    assert TextLines().format(_record("a\nb %d", 1)) == "WARNING cdp.test: a\\nb 1"


def test_what_strangers_can_bring_about_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        seldom = Seldom(logging.getLogger("cdp.test"), most=3, seconds=60)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(seldom.tell_rest)
            for number in range(1000):
                seldom.warning("refused %d", number)
            await trio.sleep(61)
            seldom.warning("refused again")
            await trio.sleep(61)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [record.getMessage() for record in caplog.records] == [
        "refused 0",
        "refused 1",
        "refused 2",
        "there are many of these: more of them are counted for 60 s",
        "997 more clients were refused",
        "refused again",
    ]
