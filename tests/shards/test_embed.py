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

import shards.embed
import shards.pictures
from imuvid.config import to_yaml
from imuvid.data.dataset_json import read_dataset_info
from imuvid.data.dataset_tables import read_index, read_recordings
from imuvid.data.format import decode_members
from imuvid.data.tar import parse_tar
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
from tests.shards.embedding import NUM_FRAMES, SIZE, features_of, refused, write_recordings, write_tower
from tests.shards.inline import inline
from tests.shards.recordings import build_config
from tests.soak import times

REPOSITORY = Path(__file__).parents[2]
WORDS = ["window.hop_s=0.35", "samples_per_shard=7", "split.test_subjects=[eva]", "split.val_subjects=[uta]"]
WORDS += ["build.workers=1"]


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("checkpoint") / "video_encoder")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def with_frames(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("frames") / "small"
    build(build_config(manifest, out, *WORDS), inline)
    return out


@pytest.fixture(scope="module")
def embedded(manifest, tower, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedded") / "small"
    summary = build(build_config(manifest, out, *WORDS, f"frames.embed_with={tower.parent}"), inline)
    return out, summary


@pytest.fixture
def in_process(monkeypatch):
    """A worker process imports torch anew, which takes longer than the rest."""
    monkeypatch.setattr(shards.embed, "run_jobs", inline)


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


@pytest.mark.slow
def test_workers_and_the_place_of_the_tower_change_no_byte(embedded, with_frames, manifest, tower, tmp_path):
    out, _ = embedded
    moved = shutil.copytree(tower, tmp_path / "elsewhere")
    again = build_config(manifest, tmp_path / "again", *WORDS, f"frames.embed_with={moved}", "build.workers=3")
    build(again)
    assert contents(tmp_path / "again") == contents(out)
    for workers in (1, 2):
        embed_dataset(with_frames, tmp_path / f"converted{workers}", moved, workers=workers)
    assert contents(tmp_path / "converted1") == contents(tmp_path / "converted2")


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


@pytest.mark.usefixtures("in_process")
def test_a_finished_dataset_is_converted(with_frames, tower, tmp_path):
    report = embed_dataset(with_frames, tmp_path / "out", tower)
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


@pytest.mark.usefixtures("in_process")
def test_converted_datasets_are_refused_where_they_do_not_fit(with_frames, embedded, tower, tmp_path):
    assert "no frames" in refused(embed_dataset, embedded[0], tmp_path / "a", tower)
    assert "no video tower there" in refused(embed_dataset, with_frames, tmp_path / "a", tmp_path)
    assert "dataset" in refused(embed_dataset, with_frames, embedded[0], tower)
    assert not (tmp_path / "a").exists()
    other = write_tower(tmp_path / "other", seed=1)
    small = tmp_path / "small"
    filter_windows(with_frames, small, where="start_s < 0.1")
    embed_dataset(small, tmp_path / "b", other)
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
