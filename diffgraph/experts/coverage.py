"""How well was an expert's file understood, in numbers that are kept with its row?"""

from pydantic import BaseModel, Field


class CoverageReport(BaseModel, frozen=True):
    """What reading a file found; the file itself need not be read again to tell."""

    matched: int = Field(default=0, ge=0, description="keys that became part of an update")
    skipped: int = Field(default=0, ge=0, description="keys known to carry nothing for a merge")
    absent: dict[str, int] = Field(
        default_factory=dict, description="text encoder that the base lacks -> keys that are for it"
    )
    unknown: int = Field(default=0, ge=0, description="keys that nobody understood")
    examples: tuple[str, ...] = Field(
        default=(), description="some of the unknown keys, cut short: untrusted text"
    )
    parameters: int = Field(default=0, ge=0, description="parameters of the base it changes")
    bytes: int = Field(default=0, ge=0, description="of its file")
    non_finite: int = Field(default=0, ge=0, description="NaN and infinite numbers in matched keys")
    norms: dict[str, float] = Field(
        default_factory=dict, description="block -> Frobenius norm of what it adds"
    )
    evidence: tuple[str, ...] = Field(
        default=(), description="what its shapes and its header say of the base it was made for"
    )

    @property
    def is_whole(self) -> bool:
        """Whether every key that could matter to a merge is read."""
        return not self.unknown and not self.absent

    @property
    def told(self) -> str:
        """What became of the file's keys, in a line: nothing is left out without a word."""
        left = [
            f"{count} for {encoder}, which the base lacks" for encoder, count in self.absent.items()
        ]
        if self.unknown:
            example = f", {self.examples[0]} for one" if self.examples else ""
            left.append(f"{self.unknown} unknown{example}")
        read = f"{self.matched} keys → {self.parameters} parameters"
        return f"{read}; left out: {'; '.join(left)}" if left else read
