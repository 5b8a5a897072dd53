"""What people type and the files they bring: prompts."""

import json
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from diffgraph.agents.drawn_text import drawn_text
from diffgraph.agents.offline import OfflineAgent
from diffgraph.agents.triggers import trigger_phrases
from diffgraph.errors import InputError
from diffgraph.evaluation.prompt_sets import read_prompts
from diffgraph.families.vocabulary import Vocabulary
from diffgraph.prompting.syntax import read_prompt
from diffgraph.prompting.weights import LARGEST, weighted
from tests.hostile.fuzz.bounds import demand_a_line
from tests.hostile.fuzz.grammar import HOSTILE_TEXTS, changed, mangled, texts, to_json

WORDS = (
    "a fox",
    "smiling robot",
    "pencil sketch",
    "at night",
    "(red frame:1.3)",
    "((glowing))",
    "[snow]",
    "[cat:dog:0.5]",
    "<lora:rainy_day:0.8>",
    "BREAK",
    "AND",
    "without stars",
    "--no rain",
    "Negative prompt: blurry",
    "Steps: 20, Sampler: Euler a",
    "I'd love a picture of",
    "in the style of",
    ",",
    "\n",
)
prompts = st.one_of(
    st.lists(st.sampled_from([*WORDS, *HOSTILE_TEXTS]) | texts, max_size=8).map(" ".join),
    st.builds(
        lambda word, times: word * times,
        st.sampled_from([*WORDS, "(", ")", "[", "no ", "and ", "a", "a ", ", ", ":1", "in a "]),
        st.sampled_from([1, 50, 2_000, 30_000]),
    ),
)
"""Prompts in every syntax, and what is no prompt at all."""


def understood_or_refused(prompt: str, folder: Path) -> None:
    """A prompt has a subject of a readable length; or it is refused in a line."""
    try:
        request = _agent().parse(prompt)
    except InputError as error:
        demand_a_line(error)
        return
    assert request.summary.strip()
    assert len(request.attributes) <= 50


called_prompts = st.tuples(prompts, prompts)
"""A prompt, and what a page calls its expert's trigger word."""


def the_rest_is_drawn(called: tuple[str, str], folder: Path) -> None:
    """A trigger word changes nothing else of a prompt, is no tag, and weighs as usual."""
    prompt, trigger = called
    phrases = trigger_phrases((trigger,))
    drawn = read_prompt(drawn_text(prompt, Vocabulary(), [("it", phrases)]).text)
    written = read_prompt(prompt)
    assert not drawn.tags
    assert (drawn.negative, drawn.clip_skip) == (written.negative, written.clip_skip)
    before, after = _letters(written.text), _letters(drawn.text)
    assert before in (after[: len(before)], after[len(after) - len(before) :])
    more = len(after) - len(before)
    assert all(weight <= LARGEST for _, weight in after)
    added = (after[len(before) :], after[:more])
    assert any(all(weight == 1 for _, weight in part) for part in added)


def _letters(text: str) -> list[tuple[str, float]]:
    parts = (part for chunk in weighted(text).chunks for part in chunk)
    return [(letter, part.weight) for part in parts for letter in part.text if letter not in ", \n"]


@cache
def _agent() -> OfflineAgent:
    return OfflineAgent()


ROWS = [
    {"id": "one", "prompt": "a cat", "subject": "cat"},
    {"id": "two", "prompt": "a dog, at night", "treatments": ["night"]},
]


@st.composite
def _prompt_files(draw: st.DrawFn) -> tuple[str, bytes]:
    suffix = draw(st.sampled_from([".jsonl", ".csv", ".txt"]))
    if suffix == ".jsonl":
        rows = [draw(changed(row).map(to_json)) for row in ROWS]
        data = b"\n".join(rows)
    elif suffix == ".csv":
        cells = st.one_of(texts, st.just("a cat"), st.sampled_from(['"', '"a cat', "x" * 200_000]))
        data = b"prompt,id\n" + "\n".join(draw(st.lists(cells, max_size=4))).encode(
            "utf-8", "surrogatepass"
        )
    else:
        data = "\n".join(draw(st.lists(texts, max_size=4))).encode("utf-8", "surrogatepass")
    return suffix, draw(mangled(data, most=1)) + b"\n"


prompt_files = _prompt_files()
"""Files of prompts with rows in any state."""


def rows_read_or_told(file: tuple[str, bytes], folder: Path) -> None:
    """A file's good row is found wherever the others are broken; or the file is refused."""
    suffix, data = file
    path = folder / f"prompts{suffix}"
    good = {".jsonl": to_json({"prompt": "a good fox"}), ".csv": b"a good fox,good"}
    path.write_bytes(data + good.get(suffix, b"a good fox") + b"\n")
    try:
        found = read_prompts(path)
    except InputError as error:
        demand_a_line(error)
        is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        # the head of a CSV file may be broken, and in UTF-16 the good row is none
        assert suffix == ".csv" or is_utf16, "a good row was refused with the others"
        return
    for broken in found.broken:
        assert len(broken.reason) <= 1_000
    for prompt in found.prompts:
        assert json.loads(prompt.model_dump_json())["text"] == prompt.text
    if suffix != ".csv" and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        assert "a good fox" in {prompt.text for prompt in found.prompts}
