"""One training loop for everything that emoji64 is made of, captured as a CUDA graph on a GPU.

At this size a step is bound by kernel launches, so the whole of it (drawing the batch, forward,
backward, clipping, AdamW, the moving average) is recorded once and replayed. On a CPU the same step
runs as it is.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Output = TypeVar("Output")
WARM_UP_RUNS = 5  # eager steps before capture: lazy initialisation must not be recorded


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn: `steps`, or `seconds` from which steps are measured."""

    steps: int | None = None
    seconds: float | None = None
    learning_rate: float = 1e-3
    warmup: float = 0.03  # share of the steps
    weight_decay: float = 1e-2
    average: float = 0.05  # the moving average's memory, as a share of the steps
    seed: int = 0


@dataclass(frozen=True)
class LoopReport:
    """What a training run did."""

    steps: int
    seconds: float
    losses: tuple[float, ...]  # about a hundred, evenly spaced

    def describe(self, config: LoopConfig) -> dict[str, Any]:
        """Return what is saved beside the weights."""
        return {
            **asdict(config),
            "steps": self.steps,
            "train_seconds": round(self.seconds, 1),
            "final_loss": self.losses[-1] if self.losses else None,
        }


def learning_rate(step: int, steps: int, config: LoopConfig) -> float:
    """Return a linear warm-up followed by a cosine decay to zero."""
    ramp = max(1, round(config.warmup * steps))
    if step < ramp:
        return config.learning_rate * (step + 1) / ramp
    return (
        config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))
    )


def optimise(
    draw_loss: Callable[[torch.Generator], Tensor],
    parameters: Sequence[Tensor],
    config: LoopConfig,
    name: str = "",
) -> LoopReport:
    """Minimise a loss that draws its own batch; leave the moving average in `parameters`."""
    device = parameters[0].device
    generator = torch.Generator(device).manual_seed(config.seed)
    on_gpu = device.type == "cuda"
    rate = torch.tensor(config.learning_rate, device=device)
    optimizer = torch.optim.AdamW(
        parameters,
        lr=rate if on_gpu else config.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
        capturable=on_gpu,
        fused=on_gpu,
    )
    averages = [parameter.detach().clone() for parameter in parameters]
    decay = torch.tensor(0.0, device=device)

    def step() -> Tensor:
        loss = draw_loss(generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(averages, parameters, strict=True):
                average.lerp_(parameter.detach(), 1 - decay)
        return loss.detach()

    run = _captured(step, optimizer, generator, rate) if on_gpu else _eager(step, optimizer)
    steps = config.steps or measured_steps(run, config, device)
    losses, started = [], time.perf_counter()
    for index in range(steps):
        value = learning_rate(index, steps, config)
        if on_gpu:
            rate.fill_(value)
        else:
            for group in optimizer.param_groups:
                group["lr"] = value
        decay.fill_(min(1 - 1 / max(2.0, config.average * steps), index / (index + 10)))
        loss = run()
        noted = max(1, steps // 100)
        if index % noted == 0 or index == steps - 1:
            losses.append(float(loss))
            if index % (10 * noted) == 0:
                log.info(
                    "%s step %d of %d, loss %.4f, %.0f s",
                    name,
                    index,
                    steps,
                    losses[-1],
                    time.perf_counter() - started,
                )
    with torch.no_grad():
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.copy_(average)
    return LoopReport(steps, time.perf_counter() - started, tuple(losses))


def _eager(step: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        return step()

    return run


def _captured(
    step: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    rate: Tensor,
) -> Callable[[], Tensor]:
    rate.fill_(0.0)  # warming up must not teach anything
    return recorded(step, generator, lambda: optimizer.zero_grad(set_to_none=True))


def recorded(
    step: Callable[[], Output],
    generator: torch.Generator | None = None,
    reset: Callable[[], None] = lambda: None,
) -> Callable[[], Output]:
    """Record a step on a GPU; return what replays it.

    Args:
        step: takes no branch by what it draws; what it returns is written again by every replay.
        generator: what it draws by, if it draws at all; it may be seeded anew between replays.
        reset: what goes before each of its first runs.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_RUNS):
            reset()
            step()
    torch.cuda.current_stream().wait_stream(side)
    reset()
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        made = step()

    def run() -> Output:
        graph.replay()
        return made

    return run


def measured_steps(run: Callable[[], object], config: LoopConfig, device: torch.device) -> int:
    """Return how many runs a configuration's seconds are worth, from a few trials."""
    if config.seconds is None:
        raise ValueError("a training loop needs either steps or seconds")
    trial = 20 if device.type == "cuda" else 1
    run()
    _wait(device)
    started = time.perf_counter()
    for _ in range(trial):
        run()
    _wait(device)
    return max(trial, int(config.seconds * trial / (time.perf_counter() - started)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
