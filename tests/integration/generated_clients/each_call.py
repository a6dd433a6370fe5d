"""One call of each operation, with the client that openapi-python-client generated: `each_call.py <server's URL>`.

Runs in an environment of its own. Prints the status of each call by the operation's id, as JSON.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
import sys
from http import HTTPStatus
from typing import Any
from uuid import UUID

from llm_server_client import AuthenticatedClient, Client, models
from llm_server_client.api.conversations import create_conversation, delete_conversation, get_conversation
from llm_server_client.api.engines import get_engines, switch_engine
from llm_server_client.api.keys import create_key, list_keys, revoke_key, update_key
from llm_server_client.api.server import get_catalog, get_health, get_metrics, get_usage
from llm_server_client.api.tasks import (
    approve_plan,
    cancel_task,
    create_task,
    delete_task,
    get_task,
    list_tasks,
    quote_task,
    read_events,
    reject_plan,
    retry_task,
)

called: dict[str, int] = {}


def call(operation: Any, wanted: type | None, **arguments: Any) -> Any:
    """Call an operation; the body must have been read into the `wanted` model, None for an empty one."""
    response = operation.sync_detailed(**arguments)
    name = operation.__name__.rpartition(".")[2]
    assert isinstance(response.parsed, wanted) if wanted else response.parsed is None, (name, response)
    called[name] = int(response.status_code)
    return response.parsed


def call_each(url: str) -> None:
    stranger = Client(base_url=url)
    assert call(get_health, models.HealthView, client=stranger).status == "ok"
    new_key = models.NewKey(tenant="acme", scopes=list(models.NewKeyScopesItem), name="test")
    key = call(create_key, models.CreatedKey, client=stranger, body=new_key)
    client = AuthenticatedClient(base_url=url, token=key.token)

    assert [found.key_id for found in call(list_keys, models.KeyList, client=client).keys] == [key.key_id]
    assert "General" in call(get_catalog, models.CatalogView, client=client).profiles
    assert "embedded" in call(get_engines, models.EnginesView, client=client).engines
    call_each_of_tasks(client)
    assert call(get_metrics, models.MetricsView, client=client).total_requests == 2
    assert call(get_usage, models.UsageView, client=client).tenant == "acme"
    change = models.KeyChange(limits=models.ChangedLimits(requests_per_minute=600, usd_per_day=None))
    limits = call(update_key, models.KeyView, client=client, key_id=key.key_id, body=change).limits
    assert (limits.requests_per_minute, limits.usd_per_day) == (600, None)
    assert call(revoke_key, None, client=client, key_id=key.key_id) is None


def call_each_of_tasks(client: AuthenticatedClient) -> None:
    metadata = models.NewTaskMetadata.from_dict({"team": "search"})
    new = models.NewTask(prompt="Write a haiku about queues.", mode=models.Mode.AGENT, metadata=metadata)
    assert call(quote_task, models.DecisionView, client=client, body=new).mode == models.Mode.AGENT

    task = call(create_task, models.TaskView, client=client, body=new, prefer="wait=20", idempotency_key="once")
    assert (task.status, type(task.task_id)) == (models.Status.COMPLETED, UUID)
    again = create_task.sync_detailed(client=client, body=new, idempotency_key="once")
    assert (again.headers["idempotent-replayed"], again.parsed) == ("true", task)
    dry = create_task.sync_detailed(client=client, body=new, dry_run=True)
    assert isinstance(dry.parsed, models.DecisionView)

    detail = call(get_task, models.TaskDetail, client=client, task_id=task.task_id)
    assert (detail.result, detail.created_at.utcoffset().total_seconds()) == (task.result, 0)
    told = call(read_events, models.EventsPage, client=client, task_id=task.task_id, starting_after=1)
    assert (told.ended, told.events[-1].number) == (True, told.last)
    etag = get_task.sync_detailed(client=client, task_id=task.task_id).headers["etag"]
    unchanged = get_task.sync_detailed(client=client, task_id=task.task_id, if_none_match=etag)
    assert unchanged.status_code == HTTPStatus.NOT_MODIFIED
    statuses, since = [models.Status.COMPLETED, models.Status.FAILED], detail.created_at
    for team, expected in (("search", [task.task_id]), ("other", [])):
        labels = models.ListTasksMetadata.from_dict({"metadata.team": team})
        page = call(
            list_tasks,
            models.TaskPage,
            client=client,
            status=statuses,
            metadata=labels,
            created_from=since,
            page_size=10,
        )
        assert [found.task_id for found in page.tasks] == expected

    approval, decision = (kind(plan_hash="0" * 64) for kind in (models.PlanApproval, models.PlanDecision))
    for operation, body in ((approve_plan, approval), (reject_plan, decision)):
        call(operation, models.Problem, client=client, task_id=task.task_id, body=body)
    assert "Failed" in call(retry_task, models.Problem, client=client, task_id=task.task_id).detail

    off = models.EngineChange(toggle=False)
    assert call(switch_engine, models.EngineNowView, client=client, name="embedded", body=off).toggle is False
    waiting = create_task.sync(client=client, body=new)
    ended = call(cancel_task, models.TaskView, client=client, task_id=waiting.task_id)
    assert ended.status == models.Status.CANCELLED
    assert call(delete_task, None, client=client, task_id=task.task_id) is None

    conversation = call(create_conversation, models.ConversationView, client=client).conversation_id
    assert call(get_conversation, models.ConversationView, client=client, conversation_id=conversation).tasks == []
    assert call(delete_conversation, None, client=client, conversation_id=conversation) is None


if __name__ == "__main__":
    call_each(sys.argv[1])
    print(json.dumps(called))
