"""An encoder as others use it: a folder that needs neither the training nor this package's command line.

OUT/model.safetensors, config.json   what imuvid.load_encoder reads
    encoder.onnx                     the same for onnxruntime, window to features
    README.md                        the model card
    text_encoder/                    what imuvid.load_text_encoder reads, where the checkpoint has it
"""

from __future__ import annotations

import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from imuvid.errors import UserError
from imuvid.model_card import model_card
from imuvid.models import text_encoder
from imuvid.models.encoder import CONFIG_NAME, WEIGHTS_NAME, Encoder, find_tower, load_encoder

ONNX_NAME, CARD_NAME = "encoder.onnx", "README.md"
OPSET = 18
TOLERANCE = 1e-4
"""Largest difference of a feature in ONNX from that in torch, as a share of the largest feature."""


@dataclass
class ExportResult:
    """What :func:`export_encoder` leaves behind."""

    out: Path
    feature_dim: int
    onnx_difference: float
    """Largest difference of a feature between onnxruntime and torch, as a share of the largest feature."""


def export_encoder(checkpoint: str | Path, out: str | Path) -> ExportResult:
    """Write the encoder of a checkpoint as a folder of its own, and compare its ONNX form with torch.

    Args:
        checkpoint: as for :func:`imuvid.load_encoder`.
        out: a new or empty folder.

    Raises:
        UserError: there is no encoder, the folder holds something, onnx is not installed, the encoder cannot be
            expressed in ONNX, or gives other features there.
    """
    encoder, out = load_encoder(checkpoint), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not an empty folder: choose another")
    source = find_tower(Path(checkpoint), "encoder")
    out.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_NAME, CONFIG_NAME):
        shutil.copyfile(source / name, out / name)
    for place in (source.parent / text_encoder.FOLDER_NAME, source / text_encoder.FOLDER_NAME):
        if place.is_dir():
            text_encoder.load_text_encoder(place)  # raises where it is damaged
            shutil.copytree(place, out / text_encoder.FOLDER_NAME)
    write_onnx(encoder, out / ONNX_NAME)
    difference = onnx_difference(encoder, out / ONNX_NAME)
    if difference > TOLERANCE:
        raise UserError(f"{out / ONNX_NAME}: its features differ from torch's by {difference:.1e}: do not use it")
    (out / CARD_NAME).write_text(model_card(encoder, Path(checkpoint), out.name, difference), encoding="utf-8")
    return ExportResult(out, encoder.feature_dim, difference)


def write_onnx(encoder: Encoder, path: Path) -> None:
    """Write the encoder as ONNX: imu float32 [batch, T, sensors, 6], valid bool [batch, T, sensors, 2] to features.

    T is the window length that it was trained on; the number of windows and of sensors is free.

    Raises:
        UserError: onnx is not installed, or a part of the encoder cannot be expressed in it.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("export needs onnx, onnxscript and onnxruntime: pip install 'imuvid[onnx]'") from error
    batch, sensors = torch.export.Dim("batch"), torch.export.Dim("sensors")
    shapes = {"imu": {0: batch, 2: sensors}, "valid": {0: batch, 2: sensors}}
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                encoder,
                _example(encoder, 3, 2),
                str(path),
                input_names=["imu", "valid"],
                output_names=["features"],
                dynamic_shapes=shapes,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        kind, reason = encoder.config.tower.kind, str(error).strip().splitlines()
        raise UserError(f"the tower {kind} cannot be written as ONNX: {reason[0] if reason else error!r}") from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def onnx_difference(encoder: Encoder, path: Path) -> float:
    """Return the largest difference of a feature between onnxruntime (CPU) and torch, as a share of the largest one.

    Windows of one and of three sensors are looked at, with absent sensors and gaps.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch, sensors in ((1, 1), (4, 3)):
        imu, valid = _example(encoder, batch, sensors)
        valid[0, : valid.shape[1] // 4, 0] = False
        valid[-1, :, -1, 1] = False
        with torch.no_grad():
            expected = encoder(imu, valid).numpy()
        found = session.run(["features"], {"imu": imu.numpy(), "valid": valid.numpy()})[0]
        worst = max(worst, float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12)))
    return worst


def _example(encoder: Encoder, batch: int, sensors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return windows of the length that the encoder takes: imu and valid."""
    samples = round(encoder.config.imu_rate_hz * encoder.config.window_s)
    imu = 5 * torch.randn(batch, samples, sensors, 6, generator=torch.Generator().manual_seed(0))
    return imu, torch.ones(batch, samples, sensors, 2, dtype=torch.bool)
