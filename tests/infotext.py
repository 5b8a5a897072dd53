"""Reads A1111's infotext as its own documents and code describe it, and as Civitai does."""

import json
import re
from typing import Any, NamedTuple

SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
FEWEST_SETTINGS = 3
"""With fewer, A1111 takes the last line for a part of the prompt."""
TAG = re.compile(r"<(\w+):([^>]+)>")


class Infotext(NamedTuple):
    """What A1111 puts into its fields when the text is pasted."""

    prompt: str
    negative: str
    settings: dict[str, str]

    @property
    def tags(self) -> list[tuple[str, ...]]:
        """The kind, name and strengths of each extra network."""
        return [(kind, *rest.split(":")) for kind, rest in TAG.findall(self.prompt)]

    @property
    def lora_hashes(self) -> dict[str, str]:
        pairs = self.settings.get("Lora hashes", "").split(",")
        return dict(pair.strip().split(": ") for pair in pairs if pair)


def as_a1111(text: str) -> Infotext:
    *lines, last = text.strip().split("\n")
    if len(SETTING.findall(last)) < FEWEST_SETTINGS:
        lines, last = [*lines, last], ""
    parts: dict[bool, list[str]] = {False: [], True: []}
    is_negative = False
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            is_negative, line = True, line[len("Negative prompt:") :].strip()
        parts[is_negative].append(line)
    settings = {
        key: json.loads(value) if value[:1] == value[-1:] == '"' else value
        for key, value in SETTING.findall(last)
    }
    return Infotext("\n".join(parts[False]), "\n".join(parts[True]), settings)


def as_civitai(text: str) -> tuple[str, str, dict[str, Any]]:
    """Return prompt, negative prompt and hashes by the kind and name of their resource."""
    lines = [line for line in text.split("\n") if line.strip()]
    details = next(line for line in lines if line.startswith("Steps: "))
    lines.remove(details)
    prompt, *negative = (part.strip() for part in "\n".join(lines).split("Negative prompt:"))
    found = re.search(r", Hashes:\s*({[^}]+})", details)
    return prompt, "".join(negative), json.loads(found[1]) if found else {}
