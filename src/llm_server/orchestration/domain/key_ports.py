"""What the API keys need from outside: where they are kept, and where what they limit is counted."""

from __future__ import annotations

from typing import Protocol

from llm_server.orchestration.domain.api_key import Account, Charges, Key, KeyUse


class Ledger(Protocol):
    """What is charged to keys that have a daily cap. Every method may raise StorageUnavailable."""

    def reserve(self, account: Account, name: str, microusd: int, *, most_microusd: int) -> Charges | None:
        """Charge the worst case of a call under a name of its own, unless the account would go above `most_microusd`.

        None when it is charged, also when it was under this name before; else nothing was, and what was before.
        """
        ...

    def settle(
        self, account: Account, name: str, reserved_microusd: int, cost_microusd: int, *, withheld_microusd: int = 0
    ) -> None:
        """Replace what was reserved by what the call cost and what stays withheld; a second time it changes nothing."""
        ...


class KeyStore(Ledger, Protocol):
    """API keys and what is counted for them. Every method may raise StorageUnavailable."""

    def put_key(self, key: Key) -> None:
        """Store a key, or replace the one with its id."""
        ...

    def key(self, key_id: str) -> Key | None:
        """Read a key; None when there is none with this id."""
        ...

    def all_keys(self) -> list[Key]:
        """Every key, in no order that matters."""
        ...

    def has_keys(self) -> bool:
        """Whether any key was ever made."""
        ...

    def count_request(self, key_id: str, minute: int, *, most: int) -> int | None:
        """Count one request of a minute; how many of `most` are left, None when there was none to take."""
        ...

    def use(self, account: Account) -> KeyUse:
        """What is counted for a key: today's charges, and its tasks in flight."""
        ...
