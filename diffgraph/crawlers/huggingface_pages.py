"""Reads models' pages of the Hugging Face hub, which are untrusted.

Reads items of `GET /api/models` and the text of a model card into a listing. A version is a commit.
https://huggingface.co/docs/hub/model-cards describes the fields. What is missing or has the wrong
type becomes the empty value. Where doubt could hurt a maker the strict reading wins: a licence that
is not stated permits nothing.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlsplit

from diffgraph.crawlers.civitai_pages import commercial_use, moment, text, words
from diffgraph.crawlers.huggingface_files import choose_files
from diffgraph.crawlers.licences import licence_by_name
from diffgraph.errors import UnusableListing
from diffgraph.experts.expert import ExpertRef, Licence, ListedFile, ListedImage, Listing

SOURCE = "huggingface"
Relation = Literal["adapter", "finetune"]

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{7,64}")
COMMIT_CHARACTERS = 12
STRUCTURE = re.compile(
    r"(base_model|license|region|template|diffusers|arxiv|doi|dataset|endpoints_compatible):?.*"
)
YAML_BLOCK = re.compile(r"\A\s*---\r?\n.*?\r?\n---\s*?(\r?\n|\Z)", re.DOTALL)

CARD_CHARACTERS = 50_000
IMAGES = 20
EXPERTS = 50  # of one repository
FILES = 2_000
CODE = {".bin", ".ckpt", ".pt", ".pth", ".pkl"}
NO_EXPERTS = {
    "controlnet": "Controlnet",
    "t2i-adapter": "T2I-Adapter",
    "ip-adapter": "IP-Adapter",
    "textual_inversion": "TextualInversion",
    "motion-module": "MotionModule",
}
UNKNOWN = {"unknown", "unlicense-unknown", ""}

Item = Mapping[str, Any]


def repository_of(item: object) -> str | None:
    """Return an item's repository, `author/name`; None if it has no usable one."""
    name = item.get("id") or item.get("modelId") if isinstance(item, Mapping) else None
    if isinstance(name, str) and REPOSITORY.fullmatch(name) and ".." not in name:
        return name
    return None


def reference_of(item: object) -> ExpertRef:
    """Return the reference of the commit that an item describes.

    Raises:
        UnusableListing: It has no usable repository or commit.
    """
    repository = repository_of(item)
    if repository is None or not isinstance(item, Mapping):
        raise UnusableListing("the page has no usable repository name")
    commit = item.get("sha")
    if not isinstance(commit, str) or COMMIT.fullmatch(commit) is None:
        raise UnusableListing(f"the page of {repository} names no commit")
    return ExpertRef(source=SOURCE, model=repository, version=commit[:COMMIT_CHARACTERS])


def repository_part(ref: ExpertRef) -> str:
    """Return the repository of an expert: `maker/many` of `huggingface:maker/many/zoo@…`."""
    return "/".join(ref.model.split("/")[:2])


def parse_experts(
    item: object, card: str, relation: Relation, bases: Collection[str], hub: str
) -> list[Listing]:
    """Return a listing for each expert of a repository; see `parse_repository`.

    The first has the repository's name, each other one that of its file beside it.
    """
    first = parse_repository(item, card, relation, bases, hub)
    assert isinstance(item, Mapping)
    found, names = {first.ref: first}, choose_files(file_names(item.get("siblings")), relation)
    for path in names[1:EXPERTS] if "/" in first.ref.model else ():
        stem = str(PurePosixPath(path).with_suffix(""))
        told = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.")[:80]
        ref = first.ref.model_copy(update={"model": f"{first.ref.model}/{told or 'unnamed'}"})
        own = {
            "ref": ref,
            "name": text(f"{first.name} {PurePosixPath(path).stem}", 200),
            "file": _named_file(path, repository_part(ref), str(item["sha"]), hub),
        }
        found.setdefault(ref, first.model_copy(update=own))
    return list(found.values())


def parse_repository(
    item: object, card: str, relation: Relation, bases: Collection[str], hub: str
) -> Listing:
    """Return the listing of an item, for the first expert that it holds.

    Args:
        item: The decoded JSON of one model, with `cardData`, `siblings`, `tags` and `sha`.
        card: Its README, with or without the YAML at its head.
        relation: How the hub says it was made from its base.
        bases: The bases that we ask for; the first that it names is taken for its base.
        hub: The hub's address.

    Raises:
        UnusableListing: It has no usable name or commit.
    """
    ref = reference_of(item)
    assert isinstance(item, Mapping)  # the reference says so
    about = item.get("cardData")
    about = about if isinstance(about, Mapping) else {}
    tags = words(item.get("tags"))
    commit = str(item["sha"])
    return Listing(
        ref=ref,
        name=text(ref.model.rpartition("/")[2], 200),
        description=text(YAML_BLOCK.sub("", card, count=1), CARD_CHARACTERS, lines=True),
        type=_type(tags, relation),
        base_model=_base(tags, about, bases),
        tags=tuple(tag for tag in tags if STRUCTURE.fullmatch(tag) is None),
        trigger_words=_triggers(about.get("instance_prompt")),
        licence=_licence(about, tags, ref.model),
        file=_file(item.get("siblings"), ref.model, commit, relation, hub),
        images=tuple(_images(about.get("widget"), ref.model, commit, hub)),
        published_at=moment(item.get("lastModified")) or moment(item.get("createdAt")),
        downloads=_count(item.get("downloads")),
        nsfw="not-for-all-audiences" in tags,
        withdrawn="disabled" if item.get("disabled") is True else "",
        gated=item.get("gated") not in (None, False, "False", "false", ""),
        page_url=f"{hub}/{ref.model}",
    )


def file_url(hub: str, repository: str, commit: str, path: str) -> str:
    """Return where a file of a commit is."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, path, revision=commit, endpoint=hub)


def _type(tags: Sequence[str], relation: Relation) -> str:
    for tag, kind in NO_EXPERTS.items():
        if tag in tags:
            return kind
    if relation == "finetune":
        return "Checkpoint"
    return next((kind for kind in ("DoRA", "LoHa", "LoKr") if kind.lower() in tags), "LORA")


def _base(tags: Iterable[str], about: Item, bases: Collection[str]) -> str:
    """Return the base it names that we ask for, or else any that it names."""
    stated = about.get("base_model")
    named = [stated] if isinstance(stated, str) else list(words(stated))
    named += [tag.rpartition(":")[2] for tag in tags if tag.startswith("base_model:")]
    ours = {base.lower(): base for base in bases}
    known = [ours[name.lower()] for name in named if name.lower() in ours]
    return (known or [text(name, 120) for name in named] or [""])[0]


def _triggers(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    return tuple(word for word in words(value) if word.lower() not in {"none", "null", "-"})


def _licence(about: Item, tags: Iterable[str], repository: str) -> Licence:
    """Read a licence's name, and, of licences made with a form, the choices in its address."""
    creator = repository.rpartition("/")[0]
    chosen = _choices(about.get("license_link"))
    stated = about.get("license")
    names = [stated] if isinstance(stated, str) else list(words(stated))
    names += [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    named = [name for name in (text(name, 120).lower() for name in names) if name not in UNKNOWN]
    own = text(about.get("license_name"), 120).lower()
    if own and "other" in named:
        named = [f"other: {own}" if name == "other" else name for name in named]
    elif own:
        named.append(own)  # which says it more exactly: both have to permit
    if chosen:
        read = [name for name in named if not name.startswith("other") and name != own]
        permits = not read or licence_by_name(read, creator).allow_derivatives
        return Licence(
            allow_derivatives=permits and chosen.get("allowDerivatives", "") == "True",
            allow_commercial_use=commercial_use(chosen.get("allowCommercialUse")),
            allow_different_licence=chosen.get("allowDifferentLicense", "") == "True",
            credit_required=chosen.get("allowNoCredit", "") != "True",
            creator=creator,
            name=own or "other",
        )
    return licence_by_name(tuple(dict.fromkeys(named)), creator)


def _choices(link: object) -> dict[str, str]:
    """Return the permissions that stand in a licence's address, as Civitai's do."""
    if not isinstance(link, str) or "allowDerivatives=" not in link:
        return {}
    try:
        return {name: values[-1] for name, values in parse_qs(urlsplit(link).query).items()}
    except ValueError:
        return {}


def _file(
    siblings: object, repository: str, commit: str, relation: Relation, hub: str
) -> ListedFile | None:
    names = file_names(siblings)
    if chosen := choose_files(names, relation):
        return _named_file(chosen[0], repository, commit, hub)
    if any(name.endswith(".safetensors") for name in names):
        # none that is an expert: an autoencoder, say, or adapters of single components
        return ListedFile(name="folder", url=f"{hub}/{quote(repository)}", format="Diffusers")
    if any(PurePosixPath(name).suffix in CODE for name in names):
        return ListedFile(name="weights", url=f"{hub}/{quote(repository)}", format="PickleTensor")
    return None


def _named_file(path: str, repository: str, commit: str, hub: str) -> ListedFile:
    return ListedFile(name=path, url=file_url(hub, repository, commit, path), format="SafeTensor")


def count_experts(item: object, relation: Relation) -> int:
    """Return how many experts a repository holds, taken or not."""
    siblings = item.get("siblings") if isinstance(item, Mapping) else None
    return len(choose_files(file_names(siblings), relation))


def file_names(siblings: object) -> list[str]:
    """Return the paths of a repository's files, without those that lead out of it."""
    if not isinstance(siblings, Sequence) or isinstance(siblings, str):
        return []
    found = (file.get("rfilename") for file in siblings[:FILES] if isinstance(file, Mapping))
    return [name for name in found if isinstance(name, str) and _is_plain(name)]


def _is_plain(path: str) -> bool:
    """Return whether a path stays inside its repository."""
    parts = PurePosixPath(path).parts
    return bool(parts) and len(path) <= 500 and ".." not in parts and not path.startswith("/")


def _images(widget: object, repository: str, commit: str, hub: str) -> Iterable[ListedImage]:
    if not isinstance(widget, Sequence) or isinstance(widget, str):
        return
    for example in widget[:IMAGES]:
        if not isinstance(example, Mapping):
            continue
        output = example.get("output")
        path = text(output.get("url"), 500) if isinstance(output, Mapping) else ""
        if path and "://" not in path:
            path = file_url(hub, repository, commit, path) if _is_plain(path) else ""
        prompt = text(example.get("text"), 2_000)
        prompt = "" if prompt == "-" else prompt
        if path.startswith(("http://", "https://")) or prompt:
            yield ListedImage(url=path, prompt=prompt)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
