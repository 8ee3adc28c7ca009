"""Contract 2: the order is a pure function of (dataset, seed, epoch), exact at any world size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imuvid.data.order import SampleOrder, permutation

ragged = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(sizes=ragged, seed=st.integers(0, 2**32), block=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_sample_comes_exactly_once_an_epoch(sizes, seed, block, epoch):
    order = SampleOrder(sizes, seed, block)
    n = sum(sizes)
    taken = order.take(epoch * n, (epoch + 1) * n)
    assert {e for e, _ in taken} == {epoch}
    assert sorted(sample for _, sample in taken) == list(range(n))


@settings(max_examples=60, deadline=None)
@given(sizes=ragged, seed=st.integers(0, 99), world=st.sampled_from([1, 2, 3, 4, 8, 16, 64]), step=st.integers(0, 40))
def test_the_ranks_batches_concatenate_to_the_global_batch_at_any_world_size(sizes, seed, world, step):
    batch = 192  # a multiple of every world size tried
    order = SampleOrder(sizes, seed)
    parts = [order.rank_batch(step, batch, rank, world) for rank in range(world)]
    assert {len(part) for part in parts} == {batch // world}
    assert [item for part in parts for item in part] == order.take(step * batch, (step + 1) * batch)


def test_any_position_can_be_entered_without_the_ones_before():
    sizes = [5, 3, 7, 1]
    whole = SampleOrder(sizes, seed=3, block_shards=2).take(0, 64)
    for start in range(0, 64, 7):
        assert SampleOrder(sizes, seed=3, block_shards=2).take(start, 64) == whole[start:]


def test_order_changes_with_epoch_and_seed_and_not_between_runs():
    order = SampleOrder([50, 50], seed=1)
    first, second = order.take(0, 100), order.take(100, 200)
    assert [s for _, s in first] != [s for _, s in second]
    assert SampleOrder([50, 50], seed=1).take(0, 100) == first
    assert SampleOrder([50, 50], seed=2).take(0, 100) != first


def test_blocks_keep_reads_within_their_shards():
    sizes = [10] * 12
    order = SampleOrder(sizes, seed=0, block_shards=3)
    samples = np.array([s for _, s in order.take(0, 120)])
    for start in range(0, 120, 30):
        assert len(set(samples[start : start + 30] // 10)) == 3


def test_permutation_is_uniform():
    # Each of the 24 orders of 4 items should come up 1/24 of the time: chi-square with 23 degrees of freedom.
    counts: dict[tuple, int] = {}
    for key in range(6000):
        order = tuple(permutation(4, key))
        counts[order] = counts.get(order, 0) + 1
    expected = 6000 / 24
    chi_square = sum((counts.get(order, 0) - expected) ** 2 / expected for order in counts)
    assert len(counts) == 24
    assert chi_square < 49.7  # 0.999 quantile


def test_permutation_stays_the_same_for_ever():
    # Checkpoints of today must be resumable with the numpy of tomorrow.
    assert permutation(8, 1, 2).tolist() == [7, 1, 3, 0, 4, 2, 6, 5]


def test_no_sample_and_uneven_batches_are_refused():
    with pytest.raises(ValueError, match="no sample"):
        SampleOrder([0, 0], seed=0)
    with pytest.raises(ValueError, match="no multiple of the 3 ranks"):
        SampleOrder([8], seed=0).rank_batch(0, 8, 0, 3)


@settings(max_examples=60, deadline=None)
@given(
    sizes=ragged,
    seed=st.integers(0, 2**32),
    block=st.integers(0, 5),
    weights=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=108, max_size=108),
)
def test_light_samples_come_in_their_share_of_the_epochs(sizes, seed, block, weights):
    n = sum(sizes)
    weight = np.array([1.0, *weights[1:n]])
    order = SampleOrder(sizes, seed, block, weight)
    light = weight < 1
    assert order.num_samples == (~light).sum() + int(weight[light].sum() + 1e-6)
    num_epochs = 4
    taken = order.take(0, num_epochs * order.num_samples)
    for epoch in range(num_epochs):
        samples = [sample for e, sample in taken if e == epoch]
        assert len(set(samples)) == len(samples) == order.num_samples
        assert set(np.flatnonzero(~light)) <= set(samples)
        assert not set(np.flatnonzero(weight == 0)) & set(samples)
    # Entered anywhere, the rest is the same.
    assert (
        SampleOrder(sizes, seed, block, weight).take(order.num_samples + 1, 3 * order.num_samples)
        == (taken[order.num_samples + 1 : 3 * order.num_samples])
    )


def test_how_often_light_samples_come_follows_their_weights():
    weight = np.concatenate([np.full(40, 0.25), np.full(40, 0.5), np.ones(20)])
    order = SampleOrder([50, 50], seed=5, block_shards=1, weights=weight)
    num_epochs = 400
    counts = np.bincount([sample for _, sample in order.take(0, num_epochs * order.num_samples)], minlength=100)
    assert order.num_samples == 10 + 20 + 20
    np.testing.assert_allclose(counts / num_epochs, weight, atol=0.1)
    np.testing.assert_allclose([counts[:40].mean(), counts[40:80].mean()], [100, 200], rtol=0.03)


def test_samples_of_weight_one_are_in_the_order_that_they_had_without_weights():
    assert SampleOrder([7, 5], 3, 1, np.ones(12)).take(0, 40) == SampleOrder([7, 5], 3, 1).take(0, 40)
    with pytest.raises(ValueError, match="3 weights for 12 samples"):
        SampleOrder([7, 5], 3, 1, np.ones(3))
