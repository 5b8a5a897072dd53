"""What does PEFT say of an adapter beside its tensors, and does it mean a plain sum?

Alphas, ranks and switches stand in `adapter_config.json`, or in the header where diffusers and we
keep them. What a field means depends on the method; one that turns the base into another model, or
that nobody here knows, makes the tensors mean something else: such an adapter is refused by name.
https://huggingface.co/docs/peft/package_reference/config
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffgraph.artifacts import new_file
from diffgraph.errors import DamagedFile, ExpertError, MissingInput, UnknownFormat
from diffgraph.experts.name_patterns import NamePatterns
from diffgraph.experts.naming import COMPONENTS
from diffgraph.experts.weights_file import (
    LENGTH_BYTES,
    SHOWN,
    WeightsFile,
    header_bytes,
    open_weights,
    shown,
)
from diffgraph.foreign_files import parse_strict, read_foreign

PEFT_FILE = "adapter_config.json"
"""Where PEFT keeps it: a file beside the weights, which `keep_configuration` puts into them."""
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's configuration: JSON, its names behind their component (`unet.r`)."""
PEFT_PREFIX = "base_model.model."
MAX_CONFIG_BYTES = 1 << 20

ALPHAS: Mapping[str, str] = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
"""Method -> the field that holds its alpha; the others have none."""
METHODS = (*ALPHAS, "OFT", "IA3")
USUAL = 8
"""Rank and alpha of a configuration that names its method and states none: PEFT's defaults."""

INITIALISATIONS = ("init_lora_weights", "init_weights", "init_ia3_weights")
HARMLESS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lycoris"})
"""Initialisations that leave the base as it is. The others, pissa, olora, loftq, corda and lora_ga
among them, take from the base what the factors start with."""

OTHER_MODELS: Mapping[str, str] = {
    "alora_invocation_tokens": "it acts on some tokens only",
    "arrow_config": "it chooses among adapters token by token",
    "kasa_config": "it cuts the smallest singular values out of the base",
    "layer_replication": "it repeats layers of the base",
    "monteclora_config": "its factors are drawn by chance",
    "target_parameters": "its factors are laid out for bare parameters",
    "use_bdlora": "its factors are block-diagonal",
    "use_qalora": "its inputs are pooled in groups",
}
"""Switches whose adapters are no sum of their factors -> why not."""

UNDERSTOOD = frozenset(
    {
        *("peft_type", "task_type", "auto_mapping", "peft_version", "runtime_config", "revision"),
        *("base_model_name_or_path", "inference_mode", "megatron_config", "megatron_core"),
        *("r", "rank_pattern", "lora_alpha", "alpha", "alpha_pattern", "use_rslora", "use_dora"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("modules_to_save", "trainable_token_indices", "bias", "lora_bias"),  # told by their keys
        *("lora_dropout", "rank_dropout", "module_dropout", "rank_dropout_scale"),
        *("use_effective_conv2d", "decompose_both", "decompose_factor", "block_share"),
        *("coft", "eps", "use_cayley_neumann", "num_cayley_neumann_terms", "oft_block_size"),
        *("feedforward_modules", "fan_in_fan_out", "qalora_group_size", "ensure_weight_tying"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
        *INITIALISATIONS,
    }
)
"""Fields that readers use, or that change nothing in a merge."""


@dataclass(frozen=True)
class Scale:
    """What is stated of a module's strength: `alpha / rank`, or by the square root of the rank."""

    alpha: float | None = None  # missing means the rank
    rank: int | None = None  # missing means that of the factors
    rooted: bool = False


@dataclass(frozen=True)
class PeftConfiguration:
    """PEFT's configuration of an adapter, component by component."""

    file: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, file: WeightsFile, wanted: bool = True) -> "PeftConfiguration":
        """Read the configuration in a file's header, or beside it.

        Args:
            file: the open file.
            wanted: look beside the file, whatever it is called; else PEFT must have named it.

        Raises:
            DamagedFile: it is not what a configuration looks like.
            UnknownFormat: it says that the tensors are no sum that readers here know.
        """
        header = file.metadata
        text = header.get(PEFT_METADATA) or header.get(PEFT_FILE)
        if text is None and (wanted or file.path.name == PEFT_WEIGHTS):
            text = configuration_beside(file.path)
        if text is None:
            return cls(file.path.name)
        try:
            config = parse_strict(text)
        except ValueError as error:
            why = str(error)[:SHOWN]
            raise DamagedFile(f"{file.path.name}: its configuration is not JSON ({why})") from error
        if not isinstance(config, dict):
            raise DamagedFile(f"{file.path.name}: its configuration is not an object")
        found = cls(file.path.name, config)
        by_method_first = sorted(config.items(), key=lambda item: not item[0].endswith("peft_type"))
        for name, value in by_method_first:
            component, dot, rest = name.partition(".")
            found._demand_plain(rest if dot and component in COMPONENTS else name, value)
        return found

    def scale(self, module: str, theirs: str = "") -> Scale:
        """Return what is stated of a module's strength, by our name or the file's."""
        component, _, path = module.partition(".")
        prefix = f"{component}." if component in COMPONENTS else ""
        names = path, theirs.removeprefix(PEFT_PREFIX).removeprefix(prefix) or path
        method = self._method(prefix)
        alpha = self._stated(ALPHAS.get(method, "alpha"), "alpha_pattern", prefix, names)
        if alpha is None:
            return Scale()
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not _is_finite(alpha):
            raise DamagedFile(f"{self.file}: the alpha of {shown(module)} is not a number")
        rank = self._stated("r", "rank_pattern", prefix, names)
        if rank is not None and (not isinstance(rank, int) or not 0 < rank < 1 << 31):
            raise DamagedFile(f"{self.file}: the rank of {shown(module)} is not a number")
        return Scale(float(alpha), rank, bool(self._of(prefix, "use_rslora")))

    def settings(self, module: str) -> dict[str, Any]:
        prefix = f"{module.partition('.')[0]}."
        own = {
            name.removeprefix(prefix): value
            for name, value in self.config.items()
            if name.startswith(prefix)
        }
        return {**self.config, **own}

    def _demand_plain(self, name: str, value: Any) -> None:
        """Raise `UnknownFormat` if a field says that the tensors mean something else."""
        told = "something" if isinstance(value, dict | list) else shown(str(value))
        says = f"{self.file}: its configuration says {shown(name)[1:-1]}: {told}"
        if name == "peft_type" and value not in (None, *METHODS):
            raise UnknownFormat(f"{says}, a method of PEFT that no reader here knows")
        if name in INITIALISATIONS and value not in (None, True, False):
            if not isinstance(value, str) or value.lower() not in HARMLESS:
                raise UnknownFormat(
                    f"{says}, which changes the base or is unknown; PEFT saves it converted with "
                    "path_initial_model_for_weight_conversion"
                )
        elif name in OTHER_MODELS and value:
            raise UnknownFormat(f"{says}, so {OTHER_MODELS[name]}")
        elif name not in UNDERSTOOD and (value is True or (value and isinstance(value, dict))):
            raise UnknownFormat(f"{says}, which no reader here knows")

    def _method(self, prefix: str) -> str:
        method = self._of(prefix, "peft_type")
        if method in METHODS:
            return str(method)
        return "LORA" if self._of(prefix, "lora_alpha") is not None else ""

    def _stated(self, field: str, pattern: str, prefix: str, names: tuple[str, str]) -> Any:
        """Return a module's number: of the first pattern that means it, else of the method."""
        usual = USUAL if self._of(prefix, "peft_type") in ALPHAS else None
        by_name = self._of(prefix, pattern)
        if isinstance(by_name, dict):
            fitting = self._patterns(tuple(by_name)).first(names)
            if fitting is not None:
                return by_name[fitting]
        stated = self._of(prefix, field)
        return usual if stated is None else stated

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
    """Write PEFT's configuration of a file of our own into its header, beside the same tensors.

    So it goes wherever the weights go, and other alphas make another hash. A header that states a
    configuration stays, and so does a file that cannot be read: whoever reads it says why.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        file = open_weights(path)
        if {PEFT_METADATA, PEFT_FILE} & file.metadata.keys():
            return
        metadata = {**file.metadata, PEFT_FILE: text}
    except ExpertError:
        return
    with new_file(path) as part, path.open("rb") as source, part.open("wb") as target:
        length = int.from_bytes(source.read(LENGTH_BYTES), "little")
        header = {**json.loads(source.read(length)), "__metadata__": metadata}
        target.write(header_bytes(header))
        shutil.copyfileobj(source, target, 1 << 20)


def configuration_beside(weights: Path, inside: Path | None = None) -> str | None:
    """Return the text of PEFT's configuration of a file, if there is one.

    Args:
        weights: the file that PEFT saved.
        inside: the folder that it must be in, links followed; anywhere by default.

    Raises:
        DamagedFile: it is there and cannot be read: the strength of the weights is not known.
    """
    path = weights.with_name(PEFT_FILE)
    if not os.path.lexists(path):
        return None
    try:
        return read_foreign(path, MAX_CONFIG_BYTES, inside).decode("utf-8", errors="replace")
    except MissingInput as error:
        raise DamagedFile(f"{weights.name}: its configuration: {error}") from error


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer of hundreds of digits
        return False
