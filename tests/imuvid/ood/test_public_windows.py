"""Choosing sensors, labels and windows of public data sets, and checking copies of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from imuvid.config import load
from imuvid.errors import UserError
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.catalog import CARDS, find_card
from imuvid.ood.datasets.check import check
from imuvid.ood.datasets.common_labels import COMMON_LABELS, common_label
from imuvid.ood.datasets.describe import markdown_table
from imuvid.ood.datasets.hapt import HAPTConfig, read_hapt
from imuvid.ood.datasets.public_windows import PublicConfig, Reading, read_public
from imuvid.ood.datasets.recording import Recording, Segment, Stream, check_recording, in_order
from imuvid.ood.datasets.xlsx import read_xlsx
from tests.imuvid.ood.official.writer import DEG, G, Writer, clock
from tests.imuvid.ood.test_public_readers import write

REPOSITORY = Path(__file__).parents[3]


def read(key, folder, window_s=2.0, rate_hz=25.0, **settings):
    return read_public(CARDS[key], PublicConfig(str(folder), partial=True, **settings), rate_hz, window_s)


def test_positions_are_chosen_in_the_order_asked_for(tmp_path):
    truths = write("pamap2", tmp_path)
    both = read("pamap2", tmp_path, rate_hz=100.0, positions=["ankle", "chest"])
    row = int(np.flatnonzero(both.recording == "Protocol_101")[0])
    first = round(both.start_s[row] * 100)
    truth = next(truth for truth in truths if truth.name == "Protocol_101")
    for place, position in enumerate(("ankle", "chest")):
        for sensor, kind in enumerate(("acc", "gyro")):
            written = truth.streams[position, kind][first : first + 200]
            there = np.isfinite(written).all(axis=1)
            seen = both.imu[row, :, place, 3 * sensor : 3 * sensor + 3]
            np.testing.assert_allclose(seen[there], written[there], atol=0.05)
    with pytest.raises(UserError, match=r"pamap2\.positions: 'hip' is not among wrist, chest, ankle"):
        read("pamap2", tmp_path, positions=["hip"])


def test_common_labels_join_data_sets(tmp_path):
    harth, shoaib = tmp_path / "a", tmp_path / "b"
    write("harth", harth)
    write("shoaib", shoaib)
    assert read("harth", harth, labels="common").classes == ["walking"]
    windows = read("shoaib", shoaib, labels="common")
    assert windows.classes == ["walking", "stairs_up"]
    own = read("shoaib", shoaib)
    assert own.classes == ["walking", "upstairs"]
    np.testing.assert_array_equal(windows.label, own.label)
    assert read("shoaib", shoaib, labels="common", activities=["stairs_up"]).classes == ["stairs_up"]
    with pytest.raises(UserError, match=r"shoaib\.activities: there is no 'upstairs': choose from walking, running"):
        read("shoaib", shoaib, labels="common", activities=["upstairs"])


def test_the_map_of_labels_names_each_label_once_and_knows_its_data_sets():
    names = [name for own in COMMON_LABELS.values() for name in own]
    assert len(set(names)) == len(names)
    used = {common_label(name) for card in CARDS.values() for name in card.labels}
    assert used >= set(COMMON_LABELS)
    # Six activities that five or more data sets share are what training on one and testing on another needs.
    shared = [common for common in COMMON_LABELS if sum(common in _common(card) for card in CARDS.values()) >= 5]
    assert set(shared) >= {"walking", "running", "stairs_up", "stairs_down", "sitting", "standing", "lying"}
    assert common_label("walking_on_treadmill") is None


def _common(card):
    return {common_label(name) for name in card.labels}


def test_published_selections_and_their_absence(tmp_path):
    write("pamap2", tmp_path)
    everything = read("pamap2", tmp_path)
    assert everything.classes == ["sitting", "walking", "watching_tv", "car_driving"]
    with pytest.raises(UserError, match="no window of 2 s of class 'lying'"):
        read("pamap2", tmp_path, activities=["protocol"])
    assert read("pamap2", tmp_path, activities=["walking", "sitting"]).classes == ["walking", "sitting"]
    paper = CARDS["uestc_mmea_cl"].subsets["paper"]
    assert paper == ("standing", "walking", "sit_stand", "downstairs", "fall")


def test_freezing_is_decided_by_share_of_the_window(tmp_path):
    write("turning_in_place", tmp_path)  # 4 s without, 4 s with, 4 s without
    first = read("turning_in_place", tmp_path, window_s=3.0)
    mine = first.subject == "PDFE01"
    assert dict(zip(first.start_s[mine].tolist(), first.label[mine].tolist(), strict=True)) == {0: 0, 3: 1, 6: 1, 9: 0}
    with pytest.raises(UserError, match="no window of class 'freeze' is there"):
        read("turning_in_place", tmp_path, window_s=3.0, positive_share=0.7)  # two thirds at most
    with pytest.raises(UserError, match=r"positive_share=0\.0: must lie between 0 and 1"):
        read("turning_in_place", tmp_path, positive_share=0.0)
    with pytest.raises(UserError, match="freeze, the positive class, must be among them"):
        read("turning_in_place", tmp_path, activities=["no_freeze"])


def test_a_fall_gives_one_window_around_it(tmp_path):
    write("sisfall", tmp_path)  # the largest acceleration is at 7 s
    windows = read("sisfall", tmp_path, window_s=3.0)
    falls = windows.label == windows.classes.index("fall")
    assert falls.sum() == 2
    assert windows.start_s[falls] == pytest.approx([5.5, 5.5], abs=0.05)
    assert (~falls).sum() == 2 * 3


def test_windows_of_a_recording_and_class_can_be_limited(tmp_path):
    write("harth", tmp_path)
    full, few = read("harth", tmp_path, window_s=1.0), read("harth", tmp_path, window_s=1.0, max_windows=3)
    assert full.provenance["windows_by_class"]["walking"] == 18
    assert few.provenance["windows_by_class"] == {"walking": 6, "cycling_sitting_inactive": 6}
    chosen = few.start_s[(few.subject == "S006") & (few.label == 0)]
    assert chosen.tolist() == [0, 4, 8]  # spread over 0 to 8 s


def test_domains_of_windows(tmp_path):
    write("weargait_pd", tmp_path)
    windows = read("weargait_pd", tmp_path)
    assert set(windows.domain) == {"population", "session", "task"}
    of = dict(zip(windows.subject.tolist(), windows.domain["population"].tolist(), strict=True))
    assert of == {"NLS001": "parkinsons", "HC100": "control"}


def test_a_dead_accelerometer_is_absent_and_a_few_bad_recordings_are_left_out(tmp_path):
    writer = Writer(tmp_path)
    for s in range(1, 31):
        acc, gyro = writer.motion(300, 100)
        wrong = G if s == 7 else 1.0
        writer.mat(f"Subject{s}/a1t1.mat", "sensor_readings", [acc * wrong / G, gyro / DEG])
        dead = np.zeros_like(acc) if s == 9 else acc
        writer.mat(f"Subject{s}/a2t1.mat", "sensor_readings", [dead / G, gyro / DEG])
    reading = Reading(CARDS["usc_had"], tmp_path)
    assert len(list(reading)) == 59
    assert reading.dead == ["s9_a2t1 waist"]
    windows = read("usc_had", tmp_path)
    assert not windows.valid[windows.recording == "s9_a2t1"][..., 0].any()
    assert windows.valid[windows.recording == "s9_a2t1"][..., 1].all()
    assert any("1 recordings are left out, the first because" in note and "Subject7" in note for note in windows.notes)


@pytest.mark.parametrize(
    ("acc_unit", "gyro_unit", "rate", "message"),
    [
        (1.0, 1 / DEG, 100.0, r"the (median )?angular rate|gyroscope of waist contradicts"),
        (1.0, DEG, 100.0, "gyroscope of waist contradicts how gravity turns .* rad/s, converted from degrees twice"),
        (1 / G, 1.0, 100.0, r"the median acceleration of waist is 1 m/s\^2 .* gravity alone is 9.8"),
        (1.0, 1.0, 50.0, "100 samples a second by its time stamps, published are 50"),
    ],
)
def test_units_and_rates_that_cannot_be(acc_unit, gyro_unit, rate, message):
    acc, gyro = Writer(Path()).motion(2000, 100)
    times_s = clock(2000, 100)
    streams = [Stream("waist", "acc", times_s, acc * acc_unit), Stream("waist", "gyro", times_s, gyro * gyro_unit)]
    recording = Recording("one", "s", Path("file"), streams, [Segment(0, 1, "sitting")])
    card = dataclasses.replace(CARDS["usc_had"], rate_hz=(rate, rate))
    with pytest.raises(UserError, match=message):
        check_recording(recording, card)


def test_stamps_keep_their_precision_and_their_order():
    stamps = np.array([1424696638740127000 + 10_000_000 * i for i in range(200)])
    stamps[100] = stamps[99]
    times_s, keep = in_order(stamps, 1e-9, Path("file"))
    assert keep.sum() == 199
    np.testing.assert_allclose(times_s[:100], np.arange(100) / 100, atol=1e-12)
    with pytest.raises(UserError, match="50 % of the time stamps do not advance"):
        in_order(np.tile([1.0, 0.0], 50) + np.arange(100) * 1e-3, 1.0, Path("file"))


def test_a_copy_is_checked_against_the_published_counts(tmp_path):
    write("harth", tmp_path)
    card = dataclasses.replace(CARDS["harth"], subjects=2, recordings=2, hours=2 * 17.98 / 3600)
    report = check(card, tmp_path)
    assert report.ok, report.lines()
    assert report.labelled_hours == pytest.approx({"walking": 0.005, "cycling_sitting_inactive": 0.005})
    worse = check(CARDS["harth"], tmp_path)
    assert worse.problems == [
        "2 people, published are 22",
        "2 recordings, published are 22",
        "0.01 h, published are 35.9",
    ]
    (tmp_path / "harth/S015.csv").write_bytes(b"")
    assert "S015.csv: the file is empty" in check(card, tmp_path).problems[0]
    with pytest.raises(UserError, match="no such folder"):
        check(card, tmp_path / "none")
    with pytest.raises(UserError, match="'harthh' is no public data set: choose from uci_har"):
        find_card("harthh")


def test_every_data_set_has_its_settings_in_the_config():
    config = load(OODConfig, None, ["dsads.root=/data/dsads", "dsads.labels=common", "pads.protocol.num_folds=10"])
    assert config.dsads.root == "/data/dsads"
    assert config.dsads.protocol.kind == "leave-one-subject-out"
    assert config.pads.protocol.kind == "grouped-folds"
    assert {card for card in CARDS if not hasattr(config, card)} == set()


def test_the_table_of_the_documentation_is_that_of_the_cards():
    page = (REPOSITORY / "docs/ood_datasets.md").read_text()
    assert "\n".join(markdown_table()) in page, "its table is what python -m imuvid.ood.datasets.describe prints"


def test_a_workbook_that_a_spreadsheet_program_wrote(realdata):
    table = read_xlsx(realdata / "pd_stanford_fog/imus6_subjects7_configs.xlsx")
    assert len(table) > 5
    assert len(table.columns) > 1


@pytest.mark.slow
def test_published_copies_have_the_published_counts(realdata):
    assert check(CARDS["hapt"], realdata / "hapt").ok
    report = check(CARDS["utd_mhad"], realdata / "utd_mhad")
    assert report.ok, report.lines()
    assert len(report.labelled_hours) == 27
    assert report.hours == pytest.approx(0.86, abs=0.005)
    freezing = check(CARDS["stanford_fog"], realdata / "pd_stanford_fog")
    assert freezing.problems == ["4 people, published are 7", "18 recordings, published are 60"]
    assert freezing.labelled_hours["freeze"] * 3600 == pytest.approx(91.7, abs=0.1)
    assert check(CARDS["daphnet"], realdata / "pd_daphnet").recordings == 7


@pytest.mark.slow
def test_published_copies_as_windows(realdata):
    windows = read("utd_mhad", realdata / "utd_mhad", rate_hz=50.0)
    assert windows.positions == ["right_wrist"]
    assert len(windows.classes) == 21
    assert set(windows.subject) == {f"s{i}" for i in range(1, 9)}
    lengths = np.linalg.norm(windows.imu[..., :3], axis=-1)
    assert 1.0 < lengths.mean() / G < 1.3
    patients = read("stanford_fog", realdata / "pd_stanford_fog", rate_hz=50.0, positions=["left_ankle", "left_foot"])
    assert set(patients.subject) == {"pt3", "pt5", "pt6", "pt7"}
    assert patients.provenance["windows_by_class"]["freeze"] == pytest.approx(45, abs=6)
    assert patients.valid.all()


def test_readers_and_hapt_agree(tmp_path):
    write("hapt", tmp_path)
    own = read_hapt(HAPTConfig(str(tmp_path)), 25.0, 2.0)
    general = read("hapt", tmp_path)
    np.testing.assert_allclose(own.imu, general.imu, atol=1e-4)
    np.testing.assert_array_equal(own.label, general.label)
    assert json.dumps(general.provenance)
