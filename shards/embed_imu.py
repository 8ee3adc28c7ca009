"""A file of raw IMU samples, of any rate and unit, to embeddings of its windows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imuvid.errors import UserError
from imuvid.imu.defects import find_defects
from imuvid.imu.resample import resample
from imuvid.models.encoder import Encoder, load_encoder
from imuvid.ood.embedding import choose_device, condition_recording, features_of, weights_sha256
from shards.sources.base import RecordingError, Stream
from shards.sources.sensor_file import FIRST_SAMPLE, SensorFile, SensorFileConfig

logger = logging.getLogger(__name__)

SUFFIXES = (".parquet", ".npz")


@dataclass
class EmbedConfig(SensorFileConfig):
    """What is known of the file, and how it is cut."""

    stride_s: float | None = None
    """From the start of one window to the next, seconds; null = their length, so that they do not overlap."""
    batch_size: int = 256
    """Windows that go through the encoder at once."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu or cuda."""


@dataclass
class EmbedResult:
    """What :func:`embed_file` leaves behind."""

    out: Path
    windows: int
    feature_dim: int
    left_out: int
    """Windows in which nothing was measured."""


def embed_file(encoder: str | Path, file: str | Path, out: str | Path, config: EmbedConfig) -> EmbedResult:
    """Write one row a window: start_s and stop_s (after the first sample), valid_share (of its samples), embedding.

    Args:
        encoder: as for :func:`imuvid.load_encoder`.
        file: text, Parquet, NPY, NPZ or MAT file of one sensor.
        out: .parquet (embedding: list of float32) or .npz (embedding: float32 [N, D]).
        config: units, columns, rate or time stamps, axes, stride.

    Raises:
        UserError: the encoder or the file cannot be read, the file is shorter than a window, or ``out`` is neither.
    """
    out, loaded = Path(out), load_encoder(encoder)
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out}: must end with {' or '.join(SUFFIXES)}")
    stride_s = loaded.config.window_s if config.stride_s is None else config.stride_s
    for name, value in (("stride_s", stride_s), ("batch_size", config.batch_size)):
        if value <= 0:
            raise UserError(f"{name}={value:g} must be above 0")
    try:
        stream = SensorFile(Path(file), config, {}, FIRST_SAMPLE).read()
    except RecordingError as error:
        raise UserError(str(error)) from error
    _warn_of_units(stream, str(file))
    starts, imu, valid = _windows(stream, loaded, stride_s, str(file))
    measured = valid.any(axis=(1, 2, 3))
    if not measured.any():
        raise UserError(f"{file}: holds no window with a sample: are the values numbers, and the gaps short?")
    starts, imu, valid = starts[measured], imu[measured], valid[measured]
    device = choose_device(config.device)
    embedding = features_of(loaded, imu, valid, config.batch_size, device)
    columns = {
        "start_s": starts,
        "stop_s": starts + loaded.config.window_s,
        "valid_share": valid.any(axis=3).mean(axis=(1, 2)).astype(np.float32),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npz":
        np.savez(out, embedding=embedding, **columns)
    else:
        rows = pa.FixedSizeListArray.from_arrays(pa.array(embedding.ravel()), loaded.feature_dim)
        table = pa.table({**columns, "embedding": rows})
        pq.write_table(table.replace_schema_metadata({"encoder_sha256": weights_sha256(loaded.tower)}), out)
    return EmbedResult(out, len(starts), loaded.feature_dim, int((~measured).sum()))


def _warn_of_units(stream: Stream, where: str) -> None:
    for kind, word in (("acc", "acc_unit"), ("gyro", "gyro_unit")):
        signal = getattr(stream, kind)
        suspect = signal and find_defects(signal.times_s, signal.values, kind, None).suspect_unit
        if suspect:
            logger.warning("%s: the %s looks like %s: is %s right?", where, kind, suspect, word)


def _windows(
    stream: Stream, encoder: Encoder, stride_s: float, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts float64 [N] (s), imu float32 [N, T, 1, 6] as the encoder gets it, and valid bool [N, T, 1, 2]."""
    rate_hz, window_s = encoder.config.imu_rate_hz, encoder.config.window_s
    signals = [signal for signal in (stream.acc, stream.gyro) if signal is not None]
    first_s = min(signal.times_s[0] for signal in signals)
    stop_s = max(signal.times_s[-1] + np.median(np.diff(signal.times_s)) for signal in signals) - first_s
    samples = round(window_s * rate_hz)
    count = int(np.floor((stop_s - window_s) / stride_s + 1e-6)) + 1
    if count < 1:
        raise UserError(f"{where}: holds {stop_s:.3g} s, a window of this encoder has {window_s:g} s")
    starts = np.arange(count) * stride_s
    grid_s = first_s + starts[:, None] + np.arange(samples) / rate_hz
    imu, valid = np.zeros((count, samples, 1, 6), np.float32), np.zeros((count, samples, 1, 2), bool)
    for kind, signal in enumerate((stream.acc, stream.gyro)):
        if signal is not None:
            imu[:, :, 0, 3 * kind : 3 * kind + 3], valid[:, :, 0, kind] = resample(
                signal.times_s, signal.values, grid_s, rate_hz
            )
    return starts, condition_recording(imu, valid, encoder.config.condition), valid
