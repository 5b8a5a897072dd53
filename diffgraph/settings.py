"""Where things are: folders, keys, addresses, devices.

Read at the edges only (flows and the command line). How things are done lives in small frozen
configs beside the code that uses them.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from diffgraph.errors import MissingInput
from diffgraph.permissions import keep_private
from diffgraph.printable import guard_logs
from diffgraph.secrets import keep_environment, keep_password, keep_secret

PREFIX = "DIFFGRAPH_"
ENV_FILE = f"{PREFIX}ENV_FILE"
"""Names another file of settings."""


def default_home() -> Path:
    """Return the folder in the user's data directory where everything is kept by default."""
    return Path("~/.local/share/diffgraph").expanduser()


def settings_file() -> Path:
    """Return the file that settings are read from, besides the environment.

    It lies in the user's own configuration folder. One in the folder where a command is started is
    never read, since a folder that was downloaded can carry one: it would name the places that the
    user's keys are sent to.

    Raises:
        MissingInput: `DIFFGRAPH_ENV_FILE` names another one, and it is not there.
    """
    named = os.environ.get(ENV_FILE)
    if named:
        path = Path(named).expanduser().absolute()
        if not path.is_file():
            raise MissingInput(f"DIFFGRAPH_ENV_FILE names {path}, and no file is there")
        return path
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    folder = folder if folder.is_absolute() else Path("~/.config").expanduser()
    return folder / "diffgraph" / ".env"


class Settings(BaseSettings):
    """Settings from `DIFFGRAPH_*` variables or the user's `settings_file()`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        env_parse_none_str="null",
        hide_input_in_errors=True,  # it may be a key
    )

    home: Path = default_home()
    """The library, scores, snapshots, planners, images and reports are kept below this folder."""
    family: str = "emoji64"
    """The model family that is used when none is named."""
    bases: dict[str, str] = {}
    """Where bases are that do not ship: family -> a folder, a safetensors file or a hub's name."""
    agent: str = "offline"
    """Who reads pages and prompts: `offline` or `claude`."""
    config: Path | None = None
    """A TOML file that changes how things are done, see `--config`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    gpus: tuple[int, ...] = ()
    """GPUs that calibration and training are sharded over, one worker each."""
    scheduler: str | None = None
    """Address of a Dask scheduler; `local` starts a cluster here; unset uses this process."""
    workers: int = 1
    """Dask workers of a local cluster without GPUs."""
    runs_at_once: int = Field(default=1, ge=1)
    """Runs of Prefect's workers that are at work on a machine at a time; the others wait."""
    anthropic_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("DIFFGRAPH_ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"),
    )
    """For the agent `claude`; also read from `ANTHROPIC_API_KEY`."""
    anthropic_base_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("DIFFGRAPH_ANTHROPIC_BASE_URL", "ANTHROPIC_BASE_URL"),
    )
    """Where the Messages API is; unset means Anthropic's own."""
    claude_model: str = "claude-haiku-5-5"
    """Which model the agent `claude` asks."""
    claude_cap: float | None = Field(default=10.0, ge=0)
    """Dollars that may be spent on it within 24 hours; `null` means without a limit."""
    civitai_url: str = "https://civitai.com"
    """The hub that `--source civitai` reads; any server with the same answers will do."""
    civitai_token: SecretStr | None = None
    huggingface_url: str = "https://huggingface.co"
    """The hub that `--source huggingface` reads."""
    huggingface_token: SecretStr | None = None
    mlflow_tracking_uri: str | None = None
    """Where MLflow records runs; unset means SQLite in the home folder."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read what is given, then the environment, then the user's file; nothing else."""
        return init_settings, env_settings, _own_file(settings_cls)

    @classmethod
    def unknown(cls) -> str:
        """Return a line about variables that begin as ours do and that nothing reads; else ""."""
        known = [name.upper() for name in cls.model_fields] + [ENV_FILE.removeprefix(PREFIX)]
        given = {name.upper() for name in (*os.environ, *_own_file(cls).env_vars)}
        names = (name.removeprefix(PREFIX) for name in sorted(given) if name.startswith(PREFIX))
        named = [
            f"{PREFIX}{name}" + (f" (did you mean {PREFIX}{near[0]}?)" if near else "")
            for name in names
            if name not in known
            for near in [get_close_matches(name, known, n=1)]
        ]
        return f"no setting is called {', '.join(named)}: not read" if named else ""

    def model_post_init(self, _: Any) -> None:
        """Have every key, and the password of every address, masked wherever it may be printed."""
        guard_logs()
        keep_environment()
        keep_private(self.home)
        for _, value in self:
            if isinstance(value, SecretStr):
                keep_secret(value)
            elif isinstance(value, str) and "://" in value:
                keep_password(value)


def _own_file(settings: type[BaseSettings]) -> DotEnvSettingsSource:
    # editors of some systems put a mark before the first letter of a file
    return DotEnvSettingsSource(settings, settings_file(), env_file_encoding="utf-8-sig")
