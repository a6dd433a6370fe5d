"""A task's budget: the highest possible cost of a call is reserved before the call and settled after it."""

from __future__ import annotations

import threading

from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.dispatch.reservation import PER_DAY, Price, Reservation, fit, worst_case
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import LimitReached, MoneySetAside
from llm_server.orchestration.domain.receipt import usd


class Budget:
    """What is left of a task's `max_cost_usd`, in micro-USD; its parallel calls share it. None means no limit.

    With a `key_budget`, each call is also charged to the daily limit of the task's API key. `lost_microusd` is what is
    withheld for calls whose worker died.
    """

    def __init__(
        self, left_microusd: int | None, key_budget: KeyBudget | None = None, *, lost_microusd: int = 0
    ) -> None:
        self._left = left_microusd
        self._key_budget = key_budget
        self._lost_microusd = lost_microusd
        self._changed = threading.Condition()
        self._calls_under_way = 0

    @classmethod
    def of(
        cls,
        max_cost_microusd: int | None,
        spent_microusd: int,
        key_budget: KeyBudget | None = None,
        *,
        lost_microusd: int = 0,
    ) -> Budget:
        """Return the budget of a task with this limit that has already spent `spent_microusd`."""
        left = None if max_cost_microusd is None else max_cost_microusd - spent_microusd
        return cls(left, key_budget, lost_microusd=lost_microusd)

    @property
    def left_microusd(self) -> int | None:
        """What is left now of the task's limit; None without one."""
        with self._changed:
            return self._left

    def without(self, microusd: int) -> Budget:
        """Return a budget for `foresee`, of which this amount has been spent."""
        left = self.left_microusd
        return Budget(None if left is None else left - microusd, self._key_budget, lost_microusd=self._lost_microusd)

    def foresee(self, call: EngineCall, price: Price, *, beside_microusd: int) -> int | None:
        """Return what would be reserved now for a call, without reserving it; None if its price is unknown.

        `beside_microusd` is foreseen for other calls that begin before it. The key's day is not looked at.

        Raises:
            LimitReached: too little is left, or the call would have to wait, or a limit needs the price.
        """
        if self._left is None and self._key_budget is None:
            return worst_case(call, price)
        with self._changed:
            left, is_first = self._left, not self._calls_under_way and not beside_microusd
        fitted, microusd = fit(call, price, None if left is None else left - beside_microusd, self._limit)
        if fitted != call and not is_first:
            raise LimitReached("The call waits for the task's other calls to end.")
        return microusd

    def reserve(self, call: EngineCall, price: Price) -> tuple[EngineCall, Reservation]:
        """Reserve the highest possible cost of a call; lower the call's output limit if too little money is left.

        If the call fits only with a lower output limit, or not at all, wait first for the task's other calls to end,
        because each call releases what it did not cost. End each reservation with `settle` or `withhold`.

        Returns the call to make, and its reservation.

        Raises:
            LimitReached: the call does not fit, or its price is unknown.
            MoneySetAside: the call does not fit while other tasks of the same API key have calls under way.
        """
        if self._left is None and self._key_budget is None:
            microusd = worst_case(call, price)
            return call, Reservation(microusd=microusd or 0, is_priced=microusd is not None)
        with self._changed:
            fitted, reserved = self._wait_and_reserve(call, price)
            if self._left is not None:
                self._left -= reserved.microusd
            self._calls_under_way += 1
            return fitted, reserved

    def settle(self, reserved: Reservation, cost_microusd: int, *, withheld_microusd: int = 0) -> None:
        """End a reservation: release what the call did not cost, except `withheld_microusd`, which stays reserved."""
        if self._key_budget is not None:
            self._key_budget.settle(reserved, cost_microusd, withheld_microusd)
        self._end(reserved.microusd - cost_microusd - withheld_microusd)

    def withhold(self) -> None:
        """End a reservation without releasing any of it, because the cost of the call is unknown."""
        self._end(0)

    def _wait_and_reserve(self, call: EngineCall, price: Price) -> tuple[EngineCall, Reservation]:
        while True:
            others_under_way = self._calls_under_way > 0
            try:
                if reserved := self._try_to_reserve(call, price, uncut=others_under_way):
                    return reserved
            except LimitReached as error:
                if not others_under_way:
                    raise self._explained(error) from error
            self._changed.wait()

    def _explained(self, error: LimitReached) -> LimitReached:
        """Add to an error what is withheld for lost calls of the task, because that may be why no money is left."""
        if isinstance(error, MoneySetAside) or not self._lost_microusd:
            return error
        return LimitReached(f"{error} USD {usd(self._lost_microusd)} are withheld for calls whose worker died.")

    def _try_to_reserve(self, call: EngineCall, price: Price, *, uncut: bool) -> tuple[EngineCall, Reservation] | None:
        """Reserve without waiting. Return None if the call must stay `uncut` but fits only with a lower limit."""
        fitted, microusd = fit(call, price, self._left, self._limit)
        if uncut and fitted != call:
            return None
        if self._key_budget is None:
            return fitted, Reservation(microusd=microusd)
        return self._key_budget.reserve(fitted, microusd, price, uncut=uncut)

    @property
    def _limit(self) -> str:
        """The name of the limit that a call does not fit into."""
        return PER_DAY if self._left is None else "max_cost_usd"

    def _end(self, released_microusd: int) -> None:
        with self._changed:
            self._calls_under_way = max(0, self._calls_under_way - 1)
            if self._left is not None:
                self._left += released_microusd
            self._changed.notify_all()
