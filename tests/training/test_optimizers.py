"""Muon against torch's own, which knows matrices alone, against AdamW and against a singular value decomposition."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reidlab.config import compose, instantiate
from reidlab.training.optimizers import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 16), (8, 72), (256, 128)])
def test_orthogonal_keeps_the_singular_vectors_and_levels_the_values(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonal(matrix[None])[0] @ v.T  # diagonal, if the singular vectors are the same
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-3, rtol=0)
    strong = torch.linalg.svdvals(matrix) > 0.05 * matrix.norm()
    assert ((inside.diagonal()[strong] > 0.6) & (inside.diagonal()[strong] < 1.3)).all()
    assert not orthogonal(torch.zeros(1, *shape)).any()


def test_kernels_move_as_torchs_muon_moves_their_matrices():
    torch.manual_seed(0)
    options = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    shapes = (8, 4, 3, 3), (16, 8, 1, 1), (8, 4, 3, 3), (8, 16, 1, 1), (16, 8, 1, 1)
    kernels = [nn.Parameter(torch.randn(shape).to(memory_format=torch.channels_last)) for shape in shapes]
    matrices = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    mine = Muon(kernels, **options)
    torchs = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **options)
    for _ in range(5):
        for kernel, matrix in zip(kernels, matrices, strict=True):
            kernel.grad = torch.randn_like(kernel)
            matrix.grad = kernel.grad.flatten(1).clone()
        gradients = [kernel.grad.clone() for kernel in kernels]
        mine.step()
        torchs.step()
        assert all(torch.equal(kernel.grad, as_it_was) for kernel, as_it_was in zip(kernels, gradients, strict=True))
    for kernel, matrix in zip(kernels, matrices, strict=True):
        torch.testing.assert_close(kernel.flatten(1), matrix, atol=2e-3, rtol=0)  # torch's works in bfloat16


def test_all_else_moves_as_by_adamw():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    twin = copy.deepcopy(network)
    options = {"lr": 0.01, "weight_decay": 0.1}
    optimizers = Muon(network.parameters(), **options), torch.optim.AdamW(twin.parameters(), **options)
    for _ in range(4):
        image, label = torch.randn(5, 4, 4, 4), torch.randint(3, (5,))
        for model, optimizer in zip((network, twin), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(image), label).backward()
            optimizer.step()
    for mine, torchs in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, torchs)


def test_a_stored_state_goes_on_as_if_never_stopped():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8))
    twin = copy.deepcopy(network)
    optimizer = Muon(network.parameters())

    def step(model, optimizer, seed):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        optimizer.step()

    step(network, optimizer, 1)
    twin.load_state_dict(network.state_dict())
    resumed = Muon(twin.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(network, optimizer, 2)
    step(twin, resumed, 2)
    for one, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_the_config_builds_it():
    optimizer = instantiate(compose(["optimizer=muon", "optimizer.lr=0.03"]).optimizer)([nn.Parameter(torch.ones(2))])
    assert isinstance(optimizer, Muon) and optimizer.defaults["lr"] == 0.03
