"""How long does it take to know a whole hub by its pages, and what if the run is killed?

    nice python tests/benchmarks/registration.py [--pages 10000] [--commands]

Serves a hub of so many made-up pages over HTTP in a process of its own, in Civitai's protocol, and
runs what `diffgraph discover --source civitai --metadata-only` and the registration in `diffgraph
build` run: every page is read, every expert described offline, every card placed. With `--commands`
it runs the commands themselves, Prefect server, calibration of the base and snapshot included.
Each is killed once without warning and run again; then both are run with nothing new. Prints one
JSON document: seconds (of the clock, and on a core, for a machine that others use too), the memory
of all processes together at its highest, and counts that must agree.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SENTENCES = (
    "This {kind} was trained on {count} hand-picked pictures of {thing} at a resolution of 512.",
    "It gives {thing} a {mood} look, with {detail} and {detail}.",
    "Works well for portraits, landscapes and small objects such as {thing} or {thing}.",
    "I recommend a weight between 0.{low} and 0.{high}; above that it starts to burn.",
    "Please share what you make with it, I love to see your pictures!",
    "If you like my work, you can support me on https://coffee.example/{maker}.",
    "Put the file into models/Lora and restart the web interface.",
    "Known issue: hands may come out wrong, so use a {detail} negative prompt.",
    "Version {low} fixes the colours, which were too {mood} in the first one.",
    "Combine it with my other {kind} for {detail} to get an even more {mood} scene.",
    "Sampler: DPM++ 2M Karras, {count} steps, CFG {low}, hires fix with 0.{high} denoising.",
    "The background turns {mood}, full of {detail}, whatever the prompt says.",
    "Inspired by old {thing} illustrations and by {detail} in the evening.",
    "It also knows {thing}, {thing} and {thing}, which the base model never drew well.",
    "Ne pas utiliser à des fins commerciales. 商用利用はご遠慮ください。",
)
WORDS = {
    "kind": ("LoRA", "style", "concept", "model"),
    "mood": ("dreamy", "dark", "soft", "vivid", "nostalgic", "cold", "golden", "quiet", "wild"),
    "detail": (
        "thick brush strokes", "glowing edges", "falling snow", "paper texture", "film grain",
        "rim light", "long shadows", "mist", "tiny flowers", "rain on glass", "gold leaf",
    ),
    "thing": (
        "foxes", "lighthouses", "robots", "teapots", "castles", "whales", "owls", "ships", "trees",
        "mushrooms", "trains", "knights", "cats", "lanterns", "mountains", "dragons",
    ),
}  # fmt: skip
PART = 0.4  # of the work is done when a run is killed
SECONDS = 0.2  # between two looks at the memory


def description(number: int) -> str:
    """Return 1 to 3 KB of HTML, as people write about what they made; always the same."""
    chance = random.Random(number)

    def filled(sentence: str) -> str:
        while "{" in sentence:
            start, _, rest = sentence.partition("{")
            name, _, rest = rest.partition("}")
            choices = WORDS.get(name) or [str(chance.randint(2, 9))]
            sentence = start + chance.choice(choices) + rest
        return sentence

    wanted, told = chance.randint(1000, 3000), ""
    while len(told) < wanted:
        some = chance.sample(SENTENCES, chance.randint(1, 4))
        told += f"<p>{' '.join(map(filled, some))}</p>"
    return told


def pages(count: int) -> Iterator[dict[str, Any]]:
    """Yield the hub's pages; one in ten has something that rules it out."""
    from tests.servers.civitai_pages import pages as short_pages

    for page in short_pages(count):
        yield page | {"description": page["description"] + description(page["id"])}


def serve(count: int) -> None:
    """Serve until the standard input ends."""
    from tests.servers.civitai import CivitaiServer

    with CivitaiServer(pages(count)) as hub:
        sys.stdout.write(f"{hub.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


@contextmanager
def served(count: int) -> Iterator[str]:
    """Yield the address of a hub that is served by another process."""
    command = [sys.executable, __file__, "--serve", "--pages", str(count)]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.stdin.close()
        server.wait(10)


class Run:
    """One command, watched until it ends or is killed."""

    def __init__(self, home: Path, *command: str) -> None:
        self.peak = 0  # bytes of all its processes together
        self.cpu: dict[int, float] = {}  # seconds on a core, by process
        self.was_killed = False
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        self._begun = time.monotonic()
        self._out = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, *command, "--home", str(home)],
            cwd=ROOT,
            env=environment,
            stdout=self._out,
            start_new_session=True,
        )

    def watch(self, is_enough: Callable[[], bool] = lambda: False) -> "Run":
        """Wait for the end; kill it, with all it has started, as soon as it has done enough."""
        while self._process.poll() is None:
            self._measure()
            if is_enough():
                os.killpg(self._process.pid, signal.SIGKILL)
                self.was_killed = True
                self._process.wait()
            time.sleep(SECONDS)
        self.seconds = round(time.monotonic() - self._begun, 1)
        if self._process.returncode and not self.was_killed:
            raise SystemExit(f"{self._process.args} ended with {self._process.returncode}")
        cpu, killed = round(sum(self.cpu.values()), 1), "killed after " if self.was_killed else ""
        sys.stderr.write(f"{killed}{self.seconds} s, {cpu} s on a core, {self.peak >> 20} MiB\n")
        return self

    @property
    def told(self) -> Any:
        """What it printed."""
        self._out.seek(0)
        return json.loads(self._out.read())

    def _measure(self) -> None:
        try:
            top = psutil.Process(self._process.pid)
            together = [top, *top.children(recursive=True)]
            self.peak = max(self.peak, sum(each.memory_info().rss for each in together))
            self.cpu |= {each.pid: sum(each.cpu_times()[:2]) for each in together}
        except psutil.NoSuchProcess:
            return


def lines(path: Path) -> int:
    """Return how many lines a file has."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def measure(count: int, home: Path, as_commands: bool) -> dict[str, Any]:
    """Return the figures of a hub of so many pages."""
    library, vectors = home / "library/experts.jsonl", home / "embeddings/vectors.jsonl"
    with served(count) as url:
        discover: tuple[str, ...] = (__file__, "--stage", "discover", "--url", url)
        register: tuple[str, ...] = (__file__, "--stage", "register")
        if as_commands:
            verb = ("-m", "flows.cli")
            where = ("--source", "civitai", "--url", url)
            discover = (*verb, "discover", *where, "--metadata-only", "--json")
            register = (*verb, "build", "--json")
        runs = {
            "discover, killed": Run(home, *discover).watch(lambda: lines(library) >= PART * count),
            "discover, resumed": Run(home, *discover).watch(),
            "register, killed": Run(home, *register).watch(lambda: lines(vectors) >= PART * count),
            "register, resumed": Run(home, *register).watch(),
        }
        first = sum(run.seconds for run in runs.values())
        again = {
            "discover, nothing new": Run(home, *discover).watch(),
            "register, nothing new": Run(home, *register).watch(),
        }
    told = {name: run.told for name, run in again.items()}
    everything = {**runs, **again}
    return {
        "pages": count,
        "seconds": {name: run.seconds for name, run in everything.items()},
        "first_seconds": round(first, 1),
        "again_seconds": round(sum(run.seconds for run in again.values()), 1),
        "cpu_seconds": {name: round(sum(run.cpu.values()), 1) for name, run in everything.items()},
        "load_average": os.getloadavg()[1],  # of all there is on the machine, at the end
        "peak_mib": {name: run.peak >> 20 for name, run in everything.items()},
        "killed": [name for name, run in everything.items() if run.was_killed],
        "experts": counts(home, as_commands),
        "again": {
            "found": len(told["discover, nothing new"]["new"]),
            "asked": told["register, nothing new"]["asked"],
            "embedded": told["register, nothing new"]["embedded"],
        },
    }


def counts(home: Path, has_snapshot: bool) -> dict[str, Any]:
    """Return how many experts are known and registered; raise if one is lost or there twice."""
    from diffgraph.agents import OfflineAgent
    from diffgraph.experts.library import Library
    from diffgraph.graph.embedding_store import EmbeddingStore
    from diffgraph.graph.registration import Cards
    from diffgraph.graph.snapshot import open_snapshot
    from diffgraph.homes import family_folder

    known = Library(home).experts()
    rows = lines(home / "library/experts.jsonl")
    kept = [expert for expert in known if expert.status in {"ready", "registered_only"}]
    cards, places = Cards(home / "cards"), EmbeddingStore(home / "embeddings")
    found = [cards.find(expert.page_sha256, OfflineAgent()) for expert in kept]
    registered = sum(card is not None and card.text in places for card in found)
    if registered != len(kept):
        raise SystemExit(f"{registered} of {len(kept)} experts are registered")
    if has_snapshot:
        nodes = open_snapshot(family_folder(home, "emoji64")).nodes["ref"].to_pylist()
        if sorted(nodes) != [expert.ref for expert in kept]:
            raise SystemExit(f"{len(nodes)} nodes for {len(kept)} experts")
    return {
        "known": len(known),
        "rows": rows,  # as many, if nobody was written twice
        "by_status": dict(Counter(expert.status for expert in known)),
        "registered": registered,
    }


def do(stage: str, home: Path, url: str) -> None:
    """Do what a command does, without its server; print what came of it."""
    from diffgraph.session.building import GraphBuilder, register
    from diffgraph.session.hubs import Hub
    from tasks.discovery import look_at_hub

    if stage == "discover":
        hub = Hub(source="civitai", url=url)
        told: Any = look_at_hub.fn(hub, home, "emoji64", metadata_only=True)
        sys.stdout.write(told.model_dump_json())
        return
    builder = GraphBuilder(home, "emoji64")
    left = builder.unregistered()
    parts = [left[start : start + 500] for start in range(0, len(left), 500)]
    done = [register(builder, part) for part in parts]
    sums = {name: sum(getattr(part, name) for part in done) for name in ("asked", "embedded")}
    json.dump(sums, sys.stdout)


def main() -> None:
    """Measure and print, or serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--serve", action="store_true", help="only serve the hub")
    parser.add_argument("--home", type=Path, help="keep the home folder here")
    parser.add_argument("--commands", action="store_true", help="run the commands themselves")
    parser.add_argument("--stage", choices=("discover", "register"), help="do only this")
    parser.add_argument("--url", default="", help="where the hub is, of a stage")
    given = parser.parse_args()
    if given.stage:
        do(given.stage, given.home, given.url)
        return
    if given.serve:
        serve(given.pages)
        return
    from tests.benchmarks.measuring import tell

    with tempfile.TemporaryDirectory() as folder:
        tell("registration", measure(given.pages, given.home or Path(folder), given.commands))


if __name__ == "__main__":
    main()
