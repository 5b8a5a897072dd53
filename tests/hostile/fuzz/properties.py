"""What must hold of every input of a kind: an error of ours or a right result, and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.hostile.fuzz import (
    answers,
    hub_pages,
    kept_files,
    people,
    plans,
    weights_files,
)

Check = Callable[[Any, Path], None]
"""Reads an input below an empty folder; raises if what comes out is neither right nor refused."""


@dataclass(frozen=True)
class Property:
    """A kind of input with the rule that holds for all of it."""

    inputs: st.SearchStrategy[Any]
    check: Check
    examples: int
    """That a short run tries: a second or less of them."""


PROPERTIES: Mapping[str, Property] = {
    "weights file": Property(weights_files.files, weights_files.read_or_refused, 60),
    "LoRA in order": Property(weights_files.loras, weights_files.read_right, 30),
    "PEFT configuration": Property(weights_files.peft_files, weights_files.read_or_refused, 40),
    "merge plan": Property(plans.documents, plans.kept_or_refused, 60),
    "image with a plan": Property(plans.images, plans.image_read_or_refused, 30),
    "Civitai page": Property(hub_pages.civitai, hub_pages.others_go_on, 20),
    "hub.json": Property(hub_pages.hub_files, hub_pages.hub_read_or_refused, 30),
    "Hugging Face page": Property(hub_pages.huggingface, hub_pages.described_or_refused, 40),
    "prompt": Property(people.prompts, people.understood_or_refused, 60),
    "prompt with a trigger": Property(people.called_prompts, people.the_rest_is_drawn, 15),
    "prompt file": Property(people.prompt_files, people.rows_read_or_told, 40),
    "graph snapshot": Property(kept_files.snapshots, kept_files.whole_or_refused, 20),
    "file of lines": Property(kept_files.line_files, kept_files.other_lines_are_read, 30),
    "answers to a download": Property(answers.downloads, answers.whole_or_refused, 15),
    "answers to a list": Property(answers.lists, answers.read_or_refused, 15),
}
