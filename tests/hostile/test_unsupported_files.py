"""What a hub holds beside experts for this base is refused for what it is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.errors import FamilyMismatch, UnknownFormat
from diffgraph.experts.library import Library
from diffgraph.experts.reading import read_delta
from diffgraph.families import get_family
from tests.hostile.files import (
    DAMAGED,
    NAME,
    NOT_WEIGHTS,
    OF_ANOTHER_BASE,
    PARAMETERS,
    PICKLES,
    adapter_of,
    lora,
    zipped_pickle,
)


def refuse(
    tensors: dict[str, torch.Tensor], error: type[Exception], what: str, folder: Path
) -> None:
    path = folder / "x.safetensors"
    save_file(tensors, path)
    with pytest.raises(error, match=re.escape(what)) as caught:
        read_delta(path, PARAMETERS)
    assert "x.safetensors" in str(caught.value)


@pytest.mark.parametrize(("tensors", "what"), NOT_WEIGHTS.values(), ids=NOT_WEIGHTS.keys())
def test_what_is_no_change_of_weights_is_named(tensors: Any, what: str, tmp_path: Path) -> None:
    refuse(tensors, UnknownFormat, what, tmp_path)


@pytest.mark.parametrize(("tensors", "what"), OF_ANOTHER_BASE.values(), ids=OF_ANOTHER_BASE.keys())
def test_what_is_for_another_base_is_named(tensors: Any, what: str, tmp_path: Path) -> None:
    refuse(tensors, FamilyMismatch, what, tmp_path)


STATED = {
    "by its specification": {"modelspec.prediction_type": "v"},
    "by its trainer": {"ss_v_parameterization": "True"},
}


@pytest.mark.parametrize("metadata", STATED.values(), ids=STATED.keys())
def test_another_prediction_is_refused_if_anybody_asks(metadata: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(adapter_of("lora_unet_mid_block_attentions_0_to_q", 12), path, metadata)
    with pytest.raises(FamilyMismatch, match="predicts velocity, the base predicts epsilon"):
        read_delta(path, PARAMETERS, prediction="epsilon")
    assert read_delta(path, PARAMETERS, prediction="velocity").updates
    assert read_delta(path, PARAMETERS).updates


def test_a_marker_of_another_prediction_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({NAME: PARAMETERS[NAME] + 1, "v_pred": torch.zeros(0)}, path)
    with pytest.raises(FamilyMismatch, match="predicts velocity"):
        read_delta(path, PARAMETERS, prediction="epsilon")


def test_a_run_goes_on_without_what_it_cannot_use(tmp_path: Path) -> None:
    """A hub with one file of every kind: one expert is ready, every other has its reason."""
    hub = tmp_path / "hub"
    (hub / "models").mkdir(parents=True)
    (hub / "files").mkdir()
    (hub / "hub.json").write_text('{"name": "hub"}')
    contents = {
        **DAMAGED,
        **PICKLES,
        "zip": zipped_pickle(tmp_path),
        **{kind: save(tensors) for kind, (tensors, _) in (NOT_WEIGHTS | OF_ANOTHER_BASE).items()},
        "changed since it was listed": lora(),
        "good": lora(),
    }
    for number, (kind, data) in enumerate(contents.items(), 1):
        (hub / f"files/{number}.safetensors").write_bytes(data)
        file: dict[str, Any] = {"downloadUrl": f"files/{number}.safetensors", "sizeKB": 1}
        if kind == "changed since it was listed":
            file["hashes"] = {"SHA256": "ab" * 32}
        version = {"id": number, "baseModel": "emoji64", "files": [file]}
        page = {"id": number, "name": kind, "type": "LORA", "modelVersions": [version]}
        (hub / f"models/{number}.json").write_text(json.dumps(page))
    library = Library(tmp_path / "home", bundled=())
    report = discover(FolderCrawler(hub), library, get_family("emoji64"), parameters=PARAMETERS)
    assert [expert.name for expert in report.new] == ["good"]
    assert report.new[0].coverage is not None
    assert report.new[0].coverage.unknown == 0
    assert {expert.name for expert in report.rejected} == set(contents) - {"good"}
    for expert in report.rejected:
        assert ".safetensors" in expert.reason, expert.name
    assert len(list((tmp_path / "home/library/files").iterdir())) == 1
    assert not list((tmp_path / "home/library").glob(".judging*"))
