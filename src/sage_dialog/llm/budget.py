"""Hard caps on calls, tokens and money, for the run and for each role, checked before each call."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage_dialog.config import Caps, Price, Role
from sage_dialog.llm.requests import Request, StopRunError

RUN = "the run"
_KINDS = ("calls", "tokens", "money")


class CapReachedError(StopRunError):
    """The next call may exceed a cap."""


@dataclass(frozen=True)
class Reservation:
    """Upper bounds on the tokens and the cost of one call."""

    role: str
    model: str
    tokens: int
    money: float


class Budget:
    """The spending of the run, and upper bounds on that of the calls in flight.

    A call counts when it is sent. Tokens and money are reserved at their upper bound until the answer states them; a
    call that fits but for these reservations waits.
    """

    def __init__(self, caps: Caps, role_caps: Mapping[Role, Caps], prices: Mapping[str, Price]) -> None:
        self._caps: dict[str, Caps] = {RUN: caps} | {str(role): own for role, own in role_caps.items()}
        self._prices = dict(prices)
        self._spent: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._reserved: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._waiting: list[asyncio.Future[None]] = []  # until a call is settled
        self.served_models: defaultdict[str, set[str]] = defaultdict(set)
        """The models that responded, by role, as servers name them."""

    def cost(
        self, model: str, prompt_tokens: int, completion_tokens: int, *, cached_tokens: int = 0, batch: bool = False
    ) -> float | None:
        """Return the cost of a call in the currency of `llm.prices`; None for a model without a price.

        Args:
            cached_tokens: those of the prompt that the provider had in its prompt cache.
            batch: whether the price of the batch API applies.
        """
        price = self._prices.get(model)
        if price is None:
            return None
        cached_price = price.prompt if price.cached_prompt is None else price.cached_prompt
        prompt = (prompt_tokens - cached_tokens) * price.prompt + cached_tokens * cached_price
        full = (prompt + completion_tokens * price.completion) / 1e6
        return full * price.batch_share if batch else full

    def share_price(self, *names: str) -> None:
        """Give all names of one model the price of the first of them that has one."""
        priced = [self._prices[name] for name in names if name in self._prices]
        for name in names if priced else ():
            self._prices.setdefault(name, priced[0])

    def check_caps(self, role: str, model: str, max_completion_tokens: int | None) -> None:
        """Raise ValueError if a cap cannot be enforced: no price, or no limit on the tokens of a response."""
        for payer in (RUN, role):
            caps = self._caps.get(payer, Caps())
            parameter = _parameter(payer)
            if caps.money is not None and model not in self._prices:
                raise ValueError(
                    f"{parameter}.money caps the cost of {model}, but llm.prices has no price for it; add one."
                )
            if (caps.money is not None or caps.tokens is not None) and max_completion_tokens is None:
                raise ValueError(
                    f"{parameter} caps tokens or money, but the {role}'s sampling sets no max_tokens, so that a call "
                    "has no upper bound; set it."
                )

    async def reserve(self, request: Request, *, batch: bool = False) -> Reservation:
        """Count a call and reserve its upper bounds, after waiting for other calls if these are in the way.

        Raises:
            CapReachedError: naming the cap.
        """
        reservation = self._upper_bounds(request, batch)
        while exceeded := self._exceeded_cap(reservation):
            if not self._reserved[exceeded]:  # no call in flight could make room
                raise CapReachedError(self._message(*exceeded, reservation))
            self._waiting.append(settled := asyncio.get_running_loop().create_future())
            await settled
        self._reserve(reservation)
        return reservation

    def try_reserve(self, request: Request, *, batch: bool = False) -> Reservation | None:
        """Count a call and reserve its upper bounds; None if there is no room now."""
        reservation = self._upper_bounds(request, batch)
        if self._exceeded_cap(reservation):
            return None
        self._reserve(reservation)
        return reservation

    def settle(self, reservation: Reservation, tokens: int, money: float | None) -> None:
        """Replace a reservation by the actual tokens and cost."""
        for payer in (RUN, reservation.role):
            self._reserved[payer, "tokens"] -= reservation.tokens
            self._reserved[payer, "money"] -= reservation.money
            if self._reserved[payer, "tokens"] <= 0:
                self._reserved[payer, "money"] = 0.0  # removes the rounding error of the sum
            self._spent[payer, "tokens"] += tokens
            self._spent[payer, "money"] += money or 0.0
        waiting, self._waiting = self._waiting, []
        for settled in waiting:
            if not settled.done():  # cancelled
                settled.set_result(None)

    def spent(self, role: str = RUN) -> dict[str, float]:
        """Return calls, tokens and money spent so far by this process."""
        return {kind: self._spent[role, kind] for kind in _KINDS}

    def roles(self) -> list[str]:
        """Return the roles that have made a call, with `RUN` if any has."""
        return sorted({payer for (payer, kind), amount in self._spent.items() if kind == "calls" and amount})

    def record_model(self, role: str, answer: Mapping[str, Any]) -> None:
        """Record the exact model that an answer names; a model's name may be an alias."""
        if model := " ".join(str(answer[field]) for field in ("model", "system_fingerprint") if answer.get(field)):
            self.served_models[role].add(model[:200])

    def remaining(self, role: str, kind: str) -> float | None:
        """Return the rest of a cap for a role; None without a cap."""
        left = [
            cap - self._spent[payer, kind]
            for payer in (RUN, role)
            if (cap := getattr(self._caps.get(payer, Caps()), kind)) is not None
        ]
        return min(left, default=None)

    def _upper_bounds(self, request: Request, batch: bool) -> Reservation:
        prompt, completion = request.max_prompt_tokens, request.max_completion_tokens or 0
        money = self.cost(request.model, prompt, completion, batch=batch) or 0.0
        return Reservation(request.role, request.model, prompt + completion, money)

    def _reserve(self, reservation: Reservation) -> None:
        for payer in (RUN, reservation.role):
            self._spent[payer, "calls"] += 1
            self._reserved[payer, "tokens"] += reservation.tokens
            self._reserved[payer, "money"] += reservation.money

    def _exceeded_cap(self, reservation: Reservation) -> tuple[str, str] | None:
        amounts = {"calls": 1, "tokens": reservation.tokens, "money": reservation.money}
        for payer in (RUN, reservation.role):
            caps = self._caps.get(payer, Caps())
            for kind, amount in amounts.items():
                cap = getattr(caps, kind)
                if cap is not None and self._spent[payer, kind] + self._reserved[payer, kind] + amount > cap:
                    return payer, kind
        return None

    def _message(self, payer: str, kind: str, reservation: Reservation) -> str:
        name = f"{_parameter(payer)}.{kind}"
        cap, spent = getattr(self._caps[payer], kind), self._spent[payer, kind]
        subject = payer if payer == RUN else f"the {payer}"
        return (
            f"{name} = {cap:,} is reached: {subject} has spent {spent:,.6g}, and the next call to {reservation.model} "
            "may exceed it. All responses are in the response cache. The same command goes on from there, with a new "
            f"budget of the same size; set a larger one by --params {name}=… or in conf/*/parameters_llm.yml."
        )


def _parameter(payer: str) -> str:
    return "llm.caps" if payer == RUN else f"llm.role_caps.{payer}"
