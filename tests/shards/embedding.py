"""Video towers and recordings, for datasets that hold embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from imuvid.errors import UserError
from imuvid.models.towers import VideoTowerConfig, build_video_tower
from imuvid.models.video_cnn import VideoCnnConfig
from imuvid.models.video_encoder import VideoEncoderConfig, save_video_encoder
from tests.shards.recordings import imu_columns, make_recordings, write_csv, write_manifest, write_video

NUM_FRAMES, SIZE = 4, 48
TOWER = VideoTowerConfig(cnn=VideoCnnConfig(channels=[8, 12], time_strides=[1, 2]))


def write_tower(folder: Path, seed: int = 0, num_frames: int = NUM_FRAMES, size: int = SIZE) -> Path:
    """A tower as a checkpoint keeps it."""
    torch.manual_seed(seed)
    tower = build_video_tower(TOWER)
    for tensor in tower.state_dict().values():
        # Far from the initialisation, and so that no feature is 0 for all pictures.
        tensor.copy_(torch.rand_like(tensor) + 0.2 if tensor.ndim == 1 else 4 * tensor)
    save_video_encoder(folder, VideoEncoderConfig(TOWER, num_frames, [size, size]), tower.state_dict())
    return folder


def features_of(folder: Path, frames: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """One window by the tower of a folder, without what is tested here."""
    tower = build_video_tower(TOWER)
    tower.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.no_grad():
        return tower.eval()(torch.from_numpy(frames)[None], torch.from_numpy(valid)[None])[0].numpy()


def write_recordings(folder: Path) -> Path:
    """The first recording has more windows than a batch, the last a video that ends before the IMU; the manifest."""
    make_recordings(folder, {"ada-1": 5.0, "eva-1": 2.2, "ida-1": 1.4})
    rows = [
        {"recording": name, "video": f"{name}.mp4", "imu": f"{name}.csv", "position": "wrist", "subject": name[:3]}
        for name in ("ada-1", "eva-1", "ida-1", "uta-1")
    ]
    write_video(folder / "uta-1.mp4", 40)
    write_csv(folder / "uta-1.csv", imu_columns(2.5))
    return write_manifest(folder / "recordings.csv", rows)


def refused(function, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
