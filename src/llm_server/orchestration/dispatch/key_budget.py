"""Where an API key's money of the day is reserved: before each engine call, in the ledger, and settled after it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count

from llm_server.orchestration.dispatch.reservation import PER_DAY, Price, Reservation, fit
from llm_server.orchestration.domain.api_key import Account, Charges
from llm_server.orchestration.domain.engine_call import EngineCall
from llm_server.orchestration.domain.errors import LimitReached, MoneySetAside, StorageUnavailable
from llm_server.orchestration.domain.ports import Ledger

RESERVE_TRIES = 5
"""How often a call is cut anew while other calls are charged to the same key."""

_log = logging.getLogger(__name__)


class KeyBudget:
    """What a key's `usd_per_day` leaves the calls of one claim; `claim` tells their reservations apart.

    The day is that of the claim, also for a call that ends after midnight: a charge and its settlement must meet.
    """

    def __init__(self, ledger: Ledger, account: Account, *, max_microusd: int, claim: str) -> None:
        self._ledger = ledger
        self._account = account
        self._max_microusd = max_microusd
        self._names: Iterator[str] = (f"{claim}#{n}" for n in count(1))

    def reserve(
        self, call: EngineCall, microusd: int, price: Price, *, whole: bool = False
    ) -> tuple[EngineCall, Reservation] | None:
        """Charge the worst case of a call, its output limit cut to what is left.

        Returns None if the call is to fit `whole` and does not.

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
            return self._ledger.reserve(self._account, name, microusd, max_microusd=self._max_microusd)
        except StorageUnavailable as error:  # as it is, it would end the claim, and answers that are paid with it
            raise MoneySetAside from error

    def _cut(self, call: EngineCall, price: Price, charges: Charges) -> tuple[EngineCall, int]:
        left = max(0, self._max_microusd - charges.charged_microusd)
        try:
            return fit(call, price, left, PER_DAY)
        except LimitReached:
            fit(call, price, left + charges.under_way_microusd, PER_DAY)
            raise MoneySetAside from None
