"""How does a subgraph become coefficients? A variational graph auto-encoder with a Beta decoder.

DiffGraph section 3.2, equations 1-3 (https://arxiv.org/abs/2603.20470), after VGAE
(https://arxiv.org/abs/1611.07308). Two graph networks of two layers each give every node a mean
and a log-variance; a latent h is drawn from them; a feed-forward network reads [h_prompt,
h_expert] and gives a, b, so that the expert's weight is distributed as Beta(1 + e^a, 1 + e^b),
which has one peak. When an image is wanted, the means of both distributions are used.

The layers are graph convolutions (https://arxiv.org/abs/1609.02907) whose messages also depend on
the edge: with edge networks at their initial zero they are exactly `torch_geometric.nn.GCNConv`.
They are written in plain torch because importing torch_geometric takes longer than planning.
"""

import math
from dataclasses import dataclass

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional

from diffgraph.merging.plan import STRONGEST
from diffgraph.planner.subgraph import NODE_WIDTH, Batch, edge_width
from diffgraph.scoring.reward import SCORE_NAMES

LOG_VARIANCE = (-10.0, 4.0)
SHAPE = (-4.0, 5.0)  # limits of a and b: Beta(1.02, …) is nearly flat, Beta(150, …) nearly certain
FIRST_LOG_VARIANCE = -4.0
WIDEST = 2048  # 130 MB of weights; hundreds of experts are told apart by far fewer
MEAN_LIMITS = (0.08, 0.92)  # of the prior: a Beta with one peak cannot have its mean at an end


class VGAEConfig(BaseModel, frozen=True, extra="forbid"):
    """The size of the planner's network, and where its search starts."""

    hidden: int = Field(default=32, ge=1, le=WIDEST)
    latent: int = Field(default=16, ge=1, le=WIDEST)
    prior: bool = Field(
        default=True,
        description="start at the recommended strengths rather than at one half for everybody",
    )
    prior_concentration: float = Field(
        default=14.0, gt=2.2, description="alpha + beta of the start: higher explores less"
    )


class EdgeGraphConv(nn.Module):
    """A graph convolution whose messages are gated and shifted by what is on the edge.

    out_i = bias + sum over j of n_ij (gate(e_ij) * W x_j + shift(e_ij)), with self-loops that
    carry no edge features, and n_ij = w_ij / sqrt(d_i d_j) as in GCN.
    """

    def __init__(self, width_in: int, width_out: int, edge_width: int) -> None:
        super().__init__()
        self.lin = nn.Linear(width_in, width_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(width_out))
        self.edge_in = nn.Linear(edge_width, width_out)
        self.edge_out = nn.Linear(width_out, 2 * width_out)

    def reset(self, generator: torch.Generator) -> None:
        """Draw new weights. The edge network starts as if there were no edge features."""
        _glorot(self.lin.weight, generator)
        _glorot(self.edge_in.weight, generator)
        for zero in (self.bias, self.edge_in.bias, self.edge_out.weight, self.edge_out.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, edge_index: Tensor, edges: Tensor, weights: Tensor) -> Tensor:
        """Return (nodes, width_out).

        Args:
            x: (nodes, width_in).
            edge_index: (2, edges), from row 0 to row 1.
            edges: (edges, edge_width).
            weights: (edges,), not negative.
        """
        source, target = edge_index
        degree = torch.ones(len(x), dtype=x.dtype).index_add(0, target, weights)
        scale = degree.rsqrt()
        x = self.lin(x)
        gate, shift = self.edge_out(functional.silu(self.edge_in(edges))).chunk(2, dim=1)
        messages = (1.0 + gate) * x[source] + shift
        norm = scale[source] * weights * scale[target]
        own = x * (scale * scale).unsqueeze(1)
        return own.index_add(0, target, norm.unsqueeze(1) * messages) + self.bias


class GraphNetwork(nn.Module):
    """Two graph convolutions: GNN_mu and GNN_sigma of the paper are one each."""

    def __init__(self, config: VGAEConfig, edges: int) -> None:
        super().__init__()
        self.first = EdgeGraphConv(NODE_WIDTH, config.hidden, edges)
        self.norm = nn.LayerNorm(config.hidden)
        self.second = EdgeGraphConv(config.hidden, config.latent, edges)

    def forward(self, batch: Batch) -> Tensor:
        """Return (nodes, latent)."""
        edges = (batch.edge_index, batch.edges, batch.weights)
        hidden = functional.silu(self.norm(self.first(batch.nodes, *edges)))
        return torch.as_tensor(self.second(hidden, *edges))


@dataclass(frozen=True)
class Latent:
    """The distribution of the latents of the prompts and experts of a batch, prompts first."""

    mean: Tensor  # (graphs + experts, latent)
    log_variance: Tensor  # (graphs + experts, latent)

    def drawn(self, noise: Tensor) -> Tensor:
        """Return latents for standard normal noise (…, graphs + experts, latent)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def divergence(self) -> Tensor:
        """Return the mean KL divergence of a latent from a standard normal one, in nats."""
        variance = self.log_variance.exp()
        nats = 0.5 * (self.mean.square() + variance - 1.0 - self.log_variance)
        return nats.sum(dim=1).mean()


class VGAE(nn.Module):
    """The planner's network: subgraph → latents → a Beta distribution of each expert's weight."""

    def __init__(
        self, config: VGAEConfig, generator: torch.Generator, scores: int = len(SCORE_NAMES)
    ) -> None:
        """Draw new weights, of a width that reads so many scores of an edge."""
        super().__init__()
        self.config = config
        self.mean = GraphNetwork(config, edge_width(scores))
        self.log_variance = GraphNetwork(config, edge_width(scores))
        self.decoder_in = nn.Linear(2 * config.latent, config.hidden)
        self.decoder_out = nn.Linear(config.hidden, 2)
        for network in (self.mean, self.log_variance):
            network.first.reset(generator)
            network.second.reset(generator)
        nn.init.constant_(self.log_variance.second.bias, FIRST_LOG_VARIANCE)
        _glorot(self.decoder_in.weight, generator)
        # the last layer starts at zero: the first plans are the prior's
        for zero in (self.decoder_in.bias, self.decoder_out.weight, self.decoder_out.bias):
            nn.init.zeros_(zero)

    def encode(self, batch: Batch) -> Latent:
        """Return the latents' distribution: equation 2."""
        kept = torch.cat([batch.users, batch.experts])
        log_variance = self.log_variance(batch)[kept].clamp(*LOG_VARIANCE)
        return Latent(mean=self.mean(batch)[kept], log_variance=log_variance)

    def decode(self, latents: Tensor, batch: Batch) -> Beta:
        """Return the distribution of the experts' weights: equation 3.

        Args:
            latents: (…, graphs + experts, latent).
            batch: what they were encoded from.
        """
        prompts = latents[..., : len(batch.users), :][..., batch.owners, :]
        experts = latents[..., len(batch.users) :, :]
        hidden = functional.silu(self.decoder_in(torch.cat([prompts, experts], dim=-1)))
        shape = (self.decoder_out(hidden) + self._prior(batch)).clamp(*SHAPE)
        alpha, beta = (1.0 + shape.exp()).unbind(dim=-1)
        return Beta(alpha, beta, validate_args=False)

    def expected(self, batch: Batch) -> Tensor:
        """Return the weights that are used when an image is wanted: (experts,), in (0, 1)."""
        with torch.no_grad():
            return torch.as_tensor(self.decode(self.encode(batch).mean, batch).mean)

    def _prior(self, batch: Batch) -> Tensor:
        """Return the a and b of the start, added to the decoder's: (experts, 2)."""
        if not self.config.prior:
            return torch.zeros(len(batch.strengths), 2)
        mean = (batch.strengths / STRONGEST).clamp(*MEAN_LIMITS)
        # alpha and beta must both stay above 1
        total = torch.maximum(
            torch.full_like(mean, self.config.prior_concentration),
            1.1 / torch.minimum(mean, 1.0 - mean),
        )
        return torch.stack([mean * total - 1.0, (1.0 - mean) * total - 1.0], dim=1).log()


def _glorot(weight: Tensor, generator: torch.Generator) -> None:
    limit = math.sqrt(6.0 / (weight.shape[0] + weight.shape[1]))
    with torch.no_grad():
        weight.uniform_(-limit, limit, generator=generator)
