"""Results are told to people in lines and tables, and to programs in JSON."""

import json

from flows.printing import Result, markdown, rows, write


class Answer(Result):
    name: str
    value: float


def test_a_program_gets_one_document(capsys):
    write(Answer(name="a", value=0.5), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"name": "a", "value": 0.5}


def test_a_person_gets_lines(capsys):
    write(Answer(name="a", value=0.5), as_json=False)
    assert capsys.readouterr().out.splitlines() == ["name: a", "value: 0.5"]


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
