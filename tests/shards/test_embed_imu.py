"""`imuvid embed`: the same movement gives the same embeddings, whatever rate, unit, axes and clock its file has."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from imuvid.errors import UserError
from imuvid.imu.condition import ConditionConfig
from imuvid.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from imuvid.models.imu_cnn import ImuCnnConfig
from imuvid.models.towers import ImuTowerConfig
from launcher import cli
from shards.embed_imu import EmbedConfig, embed_file

RATE, WINDOW_S, LENGTH_S = 50.0, 2.0, 9.5


def save(folder: Path, condition: ConditionConfig | None = None) -> Path:
    torch.manual_seed(0)
    tower = ImuTowerConfig(cnn=ImuCnnConfig(channels=[4, 6], kernel_sizes=[5, 3]))
    config = EncoderConfig(tower, imu_rate_hz=RATE, window_s=WINDOW_S, condition=condition or ConditionConfig())
    save_encoder(folder, config, Encoder(config).tower.state_dict())
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("encoder"))


def motion(times_s: np.ndarray) -> np.ndarray:
    """acc (m/s^2) and gyro (rad/s) of a movement below 8 Hz, float64 [N, 6]."""
    phase = 2 * np.pi * times_s[:, None]
    acc = [0, 0, 9.80665] + np.sin(phase * [1.0, 2.3, 3.1]) * [2.0, 1.0, 3.0] + np.cos(phase * [7.0, 5.0, 2.0])
    return np.concatenate([acc, np.sin(phase * [0.7, 1.9, 4.0]) * [1.0, 2.0, 0.5]], axis=1)


def expected(encoder: Path, starts: np.ndarray, gyro: bool = True) -> np.ndarray:
    times = starts[:, None] + np.arange(int(RATE * WINDOW_S)) / RATE
    imu = np.stack([motion(row) for row in times])[:, :, None].astype(np.float32)
    valid = np.ones((*imu.shape[:3], 2), bool)
    valid[..., 1] = gyro
    with torch.no_grad():
        return load_encoder(encoder)(torch.from_numpy(imu), torch.from_numpy(valid)).numpy()


def difference(found: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference as a share of the largest feature."""
    assert found.shape == reference.shape
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def write(path: Path, columns: dict[str, np.ndarray | list]) -> Path:
    rows = zip(*[[str(cell) for cell in column] for column in columns.values()], strict=True)
    path.write_text(",".join(columns) + "\n" + "".join(",".join(row) + "\n" for row in rows))
    return path


def in_si(times: np.ndarray) -> dict[str, np.ndarray]:
    names = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
    return dict(zip(names, motion(times).T, strict=True))


def in_g_at_200_hz(tmp_path: Path) -> tuple[Path, EmbedConfig]:
    times = np.arange(0, LENGTH_S, 1 / 200)
    values = motion(times)
    names = ["millis", *"abcdef"]
    table = np.column_stack([1000 * times + 1.7e12, values[:, :3] / 9.80665, np.rad2deg(values[:, 3:])])
    config = EmbedConfig(
        time_column="millis",
        time_unit="ms",
        acc_columns="a b c",
        gyro_columns="d e f",
        acc_unit="g",
        gyro_unit="deg/s",
    )
    return write(tmp_path / "g.csv", dict(zip(names, table.T, strict=True))), config


def in_counts_with_other_axes(tmp_path: Path) -> tuple[Path, EmbedConfig]:
    values = motion(np.arange(0, LENGTH_S, 1 / 100))
    # The sensor's x is the body's y, its y the body's -x.
    turned = np.stack([values[:, 1], -values[:, 0], values[:, 2], values[:, 4], -values[:, 3], values[:, 5]], axis=1)
    counts = np.rint(turned * np.repeat([16384 / 9.80665, 131 * 180 / np.pi], 3)).astype(int)
    path = tmp_path / "counts.csv"
    np.savetxt(path, counts, fmt="%d", delimiter=";")
    return path, EmbedConfig(
        rate_hz=100, acc_unit="g", gyro_unit="deg/s", acc_sensitivity=16384, gyro_sensitivity=131, axes="-y x z"
    )


def with_dates(tmp_path: Path) -> tuple[Path, EmbedConfig]:
    times = np.arange(0, LENGTH_S, 1 / 64)
    start = datetime(2024, 5, 17, 10, 30)
    dates = [(start + timedelta(seconds=float(t))).isoformat(timespec="microseconds") for t in times]
    return write(tmp_path / "dates.csv", {"when": dates, **in_si(times)}), EmbedConfig(
        time_column="when", time_unit="iso"
    )


@pytest.mark.parametrize("make", [in_g_at_200_hz, in_counts_with_other_axes, with_dates])
@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_any_rate_unit_axes_and_clock_give_the_same_embeddings(make, suffix, encoder, tmp_path):
    path, config = make(tmp_path)
    result = embed_file(encoder, path, tmp_path / f"new/out{suffix}", config)
    assert (result.windows, result.left_out) == (4, 0)
    if suffix == ".npz":
        found = dict(np.load(result.out))
    else:
        table = pq.read_table(result.out)
        found = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    assert found["start_s"].tolist() == [0, 2, 4, 6]
    assert found["stop_s"].tolist() == [2, 4, 6, 8]
    assert found["valid_share"].tolist() == [1] * 4
    reference = expected(encoder, found["start_s"])
    # The ends of a signal are read without what lies beyond them.
    assert difference(found["embedding"], reference) < 0.02
    assert difference(found["embedding"][1:3], reference[1:3]) < 2e-3


def test_the_stride_and_gaps_and_a_missing_gyroscope(encoder, tmp_path):
    times = np.arange(0, LENGTH_S, 1 / RATE)
    columns = {"t": times, **dict(list(in_si(times).items())[:3])}
    kept = (times < 3) | (times > 7.1)
    path = write(tmp_path / "a.csv", {name: column[kept] for name, column in columns.items()})
    result = embed_file(encoder, path, tmp_path / "a.npz", EmbedConfig(time_column="t", stride_s=0.5))
    found = np.load(result.out)
    assert (result.windows, result.left_out) == (11, 5)
    assert not set(found["start_s"]) & {3.0, 3.5, 4.0, 4.5, 5.0}
    assert found["valid_share"][3] == pytest.approx(0.75, abs=0.02)
    reference = expected(encoder, found["start_s"][:2], gyro=False)
    assert difference(found["embedding"][:2], reference) < 1e-3


def test_recordings_are_conditioned_as_a_whole(tmp_path):
    encoder = save(tmp_path / "encoder", ConditionConfig(1, "recording"))
    times = np.arange(0, 8, 1 / RATE)
    path = write(tmp_path / "a.csv", in_si(times))
    found = np.load(embed_file(encoder, path, tmp_path / "a.npz", EmbedConfig(rate_hz=RATE)).out)["embedding"]
    values = motion(times).astype(np.float32)
    score = (values - values.mean(0)) / values.std(0) * np.repeat([9.80665, 3.0], 3).astype(np.float32)
    imu = torch.from_numpy(score.reshape(4, 100, 1, 6))
    with torch.no_grad():
        reference = load_encoder(encoder)(imu, torch.ones(4, 100, 1, 2, dtype=torch.bool)).numpy()
    assert difference(found, reference) < 1e-3


@pytest.mark.parametrize(
    ("fields", "out", "message"),
    [
        ({"rate_hz": 50}, "a.csv", r"must end with \.parquet or \.npz"),
        ({}, "a.npz", "give rate_hz or time_column"),
        ({"rate_hz": 50, "acc_unit": "lb"}, "a.npz", "acc_unit 'lb' is none of"),
        ({"rate_hz": 50, "acc_columns": "p q r"}, "a.npz", "no column 'p', only acc_x"),
        ({"rate_hz": 50, "stride_s": 0}, "a.npz", "stride_s=0 must be above 0"),
        ({"rate_hz": 500}, "a.npz", "holds 0.95 s, a window of this encoder has 2 s"),
    ],
)
def test_mistakes_are_one_line(fields, out, message, encoder, tmp_path):
    path = write(tmp_path / "si.csv", in_si(np.arange(0, LENGTH_S, 1 / RATE)))
    with pytest.raises(UserError, match=message) as caught:
        embed_file(encoder, path, tmp_path / out, EmbedConfig(**fields))
    assert "\n" not in str(caught.value)


def test_the_command_says_what_it_did_and_warns_of_a_wrong_unit(encoder, tmp_path, monkeypatch, capsys, caplog):
    times = np.arange(0, 30, 1 / RATE)
    still = {name: column * 0.01 for name, column in in_si(times).items()}
    still["acc_z"] = still["acc_z"] + 1.0  # lies still, in g
    path = write(tmp_path / "still.csv", still)
    out, report = tmp_path / "still.npz", tmp_path / "result.json"
    words = ["embed", str(encoder), str(path), str(out), "rate_hz=50", "--json", str(report)]
    monkeypatch.setattr("sys.argv", ["imuvid", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    output = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"{out}: 15 windows of 20 features" in output
    assert "the acc looks like g: is acc_unit right?" in caplog.text
    assert json.loads(report.read_text())["windows"] == 15
