"""A base by its name on a hub, from a server on this machine that speaks the hub's protocol."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgraph.errors import ServiceRefused, ServiceUnavailable
from diffgraph.families import sd15
from tests.diffgraph.families.single_files import write_single_file
from tests.servers.local_server import LocalServer, Reply, Request

COMMIT = "c" * 40
NAME = "somebody/sd15"
UNWANTED = {
    "v1-5-pruned.ckpt": b"pickle",
    "v1-5-pruned.safetensors": b"all once more",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"other",
    "safety_checker/model.safetensors": b"censor",
}


class Hub(LocalServer):
    """The part of huggingface.co that a download asks."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        } | UNWANTED
        self.gated = False

    def answer(self, request: Request) -> Reply:
        # the usual base lies here too
        path = request.path.removeprefix("/").replace(sd15.HUB, NAME)
        if self.gated and path.startswith(f"{NAME}/resolve/"):
            return Reply.json({"error": "gated"}, 403, **{"X-Error-Code": "GatedRepo"})
        if path == f"api/models/{NAME}/revision/main":
            return Reply.json({"id": NAME, "sha": COMMIT, "siblings": []})
        if path == f"api/models/{NAME}/tree/{COMMIT}":
            return Reply.json([self.entry(name) for name in self.files])
        name = path.removeprefix(f"{NAME}/resolve/{COMMIT}/")
        if name in self.files:
            body = self.files[name]
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.oid(body)}"'}
            return Reply(200, body, headers)
        return Reply.json({"error": "not found"}, 404, **{"X-Error-Code": "RepoNotFound"})

    def entry(self, name: str) -> dict[str, Any]:
        body = self.files[name]
        return {"type": "file", "path": name, "size": len(body), "oid": self.oid(body)}

    def oid(self, body: bytes) -> str:
        return hashlib.sha1(body, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(tiny_sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(tiny_sd15_folder) as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path),
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield server


def test_a_base_is_fetched_once(hub: Hub, tiny_sd15_folder: Path) -> None:
    model = sd15.load("cpu", place=NAME)
    whole = sd15.load("cpu", place=str(tiny_sd15_folder))
    ours = model.parameters()
    for name, value in whole.parameters().items():
        assert torch.equal(ours[name], value)
    assert not [name for name in UNWANTED if hub.asked(name)]
    hub.requests.clear()
    sd15.load("cpu", place=NAME, offline=True)
    assert not hub.requests


def test_what_a_single_file_lacks_is_fetched(
    hub: Hub, tiny_sd15_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    write_single_file(tiny_sd15_folder, file, vae=False)
    model = sd15.load("cpu", place=str(file))
    whole = sd15.load("cpu", place=str(tiny_sd15_folder))
    ours = model.vae.state_dict()
    for name, value in whole.vae.state_dict().items():
        assert torch.equal(ours[name], value)
    fetched = {request.path.partition("/resolve/")[2].partition("/")[2] for request in hub.requests}
    assert "vae/diffusion_pytorch_model.safetensors" in fetched
    assert "unet/diffusion_pytorch_model.safetensors" not in fetched


def test_a_licence_to_accept_is_told(hub: Hub) -> None:
    hub.gated = True
    with pytest.raises(ServiceRefused, match=r"behind a licence.*HF_TOKEN"):
        sd15.load("cpu", place=NAME)


def test_an_unknown_name_is_told(hub: Hub) -> None:
    with pytest.raises(ServiceRefused, match=r"nobody/nothing.*neither a folder here nor a model"):
        sd15.load("cpu", place="nobody/nothing")


def test_a_hub_that_fails_is_worth_another_try(hub: Hub) -> None:
    hub.fail(503, path="revision", times=20)
    with pytest.raises(ServiceUnavailable, match="somebody/sd15"):
        sd15.load("cpu", place=NAME)


def test_a_hub_whose_answer_cannot_be_decoded_is_one_line(hub: Hub) -> None:
    def spoil(reply: Reply) -> Reply:
        return replace(reply, headers={**reply.headers, "Content-Encoding": "gzip"})

    hub.disturb(spoil, path="/tree/", times=1000)
    with pytest.raises(ServiceUnavailable, match=f"{NAME}, the base of sd15"):
        sd15.load("cpu", place=NAME)
