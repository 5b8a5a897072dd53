"""Of a repository's files the finished expert is taken, wherever it lies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from diffgraph.crawlers.discovery import Discovery, DiscoveryConfig, discover
from diffgraph.crawlers.huggingface import HuggingFaceCrawler
from diffgraph.crawlers.huggingface_files import choose_files, components_of
from diffgraph.crawlers.huggingface_pages import EXPERTS
from diffgraph.crawlers.web import Web, WebConfig
from diffgraph.errors import DamagedFile
from diffgraph.experts.joining import join_components
from diffgraph.experts.library import Library
from diffgraph.experts.reading import open_delta
from diffgraph.families import get_family
from diffgraph.merging.base_files import open_folder
from tests.servers.huggingface import HuggingFaceServer, repository

SD15 = get_family("sd15")


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["style-000002", "style"], "style"),
        (["style-000002", "style-000010", "style-000006"], "style-000010"),
        (["style-step00000500", "style"], "style"),
        (["style_epoch_9", "style_epoch_10"], "style_epoch_10"),
        (["style-e4", "style"], "style"),
        (["style-2", "style"], "style"),
        (["style-v1", "style-v2"], "style-v2"),
        (["style-v1-000004", "style-v1", "style-v2-000002"], "style-v2-000002"),
        (["style_v10", "style_v9"], "style_v10"),
        (["Style-000002", "style"], "style"),
        (["style_emb", "style"], "style"),
        (["vae", "zebra"], "zebra"),
        (["optimizer", "zebra"], "zebra"),
        (["pytorch_lora_weights", "a"], "pytorch_lora_weights"),
        (["adapter_model", "a"], "adapter_model"),
        (["lora/style"], "lora/style"),
        (["loras/style-000002", "loras/style"], "loras/style"),
        (["checkpoint-500/pytorch_lora_weights", "checkpoint-1000/pytorch_lora_weights"],
         "checkpoint-1000/pytorch_lora_weights"),
        (["checkpoint-500/pytorch_lora_weights", "pytorch_lora_weights"], "pytorch_lora_weights"),
        (["out/checkpoint-500/adapter_model", "out/adapter_model"], "out/adapter_model"),
        (["style-000002", "style_final"], "style_final"),
        (["style-1000", "style-2000", "style-last"], "style-last"),
        (["style-step-100", "style-latest"], "style-latest"),
        (["style_1500", "style_3000"], "style_3000"),
        (["000000500", "000001000"], "000001000"),
        (["step_100/pytorch_lora_weights", "final/pytorch_lora_weights"],
         "final/pytorch_lora_weights"),
        (["ip-adapter", "zebra"], "zebra"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else value,
)  # fmt: skip
def test_the_finished_adapter_is_taken(names: list[str], taken: str) -> None:
    files = [f"{name}.safetensors" for name in names]
    for some in (files, files[::-1]):
        chosen = choose_files([*some, "README.md", "style.png", "style.ckpt"], "adapter")
        assert chosen[0] == f"{taken}.safetensors"
        assert len(chosen) == 1


def test_each_finished_expert_of_a_repository_is_one_its_drafts_are_not() -> None:
    names = ["red-000002", "red", "blue", "blue-000004", "green"]
    chosen = choose_files([f"{name}.safetensors" for name in names], "adapter")
    assert chosen == ("blue.safetensors", "green.safetensors", "red.safetensors")


def test_a_piece_of_a_file_is_no_expert() -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert choose_files(names, "finetune") == ()


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"],
         "unet/diffusion_pytorch_model"),
        (["transformer/a-00001-of-00002", "transformer/a-00002-of-00002"],
         "transformer/a-00001-of-00002"),
        (["model", "unet/diffusion_pytorch_model"], "model"),
        (["models/tuned"], "models/tuned"),
        (["vae/diffusion_pytorch_model"], None),
        (["text_encoder/model"], None),
        ([], None),
    ],
    ids=str,
)  # fmt: skip
def test_a_fine_tune_is_a_file_or_a_folder_with_a_denoiser(
    names: list[str], taken: str | None
) -> None:
    chosen = choose_files([f"{name}.safetensors" for name in names], "finetune")
    assert chosen == ((f"{taken}.safetensors",) if taken else ())


def test_one_precision_of_each_component_is_read() -> None:
    names = ["unet/m.fp16", "unet/m", "unet/m.non_ema", "text_encoder/m.fp16", "unet/deep/m"]
    assert components_of([f"{name}.safetensors" for name in names]) == {
        "unet": ("unet/m.safetensors",),
        "text_encoder": ("text_encoder/m.fp16.safetensors",),
    }


def test_joined_files_hold_the_same_numbers(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    unet = {
        "b": torch.randn(3, 4, generator=generator).half(),
        "a": torch.arange(5, dtype=torch.int64),
        "c": torch.randn(7, generator=generator).bfloat16(),
    }
    text = {"a": torch.randn(2, 2, generator=generator), "empty": torch.zeros(0, 3)}
    save_file(unet, tmp_path / "1.safetensors")
    save_file(text, tmp_path / "2.safetensors")
    target = tmp_path / "joined.safetensors"
    parts = {"unet": [tmp_path / "1.safetensors"], "text_encoder": [tmp_path / "2.safetensors"]}
    join_components(parts, target)
    joined = load_file(target)
    expected = {f"unet.{key}": value for key, value in unet.items()}
    expected |= {f"text_encoder.{key}": value for key, value in text.items()}
    assert joined.keys() == expected.keys()
    for key, value in expected.items():
        assert joined[key].dtype == value.dtype
        assert torch.equal(joined[key], value)
    with pytest.raises(DamagedFile, match="two files of unet"):
        join_components({"unet": [tmp_path / "1.safetensors"] * 2}, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


class Hub:
    """A hub, and crawls of it into a home."""

    def __init__(self, server: HuggingFaceServer, home: Path) -> None:
        self.server, self.home = server, home

    @property
    def library(self) -> Library:
        return Library(self.home, bundled=())

    def discover(self, parameters: Any, *repositories: dict[str, Any]) -> Discovery:
        for entry in repositories:
            self.server.publish(entry)
        web = Web(self.server.url, None, WebConfig(first_wait=0.001, longest_wait=0.002, tries=2))
        library = self.library
        with HuggingFaceCrawler(library, SD15, web) as crawler:
            return discover(crawler, library, SD15, None, parameters, DiscoveryConfig())


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with HuggingFaceServer() as server:
        yield Hub(server, tmp_path / "home")


def test_a_fine_tune_in_diffusers_layout_is_read_whole(hub: Hub, tiny_sd15_folder: Path) -> None:
    base = dict(open_folder(tiny_sd15_folder).parameters)
    paths = sorted(tiny_sd15_folder.glob("*/*.safetensors"))
    files, changed = {}, {}
    for path in paths:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) * 1.5 for key in file.keys()}
        files[f"{path.parent.name}/{path.name}"] = save(tensors)
        changed[path.parent.name] = tensors
    assert {"unet", "text_encoder", "vae"} <= changed.keys()
    report = hub.discover(base, repository("maker/tuned", relation="finetune", files=files))
    assert report.rejected == ()
    (expert,) = report.new
    assert (expert.kind, expert.format) == ("checkpoint", "checkpoint")
    delta = open_delta(hub.library.path_of(expert.sha256), base)
    assert delta.coverage.unknown == ()
    assert delta.updates.keys() == base.keys()
    for name in ("unet.conv_in.weight", "text_encoder.encoder.layers.0.mlp.fc1.weight"):
        found = next(key for key in base if key.endswith(name.partition(".")[2]))
        torch.testing.assert_close(delta.updates[found].dense(), 0.5 * base[found])
    assert not list(hub.home.rglob("*.part"))
    assert len(list(hub.home.rglob("*.safetensors"))) == 1, "its parts are gone"


def test_a_fine_tune_of_which_one_part_is_damaged_is_refused(
    hub: Hub, tiny_sd15_folder: Path
) -> None:
    base = dict(open_folder(tiny_sd15_folder).parameters)
    files = {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in tiny_sd15_folder.glob("*/*.safetensors")
    }
    files["text_encoder/model.safetensors"] = files["text_encoder/model.safetensors"][:-8]
    report = hub.discover(base, repository("maker/tuned", relation="finetune", files=files))
    (refused,) = report.rejected
    assert "text_encoder" in refused.reason
    hub.server.storage.requests.clear()
    assert len(hub.discover(base).unchanged) == 1
    assert not hub.server.storage.requests, "its files do not come once more every night"


def test_each_lora_in_a_folder_is_an_expert(hub: Hub) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"

    def lora(value: float) -> bytes:
        down, up = torch.full((1, 4), value), torch.ones(6, 1)
        return save({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up})

    base = {f"{layer}.weight": torch.ones(6, 4)}
    files = {
        "loras/glow-000002.safetensors": lora(2.0),
        "loras/glow.safetensors": lora(3.0),
        "loras/zoo.safetensors": lora(4.0),
    }
    report = hub.discover(base, repository("maker/glow", files=files))
    assert report.rejected == report.broken == ()

    def kept(status: str) -> dict[str, float]:
        experts = hub.library.experts(status)
        deltas = {e.ref: open_delta(hub.library.path_of(e.sha256), base) for e in experts}
        values = {ref: delta.updates[f"{layer}.weight"].dense() for ref, delta in deltas.items()}
        return {ref.partition("@")[0]: float(value[0, 0]) for ref, value in values.items()}

    assert kept("ready") == {"huggingface:maker/glow": 3, "huggingface:maker/glow/loras-zoo": 4}
    assert {expert.name for expert in report.new} == {"glow", "glow zoo"}
    assert len(hub.discover(base).unchanged) == 2
    # one is given up by its maker: the other stays, in its new commit
    del files["loras/zoo.safetensors"]
    report = hub.discover(base, repository("maker/glow", files=files))
    assert len(report.superseded) == 1
    assert [expert.name for expert in report.retired] == ["glow zoo"]
    assert kept("ready") == {"huggingface:maker/glow": 3}


def test_a_repository_of_very_many_experts_is_told(hub: Hub) -> None:
    files = {f"style{number:03}x.safetensors": b"" for number in range(EXPERTS + 5)}
    report = hub.discover({}, repository("maker/glow", files=files))
    assert len(report.rejected) == EXPERTS
    assert report.broken[0].reason == (
        f"holds {EXPERTS + 5} experts: only {EXPERTS} of them are taken"
    )


def test_the_configuration_of_an_adapter_in_a_folder_counts(hub: Hub) -> None:
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    stem = f"base_model.model.unet.{layer}"
    weights = save(
        {f"{stem}.lora_A.weight": torch.ones(2, 4), f"{stem}.lora_B.weight": torch.ones(6, 2)}
    )
    files = {
        "out/adapter_model.safetensors": weights,
        "out/adapter_config.json": b'{"peft_type": "LORA", "r": 2, "lora_alpha": 8}',
    }
    base = {f"unet.{layer}.weight": torch.ones(6, 4)}
    report = hub.discover(base, repository("maker/glow", files=files))
    assert report.rejected == ()
    delta = open_delta(hub.library.path_of(report.new[0].sha256), base)
    assert float(delta.updates[f"unet.{layer}.weight"].dense()[0, 0]) == 2 * 8 / 2
