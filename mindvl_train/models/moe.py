"""Mixture of experts: Qwen3-MoE's router, with Qwen3.5's shared expert, and that of DeepSeek-V3 (arXiv 2412.19437,
2.1.2), dropless."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from mindvl_train.dtensor import local, place_of
from mindvl_train.kernels.registry import Kernels
from mindvl_train.models.layers import FeedForward


class MoEConfig(BaseModel):
    """The experts of a decoder.

    Attributes:
        num_experts: from which the router chooses; `num_shared_experts` more see every token.
        num_experts_per_tok: chosen for a token.
        moe_intermediate_size: of one expert.
        shared_expert_intermediate_size: of all shared experts together; None: that of so many experts.
        shared_expert_gate: whether a token's shared experts count by a gate of its own (Qwen3.5).
        dense_layers: the layers that have a plain feed-forward instead.
        scoring: softmax over the experts, or a sigmoid for each.
        norm_topk_prob: whether the weights of the chosen experts add up to 1 (before `routed_scaling_factor`).
        n_group: experts fall into so many groups of neighbours; only the best `topk_group` are chosen from.
        balance_speed: what a step adds to, or takes from, the bias of an expert that had fewer, or more, tokens
            than the mean; None: no bias.
        aux_loss_coef: of the auxiliary loss that balances a softmax router through gradients; 0: none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    num_shared_experts: int = 0
    shared_expert_intermediate_size: int | None = None
    shared_expert_gate: bool = False
    dense_layers: tuple[int, ...] = ()
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    norm_topk_prob: bool = True
    n_group: int = 1
    topk_group: int = 1
    routed_scaling_factor: float = 1.0
    balance_speed: float | None = None
    aux_loss_coef: float = 0.0

    @model_validator(mode="after")
    def _auxiliary_loss_of_shares(self) -> "MoEConfig":
        if self.aux_loss_coef and self.scoring != "softmax":
            raise ValueError("aux_loss_coef is of a softmax router; a sigmoid one is balanced by balance_speed")
        return self

    @model_validator(mode="after")
    def _gate_of_something(self) -> "MoEConfig":
        if self.shared_expert_gate and not self.shared_size:
            raise ValueError("shared_expert_gate is of shared experts, and there are none")
        return self

    @property
    def shared_size(self) -> int:
        """The intermediate size of all shared experts together."""
        stated = self.shared_expert_intermediate_size
        return self.num_shared_experts * self.moe_intermediate_size if stated is None else stated


class Router(nn.Module):
    """Chooses experts for every token, in float32.

    Attributes:
        load: for the auxiliary loss, of the forward passes since it was taken: the tokens of every expert and the sum
            of its scores, both [E].
        looks_ahead: whether a pass without gradients counts as well.
    """

    load: tuple[Tensor, Tensor] | None = None
    looks_ahead = False

    def __init__(self, config: MoEConfig, size: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, size))
        # Trains where its globs say so, but by `balance`, not by gradients: it decides the choice alone.
        biased = config.balance_speed is not None
        self.e_score_correction_bias = nn.Parameter(torch.empty(config.num_experts)) if biased else None

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """[T, size] → the experts [T, K] int64 and their weights [T, K] float32."""
        logits = F.linear(hidden.float(), self.weight.float())
        scores = logits.sigmoid() if self.config.scoring == "sigmoid" else logits.softmax(dim=-1)
        experts = self._best(scores.detach()).topk(self.config.num_experts_per_tok, dim=-1).indices
        counts = self.looks_ahead or (torch.is_grad_enabled() and not _computed_again())
        if self.config.aux_loss_coef and counts:
            load = _tokens_of_each(experts, scores.shape[1]).to(scores.dtype), scores.sum(dim=0)
            self.load = load if self.load is None else (self.load[0] + load[0], self.load[1] + load[1])
        weights = scores.gather(1, experts)
        if self.config.norm_topk_prob:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return experts, weights * self.config.routed_scaling_factor

    def _best(self, scores: Tensor) -> Tensor:
        """[T, E]: what the choice goes by; -inf outside the best groups, which count by their best two."""
        if self.e_score_correction_bias is not None:
            scores = scores + self.e_score_correction_bias.detach()
        if self.config.n_group == 1:
            return scores
        grouped = scores.view(len(scores), self.config.n_group, scores.shape[1] // self.config.n_group)
        groups = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(self.config.topk_group, dim=-1).indices
        outside = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(1, groups, value=False)
        return grouped.masked_fill(outside.unsqueeze(-1), float("-inf")).flatten(1)


def _computed_again() -> bool:
    """Whether this is the second time, within the backward pass, that activation checkpointing computes."""
    return bool(torch._C._current_graph_task_id() != -1)


def _tokens_of_each(experts: Tensor, num_experts: int) -> Tensor:
    """[T, K] experts of every token → [num_experts] int64."""
    chosen = experts.flatten()
    return torch.zeros(num_experts, dtype=torch.int64, device=chosen.device).scatter_add_(
        0, chosen, torch.ones_like(chosen)
    )


# Tokens sorted by expert and their counts → those of this rank's experts, and what brings their outputs back.
Exchange = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]


def stay(tokens: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """All experts are here."""
    return tokens, counts, lambda outputs: outputs


class Experts(nn.Module):
    """Gated feed-forward layers, their weights stacked: [E, out, in]."""

    def __init__(self, config: MoEConfig, size: int, kernels: Kernels) -> None:
        super().__init__()
        into, out = (config.num_experts, config.moe_intermediate_size, size), config.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.empty(into))
        self.up_proj = nn.Parameter(torch.empty(into))
        self.down_proj = nn.Parameter(torch.empty(config.num_experts, size, out))
        self.kernels = kernels
        # What brings tokens to the experts of this rank; all are here unless expert parallelism says otherwise.
        self.exchange: Exchange = stay

    def forward(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """[M, size] sorted by expert, [E] tokens of each → [M, size]."""
        tokens, counts, back = self.exchange(tokens, counts)
        gate, up, down = (local(weight).transpose(1, 2) for weight in (self.gate_proj, self.up_proj, self.down_proj))
        gated, widened = (self.kernels.grouped_gemm(tokens, weight, counts) for weight in (gate, up))
        return back(self.kernels.grouped_gemm(self.kernels.swiglu(gated, widened), down, counts))


class MixtureOfExperts(nn.Module):
    """Routes real tokens to experts, adds what the shared experts say, and counts for the balance."""

    tokens_per_expert: Tensor

    def __init__(self, config: MoEConfig, size: int, kernels: Kernels) -> None:
        super().__init__()
        self.gate = Router(config, size)
        self.experts = Experts(config, size, kernels)
        shared_size = config.shared_size
        self.shared_experts = FeedForward(size, shared_size, kernels, bias=False) if shared_size else None
        self.shared_expert_gate = nn.Linear(size, 1, bias=False) if config.shared_expert_gate else None
        self.register_buffer("tokens_per_expert", torch.zeros(config.num_experts), persistent=False)
        self.kernels = kernels

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """[T, size] → [T, size].

        Args:
            hidden: of every token.
            real: [R] int64, the tokens that are not padding: others reach no expert and count in no balance.
        """
        tokens = hidden.index_select(0, real)
        experts, weights = self.gate(tokens)
        counts = _tokens_of_each(experts, len(self.tokens_per_expert))
        if torch.is_grad_enabled() and not _computed_again():
            self.tokens_per_expert.add_(counts)
        permuted, places = self.kernels.moe_permute(tokens, experts)
        routed = self.kernels.moe_unpermute(self.experts(permuted, counts), places, weights)
        output = torch.zeros_like(hidden).index_copy(0, real, routed)
        return output if self.shared_experts is None else output + self._shared(self.shared_experts, hidden)

    def _shared(self, experts: nn.Module, hidden: Tensor) -> Tensor:
        shared: Tensor = experts(hidden)
        return shared if self.shared_expert_gate is None else self.shared_expert_gate(hidden).sigmoid() * shared


def take_load(model: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Tokens and scores of every expert, both [E], over all layers and the forward passes since the last call; None:
    no router has an auxiliary loss."""
    routers = [module for module in model.modules() if isinstance(module, Router)]
    loads = [router.load for router in routers if router.load is not None]
    for router in routers:
        router.load = None
    if not loads:
        return None
    tokens, scores = (sum(column) for column in zip(*loads, strict=True))
    return tokens, scores


def auxiliary_loss(model: nn.Module, tokens_of: Callable[[Tensor], Tensor] = lambda part: part) -> Tensor | None:
    """What the routers of the last forward pass add to a mean loss, times its coefficient: a float32 scalar.

    E · Σ_e f_e · p_e with the tokens f and the scores p of expert e over all layers and real tokens as shares of
    tokens (Switch Transformer, arXiv 2101.03961, equations 4 to 6, as transformers computes it).

    Args:
        model: with the routers.
        tokens_of: this pass's tokens of every expert, [E] → those of everything that the loss is a mean over. f is
            theirs, and p the part that this pass has of it: over all passes and ranks the parts add up.

    Returns:
        None: no router has such a loss.
    """
    load = take_load(model)
    if load is None:
        return None
    config = next(module.config for module in model.modules() if isinstance(module, Router))
    tokens, scores = tokens_of(load[0]), load[1]
    rows = (tokens.sum() / config.num_experts_per_tok).clamp(min=1)
    loss: Tensor = config.aux_loss_coef * config.num_experts * (tokens / rows * scores / rows).sum()
    return loss


@torch.no_grad()
def begin_step(model: nn.Module, forwards: Sequence[Callable[[], object]]) -> Callable[[Tensor], Tensor]:
    """Empties the counts of a step that was left out, and finds what the experts of the global batch will have.

    Args:
        model: with the routers.
        forwards: the forward passes of this rank's micro-batches; run here where there are several and a router has
            an auxiliary loss, for that is a loss of the whole batch: each needs what the others will choose.

    Returns:
        The `tokens_of` of `auxiliary_loss`: the same on every rank.
    """
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            module.tokens_per_expert.zero_()
    take_load(model)
    routers = [module for module in model.modules() if isinstance(module, Router) and module.config.aux_loss_coef]
    if len(forwards) == 1 or not routers:
        return _over_ranks
    for router in routers:
        router.looks_ahead = True
    for forward in forwards:
        forward()
    for router in routers:
        router.looks_ahead = False
    load = take_load(model)
    assert load is not None, "every router with an auxiliary loss has noted its load"
    tokens = _over_ranks(load[0])
    return lambda part: tokens


def _over_ranks(tokens: Tensor) -> Tensor:
    """[E] → the sum over all ranks."""
    whole = tokens.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(whole)
    return whole


@torch.no_grad()
def balance(model: nn.Module) -> dict[str, float]:
    """Moves the bias of every router that trains, by the tokens since the last call (arXiv 2408.15664).

    The moves of a router add up to zero: a bias common to all experts chooses nothing. The tokens of all ranks
    count.

    Returns:
        `expert_load`, the tokens of the busiest expert over the mean, the worst of all layers, and
        `idle_experts`, those of all layers that no token chose; nothing without experts.
    """
    layers = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    if not layers:
        return {}
    counts = torch.stack([layer.tokens_per_expert for layer in layers])
    if dist.is_initialized():
        dist.all_reduce(counts)
    for layer, tokens in zip(layers, counts, strict=True):
        bias, speed = layer.gate.e_score_correction_bias, layer.gate.config.balance_speed
        if bias is not None and speed is not None and bias.requires_grad:
            moves = speed * torch.sign(tokens.mean() - tokens)
            local(bias).add_((moves - moves.mean())[place_of(bias)])
        layer.tokens_per_expert.zero_()
    loads = counts.amax(dim=1) / counts.mean(dim=1).clamp(min=1.0)
    return {"expert_load": float(loads.max()), "idle_experts": int((counts == 0).sum())}
