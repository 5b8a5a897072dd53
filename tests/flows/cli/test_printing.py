"""Results are told to people in lines and tables, and to programs in JSON."""

import json

import pytest

from diffgraph.printable import harmless
from diffgraph.results import Result, rows
from diffgraph.secrets import keep_secret
from flows.cli.printing import write
from flows.serving.publishing import markdown


class Answer(Result):
    name: str
    value: float


def test_a_program_gets_one_document(capsys):
    write(Answer(name="a", value=0.5), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"name": "a", "value": 0.5}


def test_a_person_gets_lines(capsys):
    write(Answer(name="a", value=0.5), as_json=False)
    assert capsys.readouterr().out.splitlines() == ["name: a", "value: 0.5"]


HOSTILE = "a\x1b[2J\x1b]0;t\x07\x9b\u202e\u200b\U000e0041\u3164\u00ad\u2028b :cat: [red]x[/red]"


class Hostile(Result):
    name: str = HOSTILE

    def lines(self):
        yield self.name
        yield rows((self.name,), [(self.name,)])


def _is_shown_safely(text: str) -> bool:
    return all(harmless(line) == line for line in text.split("\n"))


def test_what_comes_from_pages_is_text_and_nothing_else(capsys):
    write(Hostile(), as_json=False)
    told = capsys.readouterr().out
    assert _is_shown_safely(told)
    assert told.count(":cat: [red]x[/red]") == 3


def test_a_program_reads_what_a_page_said_and_a_terminal_survives_it(capsys):
    write(Hostile(), as_json=True)
    told = capsys.readouterr().out
    assert _is_shown_safely(told)
    assert json.loads(told) == {"name": HOSTILE}


def test_half_a_letter_is_told_too(capsys):
    write(Answer(name="a\ud800b", value=1.0), as_json=True)
    assert json.loads(capsys.readouterr().out)["name"] == "a\ud800b"
    write(Answer(name="a\ud800b", value=1.0), as_json=False)
    assert "name: a b" in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_never_printed(capsys, as_json):
    keep_secret("a-secret-token")
    write(Hostile(name="it says A-Secret-Token at http://me:pass@host/"), as_json=as_json)
    told = capsys.readouterr().out
    assert "secret" not in told.lower()
    assert "pass" not in told
    assert "@host/" in told


def test_what_an_artifact_tells_is_text_and_nothing_else():
    line = "![x](http://thief.example/a.png) <img src=x> **b** `c`\x1b[2J # d"
    text = markdown(line, "# no heading", rows((line,), [(line,), ("a\n| b",)]))
    assert _is_shown_safely(text)
    assert "![" not in text.replace("!\\[", "")
    assert "](" not in text.replace("\\](", "")
    assert "<img" not in text
    assert "**" not in text
    assert "\n# " not in text
    assert len(text.splitlines()) == 8


def test_names_from_pages_are_never_markup(capsys):
    class Table(Result):
        def lines(self):
            yield "[bold]line[/bold]"
            yield rows(("name",), [("[red]cell[/red] \x1b[41mred",)])

    write(Table(), as_json=False)
    told = capsys.readouterr().out
    assert "[bold]line[/bold]" in told
    assert "[red]cell[/red]" in told
    assert "\x1b" not in told


def test_a_table_in_an_artifact_cannot_break_out_of_its_cell():
    text = markdown(rows(("name",), [("a|b<script>",)]))
    assert "a\\|b&lt;script>" in text
    assert len(text.splitlines()) == 3
