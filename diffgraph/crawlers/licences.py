"""What does a licence permit, by its name?

Names are written in many ways: `cc-by-nc-4.0`, `CC BY-NC 4.0`, "Creative Commons
Attribution-NonCommercial". A licence that is not on our list permits nothing, and neither does one
that a page calls `other`, whatever name it gives it: those are unread.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diffgraph.experts.expert import Licence

NONE_STATED = "none stated"


@dataclass(frozen=True)
class Terms:
    """What a licence permits and asks."""

    derivatives: bool = True
    sales: bool = True
    other_licence: bool = True
    credit: bool = False


_NOTHING = Terms(derivatives=False, sales=False, other_licence=False)
_WORDS = (
    (r"creative\s*commons", "cc"), (r"attribution", "by"), (r"non\W*commercial", "nc"),
    (r"no\W*deriv(?:atives?|atives?works|s)?", "nd"), (r"share\W*alike", "sa"),
    (r"public\W*domain|zero", "0"), (r"open\W*rail", "openrail"), (r"creative\W*ml", "creativeml"),
    (r"apache(?=\d)", "apache"), (r"gnu|affero", " "),
)  # fmt: skip
_NOISE = frozenset(
    "license licence licenses the a an v version international unported generic public model only "
    "or later plus of dedication universal intl".split()
)
_PIECES = re.compile(r"\+\+|[a-z]+|\d+(?:\.\d+)*")
_GLUED = re.compile(r"(cc)?(by)?(nc)?(nd)?(sa)?(nc)?(nd)?")
_LISTED: tuple[tuple[str, Terms], ...] = (
    (r"mit|apache(?: [12](?:\.[01])?)?|bsd(?: [234] clause(?: clear)?)?|isc|afl(?: 3\.0)?"
     r"|ecl(?: 2\.0)?|bsl(?: 1\.0)?|boost(?: software)?(?: 1\.0)?|ncsa|zlib|postgresql"
     r"|artistic(?: 2\.0)?",
     Terms(credit=True)),
    (r"cc ?0(?: 1\.0)?|unlicense|wtfpl|pddl(?: 1\.0)?|0 ?bsd|mit 0", Terms()),
    (r"[al]?gpl(?: [123](?:\.[01])?)?|gfdl(?: 1\.3)?|mpl(?: 2\.0)?|eupl(?: 1\.[12])?|osl(?: 3\.0)?"
     r"|epl(?: [12]\.0)?", Terms(other_licence=False, credit=True)),
    (r"(?:creativeml |bigscience |bigcode |stable diffusion )?(?:openrail|rail)(?: ?\+\+)?(?: m)?"
     r"(?: 1)?(?: 1\.0)?|bigscience bloom rail(?: 1\.0)?", Terms()),
)  # fmt: skip
"""Names in our spelling, and what those licences permit."""


def licence_by_name(names: Sequence[str], creator: str) -> Licence:
    """Return what a page's licences permit together; nothing if one of them is not known.

    Args:
        names: As the page states them; none at all is a licence that permits nothing.
        creator: Whom to credit.
    """
    if not names:
        return _licence(_NOTHING, creator, NONE_STATED)
    found = [terms_of(name) or _NOTHING for name in names]
    together = Terms(
        derivatives=all(terms.derivatives for terms in found),
        sales=all(terms.sales for terms in found),
        other_licence=all(terms.other_licence for terms in found),
        credit=any(terms.credit for terms in found),
    )
    return _licence(together, creator, ", ".join(dict.fromkeys(names)))


def is_known(name: str) -> bool:
    """Return whether a licence, or each of several with commas between, is on our list."""
    return all(terms_of(one) is not None for one in name.split(","))


def terms_of(name: str) -> Terms | None:
    """Return what the licence of a name permits; None if we know none of that name."""
    spelt = name.lower()
    for words, ours in _WORDS:
        spelt = re.sub(words, f" {ours} ", spelt)
    pieces = [piece for piece in _PIECES.findall(spelt) if piece not in _NOISE]
    if terms := _creative_commons(pieces):
        return terms
    ours = " ".join(pieces)
    return next((terms for form, terms in _LISTED if re.fullmatch(form, ours)), None)


def _creative_commons(pieces: Sequence[str]) -> Terms | None:
    """Read what a name of theirs is made of; None for a piece that is no part of one."""
    parts: list[str] = []
    for piece in pieces:
        glued = _GLUED.fullmatch(piece)
        if glued:
            parts += filter(None, glued.groups())
        elif not piece[0].isdigit():
            return None
    if "by" not in parts:
        return None
    return Terms(
        derivatives="nd" not in parts,
        sales="nc" not in parts,
        other_licence="sa" not in parts,
        credit=True,
    )


def _licence(terms: Terms, creator: str, name: str) -> Licence:
    return Licence(
        allow_derivatives=terms.derivatives,
        allow_commercial_use=("Sell",) if terms.sales else (),
        allow_different_licence=terms.other_licence,
        credit_required=terms.credit,
        creator=creator,
        name=name,
    )
