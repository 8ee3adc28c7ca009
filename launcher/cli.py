"""The command line: ``imuvid COMMAND``. Thin: it reads the config, starts what does the work, prints the result.

Heavy packages are imported inside the commands, so that ``imuvid --help`` answers at once and a rank has its signal
handlers before it loads torch.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from imuvid.errors import UserError
from launcher.datasets_cli import datasets_app
from launcher.evaluate_cli import evaluate
from launcher.options import JsonFile, Words, write_json
from launcher.shards_cli import shards_app
from launcher.slurm import slurm_environment

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Pretrain an IMU encoder on paired video at cluster scale, and prove it on people and devices it never saw.",
)
app.add_typer(shards_app, name="shards")
app.add_typer(datasets_app, name="datasets")
app.command()(evaluate)

LOCAL_START = "IMUVID_LOCAL_START"
"""Variable by which the ranks that ``--nproc`` started know it."""


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options for every command; --debug is read by main()."""


@app.command()
def pretrain(
    config: Path,
    words: Words = None,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes to start on this machine; not under srun or torchrun.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Pretrain by contrast of IMU and video; goes on where a run of the same name was stopped.

    On one machine, all GPUs or cores:  imuvid pretrain configs/pretrain/demo.yaml --nproc 2 name=first

    On a cluster:  sbatch --nodes 4 --gpus-per-node 8 --ntasks-per-node 8 slurm/pretrain.sh CONFIG [KEY=VALUE]...
    """
    environment = slurm_environment(dict(os.environ))
    if environment is not None:
        os.environ.update(environment)
    is_rank = "RANK" in os.environ
    if is_rank:
        from imuvid.training import preemption

        preemption.install()
        if nproc is not None and LOCAL_START not in os.environ:
            raise UserError("--nproc starts processes by itself: leave it out under srun and torchrun")
    from imuvid import config as configs
    from imuvid.training.config import PretrainConfig
    from imuvid.training.loop import pretrain as run
    from imuvid.training.start import check_run_folder, check_start

    settings = configs.load(PretrainConfig, config, words or [])
    if not is_rank:
        # Here a mistake is one line; from the ranks it would be one each.
        train, _ = check_start(settings, nproc or 1)
        check_run_folder(settings, train.fingerprint)
        raise typer.Exit(_start_ranks(nproc or 1))
    if os.environ["RANK"] == "0":
        print(configs.to_yaml(settings), end="", flush=True)
    result = run(settings)
    if os.environ["RANK"] == "0":
        write_json(json_file, result)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


@app.command()
def export(checkpoint: Path, out: Path, json_file: JsonFile = None) -> None:
    """Write the encoder of a checkpoint as a folder for others: safetensors, ONNX and a model card.

    Example: imuvid export runs/first/checkpoints/latest encoders/first
    """
    from imuvid.export import export_encoder

    result = export_encoder(checkpoint, out)
    print(f"{result.out}: {result.feature_dim} features; ONNX differs from torch by {result.onnx_difference:.1e}")
    write_json(json_file, result)


@app.command()
def embed(encoder: Path, file: Path, out: Path, words: Words = None, json_file: JsonFile = None) -> None:
    """Turn a file of raw IMU samples, of any rate and unit, into embeddings of its windows (.parquet or .npz).

    ENCODER is what `imuvid export` wrote, or a checkpoint. The words say what the file holds: rate_hz, or time_column
    and time_unit, acc_unit (m/s2, g, mg), gyro_unit (rad/s, deg/s), acc_columns and gyro_columns (x y z,
    where their names are unusual), and stride_s.

    Example: imuvid embed encoders/first walk.csv walk.parquet acc_unit=g gyro_unit=deg/s time_column=t time_unit=ms
    """
    from imuvid import config as configs
    from shards.embed_imu import EmbedConfig, embed_file

    result = embed_file(encoder, file, out, configs.load(EmbedConfig, None, words or []))
    left_out = f", {result.left_out} left out: nothing was measured" if result.left_out else ""
    print(f"{result.out}: {result.windows} windows of {result.feature_dim} features{left_out}")
    write_json(json_file, result)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for recordings, shards, run and report.")] = Path("runs/demo"),
    nproc: Annotated[int, typer.Option(help="Training processes.")] = 2,
    json_file: JsonFile = None,
) -> None:
    """The main job in miniature: simulate recordings, build shards, pretrain, evaluate out of distribution.

    Example: imuvid demo --out /tmp/demo
    """
    from launcher.demo import run_demo

    write_json(json_file, run_demo(out, nproc))


def _start_ranks(nproc: int) -> int:
    from launcher.local import run_local

    os.environ[LOCAL_START] = "1"
    return run_local(sys.argv[1:], nproc)


def main() -> None:
    """Run the command line; a user's mistake prints one line and exits with 2, a failure one line and exits with 1."""
    # What the packages log (skipped recordings, progress) are lines for the user.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    for name in ("imuvid", "shards", "launcher"):
        logging.getLogger(name).setLevel(logging.INFO)
    debug = "--debug" in sys.argv[1:]
    # --debug is meant to be found wherever it stands.
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        app(arguments)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except UserError as error:
        if debug:
            raise
        code = _fail(str(error), 2)
    except Exception as error:
        if debug:
            raise
        first = str(error).strip().splitlines()
        code = _fail(f"{type(error).__name__}: {first[0] if first else ''} (--debug shows where)", 1)
    if "RANK" in os.environ:
        _leave(code)
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    rank = os.environ.get("RANK")
    print(f"imuvid: {f'rank {rank}: ' if rank else ''}{message}", file=sys.stderr, flush=True)
    return code


def _leave(code: int) -> NoReturn:
    # DeepSpeed keeps the process groups alive: gloo's threads may ask for the interpreter while it is taken down, which
    # now and then aborts the process (exit by signal 6) of a run that has long ended.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
