"""What does this run do otherwise than the defaults? A TOML file with a table a config.

How things are done lives in small frozen configs beside the code that uses them. A file given with
`--config`, or named by `DIFFGRAPH_CONFIG`, changes single values of them:

    [calibration]
    prompts = 24

    [sampler]
    steps = 20
"""

import tomllib
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from diffgraph.errors import InputError, MissingInput
from diffgraph.foreign_files import read_foreign

Config = TypeVar("Config", bound=BaseModel)
MOST_BYTES = 1 << 20


class Overrides(BaseModel, frozen=True):
    """What a file changes: table → key → value, all of them checked."""

    tables: dict[str, dict[str, Any]] = {}

    def of(self, config: Config, **asked: Any) -> Config:
        """Return a config with this file's changes and, before them, what was asked for.

        Args:
            config: what to change.
            asked: by name; None where nothing was asked for.

        Raises:
            InputError: a value cannot be.
        """
        changes = dict(self.tables.get(table_of(type(config)), {}))
        changes |= {name: value for name, value in asked.items() if value is not None}
        if not changes:
            return config
        try:
            return type(config).model_validate({**dict(config), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"{where} = {first['input']!r}: {first['msg']}") from error

    def get(self, table: str, key: str, default: Any) -> Any:
        """Return one value of the file, or else the default."""
        return self.tables.get(table, {}).get(key, default)


NO_OVERRIDES = Overrides()


def configs() -> dict[str, type[BaseModel]]:
    """Return what can be changed, by the name of its table."""
    from diffgraph.agents.messages import ClaudeConfig
    from diffgraph.crawlers.content import ContentConfig
    from diffgraph.crawlers.downloads import DownloadConfig
    from diffgraph.crawlers.examining import DiscoveryConfig
    from diffgraph.crawlers.web import WebConfig
    from diffgraph.evaluation.harness import EvaluationConfig
    from diffgraph.families.family import SamplerConfig
    from diffgraph.graph.calibration import CalibrationConfig
    from diffgraph.planner.search import SearchConfig
    from diffgraph.planner.selection import SelectionConfig
    from diffgraph.planner.training import TrainingConfig
    from diffgraph.planner.vgae import VGAEConfig

    found = (CalibrationConfig, ClaudeConfig, ContentConfig, DiscoveryConfig, DownloadConfig,
             EvaluationConfig, SamplerConfig, SearchConfig, SelectionConfig, TrainingConfig,
             VGAEConfig, WebConfig)  # fmt: skip
    return {table_of(config): config for config in found}


def table_of(config: type[BaseModel]) -> str:
    """Return the name of a config's table: `training` for `TrainingConfig`."""
    return config.__name__.removesuffix("Config").lower()


def keys_of(config: type[BaseModel]) -> tuple[str, ...]:
    """Return the values of a config that a file may change; a config in it has its own table."""
    return tuple(
        name
        for name, field in config.model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
    )


def read_overrides(path: Path | None) -> Overrides:
    """Return what a file changes; nothing without one.

    Raises:
        MissingInput: the file is not there.
        InputError: it is not TOML, or names a table or key that does not exist, or a value that
            cannot be.
    """
    if path is None:
        return NO_OVERRIDES
    if not path.exists():
        raise MissingInput(f"no config file at {path}")
    try:
        tables = tomllib.loads(read_foreign(path, MOST_BYTES).decode("utf-8-sig"))
    except MissingInput as error:
        raise MissingInput(f"the config file {path}: {error}") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply for a config file") from None
    except ValueError as error:  # also undecodable text
        raise InputError(f"{path} is not TOML: {error}") from error
    known = configs()
    for name, values in tables.items():
        if name not in known or not isinstance(values, dict):
            raise InputError(f"{path}: there is no table [{name}]; there is {', '.join(known)}")
        _check(path, name, values, known[name])
    return Overrides(tables=tables)


def _check(path: Path, table: str, values: dict[str, Any], config: type[BaseModel]) -> None:
    keys = keys_of(config)
    for key, value in values.items():
        if any(isinstance(number, float) and not isfinite(number) for number in _flat(value)):
            raise InputError(f"{path}: [{table}] {key} = {value}: expected finite numbers")
        if key not in keys:
            raise InputError(f"{path}: [{table}] has no {key!r}; it has {', '.join(keys)}")
    try:
        config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: [{table}] {where} = {first['input']!r}: {first['msg']}"
        ) from error


def _flat(value: Any) -> Iterator[Any]:
    """Yield a value, or those in a list."""
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value
