"""What did asking a language model cost, and may it cost more today?

Every answer is one line in a ledger beside the answers, so that several processes, a killed run
and the run after it count together. A question is asked only if its dearest outcome still fits
under the cap: the cap is never exceeded, it is where asking stops.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel

from diffgraph.artifacts import storing
from diffgraph.errors import SpendingCapReached
from diffgraph.permissions import make_folder, opener

log = logging.getLogger(__name__)

MILLION = 1_000_000
DAY = 24 * 3600.0
LEDGER = "spent.jsonl"


class Price(NamedTuple):
    """Dollars a million tokens."""

    input: float
    output: float
    cache_write: float
    cache_read: float


PRICES_OF = "2026-10-24"
"""The day the prices were looked up, at https://platform.claude.com/docs/en/about-claude/pricing."""

PRICES = {
    "claude-haiku-5-5": Price(0.10, 0.50, 0.125, 0.01),  # prompts up to 100,000 tokens
    "claude-sonnet-5-5": Price(2, 10, 2.50, 0.10),
    "claude-opus-5-5": Price(4, 20, 5, 0.20),
    "claude-sonnet-5": Price(2, 10, 2.50, 0.20),
    "claude-opus-5": Price(5, 25, 6.25, 0.50),
    "claude-opus-4-8": Price(5, 25, 6.25, 0.50),
    "claude-opus-4-7": Price(5, 25, 6.25, 0.50),
    "claude-opus-4-6": Price(5, 25, 6.25, 0.50),
    "claude-opus-4-5": Price(5, 25, 6.25, 0.50),
    "claude-sonnet-4-6": Price(3, 15, 3.75, 0.30),
    "claude-sonnet-4-5": Price(3, 15, 3.75, 0.30),
    "claude-haiku-4-5": Price(1, 5, 1.25, 0.10),
}
BATCH_SHARE = 0.5  # of the price, for answers that may take a day
DEAREST = Price(*(max(column) for column in zip(*PRICES.values(), strict=True)))
"""What a model of unknown price is taken to cost when it is decided whether to ask."""


def price_of(model: str) -> Price | None:
    """Return a model's price, dated snapshots included; None if it is not known."""
    return PRICES.get(model) or PRICES.get(re.sub(r"-\d{8}$", "", model))


class Spending(BaseModel, frozen=True):
    """What a number of answers took."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    dollars: float | None = 0.0
    """None: a model was asked whose price is not known."""

    @classmethod
    def of(cls, usage: Any, model: str, share: float = 1.0) -> Self:
        """Return what one answer took, from the `usage` of a message of this model.

        Args:
            usage: the API's record of tokens.
            model: which was asked.
            share: of the list price that is paid.
        """
        tokens = {
            "input_tokens": usage.input_tokens or 0,
            "output_tokens": usage.output_tokens or 0,
            "cache_write_tokens": usage.cache_creation_input_tokens or 0,
            "cache_read_tokens": usage.cache_read_input_tokens or 0,
        }
        price = price_of(model)
        dollars = None if price is None else share * _cost(price, *tokens.values())
        return cls(answers=1, dollars=dollars, **tokens)

    def __add__(self, other: "Spending") -> "Spending":
        dollars = (
            None
            if self.dollars is None or other.dollars is None
            else round(self.dollars + other.dollars, 9)
        )
        counts = {
            name: getattr(self, name) + getattr(other, name)
            for name in type(self).model_fields
            if name != "dollars"
        }
        return Spending(dollars=dollars, **counts)

    def line(self) -> str:
        """Return it in words."""
        cost = "of unknown price" if self.dollars is None else f"${self.dollars:.4f}"
        read = self.input_tokens + self.cache_write_tokens + self.cache_read_tokens
        return (
            f"{self.answers} answers of a language model: {read} tokens read "
            f"({self.cache_read_tokens} from its cache), {self.output_tokens} written, {cost}"
        )


def _cost(price: Price, read: float, written: float, cached: float, reread: float) -> float:
    told = read * price.input + written * price.output
    return (told + cached * price.cache_write + reread * price.cache_read) / MILLION


def highest_cost(model: str, read: float, written: float, share: float = 1.0) -> float:
    """Return the dollars that so many tokens cost at most."""
    price = price_of(model) or DEAREST
    return share * (read * max(price.input, price.cache_write) + written * price.output) / MILLION


class Ledger:
    """The record of what was spent; threads and processes may share one.

    Args:
        folder: where the record is kept.
        cap: dollars that may be spent within 24 hours; None: without a limit.
    """

    def __init__(self, folder: Path, cap: float | None = None) -> None:
        self.path = folder / LEDGER
        self.cap = cap
        self._lock = threading.Lock()
        self._reserved = 0.0
        self._offset = 0
        self._seen: list[tuple[float, Spending]] = []

    @contextmanager
    def reserved(self, dollars: float) -> Iterator[None]:
        """Hold dollars back while a question is open.

        Raises:
            SpendingCapReached: they could exceed the cap.
        """
        with self._lock:
            self._check(dollars)
        with self.held(dollars):
            yield

    @contextmanager
    def held(self, dollars: float) -> Iterator[None]:
        """Hold dollars back that are as good as spent."""
        with self._lock:
            self._reserved += dollars
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= dollars

    def _check(self, dollars: float) -> None:
        if self.cap is None:
            return
        spent = self._guarded(time.time() - DAY)
        if spent + self._reserved + dollars > self.cap:
            raise SpendingCapReached(
                f"the spending cap of ${self.cap:g} a day is reached: ${spent:.4f} were spent in"
                f" 24 hours, the next question may cost ${dollars:.4f}; what was answered is kept."
                " Raise DIFFGRAPH_CLAUDE_CAP, wait, or use --agent offline"
            )

    def room(self) -> float:
        """Return the dollars that may still be spent."""
        if self.cap is None:
            return float("inf")
        with self._lock:
            return self.cap - self._guarded(time.time() - DAY) - self._reserved

    def record(self, kind: str, model: str, spending: Spending) -> None:
        """Write down what an answer took.

        Raises:
            StorageError: it cannot be written.
        """
        row = {"at": round(time.time(), 3), "kind": kind, "model": model}
        line = json.dumps(row | spending.model_dump()) + "\n"
        with self._lock, storing(self.path):
            make_folder(self.path.parent)
            handle = opener(str(self.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                os.write(handle, line.encode())  # one short write: lines of processes do not mix
            finally:
                os.close(handle)

    def since(self, moment: float) -> Spending:
        """Return what was spent from a moment on (seconds since 1970)."""
        with self._lock:
            self._read_on()
            found = [spending for at, spending in self._seen if at >= moment]
        return sum(found, Spending())

    def _guarded(self, moment: float) -> float:
        """Return the dollars since a moment; what has no price is counted as the dearest."""
        self._read_on()
        return sum(_at_most(spending) for at, spending in self._seen if at >= moment)

    def _read_on(self) -> None:
        """Read the lines that were written since the last time, by whomever."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                self._seen.append((float(row["at"]), Spending.model_validate(row)))
            except (ValueError, TypeError, KeyError):
                log.warning("a line of %s is damaged and is not counted", self.path)


def _at_most(said: Spending) -> float:
    if said.dollars is not None:
        return said.dollars
    read = said.input_tokens + said.cache_write_tokens + said.cache_read_tokens
    return highest_cost("", read, said.output_tokens)
