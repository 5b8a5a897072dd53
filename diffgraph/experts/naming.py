"""What do other tools call our parameters?

A vocabulary is a function from one of our names (`unet.….to_q`, `text_encoder.….q_proj`, with or
without a final `.weight`) to what one naming convention calls it. Looking a stranger's name up in
what the vocabularies say of the real model never guesses: kohya's underscores cannot be split back.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Vocabulary = Callable[[str], Iterable[str]]
"""Our name -> the names that it has in one convention."""

ATTENTION = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
TEXT_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def diffusers(name: str) -> Iterator[str]:
    """Yield diffusers' names; transformers before version 5 put `text_model.` into its own."""
    yield name
    component, _, path = name.partition(".")
    if component == "text_encoder":
        yield f"{component}.text_model.{path}"


def old_diffusers(name: str) -> Iterator[str]:
    """Yield the names of attention processors, as diffusers 0.1x saved them (modules only)."""
    for form in diffusers(name):
        for ours, theirs in ATTENTION.items():
            if form.endswith(f".{ours}"):
                yield f"{form.removesuffix(ours)}processor.{theirs}_lora"
        for ours, theirs in TEXT_ATTENTION.items():
            if form.endswith(f".{ours}"):
                yield f"{form.removesuffix(ours)}{theirs}_lora"


def peft(name: str) -> Iterator[str]:
    """Yield PEFT's names: behind `base_model.model.`, or bare as a UNet alone is saved."""
    for form in diffusers(name):
        yield f"base_model.model.{form}"
    component, _, path = name.partition(".")
    if component == "unet":
        yield f"base_model.model.{path}"
        yield path


def kohya(name: str) -> Iterator[str]:
    """Yield kohya's names: `lora_unet_` and the path with its dots turned into underscores."""
    for form in diffusers(name):
        component, _, path = form.partition(".")
        if component in KOHYA_PREFIXES:
            yield KOHYA_PREFIXES[component] + path.replace(".", "_")


KOHYA_PREFIXES: Mapping[str, str] = {"unet": "lora_unet_", "text_encoder": "lora_te_"}


def lookup(names: Iterable[str], vocabularies: Sequence[Vocabulary]) -> dict[str, str]:
    """Return their name -> our name; a name that could mean two of ours is left out."""
    ours = list(names)
    found: dict[str, str] = {}
    ambiguous: set[str] = set()
    for vocabulary in vocabularies:
        for name in ours:
            for alias in vocabulary(name):
                if found.setdefault(alias, name) != name:
                    ambiguous.add(alias)
    return {alias: name for alias, name in found.items() if alias not in ambiguous}
