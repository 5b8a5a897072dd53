"""A licence permits what its name is known to permit, in every spelling; others permit nothing."""

import pytest

from diffgraph.crawlers.licences import Terms, is_known, licence_by_name, terms_of

CREDIT = Terms(credit=True)
NC = Terms(sales=False, credit=True)
ND = Terms(derivatives=False, credit=True)
NC_ND = Terms(derivatives=False, sales=False, credit=True)
NC_SA = Terms(sales=False, other_licence=False, credit=True)
SPELLINGS = {
    "mit": CREDIT, "MIT License": CREDIT, "The MIT licence": CREDIT, "apache-2.0": CREDIT,
    "Apache 2.0": CREDIT, "Apache License, Version 2.0": CREDIT, "apache2.0": CREDIT,
    "bsd-3-clause": CREDIT, "isc": CREDIT, "afl-3.0": CREDIT,
    "cc0-1.0": Terms(), "CC0": Terms(), "CC Zero": Terms(), "unlicense": Terms(), "wtfpl": Terms(),
    "cc-by-4.0": CREDIT, "CC BY 4.0": CREDIT, "cc_by": CREDIT,
    "Creative Commons Attribution 4.0 International": CREDIT,
    "cc-by-sa-4.0": Terms(other_licence=False, credit=True),
    "cc-by-nc-4.0": NC, "CC BY-NC": NC, "cc_by_nc_2.0": NC, "ccbync": NC, "cc-bync-4.0": NC,
    "Creative Commons Attribution-NonCommercial 4.0": NC, "cc by non-commercial": NC,
    "cc-by-nd-4.0": ND, "CC BY ND": ND, "Attribution-NoDerivatives 4.0": ND, "cc-by-nd": ND,
    "CC Attribution No Derivs 3.0": ND,
    "cc-by-nc-nd-4.0": NC_ND, "CC-BY-ND-NC": NC_ND, "ccbyncnd": NC_ND, "BY-NC-ND 4.0": NC_ND,
    "Attribution-NonCommercial-NoDerivatives": NC_ND,
    "cc-by-nc-sa-4.0": NC_SA, "Attribution NonCommercial ShareAlike 4.0 International": NC_SA,
    "gpl-3.0": Terms(other_licence=False, credit=True),
    "agpl-3.0": Terms(other_licence=False, credit=True),
    "openrail": Terms(), "openrail++": Terms(), "OpenRAIL-M": Terms(), "Open RAIL++-M": Terms(),
    "creativeml-openrail-m": Terms(), "CreativeML Open RAIL-M": Terms(),
    "CreativeML OpenRAIL++-M License": Terms(), "bigscience-openrail-m": Terms(),
    "bigcode-openrail-m": Terms(), "bigscience-bloom-rail-1.0": Terms(),
}  # fmt: skip
UNKNOWN = [
    "", "other", "other: mit", "unknown", "cc", "creative commons", "cc-nc-4.0", "llama3", "gemma",
    "flux-1-dev-non-commercial-license", "mit-but-no-merges", "openrail-like", "apache-like",
    "mit, other: mine", "no mit", "cc-by-nc-4.0 without merges", "research only", "proprietary",
    "stabilityai-ai-community", "deepfloyd-if-license", "4.0", "cc-by-nd-except-me", "see readme",
]  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_known_licence_is_read_in_every_spelling(name: str) -> None:
    assert terms_of(name) == SPELLINGS[name]
    assert is_known(name.replace(",", ""))


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nobody_has_read_permits_nothing(name: str) -> None:
    assert not is_known(name)
    licence = licence_by_name([name], "maker")
    assert not licence.allow_derivatives
    assert licence.allow_commercial_use == ()
    assert not licence.allow_different_licence


def test_no_licence_permits_nothing() -> None:
    licence = licence_by_name([], "maker")
    assert (licence.allow_derivatives, licence.name) == (False, "none stated")


def test_several_licences_permit_what_each_of_them_permits() -> None:
    licence = licence_by_name(["mit", "cc-by-nc-sa-4.0"], "maker")
    assert licence.allow_derivatives
    assert licence.allow_commercial_use == ()
    assert not licence.allow_different_licence
    assert licence.credit_required
    assert not licence_by_name(["mit", "cc-by-nd-4.0"], "maker").allow_derivatives
    assert not licence_by_name(["mit", "mine"], "maker").allow_derivatives
