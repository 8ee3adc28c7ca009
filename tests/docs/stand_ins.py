"""The files that the pages speak of, in small."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np

from imuvid.models.encoder import EncoderConfig, random_encoder, save_encoder
from imuvid.models.heads import HeadConfig
from imuvid.models.text_encoder import TextEncoder, TextEncoderConfig, save_text_encoder
from imuvid.models.text_tokens import load_tokenizer
from imuvid.models.towers import ImuTowerConfig
from tests.imuvid.models.small import TEXT, write_tokenizer
from tests.imuvid.ood.fakes import write_hapt
from tests.shards.recordings import write_video

GRAVITY = 9.80665


def lay_out(page: str, folder: Path, dataset: Path) -> None:
    """Write below ``folder`` what the Python of a page reads."""
    if page == "docs/formats.md":
        shutil.copytree(dataset, folder / "data/mine")
    elif page == "docs/export.md":
        config = EncoderConfig(ImuTowerConfig(), imu_rate_hz=20.0, window_s=1.0)
        encoder = random_encoder(config, seed=0)
        save_encoder(folder / "encoders/mine", config, encoder.tower.state_dict())
        write_text_encoder(folder, encoder.tower.feature_dim)
    elif page == "docs/evaluation.md":
        write_hapt(folder / "data/hapt", 30)
    elif page == "docs/extending/source.md":
        recording = folder / "recordings/anna_1"
        recording.mkdir(parents=True)
        write_video(recording / "video.mp4")
        rows = [[20 * i, 0, 0, 1, *np.random.default_rng(i).normal(0, 5, 3)] for i in range(150)]
        write_rows(recording / "imu.csv", ["t_ms", "ax", "ay", "az", "gx", "gy", "gz"], rows)
    elif page == "docs/extending/dataset.md":
        for person in ("S01", "S02"):
            for label in ("walk", "sit"):
                path = folder / f"wrists/{person}/{label}_1.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(len(label)).normal(0, 0.05, (300, 6))
                names = [f"{kind}_{axis}" for kind in ("acc", "gyro") for axis in "xyz"]
                write_rows(path, names, np.add(noise, [0, 0, 1, 0, 0, 0]).tolist())


def write_text_encoder(folder: Path, imu_feature_dim: int) -> None:
    clip = dataclasses.replace(TEXT.clip, tokenizer=str(write_tokenizer(folder / "tokenizer")))
    config = TextEncoderConfig(dataclasses.replace(TEXT, clip=clip), HeadConfig(dim=4), imu_feature_dim)
    tokenizer = load_tokenizer(config.tower)
    state = TextEncoder(config, tokenizer).state_dict()
    save_text_encoder(folder / "encoders/mine/text_encoder", config, state, tokenizer.description)


def write_rows(path: Path, header: list[str], rows: list[list]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
