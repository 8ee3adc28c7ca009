"""Contract 1 for the contrastive objectives: loss and gradients are the dense ones, at any world and chunk size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from imuvid.objectives.infonce import InfoNCE
from imuvid.objectives.pairwise_sigmoid import PairwiseSigmoid
from imuvid.objectives.views import Views
from tests.ranks import run_ranks

OBJECTIVES = {"sigmoid": PairwiseSigmoid, "infonce": InfoNCE}
N, D = 24, 5
# name -> (margin of false negatives in seconds, windows without one of the two, chunk)
CASES = {
    "plain": (0.0, False, 2048),
    "odd chunk": (0.0, False, 5),
    "whole recording": (math.inf, False, 4),
    "margin": (4.0, False, 7),
    "absent": (4.0, True, 5),
    "text": (4.0, True, 5),
}
TEXTS = 9  # different ones, so that some windows have the same


def make_views(absent=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    pairs = [F.normalize(torch.randn(N, D, generator=generator), dim=1).to(dtype) for _ in range(2)]
    recording = torch.randint(0, 5, (N,), generator=generator)
    start_s = torch.randint(0, 6, (N,), generator=generator) * 2.0
    has_imu, has_video = torch.ones(N, dtype=torch.bool), torch.ones(N, dtype=torch.bool)
    if absent:
        has_imu[[0, 7, 23]], has_video[[1, 2, 7, 12]] = False, False
    text_number = torch.randint(0, TEXTS, (N,), generator=generator)
    return Views(
        recording, start_s.double(), has_imu, has_video, *pairs, pairs[1].clone(), has_video.clone(), text_number
    )


def modalities_of(case):
    return ("imu", "text") if case == "text" else ("imu", "video")


def rows_of(views, rows):
    return Views(**{name: tensor[rows].clone() for name, tensor in vars(views).items() if tensor is not None})


def on_rank(rank, world):
    """Loss and gradients of every objective and case on this rank's rows."""
    return {(kind, case): one_case(rank, world, kind, case) for kind in OBJECTIVES for case in CASES}


def one_case(rank, world, kind, case):
    margin_s, absent, chunk = CASES[case]
    views = rows_of(make_views(absent), slice(rank * N // world, (rank + 1) * N // world))
    objective = OBJECTIVES[kind](margin_s, chunk, modalities_of(case))
    leaves = [x.requires_grad_() for x in views.pair(modalities_of(case))]
    loss, _ = objective(views)
    (3.0 * loss).backward()  # as a weight in a sum of objectives
    gradients = {name: p.grad.numpy() / 3 for name, p in objective.named_parameters()}
    with torch.no_grad():
        assert objective(views)[0].item() == loss.item()
    return loss.item(), *(leaf.grad.numpy() / 3 for leaf in leaves), gradients


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_loss_and_gradients_at_world_equal_the_dense_formula(world):
    ranks = run_ranks(on_rank, world, world)
    for kind, case in ranks[0]:
        check(kind, case, [rank[kind, case] for rank in ranks])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_one_process_equals_the_dense_formula(kind, case):
    check(kind, case, [one_case(0, 1, kind, case)])


def check(kind, case, results):
    margin_s, absent, _ = CASES[case]
    views = make_views(absent, torch.float64)
    views.imu.requires_grad_(), views.video.requires_grad_()
    start = {name: p.detach().double().requires_grad_() for name, p in OBJECTIVES[kind]().named_parameters()}
    told_apart = list(range(N)) if case != "text" else views.text_number.tolist()
    loss = dense_loss(kind, views, margin_s, start["log_scale"], start.get("bias"), told_apart)
    loss.backward()
    # Parameters' gradients are averaged over ranks; each rank's own rows then carry 1/world of what it computed.
    assert np.mean([r[0] for r in results]) == pytest.approx(loss.item(), rel=1e-5)
    close(np.concatenate([r[1] for r in results]) / len(results), views.imu.grad)
    close(np.concatenate([r[2] for r in results]) / len(results), views.video.grad)
    for name, parameter in start.items():
        close(np.mean([r[3][name] for r in results], axis=0), parameter.grad)


def close(found, expected):
    assert np.abs(found - expected.numpy()).max() <= 1e-5 * np.abs(expected.numpy()).max()


def dense_loss(kind, views, margin_s, log_scale, bias, told_apart):
    """The formulas of the docstrings, pair by pair."""
    t, imu, video = torch.exp(log_scale), views.imu, views.video
    # What lacks one of the two takes no part: this is the formula on the rest.
    paired = [i for i in range(N) if views.has_imu[i] and views.has_video[i]]

    def far(i, j):
        near = (views.start_s[i] - views.start_s[j]).abs() < margin_s
        return told_apart[i] != told_apart[j] and not (views.recording[i] == views.recording[j] and near)

    total = torch.zeros(1, dtype=imu.dtype)
    if kind == "sigmoid":
        for i in paired:
            total = total - torch.log(torch.sigmoid(t * (imu[i] @ video[i]) + bias))
            for j in paired:
                if far(i, j):
                    total = total - torch.log(torch.sigmoid(-(t * (imu[i] @ video[j]) + bias)))
        return total / len(paired)
    for a, b in ((imu, video), (video, imu)):
        for i in paired:
            own = torch.exp(t * (a[i] @ b[i]))
            others = sum(torch.exp(t * (a[i] @ b[j])) for j in paired if far(i, j))
            total = total - torch.log(own / (own + others)) / 2
    return total / len(paired)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_batch_without_any_pair_costs_nothing(kind):
    views = make_views()
    views.has_video[:] = False
    views.imu.requires_grad_()
    loss, _ = OBJECTIVES[kind]()(views)
    loss.backward()
    assert loss.item() == 0
    assert not views.imu.grad.any()


def test_infonce_equals_the_clip_loss_of_transformers():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    objective, views = InfoNCE(chunk=7), make_views()
    leaves = views.imu.requires_grad_(), views.video.requires_grad_(), objective.log_scale
    loss, _ = objective(views)
    theirs = image_text_contrastive_loss(objective.log_scale.exp() * views.imu @ views.video.T)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)
    for mine, other in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        close(mine.numpy(), other)


def test_sigmoid_equals_the_siglip_loss_of_transformers():
    from transformers import SiglipConfig, SiglipModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 20, "max_position_embeddings": 4}
    torch.manual_seed(0)
    peer = SiglipModel(SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 8, "patch_size": 4}))
    with torch.no_grad():
        peer.logit_scale.fill_(2.0)
        peer.logit_bias.fill_(-3.0)
    output = peer(input_ids=torch.randint(1, 19, (6, 4)), pixel_values=torch.randn(6, 3, 8, 8), return_loss=True)
    output.loss.backward()
    objective = PairwiseSigmoid(chunk=4)
    with torch.no_grad():
        objective.log_scale.fill_(2.0)
        objective.bias.fill_(-3.0)
    some = rows_of(make_views(), slice(0, 6))
    some.imu, some.video = output.text_embeds.detach(), output.image_embeds.detach()
    loss, _ = objective(some)
    loss.backward()
    assert loss.item() == pytest.approx(output.loss.item(), rel=1e-5)
    close(objective.log_scale.grad.numpy(), peer.logit_scale.grad)
    close(objective.bias.grad.numpy(), peer.logit_bias.grad)


def test_sigmoid_starts_where_the_paper_starts():
    # t = 10 and b = -10: about 10 a positive pair, next to nothing a negative one (random embeddings, 32 pairs).
    generator = torch.Generator().manual_seed(1)
    imu, video = (F.normalize(torch.randn(32, 512, generator=generator), dim=1) for _ in range(2))
    there = torch.ones(32, dtype=torch.bool)
    loss, figures = PairwiseSigmoid()(Views(torch.arange(32), torch.zeros(32), there, there, imu, video))
    assert 9.5 < loss.item() < 10.5
    assert figures["temperature"].item() == pytest.approx(0.1)
    assert figures["bias"].item() == -10


def test_the_temperature_is_bounded_and_can_come_back():
    objective = InfoNCE()
    with torch.no_grad():
        objective.log_scale.fill_(50.0)
    views = make_views()
    loss, figures = objective(views)
    loss.backward()
    assert torch.isfinite(loss)
    assert figures["temperature"].item() == pytest.approx(0.01, rel=1e-5)
    assert objective.log_scale.grad.item() > 0  # these pairs are no nearer than others: it is to fall
    objective.log_scale.grad = None
    views.video = views.imu  # perfect pairs: it would rise
    objective(views)[0].backward()
    assert objective.log_scale.grad.item() == 0


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_autograd_keeps_two_embeddings_whatever_the_number_of_logits(kind):
    views = make_views()
    views.imu.requires_grad_(), views.video.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        OBJECTIVES[kind]()(views)
    assert sum(kept) <= 2 * N * D + 8
