"""A small hub in a folder: four usable experts, three unusable ones and a broken page."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
EFFECTS = {
    9001: ("Silver Pencil", "A pencil sketch on white paper.", "pencil sketch"),
    9002: ("Moonshine", "Turns every scene into night, with a moon.", "at night"),
    9003: ("Warm Sepia", "Sepia tones, like an old photograph.", "sepia"),
}
CHECKPOINT = 9010
NAN, TRUNCATED, PICKLE = 9020, 9021, 9022


def page(hub: Path, number: int, name: str, text: str, words: str, **changes) -> None:
    """Write a page of a hub with one version."""
    version = {
        "id": number * 10 + 1,
        "name": "v1",
        "baseModel": "emoji64",
        "publishedAt": "2025-01-01T00:00:00Z",
        "trainedWords": [words],
        "files": [{"downloadUrl": f"files/{number}.safetensors", "sizeKB": 64}],
        "images": [{"url": "", "meta": {"prompt": f"a cat, {words}"}}],
    } | changes.pop("version", {})
    content = {
        "id": number,
        "name": name,
        "description": f"<p>{text} Best at 0.9.</p>",
        "type": "LORA",
        "modelVersions": [version],
    } | changes
    (hub / "models" / f"{number}.json").write_text(json.dumps(content))


@pytest.fixture
def write_page() -> Callable[..., None]:
    return page


def write_hub(hub: Path) -> Path:
    """Write a hub of four usable experts, three unusable ones and a broken page."""
    from safetensors.torch import save_file

    from diffgraph.families import get_family
    from recipes.emoji64.unusable import lora

    for name in ("models", "files"):
        (hub / name).mkdir(parents=True)
    (hub / "hub.json").write_text('{"name": "smallhub"}')
    for strength, (number, (name, text, words)) in enumerate(EFFECTS.items(), 1):
        page(hub, number, name, text, words)
        (hub / "files" / f"{number}.safetensors").write_bytes(lora(strength / 50))
    layer = get_family("emoji64").load("cpu").parameters()[LAYER]
    save_file({LAYER: layer + 0.01}, hub / "files" / f"{CHECKPOINT}.safetensors")
    page(hub, CHECKPOINT, "Animal Park", "Cats, dogs and robots.", "robot", type="Checkpoint")
    page(hub, NAN, "Not a number", "Broken.", "nan")
    (hub / "files" / f"{NAN}.safetensors").write_bytes(lora(float("nan")))
    page(hub, TRUNCATED, "Half a file", "Broken.", "half")
    (hub / "files" / f"{TRUNCATED}.safetensors").write_bytes(lora(0.5)[:-100])
    pickle = {"files": [{"downloadUrl": "files/x.pt", "metadata": {"format": "PickleTensor"}}]}
    page(hub, PICKLE, "Pickled", "Unsafe.", "pickle", version=pickle)
    (hub / "models" / "9999.json").write_text("{ half a page")
    return hub


@pytest.fixture(scope="session")
def hub(once) -> Path:
    return once("hub", lambda folder: write_hub(folder / "smallhub")) / "smallhub"
