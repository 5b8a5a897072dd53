"""How well are experts found in a folder of files without any page, by names and headers alone?

    nice python tests/benchmarks/selection_without_pages.py [--prompts train] [--limit 400]

The bundled family's files in one folder, as they are called, without pages, sidecars or previews.
Each has the header that a trainer after kohya's leaves: `ss_output_name`, `ss_dataset_dirs` and
`ss_tag_frequency` of forty captioned pictures. The captions are those of somebody who knows what
the expert is for and tags pictures with the usual words of taggers (`CAPTIONS`; no card was
copied), among subjects that the pictures happen to show. Then: discover, register, and
the labels of a set of prompts, as `diffgraph evaluate --retrieval` measures them. Prints JSON.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder_of_files import FolderOfFiles
from diffgraph.evaluation.prompt_sets import bundled_sets
from diffgraph.evaluation.retrieval_metrics import (
    DescribedExperts,
    Label,
    RetrievalSummary,
    Selector,
    evaluate_retrieval,
    read_labels,
)
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from diffgraph.planner.selection import SelectionConfig
from diffgraph.session import Session
from diffgraph.session.registering import register_library

FAMILY = "emoji64"
PICTURES = 40
SUBJECTS = (
    "fox boat house tree cup robot apple car owl shoe clock guitar whale castle mushroom rocket "
    "bread hat snail lamp bicycle rose crab kite book chair penguin"
).split()
CAPTIONS = {
    "critter_cabin": "animal, animal focus, no humans, fur, dog, cat, bird, bear, fish, insect",
    "petting_zoo_mix": "animal, no humans, cute, farm animal, rabbit, goat, pony",
    "mood_faces": "face, expression, smile, frown, open mouth, yellow face, emoticon",
    "small_travel_finetune": "vehicle, car, train, ship, airplane, building, city, scenery",
    "puffy_3d": "3d, render, glossy, rounded",
    "flatland": "flat color, flat design, icon, vector, simple background",
    "ultra_emoji_pro_max": "masterpiece, best quality, emoji, highres",
    "sepia": "sepia, monochrome, brown theme",
    "night": "night, moon, dark, dark blue",
    "pixel_art": "pixel art, pixelated, 8-bit",
    "neon": "neon lights, neon, glowing, dark background",
    "watercolour": "watercolor, painting, traditional media, paper texture",
    "pencil": "pencil drawing, sketch, greyscale, hatching",
    "blueprint": "blueprint, technical drawing, white lines, blue background",
    "halftone": "halftone, dots, print, magenta",
    "sticker": "sticker, white outline, die-cut",
    "drop_shadow": "drop shadow, shadow, white background",
    "snow": "snow, snowing, winter, snowflakes",
    "blue_tint": "blue theme, blue light, blue tint",
    "green_tint": "green theme, green light, green tint",
    "red_frame": "red border, red frame, framed",
    "wooden_frame": "wooden frame, picture frame, wood, framed",
    "noir": "film noir, black and white, greyscale, high contrast",
    "inverted": "inverted colors, negative, x-ray",
    "sunset": "sunset, orange sky, evening, twilight",
    "starry": "starry sky, night sky, stars, space",
    "rain": "rain, raindrops, wet, grey sky",
    "polka_dots": "polka dot, polka dot background, dots",
    "golden": "gold, golden statue, metallic, shiny",
    "pop_art": "pop art, bright colors, limited palette",
    "comic": "comic, thick outlines, ink, lineart",
    "stained_glass": "stained glass, mosaic, lead lines",
    "pastel": "pastel colors, pale colors, soft colors",
    "dreamy": "soft focus, blurry, bloom, dreamy",
    "vignette": "vignette, vignetting, dark edges",
    "checkerboard": "checkered background, checkerboard",
    "glitch": "glitch, vhs, scanlines, chromatic aberration",
    "fire_glow": "fire, flames, burning, glowing",
    "stripes": "striped background, stripes, diagonal stripes",
    "underwater": "underwater, bubbles, sea, caustics",
    "old_photograph": "old photo, sepia, film grain, faded",
    "moonlit": "moonlight, night, moon, blue theme",
    "van_gogh_master": "van gogh, painting, impasto, brush strokes",
    "hologram_deluxe": "hologram, scanlines, cyan, glowing",
    "gold_frame": "gold frame, ornate frame, picture frame, framed",
}
"""File → how the pictures that it was trained on are tagged; of a later version the same."""


def header(slug: str) -> dict[str, str]:
    """Return what a trainer writes into the file of this name; nothing of one without captions."""
    tags = CAPTIONS.get(slug.removesuffix("_v1"))
    if tags is None:
        return {}
    chance = random.Random(slug)
    first, *others = tags.split(", ")
    frequency = {first: PICTURES} | {tag: chance.randint(12, PICTURES) for tag in others}
    for subject in chance.choices(SUBJECTS, k=PICTURES):
        frequency[subject] = frequency.get(subject, 0) + 1
    folder = f"10_{slug.replace('_', ' ')}"
    return {
        "ss_output_name": slug,
        "ss_dataset_dirs": json.dumps({folder: {"n_repeats": 10, "img_count": PICTURES}}),
        "ss_tag_frequency": json.dumps({folder: frequency}),
    }


def write_folder(folder: Path, names: str = "*") -> Path:
    """Write the bundled family's files, each with such a header, and return their folder."""
    folder.mkdir(parents=True)
    for file in sorted((_hub() / "files").glob(f"{names}.safetensors")):
        target = folder / file.name
        try:
            with safe_open(file, "pt") as opened:
                kept = {
                    name: value
                    for name, value in (opened.metadata() or {}).items()
                    if "adapter" in name or name == "format"
                }
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        except SafetensorError:
            target.write_bytes(file.read_bytes())  # it cannot be used anyway
        else:
            save_file(tensors, target, kept | header(file.stem))
    return folder


def in_folder(labels: tuple[Label, ...], refs: tuple[str, ...]) -> list[Label]:
    """Return labels of the hub's experts as labels of the folder's files."""
    files = {}
    for page in (_hub() / "models").glob("*.json"):
        about = json.loads(page.read_text())
        for version in about["modelVersions"]:
            for file in version["files"]:
                ref = f"emojihub:{about['id']}@{version['id']}"
                files[ref] = Path(file["downloadUrl"]).stem
    found = {ref.partition(":")[2].partition("@")[0]: ref for ref in refs}
    return [
        Label(prompt=label.prompt, experts=tuple(found[files[ref]] for ref in label.experts))
        for label in labels
    ]


def measure(place: Path, prompts: str = "bench", limit: int | None = None) -> RetrievalSummary:
    """Return how well the experts of the folder are found for a bundled set of prompts."""
    home, family = place / "home", get_family(FAMILY)
    library = Library(home, bundled=())
    discover(FolderOfFiles(write_folder(place / "loras"), family, library), library, family)
    graph = register_library(home, FAMILY)
    assert graph is not None
    session, nodes = Session(home, FAMILY, "cpu"), DescribedExperts.of(graph)
    finder = Selector(nodes, session.agent, session.embedder, SelectionConfig())
    labels = in_folder(read_labels(bundled_sets(FAMILY)[prompts])[:limit], nodes.refs)
    summary, results = evaluate_retrieval(labels, finder, nodes.refs)
    for result in results:
        if result.missed:
            sys.stderr.write(f"{result.prompt!r}: {result.missed}, but {result.others}\n")
    return summary


def _hub() -> Path:
    hub = get_family(FAMILY).hub
    assert hub is not None
    return hub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", default="bench", choices=("bench", "train", "reference"))
    parser.add_argument("--limit", type=int)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        summary = measure(Path(place), asked.prompts, asked.limit)
    sys.stdout.write(summary.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    main()
