"""Records of conversations, one item each, and the turns of their tasks, read in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.conversation import Conversation, Turn
from llm_server.orchestration.domain.errors import ConversationNotFound, TaskNotFound
from llm_server.orchestration.domain.output import OutputKey
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records
from llm_server.storage.dynamodb import items, packing
from llm_server.storage.dynamodb.calls import ConditionFailed, batch, calling, writing

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TURNS_A_BATCH = 25
"""How many turns are read at a time: a batch read takes at most 100 keys, and returns at most 16 MB."""
MAX_KEYS = 100
FEW_PARTS = 4
"""The most parts of a request without images, beside its first item: the longest prompt is 1,000,000 characters."""

_Rows = dict[str, dict[str, Any]]
"""The items of one task by their sort key."""


class Conversations:
    """`shown` returns the task of a state's item, or raises TaskNotFound if it must not be shown."""

    def __init__(
        self, client: DynamoDBClient, table: str, retention: Retention, shown: Callable[[Mapping[str, Any]], Task]
    ) -> None:
        self._client = client
        self._table = table
        self._retention = retention
        self._shown = shown

    def add(self, conversation: Conversation) -> None:
        item, absent = self._item(conversation), "attribute_not_exists(pk)"
        with suppress(ConditionFailed):  # an earlier call has stored it
            writing(partial(self._client.put_item, TableName=self._table, Item=item, ConditionExpression=absent))

    def read(self, tenant: str, conversation_id: str) -> Conversation:
        if not records.is_name(TaskRef(tenant, conversation_id)):
            raise ConversationNotFound
        with calling():
            key = _key(tenant, conversation_id)
            row = self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item")
        conversation = records.conversation(row["body"]["S"]) if row else None
        if conversation is None or self._retention.has_conversation_expired(conversation.updated_ms):
            raise ConversationNotFound
        return conversation

    def advance(self, after: Conversation) -> dict[str, Any]:
        """Return the write that replaces the record before `after`, for a transaction."""
        put = {"TableName": self._table, "Item": self._item(after), "ConditionExpression": "rev = :rev"}
        return {"Put": put | {"ExpressionAttributeValues": {":rev": items.number(after.rev - 1)}}}

    def is_next(self, after: Conversation) -> bool:
        """Return whether the stored record is the one before `after`."""
        try:
            return self.read(after.tenant, after.conversation_id).rev == after.rev - 1
        except ConversationNotFound:
            return False

    def remove(self, conversation: Conversation) -> bool:
        remove = partial(
            self._client.delete_item,
            TableName=self._table,
            Key=_key(conversation.tenant, conversation.conversation_id),
            ConditionExpression="rev = :rev",
            ExpressionAttributeValues={":rev": items.number(conversation.rev)},
        )
        try:
            writing(remove)
        except ConditionFailed:
            return False
        return True

    def turns(self, refs: Sequence[TaskRef]) -> Iterator[Turn | None]:
        """Yield turns; for each 25, two batch reads, and one or two more if texts are stored in several items.

        Requests in many parts, which have images, are read one by one, so that no more are read than the caller wants.
        """
        for start in range(0, len(refs), TURNS_A_BATCH):
            some = refs[start : start + TURNS_A_BATCH]
            found: dict[TaskRef, _Rows] = {ref: {} for ref in some}
            self._add_rows(found, [(ref, sk) for ref in some for sk in ("STATE", "REQ")])
            answers = {ref: sk for ref in some if (sk := self._answer_key(found[ref]))}
            rest = list(_parts(found, dict.fromkeys(answers, "REQ")))
            many = {ref for ref, count in Counter(ref for ref, _ in rest).items() if count > FEW_PARTS}
            self._add_rows(found, [*answers.items(), *(name for name in rest if name[0] not in many)])
            self._add_rows(found, list(_parts(found, answers)))
            for ref in some:
                parts = [name for name in rest if ref in many and name[0] == ref]
                self._add_rows(found, parts)
                yield _turn(found[ref], answers.get(ref))
                for _, sk in parts:
                    found[ref].pop(sk, None)

    def _add_rows(self, found: dict[TaskRef, _Rows], names: Sequence[tuple[TaskRef, str]]) -> None:
        for start in range(0, len(names), MAX_KEYS):
            keys = [items.key(ref, sk) for ref, sk in names[start : start + MAX_KEYS]]
            for row in batch(self._client, self._table, keys, consistent=True):
                found[items.ref(row)][row["sk"]["S"]] = row

    def _answer_key(self, rows: _Rows) -> str | None:
        """Return the sort key of the answer of a Completed task; None for any other task."""
        try:
            fence = self._shown(rows.get("STATE", {})).answer_fence
        except TaskNotFound:
            return None
        return None if fence is None else records.output_key_text(OutputKey.of_answer(fence))

    def _item(self, conversation: Conversation) -> dict[str, Any]:
        until_ms = self._retention.of_text(conversation.updated_ms)
        ttl = {} if until_ms is None else {"ttl": items.seconds(until_ms)}
        body = {"rev": items.number(conversation.rev), "body": {"S": records.encode(conversation)}}
        return _key(conversation.tenant, conversation.conversation_id) | ttl | body


def _key(tenant: str, conversation_id: str) -> dict[str, Any]:
    return {"pk": {"S": f"CONV#{tenant}#{conversation_id}"}, "sk": {"S": "CONV"}}


def _parts(found: Mapping[TaskRef, _Rows], keys: Mapping[TaskRef, str]) -> Iterator[tuple[TaskRef, str]]:
    """Yield the names of the items that hold the rest of texts that are too long for one item."""
    for ref, sk in keys.items():
        if sk in found[ref]:
            yield from ((ref, name) for name in packing.parts(found[ref][sk]))


def _turn(rows: _Rows, answer_key: str | None) -> Turn | None:
    if answer_key is None or not (packing.is_whole(rows, "REQ") and packing.is_whole(rows, answer_key)):
        return None
    request = records.request(packing.joined(rows, "REQ"))
    answer = records.output(packing.joined(rows, answer_key))
    return Turn.of(request, answer)
