"""Pages in the shapes that Civitai's API has had over the years, written here, the same each time.

Nine in ten can be used; the others have what a crawler must refuse.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

THINGS = (
    "fox", "lighthouse", "robot", "teapot", "dragon", "bicycle", "castle", "violin", "whale",
    "mushroom", "astronaut", "lantern", "owl", "train", "waterfall", "samurai", "cactus", "ship",
)  # fmt: skip
STYLES = (
    "watercolour", "pencil sketch", "pixel art", "oil painting", "paper cut", "neon lights",
    "stained glass", "clay figure", "ink wash", "comic panel", "low poly", "embroidery",
    "charcoal", "art nouveau", "woodblock print", "chalk on a blackboard",
)  # fmt: skip
NAMES = ("{} {}", "{} {} 🦊✨", "[LoRA] {} {}", "{} {} مصباح", "{} {} ランタン", "{}_{}_XL_FINAL")
TYPES = ("LORA", "LORA", "LORA", "LoCon", "DoRA", "Checkpoint")
COMMERCIAL: tuple[Any, ...] = ("Sell", "None", "{Image,Rent}", ["Image", "RentCivit"], [])
FIRST_DAY = datetime(2023, 1, 1, tzinfo=UTC)


def pages(count: int, base_model: str = "emoji64", seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield `count` pages, oldest first."""
    for number in range(1, count + 1):
        yield page(number, base_model, seed=seed, **_flaw(number))


def page(
    number: int, base_model: str = "emoji64", *, seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """Return the page with this number, but for `changes`; `version` and `file` change parts."""
    chance = random.Random(f"{seed}:{number}")
    thing, style = chance.choice(THINGS), chance.choice(STYLES)
    word = f"{style.split()[0]}{number % 97}"
    version = _version(number, base_model, thing, style, word, chance)
    version["files"][0] |= changes.pop("file", {})
    version |= changes.pop("version", {})
    return {
        "id": number,
        "name": chance.choice(NAMES).format(thing.title(), style),
        "description": (
            f"<p>Draws a <b>{thing}</b> in the style of {style}.</p>"
            f"<p>Use the trigger word <code>{word}</code> at a weight of 0.{3 + number % 6}.</p>"
            f"<ul><li>{chance.choice(THINGS)}</li><li>{chance.choice(THINGS)}</li></ul>"
            '<p>Support me on <a href="https://example.org/coffee">coffee</a>!</p>'
        ),
        "type": chance.choice(TYPES),
        "poi": False,
        "minor": False,
        "nsfw": False,
        "nsfwLevel": 1,
        "allowNoCredit": number % 3 > 0,
        "allowCommercialUse": COMMERCIAL[number % len(COMMERCIAL)],
        "allowDerivatives": True,
        "allowDifferentLicense": number % 4 > 0,
        "stats": _stats(number, chance),
        "creator": {"username": f"maker-{number % 211}", "image": None},
        "tags": [thing, "style", *style.split()],
        "modelVersions": [version],
    } | changes


def _version(
    number: int, base_model: str, thing: str, style: str, word: str, chance: random.Random
) -> dict[str, Any]:
    version = number * 10 + 1
    published = FIRST_DAY + timedelta(hours=number)
    return {
        "id": version,
        "modelId": number,
        "name": f"v{1 + number % 3}.0",
        "createdAt": published.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "publishedAt": published.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "trainedWords": [word],
        "baseModel": base_model,
        "baseModelType": "Standard",
        "availability": "Public",
        "description": None,
        "stats": _stats(number, chance),
        "files": [
            {
                "id": version * 10,
                "sizeKB": 36_000.5 + number,
                "name": f"{thing}_{number}.safetensors",
                "type": "Model",
                "metadata": {"format": "SafeTensor", "size": None, "fp": "fp16"},
                "pickleScanResult": "Success",
                "pickleScanMessage": "No Pickle imports",
                "virusScanResult": "Success",
                "scannedAt": "2023-06-12T05:06:37.922Z",
                "hashes": {
                    "AutoV2": sha256(f"{number}".encode()).hexdigest()[:10].upper(),
                    "SHA256": sha256(f"{number}".encode()).hexdigest().upper(),
                },
                "downloadUrl": f"https://civitai.com/api/download/models/{version}",
                "primary": True,
            }
        ],
        "images": [
            {
                "id": version * 100 + place,
                "url": f"https://images.example/{version}-{place}.jpeg",
                "nsfwLevel": 1,
                "width": 512,
                "height": 768,
                "hash": "UEGRn}-:l8~VSx-:NxE2v|D%9GIU9GjuRjIo",
                "type": "image",
                "meta": {
                    "prompt": f"a {chance.choice(THINGS)} and a {thing}, {style}, "
                    f"({word}:1.1), <lora:{word}:0.8>",
                    "negativePrompt": "blurry, text",
                    "seed": chance.randrange(2**32),
                    "steps": 24,
                    "sampler": "DPM++ SDE Karras",
                    "cfgScale": 5,
                },
            }
            for place in range(3)
        ],
        "downloadUrl": f"https://civitai.com/api/download/models/{version}",
    }


def _stats(number: int, chance: random.Random) -> dict[str, Any]:
    downloads = chance.randrange(1, 20_000)
    if number % 2:
        return {"downloadCount": downloads, "ratingCount": 9, "rating": 3 + number % 3}
    return {"downloadCount": downloads, "thumbsUpCount": downloads // 9, "thumbsDownCount": 2}


def _flaw(number: int) -> dict[str, Any]:
    """Return what is wrong with a page, for one in ten."""
    flaws: dict[int, dict[str, Any]] = {
        5: {"nsfw": True},
        15: {"poi": True},
        25: {"allowDerivatives": False},
        35: {"file": {"pickleScanResult": "Danger"}},
        45: {"file": {"name": "old.ckpt", "metadata": {"format": "PickleTensor"}}},
        55: {"version": {"baseModel": "SDXL 1.0"}},
        65: {"type": "TextualInversion"},
        75: {"version": {"files": []}},
        85: {"version": {"availability": "EarlyAccess"}},
        95: {"file": {"virusScanResult": "Pending"}},
    }
    return dict(flaws.get(number % 100, {}))
