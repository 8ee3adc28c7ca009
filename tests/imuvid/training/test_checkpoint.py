"""A checkpoint exists whole or not at all, whatever happens while it is written or lies on the disk."""

from __future__ import annotations

import json
import math
import os
import subprocess
import threading
from pathlib import Path

import pytest

from imuvid.data.dataset_json import DatasetInfo
from imuvid.data.stream import DataConfig
from imuvid.errors import UserError
from imuvid.manifest import manifest_problem
from imuvid.training.checkpoint import StreamState, find_checkpoint, read_stream_state
from imuvid.training.checkpoint_writer import CheckpointWriter, Parts, clear_staging
from imuvid.training.guard import HISTORY, GuardState
from tests.ranks import run_ranks


def state(step: int) -> StreamState:
    return StreamState(step=step, samples_seen=8 * step, seed=1, batch_size=8, fingerprint="f")


def write_engine(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def write_encoder(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"encoder")


def save(folder: Path, step: int, keep: int = 3, engine=write_engine, keep_every: int = 0) -> Path:
    writer = CheckpointWriter(folder, keep, keep_every)
    writer.start(state(step), {"engine/weights.pt": engine, "encoder": write_encoder})
    return writer.finish()


def latest_checkpoint(folder: Path) -> Path | None:
    return find_checkpoint(folder)[0]


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_what_is_written_is_found_again(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    path = save(tmp_path, 7)
    assert path == tmp_path / "step-00000007"
    assert latest_checkpoint(tmp_path) == path
    assert (tmp_path / "latest").read_text() == "step-00000007\n"
    assert read_stream_state(path) == state(7)
    assert {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} == {
        "MANIFEST.json",
        "stream.json",
        "engine/weights.pt",
        "encoder/model.safetensors",
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000007"]


def test_the_newest_stay(tmp_path):
    for step in (1, 2, 10, 11, 12):
        save(tmp_path, step, keep=2)
    assert steps(tmp_path) == [11, 12]


def test_those_of_round_steps_stay_too(tmp_path):
    for step in (5, 10, 15, 20, 25, 30, 35):
        save(tmp_path, step, keep=2, keep_every=10)
    assert steps(tmp_path) == [10, 20, 30, 35]


def test_the_caller_goes_on_while_it_is_written(tmp_path):
    older = save(tmp_path, 10)
    may_write = threading.Event()
    writer = CheckpointWriter(tmp_path, 3)

    def slow(path: Path) -> None:
        assert may_write.wait(30)
        path.write_bytes(b"late")

    writer.start(state(20), {"engine/weights.pt": slow, "encoder": write_encoder})
    assert writer.pending
    assert writer.writing
    assert latest_checkpoint(tmp_path) == older
    may_write.set()
    assert latest_checkpoint(tmp_path) == older  # none publishes it but finish
    newer = writer.finish()
    assert not writer.pending
    assert latest_checkpoint(tmp_path) == newer
    assert (newer / "engine/weights.pt").read_bytes() == b"late"


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


DAMAGES = {
    "bit flip": lambda c: flip(c / "engine/weights.pt"),
    "truncation": lambda c: os.truncate(c / "engine/weights.pt", 9),
    "growth": lambda c: (c / "encoder/model.safetensors").write_bytes(b"encoder and more"),
    "missing file": lambda c: (c / "engine/weights.pt").unlink(),
    "stream.json": lambda c: (c / "stream.json").write_text("{}"),
    "no manifest": lambda c: (c / "MANIFEST.json").unlink(),
    "empty manifest": lambda c: (c / "MANIFEST.json").write_text(""),
    "manifest of another kind": lambda c: (c / "MANIFEST.json").write_text("[1]"),
    "manifest without sums": lambda c: (c / "MANIFEST.json").write_text('{"files": {"stream.json": 3}}'),
    "manifest that is binary": lambda c: (c / "MANIFEST.json").write_bytes(b"\xff\xfe"),
}


def test_the_state_stays_small_whatever_the_number_of_shards(tmp_path):
    shards = {f"{number:05d}.tar": f"{number:064x}" for number in range(100_000)}
    counts = {"samples": 10**8, "recordings": 10**6, "subjects": 10**5, "shards": 100_000}
    info = DatasetInfo("large", counts, 138888.0, 5.0, 50.0, ["head"], 10, [224, 224], [], shards, {})
    corrupt = {str(10**8 - number): "other_sample" for number in range(DataConfig().max_corrupt)}
    bad = {str(10**6 + number): "loss leaps to 3.14 from 0.577" for number in range(20)}
    guard = GuardState(bad, dict(bad), 3, 10**6, [math.pi] * HISTORY)
    mixture = "+".join([f"0.012345679*{info.fingerprint}"] * 20)
    full = StreamState(10**7, 64 * 10**7, 1, 64, mixture, corrupt, True, guard)
    writer = CheckpointWriter(tmp_path, 3, 0)
    writer.start(full, {})
    path = writer.finish()
    assert read_stream_state(path) == full
    assert (path / "stream.json").stat().st_size < 10_000


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_the_older_sound_one_is_taken(tmp_path, damage):
    older, newer = save(tmp_path, 10), save(tmp_path, 20)
    assert manifest_problem(newer) is None
    damage(newer)
    problem = manifest_problem(newer)
    assert problem
    assert str(newer) in problem
    assert "\n" not in problem
    assert find_checkpoint(tmp_path) == (older, [problem])
    damage(older)
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("pointer", ["", "\n", "step-00000099\n", "nonsense", "../../etc", "..", "\udcff"], ids=ascii)
def test_a_damaged_pointer_does_not_hide_the_checkpoints(tmp_path, pointer):
    save(tmp_path, 10)
    newer = save(tmp_path, 20)
    (tmp_path / "latest").write_text(pointer, errors="surrogateescape")
    assert latest_checkpoint(tmp_path) == newer
    (tmp_path / "latest").unlink()
    assert latest_checkpoint(tmp_path) == newer


def test_pointing_back_goes_back(tmp_path):
    older = save(tmp_path, 10)
    save(tmp_path, 20)
    (tmp_path / "latest").write_text(older.name + "\n")
    assert latest_checkpoint(tmp_path) == older


def test_a_new_checkpoint_outlives_damaged_ones_of_later_steps(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step)
    for step in (20, 30):
        flip(tmp_path / f"step-{step:08d}" / "stream.json")
    assert latest_checkpoint(tmp_path).name == "step-00000010"
    path = save(tmp_path, 15, keep=2)
    assert latest_checkpoint(tmp_path) == path


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path):
    save(tmp_path, 10)
    DAMAGES["missing file"](save(tmp_path, 20))
    path = save(tmp_path, 20)
    assert manifest_problem(path) is None
    assert latest_checkpoint(tmp_path) == path


class Killed(BaseException):
    """What a SIGKILL is to the code: it does not go on."""


@pytest.mark.parametrize("kind", [Killed, OSError, RuntimeError])
def test_an_interrupted_write_leaves_the_previous_one(tmp_path, kind):
    older = save(tmp_path, 10)

    def interrupted(folder: Path) -> None:
        write_engine(folder)
        raise kind("No space left on device\nmore")

    with pytest.raises(OSError if kind is not Killed else Killed) as caught:
        save(tmp_path, 20, engine=interrupted)
    if kind is not Killed:
        assert "step-00000020" in str(caught.value)
        assert "No space left on device" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert steps(tmp_path) == [10]
    assert latest_checkpoint(tmp_path) == older
    if kind is Killed:
        clear_staging(tmp_path)  # as the next start does
    save(tmp_path, 21)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000010", "step-00000021"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_killed_between_any_two_calls_to_the_disk(tmp_path, monkeypatch, call):
    original, calls = getattr(os, call), [0]
    older = save(tmp_path, 10)
    allowed = 0
    while True:
        clear_staging(tmp_path)  # as each start does
        calls[0] = 0

        def stops(*args, allowed=allowed):
            if calls[0] == allowed:
                raise Killed
            calls[0] += 1
            return original(*args)

        monkeypatch.setattr(os, call, stops)
        try:
            save(tmp_path, 20)
        except Killed:
            monkeypatch.setattr(os, call, original)
            found = latest_checkpoint(tmp_path)
            assert found in (older, tmp_path / "step-00000020")
            assert manifest_problem(found) is None
            allowed += 1
        else:
            break
    monkeypatch.setattr(os, call, original)
    assert allowed >= 2
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000020"


def test_where_nothing_can_be_written_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(OSError, match="step-00000001 could not be written: rank 0") as caught:
        save(tmp_path / "checkpoints", 1)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_the_previous_one_stays(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        older = save(small, 10)

        def large(folder: Path) -> None:
            folder.write_bytes(bytes(1 << 20))

        with pytest.raises(OSError, match=r"step-00000020 could not be written.*No space left"):
            save(small, 20, engine=large)
        assert latest_checkpoint(small) == older
        assert save(small, 21) == latest_checkpoint(small)  # what the failed one took is free again
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"step": 1, "other": 2}'])
def test_a_damaged_stream_state_is_a_users_line(tmp_path, text):
    (tmp_path / "stream.json").write_text(text)
    with pytest.raises(UserError, match=r"stream\.json: damaged"):
        read_stream_state(tmp_path)


def on_rank(rank: int, folder: str) -> list[str]:
    def fails_on_one(path: Path) -> None:
        path.write_text("part")
        if rank == 1:
            raise OSError(28, "No space left on device")

    def writes_part(path: Path) -> None:
        path.write_text("part")

    outcomes = []
    writer = CheckpointWriter(Path(folder), 3)
    for step, engine in ((1, writes_part), (2, fails_on_one)):
        parts: Parts = {f"engine/part-{rank}": engine}
        writer.start(state(step), parts | ({} if rank else {"encoder": write_encoder}))
        try:
            outcomes.append(writer.finish().name)
        except OSError as error:
            outcomes.append(str(error))
    return outcomes


@pytest.mark.slow
def test_what_one_rank_cannot_write_stops_all_alike(tmp_path):
    (first, error), (first_1, error_1) = run_ranks(on_rank, 2, str(tmp_path))
    assert first == first_1 == "step-00000001"
    files = json.loads((tmp_path / first / "MANIFEST.json").read_text())["files"]
    assert {"engine/part-0", "engine/part-1"} <= set(files)
    assert error == error_1
    assert "rank 1: [Errno 28] No space left on device" in error
    assert latest_checkpoint(tmp_path).name == first
