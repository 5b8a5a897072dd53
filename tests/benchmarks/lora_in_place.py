"""Ten LoRA files into a resident model: ours against diffusers.

`python tests/benchmarks/lora_in_place.py [--device cuda] [--dtype float16] [--small]`

Both start from the same files on disk and the same weights in memory. diffusers does what its
documentation says: `load_lora_weights`, `set_adapters`, `fuse_lora`.
"""

import argparse
import gc
import tempfile
from pathlib import Path

import sd15
import torch
from measuring import clock, tell, terms_of

from diffgraph.experts.reading import open_delta
from diffgraph.merging.apply import Merger
from diffgraph.merging.packing import Packed, pack


def measure(
    device: str, dtype: torch.dtype, small: bool, count: int = 10, rank: int = 32, every: int = 1
) -> dict:
    """Return the figures of both; exactness is looked at in each `every`th weight."""
    sd15.be_quiet()
    with tempfile.TemporaryDirectory() as folder:
        model = sd15.build(small, device, dtype)
        files = [Path(folder) / f"lora{number}.safetensors" for number in range(count)]
        for number, path in enumerate(files):
            sd15.write_kohya(model, rank, number, path)
        strengths = [round(0.3 + 0.1 * number, 2) for number in range(count)]
        ours, base, wanted = _ours(model, files, strengths, every)
        theirs = _theirs(model, files, strengths, base, wanted)
    return {
        "files": count,
        "rank": rank,
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": sum(value.numel() for value in base.values()),
        "ours": ours,
        "diffusers": theirs,
        "times faster, files to weights": round(theirs["total_s"] / ours["total_s"], 2),
        "times faster, memory to weights": round(
            (theirs["set_s"] + theirs["fuse_s"]) / ours["merge_s"], 2
        ),
    }


def _ours(model, files, strengths, every):
    device = model.device
    pin = device.type == "cuda"
    merger = Merger(model)
    base = {name: value.cpu() for name, value in merger.base.items()}
    warm = (
        pack(open_delta(files[0], base), pin).to(device).delta
    )  # kernels are built once a machine
    merger.apply({"warm": 1.0}, {"warm": warm})
    merger.reset()
    del warm
    start = _now(device)
    read = {path.stem: _read(path, base, pin).to(device).delta for path in files}
    loaded = _now(device)
    plan = dict(zip(read, strengths, strict=True))
    merger.apply(plan, read)
    merged = _now(device)
    again = []
    for number in range(5):
        changed = {ref: value + 0.01 * (number + 1) for ref, value in plan.items()}
        begin = _now(device)
        merger.apply(changed, read)
        again.append(_now(device) - begin)
    merger.apply(plan, read)
    wanted = {}
    exactness = sd15.Exactness()
    live = model.parameters()
    for name, terms in list(terms_of(plan, read).items())[::every]:
        value = sd15.reference(merger.base[name], terms)
        exactness.add(live[name], merger.base[name], value)
        wanted[name] = value.to("cpu") if device.type == "cpu" else value
    merger.reset()
    unchanged = all(torch.equal(live[name], value) for name, value in merger.base.items())
    begin = _now(device)
    _check(files, base)
    checked = _now(device)
    figures = {
        "load_s": round(loaded - start, 4),
        "merge_s": round(sorted(again)[len(again) // 2], 4),
        "first_merge_s": round(merged - loaded, 4),
        "total_s": round(merged - start, 4),
        "check that numbers are finite_s": round(checked - begin, 4),  # not in the total
        "base again, bit for bit": unchanged,
        **exactness.told(),
    }
    return figures, merger.base, wanted


def _read(path: Path, base: dict, pin: bool) -> Packed:
    """Read a file as a renderer does, but for the check that all its numbers are finite."""
    return pack(open_delta(path, base), pin)


def _check(files: list[Path], base: dict) -> None:
    """Make that check, which diffusers does not."""
    for path in files:
        delta = open_delta(path, base)
        for name in delta.updates:
            delta.check(name)


def _theirs(model, files, strengths, base, wanted) -> dict:
    pipe = _pipeline(model)
    device = model.device
    pipe.load_lora_weights(str(files[0]), adapter_name="warm")
    pipe.fuse_lora(adapter_names=["warm"])
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    gc.collect()
    _restore(model, base)
    start = _now(device)
    for path in files:
        pipe.load_lora_weights(str(path), adapter_name=path.stem)
    loaded = _now(device)
    pipe.set_adapters([path.stem for path in files], strengths)
    chosen = _now(device)
    pipe.fuse_lora(adapter_names=[path.stem for path in files])
    fused = _now(device)
    exactness, live = sd15.Exactness(), _plain(model)
    for name, value in wanted.items():
        exactness.add(live[name], base[name], value)
    begin = _now(device)
    pipe.unfuse_lora()
    unfused = _now(device)
    live = _plain(model)
    unchanged = all(torch.equal(live[name], value) for name, value in base.items())
    pipe.unload_lora_weights()
    return {
        "load_s": round(loaded - start, 4),
        "set_s": round(chosen - loaded, 4),
        "fuse_s": round(fused - chosen, 4),
        "total_s": round(fused - start, 4),
        "unfuse_s": round(unfused - begin, 4),
        "base again, bit for bit": unchanged,
        **exactness.told(),
    }


def _pipeline(model):
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(32,), norm_num_groups=8),
        text_encoder=model.components["text_encoder"],
        tokenizer=None,
        unet=model.components["unet"],
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _plain(model) -> dict:
    """Return the weights under the names they had before peft wrapped their layers."""
    return {
        name.replace(".base_layer.", "."): value
        for name, value in model.parameters().items()
        if ".lora_" not in name
    }


def _restore(model, base) -> None:
    for name, value in _plain(model).items():
        value.copy_(base[name])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock()


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    dtype = getattr(torch, given.dtype)
    tell(
        f"ten LoRAs in place, {given.device}",
        measure(given.device, dtype, given.small, every=given.every),
    )


if __name__ == "__main__":
    main()
