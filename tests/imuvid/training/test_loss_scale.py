"""The rule of the loss scale against DeepSpeed's own."""

from __future__ import annotations

import random

import torch

from imuvid.training.loss_scale import HYSTERESIS, INITIAL, LEAST, WINDOW, LossScale


def test_the_scale_goes_where_deepspeeds_goes(monkeypatch):
    from deepspeed.runtime.fp16 import loss_scaler

    monkeypatch.setattr(loss_scaler.dist, "get_rank", lambda: 1)
    theirs = loss_scaler.DynamicLossScaler(INITIAL, WINDOW, LEAST, HYSTERESIS, False, False, torch.half)
    ours, rng, seen = LossScale(), random.Random(0), set()
    for step in range(12_000):
        # Rows of good steps longer than the window, single overflows, and rows of them down to the least scale.
        share = (0.0, 0.002, 0.6)[step // 1500 % 3]
        overflow = rng.random() < share
        ours.update(overflow)
        theirs.update_scale(overflow)
        seen.add(theirs.cur_scale)
        assert ours.value == theirs.cur_scale, step
    assert LEAST in seen
    assert max(seen) > INITIAL


def test_an_overflow_that_no_lower_scale_mends_is_said():
    scale = LossScale(value=2 * LEAST, patience=1)
    assert scale.update(True)
    assert scale.value == LEAST
    assert not scale.update(True)
    assert not scale.update(False)
