"""Errors that last until an operator acts are told from those that pass by themselves."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.errors import StorageMisconfigured, StorageUnavailable
from llm_server.storage.dynamodb.api_keys import DynamoKeys
from support.aws_emulators import Substrate
from support.dynamodb_wire import recording


def test_a_table_that_does_not_exist_is_named_to_the_operator_alone(aws_substrate: Substrate) -> None:
    with pytest.raises(StorageMisconfigured) as refused:
        DynamoKeys(aws_substrate.dynamodb, "no-such-table").has_keys()

    assert "The table does not exist" in refused.value.cause
    assert "LLM_SERVER_TABLE" in refused.value.cause
    assert str(refused.value) == "The server cannot use its database; its log says why."


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("AccessDeniedException", "does not allow these credentials to use the table"),
        ("ExpiredTokenException", "does not accept the credentials"),
        ("InvalidSignatureException", "does not accept the credentials"),
        ("UnrecognizedClientException", "does not accept the credentials"),
    ],
)
def test_what_trying_again_never_helps_has_a_cause(moto_substrate: Substrate, code: str, cause: str) -> None:
    with recording(moto_substrate.dynamodb) as wire:
        wire.refuse("Query", code)
        with pytest.raises(StorageMisconfigured) as refused:
            DynamoKeys(moto_substrate.dynamodb, moto_substrate.table).has_keys()

    assert cause in refused.value.cause


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalServerError", "RequestLimitExceeded"])
def test_what_passes_is_worth_another_try(moto_substrate: Substrate, code: str) -> None:
    with recording(moto_substrate.dynamodb) as wire:
        wire.refuse("Query", code)
        with pytest.raises(StorageUnavailable, match="try again") as refused:
            DynamoKeys(moto_substrate.dynamodb, moto_substrate.table).has_keys()

    assert not isinstance(refused.value, StorageMisconfigured)
