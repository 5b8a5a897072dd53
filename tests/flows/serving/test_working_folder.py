"""The folder in which a command is started may be a stranger's: it decides nothing."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from diffgraph.errors import MissingInput
from diffgraph.session.hubs import Hub, _token_for
from diffgraph.settings import Settings
from flows.serving.working_folder import ignored, keep_out, read_no_relative_settings
from tests.waiting import PATIENCE

OURS = "\n".join(
    f"{name}=http://thief.example"
    for name in (
        "DIFFGRAPH_ANTHROPIC_BASE_URL",
        "ANTHROPIC_BASE_URL",
        "DIFFGRAPH_CIVITAI_URL",
        "DIFFGRAPH_HUGGINGFACE_URL",
        "DIFFGRAPH_SCHEDULER",
        "DIFFGRAPH_MLFLOW_TRACKING_URI",
        "DIFFGRAPH_HOME",
        "DIFFGRAPH_CONFIG",
        "DIFFGRAPH_AGENT",
        "DIFFGRAPH_ENV_FILE",
    )
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A downloaded folder, in which we are; and a user without settings of their own."""
    here = tmp_path / "downloaded"
    here.mkdir()
    (tmp_path / "me").mkdir()
    monkeypatch.chdir(here)
    for name in list(os.environ):
        if name.startswith(("DIFFGRAPH_", "ANTHROPIC_", "PREFECT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "me" / "config"))
    return here


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "me" / "config" / "diffgraph" / ".env"
    path.parent.mkdir(parents=True)
    return path


def test_its_env_file_sets_nothing(folder, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "my-own-key")
    before = Settings()
    (folder / ".env").write_text(OURS)
    assert Settings() == before
    assert "thief" not in before.model_dump_json()


def test_its_env_file_is_told(folder):
    (folder / ".env").write_text(f"A=1\nexport {OURS}\nPREFECT_API_URL=x\nDIFFGRAPH_\x1b[2J=1")
    (line,) = ignored()
    assert str(folder / ".env") in line
    assert "DIFFGRAPH_ANTHROPIC_BASE_URL, ANTHROPIC_BASE_URL" in line
    assert "PREFECT_API_URL" in line
    assert "config/diffgraph/.env" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("text", ["", "COLOUR=red\n# DIFFGRAPH_HOME=/x", "\x00\xff"])
def test_what_would_change_nothing_is_not_told(folder, text):
    (folder / ".env").write_text(text)
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.ruff]\n')
    assert list(ignored()) == []


def test_files_that_are_none_hold_nobody_up(folder):
    os.mkfifo(folder / ".env")
    (folder / "prefect.toml").symlink_to("/dev/zero")
    (folder / "pyproject.toml").mkdir()
    assert list(ignored()) == []


def test_the_users_own_file_is_read(folder, own_file):
    own_file.write_text("DIFFGRAPH_CIVITAI_URL=http://mirror.example\nANTHROPIC_API_KEY=mine-alone")
    assert Settings().civitai_url == "http://mirror.example"
    key = Settings().anthropic_api_key
    assert key is not None
    assert key.get_secret_value() == "mine-alone"


def test_a_mark_before_the_first_letter_hides_no_setting(folder, own_file):
    own_file.write_text("DIFFGRAPH_FAMILY=mine\r\nexport DIFFGRAPH_AGENT='claude'\r\n", "utf-8-sig")
    assert (Settings().family, Settings().agent) == ("mine", "claude")
    (folder / ".env").write_text("DIFFGRAPH_FAMILY=theirs", "utf-8-sig")
    assert "sets DIFFGRAPH_FAMILY, and is not read" in next(ignored())
    assert Settings().family == "mine"


def test_another_file_is_read_where_the_user_says_so(folder, own_file, monkeypatch):
    own_file.write_text("DIFFGRAPH_FAMILY=sd15")
    (folder / ".env").write_text("DIFFGRAPH_FAMILY=flux")
    monkeypatch.setenv("DIFFGRAPH_ENV_FILE", ".env")
    read_no_relative_settings()
    assert Settings().family == "flux"
    assert list(ignored()) == []
    monkeypatch.setenv("DIFFGRAPH_ENV_FILE", "nowhere.env")
    with pytest.raises(MissingInput, match=r"nowhere\.env"):
        Settings()


def test_names_of_settings_that_nothing_reads_are_told_in_one_line(folder, own_file, monkeypatch):
    assert Settings.unknown() == ""
    own_file.write_text("DIFFGRAPH_FAMILY=sd15\nDIFFGRAPH_GPU=0\nOTHER=1")
    monkeypatch.setenv("DIFFGRAPH_ENV_FILE", str(own_file))
    monkeypatch.setenv("DIFFGRAPH_HOEM", "a-secret")
    monkeypatch.setenv("diffgraph_workers", "2")
    monkeypatch.setenv("DIFFGRAPH_XYZZY", "a-secret")
    told = Settings.unknown()
    assert "DIFFGRAPH_GPU (did you mean DIFFGRAPH_GPUS?)" in told
    assert "DIFFGRAPH_HOEM (did you mean DIFFGRAPH_HOME?), DIFFGRAPH_XYZZY: not read" in told
    assert told.isprintable()
    assert not [word for word in ("FAMILY", "WORKERS", "secret", "OTHER") if word in told]


def test_the_command_tells_them(diffgraph, folder, monkeypatch):
    monkeypatch.setenv("DIFFGRAPH_HOEM", "x")
    told = diffgraph("plan", "a cat", "--method", "magic")
    assert "DIFFGRAPH_HOEM (did you mean DIFFGRAPH_HOME?)" in told.err.splitlines()[0]


def test_a_relative_configuration_folder_is_none(folder, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", ".")
    (folder / "diffgraph").mkdir()
    (folder / "diffgraph" / ".env").write_text(OURS)
    assert "thief" not in Settings().model_dump_json()


def test_a_setting_that_cannot_be_used_is_not_repeated_since_it_may_be_a_key(folder, own_file):
    own_file.write_text("DIFFGRAPH_WORKERS=sk-ant-in-the-wrong-line")
    with pytest.raises(ValidationError) as failed:
        Settings()
    assert "workers" in str(failed.value)
    assert "wrong-line" not in str(failed.value)


class TestPrefect:
    """It reads `.env`, `prefect.toml` and `pyproject.toml` where it is started, if it is let."""

    @pytest.fixture(autouse=True)
    def _kept_out(self, folder, tmp_path):
        before = dict(os.environ)
        keep_out(tmp_path / "home")
        yield
        os.environ.clear()
        os.environ.update(before)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            (".env", "PREFECT_API_URL=http://thief.example\nPREFECT_LOGGING_SETTINGS_PATH=x.yml"),
            ("prefect.toml", '[api]\nurl = "http://thief.example"\n[logging]\nlevel = "ERROR"'),
            ("prefect.toml", "is no TOML ["),
            ("pyproject.toml", '[tool.prefect.api]\nurl = "http://thief.example"'),
            ("pyproject.toml", "is no TOML ["),
            (".env", "PREFECT_PROFILES_PATH=profiles.toml"),
            ("prefect.toml", 'profiles_path = "profiles.toml"'),
            ("pyproject.toml", '[tool.prefect]\nprofiles_path = "profiles.toml"'),
        ],
    )
    def test_is_configured_by_the_environment_alone(self, folder, name, text):
        from prefect.settings import Settings as Prefects

        before = Prefects().model_dump(mode="json")
        (folder / "profiles.toml").write_text(
            'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://thief.example"'
        )
        (folder / name).write_text(text)
        assert Prefects().model_dump(mode="json") == before
        assert "thief" not in str(before)

    def test_is_still_configured_by_the_user(self, folder, tmp_path, monkeypatch):
        from prefect.settings import Settings as Prefects

        monkeypatch.setenv("PREFECT_API_URL", "http://mine.example/api")
        assert Prefects().api.url == "http://mine.example/api"
        profiles = tmp_path / "home" / "prefect" / "profiles.toml"
        profiles.parent.mkdir(parents=True)
        profiles.write_text('active = "a"\n[profiles.a]\nPREFECT_LOGGING_LEVEL = "ERROR"')
        assert Prefects().logging.level == "ERROR"

    def test_files_that_configure_it_are_told(self, folder):
        (folder / "prefect.toml").write_text('[api]\nurl = "http://thief.example"')
        (folder / "pyproject.toml").write_text("[tool.prefect.logging]\nlevel = 'DEBUG'")
        first, second = ignored()
        assert str(folder / "prefect.toml") in first
        assert str(folder / "pyproject.toml") in second


@pytest.mark.parametrize("before", ["", None], ids=["empty", "unset"])
def test_processes_that_we_start_do_not_look_for_code_where_they_are(
    folder, tmp_path, monkeypatch, before
):
    import multiprocessing

    monkeypatch.setenv("PYTHONSAFEPATH", "")  # which Python takes for unset
    if before is None:
        del os.environ["PYTHONSAFEPATH"]
    monkeypatch.setenv("PREFECT_PROFILES_PATH", "")
    keep_out(tmp_path / "home")
    for name in ("types", "json", "multiprocessing"):
        (folder / f"{name}.py").write_text("raise SystemExit('a stranger runs')")
    child = multiprocessing.get_context("spawn").Process(target=os.getcwd)
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0
    told = subprocess.run([sys.executable, "-m", "json", "-h"], capture_output=True, text=True)
    assert "stranger" not in told.stderr


class TestTokens:
    """They are for the address in the settings."""

    SETTINGS = Settings(civitai_token="t-civitai", huggingface_token="t-hugging")

    @pytest.mark.parametrize(
        ("source", "url"),
        [("civitai", "https://civitai.com"), ("huggingface", "https://huggingface.co/sub")],
    )
    def test_are_sent_there(self, source, url):
        assert _token_for(Hub(source=source, url=url), self.SETTINGS) is not None

    @pytest.mark.parametrize(
        "url",
        [
            "https://thief.example",
            "http://civitai.com",
            "https://civitai.com:8443",
            "https://civitai.com.thief.example",
            "https://huggingface.co",
        ],
    )
    def test_are_not_sent_to_an_address_that_a_run_names(self, url, caplog):
        with caplog.at_level(logging.WARNING):
            assert _token_for(Hub(source="civitai", url=url), self.SETTINGS) is None
        assert url in caplog.text
        assert "DIFFGRAPH_CIVITAI_URL" in caplog.text

    def test_are_sent_where_the_command_line_says(self, diffgraph, tmp_path, monkeypatch):
        from diffgraph.session import hubs

        monkeypatch.setenv("DIFFGRAPH_CIVITAI_TOKEN", "t-civitai")
        asked = []
        monkeypatch.setattr(hubs, "hub_of", lambda *a: asked.append(Settings()) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            diffgraph("discover", "--source", "civitai", "--url", "http://m.example", "--home", "h")
        hub = Hub(source="civitai", url="http://m.example")
        assert _token_for(hub, asked[0]) is not None


def test_the_command_tells_what_it_does_not_read(diffgraph, folder):
    (folder / ".env").write_text("DIFFGRAPH_FAMILY=sd9")
    told = diffgraph("plan", "a cat")
    assert told.code == 0, told.err
    assert "DIFFGRAPH_FAMILY" in told.err
    assert Path(".env").exists()


def test_every_command_closes_a_home_that_others_could_read(tmp_path, diffgraph):
    home = tmp_path / "home"
    (home / "scores").mkdir(parents=True)
    for path in (home, home / "scores"):
        path.chmod(0o755)
    assert diffgraph("plan", "a cat", "--home", home, "--method", "magic").code == 1
    assert [path.stat().st_mode & 0o777 for path in (home, home / "scores")] == [0o700, 0o700]
