"""The routes for API keys."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Header, Path, Response
from pydantic import WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from llm_server.api import idempotency, views
from llm_server.api.contract import Caller, Responses, Run, Service, answer, header_docs, keyed_router, problems
from llm_server.api.schemas import keys

_REPLAYED: Responses = {
    200: {
        "model": keys.CreatedKey,
        "description": "The key that an earlier call with this Idempotency-Key made, with a new token",
        "headers": header_docs(
            Idempotent_Replayed=("`true` when an earlier call with this `Idempotency-Key` made the key.", "true")
        ),
    },
}
_MADE: Responses = {201: {"description": "The new key and its token"}}

KeyId = Annotated[
    str, Path(description="The `key_id` of a key, as `GET /api/v1/keys` lists it.", examples=["4f1c09a2be77"])
]
IdempotencyKey = Annotated[
    Annotated[list[str], WithJsonSchema({"type": "string", "pattern": idempotency.KEY})] | SkipJsonSchema[None],
    Header(
        description="Makes a repeated call safe for 24 hours. A call with the same Idempotency-Key and the same body "
        "returns the same key with a new token, and the earlier token stops working. A call with the same "
        "Idempotency-Key and another body is answered 422. 1 to 255 characters, with or without double quotes.",
        examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
    ),
]

router = keyed_router("Keys")


@router.get(
    "/keys",
    summary="List API keys",
    response_model=keys.KeyList,
    response_description="All keys, oldest first",
)
async def list_keys(run: Run, service: Service) -> Response:
    """List the keys of all tenants, without their secrets. Revoked and expired keys are listed, too."""
    stored = await run.read(service.keys.all)
    return answer(keys.KeyList(keys=[views.key(key) for key in stored]))


@router.post(
    "/keys",
    summary="Make an API key",
    status_code=201,
    response_model=keys.CreatedKey,
    responses=problems(400, 409, 413, 415, 422) | _MADE | _REPLAYED,
)
async def create_key(
    new: keys.NewKey, run: Run, service: Service, caller: Caller, idempotency_key: IdempotencyKey = None
) -> Response:
    """Make a key. Only this response contains the key's token, so store it.

    Once a key exists, every call needs one. If the response was lost, repeat the call with the same Idempotency-Key and
    body: the response is 200 with the same key and a new token. If that key was revoked or has expired since then, the
    response is 409.
    """
    idempotent = idempotency.key_of(idempotency_key)
    made = await run.write(partial(service.key_creation.create_once, caller.tenant, new.to_domain(), idempotent))
    headers = {"Idempotent-Replayed": "true"} if made.replayed else None
    return answer(views.created_key(made.key, made.token), 200 if made.replayed else 201, headers)


@router.patch(
    "/keys/{key_id}",
    summary="Change an API key",
    response_model=keys.KeyView,
    response_description="The key after the change",
    responses=problems(400, 404, 409, 413, 415, 422),
)
async def update_key(key_id: KeyId, change: keys.KeyChange, run: Run, service: Service) -> Response:
    """Change a key's limits, name or expiry. Fields that are left out do not change; null removes a value.

    Other processes of the server use the changed key within 60 s. An expired key can be changed: a later `expires_at`
    makes it valid again. A revoked key cannot be changed (409).
    """
    return answer(views.key(await run.write(partial(service.keys.update, key_id, change.to_domain()))))


@router.delete(
    "/keys/{key_id}",
    summary="Revoke an API key",
    status_code=204,
    response_description="The key is revoked",
    responses=problems(404, 409, 422),
)
async def revoke_key(key_id: KeyId, run: Run, service: Service) -> Response:
    """Revoke a key. Other processes of the server refuse it within 60 s. Revoking it again has no further effect."""
    await run.write(partial(service.keys.revoke, key_id))
    return Response(status_code=204)
