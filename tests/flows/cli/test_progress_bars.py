"""A person sees how far the work is, on a terminal and in a log, and never on standard output."""

import io

import pytest
from rich.console import Console

from diffgraph.progress import report
from flows.cli import progress_bars


def shown(is_terminal: bool) -> str:
    told = io.StringIO()
    console = Console(file=told, force_terminal=is_terminal, width=120)
    with progress_bars.shown(console):
        for done in range(4):
            report("calibrate", done, 3, f"expert {done}")
    return told.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_stage_and_its_end_are_seen(is_terminal):
    told = shown(is_terminal)
    assert "calibrate" in told
    assert "3/3" in told


def test_a_log_is_not_flooded(monkeypatch):
    monkeypatch.setattr(progress_bars, "SECONDS_BETWEEN_LINES", float("inf"))
    told = io.StringIO()
    with progress_bars.shown(Console(file=told, force_terminal=False, width=120)):
        for done in range(1001):
            report("train", done, 1000)
    assert len(told.getvalue().splitlines()) == 2  # the first and the last


def lines(*reports) -> list[str]:
    told = io.StringIO()
    with progress_bars.shown(Console(file=told, force_terminal=False, width=120)):
        for one in reports:
            report(*one)
    return told.getvalue().splitlines()


def test_an_end_is_told_once():
    assert len(lines(*[("merge", 5, 5, "million numbers")] * 125)) == 1


def test_each_file_of_a_stage_has_an_end():
    told = lines(*[("merge", done, 4, f"of {name}") for name in "ab" for done in (1, 2, 4, 4)])
    assert [line.rpartition(" ")[2] for line in told] == ["a", "b"]


def test_an_end_that_several_threads_report_is_told_once():
    import threading

    told = io.StringIO()
    with progress_bars.shown(Console(file=told, force_terminal=False, width=120)):
        threads = [threading.Thread(target=report, args=("merge", 7, 7, "of a")) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(told.getvalue().splitlines()) == 1


def test_work_without_a_known_end_is_told_at_its_start():
    assert len(lines(*[("crawl", done, None) for done in range(100)])) == 1


def test_a_page_cannot_paint_the_terminal():
    told = io.StringIO()
    with progress_bars.shown(Console(file=told, force_terminal=True, width=120)):
        report("discover", 1, 1, "[red]name[/red][/ \x1b[41mred")
    assert "[red]name" in told.getvalue()
    assert "\x1b[41m" not in told.getvalue()


def test_standard_output_stays_clean(capsys):
    with progress_bars.shown():
        report("draw", 1, 1)
    assert capsys.readouterr().out == ""
