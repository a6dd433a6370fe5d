"""Records change by adding: what a newer version wrote is read as far as it is known, else left alone (ADR 18)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.domain.api_key import KeyLimits
from llm_server.orchestration.domain.errors import RecordUnreadable
from llm_server.orchestration.domain.output import PLAN, OutputKey, OutputKind, Review
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.storage import records
from support.builders import a_failed_attempt, a_key, a_request, a_task, an_attempt, an_output

STEP_IDS = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)
NUMBERS = st.integers(min_value=0, max_value=10**6)
KEYS = st.one_of(
    st.just(PLAN),
    st.builds(OutputKey.of_step, STEP_IDS),
    st.builds(OutputKey.of_draft, STEP_IDS, NUMBERS),
    st.builds(OutputKey.of_verdict, STEP_IDS, NUMBERS),
    st.builds(OutputKey.of_answer, NUMBERS),
    st.builds(OutputKey.of_try, NUMBERS),
)


def changed(record: Any, **changes: Any) -> str:
    """A record's JSON with other values."""
    return json.dumps(json.loads(records.encode(record)) | changes)


@given(key=KEYS)
def test_an_output_key_is_read_as_it_was_written(key: OutputKey) -> None:
    """And two keys are never one text: the stores replace what stands under the same one."""
    assert records.parse_output_key(records.output_key_text(key)) == key


@pytest.mark.parametrize("text", ["SUMMARY#a", "SUMMARY", "STEP", "RES#x", "RES", "DRAFT#a", "PLAN#1", ""])
def test_a_key_of_a_newer_version_is_kept_as_it_is(text: str) -> None:
    key = records.parse_output_key(text)

    assert key.kind is OutputKind.OTHER
    assert records.output_key_text(key) == text


def test_fields_of_a_newer_version_are_skipped() -> None:
    """Two versions run on one table while a deployment is gradual."""
    task, request, key = a_task(), a_request(), a_key()
    output = an_output(review=Review(verdict="pass"))

    assert records.task(changed(task, colour="red", parts=[1, {"a": 2}])) == task
    assert records.request(changed(request, colour="red")) == request
    assert records.output(changed(output, colour="red")) == output
    assert records.api_key(changed(key, colour="red")) == key


def test_an_attempt_holds_only_the_token_classes_that_it_used() -> None:
    """Most engines report neither a cache nor reasoning; a write unit holds 1 KB."""
    names = ("cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens")
    plain, cached = an_output(attempts=(an_attempt(),)), an_output(attempts=(an_attempt(**dict.fromkeys(names, 7)),))
    flagged = an_output(attempts=(an_attempt(usage_implausible=True),))

    for output, stored in ((plain, set()), (cached, {*names}), (flagged, {"usage_implausible"})):
        (attempt,) = json.loads(records.encode(output))["attempts"]
        assert attempt.keys() & {*names, "usage_implausible"} == stored
        assert records.output(records.encode(output)) == output


def test_a_state_holds_metadata_only_if_the_task_has_some() -> None:
    """A state from before version 0.2 has none, and reads as one without metadata."""
    plain, labelled = a_task(), a_task(metadata={"run": "42"})

    assert "metadata" not in json.loads(records.encode(plain))
    assert records.task(records.encode(plain)).metadata == {}
    assert json.loads(records.encode(labelled))["metadata"] == {"run": "42"}
    assert records.task(records.encode(labelled)) == labelled


def test_a_request_holds_a_limit_of_sources_only_if_it_has_one() -> None:
    """A record of a newer version may have a source that this version does not know: it is not read as no limit."""
    free, limited = a_request(), a_request(limits=Limits(sources=("local",)))

    assert "sources" not in json.loads(records.encode(free))["limits"]
    assert records.request(records.encode(free)) == free
    assert json.loads(records.encode(limited))["limits"]["sources"] == ["local"]
    assert records.request(records.encode(limited)) == limited
    for record, read in ((limited, records.request), (a_key(limits=KeyLimits(sources=("local",))), records.api_key)):
        with pytest.raises(RecordUnreadable):
            read(records.encode(record).replace('["local"]', '["moon"]'))


@pytest.mark.parametrize("changes", [{"status": "Paused"}, {"mode": "Swarm"}, {"approval": "amended"}])
def test_a_state_with_a_word_of_a_newer_version_is_left_alone(changes: dict[str, str]) -> None:
    body = changed(a_task(), **changes)

    with pytest.raises(RecordUnreadable):
        records.task(body)
    assert records.readable_task(body) is None


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"tenant": 1}'])
def test_a_damaged_record_is_told_from_a_bug(body: str) -> None:
    with pytest.raises(RecordUnreadable):
        records.task(body)


def a_lost_call(withheld_microusd: int | None = 100, **changes: Any) -> Attempt:
    return an_attempt(tokens_in=0, tokens_out=0, duration_ms=0, **changes).lost(withheld_microusd)


@pytest.mark.parametrize(
    "calls",
    [
        (a_lost_call(),),
        (a_lost_call(None),),
        (a_lost_call(0, tier=None, why=""),),
        (a_lost_call(purpose="step a"), a_lost_call(purpose="step b"), a_lost_call(purpose="step c", engine="other")),
        (a_failed_attempt(), a_lost_call(failover_from="gpt", probe=True, demonstration=True)),
        (a_lost_call(), an_attempt(fault="empty"), a_lost_call(purpose="step b")),
    ],
)
def test_pending_calls_are_read_as_they_were_written(calls: tuple[Attempt, ...]) -> None:
    """Also without a price, of several engines, and with earlier attempts whose outcome is known."""
    task = a_task(pending=calls)

    assert records.task(records.encode(task)) == task


def test_pending_calls_of_one_engine_name_it_once() -> None:
    """A write unit holds 1 KB, and four calls may be pending."""
    task = a_task(pending=tuple(a_lost_call(purpose=f"step {name}", engine="claude") for name in "abcd"))

    assert records.encode(task).count("claude") == 1


def test_a_task_without_pending_calls_is_stored_as_before() -> None:
    assert not {"pending", "announced"} & json.loads(records.encode(a_task())).keys()


def test_metadata_that_looks_like_pending_calls_is_metadata() -> None:
    task = a_task(metadata={"announced": "[]"})

    assert records.task(records.encode(task)) == task


@pytest.mark.parametrize("stored", [[["answer", 1]], [["answer", 1, 2]], [7], [{}], [["answer", "x", 2, "gpt"]]])
def test_pending_calls_that_cannot_be_read_make_the_state_unreadable(stored: object) -> None:
    """The task is left alone: its calls would be forgotten otherwise."""
    with pytest.raises(RecordUnreadable):
        records.task(changed(a_task(), announced=stored))
