"""Runs the commands of a document's `console` blocks and pastes what they print.

    python docs/remake.py README.md

A document is one terminal session, which starts in an empty folder with an empty home: lines that
start with `$ ` are run one after the other, and everything between them is replaced.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
PROMPT = "$ "
LONGEST = 40  # lines of one command: the rest is cut, and said so


def remake(document: Path) -> None:
    """Replace the output of every command of a document."""
    text = document.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        fresh = BLOCK.sub(lambda found: _session(found[0], Path(folder)), text)
    document.write_text(fresh, encoding="utf-8")


def _session(block: str, folder: Path) -> str:
    commands = [line[2:] for line in block.splitlines() if line.startswith(PROMPT)]
    return "".join(f"{PROMPT}{command}\n{_output(command, folder)}" for command in commands)


def _output(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    home = str(folder / "home")
    environment = {**os.environ, "PATH": path, "DIFFGRAPH_HOME": home, "COLUMNS": "100"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{command}\nended with {done.returncode}: {done.stderr}")
    lines = [line.rstrip().replace(f"{folder}/", "") for line in done.stdout.splitlines()]
    if len(lines) > LONGEST:
        lines[LONGEST:] = [f"… and {len(lines) - LONGEST} more lines"]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        remake(Path(name))
