"""What is left of a task's money, and of its key's: set aside before a call, settled after it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import msgspec

from llm_server.orchestration.domain.api_key import Account, Charges
from llm_server.orchestration.domain.engine_call import EngineCall
from llm_server.orchestration.domain.errors import LimitReached, MoneySetAside, StorageUnavailable
from llm_server.orchestration.domain.ports import Ledger
from llm_server.orchestration.domain.receipt import MICROUSD_PER_USD

LEAST_OUTPUT_TOKENS = 16
"""A call is not cut to fewer: so short an answer is worth nothing."""

RESERVE_TRIES = 5
"""How often a call is cut anew while others charge the same key."""

_PER_DAY = "usd_per_day"
_WIRE_TOKENS = 64
"""What an API puts round the texts: roles, separators."""

_log = logging.getLogger(__name__)

Price = Callable[[int, int], int | None]
"""(tokens in, tokens out) -> micro-USD; None when nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What was set aside for a call; `name` is the ledger's, "" where nothing was charged there."""

    microusd: int = 0
    name: str = ""


class DailyCap:
    """What a key's `usd_per_day` leaves the calls of one claim; `names` tells their reservations apart.

    The day is that of the claim, also for a call that ends after midnight: a charge and its settlement must meet.
    """

    def __init__(self, ledger: Ledger, account: Account, *, most_microusd: int, claim: str) -> None:
        self._ledger = ledger
        self._account = account
        self._most_microusd = most_microusd
        self._names: Iterator[str] = (f"{claim}#{n}" for n in count(1))

    def reserve(
        self, call: EngineCall, microusd: int, price: Price, *, whole: bool = False
    ) -> tuple[EngineCall, Reservation] | None:
        """Charge the worst case of a call, its output limit cut to what is left.

        None where it is to fit `whole` and does not.

        Raises:
            LimitReached: too little of the day is left.
            MoneySetAside: too little is left while other calls of the key are under way, or the ledger is away.
        """
        name = next(self._names)
        for _ in range(RESERVE_TRIES):
            if not microusd:
                return call, Reservation()
            charges = self._charged(name, microusd)
            if charges is None:
                return call, Reservation(microusd=microusd, name=name)
            if whole:
                return None
            call, microusd = self._cut(call, price, charges)
        raise MoneySetAside

    def settle(self, reserved: Reservation, cost_microusd: int, withheld_microusd: int) -> None:
        """Give back what a call neither cost nor withholds; nothing where the ledger is away."""
        if not reserved.name:
            return
        try:
            self._ledger.settle(
                self._account, reserved.name, reserved.microusd, cost_microusd, withheld_microusd=withheld_microusd
            )
        except StorageUnavailable:
            _log.warning("reservation not settled", extra={"key_id": self._account.key_id})

    def _charged(self, name: str, microusd: int) -> Charges | None:
        try:
            return self._ledger.reserve(self._account, name, microusd, most_microusd=self._most_microusd)
        except StorageUnavailable as error:  # raised as it is, it would take answers along that are paid
            raise MoneySetAside from error

    def _cut(self, call: EngineCall, price: Price, charges: Charges) -> tuple[EngineCall, int]:
        left = max(0, self._most_microusd - charges.charged_microusd)
        try:
            return _fitted(call, price, left, _PER_DAY)
        except LimitReached:
            _fitted(call, price, left + charges.under_way_microusd, _PER_DAY)
            raise MoneySetAside from None


class Budget:
    """What is left of a task's `max_cost_usd` and of its key's day, shared by its parallel calls; None is no limit."""

    def __init__(self, left_microusd: int | None, daily: DailyCap | None = None) -> None:
        self._left = left_microusd
        self._daily = daily
        self._changed = threading.Condition()
        self._under_way = 0

    @classmethod
    def of(cls, max_cost_usd: float | None, spent_microusd: int, daily: DailyCap | None = None) -> Budget:
        if max_cost_usd is None:
            return cls(None, daily)
        return cls(int(max_cost_usd * MICROUSD_PER_USD) - spent_microusd, daily)

    def reserve(self, call: EngineCall, price: Price) -> tuple[EngineCall, Reservation]:
        """Set the worst case of a call aside, its output limit cut to what is left.

        What the task's calls under way have set aside comes back in part when they end: a call that does not fit whole
        waits for them. Each reservation is to be ended, by `settle` or `withhold`.

        Returns the call to make and what was set aside.

        Raises:
            LimitReached: the call cannot fit, or nobody knows what it would cost.
            MoneySetAside: it cannot fit while calls of the key's other tasks are under way.
        """
        if self._left is None and self._daily is None:
            return call, Reservation()
        with self._changed:
            fitted, reserved = self._set_aside_in_time(call, price)
            if self._left is not None:
                self._left -= reserved.microusd
            self._under_way += 1
            return fitted, reserved

    def settle(self, reserved: Reservation, cost_microusd: int, *, withheld_microusd: int = 0) -> None:
        """End a reservation: give back what the call did not cost; `withheld_microusd` of it stays set aside."""
        if self._daily is not None:
            self._daily.settle(reserved, cost_microusd, withheld_microusd)
        self._end(reserved.microusd - cost_microusd - withheld_microusd)

    def withhold(self) -> None:
        """End a reservation of which nobody knows how much will be charged: nothing is given back."""
        self._end(0)

    def _set_aside_in_time(self, call: EngineCall, price: Price) -> tuple[EngineCall, Reservation]:
        while True:
            try:
                if found := self._set_aside(call, price, whole=bool(self._under_way)):
                    return found
            except LimitReached:
                if not self._under_way:
                    raise
            self._changed.wait()

    def _set_aside(self, call: EngineCall, price: Price, *, whole: bool) -> tuple[EngineCall, Reservation] | None:
        fitted, microusd = _fitted(call, price, self._left, _PER_DAY if self._left is None else "max_cost_usd")
        if whole and fitted != call:
            return None
        if self._daily is None:
            return fitted, Reservation(microusd=microusd)
        return self._daily.reserve(fitted, microusd, price, whole=whole)

    def _end(self, back_microusd: int) -> None:
        with self._changed:
            self._under_way -= bool(self._under_way)
            if self._left is not None:
                self._left += back_microusd
            self._changed.notify_all()


def _fitted(call: EngineCall, price: Price, left_microusd: int | None, limit: str) -> tuple[EngineCall, int]:
    """A call cut to what is left of a limit (None: not cut), and its worst case. Raises LimitReached."""
    tokens_in = _most_tokens_in(call)
    fixed, worst = price(tokens_in, 0), price(tokens_in, call.max_output_tokens)
    if fixed is None or worst is None:
        raise LimitReached(f"The engine's price is unknown, so {limit} cannot be kept.")
    if left_microusd is not None and worst > left_microusd:
        share = max(0, left_microusd - fixed) / (worst - fixed) if worst > fixed else 0.0
        call = replace(call, max_output_tokens=max(0, int(call.max_output_tokens * share) - 1))
        worst = price(tokens_in, call.max_output_tokens) or 0
        if worst > left_microusd or call.max_output_tokens < LEAST_OUTPUT_TOKENS:
            raise LimitReached(f"The next engine call could cost more than is left of {limit}.")
    return call, worst


def _most_tokens_in(call: EngineCall) -> int:
    """The most tokens a call's texts can have: one a UTF-8 byte. An answer's schema is sent along and counts."""
    schema = msgspec.json.encode(call.answer_schema.schema) if call.answer_schema else b""
    return len(call.system.encode()) + len(call.prompt.encode()) + len(schema) + _WIRE_TOKENS
