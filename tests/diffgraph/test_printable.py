"""What came from anywhere can neither steer a terminal nor hide, and secrets stay here."""

import json
import logging
import unicodedata

import pytest

from diffgraph.errors import DiffgraphError, InputError, ServiceRefused
from diffgraph.printable import (
    LONGEST,
    guard_logs,
    harmless,
    harmless_json,
    mask_error,
    printable,
    printable_traceback,
)
from diffgraph.secrets import keep_secret

SECRET = "sk-ant-Very/Secret+Key=1234"
HOSTILE = {
    "clears the screen": "a\x1b[2Jb",
    "sets the title": "a\x1b]0;owned\x07b",
    "C1 control": "a\x9b2Jb",
    "carriage return": "a\rb",
    "backspace": "a\x08b",
    "turns the direction": "a\u202eb",
    "isolates": "a\u2066b",
    "zero width": "a\u200bb",
    "soft hyphen": "a\u00adb",
    "Hangul filler": "a\u3164b",
    "half-width filler": "a\uffa0b",
    "braille blank": "a\u2800b",
    "tag": "a\U000e0041b",
    "variation selector": "a\U000e0101b",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "private use": "a\ue000b",
    "lone surrogate": "a\ud800b",
    "byte order mark": "a\ufeffb",
}


@pytest.fixture
def secret():
    keep_secret(SECRET)
    return SECRET


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
class TestHostileLetters:
    def test_are_gone_from_an_error_and_what_is_about_them_stays(self, text):
        said = str(InputError(f"field {text} is wrong"))
        assert said.startswith("field a")
        assert said.endswith("b is wrong")
        assert [c for c in said if unicodedata.category(c)[0] == "C"] == []
        assert said.isprintable()

    def test_are_written_out_in_json_that_means_the_same(self, text):
        document = json.dumps({"a": text}, ensure_ascii=False, indent=2)
        shown = harmless_json(document)
        assert json.loads(shown) == {"a": text}
        assert all(harmless(line) == line for line in shown.split("\n"))


def test_what_people_write_stays_as_it_is():
    for text in ("a cat", "Größe ½ — 日本語 한국어 עברית", "🎨 café ❤️", "naïve"):
        assert printable(text) == text


def test_errors_of_ours_never_hold_a_secret_whoever_repeats_it(secret):
    assert secret not in repr(ServiceRefused(f"it answers 403 {secret}\x1b[2J"))
    assert "\x1b" not in str(DiffgraphError("\x1b[2J"))


class TestErrorsOfOthers:
    def test_are_masked_in_place(self, secret):
        error = ValueError(f"bad header {secret}")
        assert mask_error(error) is error
        assert str(error) == "bad header ***"

    def test_are_replaced_where_their_text_cannot_be_changed(self, secret):
        class Stubborn(Exception):
            def __str__(self):
                return f"bad header {secret}"

        error = mask_error(Stubborn())
        assert str(error) == "Stubborn: bad header ***"

    def test_stay_as_they_are_without_a_secret(self, secret):
        error = ValueError("bad\nheader")
        assert mask_error(error).args == ("bad\nheader",)


class TestLogs:
    @pytest.fixture(autouse=True)
    def _guarded(self, secret):
        before = logging.getLogRecordFactory()
        guard_logs()
        guard_logs()
        yield
        logging.setLogRecordFactory(before)

    def test_hold_no_secret_in_message_arguments_or_traceback(self, secret, caplog):
        log = logging.getLogger("another.library")
        log.warning("sent %s", secret)
        try:
            try:
                raise ValueError(f"cause {secret}")
            except ValueError as error:
                raise KeyError(f"{secret}\x1b[2J") from error
        except KeyError:
            log.exception("failed")
        assert secret not in caplog.text
        assert "\x1b" not in caplog.text
        assert "sent ***" in caplog.text
        assert "ValueError: cause ***" in caplog.text

    def test_of_texts_from_pages_are_harmless_and_keep_their_lines(self, caplog):
        logging.getLogger("x").warning("a\n%s", "b\x1b[2J\u202e")
        assert caplog.messages == ["a\nb [2J "]

    def test_with_a_mistake_in_them_end_nobody(self, caplog, monkeypatch):
        monkeypatch.setattr(logging, "raiseExceptions", False)
        logging.getLogger("x").warning("%d", "no number")


def test_a_traceback_holds_no_secret(secret):
    try:
        raise ValueError(secret)
    except ValueError as error:
        text = printable_traceback(error)
    assert "Traceback" in text
    assert "ValueError: ***" in text


def test_an_error_is_short_enough_to_be_read_and_keeps_its_end():
    said = str(InputError(f"plan.json: the rule has no parameter {'a' * 50_000}: refused"))
    assert len(said) <= LONGEST
    assert said.startswith("plan.json: the rule has no parameter aaa")
    assert said.endswith("aaa: refused")
