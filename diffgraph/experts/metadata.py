"""What does the header of a weights file say of the base it was made from?"""

from collections.abc import Mapping

from diffgraph.experts.weights_file import shown

EVIDENCE = (
    "modelspec.architecture",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_v2",
    "ss_network_module",
    "base_model_name_or_path",
)


def evidence(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a file claims of its base, `key=value`."""
    return tuple(f"{key}={shown(metadata[key])[1:-1]}" for key in EVIDENCE if metadata.get(key))
