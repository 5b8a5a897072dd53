"""Every method and every initialisation of PEFT: as its own merge, or refused by name.

Each adapter is saved by `save_pretrained` and read back beside the configuration that PEFT wrote.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from diffgraph.errors import DamagedFile, UnknownFormat
from diffgraph.experts.delta import Delta
from diffgraph.experts.peft_configuration import METHODS, OTHER_MODELS, UNDERSTOOD
from diffgraph.experts.reading import open_delta, read_delta

WEIGHTS = "adapter_model.safetensors"
CONFIGURATION = "adapter_config.json"
ALL = ["line", "conv", "square"]

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 8, 3)
        self.line = nn.Linear(12, 24)
        self.conv = nn.Conv2d(8, 16, 3)
        self.square = nn.Linear(12, 12)
        self.norm = nn.LayerNorm(12)
        self.words = nn.Embedding(10, 12)


def net() -> Net:
    made, generator = Net(), torch.Generator().manual_seed(3)
    for value in made.parameters():
        value.data = 0.3 * torch.randn(value.shape, generator=generator)
    return made


BASE = {f"unet.{name}": value.detach().clone() for name, value in net().named_parameters()}


def stirred(model: Any) -> None:
    """Train it, in a way: whatever may learn moves a little."""
    generator = torch.Generator().manual_seed(0)
    for value in model.parameters():
        if value.requires_grad:
            value.data = value.data + 0.1 * torch.randn(value.shape, generator=generator)


def saved(
    config: Any, folder: Path, name: str = "default", *, with_names: bool = False
) -> tuple[Path, dict[str, torch.Tensor]]:
    """Save an adapter as PEFT does; return its file and what PEFT's own merge adds to the base.

    `with_names`: the adapter's name stays in the keys, as in the model's own `state_dict`.
    """
    import peft

    model: Any = peft.get_peft_model(net(), config, adapter_name=name)
    stirred(model)
    model.save_pretrained(folder)
    home = folder if name == "default" else folder / name
    if with_names:
        raw = {key: value for key, value in model.state_dict().items() if f".{name}" in key}
        save_file({key: value.clone() for key, value in raw.items()}, home / WEIGHTS)
    merged = dict(model.merge_and_unload().named_parameters())
    changes = {f"unet.{key}": value.detach() - BASE[f"unet.{key}"] for key, value in merged.items()}
    return home / WEIGHTS, {key: change for key, change in changes.items() if change.any()}


def assert_same(delta: Delta, expected: Mapping[str, torch.Tensor]) -> None:
    assert set(delta.updates) == set(expected)
    for name, value in expected.items():
        error = (delta.updates[name].dense() - value).norm() / value.norm()
        assert error < 1e-4, f"{name}: relative error {error:.2e}"


LYCORIS = {"target_modules": ALL, "r": 4, "alpha": 16}
LORA = {"target_modules": ALL, "r": 4, "lora_alpha": 16}
READ: dict[str, tuple[str, dict[str, Any]]] = {
    "LoHa": ("LoHaConfig", LYCORIS),
    "LoHa by module": (
        "LoHaConfig",
        {**LYCORIS, "alpha_pattern": {"line": 2}, "rank_pattern": {"square": 2}},
    ),
    "LoKr": ("LoKrConfig", LYCORIS),
    "LoKr, both low-rank": ("LoKrConfig", {**LYCORIS, "r": 1, "decompose_both": True}),
    "LoKr, both whole": ("LoKrConfig", {**LYCORIS, "r": 64}),
    "LoKr, both whole, by module": (
        "LoKrConfig",
        {**LYCORIS, "r": 64, "rank_pattern": {"line": 32}, "alpha_pattern": {"conv": 1}},
    ),
    "LoKr of LyCORIS": ("LoKrConfig", {**LYCORIS, "init_weights": "lycoris"}),
    "LoRA": ("LoraConfig", LORA),
    "LoRA by module": (
        "LoraConfig",
        {**LORA, "alpha_pattern": {"line": 2}, "rank_pattern": {"square": 2}, "use_rslora": True},
    ),
    "DoRA": ("LoraConfig", {**LORA, "target_modules": ["line", "square"], "use_dora": True}),
    "LoRA beside whole modules": ("LoraConfig", {**LORA, "modules_to_save": ["conv_in", "norm"]}),
    "LoRA beside its biases": ("LoraConfig", {**LORA, "bias": "lora_only"}),
    "LoRA beside all biases": ("LoraConfig", {**LORA, "bias": "all"}),
    "LoRA of words": ("LoraConfig", {**LORA, "target_modules": ["line", "words"]}),
    "DoRA of words": ("LoraConfig", {**LORA, "target_modules": ["words"], "use_dora": True}),
    "(IA)^3 beside whole modules": (
        "IA3Config",
        {"target_modules": ["line"], "feedforward_modules": [], "modules_to_save": ["norm"]},
    ),
    "OFT beside biases": (
        "OFTConfig",
        {"target_modules": ["line"], "r": 0, "oft_block_size": 4, "bias": "all"},
    ),
    **{
        f"initialised by {how}": (
            "LoraConfig",
            {**LORA, "target_modules": ["line"]} | {"init_lora_weights": how},
        )
        for how in (True, False, "gaussian", "orthogonal", "mica")
    },
}


@pytest.mark.parametrize(("kind", "options"), READ.values(), ids=READ.keys())
def test_an_adapter_adds_what_pefts_merge_adds(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    import peft

    path, expected = saved(getattr(peft, kind)(**options), tmp_path)
    delta = read_delta(path, BASE)
    assert_same(delta, expected)
    assert delta.coverage.unknown == ()


REAL = {  # saved and merged; others would compile kernels, or are not for such a net
    "LORA": {},
    "LOHA": {},
    "LOKR": {},
    "OFT": {"r": 0, "oft_block_size": 4},
    "IA3": {"feedforward_modules": []},
    "ADALORA": {"total_step": 10},
    "HRA": {},
    "LN_TUNING": {"target_modules": ["norm"]},
}


def test_every_method_is_read_as_peft_merges_it_or_refused_by_name(tmp_path: Path) -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING

    read = set()
    for method, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        folder = tmp_path / method.value
        if method.value in REAL:
            options: Any = {"target_modules": ["line", "square"], **REAL[method.value]}
            path, expected = saved(config(**options), folder)
        else:
            folder.mkdir()
            path = folder / WEIGHTS
            prefix = PEFT_TYPE_TO_PREFIX_MAPPING[method]
            save_file({f"base_model.model.line.{prefix}A": torch.ones(2, 12)}, path)
            (folder / CONFIGURATION).write_text(json.dumps({"peft_type": method.value}))
        if method.value in METHODS:
            assert_same(read_delta(path, BASE), expected)
            read.add(method.value)
            continue
        with pytest.raises(UnknownFormat, match=rf"{WEIGHTS}: .*peft_type: '{method.value}'"):
            read_delta(path, BASE)
    assert read == set(METHODS)


def test_every_field_of_the_methods_that_are_read_is_understood() -> None:
    """A PEFT that has a new field fails here, before an adapter is read without it."""
    import dataclasses

    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    for method in METHODS:
        fields = {item.name for item in dataclasses.fields(CONFIGS[method])}
        assert fields <= UNDERSTOOD | set(OTHER_MODELS), method


CHANGES_THE_BASE = ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "PiSSA", "new"]


@pytest.mark.parametrize("where", ["beside", "in the header", "by diffusers"])
@pytest.mark.parametrize("how", [*CHANGES_THE_BASE, 3, ["pissa"], {"pissa": True}])
def test_an_initialisation_that_changes_the_base_is_refused(
    how: Any, where: str, tmp_path: Path
) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "init_lora_weights": how}
    metadata = {}
    if where == "beside":
        (tmp_path / CONFIGURATION).write_text(json.dumps(config))
    elif where == "in the header":
        metadata[CONFIGURATION] = json.dumps(config)
    else:
        prefixed = {f"unet.{name}": value for name, value in config.items()}
        metadata["lora_adapter_metadata"] = json.dumps(prefixed)
    stem = "base_model.model.line"
    tensors = {
        f"{stem}.lora_A.weight": torch.ones(2, 12),
        f"{stem}.lora_B.weight": torch.ones(24, 2),
    }
    save_file(tensors, tmp_path / WEIGHTS, metadata)
    with pytest.raises(UnknownFormat, match=rf"{WEIGHTS}: .*init_lora_weights: .*changes the base"):
        open_delta(tmp_path / WEIGHTS, BASE)


@pytest.mark.parametrize("how", ["pissa", "olora"])
@pytest.mark.parametrize("rooted", [False, True], ids=["alpha", "rank-stabilised"])
def test_what_peft_has_converted_is_read(how: str, rooted: bool, tmp_path: Path) -> None:
    """It changed the base, and was saved as what it adds to the base before that."""
    import peft

    config = peft.LoraConfig(
        target_modules=["line"], r=2, lora_alpha=6, init_lora_weights=how, use_rslora=rooted
    )
    model: Any = peft.get_peft_model(net(), config)
    start = tmp_path / "start"
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(start)
    model.peft_config["default"].init_lora_weights = how
    stirred(model)
    model.save_pretrained(tmp_path / "plain")
    model.save_pretrained(
        tmp_path / "converted", path_initial_model_for_weight_conversion=str(start)
    )
    expected = model.merge_and_unload().line.weight.detach() - BASE["unet.line.weight"]
    found = read_delta(tmp_path / "converted" / WEIGHTS, BASE).updates["unet.line.weight"].dense()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UnknownFormat, match=f"init_lora_weights: '{how}'"):
        read_delta(tmp_path / "plain" / WEIGHTS, BASE)


SWITCHES: dict[str, Any] = {
    "alora_invocation_tokens": [1, 2],
    "kasa_config": {"beta": 0.1},
    "monteclora_config": {"num_samples": 8},
    "layer_replication": [[0, 4], [2, 5]],
    "target_parameters": ["line.weight"],
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
    "arrow_config": {"top_k": 3},
    "use_something_new": True,
    "something_new_config": {"strength": 2},
}


@pytest.mark.parametrize(("name", "value"), SWITCHES.items(), ids=SWITCHES.keys())
def test_a_switch_that_makes_the_factors_mean_something_else_is_refused(
    name: str, value: Any, tmp_path: Path
) -> None:
    import peft

    path, expected = saved(peft.LoraConfig(target_modules=["line"], r=2, lora_alpha=6), tmp_path)
    stated = json.loads((tmp_path / CONFIGURATION).read_text())
    (tmp_path / CONFIGURATION).write_text(json.dumps({**stated, name: value}))
    with pytest.raises(UnknownFormat, match=f"{WEIGHTS}: its configuration says {name}"):
        open_delta(path, BASE)
    for off in (None, False, [], {}):
        (tmp_path / CONFIGURATION).write_text(json.dumps({**stated, name: off}))
        assert_same(read_delta(path, BASE), expected)


def test_an_adapter_of_chance_or_truncation_is_refused_without_its_configuration(
    tmp_path: Path,
) -> None:
    """Its own tensors beside the factors tell."""
    import peft
    from peft.tuners.lora.config import KasaConfig, MontecloraConfig

    for name, value in {
        "kasa_config": KasaConfig(),
        "monteclora_config": MontecloraConfig(),
    }.items():
        folder = tmp_path / name
        config = peft.LoraConfig(target_modules=["line"], r=2, **{name: value})
        peft.get_peft_model(net(), config).save_pretrained(folder)
        (folder / CONFIGURATION).unlink()
        with pytest.raises(UnknownFormat, match="belongs to a module that is read"):
            open_delta(folder / WEIGHTS, BASE)


def test_a_configuration_without_alpha_means_pefts_own(tmp_path: Path) -> None:
    import peft

    path, expected = saved(peft.LoraConfig(target_modules=["line"], r=2), tmp_path)
    stated = json.loads((tmp_path / CONFIGURATION).read_text())
    del stated["lora_alpha"]
    (tmp_path / CONFIGURATION).write_text(json.dumps(stated))
    assert_same(read_delta(path, BASE), expected)


@pytest.mark.parametrize("rank", [0, -4, 2.5, "4", [4]])
def test_a_rank_is_a_number(rank: Any, tmp_path: Path) -> None:
    import peft

    path, _ = saved(peft.LoKrConfig(target_modules=["line"], r=64, alpha=16), tmp_path)
    stated = json.loads((tmp_path / CONFIGURATION).read_text())
    (tmp_path / CONFIGURATION).write_text(json.dumps({**stated, "r": rank}))
    with pytest.raises(DamagedFile, match=r"the rank of .*line.* is not a number"):
        open_delta(path, BASE)


# -- names that PEFT and others put into keys ----------------------------------------------------


@pytest.mark.parametrize("name", ["style", "default_0", "default", "down"])
@pytest.mark.parametrize(
    "kind", ["LoraConfig", "DoRA", "LoHaConfig", "LoKrConfig", "IA3Config", "OFTConfig"]
)
def test_the_name_of_an_adapter_may_stand_in_its_keys(kind: str, name: str, tmp_path: Path) -> None:
    """As `state_dict` has it, and files that were saved from it."""
    import peft

    options: dict[str, Any] = {"target_modules": ["line"]}
    options |= {
        "LoraConfig": {"modules_to_save": ["norm"], "lora_alpha": 2, "r": 4},
        "DoRA": {"use_dora": True},
        "IA3Config": {"feedforward_modules": []},
        "OFTConfig": {"r": 0, "oft_block_size": 4},
    }.get(kind, {"alpha": 2, "r": 4})
    config = getattr(peft, kind if kind != "DoRA" else "LoraConfig")(**options)
    path, expected = saved(config, tmp_path, name, with_names=True)
    assert all(f".{name}" in key for key in load_file(path))
    delta = read_delta(path, BASE)
    assert_same(delta, expected)
    assert delta.coverage.unknown == ()


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    stem = "base_model.model.line"
    tensors = {
        f"{stem}.lora_A.{name}.weight": torch.ones(2, 12) for name in ("style", "subject")
    } | {f"{stem}.lora_B.{name}.weight": torch.ones(24, 2) for name in ("style", "subject")}
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(UnknownFormat, match="of another adapter than 'style'"):
        open_delta(tmp_path / WEIGHTS, BASE)


STEMS = {
    "PEFT around ComfyUI": "base_model.model.diffusion_model.line",
    "PEFT in a component": "unet.base_model.model.line",
    "twice wrapped": "base_model.model.base_model.model.unet.line",
    "compiled": "base_model.model._orig_mod.line",
    "compiled within": "unet._orig_mod.line",
    "several GPUs": "module.unet.line",
    "FSDP": "unet._fsdp_wrapped_module.line",
    "kohya with dots": "lora_unet_mid.line",
    "kohya, all dots": "lora_unet.mid.line",
    "kohya, trailing": "lora_unet_mid_line_",
    "LyCORIS with dots": "lycoris_mid.line",
}


@pytest.mark.parametrize("stem", STEMS.values(), ids=STEMS.keys())
@pytest.mark.parametrize("more", ["", "lora_magnitude_vector"])
def test_what_tools_put_around_a_modules_name_is_taken_off(
    stem: str, more: str, tmp_path: Path
) -> None:
    ours = "unet.mid.line.weight" if "mid" in stem else "unet.line.weight"
    base = {ours: BASE["unet.line.weight"]}
    if "diffusion_model" in stem:
        base = {ours.replace("unet", "transformer"): BASE["unet.line.weight"]}
    down, up = torch.randn(2, 12), torch.randn(24, 2)
    tensors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    if more:
        tensors[f"{stem}.{more}"] = torch.ones(24)
    save_file(tensors, tmp_path / WEIGHTS)
    delta = read_delta(tmp_path / WEIGHTS, base)
    assert delta.coverage.unknown == ()
    (update,) = delta.updates.values()
    if not more:
        torch.testing.assert_close(update.dense(), up @ down)


def test_the_alpha_of_a_block_without_factors_carries_nothing(tmp_path: Path) -> None:
    """A maker has cut blocks out of a LoRA and left their alphas."""
    tensors = {
        "lora_unet_line.lora_down.weight": torch.ones(2, 12),
        "lora_unet_line.lora_up.weight": torch.ones(24, 2),
        "lora_unet_line.alpha": torch.tensor(2.0),
        "lora_unet_square.alpha": torch.tensor(2.0),
        "lora_unet_gone_from_this_base.alpha": torch.tensor(2.0),
    }
    save_file(tensors, tmp_path / WEIGHTS)
    delta = read_delta(tmp_path / WEIGHTS, BASE)
    assert set(delta.updates) == {"unet.line.weight"}
    assert len(delta.coverage.skipped) == 2
    assert delta.coverage.unknown == ()


def test_a_configuration_is_the_same_for_copies(tmp_path: Path) -> None:
    """A folder's file and its copy with the configuration in the header read the same."""
    import peft

    from diffgraph.experts.peft_configuration import keep_configuration

    path, expected = saved(peft.LoHaConfig(**LYCORIS), tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    copied = Path(alone / "x.safetensors")
    copied.write_bytes(path.read_bytes())
    keep_configuration(copied, (tmp_path / CONFIGURATION).read_text())
    assert_same(read_delta(copied, BASE), expected)
