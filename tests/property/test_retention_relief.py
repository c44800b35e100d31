"""When space does not suffice: who gives way, in which order, never more than needed, and never what must not go."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.retention.plan import Event, Plan, plan
from cdp.retention.policy import Policy
from cdp.retention.relief import shortage
from cdp.retention.state import MINUTE, SECOND, Mark, Pin, Space
from tests.property.synthetic_history import Synthetic

START = 1_700_000_000 * SECOND
ESCALATIONS = ("view-closed", "minimum-broken", "bookmark-given-up")


@dataclass(slots=True)
class Machine:
    """A volume of `blocks` blocks under a budget: writes that wait, a compaction that frees what is dead, and the keeper's seconds."""

    blocks: int
    hard: int
    policy: Policy
    history: Synthetic = field(default_factory=lambda: Synthetic(START))
    now: int = START
    freed: int = 0
    blocked: int = 0
    written: int = 0

    @property
    def soft(self) -> int:
        return self.hard * 7 // 8

    def space(self) -> Space:
        used = len(self.history.records) - 1 - self.freed
        dead = used - self.history.needed()
        assert dead >= 0
        return Space(used, dead, self.history.window(), self.soft, self.hard, tight=used >= self.hard)

    def write(self, block: int) -> None:
        if self.space().used >= self.hard:
            self.blocked += 1
            return
        self.written += 1
        self.history.write(self.now, flush=self.written % 3 == 0, block=block % self.blocks)

    def second(self, seconds: int = 1) -> Plan:
        """Time passes, the keeper plans, the engine compacts."""
        self.now += seconds * SECOND
        before = self.space()
        made = plan(self.policy, self.history.facts(before), self.now)
        assert before.tight or not any(event.event in ESCALATIONS for event in made.given_up)
        self.history.apply(made)
        space = self.space()
        if space.used > self.soft * 3 // 4:
            self.freed += space.dead
        return made


DROP = Policy(every_write=3600, minutes=7200, hours=0, days=0, minimum=60)


@given(
    st.integers(1, 12),
    st.integers(12, 60),
    st.lists(st.tuples(st.integers(1, 300), st.lists(st.integers(0, 11), max_size=4)), max_size=40),
)
@settings(max_examples=60)
def test_history_shortens_and_the_live_disk_never_suffers(
    blocks: int, spare: int, seconds: list[tuple[int, list[int]]]
) -> None:
    # Room for the disk, for garbage beside it, and for what the guaranteed minimum can hold.
    minimum = 60 * 4
    hard = (blocks * 2 + minimum + spare) * 8 // 7
    machine = Machine(blocks, hard, DROP)
    for passing, written in seconds:
        for block in written:
            machine.write(block)
        made = machine.second(passing)
        assert not any(event.event in ESCALATIONS for event in made.given_up)
        check_minimum(machine)
    assert machine.blocked == 0


def check_minimum(machine: Machine) -> None:
    """Every write of the guaranteed minimum can be reached (the every-write window is longer than it here)."""
    since = machine.now - machine.policy.minimum * SECOND
    assert all(machine.history.reachable(r.lsn) for r in machine.history.records if r.stamp > since)


@given(st.data())
@settings(max_examples=80)
def test_the_order_of_giving_up(data: st.DataObject) -> None:
    blocks = data.draw(st.integers(2, 8))
    machine = Machine(blocks, data.draw(st.integers(blocks + 4, blocks * 4 + 8)), DROP)
    for number in range(data.draw(st.integers(10, 80))):
        machine.write(data.draw(st.integers(0, blocks - 1)))
        pin_something(machine, data, number)
        made = machine.second(data.draw(st.integers(1, 90)))
        check_order(machine, made)


def pin_something(machine: Machine, data: st.DataObject, number: int) -> None:
    history = machine.history
    reachable = [record.lsn for record in history.records if history.reachable(record.lsn)]
    match data.draw(st.sampled_from(["", "", "view", "mark", "held", "clone"])):
        case "view" | "clone" as kind:
            history.pins.append(Pin(data.draw(st.sampled_from(reachable)), kind))
        case "mark" | "held" as kind:
            lsn = data.draw(st.sampled_from(reachable))
            history.marks.append(Mark(f"m{number}", lsn, history.records[lsn].stamp, held=kind == "held"))


def check_order(machine: Machine, made: Plan) -> None:
    history = machine.history
    told = [event.event for event in made.given_up]
    if not history.minimum_broken:
        check_minimum(machine)
    closable = [pin.lsn for pin in history.pins if pin.closable and pin.lsn < history.horizon]
    loose = [mark for mark in history.marks if not mark.held]
    if "minimum-broken" in told:
        # Every view that could be in the way is closed by then.
        assert not closable
    if "bookmark-given-up" in told:
        lost = next(event for event in made.given_up if event.event == "bookmark-given-up").details["lsn"]
        assert not closable
        assert history.horizon == len(history.records) - 1
        assert all(isinstance(lost, int) and mark.lsn >= lost for mark in loose)
    # What must never go: held bookmarks, and what clones pin.
    assert all(history.reachable(mark.lsn) for mark in history.marks)
    assert all(history.reachable(pin.lsn) for pin in history.pins)


@given(st.integers(2, 8), st.integers(0, 8), st.integers(0, 4))
def test_what_pins_hold_goes_in_the_end_and_writes_go_on(blocks: int, marks: int, views: int) -> None:
    machine = Machine(blocks, blocks * 2 + 3, DROP)
    history = machine.history
    for number in range(marks + views + 2):
        for block in range(blocks):
            machine.write(block)
        lsn = len(history.records) - 1
        if number < marks:
            history.marks.append(Mark(f"m{number}", lsn, history.records[lsn].stamp))
        elif number < marks + views:
            history.pins.append(Pin(lsn, "view"))
        machine.second(7)
    for _ in range(200):
        machine.second()
    before = machine.blocked
    for block in range(blocks * 3):
        machine.write(block)
        for _ in range(40):
            machine.second()
    assert machine.blocked == before


@given(st.integers(2, 6), st.integers(1, 3))
def test_held_bookmarks_stall_the_volume(blocks: int, held: int) -> None:
    machine = Machine(blocks, blocks * (held + 1), DROP)
    history = machine.history
    for number in range(held + 1):
        for block in range(blocks):
            machine.write(block)
        if number < held:
            lsn = len(history.records) - 1
            history.marks.append(Mark(f"held{number}", lsn, history.records[lsn].stamp, held=True))
    for _ in range(100):
        machine.second()
    assert machine.space().used >= machine.hard
    assert len(history.marks) == held
    assert not machine.second().given_up
    # Let one go, and the condition ends by itself.
    history.marks.pop()
    machine.second()
    machine.second()
    assert machine.space().used < machine.hard


@given(st.sampled_from(["stall", "fail"]), st.integers(2, 6), st.integers(1, 60))
def test_who_rather_waits_gives_nothing_up(full: str, blocks: int, writes: int) -> None:
    policy = Policy(every_write=3600, minutes=7200, hours=0, days=0, minimum=60, full=full)  # type: ignore[arg-type]
    machine = Machine(blocks, blocks * 2, policy)
    for number in range(writes):
        machine.write(number)
        assert not machine.second().given_up
    assert machine.history.horizon == 0
    assert machine.blocked == max(0, writes - blocks * 2)


def test_one_event_a_condition() -> None:
    machine = Machine(4, 24, Policy(every_write=600, minutes=0, hours=0, days=0, minimum=1))
    events: list[Event] = []
    for number in range(3000):
        machine.write(number)
        events += machine.second().given_up
    assert [event.event for event in events] == ["history-shortened"]
    assert machine.blocked == 0
    for _ in range(40):
        machine.now += MINUTE
        machine.write(0)
        events += machine.second().given_up
    assert [event.event for event in events] == ["history-shortened", "history-whole"]


def full_machine() -> Machine:
    machine = Machine(4, 24, DROP)
    for number in range(24):
        machine.write(number)
        machine.now += MINUTE
    assert shortage(machine.space()) > 0
    return machine


def test_what_a_step_gives_counts_before_it_was_measured() -> None:
    machine = full_machine()
    full = machine.space()
    first = plan(DROP, machine.history.facts(full), machine.now)
    assert first.given_up
    blind = replace(full, measured=False, expected=first.expected)
    assert not plan(DROP, machine.history.facts(blind), machine.now).given_up
    # What is about to be written needs room, too.
    pressed = replace(blind, ahead=2)
    assert plan(DROP, machine.history.facts(pressed), machine.now).given_up


def test_points_and_the_minimum_are_not_given_up_before_the_last_step_was_measured() -> None:
    machine = full_machine()
    machine.history.horizon, machine.history.points = 20, {3, 9}
    tight = Space(used=24, dead=0, window=4, soft=21, hard=24, tight=True)
    blind = replace(tight, measured=False)
    assert plan(DROP, machine.history.facts(tight), machine.now).points != (3, 9)
    assert plan(DROP, machine.history.facts(blind), machine.now).points == (3, 9)
    young = replace(DROP, minimum=3600)
    assert "minimum-broken" in [
        event.event for event in plan(young, machine.history.facts(tight), machine.now).given_up
    ]
    assert not plan(young, machine.history.facts(blind), machine.now).given_up


def test_the_horizon_passes_what_only_tells_of_something_before_a_bookmark_goes() -> None:
    """Its segment may hold all the data, and cannot be compacted before it lies below the horizon as a whole."""
    policy = Policy(every_write=3600, minutes=0, hours=0, days=0, minimum=60)
    history = Synthetic(START)
    marked = history.write(START)
    history.horizon = history.write(START)
    history.points = {marked}
    history.marks = [Mark("old", marked, START)]
    event = history.write(START, stored=0)
    full = Space(used=2, dead=0, window=0, soft=1, hard=2, tight=True)
    made = plan(policy, history.facts(full), START + MINUTE)
    assert (made.horizon, made.given_up, made.gives_way) == (event, (), True)
    history.apply(made)
    assert history.reachable(marked)
    # That was all: a second look goes on with the next step.
    assert plan(policy, history.facts(full), START + MINUTE).drop_marks == ("old",)
