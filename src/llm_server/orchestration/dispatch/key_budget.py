"""An API key's daily budget: the ledger reserves money for each engine call and settles it after the call."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count

from llm_server.orchestration.dispatch.reservation import PER_DAY, Price, Reservation, fit
from llm_server.orchestration.domain.api_key import Account, Charges
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import LimitReached, MoneySetAside, StorageUnavailable
from llm_server.orchestration.domain.ports.keys import Ledger
from llm_server.orchestration.domain.task import Task

MAX_RESERVE_TRIES = 5
"""How often a reservation is tried while other calls of the same key use up more of its daily limit."""

_log = logging.getLogger(__name__)


class KeyBudget:
    """The rest of a key's `usd_per_day` for the calls of one claim; `claim` is the prefix of their reservations' names.

    All charges count for the day on which the claim began, also those of calls that end after midnight, so that each
    charge is settled on the day on which it was made.
    """

    def __init__(self, ledger: Ledger, account: Account, *, max_microusd: int, claim: str) -> None:
        self._ledger = ledger
        self._account = account
        self._max_microusd = max_microusd
        self._claim = claim
        self._names: Iterator[str] = (f"{claim}#{n}" for n in count(1))

    @classmethod
    def of(cls, ledger: Ledger, task: Task) -> KeyBudget | None:
        """Return the budget for the last claim of a task; None if no key with a daily limit pays for the task."""
        if task.charge is None or task.claimed_ms is None:
            return None
        return cls(
            ledger,
            Account(task.charge.key_id, day_of(task.claimed_ms)),
            max_microusd=task.charge.microusd_per_day,
            claim=f"{task.task_id[-12:]}#{task.fence}",
        )

    def withhold(self) -> None:
        """Withhold what the claim has reserved and not settled, because its worker died. Raises StorageUnavailable."""
        self._ledger.withhold(self._account, self._claim)

    def reserve(
        self, call: EngineCall, microusd: int, price: Price, *, uncut: bool = False
    ) -> tuple[EngineCall, Reservation] | None:
        """Charge the highest possible cost of a call, `microusd`; lower its output limit if too little is left.

        Returns None if the call must stay `uncut` and does not fit.

        Raises:
            LimitReached: too little of the day's money is left.
            MoneySetAside: too little is left while the key's other calls run, or the ledger cannot be reached.
        """
        name = next(self._names)
        for _ in range(MAX_RESERVE_TRIES):
            if not microusd:
                return call, Reservation()
            charges = self._charge(name, microusd)
            if charges is None:
                return call, Reservation(microusd=microusd, name=name)
            if uncut:
                return None
            call, microusd = self._cut(call, price, charges)
        raise MoneySetAside

    def settle(self, reserved: Reservation, cost_microusd: int, withheld_microusd: int) -> None:
        """Release reserved money that a call neither cost nor withholds. Only log if the ledger cannot be reached."""
        if not reserved.name:
            return
        try:
            self._ledger.settle(
                self._account, reserved.name, reserved.microusd, cost_microusd, withheld_microusd=withheld_microusd
            )
        except StorageUnavailable:
            _log.warning("reservation not settled", extra={"key_id": self._account.key_id})

    def _charge(self, name: str, microusd: int) -> Charges | None:
        """Charge an amount to the key's day. Return None if it was charged, otherwise what was charged before."""
        try:
            return self._ledger.reserve(self._account, name, microusd, max_microusd=self._max_microusd)
        except StorageUnavailable as error:
            # StorageUnavailable would end the claim and lose answers that are already paid for.
            raise MoneySetAside from error

    def _cut(self, call: EngineCall, price: Price, charges: Charges) -> tuple[EngineCall, int]:
        """Lower a call's output limit to the money that is left of the day.

        Raises:
            LimitReached: too little of the day's money is left.
            MoneySetAside: the call may fit once the key's other calls have ended.
        """
        left = max(0, self._max_microusd - charges.charged_microusd)
        try:
            return fit(call, price, left, PER_DAY)
        except LimitReached:
            # LimitReached is raised again if the call would not even fit after all other calls have ended.
            fit(call, price, left + charges.under_way_microusd, PER_DAY)
            raise MoneySetAside from None
