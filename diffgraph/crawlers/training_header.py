"""What does the header of a weights file say of how it was made?

Trainers after kohya's write `ss_…`, others the `modelspec.…` of
https://github.com/Stability-AI/ModelSpec. All of it is text that a stranger wrote.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from diffgraph.crawlers.civitai_pages import WORD_CHARACTERS, moment, text, words
from diffgraph.crawlers.file_metadata import MOST_TAGS, FileMetadata, licence_of_a_file
from diffgraph.foreign_files import parse_strict

TITLE = 200
LONGEST = 5_000
HEADER_VALUES = 200_000
SELDOM = 0.2  # of how often the most frequent tag is said
REPEATS = re.compile(r"^\d+_")
GENERAL = frozenset(
    "img imgs image images data dataset train training lora loras class concept style default out "
    "output character person man woman reg regularization folder new test 1 x".split()
)
"""Names of folders that trainers ask for, and that say nothing."""


def read_header(metadata: Mapping[str, str]) -> tuple[FileMetadata, list[str]]:
    """Return what a header says, and which of its fields could not be read."""
    spec = {
        name.removeprefix("modelspec."): value
        for name, value in metadata.items()
        if name.startswith("modelspec.")
    }
    unread: list[str] = []
    tags = _training_tags(_json(metadata, "ss_tag_frequency", unread))
    folders = _json(metadata, "ss_dataset_dirs", unread)
    described = [text(spec.get(name), LONGEST) for name in ("description", "usage_hint")]
    stated = text(spec.get("license"), WORD_CHARACTERS)
    trigger = text(spec.get("trigger_phrase"), WORD_CHARACTERS)
    name = spec.get("title") or metadata.get("ss_output_name") or metadata.get("title")
    architecture = spec.get("architecture", "").removesuffix("/lora")
    known = FileMetadata(
        name=text(name, TITLE),
        description="\n".join(filter(None, described)),
        base_model=text(metadata.get("ss_base_model_version") or architecture, WORD_CHARACTERS),
        tags=words(spec.get("tags", "").split(","))[:MOST_TAGS] or tags,
        trigger_words=words([trigger]) or _triggers(folders if isinstance(folders, dict) else {}),
        licence=licence_of_a_file(stated, text(spec.get("author"), WORD_CHARACTERS))
        if stated or spec.get("author")
        else None,
        published_at=moment(spec.get("date")),
    )
    return known, unread


def _training_tags(frequency: Any) -> tuple[str, ...]:
    """Return what the training's captions say often; `folder -> tag -> count`.

    What few of them say is what some picture happened to show, not what was learnt.
    """
    counts: Counter[str] = Counter()
    for tags in frequency.values() if isinstance(frequency, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int) and not isinstance(count, bool) and 0 < count < 1 << 40:
                counts[text(tag, WORD_CHARACTERS)] += count
    counts.pop("", None)
    often = counts.most_common(MOST_TAGS)
    return tuple(tag.replace("_", " ") for tag, count in often if count >= SELDOM * often[0][1])


def _triggers(folders: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words that folders are named for, as in `10_triggerword`."""
    named = (REPEATS.sub("", folder) for folder in folders if REPEATS.match(folder))
    return words([name for name in named if name.lower() not in GENERAL])[:3]


def _json(metadata: Mapping[str, str], field: str, unread: list[str]) -> Any:
    if not metadata.get(field):
        return None
    try:
        return parse_strict(metadata[field], HEADER_VALUES)
    except ValueError as error:
        unread.append(f"its header's {field} is not JSON: {str(error)[:100]}")
        return None
