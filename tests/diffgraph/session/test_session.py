"""The front door: what is drawn, planned, piped, merged and asked in Python."""

import json
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from PIL import Image

import diffgraph
from diffgraph.errors import (
    EmptyPrompt,
    InputError,
    MissingInput,
    PlanError,
    UnknownFamily,
    UnknownWords,
)
from diffgraph.experts.expert import Expert, ExpertRef, Listing
from diffgraph.experts.library import Library
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.plan_files import read_plan
from diffgraph.session import Session
from diffgraph.session.overrides import Overrides
from tests.infotext import as_a1111

SEPIA, NIGHT = "emojihub:2101@21011", "emojihub:2102@21021"
BASE = MergePlan(family="emoji64")
PLAN = MergePlan(
    family="emoji64", experts=(PlannedExpert(ref=SEPIA, kind="peft", coefficient=0.8),)
)
QUICK = Overrides(tables={"sampler": {"steps": 2}})


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    return Session(tmp_path_factory.mktemp("front") / "home", "emoji64", "cpu", overrides=QUICK)


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def piped(session: Session, plan: MergePlan, seed: int, **told) -> Image.Image:
    pipeline = session.pipeline(plan)
    pipeline.set_progress_bar_config(disable=True)
    sampler = session.family.sampler
    drawn = pipeline(
        **told,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance,
        generator=torch.Generator("cpu").manual_seed(seed),
    )
    return drawn.images[0]


class TestDrawing:
    def test_a_prompt_is_planned_and_says_why(self, session):
        (drawn,) = session.draw("a fox, sepia")
        assert drawn.image.size == (64, 64)
        assert (drawn.prompt, drawn.drawn_text, drawn.seed) == ("a fox, sepia", "a fox, sepia", 0)
        assert drawn.plan == session.plan("a fox, sepia")
        assert SEPIA in drawn.plan.coefficients()
        assert {choice.ref for choice in drawn.selection.experts} >= set(drawn.plan.coefficients())
        assert any(SEPIA in reason for reason in drawn.reasons)
        assert drawn.sampler.steps == 2
        with pytest.raises(FrozenInstanceError):
            drawn.seed = 1

    def test_each_image_has_a_seed_of_its_own(self, session):
        three = session.draw("a fox", count=3, plan=BASE)
        assert [drawn.seed for drawn in three] == [0, 1, 2]
        assert len({drawn.image.tobytes() for drawn in three}) == 3
        (again,) = session.draw("a fox", seeds=2, plan=BASE)
        assert abs(levels(again.image) - levels(three[2].image)).max() <= 1
        assert [drawn.seed for drawn in session.draw("a fox", np.arange(2), plan=BASE)] == [0, 1]

    def test_a_plan_is_read_wherever_it_was_written(self, session, tmp_path):
        (drawn,) = session.draw("a fox", seeds=[7], plan=PLAN)
        path = drawn.save(tmp_path / "fox.png")
        assert read_plan(path)[:4] == (PLAN, "a fox", 7, drawn.sampler)
        assert path.read_bytes() == drawn._repr_png_()
        (again,) = session.draw("a fox", seeds=7, plan=path)
        assert again.image.tobytes() == drawn.image.tobytes()
        assert again.drawn_text == "a fox, in sepia"
        assert again.reasons == (
            f"as planned in {path}",
            "drawn as: a fox, in sepia",
            "trigger word added for Sepia Memories v1.0: in sepia",
        )
        (bare,) = session.draw("a fox", seeds=7, plan=PLAN, triggers=False)
        assert bare.drawn_text == "a fox"
        assert bare.image.tobytes() != drawn.image.tobytes()

    def test_an_image_says_what_a1111_reads_and_whom_to_credit(self, session, tmp_path):
        (drawn,) = session.draw("a fox", seeds=[7], plan=PLAN)
        with Image.open(drawn.save(tmp_path / "fox.png")) as opened:
            texts = opened.info
        found = as_a1111(texts["parameters"])
        assert found.prompt.startswith("a fox")
        assert {"Seed": "7", "Steps": "2", "Size": "64x64"}.items() <= found.settings.items()
        assert [tag[0] for tag in found.tags] == ["lora"]
        assert list(found.lora_hashes) == [found.tags[0][1]]
        (expert,) = json.loads(texts["diffgraph.experts"])
        assert expert["ref"] == PLAN.experts[0].ref
        assert expert["licence"]["creator"]
        assert expert["name"] in texts["diffgraph.debts"]
        assert not {"prompt", "workflow"} & texts.keys()

    def test_another_method_plans(self, session):
        assert session.plan("a fox, sepia", method="base").coefficients() == {}

    def test_every_step_of_all_images_is_told(self, session, monkeypatch):
        monkeypatch.setattr(session.renderer.model, "images_at_once", 2)
        told = []
        session.draw("a fox", count=3, plan=BASE, on_step=lambda *step: told.append(step))
        assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def test_what_a_step_raises_ends_it_and_the_next_drawing_is_whole(self, session):
        def stop(step, steps):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            session.draw("a fox", plan=PLAN, on_step=stop)
        drawn, wanted = session.draw("a fox", plan=BASE), session.draw("a fox", plan=BASE)
        assert drawn[0].image.tobytes() == wanted[0].image.tobytes()

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ({"seeds": []}, "needs a seed"),
            ({"count": 0}, "needs a seed"),
            ({"count": "3"}, "whole numbers"),
            ({"seeds": [1.5]}, "whole numbers"),
            ({"seeds": -1}, "from 0"),
            ({"seeds": 2**63}, "from 0"),
            ({"seeds": [1, 2], "count": 3}, "count is 3"),
            ({"method": "magic"}, "magic"),
            ({"plan": "none.json"}, "none.json"),
        ],
    )
    def test_refuses_what_cannot_be(self, session, given, reason):
        with pytest.raises(InputError, match=reason):
            session.draw("a fox", **given)

    @pytest.mark.parametrize("plan", [None, BASE])
    @pytest.mark.parametrize(
        ("prompt", "error"), [(" ", EmptyPrompt), ("zxqv", UnknownWords), (["a fox"], InputError)]
    )
    def test_refuses_a_prompt_of_nothing(self, session, prompt, error, plan):
        with pytest.raises(error):
            session.draw(prompt, plan=plan)


class TestWhatAPersonChooses:
    """Experts that are merged in any case, and experts that are not."""

    PROMPT = "a fox, sepia"

    def test_a_wanted_expert_has_the_strength_that_was_given(self, session):
        plan = session.plan(self.PROMPT, experts={"nightfall": 0.83})
        assert plan.coefficients()[NIGHT] == 0.83
        assert plan.coefficients()[SEPIA] > 0
        for method in ("uniform", "diffgraph_softmax", "random", "uniform_strength"):
            plan = session.plan(self.PROMPT, method, experts=["nightfall:0.83"])
            assert plan.coefficients()[NIGHT] == 0.83

    def test_without_a_number_the_planner_says_how_strong(self, session):
        assert 0 < session.plan(self.PROMPT, experts=["nightfall"]).coefficients()[NIGHT] < 1.5

    def test_it_is_taken_for_who_serves_what_it_is_about(self, session):
        old = "emojihub:2134@21341"
        (drawn,) = session.draw(self.PROMPT, experts=["Old Photograph"])
        assert old in drawn.plan.coefficients()
        assert SEPIA not in drawn.plan.coefficients()
        assert any(f"({'peft'}, {old}): asked for" in reason for reason in drawn.reasons)

    def test_only_is_nothing_else(self, session):
        plan = session.plan(self.PROMPT, experts={"nightfall": 0.5}, only=True)
        assert plan.coefficients() == {NIGHT: 0.5}

    def test_an_unwanted_expert_is_not_merged_and_another_may_serve(self, session):
        (drawn,) = session.draw(self.PROMPT, without=["sepia memories", "nightfall"])
        assert SEPIA not in drawn.plan.coefficients()
        assert any(SEPIA in line and line.endswith("not wanted") for line in drawn.reasons)
        assert any(NIGHT in line and line.endswith("not wanted") for line in drawn.reasons)

    def test_one_that_calibration_found_bad_may_be_wanted(self, session):
        bad = next(iter(session.known_exclusions))
        assert bad not in session.plan(self.PROMPT).coefficients()
        assert session.plan(self.PROMPT, experts={bad: 0.25}).coefficients()[bad] == 0.25

    def test_a_tag_in_a_prompt_is_obeyed_by_its_files_name(self, session):
        prompt = "a fox, sepia <lora:night:0.83> <lora:nobody:1>"
        (drawn,) = session.draw(prompt)
        assert drawn.plan.coefficients()[NIGHT] == 0.83
        assert any("<lora:nobody:1> is not obeyed" in reason for reason in drawn.reasons)
        assert session.plan(prompt, "base").experts == ()

    def test_who_is_known_and_cannot_be_merged_says_why(self, tmp_path):
        library = Library(tmp_path / "home")
        for number, given in enumerate(
            (
                {"name": "Real Film", "family": "sd15"},
                {"name": "Broken", "status": "rejected", "reason": "it holds NaN"},
                {"name": "Fresh"},
            )
        ):
            ref = f"hub:{number}@1"
            row = {"ref": ref, "kind": "peft", "family": "emoji64", **given}
            library.add(Expert(**row), Listing(ref=ExpertRef.parse(ref), name=row["name"]))
        found = Session(tmp_path / "home", "emoji64", "cpu", overrides=QUICK)
        for name, why in (("real f", "sd15, not for emoji64"), ("broken", "rejected: it holds NaN"),
                          ("fresh", "not in the graph yet")):  # fmt: skip
            with pytest.raises(InputError, match=why):
                found.plan(self.PROMPT, experts=[name])
            notes = found.decide(f"{self.PROMPT} <lora:{name}:1>").selection.notes
            assert [note for note in notes if why in note]

    def test_plans_without_choices_are_what_they_were(self, session):
        assert session.plan(self.PROMPT).normalisation == "strength"

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"experts": ["nobody at all"]}, "no expert is called"),
            ({"experts": ["signature crayon"]}, "its licence forbids derivatives"),
            ({"without": ["nobody at all"]}, "no expert is called"),
            ({"only": True}, "none is asked for"),
            ({"experts": ["nightfall"], "method": "base"}, "base makes no use of it"),
            ({"experts": ["nightfall"], "plan": BASE}, "a plan says"),
        ],
    )
    def test_what_cannot_be_obeyed_is_told(self, session, given, says):
        with pytest.raises(InputError, match=says):
            session.draw(self.PROMPT, **given)


class TestAPipeline:
    def test_draws_what_the_plan_draws(self, session):
        from diffusers import StableDiffusionPipeline

        assert type(session.pipeline(PLAN)) is StableDiffusionPipeline
        (ours,) = session.draw("a fox", seeds=5, plan=PLAN)
        (base,) = session.draw("a fox", seeds=5, plan=BASE)
        theirs = piped(session, PLAN, 5, prompt=ours.drawn_text)
        assert abs(levels(theirs) - levels(ours.image)).max() <= 1
        assert abs(levels(theirs) - levels(base.image)).max() > 8

    def test_draws_a_weighted_prompt_from_what_draw_reads(self, session):
        prompt = "a (fox:1.4) [cat|dog]\nNegative prompt: (night:1.2)"
        (ours,) = session.draw(prompt, seeds=5, plan=PLAN)
        (plain,) = session.draw("a fox cat, dog", seeds=5, plan=PLAN)
        theirs = piped(session, PLAN, 5, **session.conditioning(PLAN, prompt))
        assert abs(levels(theirs) - levels(ours.image)).max() <= 1
        assert abs(levels(theirs) - levels(plain.image)).max() > 8
        assert "[cat|dog]: steps do not alternate; all of it is drawn" in ours.reasons

    def test_is_its_own(self, session):
        pipeline = session.pipeline(PLAN)
        before = [value.clone() for value in pipeline.unet.parameters()]
        session.draw("a fox", plan=BASE)
        assert all(map(torch.equal, before, pipeline.unet.parameters()))

    def test_of_another_family_too(self, tiny_sd15_folder, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFGRAPH_BASES", f'{{"sd15": "{tiny_sd15_folder}"}}')
        other = Session(tmp_path / "home", "sd15", "cpu", overrides=QUICK)
        plan = MergePlan(family="sd15")
        (ours,) = other.draw("a fox", seeds=5, plan=plan)
        assert abs(levels(piped(other, plan, 5, prompt="a fox")) - levels(ours.image)).max() <= 1

    def test_is_no_plans_that_changes_with_every_step(self, session):
        experts = tuple(
            PlannedExpert(ref=ref, kind="peft", coefficient=1.0)
            for ref in (SEPIA, "emojihub:2134@21341")
        )
        parameters = {"content": SEPIA}
        plan = MergePlan(family="emoji64", experts=experts, rule="k_lora", parameters=parameters)
        with pytest.raises(PlanError, match="no one model"):
            session.pipeline(plan)


class TestAMergedFile:
    def test_is_a_file_a_folder_or_a_lora(self, session, tmp_path):
        told = session.merge(PLAN, tmp_path / "fox.safetensors", type="fp32")
        assert (told.layout, told.type) == ("single-file", "fp32")
        assert told.size_bytes == (tmp_path / "fox.safetensors").stat().st_size
        assert session.merge(PLAN, f"{tmp_path}/folder/").layout == "diffusers"
        lora = session.merge(PLAN, tmp_path / "lora.safetensors", rank=2)
        assert (lora.layout, lora.rank) == ("lora", 2)
        assert read_plan(tmp_path / "lora.safetensors").plan == PLAN

    def test_takes_no_place_unasked(self, session, tmp_path):
        path = tmp_path / "mine.safetensors"
        path.write_text("mine")
        with pytest.raises(InputError, match="force=True"):
            session.merge(PLAN, path)
        assert path.read_text() == "mine"
        session.merge(PLAN, path, force=True)
        with pytest.raises(InputError, match="part of library"):
            session.merge(PLAN, session.home / "library" / "new.safetensors")

    @pytest.mark.parametrize(
        "how", [{"type": "fp8"}, {"layout": "zip"}, {"rank": 0}, {"rank": 2, "layout": "diffusers"}]
    )
    def test_is_of_a_kind_that_there_is(self, session, tmp_path, how):
        with pytest.raises(InputError):
            session.merge(PLAN, tmp_path / "m.safetensors", **how)
        assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("do", ["draw", "pipeline", "merge"])
def test_a_plan_of_another_family_is_refused(session, tmp_path, do):
    plan = MergePlan(family="sd15")
    given = {"draw": ("a fox", 0, None, plan), "pipeline": (plan,), "merge": (plan, tmp_path / "m")}
    with pytest.raises(PlanError, match="the plan is for sd15, not for emoji64"):
        getattr(session, do)(*given[do])


def test_the_graph_answers_in_sql(session):
    found = session.graph.sql("SELECT kind, count(*) AS experts FROM nodes GROUP BY kind")
    assert set(found.kind) == {"checkpoint", "peft"}
    assert found.experts.sum() == session.graph.nodes.num_rows


class TestOpening:
    def test_needs_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("DIFFGRAPH_HOME", str(tmp_path / "home"))
        found = diffgraph.open()
        assert (found.home, found.family_name) == (tmp_path / "home", "emoji64")
        assert found.plan("a fox, sepia").experts
        assert not any(tmp_path.iterdir())  # who only looks writes nothing

    def test_takes_a_home_a_family_and_a_device(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFGRAPH_FAMILY", "flux")
        found = diffgraph.open(str(tmp_path), "sd15", device="cpu")
        assert (found.home, found.family_name, found.device) == (tmp_path, "sd15", "cpu")

    def test_takes_what_is_not_given_from_the_settings(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DIFFGRAPH_FAMILY", "sd15")
        monkeypatch.setenv("DIFFGRAPH_DEVICE", "cpu")
        found = diffgraph.open(tmp_path)
        assert (found.family_name, found.device) == ("sd15", "cpu")
        monkeypatch.setenv("DIFFGRAPH_DEVICE", "tpu")
        with pytest.raises(InputError, match="tpu"):
            diffgraph.open(tmp_path)

    def test_refuses_what_is_not_there(self, tmp_path, monkeypatch):
        with pytest.raises(UnknownFamily, match="sdxl"):
            diffgraph.open(tmp_path, family="sdxl")
        for device in ("tpu", "cuda:99"):
            with pytest.raises(InputError, match=device):
                diffgraph.open(tmp_path, device=device)
        (tmp_path / "file").touch()
        for home in (tmp_path / "file", tmp_path / "file" / "home", "no\0where"):
            with pytest.raises(InputError, match="home"):
                diffgraph.open(home)
        monkeypatch.setenv("DIFFGRAPH_CONFIG", str(tmp_path / "none.toml"))
        with pytest.raises(MissingInput, match=r"none\.toml"):
            diffgraph.open(tmp_path)
        monkeypatch.setenv("DIFFGRAPH_GPUS", "many")
        with pytest.raises(InputError, match="a setting cannot be used"):
            diffgraph.open(tmp_path)


def test_travels_with_the_ids_it_has_here(session):
    there = pickle.loads(pickle.dumps(session))  # noqa: S301 (our own)
    assert (there.snapshot_id, there.planner_content) == (session.graph.id, session.planner_id)
    assert there.overrides == QUICK
