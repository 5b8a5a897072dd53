"""Weights files by strangers: headers, numbers and configurations in any state."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from diffgraph.errors import ExpertError
from diffgraph.experts.reading import read_delta
from diffgraph.experts.weights_file import DTYPES
from tests.hostile.files import NAME, PARAMETERS, STEM, entry, lora, with_header
from tests.hostile.fuzz.bounds import demand_a_line
from tests.hostile.fuzz.grammar import changed, mangled, to_json, values

MODULE = NAME.removesuffix(".weight")
NAMINGS = {  # what stands before and behind a module's name: up, down
    "kohya": (f"{STEM}.lora_up.weight", f"{STEM}.lora_down.weight"),
    "diffusers": (f"{MODULE}.lora_B.weight", f"{MODULE}.lora_A.weight"),
    "old diffusers": (f"{MODULE}.lora.up.weight", f"{MODULE}.lora.down.weight"),
    "PEFT": (
        f"base_model.model.{MODULE}.lora_B.weight",
        f"base_model.model.{MODULE}.lora_A.weight",
    ),
}
KEYS = st.sampled_from(
    [
        *(key for pair in NAMINGS.values() for key in pair),
        NAME,
        *(
            f"{STEM}.{role}"
            for role in (
                "alpha",
                "dora_scale",
                "diff",
                "diff_b",
                "hada_w1_a",
                "hada_w1_b",
                "hada_w2_a",
                "hada_w2_b",
                "lokr_w1",
                "lokr_w2",
                "lokr_w2_a",
                "lokr_w2_b",
                "oft_blocks",
                "oft_diag",
                "lora_mid.weight",
                "on_input",
                "weight",
                "set_weight",
            )
        ),
        "conditioner.embedders.0.model.ln_final.weight",
        "emb_params",
        "__metadata__",
    ]
)
SIZES = st.sampled_from([0, 1, 2, 3, 12, 24, 48, 2**20, 2**31, 2**61])
HEADERS = st.dictionaries(
    KEYS,
    st.builds(
        entry,
        st.lists(SIZES, max_size=4),
        st.sampled_from([0, 4, 96, 192]),
        st.sampled_from([0, 4, 96, 192, 288, 1 << 40]),
        st.sampled_from([*DTYPES, "F4", "C64", ""]),
    ),
    max_size=5,
)
IN_ORDER = json.loads(lora()[8 : 8 + int.from_bytes(lora()[:8], "little")])
NUMBERS = lora()[-4 * (24 * 2 + 2 * 12) :]


@st.composite
def _layouts(draw: st.DrawFn) -> bytes:
    """Tensors under names of adapters, with shapes that may not fit one another."""
    shapes = draw(
        st.dictionaries(
            KEYS, st.lists(st.sampled_from([0, 1, 2, 3, 12, 24]), max_size=4), max_size=6
        )
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.int8, torch.float8_e4m3fn]))
    fill = draw(st.sampled_from([0.0, 1.0, -2.0, float("nan")]))
    fill = fill if dtype.is_floating_point else 1.0
    tensors = {
        key: torch.full(shape, fill).to(dtype)
        for key, shape in shapes.items()
        if key != "__metadata__"
    }
    return save(tensors)


files = st.one_of(
    mangled(lora(alpha=torch.tensor(1.0))),
    st.builds(lambda header: with_header(to_json(header), NUMBERS), changed(IN_ORDER)),
    st.builds(
        lambda header, data: with_header(to_json(header), data),
        HEADERS,
        st.sampled_from([b"", bytes(4), bytes(288)]),
    ),
    st.builds(lambda header: with_header(to_json(header)), values),
    _layouts(),
    st.binary(max_size=64),
)
"""Files of any kind, by strangers who mean ill or know no better."""

CONFIGURATION = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "use_rslora": False,
    "use_dora": False,
    "target_modules": ["to_q"],
    "alpha_pattern": {"mid_block.*to_q": 8},
    "rank_pattern": {},
    "bias": "none",
    "init_lora_weights": True,
    "modules_to_save": None,
}


def _with_configuration(text: bytes, key: str) -> bytes:
    up, down = NAMINGS["PEFT"]
    tensors = {up: torch.ones(24, 2), down: torch.ones(2, 12)}
    return save(tensors, {key: text.decode()})


peft_files = st.builds(
    _with_configuration,
    changed(CONFIGURATION).map(to_json),
    st.sampled_from(["adapter_config.json", "lora_adapter_metadata"]),
)
"""A LoRA in order beside a configuration that may not be."""


def read_or_refused(data: bytes, folder: Path) -> None:
    """Every key of the file is accounted for, every number is finite; or the file is refused."""
    path = folder / "x.safetensors"
    path.write_bytes(data)
    try:
        delta = read_delta(path, PARAMETERS)
    except ExpertError as error:
        demand_a_line(error)
        return
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header.pop("__metadata__", None)
    coverage = delta.coverage
    told = {*coverage.matched, *coverage.skipped, *coverage.unknown}
    assert told == header.keys(), "keys that nobody tells of"
    assert delta.updates, "an expert that changes nothing"
    for name, update in delta.updates.items():
        value = update.dense()
        assert value.shape == PARAMETERS[name].shape
        assert bool(torch.isfinite(value).all())


class Lora(NamedTuple):
    """A LoRA as a trainer writes it, with what it adds."""

    data: bytes
    adds: torch.Tensor  # float64


@st.composite
def _loras(draw: st.DrawFn) -> Lora:
    rank = draw(st.sampled_from([1, 2, 4]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    up = torch.randn(24, rank, generator=generator).to(dtype)
    down = torch.randn(rank, 12, generator=generator).to(dtype)
    alpha = draw(st.none() | st.sampled_from([0.5, 1.0, 2.0, 16.0]))
    naming = draw(st.sampled_from(sorted(NAMINGS)))
    tensors = dict(zip(NAMINGS[naming], (up, down), strict=True))
    if alpha is not None:
        module = next(iter(tensors)).rpartition(".lora")[0]
        tensors[f"{module}.alpha"] = torch.tensor(alpha)
    scale = 1.0 if alpha is None else alpha / rank
    return Lora(save(tensors), scale * up.double() @ down.double())


loras = _loras()
"""LoRAs in order, in the spellings of four trainers."""


def read_right(lora: Lora, folder: Path) -> None:
    """What it adds is what its factors say."""
    path = folder / "x.safetensors"
    path.write_bytes(lora.data)
    found: Any = read_delta(path, PARAMETERS).updates[NAME].dense()
    torch.testing.assert_close(found.double(), lora.adds, rtol=1e-5, atol=1e-6)
