"""The ports for API keys and what is charged to them."""

from __future__ import annotations

from typing import Protocol

from llm_server.orchestration.domain.api_key import Account, Charges, Key, KeyUse


class Ledger(Protocol):
    """What is charged to API keys that have a daily limit. Every method may raise StorageUnavailable."""

    def reserve(self, account: Account, name: str, microusd: int, *, max_microusd: int) -> Charges | None:
        """Charge the worst-case cost of a call to an account, under a name that only this call has.

        Returns None if the amount was reserved, now or by an earlier call with this name. Otherwise the account would
        exceed `max_microusd`: nothing is reserved, and the account's charges are returned.
        """
        ...

    def settle(
        self, account: Account, name: str, reserved_microusd: int, cost_microusd: int, *, withheld_microusd: int = 0
    ) -> None:
        """Replace a reserved amount by the cost of the call and the amount that stays withheld.

        Calling this again has no further effect.
        """
        ...

    def withhold(self, account: Account, claim: str) -> None:
        """Withhold every amount that is reserved under a name that begins with `claim` and a `#`.

        They were reserved by a worker that has died. Calling this again has no further effect, and neither has a later
        `settle` of such a reservation.
        """
        ...


class KeyStore(Ledger, Protocol):
    """API keys and what is counted for them. Every method may raise StorageUnavailable."""

    def add_key(self, key: Key) -> bool:
        """Store a new key. Returns False, and writes nothing, if another key has its id.

        Adding the same key again returns True, so a write whose reply was lost can be repeated.
        """
        ...

    def swap_key(self, before: Key, after: Key) -> bool:
        """Replace the key `before` by `after`. Returns False, and writes nothing, if the stored key is not `before`."""
        ...

    def remove_key(self, key_id: str) -> None:
        """Remove a key and everything that is counted for it. Calling this again has no further effect."""
        ...

    def key(self, key_id: str) -> Key | None:
        """Read a key; None if no key has this id. Sees every write that was acknowledged before."""
        ...

    def all_keys(self) -> list[Key]:
        """Read all keys, in any order."""
        ...

    def has_keys(self) -> bool:
        """Return whether any API key is stored; revoked keys count."""
        ...

    def count_request(self, key_id: str, minute: int, *, most: int) -> int | None:
        """Count one request of a key in a minute (Unix time in minutes), if fewer than `most` are counted in it.

        Returns how many of `most` are left, or None if the request was not counted.
        """
        ...

    def use(self, account: Account) -> KeyUse:
        """Read what is counted for a key: the charges of the account's day, and its tasks in flight."""
        ...
