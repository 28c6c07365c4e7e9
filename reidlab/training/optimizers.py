"""Optimizers beside torch's own."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of a X + b (X X^T) X + c (X X^T)^2 X


class Muon(Optimizer):
    """Orthogonalized momentum for the kernels of convolutions, AdamW for all else.

    Kernels that mix channels, (O, I, h, w) with I > 1, are matrices (O, I h w) to it; depthwise kernels, biases, batch
    norms and linear layers are AdamW's. An orthogonalized step has the root mean square 0.2, about that of Adam's, so
    that one learning rate suits both. Jordan et al. 2024, kellerjordan.github.io/posts/muon; the scale: Liu et al.,
    arXiv 2502.16982, equation 4.

    Args:
        params: parameters, or groups of them.
        lr: learning rate of both.
        momentum: of the orthogonalized steps.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of both.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-2,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            if kernels := [p for p in learning if mixes_channels(p)]:
                self._orthogonal_step(kernels, group)
            if others := [p for p in learning if not mixes_channels(p)]:
                self._adam_step(others, group)
        return loss

    def _orthogonal_step(self, kernels: list[Tensor], group: dict) -> None:
        gradients = [cast(Tensor, kernel.grad).flatten(1) for kernel in kernels]
        for kernel, gradient in zip(kernels, gradients, strict=True):
            if not self.state[kernel]:
                self.state[kernel]["momentum"] = torch.zeros_like(gradient)
        momenta = [self.state[kernel]["momentum"] for kernel in kernels]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
        torch._foreach_mul_(kernels, 1 - group["lr"] * group["weight_decay"])
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for kernel, matrix in zip(kernels, ahead, strict=True):
            alike[matrix.shape].append((kernel, matrix))
        for shape, pairs in alike.items():
            updates = orthogonal(torch.stack([matrix for _, matrix in pairs]))
            rate = group["lr"] * 0.2 * max(shape) ** 0.5
            for (kernel, _), update in zip(pairs, updates, strict=True):
                kernel.add_(update.view_as(kernel), alpha=-rate)

    def _adam_step(self, parameters: list[Tensor], group: dict) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                fresh = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] |= fresh | {"step": torch.zeros((), device=parameter.device)}
        states = [self.state[parameter] for parameter in parameters]
        for state in states:
            state["step"] = state["step"].to(state["exp_avg"].device)  # torch leaves it where a checkpoint was loaded
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [cast(Tensor, parameter.grad) for parameter in parameters],
            exp_avgs=[state["exp_avg"] for state in states],
            exp_avg_sqs=[state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def mixes_channels(parameter: Tensor) -> bool:
    """Whether a parameter is the kernel of a convolution whose outputs see more than one channel."""
    return parameter.ndim == 4 and parameter.shape[1] > 1


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """U V^T of each of B matrices U S V^T (B, M, N), roughly: singular values come to 0.7 to 1.2 (Newton-Schulz)."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if tall else wide
