"""How does what was trained become what ships? Base, hub, scorers; then graph and planner."""

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffgraph.artifacts import new_file, storing, write_text
from diffgraph.families.emoji64 import EMOJI64
from diffgraph.families.emoji64.scorers.learned import CONFIG
from diffgraph.families.stable_diffusion import StableDiffusion
from diffgraph.graph.snapshot import open_snapshot
from diffgraph.planner.planner import Planner
from recipes.emoji64.community import COMMUNITY, Recipe
from recipes.emoji64.hub import example_prompts, write_hub
from recipes.emoji64.image_sampler import ImageSampler, read_updates

log = logging.getLogger(__name__)

RECORDS = "training.json"  # written last: it says that the rest is in place
FIRST_SEED = 7  # of an expert's example pictures
PICTURE_QUALITY = 85  # of WebP, 0 to 100


def publish(
    made: Path, assets: Path, device: str = "cpu", community: Sequence[Recipe] = COMMUNITY
) -> None:
    """Replace the shipped base, hub and scorers with what was made below a folder.

    What is published already is not published again.

    Args:
        made: holds `base/`, `weights/` and `scorers/`.
        assets: the family's folder in the package; its tokenizer, words and prompts stay.
        device: what draws the hub's example pictures.
        community: the experts to publish.
    """
    if is_published(made, assets, community):
        return
    (assets / RECORDS).unlink(missing_ok=True)  # until everything is in place, nothing is
    for part in ("unet", "vae", "text_encoder", "scheduler"):
        _replace(made / "base" / part, assets / "base" / part)
    if not (assets / "base" / "tokenizer").is_dir():
        _replace(made / "base" / "tokenizer", assets / "base" / "tokenizer")
    _replace(made / "scorers", assets / "scorers")
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder)
        draw_pictures(made, assets, pictures, device, community)
        write_hub(made / "weights", assets / "hub", pictures, community)
    write_text(assets / RECORDS, _records(made, community))


def publish_graph(snapshot: Path, planner: Path, assets: Path) -> None:
    """Replace the shipped graph and planner.

    Args:
        snapshot: the folder of a snapshot of the hub that is published.
        planner: the folder of a planner; what else its training left there stays behind.
        assets: the family's folder in the package.

    Raises:
        SnapshotError: the folder holds no snapshot.
        MissingInput: the folder holds no planner.
    """
    open_snapshot(snapshot, None)
    Planner.load(planner).save(assets / "planner")
    _replace(snapshot, assets / "snapshot")


def is_published(made: Path, assets: Path, community: Sequence[Recipe] = COMMUNITY) -> bool:
    """Say whether the assets are what was made: of the same trainings."""
    if not (assets / RECORDS).is_file():
        return False
    return (assets / RECORDS).read_text(encoding="utf-8") == _records(made, community) and all(
        (assets / "scorers" / config.parent.name / CONFIG).is_file()
        and (assets / "scorers" / config.parent.name / CONFIG).read_bytes() == config.read_bytes()
        for config in (made / "scorers").glob(f"*/{CONFIG}")
    )


def training_records(made: Path, community: Sequence[Recipe] = COMMUNITY) -> dict[str, Any]:
    """Return how each model was trained: config, seed, steps, seconds and last loss."""
    base = json.loads((made / "base" / "training.json").read_text(encoding="utf-8"))
    experts = {
        recipe.slug: json.loads(
            (made / "weights" / f"{recipe.slug}.json").read_text(encoding="utf-8")
        )
        for recipe in community
    }
    return {"base": base, "experts": experts}


def _records(made: Path, community: Sequence[Recipe]) -> str:
    return json.dumps(training_records(made, community), separators=(",", ":")) + "\n"


def draw_pictures(
    made: Path, assets: Path, folder: Path, device: str, community: Sequence[Recipe] = COMMUNITY
) -> None:
    """Draw every expert's example pictures, each expert alone at its recommended strength."""
    import numpy as np
    from PIL import Image

    model = StableDiffusion.from_folder("emoji64", assets / "base", EMOJI64.sampler, device)
    files = {recipe.slug: made / "weights" / f"{recipe.slug}.safetensors" for recipe in community}
    sampler = ImageSampler(model, read_updates(files, model), 1)
    for recipe in community:
        sampler.write({recipe.slug: 1.0 if recipe.kind == "checkpoint" else recipe.strength})
        prompts = example_prompts(recipe)
        seeds = [FIRST_SEED + number for number in range(len(prompts))]
        for number, image in enumerate(model.sample(prompts, seeds)):
            pixels = (image.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
            with new_file(folder / f"{recipe.slug}-{number}.webp") as part:
                Image.fromarray(pixels).save(part, format="WEBP", quality=PICTURE_QUALITY)


def _replace(source: Path, target: Path) -> None:
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
