"""Agents made from the settings, and what their answers cost."""

from pathlib import Path

import pytest

from diffgraph.agents import AGENTS, ClaudeAgent, OfflineAgent
from diffgraph.errors import InputError, ServiceRefused
from diffgraph.experts.expert import ExpertRef, Listing
from diffgraph.session.agents import ANSWERS, make_agent, spent_since
from diffgraph.settings import Settings
from flows.cli.doctor import examine
from flows.cli.options import AgentName
from tests.servers.messages_api import KEY, MessagesApi

PAGE = Listing(ref=ExpertRef(source="hub", model="1", version="1"), name="Snow")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "BASE_URL"):
        monkeypatch.delenv(f"ANTHROPIC_{name}", raising=False)
        monkeypatch.delenv(f"DIFFGRAPH_ANTHROPIC_{name}", raising=False)


@pytest.mark.parametrize("prefix", ["", "DIFFGRAPH_"])
def test_claude_is_reached_as_the_settings_say(tmp_path, monkeypatch, prefix):
    with MessagesApi() as api:
        monkeypatch.setenv(f"{prefix}ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv(f"{prefix}ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("DIFFGRAPH_CLAUDE_MODEL", "claude-sonnet-5-5")
        monkeypatch.setenv("DIFFGRAPH_CLAUDE_CAP", "null")
        agent = make_agent("claude", "emoji64", tmp_path)
        assert isinstance(agent, ClaudeAgent)
        assert agent.describe(PAGE).model == "claude-sonnet-5-5"
    assert agent.ledger.cap is None
    spent = spent_since(tmp_path, 0)
    assert (spent.answers, spent.dollars > 0) == (1, True)
    assert KEY not in "".join(
        file.read_text() for file in (tmp_path / ANSWERS).rglob("*") if file.is_file()
    )


def test_a_config_file_says_how(tmp_path, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text("[claude]\ntries = 1\n")
    monkeypatch.setenv("DIFFGRAPH_CONFIG", str(config))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-wrong-key")
    with MessagesApi() as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        with pytest.raises(ServiceRefused) as caught:
            make_agent("claude", "emoji64", tmp_path).describe(PAGE)
    assert "sk-ant-wrong" not in str(caught.value)


def test_the_command_offers_every_agent_there_is():
    assert {agent.value for agent in AgentName} == set(AGENTS)


def test_without_a_key_claude_is_not_made(tmp_path):
    with pytest.raises(InputError, match="ANTHROPIC_API_KEY"):
        make_agent("claude", "emoji64", tmp_path)
    assert isinstance(make_agent("offline", "emoji64", tmp_path), OfflineAgent)


def test_example_images_of_the_bundled_hub_are_shown(tmp_path, monkeypatch):
    from diffgraph.crawlers.folder import FolderCrawler
    from diffgraph.families import get_family

    hub = FolderCrawler(Path(str(get_family("emoji64").hub)))
    page = next(p for p in hub.listings() if isinstance(p, Listing) and p.images)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with MessagesApi() as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        make_agent("claude", "emoji64", tmp_path).describe(page)
    kinds = [block["type"] for block in api.bodies[0]["messages"][0]["content"]]
    assert kinds.count("image") >= 1


@pytest.mark.parametrize(
    ("key", "model", "status", "told"),
    [
        (None, "claude-haiku-5-5", "problem", "ANTHROPIC_API_KEY unset"),
        (KEY, "claude-haiku-5-5", "ok", "ANTHROPIC_API_KEY set"),
        (KEY, "claude-tomorrow", "note", "no price is known of claude-tomorrow"),
    ],
)
def test_the_doctor_says_whether_the_key_is_there(tmp_path, monkeypatch, key, model, status, told):
    import flows.cli.doctor

    monkeypatch.setattr(flows.cli.doctor, "LOOKS", {"keys": flows.cli.doctor.LOOKS["keys"]})
    settings = Settings(home=tmp_path, agent="claude", anthropic_api_key=key, claude_model=model)
    (check,) = [check for check in examine(settings).checks if check.name == "keys"]
    assert (check.status, told in check.found) == (status, True)
    assert KEY not in check.model_dump_json()
