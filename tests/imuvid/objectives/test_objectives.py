"""Contract 1 for the objectives: at any world size, loss and gradients are those of the dense formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from imuvid.objectives.infonce import InfoNCE
from imuvid.objectives.pairwise_sigmoid import PairwiseSigmoid
from tests.ranks import run_ranks

OBJECTIVES = {"sigmoid": PairwiseSigmoid, "infonce": InfoNCE}
N, D = 12, 5


def embeddings(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    pairs = [F.normalize(torch.randn(N, D, generator=generator, dtype=dtype), dim=1) for _ in range(2)]
    recording = torch.tensor([0, 0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 0])
    return pairs[0], pairs[1], recording


def on_rank(rank, world):
    """Loss and gradients of every objective, masked and not, on this rank's rows."""
    return {(kind, masked): one_case(rank, world, kind, masked) for kind in OBJECTIVES for masked in (False, True)}


def one_case(rank, world, kind, masked):
    imu, video, recording = embeddings()
    rows = slice(rank * N // world, (rank + 1) * N // world)
    objective = OBJECTIVES[kind]().double()
    a, b = imu[rows].clone().requires_grad_(), video[rows].clone().requires_grad_()
    loss, _ = objective(a, b, recording[rows] if masked else None)
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in objective.named_parameters()}
    return loss.item(), a.grad.numpy(), b.grad.numpy(), gradients


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_loss_and_gradients_at_world_equal_the_dense_formula(world):
    ranks = run_ranks(on_rank, world, world)
    for kind, masked in ranks[0]:
        check(kind, world, masked, [rank[kind, masked] for rank in ranks])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_one_process_equals_the_dense_formula(kind, masked):
    check(kind, 1, masked, [one_case(0, 1, kind, masked)])


def check(kind, world, masked, results):
    imu, video, recording = embeddings()
    imu.requires_grad_(), video.requires_grad_()
    objective = OBJECTIVES[kind]().double()
    start = {name: p.detach().clone().requires_grad_() for name, p in objective.named_parameters()}
    t = start["log_scale"]
    loss = dense_loss(kind, imu, video, t, start.get("bias"), recording if masked else None)
    loss.backward()
    # Parameters' gradients are averaged over ranks; each rank's own rows then carry 1/world of what it computed.
    assert np.mean([r[0] for r in results]) == pytest.approx(loss.item(), rel=1e-9)
    assert np.concatenate([r[1] for r in results]) / world == pytest.approx(imu.grad.numpy(), rel=1e-7, abs=1e-12)
    assert np.concatenate([r[2] for r in results]) / world == pytest.approx(video.grad.numpy(), rel=1e-7, abs=1e-12)
    for name, parameter in start.items():
        mean = np.mean([r[3][name] for r in results], axis=0)
        assert mean == pytest.approx(parameter.grad.numpy(), rel=1e-7, abs=1e-12)


def dense_loss(kind, imu, video, log_scale, bias, recording):
    """The formulas of the docstrings, pair by pair."""
    t = torch.exp(log_scale)
    total = torch.zeros(1, dtype=imu.dtype)
    for i in range(N):
        negatives = [j for j in range(N) if j != i and (recording is None or recording[i] != recording[j])]
        if kind == "sigmoid":
            total = total - torch.log(torch.sigmoid(t * (imu[i] @ video[i]) + bias))
            for j in negatives:
                total = total - torch.log(torch.sigmoid(-(t * (imu[i] @ video[j]) + bias)))
        else:
            for a, b in ((imu, video), (video, imu)):
                own = torch.exp(t * (a[i] @ b[i]))
                total = total - torch.log(own / (own + sum(torch.exp(t * (a[i] @ b[j])) for j in negatives))) / 2
    return total / N


def test_infonce_equals_the_clip_loss_of_transformers():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    imu, video, _ = embeddings(torch.float32)
    objective = InfoNCE()
    loss, _ = objective(imu, video)
    logits = objective.log_scale.exp() * imu @ video.T
    assert loss.item() == pytest.approx(image_text_contrastive_loss(logits).item(), rel=1e-6)


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
        objective = PairwiseSigmoid()
        objective.log_scale.fill_(2.0)
        objective.bias.fill_(-3.0)
        loss, _ = objective(output.text_embeds, output.image_embeds)
    assert loss.item() == pytest.approx(output.loss.item(), rel=1e-5)


def test_sigmoid_starts_where_the_paper_starts():
    # t = 10 and b = -10: about 10 a positive pair, next to nothing a negative one (random embeddings, 32 pairs).
    generator = torch.Generator().manual_seed(1)
    imu, video = (F.normalize(torch.randn(32, 512, generator=generator), dim=1) for _ in range(2))
    loss, figures = PairwiseSigmoid()(imu, video)
    assert 9.5 < loss.item() < 10.5
    assert figures["temperature"].item() == pytest.approx(0.1)
    assert figures["bias"].item() == -10


def test_temperature_is_bounded():
    objective = InfoNCE()
    with torch.no_grad():
        objective.log_scale.fill_(50.0)
    imu, video, _ = embeddings(torch.float32)
    loss, figures = objective(imu, video)
    assert torch.isfinite(loss)
    assert figures["temperature"].item() == pytest.approx(0.01, rel=1e-5)
