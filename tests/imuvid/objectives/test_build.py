"""Configs to objectives, their weighted sums, the queue, and what the two-tower model gives them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from imuvid.data.batch import Batch
from imuvid.errors import UserError
from imuvid.models.towers import VideoTowerConfig
from imuvid.models.two_tower import ModelConfig, TwoTower
from imuvid.models.video_embedding import VideoEmbeddingConfig
from imuvid.objectives.build import ObjectiveConfig, build_objective
from imuvid.objectives.comodo import ComodoConfig
from imuvid.objectives.focal import FocalConfig
from imuvid.objectives.masked import MaskedConfig
from imuvid.objectives.objective import Widths
from imuvid.objectives.primus import PrimusConfig
from imuvid.objectives.queue import Queue
from tests.imuvid.objectives.test_terms import WIDTHS, make_views

SIZE = 6
KINDS = ("sigmoid", "infonce", "cheshmi2025_softmax", "nt_xent", "masked", "alignment", "comodo", "primus", "focal")


class TokenTower(nn.Module):
    """A tower that gives tokens: means over parts of what is valid."""

    def __init__(self, num_parts):
        super().__init__()
        self.num_parts, self.feature_dim, self.token_dim = num_parts, 4, 4
        self.layer = nn.LazyLinear(4)

    def forward(self, x, valid, with_tokens=False):
        width = x.shape[-1] // valid.shape[-1] if valid.ndim > 2 else 1
        there = valid.repeat_interleave(width, -1) if valid.ndim > 2 else valid[:, :, None, None, None]
        parts = (x * there).float().unflatten(1, (self.num_parts, -1)).flatten(2)
        tokens = self.layer(parts)
        token_valid = valid.unflatten(1, (self.num_parts, -1)).flatten(2).any(2)
        return (tokens.mean(1), tokens, token_valid) if with_tokens else tokens.mean(1)


def make_batch():
    generator = torch.Generator().manual_seed(0)
    valid = torch.ones(SIZE, 40, 2, 2, dtype=torch.bool)
    valid[1] = False
    frame_valid = torch.ones(SIZE, 4, dtype=torch.bool)
    frame_valid[2] = False
    return Batch(
        imu=torch.randn(SIZE, 40, 2, 6, generator=generator) * 3,
        valid=valid,
        frames=torch.randint(0, 256, (SIZE, 4, 8, 8, 3), generator=generator, dtype=torch.uint8),
        frame_valid=frame_valid,
        recording=torch.arange(SIZE) // 2,
        sample=torch.arange(SIZE),
        skipped=torch.full((SIZE, 2), -1),
        start_s=torch.arange(SIZE, dtype=torch.float64),
    )


def model_of(monkeypatch, config):
    monkeypatch.setattr("imuvid.models.two_tower.build_imu_tower", lambda _: TokenTower(8))
    monkeypatch.setattr("imuvid.models.two_tower.build_video_tower", lambda _: TokenTower(4))
    torch.manual_seed(0)
    model = TwoTower(ModelConfig(objective=config)).train()
    model.embed(make_batch())  # the widths of the layers
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_objective_trains_its_towers(monkeypatch, kind):
    # A queue that the first batch fills: over a longer one, a distribution spreads as it is filled.
    config = ObjectiveConfig(kind=kind, masked=MaskedConfig(num_sensors=2), comodo=ComodoConfig(queue_size=4))
    model = model_of(monkeypatch, config)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        torch.manual_seed(1)  # the same second view and hidden patches
        optimizer.zero_grad()
        loss, figures = model(make_batch())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert all(figure.numel() == 1 and not figure.requires_grad for figure in figures.values())
    assert model.imu_tower.layer.weight.grad.any()
    assert losses[-1] < losses[0]


def test_the_private_part_of_the_video_comes_from_a_second_view_of_the_clip(monkeypatch):
    config = ObjectiveConfig(kind="focal", focal=FocalConfig(private_video=True))
    model = model_of(monkeypatch, config)
    torch.manual_seed(1)
    views = model.views(make_batch())
    same = torch.isclose(views.video_features, views.second_video_features).all(1)
    assert same.tolist() == [False, False, True, False, False, False]  # the third has no frame
    loss, _ = model(views)
    loss.backward()
    assert model.objective.terms["focal"].private_video.weight.grad.any()
    tower = VideoTowerConfig(kind="embedding", embedding=VideoEmbeddingConfig(dim=4))
    with pytest.raises(UserError, match="private_video=true needs a second view of the clips"):
        TwoTower(ModelConfig(video_tower=tower, objective=config))


def test_only_what_is_needed_is_computed(monkeypatch):
    model = model_of(monkeypatch, ObjectiveConfig(kind="nt_xent"))
    model.video_tower.forward = None
    views = model.views(make_batch())
    assert set(views.differentiable()) == {"imu_features", "second_features"}
    assert views.has_imu.tolist() == [True, False, True, True, True, True]
    assert views.has_video.tolist() == [True, True, False, True, True, True]


def test_the_tower_does_not_see_what_it_is_to_predict(monkeypatch):
    model = model_of(monkeypatch, ObjectiveConfig(kind="masked", masked=MaskedConfig(num_sensors=2)))
    torch.manual_seed(2)
    views = model.views(make_batch())
    other = make_batch()
    other.imu = torch.where(views.hidden, other.imu + 100.0, other.imu)
    torch.manual_seed(2)
    assert torch.equal(model.views(other).hidden_tokens, views.hidden_tokens)
    assert not torch.equal(model.views(other).readings, views.readings)
    assert views.hidden[0].any()
    assert not views.hidden[1].any()  # absent readings are nothing to predict


def test_a_sum_is_weighted_and_names_its_figures():
    views = make_views()
    torch.manual_seed(0)
    both = build_objective(ObjectiveConfig(kind="infonce", extra={"nt_xent": 0.25}), WIDTHS)
    loss, figures = both(views)
    alone = [both.terms[name](views)[0].item() for name in ("infonce", "nt_xent")]
    assert loss.item() == pytest.approx(alone[0] + 0.25 * alone[1], rel=1e-6)
    assert figures["nt_xent_loss"].item() == pytest.approx(alone[1])
    assert figures["infonce_temperature"].item() == pytest.approx(0.07)
    assert set(build_objective(ObjectiveConfig(kind="infonce"), WIDTHS)(views)[1]) == {"temperature"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ObjectiveConfig(kind="clip"), "objective.kind is 'clip', expected one of sigmoid, infonce"),
        (ObjectiveConfig(extra={"simclr": 1.0}), "objective.extra is 'simclr', expected one of"),
        (ObjectiveConfig(extra={"sigmoid": 1.0}), "leave it out"),
        (ObjectiveConfig(extra={"nt_xent": 0.0}), "objective.extra.nt_xent=0.0 must be above 0"),
        (ObjectiveConfig(kind="alignment"), "needs the tokens of the video tower"),
        (ObjectiveConfig(extra={"masked": 1.0}), "needs the tokens of the imu tower"),
    ],
)
def test_mistakes_are_one_line(config, message):
    tokens = 4 if "video" in message else None
    with pytest.raises(UserError, match=message):
        build_objective(config, Widths(imu_features=7, imu_tokens=tokens, video_tokens=None, embedding=5))


def test_another_number_of_sensors_is_one_line():
    with pytest.raises(UserError, match="set it to 2"):
        build_objective(ObjectiveConfig(kind="masked"), WIDTHS)(make_views())


def test_the_margin_is_of_the_recording_only_where_it_is_asked_for():
    def margin(**words):
        return build_objective(ObjectiveConfig(**words), WIDTHS).terms["sigmoid"].margin_s

    assert margin() == math.inf
    assert margin(mask_margin_s=2.5) == 2.5
    assert margin(mask_same_recording=False, mask_margin_s=2.5) == 0


def test_neighbours_count_only_once_there_are_any():
    losses = []
    for size in (0, 9):
        torch.manual_seed(0)
        config = ObjectiveConfig(kind="primus", primus=PrimusConfig(queue_size=size))
        objective = build_objective(config, WIDTHS)
        losses.append([objective(make_views(seed=seed))[0].item() for seed in (0, 1)])
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] < losses[1][1]


def primus_of(queue_size):
    torch.manual_seed(0)
    config = ObjectiveConfig(kind="primus", mask_same_recording=False, primus=PrimusConfig(queue_size=queue_size))
    return build_objective(config, WIDTHS)


def test_an_empty_queue_of_primus_changes_neither_loss_nor_gradient():
    found = []
    for size in (0, 9):
        views = make_views()
        leaves = views.imu.requires_grad_(), views.video.requires_grad_(), views.imu_features.requires_grad_()
        loss, _ = primus_of(size)(views)
        found.append((loss.item(), *torch.autograd.grad(loss, leaves)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(*pair) for pair in list(zip(*found, strict=True))[1:])


def test_the_unfilled_part_of_the_queue_of_primus_has_no_neighbours():
    # Two pairs fill one queue; of the other, 62 places are left, whose zeros are nearer to many a clip than the two.
    first = make_views(seed=1)
    first.has_video = torch.arange(len(first.imu)) < 2
    losses = []
    for size in (2, 64):
        objective = primus_of(size)
        objective(first)
        losses.append(objective(make_views())[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_queue_keeps_the_newest_rows_in_turn():
    queue, kept = Queue(5, [2]), []
    generator = torch.Generator().manual_seed(0)
    for step in range(9):
        rows = torch.randn(3 if step < 8 else 20, 2, generator=generator)
        there = torch.rand(len(rows), generator=generator) < 0.7
        queue.put([rows], there)
        kept = (kept + rows[there].tolist())[-5:]
        filled = queue.contents()[0][queue.filled].tolist()
        assert sorted(filled) == sorted(kept), step
