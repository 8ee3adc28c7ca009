"""The commands ``imuvid shards ...``: recordings to datasets of shards, and what can be done with those."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from imuvid.errors import UserError
from launcher.options import JsonFile, Words, write_json

shards_app = typer.Typer(no_args_is_help=True, help="Recordings to tar shards.")

Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="Folder or URL of a dataset.")]
Out = Annotated[str | None, typer.Option("--out", help="Folder or URL of a new dataset; else this one is changed.")]


@shards_app.command("build")
def shards_build(
    config: Path,
    words: Words = None,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Read the I-th of N parts (from 0), as in a job array.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Build a dataset of shards from recordings, or add new recordings to it.

    Example: imuvid shards build configs/shards/gopro.yaml out=data/gopro build.workers=8

    On a Ray cluster:  imuvid shards build CONFIG build.executor=ray

    On Slurm:  sbatch --array=0-31 slurm/build_shards.sh CONFIG [KEY=VALUE]...
    """
    from imuvid import config as configs
    from shards.build import Part, build
    from shards.config import BuildConfig
    from shards.workers import run_jobs

    share = None
    if part is not None:
        match = re.fullmatch(r"(\d+)/(\d+)", part)
        if match is None or not int(match[1]) < int(match[2]):
            raise UserError(f"--part {part}: expected I/N with I from 0 to N - 1, as 3/16")
        share = Part(int(match[1]), int(match[2]))
    settings = configs.load(BuildConfig, config, words or [])
    print(configs.to_yaml(settings), end="", flush=True)
    execute = run_jobs
    if settings.build.executor == "ray":
        from launcher.ray_jobs import run_jobs_on_ray

        execute = run_jobs_on_ray
    summary = build(settings, execute, share)
    for line in summary.lines():
        print(line)
    write_json(json_file, summary)


@shards_app.command("verify")
def shards_verify(dataset: Dataset, json_file: JsonFile = None) -> None:
    """Check every byte of a dataset: checksums, schema, every sample, the index, the splits. Exit 1 if any fails.

    Example: imuvid shards verify data/gopro
    """
    from shards.verify import verify

    report = verify(dataset)
    for line in report.lines():
        print(line)
    write_json(json_file, report)
    if not report.ok:
        raise typer.Exit(1)


@shards_app.command("index")
def shards_index(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder or URL that has the tars.")],
    val: Annotated[float, typer.Option(help="Share of the subjects in val, by hash, 0 to 1.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the subjects in test, by hash, 0 to 1.")] = 0.1,
    json_file: JsonFile = None,
) -> None:
    """Make a dataset of WebDataset tars that were written elsewhere: read them, write index and dataset.json.

    Example: imuvid shards index /data/tars --val 0.1 --test 0
    """
    from shards.index import index_tars

    report = index_tars(folder, val, test)
    for line in report.lines():
        print(line)
    write_json(json_file, report)


@shards_app.command("manifest")
def shards_manifest(
    dataset: Annotated[
        str, typer.Argument(help="Layout that is read: cmu_mmac, turning_in_place, uestc_mmea_cl, utd_mhad or wear.")
    ],
    root: Path,
    out: Path,
    json_file: JsonFile = None,
) -> None:
    """Write the CSV manifest of a public paired dataset, for a build with source.kind=paired.

    Example: imuvid shards manifest utd_mhad /data/utd_mhad build/utd_mhad.csv
    """
    from shards.sources.layouts import write_manifest

    recordings = write_manifest(dataset, root, out)
    print(f"{out}: {recordings} recordings")
    write_json(json_file, {"manifest": str(out), "recordings": recordings})


@shards_app.command("sync")
def shards_sync(
    recordings: Annotated[
        list[str] | None, typer.Argument(metavar="[RECORDING]...", help="GoPro or Aria files; with --config, names.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Build config whose source has the recordings; without names, all.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Estimate offset and drift between IMU and video, or say why they are not known. Changes nothing.

    Example: imuvid shards sync /recordings/GX010123.MP4

    Recordings of another kind:  imuvid shards sync --config configs/shards/ego4d.yaml
    """
    from imuvid import config as configs
    from shards.config import BuildConfig
    from shards.sync import SyncConfig
    from shards.sync_report import SyncReport, sources_of, sync_recordings

    report = SyncReport()
    if config is not None:
        settings = configs.load(BuildConfig, config, ["out=unused"])
        report = sync_recordings(
            settings.source,
            settings.sync,
            recordings or [],
            settings.frames.backend,
            settings.build.workers,
            settings.build.recording_timeout_s,
        )
    elif not recordings:
        raise UserError("name recordings, or a build config with --config")
    else:
        for source in sources_of(recordings):
            report.recordings += sync_recordings(source, SyncConfig()).recordings
    for line in report.lines():
        print(line)
    write_json(json_file, report)


@shards_app.command("inspect")
def shards_inspect(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="File of the page.")] = Path("inspect.html"),
    samples: Annotated[int, typer.Option(min=1, max=200, help="Windows that are shown.")] = 24,
    json_file: JsonFile = None,
) -> None:
    """Write an HTML page that shows what is in a dataset: frames over IMU traces, worst windows first, and its numbers.

    Example: imuvid shards inspect data/gopro --out gopro.html
    """
    from shards.inspect import inspect_dataset

    report = inspect_dataset(dataset, out, samples)
    for line in report.lines():
        print(line)
    write_json(json_file, report)


@shards_app.command("merge")
def shards_merge(
    datasets: Annotated[list[str], typer.Argument(metavar="DATASET DATASET...")],
    out: Annotated[str, typer.Option("--out", help="Folder or URL of the new dataset.")],
    name: Annotated[str | None, typer.Option(help="Its name; else the last part of OUT.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Make one dataset of several that have the same windows, positions and frames. No sample is changed.

    Example: imuvid shards merge data/site-a data/site-b --out data/both
    """
    from shards.combine import merge

    report = merge(datasets, out, name)
    for line in report.lines():
        print(line)
    write_json(json_file, report)


@shards_app.command("split")
def shards_split(
    dataset: Dataset,
    out: Out = None,
    val: Annotated[float | None, typer.Option(help="Share of the subjects in val, by hash, 0 to 1.")] = None,
    test: Annotated[float | None, typer.Option(help="Share of the subjects in test, by hash, 0 to 1.")] = None,
    listed: Annotated[
        Path | None, typer.Option("--list", help="CSV file with columns split and recording or subject.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Give the subjects of a dataset other splits, by shares or by a list. No sample is changed.

    Example: imuvid shards split data/gopro --val 0.1 --test 0.2
    """
    from shards.subset import split

    report = split(dataset, out, val, test, listed)
    for line in report.lines():
        print(line)
    write_json(json_file, report)


@shards_app.command("filter")
def shards_filter(
    dataset: Dataset,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[gates.NAME=VALUE]...", help="Gates that change.")
    ] = None,
    out: Out = None,
    where: Annotated[
        str | None, typer.Option(help="Condition on the columns of the index, such as: label == 'walk' and acc_std > 1")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Decide anew which windows are good or, with --out, write a dataset of the good ones alone.

    Example: imuvid shards filter data/gopro gates.max_black=0.2

    Example: imuvid shards filter data/gopro --out data/walks --where "label == 'walk'"
    """
    from shards.subset import filter_windows

    report = filter_windows(dataset, out, words or [], where)
    for line in report.lines():
        print(line)
    write_json(json_file, report)


@shards_app.command("embed")
def shards_embed(
    dataset: Dataset,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL of the new dataset.")],
    tower: Annotated[str, typer.Option("--with", help="Frozen video tower: a checkpoint, or a transformers folder.")],
    json_file: JsonFile = None,
) -> None:
    """Make a dataset without pictures: it holds what a frozen video tower makes of the frames.

    Example: imuvid shards embed data/clinic data/clinic_private --with runs/mine/checkpoints/latest
    """
    from shards.embed import embed_dataset

    report = embed_dataset(dataset, out, tower)
    for line in report.lines():
        print(line)
    write_json(json_file, report)
