"""The command line: ``imuvid COMMAND``. Thin: it reads the config, starts what does the work, prints the result.

Heavy packages are imported inside the commands, so that ``imuvid --help`` answers at once and a rank has its signal
handlers before it loads torch.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from imuvid.errors import UserError
from launcher.datasets_cli import datasets_app
from launcher.evaluate_cli import evaluate
from launcher.options import JsonFile, Words, write_json
from launcher.shards_cli import shards_app
from launcher.slurm import slurm_environment
from launcher.sweep_cli import sweep_command

if TYPE_CHECKING:
    from imuvid.training.config import PretrainConfig

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
app.command("sweep")(sweep_command)

log = logging.getLogger("launcher.cli")  # also where this file is the program
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
    srun: Annotated[
        bool, typer.Option("--srun", help="In a Slurm job: start its tasks, and requeue it when they are cut short.")
    ] = False,
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
        if srun or (nproc is not None and LOCAL_START not in os.environ):
            raise UserError("--nproc and --srun start processes by themselves: leave them out under srun and torchrun")
    if srun and nproc is not None:
        raise UserError("--nproc and --srun exclude each other: --srun starts the tasks of the Slurm job")
    heard = _listen() if srun else []
    from imuvid import config as configs
    from imuvid.training.config import PretrainConfig
    from imuvid.training.loop import pretrain as run
    from imuvid.training.start import check_run_folder, check_start

    settings = configs.load(PretrainConfig, config, words or [])
    if not is_rank:
        world = _num_tasks() if srun else nproc or 1

        def check() -> None:
            # Here a mistake is one line; from the ranks it would be one each.
            train, _ = check_start(settings, world)
            check_run_folder(settings, train.fingerprint)
            if settings.evaluate.every and not srun:
                log.info("evaluate.every is for Slurm jobs, with --srun: nothing is evaluated here")

        raise typer.Exit(_start_job(settings, heard, check) if srun else _start_ranks(world, check))
    if os.environ["RANK"] == "0":
        print(configs.to_yaml(settings), end="", flush=True)
    result = run(settings)
    if os.environ["RANK"] == "0":
        write_json(json_file, result)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


@app.command()
def plan(config: Path, words: Words = None, json_file: JsonFile = None) -> None:
    """Say what a pretraining will take: memory, time, GPU-hours, storage, loader cores, for 1 to 1,024 GPUs.

    Words that begin with plan. are figures: plan.samples_per_s of one GPU, or plan.run=RUN to take them from a run;
    plan.hours of data where there is no dataset yet; plan.doctor=FILE with what `imuvid doctor --json` measured.

    Example: imuvid plan configs/pretrain/default.yaml plan.hours=3000 plan.samples_per_s=200 plan.network_gb_s=25
    """
    from launcher.plan import lines
    from launcher.plan_model import plan_pretraining

    result = plan_pretraining(config, words or [])
    print("\n".join(lines(result)))
    write_json(json_file, result)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="Of the pretraining that is meant.")] = None,
    words: Words = None,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes to start on this machine; not under srun or torchrun.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Longest wait for the other ranks, seconds.")] = 60.0,
    json_file: JsonFile = None,
) -> None:
    """Examine machines, network, storage and decoding, and say what would hold up a training; exits 1 if one is broken.

    Under srun or torchrun it measures between the ranks that it is started on, as:  srun -N 4 imuvid doctor CONFIG

    Example: imuvid doctor configs/pretrain/default.yaml --nproc 8 data.path=data/mine --json doctor.json
    """
    os.environ.update(slurm_environment(dict(os.environ)) or {})
    if "RANK" not in os.environ:
        raise typer.Exit(_start_ranks(nproc or 1, lambda: None))
    from imuvid import config as configs
    from imuvid.training.config import PretrainConfig
    from launcher.doctor_measure import examine, judge

    settings = configs.load(PretrainConfig, config, ["name=doctor", *(words or [])]) if config else None
    report = examine(settings, timeout_s)
    if settings is not None:
        judge(report, settings)
    # Where the ranks could not meet, each machine speaks for itself. A rank that says nothing does not fail: that would
    # end the one that speaks.
    if os.environ["RANK"] != "0" and (report.backend or os.environ["LOCAL_RANK"] != "0"):
        return
    print("\n".join(report.lines()), flush=True)
    if os.environ["RANK"] == "0":
        write_json(json_file, report.as_json())
    if report.broken:
        raise typer.Exit(1)


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


def _num_tasks() -> int:
    from launcher.slurm_job import num_tasks

    return num_tasks(os.environ)


def _listen() -> list[int]:
    from launcher.slurm_job import listen

    return listen()


def _start_job(settings: PretrainConfig, heard: list[int], check: Callable[[], None]) -> int:
    from launcher.evaluations import Evaluations, check_evaluations
    from launcher.slurm_job import run_in_job

    check_evaluations(settings)
    evaluations = Evaluations(settings)
    command = [sys.executable, "-m", "launcher.cli", *(word for word in sys.argv[1:] if word != "--srun")]
    folder = Path(settings.runs_dir) / settings.name
    code = run_in_job(command, folder, heard, check, evaluations.submit_new)
    evaluations.submit_new(finished=code == 0)
    return code


def _start_ranks(nproc: int, check: Callable[[], None]) -> int:
    from launcher.local import run_local

    check()
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
