from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from imuvid.models.norm import GlobalBatchNorm, globalise_batchnorm
from tests.ranks import run_ranks

SHAPES = [(8, 3), (8, 3, 7), (8, 3, 2, 5, 4)]
SHIFT = 100.0  # a mean far from zero, where a careless variance loses its digits


def inputs(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) + SHIFT
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    return x, weight


def reference(shape):
    """One process with PyTorch's own batch normalisation."""
    x, weight = inputs(shape)
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}[len(shape)](3)
    x.requires_grad_()
    y = norm(x)
    (y * weight).sum().backward()
    return y, x.grad, norm


def on_rank(rank, world):
    results = []
    for shape in SHAPES:
        x, weight = inputs(shape)
        rows = slice(rank * 8 // world, (rank + 1) * 8 // world)
        x, weight = x[rows].clone().requires_grad_(), weight[rows]
        norm = GlobalBatchNorm(3)
        y = norm(x)
        (y * weight).sum().backward()
        results.append(
            tuple(t.detach().numpy() for t in (y, x.grad, norm.weight.grad, norm.running_mean, norm.running_var))
        )
    return results


@pytest.mark.slow
def test_two_ranks_equal_one_process_on_the_concatenated_batch():
    ranks = run_ranks(on_rank, 2, 2)
    for i, shape in enumerate(SHAPES):
        y, grad, norm = reference(shape)
        both = [r[i] for r in ranks]
        assert np.concatenate([b[0] for b in both]) == pytest.approx(y.detach().numpy(), abs=2e-4)
        assert np.concatenate([b[1] for b in both]) == pytest.approx(grad.numpy(), abs=2e-4)
        assert sum(b[2] for b in both) == pytest.approx(norm.weight.grad.numpy(), rel=1e-3, abs=1e-3)
        for b in both:
            assert b[3] == pytest.approx(norm.running_mean.numpy(), rel=1e-5)
            assert b[4] == pytest.approx(norm.running_var.numpy(), rel=1e-4)


def test_one_process_equals_batchnorm_in_training_and_evaluation():
    for shape in SHAPES:
        y, _, norm = reference(shape)
        ours = GlobalBatchNorm(3)
        x, _ = inputs(shape)
        assert torch.allclose(ours(x), y, atol=1e-5)
        assert torch.allclose(ours.eval()(x), norm.eval()(x), atol=1e-5)


def test_a_model_with_batchnorm_keeps_its_function_when_made_global():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3)))
    x = torch.randn(4, 2, 9)
    model(x)  # moves the running statistics
    before = model.eval()(x)
    after = globalise_batchnorm(model).eval()(x)
    assert torch.allclose(before, after, atol=1e-6)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in model.modules())


def test_half_precision_input_keeps_its_dtype():
    norm = GlobalBatchNorm(3).eval()
    assert norm(torch.randn(2, 3, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
