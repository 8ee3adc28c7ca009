"""Every reader of a public data set on a small copy that is laid out as the published one, and on damaged copies."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imuvid.errors import UserError
from imuvid.ood.datasets.catalog import CARDS
from imuvid.ood.datasets.public_windows import PublicConfig, Reading, read_public
from imuvid.ood.datasets.recording import POSITIONS
from tests.imuvid.ood.official import activities, patients
from tests.imuvid.ood.official.writer import G, Writer

WRITERS = activities.WRITERS | patients.WRITERS
KEYS = list(CARDS)


def write(key, folder, **faults):
    writer = Writer(folder, **faults)
    WRITERS[key](writer)
    return writer.truths


def test_every_data_set_is_tested():
    assert set(WRITERS) == set(CARDS)


@pytest.mark.parametrize("key", KEYS)
def test_signals_labels_and_people_are_those_written(tmp_path, key):
    truths = {truth.name: truth for truth in write(key, tmp_path)}
    recordings = {recording.name: recording for recording in Reading(CARDS[key], tmp_path)}
    assert set(recordings) == set(truths)
    for name, truth in truths.items():
        recording = recordings[name]
        assert recording.subject == truth.subject
        assert [segment.label for segment in recording.segments] == truth.labels
        assert {(stream.position, stream.kind) for stream in recording.streams} == set(truth.streams)
        for stream in recording.streams:
            written = truth.streams[stream.position, stream.kind]
            # Raw counts and milli-g are whole numbers.
            np.testing.assert_allclose(stream.values, written, atol=0.03, rtol=0.005)
            assert len(stream.times_s) == len(written)
            assert 1 / np.diff(stream.times_s).mean() == pytest.approx(truth.rate_hz, rel=0.005)
        for segment in recording.segments:
            assert 0 <= segment.start_s < segment.stop_s <= recording.duration_s + 1.5 / truth.rate_hz


@pytest.mark.parametrize("key", KEYS)
def test_windows_are_in_si_units_and_carry_the_labels(tmp_path, key):
    card = CARDS[key]
    truths = write(key, tmp_path)
    windows = read_public(card, PublicConfig(str(tmp_path), partial=True), rate_hz=25.0, window_s=2.0)
    place = windows.positions[0]
    here = [truth for truth in truths if (place, "acc") in truth.streams]
    assert set(windows.classes) == {label for truth in here for label in truth.labels}
    assert set(windows.subject) == {truth.subject for truth in here}
    assert set(windows.label.tolist()) == set(range(len(windows.classes)))
    assert windows.imu.shape[1:] == (50, len(windows.positions), 6)
    assert len(set(windows.ids.tolist())) == len(windows.label)
    lengths = np.linalg.norm(windows.imu[windows.valid[..., 0], :3], axis=-1)
    assert np.median(lengths) == pytest.approx(G if card.gravity else 0.3, rel=0.2)
    assert windows.valid[..., 1].any() == any((place, "gyro") in truth.streams for truth in here)
    assert windows.positive == card.positive


def damage(path, how):
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif path.suffix in (".gz", ".mat", ".zip", ".npz", ".xlsx"):
        path.write_bytes(content[: len(content) * 3 // 5])
    else:
        # In the first field of a line.
        path.write_bytes(content[: content.rindex(b"\n", 0, len(content) * 3 // 5) + 2])


EXPECTED = {
    "empty": r"empty|no line",
    "truncated": r"cannot be read|columns|lines|cut off|[Cc]olumn",
    "unit": r"median acceleration .* another unit|expected about 1",
    "exchanged": r".",
    "missing person": r"only 1 of the 2 published people are there: fetch the rest, or set \w+\.partial=true",
}


@pytest.mark.parametrize("how", EXPECTED)
@pytest.mark.parametrize("key", KEYS)
def test_damaged_copies_give_one_line_that_names_the_file(tmp_path, key, how):
    card = dataclasses.replace(CARDS[key], subjects=2)
    faults = {"unit": {"unit": G}, "exchanged": {"exchanged": True}, "missing person": {"subjects": 1}}
    truths = write(key, tmp_path, **faults.get(how, {}))
    if how in ("empty", "truncated"):
        damage(truths[-1].source, how)
    with pytest.raises(UserError, match=EXPECTED[how]) as caught:
        read_public(card, PublicConfig(str(tmp_path)), rate_hz=25.0, window_s=2.0)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    if how in ("empty", "truncated"):
        assert truths[-1].source.name in message


@pytest.mark.parametrize("key", KEYS)
def test_an_empty_folder_gives_one_line(tmp_path, key):
    with pytest.raises(UserError, match=rf"there is no .* give the folder of the unpacked data set as {key}.root"):
        read_public(CARDS[key], PublicConfig(str(tmp_path)), 25.0, 2.0)


@pytest.mark.parametrize("key", KEYS)
def test_cards_are_complete(key):
    card = CARDS[key]
    assert set(card.positions) <= POSITIONS
    assert set(card.default_positions) <= set(card.positions)
    assert all((card.title, card.citation, card.licence, card.homepage.startswith("http"), card.sensors))
    assert bool(card.downloads) != bool(card.steps)
    assert card.positive is None or card.positive in card.labels
    assert len(set(card.labels)) == len(card.labels)
