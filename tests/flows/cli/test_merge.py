"""The verb `merge`: from a plan to what other tools load."""

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

PENCIL, NIGHT, MODEL = "smallhub:9001@90011", "smallhub:9002@90021", "smallhub:9010@90101"
KEPT_BACK = "smallhub:9003@90031"


@pytest.fixture(scope="module")
def stocked(hub, tmp_path_factory) -> Path:
    """A home whose library holds the small hub, one of its experts under a licence that forbids."""
    from diffgraph.crawlers.discovery import discover
    from diffgraph.crawlers.folder import FolderCrawler
    from diffgraph.experts.library import Library
    from diffgraph.families import get_family

    home = tmp_path_factory.mktemp("stocked")
    library = Library(home)
    discover(FolderCrawler(hub), library, get_family("emoji64"))
    expert = library.get(KEPT_BACK)
    licence = expert.licence.model_copy(update={"allow_derivatives": False})
    library.update([expert.model_copy(update={"licence": licence})])
    return home


@pytest.fixture
def merge(diffgraph, stocked, tmp_path):
    """Run the verb on a plan of these coefficients."""

    def run(coefficients, *options, out="merged.safetensors", **plan):
        plan = {
            "family": "emoji64",
            "experts": [
                {"ref": ref, "kind": "checkpoint" if ref == MODEL else "peft", "coefficient": value}
                for ref, value in coefficients.items()
            ],
            **plan,
        }
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        target = ("--out", tmp_path / out) if out else ()
        return diffgraph("merge", tmp_path / "plan.json", *target, "--home", stocked, *options)

    return run


def test_a_plan_becomes_a_file_that_says_what_is_in_it(merge, stocked, tmp_path):
    told = merge({PENCIL: 0.8, MODEL: 0.5, NIGHT: 0.0}, "--type", "fp32", "--json")
    assert told.code == 0, told.err
    assert told.json["layout"] == "single-file"
    assert told.json["size_bytes"] == (tmp_path / "merged.safetensors").stat().st_size
    with safe_open(tmp_path / "merged.safetensors", "pt") as file:
        metadata = file.metadata()
        keys = set(file.keys())
    assert metadata["diffgraph.plan_id"] == told.json["plan_id"]
    assert json.loads(metadata["diffgraph.plan"])["rule"] == "linear"
    experts = {row["ref"]: row for row in json.loads(metadata["diffgraph.experts"])}
    assert set(experts) == {PENCIL, MODEL}
    assert experts[PENCIL]["coefficient"] == 0.8
    assert len(experts[PENCIL]["sha256"]) == 64
    assert experts[PENCIL]["licence"]["allow_derivatives"] is True
    assert any(key.startswith("first_stage_model.decoder.up.") for key in keys)


def test_every_merge_tells_what_became_of_each_files_keys(merge):
    told = merge({PENCIL: 0.8, MODEL: 0.5})
    assert told.code == 0, told.err
    for ref in (PENCIL, MODEL):
        (line,) = [line for line in told.out.splitlines() if line.startswith(f"{ref}: ")]
        assert re.fullmatch(rf"{ref}: \d+ keys → \d+ parameters", line)
    told = merge({PENCIL: 0.8, NIGHT: 1}, "--as-lora", "4", "--json", out="lora.safetensors")
    assert set(told.json["read"]) == {PENCIL, NIGHT}


def test_the_file_is_the_model_that_draws_the_plans_images(merge, tmp_path, stocked):
    import torch

    from diffgraph.experts.reading import open_delta
    from diffgraph.families import get_family
    from diffgraph.merging.apply import Merger

    assert merge({PENCIL: 0.8, MODEL: 0.5}, "--type", "fp32", rule="ties").code == 0
    model = get_family("emoji64").load("cpu")
    merger = Merger(model)
    delta = open_delta(tmp_path / "merged.safetensors", merger.base)
    merger.apply({"our:file@1": 1.0}, {"our:file@1": delta})
    found = {name: value.clone() for name, value in model.parameters().items()}

    from diffgraph.merging.plan_files import read_plan
    from diffgraph.session.known_experts import KnownExperts

    library = KnownExperts(stocked, get_family("emoji64"))
    plan = read_plan(tmp_path / "plan.json").plan
    deltas = {
        ref: open_delta(library.path_of(library.get(ref).sha256), merger.base)
        for ref in plan.coefficients()
    }
    merger.apply(plan, deltas)
    assert any(not torch.equal(value, merger.base[name]) for name, value in found.items())
    for name, value in model.parameters().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_a_folder_in_the_diffusers_layout(merge, tmp_path):
    told = merge({PENCIL: 1}, "--json", out="model")
    assert told.code == 0, told.err
    assert told.json["layout"] == "diffusers"
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    again = merge({PENCIL: 1}, out="model")
    assert again.code == 1
    assert "there already" in again.err
    assert merge({NIGHT: 1}, "--force", out="model").code == 0
    said = json.loads((tmp_path / "model" / "diffgraph.json").read_text())
    assert NIGHT in said["diffgraph.plan"]


@pytest.mark.parametrize(("out", "files"), [("merged.safetensors", 1), ("model", 3)])
def test_a_log_has_a_line_a_file(merge, out, files):
    told = merge({PENCIL: 1}, out=out)
    lines = [line for line in told.err.splitlines() if line.startswith("merge: ")]
    assert len(lines) == files
    assert len({line.rpartition(" ")[2] for line in lines}) == files


@pytest.mark.parametrize("options", [(), ("--as-lora", "2")])
def test_a_file_that_is_there_is_written_over_only_when_asked(merge, tmp_path, options):
    mine = tmp_path / "merged.safetensors"
    mine.write_text("mine")
    told = merge({PENCIL: 1}, *options)
    assert told.code == 1
    assert "merged.safetensors is there already" in told.err
    assert mine.read_text() == "mine"
    assert merge({PENCIL: 1}, *options, "--force").code == 0
    assert mine.read_text(errors="replace") != "mine"


def test_a_name_that_no_disk_takes_is_one_line(merge):
    told = merge({PENCIL: 1}, out=f"{'x' * 300}.safetensors")
    assert told.code == 1
    assert "xxx.safetensors: File name too long" in told.err
    assert len(told.err.splitlines()) == 1


def test_an_experts_file_is_never_written_over(merge, stocked, tmp_path):
    from diffgraph.experts.library import Library

    library = Library(stocked)
    file = library.path_of(library.get(PENCIL).sha256)
    before = file.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(file)
    for out in (file, "link.safetensors"):
        told = merge({PENCIL: 1}, "--force", out=out)
        assert told.code == 1
        assert "library" in told.err
    assert file.read_bytes() == before
    (tmp_path / "link.safetensors").unlink()


def test_a_name_that_says_another_kind_of_file_is_refused(merge, tmp_path):
    for out in ("m.ckpt", "m.gguf", "m.bin"):
        told = merge({PENCIL: 1}, out=out)
        assert told.code == 1
        assert out in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("rule", ["ties", "dare", "dare_ties", "della", "task_arithmetic"])
def test_every_rule_that_makes_one_model(merge, rule):
    told = merge({PENCIL: 0.8, MODEL: 0.5}, "--json", rule=rule)
    assert told.code == 0, told.err
    assert told.json["rule"] == rule


class TestRefused:
    def refused(self, told, tmp_path, *words):
        assert told.code == 1
        lines = [line for line in told.err.splitlines() if line.startswith("diffgraph: ")]
        assert len(lines) == 1
        for word in words:
            assert word in lines[0]
        assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]

    def test_an_expert_whose_licence_forbids_derivatives(self, merge, tmp_path):
        told = merge({PENCIL: 0.5, KEPT_BACK: 0.5})
        self.refused(told, tmp_path, KEPT_BACK, "derivatives")

    def test_an_expert_that_nobody_knows(self, merge, tmp_path):
        self.refused(merge({"smallhub:1@1": 1}), tmp_path, "smallhub:1@1")

    def test_a_rule_that_makes_no_one_model(self, merge, tmp_path):
        told = merge({PENCIL: 1, NIGHT: 1}, rule="k_lora", parameters={"content": PENCIL})
        self.refused(told, tmp_path, "every denoising step")

    def test_a_rule_that_does_not_exist(self, merge, tmp_path):
        self.refused(merge({PENCIL: 1}, rule="magic"), tmp_path, "plan.json", "rule", "ties")

    def test_a_file_that_has_changed_since_it_was_listed(self, merge, stocked, tmp_path):
        from diffgraph.experts.library import Library

        library = Library(stocked)
        path = library.path_of(library.get(PENCIL).sha256)
        kept = path.read_bytes()
        path.write_bytes(kept[:-1] + b"\x01")
        try:
            self.refused(merge({PENCIL: 1}), tmp_path, PENCIL, "has changed")
        finally:
            path.write_bytes(kept)


class TestPlansThatAreRead:
    def test_what_a_merge_wrote(self, merge, diffgraph, tmp_path):
        plan_id = merge({PENCIL: 0.8}, "--json").json["plan_id"]
        merge({PENCIL: 0.8}, out="model")
        for name in ("merged.safetensors", "model"):
            assert diffgraph("show", "plan", tmp_path / name, "--json").json["id"] == plan_id

    def test_what_plan_prints(self, diffgraph, tmp_path):
        printed = {"plans": [{"prompt": "x", "plan": {"family": "emoji64"}}]}
        (tmp_path / "plan.json").write_text(json.dumps(printed))
        told = diffgraph("merge", tmp_path / "plan.json", "--out", tmp_path / "m.safetensors",
                         "--home", tmp_path / "home")  # fmt: skip
        assert told.code == 0, told.err

    def test_an_image(self, tmp_path):
        import torch

        from diffgraph.generation import as_image, save_png
        from diffgraph.merging.plan import MergePlan
        from diffgraph.merging.plan_files import read_plan

        plan = MergePlan(family="emoji64", normalisation="softmax")
        save_png(tmp_path / "image.png", as_image(torch.zeros(3, 8, 8), plan), plan, "a cat", 1)
        assert read_plan(tmp_path / "image.png")[:3] == (plan, "a cat", 1)

    @pytest.mark.parametrize(
        ("content", "says"),
        [("", "no merge plan"), ("[]", "no merge plan"), ('{"plans": [{}, {}]}', "2 plans")],
    )
    def test_what_holds_none(self, diffgraph, tmp_path, content, says):
        (tmp_path / "plan.json").write_text(content)
        told = diffgraph("merge", tmp_path / "plan.json", "--out", tmp_path / "m.safetensors")
        assert told.code == 1
        assert says in told.err


class TestOtherTools:
    def test_the_nearest_lora(self, merge, tmp_path):
        told = merge({PENCIL: 0.8, NIGHT: 0.5, MODEL: 0.5}, "--as-lora", "4", "--json")
        assert told.code == 0, told.err
        assert told.json["layout"] == "lora"
        assert told.json["kept"] > 0.99
        assert told.json["read"][MODEL] == "a checkpoint, which is not in a LoRA"
        with safe_open(tmp_path / "merged.safetensors", "pt") as file:
            assert file.metadata()["ss_network_dim"] == str(told.json["rank"]) == "2"
            assert all(".lora_" in key or key.endswith(".alpha") for key in file.keys())

    def test_a_prompt(self, merge):
        told = merge({PENCIL: 0.8, NIGHT: 0.5}, "--syntax", "a1111", out=None)
        assert told.code == 0, told.err
        assert told.out.strip() == "<lora:9001:0.8> <lora:9002:0.5>"

    def test_nodes(self, merge):
        told = merge({PENCIL: 0.8, MODEL: 0.5}, "--syntax", "comfyui", out=None)
        nodes = json.loads(told.out)
        assert [node["class_type"] for node in nodes.values()][-1] == "LoraLoader"

    @pytest.mark.parametrize("syntax", ["a1111", "comfyui", "diffusers"])
    def test_the_words_for_an_image_of_ours_draw_its_prompt(self, diffgraph, tmp_path, syntax):
        import torch

        from diffgraph.generation import as_image, save_png
        from diffgraph.merging.plan import MergePlan

        plan = MergePlan(family="emoji64")
        save_png(tmp_path / "image.png", as_image(torch.zeros(3, 8, 8), plan), plan, "a cat", 17)
        told = diffgraph("merge", tmp_path / "image.png", "--syntax", syntax)
        assert told.code == 0, told.err
        assert "a cat" in told.out
        assert "17" in told.out

    def test_a_script_draws_something(self, merge):
        told = merge({PENCIL: 0.8}, "--syntax", "diffusers", out=None)
        assert told.code == 1
        assert "comes without" in told.err

    def test_a_licence_forbids_even_words(self, merge):
        told = merge({KEPT_BACK: 0.8}, "--syntax", "a1111", out=None)
        assert told.code == 1
        assert "forbids derivatives" in told.err

    def test_a_file_or_words(self, merge):
        assert merge({PENCIL: 1}, out=None).code == 2
        assert merge({PENCIL: 1}, "--syntax", "a1111").code == 2

    @pytest.mark.parametrize(
        "options",
        [
            ("--as-lora", "2", "--layout", "diffusers"),
            ("--syntax", "a1111", "--as-lora", "2"),
            ("--syntax", "a1111", "--layout", "diffusers"),
            ("--syntax", "a1111", "--force"),
        ],
    )
    def test_options_that_have_no_effect_together_are_refused(self, merge, options):
        out = None if "--syntax" in options else "merged.safetensors"
        assert merge({PENCIL: 1}, *options, out=out).code == 2
