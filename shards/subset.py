"""Parts of a finished dataset: other splits, other gates, fewer windows."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imuvid import config as configs
from imuvid.data.dataset_json import DatasetInfo
from imuvid.data.dataset_tables import SPLITS
from imuvid.data.storage import Store
from imuvid.errors import UserError
from shards.assemble import USED, Dataset, change_gates, publish, regated
from shards.gates import GatesConfig, check_gates
from shards.operations import (
    OperationReport,
    changing,
    check_shard_sizes,
    copy_shards,
    counts_of,
    existing,
    making,
    provenance,
    report_of,
    with_config,
)
from shards.predicate import select
from shards.splits import split_by_hash
from shards.workers import Lost, num_workers, run_jobs
from shards.write import Piece, WrittenShard, write_shard

FILTERED = "filtered"
"""Status of a recording of which a filter left no window."""
MAX_READ = 64 << 20
"""Most bytes that are read from an object store at once."""


@dataclass
class _Gates:
    gates: GatesConfig = field(default_factory=GatesConfig)


def split(
    location: str | Path,
    out: str | Path | None = None,
    val: float | None = None,
    test: float | None = None,
    listed: Path | None = None,
    workers: int = 0,
) -> OperationReport:
    """Give the recordings of a dataset other splits; no subject gets into two.

    Either by the hash of the subject (of the recording, where no subject is known), as a build does, or by a CSV file
    with a column ``split`` and a column ``recording`` or ``subject`` that holds identifiers as in
    ``recordings.parquet``; who is not listed stays where he is.

    Args:
        location: folder or URL of the dataset.
        out: folder or URL of a new dataset with the same shards (links, on one disk); None = change this one.
        val: share of the subjects in val, 0 to 1.
        test: share of the subjects in test, 0 to 1.
        listed: the CSV file.
        workers: shards copied at the same time; 0 = one a core.

    Raises:
        UserError: the shares or the list make no sense, name what is not there, or would part a subject.
    """
    if (listed is None) == (val is None and test is None):
        raise UserError("split: give the shares of val and test, or a list, not both")
    shares = (val or 0.0, test or 0.0)
    if min(shares) < 0 or sum(shares) > 1:
        raise UserError(f"split: val={shares[0]:g} and test={shares[1]:g} must be 0 or more and at most 1 in sum")

    def change(dataset: Dataset) -> list[str]:
        used = [row for row in dataset.listing if row["status"] == USED]
        if listed is None:
            places = {row["recording"]: split_by_hash(row["subject"] or row["recording"], *shares) for row in used}
            step: dict[str, Any] = {"split": {"val": shares[0], "test": shares[1]}}
        else:
            places = _listed(listed, used)
            step = {"split": {"listed": {split: sum(s == split for s in places.values()) for split in SPLITS}}}
        _check_subjects(used, places)
        moved = sum(places[row["recording"]] != row["split"] for row in used)
        for row in used:
            row["split"] = places[row["recording"]]
        splits = pa.array([places[recording] for recording in dataset.index["recording"].to_pylist()], pa.string())
        at = dataset.index.schema.get_field_index("split")
        dataset.index = dataset.index.set_column(at, dataset.index.schema.field(at), splits)
        with_config(dataset, provenance(_info(dataset).config, step))
        return [f"{moved} of {len(used)} recordings are in another split now"]

    if out is None:
        with changing(location) as (dataset, work):
            notes = change(dataset)
            publish(dataset, work)
        return report_of(dataset, notes)
    dataset = existing(location)
    check_shard_sizes(dataset)
    fingerprint, source = _info(dataset).fingerprint, dataset.store
    notes = change(dataset)
    with making(out, {"split": fingerprint, "config": _info(dataset).config}) as (new, work):
        sha256 = {name: digest for name, digest in _info(dataset).sha256.items() if name.endswith(".tar")}
        copy_shards([(source, name, digest, name) for name, digest in sha256.items()], new.store, work, workers)
        dataset = dataclasses.replace(dataset, store=new.store)
        publish(dataset, work)
    return report_of(dataset, notes)


def filter_windows(
    location: str | Path,
    out: str | Path | None = None,
    words: Sequence[str] = (),
    where: str | None = None,
    workers: int = 0,
) -> OperationReport:
    """Decide anew which windows are good or, with ``out``, write a dataset of the good ones alone.

    Args:
        location: folder or URL of the dataset.
        out: folder or URL of the new dataset; None = change verdicts and weights of this one, and no sample.
        words: gates that change, as ``gates.max_black=0.2``; the others stay as in ``dataset.json``.
        where: condition on the columns of the index that windows of the new dataset fulfil too; see
            :func:`shards.predicate.select`.
        workers: processes; 0 = one a core.

    Raises:
        UserError: a gate or the condition cannot be read, no window is left, or a shard is damaged.
    """
    if out is None:
        if where is not None:
            raise UserError("filter: a condition leaves windows out: give --out for the dataset that lacks them")
        if not words:
            raise UserError("filter: give gates that change, as gates.max_black=0.2, or --out and --where")
        with changing(location) as (dataset, work):
            before = dataset.count("verdict").get("", 0)
            changed = change_gates(dataset, _gates(_info(dataset), words), work)
        after = dataset.count("verdict").get("", 0)
        note = f"good windows: {before} before, {after} now" if changed else "the gates are as they were"
        return report_of(dataset, [note])
    dataset = existing(location)
    check_shard_sizes(dataset)
    info = _info(dataset)
    gates = _gates(info, words)
    index = regated(dataset.index, GatesConfig(**gates)) if gates != info.config.get("gates") else dataset.index
    chosen = index.filter(pc.field("verdict") == "")
    if where is not None:
        chosen = select(chosen, where)
    if not chosen.num_rows:
        raise UserError(f"{location}: no window is left of {index.num_rows}: loosen the gates or the condition")
    step = {"filter": {"where": where, "gates": gates}}
    with making(out, step | {"of": info.fingerprint}) as (new, work):
        per_shard = max(count for count in dataset.count("shard").values())
        new.index, sha256 = _write_chosen(dataset, chosen, new.store, work, per_shard, workers)
        new.listing = _listing_of(dataset, chosen)
        covered = pc.sum(pc.fill_null(chosen["covered_share"].cast(pa.float64()), 1.0)).as_py()
        new.info = dataclasses.replace(
            info,
            counts=counts_of(new, len(sha256)),
            hours=covered * info.window_s / 3600,
            labels=sorted(chosen["label"].unique().drop_null().to_pylist()),
            sha256=sha256,
            config=provenance(info.config, step) | {"gates": gates},
        )
        publish(new, work)
    return report_of(new, [f"{chosen.num_rows} of {index.num_rows} windows kept"])


def write_chosen_shard(
    source: str, target: str, name: str, scratch: Path, picks: list[dict[str, Any]], info: DatasetInfo
) -> WrittenShard:
    """Write samples of one dataset as a shard of another, byte for byte.

    Args:
        source: folder or URL of the dataset that has the samples.
        target: of the one that gets them.
        name: of the new shard.
        scratch: folder for bytes that come from or go to an object store.
        picks: rows of the index, in order.
        info: of the dataset that has the samples.

    Raises:
        UserError: a sample is not what the index says.
    """
    store = Store(source)
    gathered = scratch / f"{name}.gathered"
    try:
        if store.local is not None:
            pieces = [Piece(store.local / pick["shard"], pick["offset"], pick["size"]) for pick in picks]
        else:
            pieces = _gather(store, picks, gathered)
        size = info.frame_size[0] if info.frame_size else 0
        written = write_shard(target, name, scratch, pieces, info.positions, info.num_frames, size, info.embedding_dim)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(f"{source}: a shard is damaged: {error}: run 'imuvid shards verify {source}'") from error
    finally:
        gathered.unlink(missing_ok=True)
    for pick, (_, _, crc32) in zip(picks, written.spans, strict=True):
        if pick["crc32"] is not None and pick["crc32"] != crc32:
            raise UserError(
                f"{store.where(pick['shard'])}: {pick['key']} is damaged (crc32): run 'imuvid shards verify {source}'"
            )
    return written


def _gather(store: Store, picks: list[dict[str, Any]], path: Path) -> list[Piece]:
    """Read samples of an object store into one file, neighbours in one go."""
    pieces, position, i = [], 0, 0
    with path.open("wb") as file:
        while i < len(picks):
            first, size, j = picks[i], 0, i
            while (
                j < len(picks)
                and picks[j]["shard"] == first["shard"]
                and picks[j]["offset"] == first["offset"] + size
                and (j == i or size + picks[j]["size"] <= MAX_READ)
            ):
                pieces.append(Piece(path, position + size, picks[j]["size"]))
                size += picks[j]["size"]
                j += 1
            file.write(store.read_range(first["shard"], first["offset"], size))
            position += size
            i = j
    return pieces


def _write_chosen(
    dataset: Dataset, chosen: pa.Table, target: Store, work: Path, per_shard: int, workers: int
) -> tuple[pa.Table, dict[str, str]]:
    """Write the shards of the chosen rows; return their index and the sha256 of the shards."""
    groups = [chosen.slice(start, per_shard) for start in range(0, chosen.num_rows, per_shard)]
    columns = ["key", "shard", "offset", "size", "crc32"]
    jobs = [
        (str(dataset.store), str(target), f"{i:05d}.tar", work, group.select(columns).to_pylist(), _info(dataset))
        for i, group in enumerate(groups)
    ]
    shards: dict[int, WrittenShard] = {}
    for job, result in run_jobs(write_chosen_shard, jobs, max(1, min(num_workers(workers), len(jobs)))):
        if isinstance(result, Lost):
            raise RuntimeError(f"{target.where(jobs[job][2])}: {result.message}")
        shards[job] = result
    tables = []
    for i, group in enumerate(groups):
        offsets, sizes, crcs = zip(*shards[i].spans, strict=True)
        for name, values in (
            ("shard", [shards[i].name] * len(offsets)),
            ("offset", offsets),
            ("size", sizes),
            ("crc32", crcs),
        ):
            at = group.schema.get_field_index(name)
            group = group.set_column(at, group.schema.field(at), pa.array(values, group.schema.field(at).type))
        tables.append(group)
    return pa.concat_tables(tables), {shards[i].name: shards[i].sha256 for i in range(len(groups))}


def _listing_of(dataset: Dataset, chosen: pa.Table) -> list[dict[str, Any]]:
    counts = {entry["values"]: entry["counts"] for entry in chosen["recording"].value_counts().to_pylist()}
    rows = []
    for row in dataset.listing:
        if row["status"] == USED:
            left = counts.get(row["recording"], 0)
            row = row | {"num_windows": left} | ({} if left else {"status": FILTERED, "split": None})
        rows.append(row)
    return rows


def _gates(info: DatasetInfo, words: Sequence[str]) -> dict[str, Any]:
    for word in words:
        if not word.startswith("gates."):
            raise UserError(f"'{word}': is no gate: write gates.NAME=VALUE, for example gates.max_black=0.2")
    stated = [f"gates.{name}={value}" for name, value in info.config.get("gates", {}).items()]
    gates = configs.load(_Gates, None, [*stated, *words]).gates
    check_gates(gates)
    return dataclasses.asdict(gates)


def _listed(path: Path, used: list[dict[str, Any]]) -> dict[str, str]:
    """Return the split of each recording by a CSV file, or the one that it has where the file does not name it."""
    places = {row["recording"]: row["split"] for row in used}
    members: dict[str, list[str]] = {row["recording"]: [row["recording"]] for row in used}
    for row in used:
        if row["subject"] is not None:
            members.setdefault(row["subject"], []).append(row["recording"])
    said: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [name for name in ("recording", "subject") if name in (reader.fieldnames or [])]
            if "split" not in (reader.fieldnames or []) or not columns:
                raise UserError(f"{path}: must have a column 'split' and a column 'recording' or 'subject'")
            for line in reader:
                where = f"{path}: line {reader.line_num}"
                place = (line["split"] or "").strip()
                if place not in SPLITS:
                    raise UserError(f"{where}: split is '{place}', expected one of {', '.join(SPLITS)}")
                names = [(line[name] or "").strip() for name in columns]
                name = next((name for name in names if name), "")
                if name not in members:
                    raise UserError(f"{where}: '{name}' is no recording or subject that the dataset uses")
                for recording in members[name]:
                    if said.setdefault(recording, place) != place:
                        raise UserError(f"{where}: recording {recording} was given to {said[recording]} before")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV: {str(error).splitlines()[0]}") from error
    return places | said


def _check_subjects(used: list[dict[str, Any]], places: dict[str, str]) -> None:
    seen: dict[str, dict[str, Any]] = {}
    for row in used:
        if row["subject"] is None:
            continue
        other = seen.setdefault(row["subject"], row)
        here, there = places[row["recording"]], places[other["recording"]]
        if here != there:
            raise UserError(
                f"subject {row['subject']} would be in {there} (recording {other['recording']}) and in {here} "
                f"(recording {row['recording']}): list the subject, or all its recordings"
            )


def _info(dataset: Dataset) -> DatasetInfo:
    assert dataset.info is not None
    return dataset.info
