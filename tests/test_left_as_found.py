"""What a test leaves behind is found, told and put back, whatever it is."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.left_as_found import look, put_back

ROOT = Path(__file__).parent.parent


def _environment(tmp_path):
    os.environ["DIFFGRAPH_LEFT"] = "behind"


def _removed_variable(tmp_path):
    del os.environ["HF_HUB_OFFLINE"]


def _folder(tmp_path):
    os.chdir(tmp_path)


def _path(tmp_path):
    sys.path.append(str(tmp_path))


def _arguments(tmp_path):
    sys.argv = ["diffgraph"]


def _handler(tmp_path):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _logger(tmp_path):
    logging.getLogger("diffgraph").addHandler(logging.NullHandler())


def _silence(tmp_path):
    logging.disable(logging.ERROR)


def _dtype(tmp_path):
    torch.set_default_dtype(torch.float64)


def _threads(tmp_path):
    torch.set_num_threads(torch.get_num_threads() + 1)


def _gradients(tmp_path):
    torch.set_grad_enabled(not torch.is_grad_enabled())


def _seed(tmp_path):
    torch.manual_seed(torch.initial_seed() + 1)  # noqa: TID251 (this is what must be found)


def _settings(tmp_path):
    from flows.serving.server import reread_settings

    os.environ["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    reread_settings()
    del os.environ["PREFECT_API_URL"]


CHANGES = {
    _environment: "os.environ: DIFFGRAPH_LEFT",
    _removed_variable: "os.environ: HF_HUB_OFFLINE",
    _folder: "the working directory",
    _path: "sys.path",
    _arguments: "sys.argv",
    _handler: "signal handlers: ",
    _logger: "logging: diffgraph",
    _silence: "logging: all",
    _dtype: "torch: dtype",
    _threads: "torch: threads",
    _gradients: "torch: gradients",
    _seed: "torch.random: ",
    _settings: "prefect.context: ",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_what_a_test_leaves_behind_is_told_and_put_back(change, tmp_path):
    import prefect.main  # noqa: F401 (what is not imported is not looked at)

    found = look()
    change(tmp_path)
    (told,) = put_back(found)
    assert told.startswith(CHANGES[change])
    assert look() == found


def test_a_test_that_leaves_nothing_behind_is_told_nothing():
    assert not put_back(look())


def test_a_file_that_leaves_an_address_behind_fails_and_the_file_after_it_does_not(tmp_path):
    """Whichever files share a process, and in whichever order."""
    first, second = tmp_path / "test_server.py", tmp_path / "test_refresh.py"
    first.write_text(
        "import os\ndef test_one(): os.environ['PREFECT_API_URL'] = 'http://127.0.0.1:9'"
    )
    second.write_text("import os\ndef test_two(): assert 'PREFECT_API_URL' not in os.environ")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", tmp_path / "pytest.ini", "-p", "no:randomly",
         "-p", "tests.left_as_found", first, second],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    assert "this test leaves behind: os.environ: PREFECT_API_URL" in told
    assert "2 passed, 1 error" in told
