"""Whoever listens hears of progress, and nobody has to; a thread is stopped between two images."""

import threading

import pytest

from diffgraph.progress import Stopped, go_on, listening, report, stopping


def test_a_listener_hears_reports_while_it_listens():
    heard = []
    report("draw", 0, 3)
    with listening(lambda *words: heard.append(words)):
        report("draw", 1, 3, "a cat")
    report("draw", 2, 3)
    assert heard == [("draw", 1, 3, "a cat")]


def test_a_listener_is_forgotten_after_an_error():
    heard = []
    try:
        with listening(lambda *words: heard.append(words)):
            raise ValueError
    except ValueError:
        report("draw", 1, 1)
    assert not heard


def in_a_thread(work) -> list[BaseException]:
    raised = []

    def body() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return raised


@pytest.mark.parametrize("step", [go_on, lambda: report("draw", 1, 2)])
def test_a_task_in_a_thread_stops_at_its_next_step(step):
    assert in_a_thread(step) == []
    with stopping():
        (error,) = in_a_thread(step)
        assert type(error) is Stopped
        step()  # the main thread hears signals itself
    assert in_a_thread(step) == [], "the next run goes on"


def test_who_loses_patience_twice_leaves_it_stopped():
    import diffgraph.progress

    with pytest.raises(KeyboardInterrupt), stopping():
        raise KeyboardInterrupt
    assert [type(error) for error in in_a_thread(go_on)] == [Stopped]
    diffgraph.progress._stop.clear()
