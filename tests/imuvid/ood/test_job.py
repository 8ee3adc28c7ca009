"""The whole job on small data: the files it writes, what they say, and what it refuses."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from imuvid import config as configs
from imuvid.errors import UserError
from imuvid.ood.config import OODConfig
from imuvid.ood.datasets.daphnet import DaphnetConfig
from imuvid.ood.datasets.hapt import HAPTConfig
from imuvid.ood.datasets.public_windows import PublicConfig
from imuvid.ood.datasets.shards import ShardsConfig
from imuvid.ood.finetune import FinetuneConfig
from imuvid.ood.job import EvaluationResult, evaluate
from imuvid.ood.predictions import read_predictions
from imuvid.ood.probes import ProbeConfig
from imuvid.ood.protocols.folds import ProtocolConfig
from imuvid.ood.summary import summarise
from tests.imuvid.ood.fakes import make_sample, write_daphnet, write_encoder, write_hapt, write_shards
from tests.imuvid.ood.test_public_readers import write

HAPT, DAPHNET = "hapt/subject-split", "daphnet/leave-one-subject-out"
CONFIGS = Path(__file__).parents[3] / "configs/ood"


def name_of(row: dict) -> str:
    return f"{row['representation']}/{row['probe']}"


def small(root: Path, **changes) -> OODConfig:
    split = ProtocolConfig("subject-split", ["1", "2", "3", "4"], ["5", "6"])
    config = OODConfig(
        datasets=["hapt", "daphnet"],
        hapt=HAPTConfig(str(root / "hapt"), protocol=split),
        daphnet=DaphnetConfig(str(root / "daphnet")),
        shots=[1, 5, 100],
        num_draws=2,
        num_bootstrap=100,
        finetune=FinetuneConfig(steps=2),
        device="cpu",
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> EvaluationResult:
    root = tmp_path_factory.mktemp("ood")
    write_hapt(root / "hapt")
    write_daphnet(root / "daphnet")
    checkpoint = write_encoder(root / "run", train_subjects=["<script>alert(1)</script>"])
    lines = [{"step": s, "split": "train", "loss": 3 / s} for s in range(1, 50)]
    lines.append({"step": 40, "split": "val", "loss": 1.0, "r_at_1_imu_to_video": 0.5, "num_candidates": 20})
    (root / "run/metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 50, "spl')
    return evaluate(checkpoint, small(root))


@pytest.fixture(scope="module")
def rows(result) -> list[dict]:
    return read_predictions(result.out / "predictions.parquet").to_pylist()


def test_the_report_lies_in_the_run_folder(result):
    assert result.out.parts[-3:] == ("run", "report", "step-00000100")
    assert sorted(p.name for p in result.out.iterdir()) == [
        "draws.json",
        "maps.json",
        "predictions.parquet",
        "report.html",
        "report.json",
    ]
    assert json.loads((result.out / "report.json").read_text()) == result.report


def test_the_numbers_are_recomputed_from_the_predictions_alone(result):
    table = read_predictions(result.out / "predictions.parquet")
    again = summarise(table, result.report["config"]["num_bootstrap"], result.report["config"]["seed"])
    assert again == result.report["results"]
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    assert summarise(shuffled, 100, 0)[HAPT]["scores"][0]["metrics"] == again[HAPT]["scores"][0]["metrics"]


METHODS = ("pretrained/linear", "pretrained/knn", "random/linear", "handmade/linear", "handmade/forest", "raw/knn")


@pytest.mark.parametrize(
    ("method", "shots"), [("pretrained/linear", 5), ("random/linear", None), ("handmade/forest", 1)]
)
def test_the_numbers_equal_scikit_learn_on_the_predictions(result, rows, method, shots):
    draws = {}
    for row in rows:
        if row["dataset"] == "daphnet" and name_of(row) == method and row["shots"] == shots:
            draws.setdefault(row["draw"], []).append((row["label"] == "freeze", row["scores"]))
    accuracy, area = [], []
    for pairs in draws.values():
        label, scores = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
        accuracy.append(balanced_accuracy_score(label, scores[:, 1] > scores[:, 0]))
        area.append(roc_auc_score(label, scores[:, 1]))
    scores = result.report["results"][DAPHNET]["scores"]
    reported = next(s for s in scores if (s["method"], s["shots"]) == (method, shots or "all"))
    assert reported["num_draws"] == len(draws) == 2
    assert reported["metrics"]["balanced_accuracy"]["value"] == pytest.approx(np.mean(accuracy))
    assert reported["metrics"]["auc"]["value"] == pytest.approx(np.mean(area))


def test_every_method_number_and_draw_is_tested_on_the_same_windows(rows):
    tested = {}
    for row in rows:
        if row["dataset"] == "hapt":
            key = (name_of(row), row["shots"], row["draw"])
            tested.setdefault(key, set()).add((row["window"], row["subject"], row["label"]))
    assert len(set(map(frozenset, tested.values()))) == 1
    assert {subject for _, subject, _ in next(iter(tested.values()))} == {"5", "6"}
    methods = {method: {(k, d) for m, k, d in tested if m == method} for method in METHODS}
    few_shot = [{key for key in keys if key[0] is not None} for keys in methods.values()]
    assert all(keys == {(1, 0), (1, 1), (5, 0), (5, 1)} for keys in few_shot)


def test_the_draws_are_published_and_of_training_subjects(result, rows):
    draws = json.loads((result.out / "draws.json").read_text())
    tested = {row["window"] for row in rows if row["dataset"] == "hapt"}
    assert len(draws[HAPT]["split"]) == 2
    for draw in draws[HAPT]["split"]:
        assert len(draw) == 6
        for windows in draw.values():
            assert len(set(windows)) == 5
            assert not set(windows) & tested
    assert set(draws[DAPHNET]) == {"S01", "S02", "S03"}
    for fold, pair in draws[DAPHNET].items():
        assert all(not name.startswith(fold) for draw in pair for windows in draw.values() for name in windows)


def test_the_report_says_what_it_is_worth(result):
    hapt, daphnet = (result.report["results"][name] for name in (HAPT, DAPHNET))
    assert hapt["protocol"] == "subject-split"
    assert hapt["test_subjects"] == ["5", "6"]
    assert daphnet["protocol"] == "leave-one-subject-out"
    assert "Only 2 test subjects" in hapt["warnings"][0]
    notes = result.report["tasks"][HAPT]["notes"]
    assert "100 shots are left out: a class has only 16 training windows." in notes
    assert "Only 6 of the 61 published recordings are there." in notes
    assert result.report["tasks"][HAPT]["selection_rule"].startswith("fixed: C = 0.1")
    assert result.report["training"]["curves"]["train/loss"]["step"][-1] == 49
    verdicts = {(row["dataset"], row["verdict"]) for row in result.report["statements"]}
    assert {name for name, _ in verdicts} == {HAPT, DAPHNET}
    for row in hapt["differences"]:
        estimate = row["metrics"]["balanced_accuracy"]
        own, reference = (
            next(s for s in hapt["scores"] if (s["method"], s["shots"]) == (method, row["shots"]))["metrics"]
            for method in (row["method"], row["reference"])
        )
        expected = own["balanced_accuracy"]["value"] - reference["balanced_accuracy"]["value"]
        assert estimate["value"] == pytest.approx(expected)


def test_the_page_loads_nothing_and_escapes_what_comes_from_outside(result):
    page = result.html.read_text()
    loaded = re.findall(r"""(?:src|href|action)\s*=\s*["']?([^"'\s>]+)""", page)
    assert loaded
    assert all(target.startswith(("data:image/svg+xml;base64,", "#")) for target in loaded)
    assert not re.search(r"https?://|url\(|@import", page)
    for figure in [target for target in loaded if not target.startswith("#")]:
        drawing = base64.b64decode(figure.partition(",")[2]).decode()
        assert all(re.match("#|data:", target) for target in re.findall(r'href="([^"]*)"', drawing))
        assert not re.findall(r"https?://(?!www.w3.org/(?:2000/svg|1999/xlink))", drawing)  # names of namespaces
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "0.5" in page
    assert page.count("<img") == 10  # four of each data set, the headline and the pretraining


def test_the_same_arguments_give_the_same_predictions(result, tmp_path):
    root = result.out.parents[2]
    only = {"datasets": ["hapt"]}
    again = evaluate(root / "run/checkpoints/step-00000100/encoder", small(root, out=str(tmp_path / "a"), **only))
    assert again.report["results"][HAPT] == result.report["results"][HAPT]
    other = evaluate(root / "run/checkpoints/step-00000100", small(root, out=str(tmp_path / "b"), seed=1, **only))
    assert other.report["results"][HAPT] != result.report["results"][HAPT]


def test_a_validation_score_is_of_training_subjects_alone(result, tmp_path):
    root = tmp_path / "data"
    write_hapt(root / "hapt")
    checkpoint = result.out.parents[1] / "checkpoints/step-00000100"
    config = small(root, datasets=["hapt"], subjects="validation", shots=[], out=str(tmp_path / "a"))
    report = evaluate(checkpoint, config).report
    assert report["headline"]["subjects"] == "validation"
    assert set(report["results"]) == {"hapt/validation"}
    assert report["results"]["hapt/validation"]["test_subjects"] == ["1", "2", "3", "4"]
    assert {row["method"] for row in report["results"]["hapt/validation"]["scores"]} == {
        "pretrained/linear",
        "pretrained/knn",
        "none/majority",
    }
    for path in (root / "hapt/RawData").glob("*user0[56].txt"):
        if path.name.startswith("gyro"):
            path.write_text("3 3 3\n" * len(path.read_text().splitlines()))
    config.out = str(tmp_path / "b")
    assert evaluate(checkpoint, config).report["headline"] == report["headline"]
    tested = evaluate(checkpoint, small(root, datasets=["hapt"], out=str(tmp_path / "c"))).report["headline"]
    assert tested["subjects"] == "test"
    assert tested["value"] != report["headline"]["value"]
    with pytest.raises(UserError, match="leave-one-subject-out tests every subject"):
        evaluate(checkpoint, small(result.out.parents[2], datasets=["daphnet"], subjects="validation"))


def test_rules_of_selection_are_named_and_the_oracle_enters_no_comparison(result, tmp_path):
    root = result.out.parents[2]
    probe = ProbeConfig(["lodo-cv", "oracle"], candidates=[0.01, 1.0], neighbour_candidates=[1], leaf_candidates=[1])
    config = small(root, datasets=["hapt"], probe=probe, shots=[], out=str(tmp_path))
    report = evaluate(root / "run/checkpoints/step-00000100", config).report
    rows = [row for row in report["results"][HAPT]["scores"] if row["method"] == "pretrained/linear"]
    scores = {row["selection"]: row["metrics"]["balanced_accuracy"]["value"] for row in rows}
    assert set(scores) == {"lodo-cv", "oracle"}
    assert scores["oracle"] >= scores["lodo-cv"] == report["headline"]["value"]
    assert {row["selection"] for row in report["results"][HAPT]["differences"]} == {"lodo-cv", "fixed"}
    assert report["tasks"][HAPT]["selection_rule"].startswith("lodo-cv")


def test_a_diverged_encoder_is_refused(result, tmp_path):
    root = result.out.parents[2]
    checkpoint = write_encoder(tmp_path / "run")
    path = checkpoint / "encoder/model.safetensors"
    save_file(
        {name: value * np.nan if value.is_floating_point() else value for name, value in load_file(path).items()}, path
    )
    with pytest.raises(UserError, match="the encoder gives NaN or infinity"):
        evaluate(checkpoint, small(root))
    assert not (tmp_path / "run/report").exists()


def test_pretrained_test_subjects_are_refused(tmp_path):
    samples = [
        (make_sample(f"{subject}-{label}", subject, label, start_s=start), "train")
        for subject in ("aa", "bb", "cc")
        for start, label in ((0.0, "walk"), (4.0, "sit"))
    ]
    population = write_shards(tmp_path / "population", samples)
    config = small(tmp_path, datasets=["shards"], shards=ShardsConfig(str(population)), shots=[1])
    leaked = write_encoder(tmp_path / "a", train_subjects=["bb", "zz"])
    with pytest.raises(UserError, match="shards: 1 test subjects, first bb, were pretrained on"):
        evaluate(leaked, config)
    clean = evaluate(write_encoder(tmp_path / "b", train_subjects=["zz"]), config)
    scores = {
        (s["method"], s["shots"]): s["metrics"]
        for s in clean.report["results"]["population/leave-one-subject-out"]["scores"]
    }
    assert scores["handmade/linear", "all"]["balanced_accuracy"]["value"] == 1.0  # sitting is upside down there
    assert scores["none/majority", "all"]["balanced_accuracy"]["value"] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"datasets": ["hapt", "pamap"]},
            "'pamap' is unknown: choose from hapt, daphnet, spar, shards, generic",
        ),
        ({"datasets": []}, "datasets is empty"),
        ({"shots": [0]}, "must be at least 1"),
        ({"device": "tpu"}, "device=tpu"),
    ],
)
def test_wrong_settings_give_one_line(result, tmp_path, changes, message):
    root = result.out.parents[2]
    with pytest.raises(UserError, match=message):
        evaluate(root / "run/checkpoints/step-00000100", small(root, out=str(tmp_path), **changes))


def test_a_public_data_set_is_scored_and_its_notes_reach_the_report(tmp_path):
    write("dsads", tmp_path / "dsads", subjects=3)
    settings = PublicConfig(str(tmp_path / "dsads"), partial=True)
    config = small(tmp_path, datasets=["dsads"], dsads=settings, shots=[1])
    report = evaluate(write_encoder(tmp_path / "run"), config).report["tasks"]["dsads/leave-one-subject-out"]
    assert report["data"]["positions"] == ["right_wrist"]
    assert report["data"]["licence"] == "CC BY 4.0"
    notes = " ".join(report["notes"])
    assert "was not tried on the published files" in notes
    assert "only 3 of the 8 published people are there" in notes


def test_an_encoder_outside_a_run_needs_a_folder_for_the_report(result, tmp_path):
    root = result.out.parents[2]
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for path in (root / "run/checkpoints/step-00000100/encoder").iterdir():
        (encoder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="out=FOLDER"):
        evaluate(encoder, small(root))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configs_of_the_repository_are_valid(path):
    config = configs.load(OODConfig, path)
    assert config.datasets
