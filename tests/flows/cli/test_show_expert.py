"""How well an expert's file was understood can be looked up."""

import shutil

import pytest

from diffgraph.artifacts import sha256_of
from diffgraph.experts.expert import Expert, ExpertRef, Listing
from diffgraph.experts.library import Library
from diffgraph.experts.reading import read_delta
from diffgraph.families import get_family


@pytest.fixture
def home(tmp_path):
    """A home that knows one expert of the bundled hub, read as discovery reads it."""
    family = get_family("emoji64")
    source = family.hub / "files" / "golden.safetensors"
    file = tmp_path / "golden.safetensors"
    shutil.copy(source, file)
    delta = read_delta(file, family.load("cpu").parameters())
    ref = "smallhub:1@2"
    listing = Listing(ref=ExpertRef.parse(ref), name="Golden")
    expert = Expert(
        ref=ref, name="Golden", kind="peft", family="emoji64", sha256=sha256_of(file),
        size_bytes=file.stat().st_size, format=delta.format, coverage=delta.coverage.report(),
    )  # fmt: skip
    Library(tmp_path / "home", bundled=()).add(expert, listing, file)
    return tmp_path / "home"


def test_a_person_reads_how_well_a_file_was_understood(diffgraph, home):
    told = diffgraph("show", "expert", "smallhub:1@2", "--home", home)
    assert told.code == 0, told.err
    assert "0 unknown" in told.out
    assert "0 NaN or infinite numbers" in told.out
    assert "ss_base_model_version=emoji64" in told.out
    assert "unet.down_blocks.0" in told.out


def test_a_program_reads_it_too(diffgraph, home):
    coverage = diffgraph("show", "expert", "smallhub:1@2", "--home", home, "--json").json[
        "coverage"
    ]
    assert coverage["matched"] > 100
    assert coverage["unknown"] == coverage["non_finite"] == 0
    assert coverage["parameters"] == 50
    assert all(size > 0 for size in coverage["norms"].values())
