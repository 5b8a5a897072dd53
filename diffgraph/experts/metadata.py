"""What does the header of a weights file say about it?"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffgraph.artifacts import new_file
from diffgraph.errors import DamagedFile, ExpertError, MissingInput
from diffgraph.experts.name_patterns import NamePatterns
from diffgraph.experts.naming import COMPONENTS
from diffgraph.experts.weights_file import LENGTH_BYTES, WeightsFile, open_weights, shown
from diffgraph.foreign_files import read_foreign

EVIDENCE = (
    "modelspec.architecture",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_v2",
    "ss_network_module",
    "base_model_name_or_path",
)
PEFT_FILE = "adapter_config.json"
"""Where PEFT keeps it: a file beside the weights, which `keep_configuration` puts into them."""
PEFT_PREFIX = "base_model.model."
MAX_CONFIG_BYTES = 1 << 20
PEFT_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's configuration: JSON, its names behind their component (`unet.r`)."""


def evidence(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a file claims of its base, `key=value`."""
    return tuple(f"{key}={shown(metadata[key])[1:-1]}" for key in EVIDENCE if metadata.get(key))


@dataclass(frozen=True)
class AlphaMetadata:
    """Alphas of PEFT files, which hold them beside the tensors."""

    file: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, file: WeightsFile) -> "AlphaMetadata":
        """Read the configuration, if the file has one, or PEFT left one beside it."""
        text = file.metadata.get(PEFT_METADATA) or file.metadata.get(PEFT_FILE) or _beside(file)
        if text is None:
            return cls(file.path.name)
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DamagedFile(f"{file.path.name}: its configuration is not JSON") from error
        if not isinstance(config, dict):
            raise DamagedFile(f"{file.path.name}: its configuration is not an object")
        return cls(file.path.name, config)

    def of_module(self, module: str, theirs: str = "") -> tuple[float | None, bool]:
        """Return a module's alpha, if one is stated, and whether it is rank-stabilised.

        Args:
            module: our name.
            theirs: the file's, if it is another: alphas of single modules are stated by it.
        """
        component, _, path = module.partition(".")
        prefix = f"{component}." if component in COMPONENTS else ""
        names = path, theirs.removeprefix(PEFT_PREFIX).removeprefix(prefix) or path
        alpha = self._of(prefix, "lora_alpha")
        pattern = self._of(prefix, "alpha_pattern")
        if isinstance(pattern, dict):
            fitting = self._patterns(tuple(pattern)).first(names)
            alpha = alpha if fitting is None else pattern[fitting]
        if alpha is None:
            return None, False
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not _is_finite(alpha):
            raise DamagedFile(f"{self.file}: the alpha of {shown(module)} is not a number")
        return float(alpha), bool(self._of(prefix, "use_rslora"))

    def settings(self, module: str) -> dict[str, Any]:
        """Return the configuration of a module's adapter, without its component's prefix."""
        prefix = f"{module.partition('.')[0]}."
        own = {
            name.removeprefix(prefix): value
            for name, value in self.config.items()
            if name.startswith(prefix)
        }
        return {**self.config, **own}

    def _patterns(self, patterns: tuple[str, ...]) -> NamePatterns:
        try:
            return _read_patterns(patterns)
        except ValueError as error:
            raise DamagedFile(f"{self.file}: the alphas of its configuration: {error}") from error

    def _of(self, prefix: str, name: str) -> Any:
        """Return an entry for a component, as diffusers keeps it, or for all, as PEFT does."""
        return self.config.get(prefix + name, self.config.get(name))


_read_patterns = lru_cache(maxsize=4)(NamePatterns)  # asked for every module of a file


def keep_configuration(path: Path, text: str) -> None:
    """Write PEFT's configuration of a file into its header; the tensors stay as they are.

    So that it goes wherever the weights go, and other alphas make another file: its hash names
    both. A header that states a configuration stays as it is, and so does a file that cannot be
    read, for whoever reads it to say why; what the configuration says is judged then too.

    Args:
        path: a safetensors file of our own, which is replaced.
        text: what stands in `adapter_config.json`.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        with open_weights(path) as file:
            if {PEFT_METADATA, PEFT_FILE} & file.metadata.keys():
                return
            metadata = {**file.metadata, PEFT_FILE: text}
    except ExpertError:
        return
    with new_file(path) as part, path.open("rb") as source, part.open("wb") as target:
        length = int.from_bytes(source.read(LENGTH_BYTES), "little")
        header = {**json.loads(source.read(length)), "__metadata__": metadata}
        written = json.dumps(header).encode()
        written += b" " * (-len(written) % LENGTH_BYTES)  # the format aligns its tensors
        target.write(len(written).to_bytes(LENGTH_BYTES, "little") + written)
        shutil.copyfileobj(source, target, 1 << 20)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _beside(file: WeightsFile) -> str | None:
    """Return PEFT's configuration of a file that it saved, if it is a file of a likely size."""
    path = file.path.with_name(PEFT_FILE)
    try:
        return read_foreign(path, MAX_CONFIG_BYTES).decode("utf-8", errors="replace")
    except MissingInput:
        return None
