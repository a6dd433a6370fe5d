"""What is left of a task's money: the worst case of a call is set aside before it, and settled after it."""

from __future__ import annotations

import threading

from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.dispatch.reservation import PER_DAY, Price, Reservation, fit
from llm_server.orchestration.domain.engine_call import EngineCall
from llm_server.orchestration.domain.errors import LimitReached
from llm_server.orchestration.domain.receipt import MICROUSD_PER_USD


class Budget:
    """What is left of a task's `max_cost_usd`, shared by its parallel calls; None is no limit.

    `key_budget` is what its key's day leaves, where that has a limit: each call is reserved there too.
    """

    def __init__(self, left_microusd: int | None, key_budget: KeyBudget | None = None) -> None:
        self._left = left_microusd
        self._key_budget = key_budget
        self._changed = threading.Condition()
        self._under_way = 0

    @classmethod
    def of(cls, max_cost_usd: float | None, spent_microusd: int, key_budget: KeyBudget | None = None) -> Budget:
        if max_cost_usd is None:
            return cls(None, key_budget)
        return cls(int(max_cost_usd * MICROUSD_PER_USD) - spent_microusd, key_budget)

    def reserve(self, call: EngineCall, price: Price) -> tuple[EngineCall, Reservation]:
        """Set the worst case of a call aside, its output limit cut to what is left.

        What the task's calls under way have set aside comes back in part when they end: a call that does not fit whole
        waits for them. End each reservation by `settle` or `withhold`.

        Returns the call to make and what was set aside.

        Raises:
            LimitReached: the call cannot fit, or its price is unknown.
            MoneySetAside: it cannot fit while calls of the key's other tasks are under way.
        """
        if self._left is None and self._key_budget is None:
            return call, Reservation()
        with self._changed:
            fitted, reserved = self._set_aside_in_time(call, price)
            if self._left is not None:
                self._left -= reserved.microusd
            self._under_way += 1
            return fitted, reserved

    def settle(self, reserved: Reservation, cost_microusd: int, *, withheld_microusd: int = 0) -> None:
        """End a reservation: give back what the call did not cost; `withheld_microusd` of it stays set aside."""
        if self._key_budget is not None:
            self._key_budget.settle(reserved, cost_microusd, withheld_microusd)
        self._end(reserved.microusd - cost_microusd - withheld_microusd)

    def withhold(self) -> None:
        """End a reservation when it is unknown how much will be charged: nothing is given back."""
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
        fitted, microusd = fit(call, price, self._left, PER_DAY if self._left is None else "max_cost_usd")
        if whole and fitted != call:
            return None
        if self._key_budget is None:
            return fitted, Reservation(microusd=microusd)
        return self._key_budget.reserve(fitted, microusd, price, whole=whole)

    def _end(self, back_microusd: int) -> None:
        with self._changed:
            self._under_way -= bool(self._under_way)
            if self._left is not None:
                self._left += back_microusd
            self._changed.notify_all()
