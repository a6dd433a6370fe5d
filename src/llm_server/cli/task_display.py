"""Shows tasks: the result, the status, the reason for waiting, a list of tasks, and a plan."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from llm_server.cli import display
from llm_server.cli.client import DEFAULT_URL
from llm_server.cli.connection import FINAL, Answer
from llm_server.orchestration.domain.engines import demonstration

_COLUMNS = ("id", "status", "mode", "role", "engine", "created", "cost", "waits for / error")


def how_to_get(task_id: str, base_url: str) -> str:
    """Return a sentence that says how to get the answer later, or how to find the task if its id is not known."""
    if not task_id:
        return f"If the server accepted the task, it continues. To find it: {_command('list', base_url)}"
    return f"Task {task_id} continues on the server. To get its answer: {_command('get', base_url, task_id, '--wait')}"


def how_to_watch(task_id: str, base_url: str) -> str:
    """Return a sentence that says how to see the rest of a task."""
    return f"Task {task_id} continues on the server. To watch it again: {_command('watch', base_url, task_id)}"


def state(task: Mapping[str, Any]) -> str:
    """Return a task's status, its completed steps, and the reason for waiting, in one line."""
    steps = (task.get("plan") or {}).get("steps") or []
    done = sum(step.get("status") == "Completed" for step in steps)
    progress = f"{done} of {display.counted(len(steps), 'step')}" if steps else ""
    return " · ".join(filter(None, (str(task.get("status")), progress, _reason(task))))


def show_task(answer: Answer, base_url: str, as_json: bool, *, has_shown_result: bool = False) -> None:
    """Print a task's result, unless it is on the terminal already, or the reason why the task has no result."""
    task, status = answer.document, answer.status
    if as_json:
        display.put_bytes(answer.body)
    elif status == "Completed":
        if not has_shown_result:
            _show_result(str(task.get("result") or ""))
        for call in task.get("tool_calls") or []:
            display.say(f"Asks for {call.get('name')}({call.get('arguments')}), call {call.get('call_id')}.")
        _show_faults(task)
        display.say(_footer(task), dim=True)
        _show_demonstration(task)
    if status not in FINAL:
        reason = _reason(task)
        display.say(f"Task {answer.task_id} is not final ({status}){f'; it {reason}' if reason else ''}.")
        if answer.awaiting_approval:
            _show_how_to_decide(answer.task_id, base_url)
        else:
            display.say(how_to_get(answer.task_id, base_url))
    elif status != "Completed":
        display.say(f"Task {answer.task_id} {status.lower()}: {task.get('error') or 'no reason given.'}")
        if failed := _failed_calls(task):
            display.say(failed, dim=True)


def show_accepted(answer: Answer, base_url: str, as_json: bool) -> None:
    """Print the new task's id alone, so that a script can keep it."""
    display.put_bytes(answer.body if as_json else answer.task_id.encode())
    display.say(how_to_get(answer.task_id, base_url))


def show_change(answer: Answer, as_json: bool) -> None:
    """Print the status of a task after a change."""
    if as_json:
        display.put_bytes(answer.body)
    display.say(f"Task {answer.task_id} is {answer.status}.")


def show_tasks(tasks: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print a list of tasks, one task a line."""
    if as_json:
        display.put_json({"tasks": tasks})
    elif tasks:
        display.put_table([_COLUMNS, *map(_row, tasks)])


def show_plan(task: Mapping[str, Any]) -> None:
    """Print a plan to stderr: its goal and hash, then its steps with role and dependencies, then its quote."""
    plan = task["plan"]
    display.say(f"Plan of task {task.get('task_id')} ({plan.get('hash')})")
    display.say(f"Goal: {plan.get('goal')}")
    for number, step in enumerate(plan.get("steps") or [], 1):
        after = ", ".join(step.get("depends_on") or [])
        display.say(f"{number}. {step.get('id')} ({step.get('role')}){f', after {after}' if after else ''}")
        display.say(f"   {step.get('instruction')}")
    if quote := task.get("quote"):
        for line in display.quote_lines(quote):
            display.say(f"The rest: {line}")


def _reason(task: Mapping[str, Any]) -> str:
    """Return the reason for waiting as "waits for ...", or "" if the task does not wait."""
    if task.get("awaiting_approval"):
        return "waits for approval of its plan"
    if not task.get("waiting_for"):
        return ""
    since = _seconds(task.get("waiting_since"))
    return f"waits for {task['waiting_for']}{f' since {since}' if since else ''}"


def _show_how_to_decide(task_id: str, base_url: str) -> None:
    """Print the commands for a plan that waits, each on a line of its own, so that it can be copied."""
    display.say("To read the plan and approve it:")
    display.say(f"  {_command('approve', base_url, task_id)}")
    display.say("To reject the plan, which cancels the task:")
    display.say(f"  {_command('reject', base_url, task_id)}")
    display.say("To get the task's answer after you approved the plan:")
    display.say(f"  {_command('get', base_url, task_id, '--wait')}")


def _row(task: Mapping[str, Any]) -> list[str]:
    """Return a task's cells for the list."""
    waits_for = "approval of its plan" if task.get("awaiting_approval") else task.get("waiting_for")
    cells = [task.get(name) for name in ("task_id", "status", "mode", "role", "engine")]
    return [*map(display.word, (*cells, _seconds(task.get("created_at")), _cost(task), waits_for or task.get("error")))]


def _cost(task: Mapping[str, Any]) -> str:
    """Return the cost of a task's calls; it contains `unpriced` if the price of a call is not known."""
    receipt = task.get("receipt") or {}
    cost = display.usd(receipt.get("cost_microusd") or 0)
    if not receipt.get("unpriced_calls"):
        return cost
    return f"{cost} + unpriced" if receipt.get("cost_microusd") else "unpriced"


def _seconds(time: object) -> str:
    """Return an RFC 3339 time without its fraction of a second."""
    whole, dot, _ = str(time or "").partition(".")
    return f"{whole}Z" if dot else whole


def _show_result(result: str) -> None:
    if not sys.stdout.isatty():
        display.put_bytes(result.encode(errors="replace"))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(display.safe(result)))


def _show_faults(task: Mapping[str, Any]) -> None:
    """Print the faults that the server found in the results of steps, and last the one that it found in the answer."""
    for step in (task.get("plan") or {}).get("steps") or []:
        if fault := step.get("fault"):
            display.say(f"The result of step {step.get('id')} may be faulty: {fault}.")
    if fault := task.get("fault"):
        display.say(f"This answer may be faulty: {fault}.")


def _show_demonstration(task: Mapping[str, Any]) -> None:
    """Say that a demonstration model answered. The embedded engine says in its answer what it is."""
    if task.get("demonstration") and task.get("engine") != "embedded":
        display.say(demonstration.OF_MODEL)


def _footer(task: Mapping[str, Any]) -> str:
    """Return one line with the mode, the role, the engines, the tokens and the cost, as far as they are known."""
    receipt = task.get("receipt") or {}
    calls = [call for call in task.get("attempts") or [] if not call.get("error")]
    engines = ", ".join(dict.fromkeys(str(call.get("engine")) for call in calls))
    parts = [task.get("mode"), task.get("role"), engines or task.get("engine")]
    if receipt:
        parts.append(_tokens(receipt, calls))
        parts.append(f"{(receipt.get('duration_ms') or 0) / 1000:.1f} s")
        parts.append(display.usd(receipt.get("cost_microusd") or 0))
        if unpriced := receipt.get("unpriced_calls"):
            parts.append(f"{display.counted(unpriced, 'call')} without a known price")
    if implausible := sum(bool(call.get("usage_implausible")) for call in calls):
        parts.append(f"{display.counted(implausible, 'call')} with implausible token counts")
    parts.append(_lost_calls(task))
    return " · ".join(str(part) for part in parts if part)


def _tokens(receipt: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> str:
    """Return the tokens of a task's answered calls; in brackets, those of the prompt cache and of the reasoning."""
    cached, written, reasoning = (
        _sum(calls, name) for name in ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    )
    of_in = ", ".join([f"{cached:,} cached"] * bool(cached) + [f"{written:,} written to the cache"] * bool(written))
    tokens_in = display.counted(receipt.get("tokens_in") or 0, "token") + " in" + (f" ({of_in})" if of_in else "")
    return f"{tokens_in}, {receipt.get('tokens_out') or 0:,} out" + (f" ({reasoning:,} reasoning)" if reasoning else "")


def _failed_calls(task: Mapping[str, Any]) -> str:
    """Return one line about the failed calls of a task: tokens, time, and the money that may still be billed."""
    calls = [call for call in task.get("attempts") or [] if call.get("error")]
    if not calls:
        return ""
    about = "about " if any(call.get("usage_estimated") for call in calls) else ""
    parts = [
        display.counted(len(calls), "failed call"),
        f"{about}{display.counted(_sum(calls, 'tokens_in'), 'token')} in, {_sum(calls, 'tokens_out'):,} out",
        f"{_sum(calls, 'duration_ms') / 1000:.1f} s",
        display.usd(_sum(calls, "cost_microusd")),
    ]
    if withheld := _sum(calls, "withheld_microusd"):
        parts.append(f"up to {display.usd(withheld)} may still be billed")
    return " · ".join(parts)


def _sum(calls: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(call.get(name) or 0 for call in calls)


def _lost_calls(task: Mapping[str, Any]) -> str:
    """Return how many calls were lost with their workers, and what the engines may charge for them; "" if none was."""
    lost = [call for call in task.get("attempts") or [] if call.get("failure") == "lost"]
    withheld = display.usd(sum(call.get("withheld_microusd") or 0 for call in lost))
    return f"{display.counted(len(lost), 'call')} lost with a worker ({withheld} withheld)" if lost else ""


def _command(name: str, base_url: str, *arguments: str) -> str:
    """Return a command that the user can copy."""
    where = [] if base_url == DEFAULT_URL else ["--url", base_url]
    return shlex.join(["llm-server", name, *arguments, *where])
