"""What an expert is good for, as an agent described it after reading its page."""

from pydantic import BaseModel, Field


class ExpertCard(BaseModel, frozen=True):
    """A description of an expert's skills, with who wrote it."""

    summary: str = Field(description="one or two sentences, plain text")
    skills: tuple[str, ...] = Field(default=(), description="subjects, styles, effects it is for")
    trigger_words: tuple[str, ...] = ()
    recommended_strength: float | None = Field(
        default=None, ge=0.0, le=2.0, description="the coefficient its page recommends, if it does"
    )
    agent: str = Field(description="offline, claude, …")
    model: str = Field(default="", description="the language model, if one was asked")
    instruction_version: str = ""
    note: str = Field(
        default="",
        description="why another agent wrote it than was asked, or that there was no page to read",
    )

    @property
    def text(self) -> str:
        """What is embedded: the summary, then the skills."""
        return " ".join(part for part in (self.summary, ", ".join(self.skills)) if part)
