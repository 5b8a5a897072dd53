"""Weights come checked, and at the strength that is stated beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from diffgraph.crawlers.discovery import DiscoveryConfig
from diffgraph.experts.reading import open_delta
from tests.diffgraph.crawlers.home import TOKEN
from tests.diffgraph.crawlers.huggingface.crawls import LAYER, PARAMETERS, HuggingFaceHome, reasons
from tests.servers.huggingface import HuggingFaceServer, repository

WEIGHTS = save(
    {f"{LAYER}.lora_A.weight": torch.ones(1, 4), f"{LAYER}.lora_B.weight": torch.ones(6, 1)}
)


def test_weights_come_checked_and_a_new_commit_supersedes(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    files = {"pytorch_lora_weights.safetensors": WEIGHTS}
    hub = serve([repository("maker/glow", files=files)], tokens=[TOKEN])
    first = home.discover(hub, DiscoveryConfig(), token=TOKEN)
    assert [expert.status for expert in first.new] == ["ready"]
    assert {request.token for request in hub.storage.requests} == {""}
    hub.publish(
        repository("maker/glow", files=files, card="Better.", lastModified="2024-03-01T00:00:00Z")
    )
    second = home.discover(hub, DiscoveryConfig())
    assert [expert.ref for expert in second.superseded] == [first.new[0].ref]
    assert second.retired == ()
    hub.unpublish("maker/glow")
    third = home.discover(hub, DiscoveryConfig())
    assert len(third.retired) == 2


def test_a_file_that_is_not_what_the_hub_states_is_refused(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    hub = serve([repository("maker/glow", files={"pytorch_lora_weights.safetensors": WEIGHTS})])
    hub.storage.disturb(lambda reply: type(reply)(200, WEIGHTS[::-1], reply.headers), times=9)
    report = home.discover(hub, DiscoveryConfig())
    assert "SHA-256" in reasons(report)[0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LoraConfig", {"lora_alpha": 8}),
        ("LoraConfig", {"lora_alpha": 8, "use_rslora": True}),
        ("LoHaConfig", {"alpha": 16}),
        ("LoKrConfig", {"alpha": 16}),
    ],
    ids=["twice", "rooted", "LoHa", "LoKr"],
)
def test_the_alpha_that_peft_keeps_beside_its_weights_counts(
    kind: str,
    options: dict[str, Any],
    home: HuggingFaceHome,
    serve: Callable[..., HuggingFaceServer],
    tmp_path: Path,
) -> None:
    """An adapter as PEFT itself saves and merges it, found on a hub, opened from the library."""
    import peft

    net: Any = torch.nn.Module()
    net.add_module("mid_block", torch.nn.Module())
    holder: Any = net.mid_block
    for name in ("attentions", "0", "transformer_blocks", "0", "attn1"):
        holder.add_module(name, torch.nn.Module())
        holder = getattr(holder, name)
    holder.add_module("to_q", torch.nn.Linear(8, 6, bias=False))
    base = {f"{LAYER}.weight": holder.to_q.weight.detach().clone()}
    config = getattr(peft, kind)(target_modules=["to_q"], r=4, **options)
    model: Any = peft.get_peft_model(net, config)
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        if name.endswith(".default") or ".default." in name:
            value.data = torch.randn(value.shape, generator=generator)
    model.save_pretrained(tmp_path / "saved")
    model.merge_and_unload()
    expected = holder.to_q.weight.detach() - base[f"{LAYER}.weight"]
    files = {
        name: (tmp_path / "saved" / name).read_bytes()
        for name in ("adapter_model.safetensors", "adapter_config.json")
    }
    bare = {"adapter_model.safetensors": files["adapter_model.safetensors"]}
    hub = serve([repository("maker/glow", files=files), repository("other/glow", files=bare)])
    home.discover(hub, DiscoveryConfig(), parameters=base)
    glow, without = home.library.experts("ready")
    delta = open_delta(home.library.path_of(glow.sha256), base)
    found = delta.updates[f"{LAYER}.weight"].dense()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # the same weights without a configuration are another expert, which says what was taken
    assert without.sha256 != glow.sha256
    remark = "no alpha is stated: the rank is taken"
    assert glow.coverage is not None
    assert without.coverage is not None
    assert remark not in glow.coverage.evidence
    assert remark in without.coverage.evidence


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (b"{", "its configuration is not JSON"),
        (b"[" * 100_000, "its configuration is not JSON"),
        (b"\xff\x00", "its configuration is not JSON"),
        (b"[1]", "its configuration is not an object"),
        (b'{"lora_alpha": "much"}', "is not a number"),
        (b'{"lora_alpha": 1' + b"0" * 400 + b"}", "is not a number"),
        (b'{"lora_alpha": 8}' + b" " * (1 << 20), "adapter_config.json has 1048593 bytes"),
    ],
    ids=["cut", "deep", "no text", "list", "word", "huge", "long"],
)
def test_a_hostile_configuration_refuses_its_expert_only(
    config: bytes, says: str, home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    files = {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": config}
    fine = {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": b'{"lora_alpha": 2}'}
    hub = serve([repository("maker/bad", files=files), repository("maker/fine", files=fine)])
    report = home.discover(hub, DiscoveryConfig())
    assert [expert.name for expert in report.rejected] == ["bad"]
    assert says in reasons(report)[0]
    assert [expert.name for expert in report.new] == ["fine"]


def test_a_configuration_that_does_not_come_is_asked_for_again(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    """Its weights alone would be merged at another strength."""
    files = {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": b'{"lora_alpha": 2}'}
    hub = serve([repository("maker/glow", files=files)])
    hub.fail(500, path="adapter_config.json", times=3)
    report = home.discover(hub, DiscoveryConfig())
    assert len(report.failed) == 1
    assert home.library.experts("ready") == ()
    again = home.discover(hub, DiscoveryConfig())
    path = home.library.path_of(again.updated[0].sha256)
    delta = open_delta(path, PARAMETERS)
    assert torch.equal(delta.updates[f"{LAYER}.weight"].dense(), 2 * torch.ones(6, 4))


def test_a_gated_file_wants_a_token(
    home: HuggingFaceHome, serve: Callable[..., HuggingFaceServer]
) -> None:
    files = {"pytorch_lora_weights.safetensors": WEIGHTS}
    hub = serve([repository("maker/glow", files=files, gated="auto")], tokens=[TOKEN])
    report = home.discover(hub, DiscoveryConfig())
    assert "agreed to its terms" in reasons(report)[0]
    assert home.library.listing(report.rejected[0].ref).gated
    again = home.discover(hub, DiscoveryConfig(), token=TOKEN)
    assert [expert.status for expert in again.updated] == ["ready"], "tried again, though unchanged"
