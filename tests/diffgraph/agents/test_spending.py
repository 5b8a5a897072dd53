import json
import time
from types import SimpleNamespace

import pytest

from diffgraph.agents.spending import LEDGER, PRICES, Ledger, Spending, highest_cost, price_of
from diffgraph.errors import SpendingCapReached


def usage(read: int = 0, written: int = 0, cached: int = 0, reread: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        input_tokens=read,
        output_tokens=written,
        cache_creation_input_tokens=cached,
        cache_read_input_tokens=reread,
    )


def test_counts_each_kind_of_token_at_its_price():
    spent = Spending.of(usage(1_000_000, 100_000, 10_000, 1_000_000), "claude-sonnet-5-5")
    assert spent.dollars == pytest.approx(2 + 1 + 0.025 + 0.10)


def test_a_batch_costs_half():
    whole = Spending.of(usage(1000, 1000), "claude-haiku-5-5")
    assert Spending.of(usage(1000, 1000), "claude-haiku-5-5", 0.5).dollars == whole.dollars / 2


def test_a_model_of_unknown_price_has_tokens_only():
    spent = Spending.of(usage(10, 20), "claude-tomorrow")
    assert (spent.dollars, spent.output_tokens) == (None, 20)
    assert (spent + Spending.of(usage(1, 1), "claude-haiku-5-5")).dollars is None
    assert "unknown price" in spent.line()
    assert highest_cost("claude-tomorrow", 1, 1) >= max(
        highest_cost(model, 1, 1) for model in PRICES
    )


def test_dated_names_have_the_price_of_their_model():
    assert price_of("claude-haiku-4-5-20251001") == PRICES["claude-haiku-4-5"]
    assert price_of("gpt-4") is None


def test_several_processes_share_a_ledger(tmp_path):
    one, other = Ledger(tmp_path, cap=1.0), Ledger(tmp_path, cap=1.0)
    other.record("describe", "claude-haiku-5-5", Spending(answers=1, dollars=0.9))
    with pytest.raises(SpendingCapReached, match=r"\$0.9000 were spent"), one.reserved(0.2):
        pass
    with one.reserved(0.05), pytest.raises(SpendingCapReached), one.reserved(0.06):
        pass
    assert one.room() == pytest.approx(0.1)


def test_what_was_spent_yesterday_is_not_counted(tmp_path):
    row = Spending(answers=1, dollars=5.0).model_dump() | {"at": time.time() - 90_000}
    (tmp_path / LEDGER).write_text(json.dumps(row) + "\n")
    assert Ledger(tmp_path, cap=1.0).room() == 1.0


def test_a_damaged_line_is_not_counted_and_ends_nothing(tmp_path):
    ledger = Ledger(tmp_path)
    (tmp_path / LEDGER).write_text('{"at": "soon"}\nno json\n[1]\n')
    ledger.record("parse", "claude-haiku-5-5", Spending(answers=1, dollars=0.5))
    with (tmp_path / LEDGER).open("a") as file:
        file.write('{"at": 1')  # torn
    assert ledger.since(0) == Spending(answers=1, dollars=0.5)


def test_says_what_was_spent_since_a_moment(tmp_path):
    ledger = Ledger(tmp_path)
    assert ledger.since(0) == Spending()
    ledger.record("parse", "claude-haiku-5-5", Spending.of(usage(10, 5), "claude-haiku-5-5"))
    now = time.time() + 1
    assert ledger.since(now).answers == 0
    assert ledger.since(0).input_tokens == 10
    assert "1 answers" in ledger.since(0).line()
