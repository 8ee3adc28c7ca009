"""Datasets that hold a frozen video tower's embeddings: right ones, the same bytes always, and no picture anywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from safetensors.torch import load_file

import shards.pictures
from imuvid.config import to_yaml
from imuvid.data.format import decode_members, parse_tar, read_dataset_info, read_index, read_recordings
from imuvid.errors import UserError
from imuvid.models.towers import VideoTowerConfig, build_video_tower
from imuvid.models.video_cnn import VideoCnnConfig
from imuvid.models.video_encoder import VideoEncoderConfig, save_video_encoder
from imuvid.models.video_videomae import VideoMAE, VideoMAETowerConfig
from shards import embedder
from shards.build import build
from shards.combine import merge
from shards.config import FramesConfig
from shards.embed import embed_dataset
from shards.fragment import Skipped, digest_of, make_fragment
from shards.inspect import inspect_dataset
from shards.sources import make_source
from shards.splits import Identities
from shards.subset import filter_windows
from shards.verify import verify
from shards.video import probe, read_frames
from tests.shards.recordings import build_config, imu_columns, make_recordings, write_csv, write_manifest, write_video
from tests.soak import times

REPOSITORY = Path(__file__).parents[2]
NUM_FRAMES, SIZE = 4, 48
TOWER = VideoTowerConfig(cnn=VideoCnnConfig(channels=[8, 12], time_strides=[1, 2]))
WORDS = ["window.hop_s=0.35", "samples_per_shard=7", "split.test_subjects=[eva]", "split.val_subjects=[uta]"]
WORDS += ["build.workers=1"]


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


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("checkpoint") / "video_encoder")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Recordings of which the first has more windows than a batch, and the last a video that ends before the IMU."""
    folder = tmp_path_factory.mktemp("recordings")
    make_recordings(folder, {"ada-1": 5.0, "eva-1": 2.2, "ida-1": 1.4})
    rows = [
        {"recording": name, "video": f"{name}.mp4", "imu": f"{name}.csv", "position": "wrist", "subject": name[:3]}
        for name in ("ada-1", "eva-1", "ida-1", "uta-1")
    ]
    write_video(folder / "uta-1.mp4", 40)
    write_csv(folder / "uta-1.csv", imu_columns(2.5))
    return write_manifest(folder / "recordings.csv", rows)


@pytest.fixture(scope="module")
def with_frames(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("frames") / "small"
    build(build_config(manifest, out, *WORDS))
    return out


@pytest.fixture(scope="module")
def embedded(manifest, tower, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedded") / "small"
    summary = build(build_config(manifest, out, *WORDS, f"frames.embed_with={tower.parent}"))
    return out, summary


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pictures_below(folder: Path) -> list[Path]:
    """Files that hold the first bytes of a JPEG, PNG or MP4 anywhere."""
    magic = (b"\xff\xd8\xff", b"\x89PNG", b"ftyp")
    found = []
    for path in folder.rglob("*"):
        try:
            content = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            continue
        found += [path for start in magic if start in content]
    return found


def samples_of(folder: Path) -> dict:
    samples = {}
    for row in read_index(folder).to_pylist():
        raw = (folder / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        samples[row["key"]] = decode_members(parse_tar(raw))
    return samples


def refused(function, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_build_stores_what_the_tower_makes_of_the_frames(embedded, with_frames, manifest, tower):
    out, summary = embedded
    videos = {identity: manifest.parent / f"{name}.mp4" for name, identity in summary.identifiers.items()}
    samples, others = samples_of(out), samples_of(with_frames)
    assert list(samples) == list(others)
    num_invalid = 0
    for key, sample in samples.items():
        video = videos[sample.meta.recording]
        wanted_s = np.array(sample.meta.frame_times_s) + sample.meta.start_s
        indices = np.abs(probe(video).times_s[None] - wanted_s[:, None]).argmin(1)
        shown = dict(read_frames(video, np.unique(indices).tolist(), SIZE, "squash"))
        frames = np.stack([shown[index] for index in indices.tolist()])
        valid = np.array(sample.meta.frame_valid)
        frames[~valid] = 0
        num_invalid += (~valid).sum()
        np.testing.assert_allclose(sample.embedding, features_of(tower, frames, valid), rtol=2e-3, atol=2e-3)
        assert sample.frames == []
        assert sample.embedding.dtype == np.float16
        assert sample.meta == others[key].meta
        np.testing.assert_array_equal(sample.imu, others[key].imu)
    assert num_invalid
    # The videos begin alike, the windows of one do not look alike.
    assert len({(s.meta.recording, s.embedding.tobytes()) for s in samples.values()}) == len(samples)


def test_dataset_json_says_which_tower_but_not_where_it_was(embedded, with_frames, tower):
    out, _ = embedded
    info, other = read_dataset_info(out), read_dataset_info(with_frames)
    assert (info.num_frames, info.frame_size, info.embedding_dim) == (NUM_FRAMES, [], 12)
    assert info.video_embedding["frame_size"] == [SIZE, SIZE]
    assert info.video_embedding["tower"]["cnn"]["channels"] == [8, 12]
    assert other.video_embedding is None
    for name in ("index.parquet", "recordings.parquet", "dataset.json"):
        assert str(tower.parent).encode() not in (out / name).read_bytes()
    columns = [name for name in read_index(out).column_names if name not in ("shard", "offset", "size", "crc32")]
    assert read_index(out).select(columns).equals(read_index(with_frames).select(columns))
    assert verify(out).problems == []


def test_no_picture_is_in_the_dataset_and_none_is_ever_encoded(
    embedded, with_frames, manifest, tower, tmp_path, monkeypatch
):
    assert pictures_below(with_frames)
    assert pictures_below(embedded[0]) == []

    def encode(*_):
        raise AssertionError("a picture was encoded")

    monkeypatch.setattr(shards.pictures, "encode", encode)
    config = build_config(manifest, tmp_path, *WORDS, f"frames.embed_with={tower}")
    source, identities = make_source(config.source), Identities("test", config.split)
    ref = source.list()[0]
    digest = digest_of(config, "test", ref)
    made = make_fragment(config, source, identities, ref, tmp_path / "a.tar", digest, 1)
    assert not isinstance(made, Skipped), made
    assert pictures_below(tmp_path) == []


def test_workers_and_the_place_of_the_tower_change_no_byte(embedded, manifest, tower, tmp_path):
    out, _ = embedded
    moved = shutil.copytree(tower, tmp_path / "elsewhere")
    again = build_config(manifest, tmp_path / "again", *WORDS, f"frames.embed_with={moved}", "build.workers=3")
    build(again)
    assert contents(tmp_path / "again") == contents(out)


def test_another_tower_is_another_config(embedded, manifest, tower, tmp_path):
    copied = shutil.copytree(tower, tmp_path / "tower")
    out = shutil.copytree(embedded[0], tmp_path / "out")
    config = build_config(manifest, out, *WORDS, f"frames.embed_with={copied}")
    assert build(config).existed
    write_tower(copied, seed=1)
    assert "another config" in refused(build, config)
    fields = json.loads((tower / "config.json").read_text())
    fields["tower"]["cnn"]["motion"] = False
    same_weights = shutil.copytree(tower, tmp_path / "other")
    (same_weights / "config.json").write_text(json.dumps(fields))
    assert "damaged video tower" in refused(embedder.load_tower, str(same_weights), NUM_FRAMES, SIZE)
    fields["tower"]["cnn"] |= {"motion": True, "time_strides": [2, 1]}
    (same_weights / "config.json").write_text(json.dumps(fields))
    described = [
        embedder.describe_tower(FramesConfig(num=NUM_FRAMES, size=SIZE, embed_with=str(path)))
        for path in (tower, same_weights)
    ]
    assert described[0]["sha256"] == described[1]["sha256"]
    assert described[0] != described[1]


def test_a_tower_that_changes_during_the_build_embeds_nothing(manifest, tower, tmp_path):
    copied = shutil.copytree(tower, tmp_path / "tower")
    config = build_config(manifest, tmp_path, *WORDS, f"frames.embed_with={copied}")
    source, identities = make_source(config.source), Identities("test", config.split)
    ref = source.list()[0]
    digest = digest_of(config, "test", ref)
    write_tower(copied, seed=1)
    made = make_fragment(config, source, identities, ref, tmp_path / "a.tar", digest, 1)
    assert isinstance(made, Skipped)
    assert made.reason == "changed"


@pytest.mark.slow
def test_a_kill_leaves_no_picture_and_changes_no_byte(embedded, manifest, tower, tmp_path):
    out = tmp_path / "out"
    config = build_config(manifest, out, *WORDS, f"frames.embed_with={tower}", "build.workers=1")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    program = (
        "from imuvid.config import load; from shards.config import BuildConfig; from shards.build import build\n"
        f"build(load(BuildConfig, {str(tmp_path / 'config.yaml')!r}))"
    )
    for num_fragments in range(times(2, 4)):
        process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
        deadline = time.monotonic() + 60
        while len(list((out / ".build").glob("*.tar*"))) <= num_fragments and time.monotonic() < deadline:
            assert pictures_below(out) == []
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "dataset.json").exists()
        assert list((out / ".build").iterdir())
        assert pictures_below(tmp_path) == []
    build(config)
    assert contents(out) == contents(embedded[0])


@pytest.mark.parametrize("seed", range(5))
def test_windows_are_embedded_from_their_pictures_and_few_are_held(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    num_windows, hop, num_frames = 45, int(rng.integers(1, 6)), 5
    starts = np.arange(num_windows) * hop
    picks = np.minimum(starts[:, None] + np.arange(num_frames) * 2, starts[-1])
    near = rng.random(picks.shape) < 0.6
    near[rng.integers(0, num_windows, 3)] = False

    class Means:
        """Stands for a tower: the features are the mean of each frame."""

        def embed(self, frames, frame_valid):
            assert len(frames) <= embedder.BATCH
            return (frames.mean((2, 3, 4)) + 1000 * frame_valid).astype(np.float16)

    monkeypatch.setattr(embedder, "load_tower", lambda *_: Means())
    windows = embedder.WindowEmbedder(picks, near, FramesConfig(num=num_frames, size=8, embed_with="x"))
    most = 0
    for index in np.unique(picks[near]).tolist():
        windows.add(index, np.full((8, 8, 3), index, np.uint8))
        most = max(most, len(windows._held))
    np.testing.assert_array_equal(windows.finish(), np.where(near, picks % 256 + 1000.0, 0))
    assert most <= (embedder.BATCH + 1) * hop + 2 * num_frames
    assert not windows._held


def test_a_finished_dataset_is_converted(with_frames, tower, tmp_path):
    report = embed_dataset(with_frames, tmp_path / "out", tower, workers=2)
    embed_dataset(with_frames, tmp_path / "again", tower, workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "again")
    assert "cnn" in report.lines()[0]
    assert "12 numbers" in report.lines()[0]
    assert verify(tmp_path / "out").problems == []
    assert pictures_below(tmp_path) == []
    old, new = read_index(with_frames), read_index(tmp_path / "out")
    places = ("shard", "offset", "size", "crc32")
    for name in old.column_names:
        assert name in places or old[name].equals(new[name])
    assert read_recordings(with_frames).equals(read_recordings(tmp_path / "out"))
    assert read_dataset_info(with_frames).counts == read_dataset_info(tmp_path / "out").counts
    others = samples_of(with_frames)
    for key, sample in samples_of(tmp_path / "out").items():
        frames = np.stack([simplejpeg.decode_jpeg(frame) for frame in others[key].frames])
        valid = np.array(sample.meta.frame_valid)
        frames[~valid] = 0
        np.testing.assert_allclose(sample.embedding, features_of(tower, frames, valid), rtol=2e-3, atol=2e-3)
        assert dataclasses.replace(sample, embedding=None, imu=0, valid=0, frames=[]) == dataclasses.replace(
            others[key], imu=0, valid=0, frames=[]
        )


def test_converted_datasets_are_refused_where_they_do_not_fit(with_frames, embedded, tower, tmp_path):
    assert "no frames" in refused(embed_dataset, embedded[0], tmp_path / "a", tower)
    assert "no video tower there" in refused(embed_dataset, with_frames, tmp_path / "a", tmp_path)
    assert "dataset" in refused(embed_dataset, with_frames, embedded[0], tower)
    assert not (tmp_path / "a").exists()
    other = write_tower(tmp_path / "other", seed=1)
    small = tmp_path / "small"
    filter_windows(with_frames, small, where="start_s < 0.1")
    embed_dataset(small, tmp_path / "b", other, workers=1)
    assert "video_embedding" in refused(merge, [embedded[0], tmp_path / "b"], tmp_path / "c")
    damaged = shutil.copytree(small, tmp_path / "damaged")
    content = bytearray((damaged / "00000.tar").read_bytes())
    content[-3000] ^= 1
    (damaged / "00000.tar").write_bytes(content)
    message = refused(embed_dataset, damaged, tmp_path / "d", tower)
    assert "00000.tar" in message
    assert "verify" in message


def test_embedded_datasets_are_filtered_and_looked_at(embedded, tmp_path):
    filter_windows(embedded[0], tmp_path / "few", where="start_s < 0.5")
    assert verify(tmp_path / "few").problems == []
    assert read_dataset_info(tmp_path / "few").video_embedding == read_dataset_info(embedded[0]).video_embedding
    inspect_dataset(embedded[0], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "image/jpeg" not in page
    assert "expected" not in page


def test_verify_finds_embeddings_that_are_not_as_stated(embedded, tmp_path):
    copied = shutil.copytree(embedded[0], tmp_path / "copy")
    path = copied / "dataset.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "video_embedding": {**fields["video_embedding"], "dim": 11}}))
    assert any("12 numbers, expected 11" in problem for problem in verify(copied).problems)
    path.write_text(json.dumps({**fields, "video_embedding": None, "frame_size": [SIZE, SIZE]}))
    assert any("12 numbers, expected None" in problem for problem in verify(copied).problems)
    for wrong in ({}, {"dim": "x"}, {"dim": 0}, [3]):
        path.write_text(json.dumps({**fields, "video_embedding": wrong}))
        assert "damaged" in refused(read_dataset_info, copied)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["frames.embed_with=/nowhere"], ["/nowhere", "no video tower"]),
        (["frames.num=0"], ["frames.embed_with", "frames.num"]),
        (["frames.num=6"], ["4 frames", "frames.num=4"]),
        (["frames.size=32"], ["frames.size=48"]),
    ],
)
def test_a_tower_that_does_not_fit_is_one_line(manifest, tower, tmp_path, words, parts):
    config = build_config(manifest, tmp_path / "out", f"frames.embed_with={tower}", *words)
    message = refused(build, config)
    for part in parts:
        assert part in message
    assert not (tmp_path / "out").exists()


def damaged_copy(tower: Path, folder: Path, damage) -> str:
    damage(shutil.copytree(tower, folder))
    return refused(embedder.load_tower, str(folder), NUM_FRAMES, SIZE)


def test_damaged_towers_are_one_line_and_pickles_are_not_read(tower, tmp_path):
    weights, config = "model.safetensors", "config.json"
    message = damaged_copy(tower, tmp_path / "a", lambda f: (f / weights).write_bytes(b"\x80\x04pickle"))
    assert "model.safetensors" in message
    half = (tower / weights).read_bytes()[:-9]
    assert "damaged" in damaged_copy(tower, tmp_path / "b", lambda f: (f / weights).write_bytes(half))
    assert "is missing" in damaged_copy(tower, tmp_path / "c", lambda f: (f / weights).rename(f / "pytorch_model.bin"))
    for number, text in enumerate(("{}", "[]", "{", '{"format": 1, "tower": {"kind": "rnn"}}', '{"format": 2}')):
        message = damaged_copy(tower, tmp_path / f"d{number}", lambda f, text=text: (f / config).write_text(text))
        assert str(tmp_path / f"d{number}") in message


def test_a_transformers_videomae_is_a_tower(tmp_path, manifest):
    sizes = VideoMAETowerConfig(
        num_frames=8, image_size=SIZE, hidden_size=24, num_layers=2, num_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    original = VideoMAE(sizes).eval()
    folder = tmp_path / "videomae"
    original.model.save_pretrained(folder)
    encoder = embedder.load_tower(str(folder), 8, SIZE)
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, SIZE, SIZE, 3), dtype=np.uint8)
    valid = np.ones((3, 8), dtype=bool)
    with torch.no_grad():
        expected = original(torch.from_numpy(frames), torch.from_numpy(valid)).numpy()
    np.testing.assert_allclose(embedder.embed(encoder, frames, valid), expected, rtol=2e-3, atol=2e-3)
    assert str(tmp_path) not in json.dumps(encoder.description)
    assert "frames.size=48" in refused(embedder.load_tower, str(folder), 8, 32)
    assert "multiples of 2" in refused(embedder.load_tower, str(folder), 7, SIZE)
    build(build_config(manifest, tmp_path / "out", f"frames.embed_with={folder}", "build.workers=1"))
    assert read_dataset_info(tmp_path / "out").video_embedding["tower"]["kind"] == "videomae"
    assert verify(tmp_path / "out").problems == []
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "hidden_act": "relu"}))
    assert "hidden_act" in refused(embedder.load_tower, str(folder), 8, SIZE)


@pytest.mark.slow
def test_a_checkpoint_embeds_a_dataset_and_a_run_trains_on_that(with_frames, tmp_path):
    def pretrain(name: str, dataset: Path, *words: str) -> tuple[int, str]:
        settings = ["data.batch_size=4", "data.num_workers=0", "model.imu_tower.cnn.channels=[8]", "train.epochs=2"]
        settings += ["model.imu_tower.cnn.kernel_sizes=[5]", "model.head.dim=8", "engine.timeout_s=60"]
        settings += [f"name={name}", f"runs_dir={tmp_path}", f"data.path={dataset}", *words]
        (tmp_path / "empty.yaml").write_text("{}")
        ended = subprocess.run(
            [sys.executable, "-m", "launcher.cli", "pretrain", str(tmp_path / "empty.yaml"), *settings],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=240,
        )
        return ended.returncode, ended.stdout + ended.stderr

    cnn = ["model.video_tower.cnn.channels=[8]", "model.video_tower.cnn.time_strides=[1]"]
    code, output = pretrain("first", with_frames, *cnn)
    assert code == 0, output
    latest = tmp_path / "first" / "checkpoints" / "latest"
    embed_dataset(with_frames, tmp_path / "embedded", latest)
    kind = ["model.video_tower.kind=embedding", "model.video_tower.embedding.dim=8"]
    code, output = pretrain("second", tmp_path / "embedded", *kind)
    assert code == 0, output
    assert "R@1" in output
    checkpoint = tmp_path / "second" / "checkpoints" / (tmp_path / "second/checkpoints/latest").read_text().strip()
    assert (checkpoint / "encoder").is_dir()
    assert not (checkpoint / "video_encoder").exists()
    assert "no video tower there" in refused(embed_dataset, with_frames, tmp_path / "more", checkpoint)
