"""Is everything there that the command needs? Looks at each thing, and says what to do."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from typing import Literal

from diffgraph.results import Result, Rows, rows
from diffgraph.settings import Settings

GIBIBYTE = 1 << 30
LITTLE_ROOM = 2 * GIBIBYTE
SHOWN = ("torch", "diffusers", "transformers", "prefect", "mlflow", "duckdb", "pyarrow")


class Check(Result):
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


class Examination(Result):
    """All that was looked at."""

    checks: tuple[Check, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is in the way."""
        return all(check.status != "problem" for check in self.checks)

    def lines(self) -> Iterator[str | Rows]:
        """Yield a table, then what to do."""
        yield rows(("", "what", "found"), [(c.status, c.name, c.found) for c in self.checks])
        for check in self.checks:
            if check.advice:
                yield f"{check.name}: {check.advice}"
        yield "all well" if self.is_healthy else "something is in the way, see above"


def examine(settings: Settings, is_thorough: bool = False) -> Examination:
    """Look at everything; what cannot be looked at is a problem like any other."""
    checks: list[Check] = []
    library = partial(_library, is_thorough=is_thorough)
    looks: dict[str, Callable[[Settings], Finding]] = {**LOOKS, "library": library}
    for name, look in looks.items():
        try:
            status, found, advice = look(settings)
        except Exception as error:  # one failed check must not end the others
            status, found, advice = "problem", f"{type(error).__name__}: {error}", "see above"
        checks.append(Check(name=name, status=status, found=found, advice=advice))
    return Examination(checks=tuple(checks))


Finding = tuple[Literal["ok", "note", "problem"], str, str]


def _python(settings: Settings) -> Finding:
    found = f"{platform.python_version()} in {sys.prefix}"
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return "ok", found, ""
    return "problem", found, "use Python 3.11, 3.12 or 3.13"


def _packages(settings: Settings) -> Finding:
    missing = []
    found = []
    for name in SHOWN:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return "problem", f"missing: {', '.join(missing)}", "run `make setup`"
    return "ok", ", ".join(found), ""


def _torchvision(settings: Settings) -> Finding:
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return "ok", "absent, as it should be", ""
    except Exception as error:
        return "problem", f"broken: {error}", "uninstall it: it breaks diffusers, we do not need it"
    return "note", "installed, and not needed", ""


def _device(settings: Settings) -> Finding:
    import torch  # what sees the devices

    asked = settings.device
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return "ok", f"{asked}: {', '.join(names)}", ""
    if asked.startswith("cuda") or settings.gpus:
        return "problem", "no GPU can be used", "unset DIFFGRAPH_DEVICE and DIFFGRAPH_GPUS"
    return "ok", f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads", ""


def _home(settings: Settings) -> Finding:
    home = settings.home
    nearest = next(place for place in (home, *home.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return (
            "problem",
            f"{home} cannot be written: {error.strerror}",
            "choose another with --home or DIFFGRAPH_HOME",
        )
    return "ok", f"{home}{'' if home.exists() else ' (made when first needed)'}", ""


def _library(settings: Settings, is_thorough: bool) -> Finding:
    from diffgraph.experts.library import Library

    library = Library(settings.home)
    damaged = library.set_damaged_weights_aside(is_thorough)
    how = "every byte read" if is_thorough else "sizes looked at; --thorough reads every byte"
    found = f"{len(library.experts())} experts, {how}"
    if damaged:
        advice = f"damaged weights of {', '.join(damaged)}: `diffgraph discover` brings them again"
        return "problem", found, advice
    return "ok", found, ""


def _disk(settings: Settings) -> Finding:
    home = settings.home
    nearest = next(place for place in (home, *home.parents) if place.exists())
    free = shutil.disk_usage(nearest).free
    found = f"{free / GIBIBYTE:.1f} GiB free at {nearest}"
    return ("ok", found, "") if free > LITTLE_ROOM else ("note", found, "make room: it fills up")


def _family(settings: Settings) -> Finding:
    from diffgraph.families import get_family

    family = get_family(settings.family)
    if family.assets is None:
        return "note", f"{family.title}: nothing is bundled", "discover a hub of your own"
    wanted = ("base", "hub", "scorers", "prompts", "snapshot", "planner")
    missing = [name for name in wanted if not (family.assets / name).exists()]
    if missing:
        return (
            "problem",
            f"missing below {family.assets}: {', '.join(missing)}",
            "reinstall diffgraph: they come with it",
        )
    weight = sum(file.stat().st_size for file in family.assets.rglob("*") if file.is_file())
    return "ok", f"{family.title}: {', '.join(wanted)}, {weight / 1e6:.0f} MB", ""


def _embeddings(settings: Settings) -> Finding:
    from diffgraph.graph.embedding import TextEmbedder

    return "ok", f"all-MiniLM-L6-v2, {TextEmbedder().embed(['hello']).shape[1]} numbers a text", ""


def _prefect(settings: Settings) -> Finding:
    import urllib.error
    import urllib.request

    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return "ok", "no PREFECT_API_URL: a server of our own is started when needed", ""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return "ok", address, ""
    except (urllib.error.URLError, OSError, ValueError) as error:
        return (
            "problem",
            f"{address} does not answer: {error}",
            "start it, or unset PREFECT_API_URL",
        )


def _mlflow(settings: Settings) -> Finding:
    return "ok", settings.mlflow_tracking_uri or f"sqlite:///{settings.home}/mlflow.db", ""


def _keys(settings: Settings) -> Finding:
    from diffgraph.agents.spending import price_of

    keys = {
        "ANTHROPIC_API_KEY": settings.anthropic_api_key,
        "DIFFGRAPH_CIVITAI_TOKEN": settings.civitai_token,
    }
    found = ", ".join(f"{name} {'set' if value else 'unset'}" for name, value in keys.items())
    if settings.agent == "claude":
        if settings.anthropic_api_key is None:
            return "problem", found, "the agent `claude` needs ANTHROPIC_API_KEY"
        if price_of(settings.claude_model) is None:
            advice = "its costs are counted in tokens; the cap takes it for the dearest model"
            return "note", f"{found}; no price is known of {settings.claude_model}", advice
    return "ok", f"{found} (none is needed for the bundled family)", ""


def _extensions(settings: Settings) -> Finding:
    from diffgraph.baselines import BASELINES
    from diffgraph.experts.formats import FORMATS
    from diffgraph.scoring import SCORERS
    from diffgraph.session.hubs import HUBS

    found = [one for table in (SCORERS, BASELINES, FORMATS, HUBS) for one in table.extensions()]
    told = [f"{one.name} of {one.package}" for one in found if not one.problem]
    broken = [f"{one.name} of {one.package}: {one.problem}" for one in found if one.problem]
    status: Literal["ok", "problem"] = "problem" if broken else "ok"
    return status, ", ".join(told) or "none", "; ".join(broken)


LOOKS: dict[str, Callable[[Settings], Finding]] = {
    "python": _python,
    "packages": _packages,
    "extensions": _extensions,
    "torchvision": _torchvision,
    "device": _device,
    "home": _home,
    "disk": _disk,
    "family": _family,
    "embeddings": _embeddings,
    "prefect": _prefect,
    "mlflow": _mlflow,
    "keys": _keys,
}
"""What is looked at, in the order it is told."""
