"""What every store promises about the engines' switches: each by itself, read with the states, lost by nothing."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState, EngineSwitch
from llm_server.orchestration.domain.ports.store import Store
from support.builders import NOW_MS

OFF, LOCKED = EngineSwitch(toggle=False), EngineSwitch(locked=True)


@pytest.mark.parametrize("name", ["gpt", "openai/gpt 4.1", "toggle:x", "größer#1"])
def test_a_switch_is_read_with_the_states(store: Store, name: str) -> None:
    """Both reads have it; what the write answers is what they find."""
    state = EngineState(failures=1, rest_until_ms=NOW_MS)
    store.save_engine_state("other", state)
    stored = EngineRecords(states={"other": state}, switches={name: OFF})

    assert store.switch_engine(name, {"toggle": False}) == stored
    assert (store.engines(), store.overview()) == (stored, (Counters(), stored))


def test_what_a_change_does_not_name_stays(store: Store) -> None:
    store.switch_engine("gpt", {"toggle": True})
    store.switch_engine("gpt", {"locked": True})
    store.switch_engine("other", {"toggle": False, "locked": False})

    assert store.engines().switches == {
        "gpt": EngineSwitch(toggle=True, locked=True),
        "other": EngineSwitch(toggle=False, locked=False),
    }


def test_none_takes_a_switch_back(store: Store) -> None:
    """In the same write as another is set; with nothing left the engine is as it was configured."""
    store.switch_engine("gpt", {"toggle": False, "locked": True})

    assert store.switch_engine("gpt", {"toggle": None, "locked": False}).switches == {"gpt": EngineSwitch(locked=False)}
    assert store.switch_engine("gpt", {"locked": None}).switches.get("gpt", EngineSwitch()) == EngineSwitch()
    assert store.engines().switches.get("gpt", EngineSwitch()) == EngineSwitch()


def test_what_was_never_switched_can_be_taken_back(store: Store) -> None:
    """Also in an empty store: a caller can reset an engine without knowing whether it was switched."""
    records = store.switch_engine("gpt", {"toggle": None, "locked": None})

    assert records.switches.get("gpt", EngineSwitch()) == EngineSwitch()


def test_the_same_switch_again_changes_nothing(store: Store) -> None:
    """So a call whose reply was lost can be repeated."""
    first = store.switch_engine("gpt", {"locked": True})

    assert store.switch_engine("gpt", {"locked": True}) == first == store.engines()


def test_the_time_of_the_last_switch_is_kept(store: Store) -> None:
    """Also of one that takes the switches back: it may switch the engine on."""
    store.switch_engine("gpt", {"toggle": False}, now_ms=NOW_MS)
    first = store.engines().changed_ms("gpt")
    store.switch_engine("gpt", {"toggle": None}, now_ms=NOW_MS + 1)

    assert (first, store.engines().changed_ms("gpt")) == (NOW_MS, NOW_MS + 1)
    assert store.engines().changed_ms("other") == 0


def test_the_time_of_a_recovery_is_kept(store: Store) -> None:
    store.switch_engine("gpt", {"toggle": True}, now_ms=NOW_MS)
    store.save_engine_state("gpt", EngineState(recovered_ms=NOW_MS + 1))

    assert store.engines().changed_ms("gpt") == NOW_MS + 1


def test_a_switch_survives_every_change_of_the_engine_s_state(store: Store) -> None:
    """An engine that gets well has its whole state replaced."""
    well, resting = EngineState(), EngineState(failures=1)
    store.switch_engine("gpt", {"locked": True})

    store.save_engine_state("gpt", resting)
    assert store.swap_engine_state("gpt", resting, well)

    assert store.engines() == EngineRecords(states={"gpt": well}, switches={"gpt": LOCKED})


def test_a_state_survives_a_switch(store: Store) -> None:
    resting = EngineState(failures=1)
    store.save_engine_state("gpt", resting)

    store.switch_engine("gpt", {"locked": True})

    assert store.engines().state("gpt") == resting
    assert store.swap_engine_state("gpt", resting, EngineState())
