import io
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.errors import InputError
from diffgraph.evaluation.methods import METHODS
from diffgraph.evaluation.report import (
    METHOD_NOTES,
    METHOD_TITLES,
    Comparison,
    Curve,
    ExpertShare,
    GraphView,
    Picture,
    ReportData,
    plain,
    write_report,
)
from diffgraph.evaluation.statistics import summarise
from diffgraph.experts.expert import Expert, Licence
from diffgraph.families import get_family
from diffgraph.families.scorer import FamilyScorer
from diffgraph.printable import harmless
from diffgraph.scoring.reward import SCORE_NAMES
from diffgraph.secrets import keep_secret
from docs.picture import write_figure

HOSTILE = "<script>alert('x')</script>\"onload=\u202e{{ 7 * 7 }}<img src=http://evil.example/a.png>"


def png(colour="red"):
    out = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(out, "PNG")
    return out.getvalue()


def expert(number, status="ready", kind="peft", name="Sepia", reason=""):
    return Expert(
        ref=f"hub:{number}@1", name=name, kind=kind, family="emoji64", status=status, reason=reason,
        licence=Licence(name=name),
    )  # fmt: skip


def graph(experts=6, prompts=4, name="Sepia", seed=0):
    draws = np.random.default_rng(seed)
    return GraphView(
        refs=[f"hub:{n}@1" for n in range(experts)],
        kinds=["checkpoint" if n < 2 else "peft" for n in range(experts)],
        names=[name] * experts,
        texts=[name] * experts,
        embeddings=draws.normal(size=(experts, 384)),
        prompts=[name] * prompts,
        prompt_embeddings=draws.normal(size=(prompts, 384)),
        gains=draws.normal(size=(experts, prompts, 5)),
        scores=SCORE_NAMES,
    )


def summary():
    rows = [
        {
            "method": method,
            "prompt_id": f"p{n}",
            "seed": 0,
            **dict.fromkeys(("reward", *SCORE_NAMES), value + n),
        }
        for method, value in {"base": 0.0, "best_single": 0.5, "diffgraph": 1.25}.items()
        for n in range(6)
    ]
    return summarise(pa.Table.from_pylist(rows), samples=100)


def comparison(text="a red fox, sepia", parts=True):
    part = ExpertShare("hub:1@1", text, "peft", 0.8125, text)
    return Comparison(
        text,
        [
            Picture("base", png("blue"), -0.5),
            Picture("diffgraph", png(), 1.5, [part] if parts else []),
        ],
        summary=text,
        attributes=(text,),
    )


def everything(text="Sepia"):
    return ReportData(
        title=text,
        family=text,
        experts=[
            expert(1, name=text),
            expert(2, "rejected", name=text, reason=f"UnsafeFile: {text}"),
            expert(3, "registered_only", reason="LicenceForbids: no derivatives"),
        ],
        broken_pages=[BrokenPage(where=text, reason=text)],
        summaries={"hub:1@1": text},
        graph=graph(name=text),
        curves=[Curve(text, range(50), np.linspace(0, 1, 50).tolist())],
        summary=summary(),
        scorers={"hps": FamilyScorer(text, note=text)},
        comparisons=[comparison(text)],
        left_out={text: text},
        made_by={text: text},
        durations={text: 12.5, "Train": 125.0},
    )


class Page(HTMLParser):
    """Collects what a page is made of."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(text)
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((tag, name, value or "") for name, value in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((tag, name, value or "") for name, value in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page_of(tmp_path, data):
    text = write_report(tmp_path / "report.html", data).read_text(encoding="utf-8")
    return text, Page(text)


def test_a_report_shows_every_part(tmp_path):
    text, page = page_of(tmp_path, everything())
    shown = " ".join(page.text)
    for part in ("UnsafeFile: Sepia", "LicenceForbids: no derivatives", "0.81", "+1.25"):
        assert part in shown
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert {"pictures", "scores", "graph", "calibration", "training", "experts", "origin"} <= ids
    anchors = {
        v.removeprefix("#") for tag, name, v in page.attributes if (tag, name) == ("a", "href")
    }
    assert anchors <= ids
    assert text.count("data:image/png;base64,") == 3  # two pictures, and ours once more at the top


def test_a_report_needs_nothing_from_outside(tmp_path):
    text, page = page_of(tmp_path, everything())
    assert "script" not in page.tags
    assert not {"link", "iframe", "object", "form", "base"} & set(page.tags)
    loads = [(n, v) for _, n, v in page.attributes if n in ("src", "href", "xlink:href", "srcset")]
    assert all(value.startswith(("data:image/png;base64,", "#")) for _, value in loads)
    assert not re.search(r"url\(|@import|@font-face", text)
    policy = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content")]
    assert any("default-src 'none'" in value for value in policy)


def test_hostile_names_are_text_everywhere(tmp_path):
    text, page = page_of(tmp_path, everything(HOSTILE))
    harmless = page_of(tmp_path, everything("y" * len(HOSTILE)))[1]
    assert page.tags == harmless.tags
    assert [(tag, name) for tag, name, _ in page.attributes] == [
        (tag, name) for tag, name, _ in harmless.attributes
    ]
    assert "<script" not in text
    assert "\u202e" not in text
    assert "{{ 7 * 7 }}" in "".join(page.text)  # shown, not computed


def test_no_letter_that_hides_or_steers_and_no_secret_is_in_a_report(tmp_path):
    keep_secret("a-secret-token")
    hidden = "\u202e\u200b\U000e0041\u3164\u00ad\u2028\u2029\ufe01\x9b\x1b"
    text, _ = page_of(tmp_path, everything(f"a{hidden}b a-secret-token"))
    assert [letter for letter in hidden if letter in text] == []
    assert "a-secret" not in text
    assert all(harmless(line) == line for line in text.split("\n"))


def test_parts_that_are_missing_are_left_out(tmp_path):
    page = page_of(tmp_path, ReportData("Empty", "emoji64"))[1]
    assert "h1" in page.tags
    assert "svg" not in page.tags
    _, page = page_of(tmp_path, ReportData("Only pictures", "emoji64", comparisons=[comparison()]))
    assert "img" in page.tags


def test_a_prompt_without_experts_says_so(tmp_path):
    data = ReportData("x", "emoji64", comparisons=[comparison(parts=False)])
    assert "No expert was selected" in page_of(tmp_path, data)[0]


def test_one_expert_one_prompt_and_no_gain_can_be_drawn(tmp_path):
    for experts, prompts in ((1, 1), (1, 0), (2, 1)):
        view = graph(experts, prompts)
        page_of(tmp_path, ReportData("x", "emoji64", graph=view))
    flat = graph()
    flat.gains[:] = 0
    text, _ = page_of(tmp_path, ReportData("x", "emoji64", graph=flat))
    assert "nan" not in text.lower()


def test_the_same_graph_is_drawn_the_same(tmp_path):
    data = ReportData("x", "emoji64", graph=graph())
    assert page_of(tmp_path, data)[0] == page_of(tmp_path, data)[0]


def test_a_curve_with_holes_is_drawn_without_them(tmp_path):
    holes = Curve("reward", range(4), [1.0, float("nan"), 3.0, float("inf")])
    nothing = Curve("nothing", range(2), [float("nan")] * 2)
    text, page = page_of(tmp_path, ReportData("x", "emoji64", curves=[holes, nothing]))
    points = [value for _, name, value in page.attributes if name == "points"]
    assert points
    assert not any("nan" in value or "inf" in value for value in points)
    assert "nothing" not in text


def test_every_method_has_a_title_and_a_note():
    assert set(METHODS) <= set(METHOD_TITLES)
    assert set(METHOD_TITLES) == set(METHOD_NOTES)


def test_unseen_characters_go_and_long_texts_are_cut():
    assert plain("a\u202eb\u200bc\x00d\x1b[31m") == "abcd[31m"
    assert plain("x" * 500, 10) == "x" * 9 + "…"


def test_a_figure_is_a_grid_of_the_pictures(tmp_path):
    rows = [comparison(), comparison(HOSTILE * 3)]
    path = write_figure(tmp_path / "figure.png", rows, ("base", "diffgraph"))
    with Image.open(path) as figure:
        colours = {colour for _, colour in figure.getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 0, 255)} <= colours
    with pytest.raises(InputError, match="uniform"):
        write_figure(tmp_path / "figure.png", rows, ("base", "uniform"))
    with pytest.raises(InputError, match="no prompts"):
        write_figure(tmp_path / "figure.png", [])


def test_a_reader_of_scores_is_told_which_are_stand_ins(tmp_path):
    named = get_family("emoji64").scorers
    for data in (
        ReportData("x", "emoji64", summary=summary(), scorers=named),
        ReportData("x", "emoji64", graph=graph(), scorers=named),
    ):
        shown = "".join(page_of(tmp_path, data)[1].text)
        assert "CLIP score: emoji64's own small network, a stand-in for CLIP Score" in shown
        assert shown.count("a stand-in for") == 5
    data = ReportData("x", "sd15", summary=summary(), scorers=get_family("sd15").scorers)
    shown = "".join(page_of(tmp_path, data)[1].text)
    assert "PickScore" in shown
    assert "stand-in" not in shown
