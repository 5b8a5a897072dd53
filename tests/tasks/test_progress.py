"""Whoever listens hears of progress, and nobody has to."""

from tasks.progress import listening, report


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
