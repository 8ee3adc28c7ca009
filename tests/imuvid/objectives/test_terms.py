"""Contract 1 for the other objectives: loss and gradients are those of a formula over the whole batch, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from imuvid.objectives.build import ObjectiveConfig, build_objective
from imuvid.objectives.comodo import ComodoConfig
from imuvid.objectives.focal import FocalConfig
from imuvid.objectives.masked import MaskedConfig
from imuvid.objectives.nt_xent import NtXentConfig
from imuvid.objectives.objective import Widths
from imuvid.objectives.primus import PrimusConfig
from imuvid.objectives.views import Views
from tests.ranks import run_ranks

N, D, WIDTH, TOKENS = 12, 5, 7, 6
MARGIN_S = 3.0
WIDTHS = Widths(imu_features=WIDTH, imu_tokens=4, video_tokens=3, embedding=D, video_features=6)
SPAN_S = 5.0


def config_of(kind):
    """The objective with sizes that do not divide anything."""
    return ObjectiveConfig(
        kind=kind,
        mask_margin_s=MARGIN_S,
        nt_xent=NtXentConfig(temperature=0.3, dim=D),
        masked=MaskedConfig(patch_samples=4, num_sensors=2),
        comodo=ComodoConfig(queue_size=17),
        focal=FocalConfig(private_video=True, rank_span_s=SPAN_S),
        primus=PrimusConfig(self_share=0.3, queue_size=9, dim=D),
    )


def make_views(dtype=torch.float32, seed=0):
    """Twelve windows, some without IMU, some without video, some near others of their recording."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(N, *shape, generator=generator).to(dtype)

    def chance(*shape):
        return torch.rand(N, *shape, generator=generator) < 0.8

    has_imu, has_video = torch.ones(N, dtype=torch.bool), torch.ones(N, dtype=torch.bool)
    has_imu[4], has_video[[1, 4, 9]] = False, False
    return Views(
        recording=torch.randint(0, 4, (N,), generator=generator),
        start_s=torch.randint(0, 4, (N,), generator=generator) * 2.0,
        has_imu=has_imu,
        has_video=has_video,
        imu=F.normalize(normal(D), dim=1),
        video=F.normalize(normal(D), dim=1),
        imu_features=normal(WIDTH),
        second_features=normal(WIDTH),
        video_features=normal(6),
        second_video_features=normal(6),
        imu_tokens=normal(TOKENS, 4),
        imu_token_valid=chance(TOKENS),
        video_tokens=normal(3, 3),
        video_token_valid=chance(3),
        hidden_tokens=normal(TOKENS, 4),
        hidden=chance(10, 2, 6),
        readings=normal(10, 2, 6),
    )


INPUTS = ("imu", "video", "imu_features", "second_features", "imu_tokens", "video_tokens", "hidden_tokens")
INPUTS += ("video_features", "second_video_features")


def linear(parameters, name, x):
    return x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]


def near(views, i, j):
    return views.recording[i] == views.recording[j] and abs(views.start_s[i] - views.start_s[j]) < MARGIN_S


def cross_entropy(own, others):
    return torch.logsumexp(torch.stack([own, *others]), 0) - own


def infonce(first, second, t, has_first, has_second, views):
    """Mean over the pairs of both directions."""
    total, paired = 0.0, [i for i in range(N) if has_first[i] and has_second[i]]
    for a, b in ((first, second), (second, first)):
        for i in paired:
            others = [t * a[i] @ b[j] for j in paired if j != i and not near(views, i, j)]
            total = total + cross_entropy(t * a[i] @ b[i], others) / 2
    return total / len(paired)


def dense_cheshmi2025_softmax(views, parameters, _queued):
    t, paired = parameters["temperature"], views.has_imu & views.has_video
    u, v = views.imu[paired], views.video[paired]
    logits, target = u @ v.T / t, ((u @ u.T + v @ v.T) / 2 * t).softmax(-1)
    return (F.cross_entropy(logits, target) + -(target.T * logits.T.log_softmax(-1)).sum(1).mean()) / 2


def dense_nt_xent(views, parameters, _queued):
    def embed(x):
        return F.normalize(linear(parameters, "head.2", linear(parameters, "head.0", x).relu()), dim=1)

    z = torch.stack([embed(views.imu_features), embed(views.second_features)]) / math.sqrt(0.3)
    there, losses = [i for i in range(N) if views.has_imu[i]], []
    for i in there:
        for view in (0, 1):
            others = [z[view, i] @ z[w, j] for w in (0, 1) for j in there if j != i and not near(views, i, j)]
            losses.append(cross_entropy(z[view, i] @ z[1 - view, i], others))
    return torch.stack(losses).mean()


def dense_masked(views, parameters, _queued):
    # 10 samples make patches of 4, 4 and 2; of 6 tokens, two go with each.
    tokens = views.hidden_tokens.unflatten(1, (3, 2)).mean(2)
    errors = []
    for i in range(N):
        predicted = torch.cat([linear(parameters, "predict", x).view(4, 2, 6) for x in tokens[i]])[:10]
        errors.append((predicted - views.readings[i])[views.hidden[i]])
    return torch.cat(errors).square().mean()


def dense_alignment(views, parameters, _queued):
    t, losses = parameters["log_scale"].exp(), []
    p, q = linear(parameters, "imu_head", views.imu_tokens), linear(parameters, "video_head", views.video_tokens)
    for b in range(N):
        imu, video = {}, {}
        for k in range(3):
            valid = [x for x in (2 * k, 2 * k + 1) if views.imu_token_valid[b, x]]
            if valid:
                imu[k] = F.normalize(p[b, valid].mean(0), dim=0)
            if views.video_token_valid[b, k]:
                video[k] = F.normalize(q[b, k], dim=0)
        for k in imu.keys() & video.keys():
            for mine, others in ((imu, video), (video, imu)):
                rest = [(t * mine[k] @ x).squeeze() for at, x in others.items() if at != k]
                losses.append(cross_entropy((t * mine[k] @ others[k]).squeeze(), rest))
    return torch.stack(losses).mean()


def dense_comodo(views, _parameters, queued):
    kept = torch.cat([v[views.has_imu & views.has_video] for v in (queued.video, views.video)])[-17:]
    paired = views.has_imu & views.has_video
    target = (views.video[paired] @ kept.T / 0.1).softmax(1).detach()
    return F.cross_entropy(views.imu[paired] @ kept.detach().T / 0.05, target)


def dense_primus(views, parameters, queued):
    z, second, old = (
        F.normalize(linear(parameters, "head", x), dim=1)
        for x in (views.imu_features, views.second_features, queued.imu_features)
    )
    paired = views.has_imu & views.has_video
    old_video, old_z = queued.video[paired][-9:], old[paired][-9:].detach()
    nearest = [(old_video @ v).argmax().item() for v in views.video]
    t, s = parameters["log_scale_video"].exp(), parameters["log_scale_self"].exp()
    both, imu = (views.has_imu, views.has_video, views), (views.has_imu, views.has_imu, views)
    by_video = infonce(views.imu, views.video, t, *both) + infonce(views.imu, old_video[nearest], t, *both)
    by_self = infonce(z, second, s, *imu) + infonce(z, old_z[nearest], s, *both)
    return 2 * (0.7 * by_video + 0.3 * by_self)


def dense_focal(views, parameters, _queued):
    private, second = (
        F.normalize(linear(parameters, "private", x), dim=1) for x in (views.imu_features, views.second_features)
    )
    video, other = (
        F.normalize(linear(parameters, "private_video", x), dim=1)
        for x in (views.video_features, views.second_video_features)
    )
    loss = infonce(views.imu, views.video, parameters["log_scale"].exp(), views.has_imu, views.has_video, views)
    loss = loss + infonce(private, second, 2.0, views.has_imu, views.has_imu, views)
    loss = loss + infonce(video, other, 2.0, views.has_video, views.has_video, views)
    both = views.has_imu & views.has_video
    for x, y, there in (
        (views.imu, private, views.has_imu),
        (views.video, video, views.has_video),
        (private, video, both),
    ):
        loss = loss + 3 * torch.einsum("nd,nd->n", x, y)[there].square().mean()
    for shared, own, there in ((views.imu, private, views.has_imu), (views.video, video, views.has_video)):
        loss = loss + 5 * order_in_time(torch.cat([shared, own], 1), there, views)
    return loss


def order_in_time(joint, there, views):
    """Hinge of each window that has neighbours in time and others."""
    losses = []
    for i in range(N):
        distances = {True: [], False: []}
        for j in range(N):
            if j != i and there[i] and there[j]:
                same = bool(views.recording[i] == views.recording[j])
                close = same and bool(abs(views.start_s[i] - views.start_s[j]) < SPAN_S)
                distances[close].append((joint[i] - joint[j]).norm())
        if distances[True] and distances[False]:
            losses.append((torch.stack(distances[True]).mean() - torch.stack(distances[False]).mean() + 1).relu())
    return torch.stack(losses).mean()


DENSE = {name.removeprefix("dense_"): function for name, function in globals().items() if name.startswith("dense_")}


def objective_of(kind):
    torch.manual_seed(0)
    objective = build_objective(config_of(kind), WIDTHS).terms[kind].train()
    # Five rows at a time, which divides no batch.
    objective.max_logits = {"nt_xent": 5 * 4 * N, "cheshmi2025_softmax": 5 * N, "focal": 5 * N}.get(kind)
    return objective


def rows_of(views, rows):
    return Views(**{name: tensor[rows].clone() for name, tensor in vars(views).items() if tensor is not None})


def on_rank(rank, world):
    return {kind: one_case(rank, world, kind) for kind in DENSE}


def one_case(rank, world, kind):
    """Loss and gradients on this rank's rows; what has a queue sees another batch first."""
    rows = slice(rank * N // world, (rank + 1) * N // world)
    objective = objective_of(kind)
    if kind in ("comodo", "primus"):
        objective(rows_of(make_views(seed=1), rows))
    views = rows_of(make_views(), rows)
    leaves = {name: getattr(views, name).requires_grad_() for name in INPUTS}
    loss, _ = objective(views)
    loss.backward()
    gradients = {name: x.grad.numpy() for name, x in leaves.items() if x.grad is not None}
    return loss.item(), gradients, {name: p.grad.numpy() for name, p in objective.named_parameters()}


def check(kind, results):
    views, queued = make_views(torch.float64), make_views(torch.float64, seed=1)
    leaves = {name: getattr(views, name).requires_grad_() for name in INPUTS}
    parameters = {n: p.detach().double().requires_grad_() for n, p in objective_of(kind).named_parameters()}
    loss = DENSE[kind](views, parameters, queued).squeeze()
    loss.backward()
    assert np.mean([r[0] for r in results]) == pytest.approx(loss.item(), rel=1e-5)
    for name, leaf in leaves.items():
        if leaf.grad is None:
            assert not any(r[1].get(name, np.zeros(1)).any() for r in results), name
        else:
            close(np.concatenate([r[1][name] for r in results]) / len(results), leaf.grad, name)
    for name, parameter in parameters.items():
        close(np.mean([r[2][name] for r in results], axis=0), parameter.grad, name)


def close(found, expected, name):
    assert np.abs(found - expected.numpy()).max() <= 1e-5 * np.abs(expected.numpy()).max(), name


@pytest.mark.parametrize("kind", DENSE)
def test_one_process_equals_the_dense_formula(kind):
    check(kind, [one_case(0, 1, kind)])


@pytest.mark.parametrize("kind", ["nt_xent", "cheshmi2025_softmax"])
def test_no_logits_are_kept(kind):
    objective, kept = objective_of(kind), []
    views = Views.cat([make_views(seed=seed) for seed in range(20)])
    for name in INPUTS:
        getattr(views, name).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        objective(views)
    assert sum(kept) < len(views.imu) ** 2  # fewer than one matrix of logits


@pytest.mark.parametrize("kind", ["cheshmi2025_softmax", "comodo", "primus", "focal"])
def test_a_batch_without_any_pair_gives_no_gradient_to_the_video(kind):
    views = make_views()
    views.has_video[:] = False
    for name in INPUTS:
        getattr(views, name).requires_grad_()
    loss, _ = objective_of(kind)(views)
    loss.backward()
    assert torch.isfinite(loss)
    assert views.video.grad is None or not views.video.grad.any()
    assert all(torch.isfinite(x.grad).all() for x in (views.imu, views.imu_features) if x.grad is not None)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_loss_and_gradients_at_world_equal_the_dense_formula(world):
    ranks = run_ranks(on_rank, world, world)
    for kind in DENSE:
        check(kind, [rank[kind] for rank in ranks])
