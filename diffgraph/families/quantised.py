"""Are these a base's weights, or codes that mean nothing without numbers kept beside them?

Eight bits may be a weight as it is (plain float8), or one of many ways to say it with scales, zero
points and tables, which every tool calls otherwise. What is not known to be plain is refused: to
leave out a scale would draw another model, in silence.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from diffgraph.errors import MissingInput

MARKS = (
    *("scaled_fp8", ".scale_weight", ".scale_input", ".weight_scale", ".weight_scale_inv"),
    *(".input_scale", ".output_scale", ".comfy_quant", ".absmax", ".quant_map", ".nested_absmax"),
    *(".SCB", ".weight_format", ".qweight", ".qzeros", ".zero_point", "._data", "._scale"),
)
"""How keys end that stand only beside codes, whatever type these have."""
SPEAKING = re.compile(r"scale|absmax|amax|zero_?point|quant|codebook|lut$", re.IGNORECASE)
NO_MARK = re.compile(r"(query_norm|key_norm)\.scale$|(^|[._])logit_scale$")
"""Parameters of models that are called so as well: of FLUX's norms, and of CLIP."""
FLOATS = "F8_"  # how the codes of types begin
WHOLE = ("I8", "U8")
PARAMETERS = ("weight", "bias", "in_proj_weight", "in_proj_bias")
METADATA = "quantization"  # what is in the names of metadata that tell how codes are read


def refuse_quantised(*files: Path) -> None:
    """Raise `MissingInput`, with file and key, unless weights files hold weights, each once.

    Args:
        files: all of one component: scales may lie in another file than their weights.
    """
    from safetensors import SafetensorError, safe_open

    types: dict[str, str] = {}
    holders: dict[str, Path] = {}
    for path in files:
        try:
            with safe_open(str(path), "pt") as file:
                stated = file.metadata() or {}
                found = {key: file.get_slice(key).get_dtype() for key in file.keys()}
        except (OSError, SafetensorError):
            continue  # whoever takes the weights out of it says what is wrong with it
        if twice := next((key for key in found if key in types), None):
            raise MissingInput(
                f"{path} and {holders[twice].name} both hold {twice!r}: which one is meant is not "
                "said"
            )
        types |= found
        holders |= dict.fromkeys(found, path)
        if named := next((name for name in stated if METADATA in name.lower()), None):
            raise MissingInput(f"{path.name} is quantised (its metadata say {named!r})")
    if key := quantised(types):
        names = ", ".join(path.name for path in files[:2])
        raise MissingInput(f"{names} is quantised ({key!r}): a base has whole weights")


def quantised(types: Mapping[str, str]) -> str | None:
    """Return a key that shows that weights are codes, if there is one; key -> safetensors' type."""
    for key, code in types.items():
        if key.endswith(MARKS) or code in WHOLE:
            return key
    eights = [key for key, code in types.items() if code.startswith(FLOATS)]
    if not eights:
        return None
    modules = {key.rpartition(".")[0] for key in eights}
    whole = frozenset(eights)
    for key in types:
        module, _, last = key.rpartition(".")
        is_sibling = module in modules and last not in PARAMETERS and key not in whole
        is_below = module in whole or module.rpartition(".")[0] in whole
        speaks = SPEAKING.search(last) and not NO_MARK.search(key)
        if is_sibling or is_below or speaks:
            return key
    return None
