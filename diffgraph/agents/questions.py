"""What exactly is a language model asked, and which answers are accepted?

Three questions: describe an expert, parse a prompt, review candidates. Each has instructions
(instructions/*.md), a tool whose input is the answer, and checks beyond the tool's schema. What
strangers wrote travels as JSON between tags that it cannot close.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Said = TypeVar("Said", bound="ToolInput")


class ToolInput(BaseModel):
    """What a model says by calling a tool: nothing but what the schema names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Phrase = Annotated[str, StringConstraints(min_length=1, max_length=80)]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=600)]


class Described(ToolInput):
    """Describe what one expert is good for."""

    evidence: str = Field(default="", max_length=2_000, description="what the page shows; brief")
    summary: Sentence = Field(description="one or two plain sentences, at most 60 words")
    skills: tuple[Phrase, ...] = Field(default=(), max_length=16, description="one to four words")
    recommended_strength: float | None = Field(
        default=None, ge=0.0, le=2.0, description="the page's advice, if it gives any"
    )


class Component(ToolInput):
    """A part of the picture, and the visual attributes it needs."""

    part: Phrase
    needs: tuple[Phrase, ...] = Field(default=(), max_length=12)


class Parsed(ToolInput):
    """Say what a picture is to show."""

    components: tuple[Component, ...] = Field(default=(), max_length=16)
    summary: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="the main subject and overall style"
    )
    attributes: tuple[Phrase, ...] = Field(default=(), max_length=12)
    broader: tuple[Phrase, ...] = Field(default=(), max_length=4)


class Judged(ToolInput):
    """The verdict on one candidate."""

    id: Annotated[str, StringConstraints(max_length=16)]
    kept: bool
    reason: Annotated[str, StringConstraints(max_length=300)] = ""


class Reviewed(ToolInput):
    """Say which candidates are kept."""

    verdicts: tuple[Judged, ...] = Field(max_length=200)


@dataclass(frozen=True)
class Kind:
    """A kind of question: its instructions, its tool, the form of its answers."""

    name: str
    tool: str
    answer: type[ToolInput]

    @property
    def instructions(self) -> str:
        """What the model is told before it sees the question."""
        return _instructions(self.name)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the tool's input."""
        return self.answer.model_json_schema()

    @property
    def version(self) -> str:
        """A short hash of instructions and schema: another wording is another question."""
        told = json.dumps([self.instructions, self.tool, self.schema], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:10]


DESCRIBE = Kind("describe", "describe_expert", Described)
PARSE = Kind("parse", "parse_request", Parsed)
REVIEW = Kind("review", "review_candidates", Reviewed)


@dataclass(frozen=True)
class Question:
    """One question to a language model.

    Args:
        kind: which of the three.
        tag: what its content stands between.
        content: what is asked about, as data.
        pictures: JPEG files.
        check: returns what is wrong with an answer that fits the schema; "" if nothing is.
    """

    kind: Kind
    tag: str
    content: Mapping[str, Any]
    pictures: tuple[bytes, ...] = ()
    check: Callable[[Any], str] = field(default=lambda said: "")

    @property
    def text(self) -> str:
        """The content as JSON between tags; no text in it can open or close a tag."""
        told = json.dumps(self.content, ensure_ascii=False, indent=1)
        told = told.replace("<", "\\u003c").replace(">", "\\u003e")
        return f"<{self.tag}>\n{told}\n</{self.tag}>\nCall the tool `{self.kind.tool}`."

    def parameters(self, model: str, most_tokens: int) -> dict[str, Any]:
        """Return the body of a request to the Messages API."""
        pictures = [
            {
                "type": "image",
                "source": {
                    "type": "base64",
                    "media_type": "image/jpeg",
                    "data": base64.b64encode(picture).decode("ascii"),
                },
            }
            for picture in self.pictures
        ]
        return {
            "model": model,
            "max_tokens": most_tokens,
            "system": [
                {
                    "type": "text",
                    "text": self.kind.instructions,
                    "cache_control": {"type": "ephemeral"},  # with the tool, which comes before it
                }
            ],
            "tools": [
                {
                    "name": self.kind.tool,
                    "description": self.kind.answer.__doc__ or "",
                    "input_schema": self.kind.schema,
                }
            ],
            # models that think refuse to be forced to call a tool
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            "messages": [
                {"role": "user", "content": [*pictures, {"type": "text", "text": self.text}]}
            ],
        }


@cache
def _instructions(name: str) -> str:
    folder = resources.files("diffgraph.agents") / "instructions"
    return (folder / f"{name}.md").read_text(encoding="utf-8")
