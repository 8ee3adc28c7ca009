"""Mixtures, draws with replacement and the bound on recordings keep contract 2: pure functions, exact, elastic."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from imuvid.data.mixture_order import MixtureOrder, Shares, seed_of
from imuvid.data.order import Order, SampleOrder
from imuvid.data.resampled import ResampledOrder
from imuvid.data.shuffle import Permutation, permutation
from imuvid.data.spread import Spread

WORLDS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
BATCH = 192  # a multiple of each

ragged = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any)


@st.composite
def orders(draw) -> tuple:
    """(function that makes an order anew, the order), of every kind."""
    kind = draw(st.sampled_from(["epochs", "weights", "resampled", "mixture", "mixture of all"]))
    seed, block = draw(st.integers(0, 2**40)), draw(st.integers(0, 4))
    datasets = [draw(ragged) for _ in range(draw(st.integers(2, 4)) if kind.startswith("mixture") else 1)]
    weights = [draw(st.sampled_from([0.1, 0.5, 1.0, 3.0, 7.5])) for _ in datasets]
    light = draw(st.integers(0, 99))

    def one(number: int, sizes: list[int]) -> Order:
        own_seed = seed_of(seed, number)
        weight = np.random.default_rng(light).choice([0.0, 0.3, 1.0], sum(sizes))
        weight[0] = 1.0
        if kind == "resampled" or (kind == "mixture of all" and number == 1):
            return ResampledOrder(sizes, own_seed, block, weight if light % 2 else None)
        if kind == "weights" or (kind == "mixture of all" and number == 0):
            return SampleOrder(sizes, own_seed, block, weight)
        return SampleOrder(sizes, own_seed, block)

    def make() -> Order:
        parts = [one(number, sizes) for number, sizes in enumerate(datasets)]
        if len(parts) == 1:
            return parts[0]
        firsts = np.cumsum([0, *map(sum, datasets)])[:-1].tolist()
        return MixtureOrder(parts, Shares(weights), firsts)

    return make, make()


@settings(max_examples=60, deadline=None)
@given(kinds=orders(), world=st.sampled_from(WORLDS), workers=st.integers(0, 8), first=st.integers(0, 9))
def test_the_same_global_batches_at_any_world_size_and_number_of_workers_from_any_step(kinds, world, workers, first):
    make, order = kinds
    steps = 5
    expected = order.take(first * BATCH, (first + steps) * BATCH)
    got: dict[tuple[int, int], list] = {}
    for rank in range(world):
        # Each worker is a process of its own that enters at its first step and then has every n-th.
        for worker in range(max(workers, 1)):
            own = make()
            for step in range(first + worker, first + steps, max(workers, 1)):
                got[step, rank] = own.rank_batch(step, BATCH, rank, world)
    assert {len(part) for part in got.values()} == {BATCH // world}
    assert [item for key in sorted(got) for item in got[key]] == expected


@settings(max_examples=60, deadline=None)
@given(kinds=orders(), start=st.integers(0, 700), worlds=st.tuples(st.sampled_from(WORLDS), st.sampled_from(WORLDS)))
def test_resumed_anywhere_the_rest_is_the_same_also_at_another_world_size(kinds, start, worlds):
    make, order = kinds
    whole = order.take(0, 1500)
    assert make().take(start, 1500) == whole[start:]
    step = start // BATCH
    before = [item for rank in range(worlds[0]) for item in order.rank_batch(step, BATCH, rank, worlds[0])]
    other = make()
    after = [item for rank in range(worlds[1]) for item in other.rank_batch(step + 1, BATCH, rank, worlds[1])]
    assert before + after == make().take(step * BATCH, (step + 2) * BATCH)


@settings(max_examples=80, deadline=None)
@given(
    datasets=st.lists(ragged, min_size=2, max_size=5),
    weights=st.lists(st.floats(0.05, 20), min_size=5, max_size=5),
    seed=st.integers(0, 999),
)
def test_every_sample_of_a_dataset_comes_once_in_each_of_its_epochs(datasets, weights, seed):
    sizes = [sum(d) for d in datasets]
    firsts = np.cumsum([0, *sizes]).tolist()
    parts = [SampleOrder(d, seed_of(seed, k), 2) for k, d in enumerate(datasets)]
    order = MixtureOrder(parts, Shares(weights[: len(datasets)]), firsts[:-1])
    taken = order.take(0, 1200)
    seen = order.seen(1200)
    for number, size in enumerate(sizes):
        mine = [(e, s - firsts[number]) for e, s in taken if firsts[number] <= s < firsts[number + 1]]
        assert len(mine) == seen[number]
        for epoch in range(len(mine) // size):
            assert sorted(mine[epoch * size : (epoch + 1) * size]) == [(epoch, s) for s in range(size)]
        assert len(set(mine)) == len(mine)


@settings(max_examples=100, deadline=None)
@given(
    weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12),
    start=st.integers(0, 10**12),
    length=st.integers(1, 3000),
)
def test_shares_are_exact_over_any_stretch(weights, start, length):
    counts = Shares(weights).counts(np.arange(start, start + length + 1))
    assert (counts.sum(axis=0) == np.arange(start, start + length + 1)).all()
    assert set(np.unique(np.diff(counts, axis=1))) <= {0, 1}
    exact = [Fraction(weight) / sum(map(Fraction, weights)) for weight in weights]
    slack = 1 + sum(1 / k for k in range(1, len(weights) + 1))
    for share, count in zip(exact, counts, strict=True):
        # Ratios are kept to 1 in 10^12: at 10^12 samples that may be one or two.
        assert abs(float(count[-1] - count[0] - share * length)) < slack + 1e-9 * length
        assert abs(float(count[0] - share * start)) < slack / 2 + 4e-12 * start


def test_each_global_batch_has_the_shares_of_the_mixture():
    order = MixtureOrder([SampleOrder([500], 1), SampleOrder([90], 2)], Shares([3.0, 1.0]), [0, 500])
    for step in range(40):
        assert sum(sample >= 500 for _, sample in order.rank_batch(step, 64, 0, 1)) == 16


def test_datasets_of_equal_shards_are_in_different_orders():
    order = MixtureOrder([SampleOrder([64], seed_of(0, k)) for k in range(2)], Shares([1.0, 1.0]), [0, 64])
    taken = order.take(0, 128)
    assert [s for _, s in taken if s < 64] != [s - 64 for _, s in taken if s >= 64]


@pytest.mark.parametrize("block_shards", [0, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_draws_with_replacement_follow_the_weights(block_shards, weighted):
    sizes = [7, 1, 0, 30, 12, 10]
    weights = np.random.default_rng(1).choice([0.0, 0.25, 1.0], 60) if weighted else None
    order = ResampledOrder(sizes, 4, block_shards, weights)
    num = 120_000
    counts = np.bincount([sample for _, sample in order.take(0, num)], minlength=60)
    share = np.ones(60) / 60 if weights is None else weights / weights.sum()
    assert not counts[share == 0].any()
    # With blocks, draws of one stretch share their shards: less even, right in the mean.
    spread = 8 if block_shards else 1
    chi_square = ((counts - num * share)[share > 0] ** 2 / (num * share)[share > 0]).sum()
    assert chi_square / spread < stats.chi2.ppf(0.9999, (share > 0).sum() - 1)


def test_a_draw_that_comes_again_has_another_pass():
    taken = ResampledOrder([3], 0).take(0, 50)
    assert len({sample for _, sample in taken}) == 3
    assert len(set(taken)) == 50


def test_an_epoch_of_draws_misses_the_share_that_is_stated():
    order = ResampledOrder([2000], 3)
    distinct = np.mean([len({s for _, s in order.take(e * 2000, (e + 1) * 2000)}) / 2000 for e in range(20)])
    assert distinct == pytest.approx(1 - (1 - 1 / 2000) ** 2000, abs=0.01)


@pytest.mark.parametrize("n", [65_537, 100_000, 262_144, 300_001])
def test_a_long_permutation_has_every_number_once_and_is_as_random_as_a_listed_one(n):
    found = Permutation(n, 5, 1).at(np.arange(n))
    assert (np.sort(found) == np.arange(n)).all()
    assert (Permutation(n, 5, 1).at(np.array([n - 1, 7])) == found[[n - 1, 7]]).all()
    assert not (Permutation(n, 5, 2).at(np.arange(n)) == found).sum() > 20  # one fixed point in the mean
    # Against independence of place and number, and of neighbours.
    for x, y in ((np.arange(n), found), (found[:-1], found[1:])):
        table = np.histogram2d(x, y, bins=32, range=[[0, n], [0, n]])[0]
        assert stats.chi2.cdf(((table - n / 1024) ** 2 / (n / 1024)).sum(), 31 * 31) < 0.9999
        assert abs(stats.spearmanr(x, y).statistic) < 4 / math.sqrt(n)


def test_long_and_listed_permutations_stay_the_same_for_ever():
    # Checkpoints of today must be resumable with the numpy of tomorrow.
    assert Permutation(8, 1, 2).at(np.arange(8)).tolist() == permutation(8, 1, 2).tolist() == [7, 1, 3, 0, 4, 2, 6, 5]
    assert Permutation(100_000, 1, 2).at(np.array([0, 1, 99_999])).tolist() == STORED


STORED = [24679, 19158, 69366]


# The bound on windows of one recording -------------------------------------------------------------------------------


def in_batches(order: Order, recordings: np.ndarray, batch: int, steps: range) -> list[int]:
    """Most windows of one recording in each global batch."""
    return [max(Counter(recordings[s] for _, s in order.take(k * batch, (k + 1) * batch)).values()) for k in steps]


def every(batch: int):
    return lambda start, stop: np.arange(-(-start // batch) * batch, stop, batch)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    batch=st.integers(2, 12),
    most=st.integers(1, 3),
    block=st.integers(0, 3),
    seed=st.integers(0, 10**6),
)
def test_no_batch_has_more_windows_of_a_recording_than_the_bound(data, batch, most, block, seed):
    # Recordings enough to choose from; windows of a recording lie together in the shards, as a build writes them.
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=6 * batch, max_size=8 * batch))
    recordings = np.repeat(np.arange(len(lengths)), lengths)
    per_shard = max(lengths) * batch + batch + data.draw(st.integers(0, 20))
    sizes = [min(per_shard, len(recordings) - i) for i in range(0, len(recordings), per_shard)]
    sizes = [*sizes[:-2], sum(sizes[-2:])]
    order = SampleOrder(sizes, seed, block, None, Spread(recordings, most), every(batch))
    n = len(recordings)
    assert max(in_batches(order, recordings, batch, range(3 * n // batch))) <= most
    for epoch in range(2):
        assert sorted(order.take(epoch * n, (epoch + 1) * n)) == [(epoch, s) for s in range(n)]
    again = SampleOrder(sizes, seed, block, None, Spread(recordings, most), every(batch))
    middle = data.draw(st.integers(0, 2 * n))
    assert again.take(middle, 2 * n + 5) == order.take(middle, 2 * n + 5)


def test_the_bound_holds_in_a_mixture_whose_parts_of_a_batch_vary_in_size():
    recordings = [np.repeat(np.arange(60), 5), np.repeat(np.arange(100), 3)]
    shares, batch = Shares([2.3, 1.0]), 20
    parts = [
        SampleOrder([len(r)], seed_of(1, k), 0, None, Spread(r, 1), shares.batches(k, batch))
        for k, r in enumerate(recordings)
    ]
    order = MixtureOrder(parts, shares, [0, 300])
    together = np.concatenate([recordings[0], 1000 + recordings[1]])
    assert max(in_batches(order, together, batch, range(200))) == 1
    sizes = {sum(s < 300 for _, s in order.take(k * batch, (k + 1) * batch)) for k in range(200)}
    assert len(sizes) > 1
    assert max(sizes) <= shares.largest_part(0, batch)


def test_light_samples_are_bound_as_well():
    recordings = np.repeat(np.arange(80), 4)
    weights = np.where(np.arange(320) % 3 == 0, 0.4, 1.0)
    order = SampleOrder([100, 120, 100], 3, 0, weights, Spread(recordings, 1), every(16))
    assert max(in_batches(order, recordings, 16, range(60))) == 1


def test_without_bound_repeats_come_as_often_as_stated():
    sizes, batch = [3] * 30 + [10] * 12, 12
    recordings = np.repeat(np.arange(len(sizes)), sizes)
    n = len(recordings)
    order = SampleOrder([n], 7)
    steps = [order.take(k * n + 12 * b, k * n + 12 * (b + 1)) for k in range(400) for b in range(n // batch)]
    pairs = np.array([sum(math.comb(c, 2) for c in Counter(recordings[s] for _, s in step).values()) for step in steps])
    mean = sum(math.comb(c, 2) for c in sizes) * batch * (batch - 1) / (n * (n - 1))
    assert pairs.mean() == pytest.approx(mean, rel=0.03)
    polynomial = np.array([1], dtype=object)  # the coefficient of x^B of the product of (1 + c x)
    for c in sizes:
        polynomial = np.convolve(polynomial, np.array([1, c], dtype=object))
    assert (pairs > 0).mean() == pytest.approx(1 - polynomial[batch] / math.comb(n, batch), abs=0.01)


def test_a_bound_leaves_the_order_random():
    # Which recordings meet in a batch is even: each pair as often as others.
    recordings = np.repeat(np.arange(12), 4)
    order = SampleOrder([48], 0, 0, None, Spread(recordings, 1), every(6))
    met = np.zeros((12, 12))
    for k in range(4000):
        batch = np.unique([recordings[s] for _, s in order.take(6 * k, 6 * k + 6)])
        met[np.ix_(batch, batch)] += 1
    apart = met[~np.eye(12, dtype=bool)]
    assert apart.std() / apart.mean() < 0.1
    first = Counter(recordings[order.take(6 * k, 6 * k + 1)[0][1]] for k in range(4000))
    assert min(first.values()) > 0.7 * 4000 / 12
