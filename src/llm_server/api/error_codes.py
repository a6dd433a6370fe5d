"""Every error code of the HTTP API, with its status and whether the same call may succeed later (docs/api.md)."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import HTTPException
from msgspec import Struct


class ErrorCode(Struct, frozen=True, kw_only=True):
    """The HTTP status of an error; `retryable` says whether the same call, sent again unchanged, may succeed later."""

    status: int
    retryable: bool = False


ERROR_CODES: Mapping[str, ErrorCode] = {
    "not_http": ErrorCode(status=400),
    "host_invalid": ErrorCode(status=400),
    "body_not_base64": ErrorCode(status=400),
    "body_empty": ErrorCode(status=400),
    "body_encoding_invalid": ErrorCode(status=400),
    "body_json_invalid": ErrorCode(status=400),
    "body_key_repeated": ErrorCode(status=400),
    "body_number_invalid": ErrorCode(status=400),
    "body_too_deep": ErrorCode(status=400),
    "unauthenticated": ErrorCode(status=401),
    "scope_missing": ErrorCode(status=403),
    "host_not_allowed": ErrorCode(status=403),
    "origin_not_allowed": ErrorCode(status=403),
    "path_not_found": ErrorCode(status=404),
    "task_not_found": ErrorCode(status=404),
    "conversation_not_found": ErrorCode(status=404),
    "engine_not_found": ErrorCode(status=404),
    "key_not_found": ErrorCode(status=404),
    "method_not_allowed": ErrorCode(status=405),
    "request_timeout": ErrorCode(status=408, retryable=True),
    "task_final": ErrorCode(status=409),
    "task_not_failed": ErrorCode(status=409),
    "task_in_progress": ErrorCode(status=409, retryable=True),
    "task_changing": ErrorCode(status=409, retryable=True),
    "sources_conflict": ErrorCode(status=409),
    "no_plan_awaiting_approval": ErrorCode(status=409),
    "plan_changed": ErrorCode(status=409),
    "plan_already_decided": ErrorCode(status=409),
    "deadline_passed": ErrorCode(status=409),
    "idempotency_key_task_deleted": ErrorCode(status=409),
    "previous_task_open": ErrorCode(status=409, retryable=True),
    "previous_task_not_completed": ErrorCode(status=409),
    "conversation_busy": ErrorCode(status=409, retryable=True),
    "conversation_full": ErrorCode(status=409),
    "key_revoked": ErrorCode(status=409),
    "key_expired": ErrorCode(status=409),
    "key_changing": ErrorCode(status=409, retryable=True),
    "body_too_large": ErrorCode(status=413),
    "uri_too_long": ErrorCode(status=414),
    "content_type_not_json": ErrorCode(status=415),
    "content_encoding_not_accepted": ErrorCode(status=415),
    "charset_not_utf8": ErrorCode(status=415),
    "invalid_input": ErrorCode(status=422),
    "unknown_name": ErrorCode(status=422),
    "unknown_parameter": ErrorCode(status=422),
    "repeated_parameter": ErrorCode(status=422),
    "engine_not_usable": ErrorCode(status=422),
    "sources_not_usable": ErrorCode(status=422),
    "content_not_usable": ErrorCode(status=422),
    "tool_results_invalid": ErrorCode(status=422),
    "idempotency_key_reused": ErrorCode(status=422),
    "requests_per_minute_exceeded": ErrorCode(status=429, retryable=True),
    "tasks_in_flight_exceeded": ErrorCode(status=429, retryable=True),
    "usd_per_day_spent": ErrorCode(status=429, retryable=True),
    "usd_per_day_reserved": ErrorCode(status=429, retryable=True),
    "headers_too_large": ErrorCode(status=431),
    "internal_error": ErrorCode(status=500),
    "storage_damaged": ErrorCode(status=500),
    "storage_missing": ErrorCode(status=500),
    "method_unknown": ErrorCode(status=501),
    "transfer_encoding_unknown": ErrorCode(status=501),
    "too_many_connections": ErrorCode(status=503, retryable=True),
    "storage_unavailable": ErrorCode(status=503, retryable=True),
    "storage_misconfigured": ErrorCode(status=503, retryable=True),
    "record_unreadable": ErrorCode(status=503, retryable=True),
    "http_version_unsupported": ErrorCode(status=505),
}


def codes_of(status: int) -> list[str]:
    """Return the codes that responses with this status can have."""
    return [name for name, code in ERROR_CODES.items() if code.status == status]


class Refusal(HTTPException):
    """A call that the HTTP layer refuses before the service sees it."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(ERROR_CODES[code].status, detail)
        self.code = code
