"""The report and the comparison in a real browser."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from imuvid.ood.compare import evaluate_all
from imuvid.ood.datasets.daphnet import DaphnetConfig
from imuvid.ood.job import EvaluationResult, evaluate
from imuvid.ood.probes import ProbeConfig
from imuvid.ood.stress import StressConfig
from tests.browser import Browser, open_browser, weak_texts
from tests.imuvid.ood.fakes import write_daphnet, write_encoder, write_hapt
from tests.imuvid.ood.small_job import prepare_job

WIDTHS = (1280, 390)
SCRIPT = "<script>document.title='struck'</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> EvaluationResult:
    """Two tasks, leaky ones beside them, oracle rows, stress, and a name that is a script."""
    root = tmp_path_factory.mktemp("page")
    write_hapt(root / "hapt", 8)  # enough windows of a class for the leaky protocol
    write_daphnet(root / "daphnet")
    _, config = prepare_job(
        root,
        datasets=["hapt", "daphnet"],
        daphnet=DaphnetConfig(str(root / "daphnet"), positions=["ankle", "trunk"]),
        leave_out=["position"],
        paper=True,
        probe=ProbeConfig(
            ["fixed", "oracle"], candidates=[0.1, 1.0], neighbour_candidates=[5], trees=3, leaf_candidates=[1]
        ),
        stress=StressConfig(["rotation", "missing_gyro", "noise"], {"rotation": [90.0]}, 40),
    )
    checkpoint = write_encoder(root / "run", dataset=SCRIPT)
    lines = [{"step": s, "split": "train", "loss": 3 / s} for s in range(1, 50)]
    (root / "run/metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return evaluate(checkpoint, config)


def look(browser: Browser, page: Path, width: int) -> None:
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page, width)
    pictures = browser.run(
        "Promise.all([...document.querySelectorAll('main img')].map(i => i.decode().then(() => i.naturalWidth > 0)))"
    )
    assert pictures
    assert all(pictures)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.errors == []
    assert browser.requests == [page.as_uri()]


def texts(browser: Browser, selector: str) -> list[str]:
    script = f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.offsetParent).map(e => e.innerText)"
    return browser.run(script)


def test_the_page_says_what_the_numbers_are(result, browser):
    for width in WIDTHS:
        look(browser, result.html, width)
    assert browser.run("document.title") == "Out-of-distribution report"
    strict = [name for name, task in result.report["results"].items() if task["strict"]]
    assert len(texts(browser, "#headline tbody tr")) == len(strict)
    cells = " ".join(texts(browser, "#headline td"))
    for name in strict:
        [row] = [
            row
            for row in result.report["results"][name]["scores"]
            if (row["method"], row["shots"], row["selection"], row["stressor"])
            == ("pretrained/linear", "all", "fixed", "")
        ]
        assert f"{row['metrics']['balanced_accuracy']['value']:.3f}" in cells
    findings = texts(browser, "#summary .findings li")
    expected = [
        row["text"]
        for row in result.report["statements"]
        if row["dataset"] in strict
        and row["shots"] == "all"
        and row["reference"] in ("handmade/linear", "random/linear")
    ]
    assert [text.split("\n")[-1] for text in findings] == expected
    assert len(texts(browser, "#summary p.lead")) == 2
    assert SCRIPT in " ".join(texts(browser, "#provenance td"))


def test_leaky_and_oracle_results_are_flagged_and_not_in_the_headline(result, browser):
    look(browser, result.html, 1280)
    leaky = [name for name, task in result.report["results"].items() if not task["strict"]]
    assert leaky
    headline = " ".join(texts(browser, "#headline td:first-child"))
    for name in leaky:
        assert name.replace("/", " · ") not in headline
    sections = texts(browser, "section.leaky")
    assert len(sections) == len(leaky)
    for section in sections:
        assert "leaky" in section.splitlines()[0]
        assert "Leaky protocol." in section
    assert leaky[0].replace("/", " · ") in " ".join(texts(browser, "#summary .leak"))
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    marked = texts(browser, "tr.oracle td:first-child")
    assert marked
    assert all("oracle" in text for text in marked)
    best = browser.run("document.querySelectorAll('tr.oracle td.best').length")
    assert best == 0


def test_every_part_of_the_report_is_there(result, browser):
    look(browser, result.html, 1280)
    titles = texts(browser, "h3")
    for title in ("Findings", "Few-shot curves", "Stress curves", "By class", "Maps of the features", "Worst domain"):
        assert title in titles
    left_out = result.report["results"]["common_freezing/leave-one-position-out"]
    worst = next(row["worst"] for row in left_out["scores"] if row["method"] == "pretrained/linear")
    assert f"worst is {worst['domain']} with {worst['value']:.3f}" in " ".join(texts(browser, "section p"))
    maps = json.loads((result.out / "maps.json").read_text())
    assert set(maps["hapt/grouped-3-folds"]["colours"]) >= {"class", "subject"}
    assert len(maps["hapt/grouped-3-folds"]["points"]["PCA"]) == len(maps["hapt/grouped-3-folds"]["colours"]["class"])
    links = browser.run("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
    assert links


def test_text_can_be_read(result, browser):
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3), and every picture has words for those who do not see it."""
    look(browser, result.html, 1280)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert weak_texts(browser) == []
    assert browser.run("document.querySelectorAll('main img:not([alt]), main img[alt=\"\"]').length") == 0


def test_no_script_runs_on_the_page(result, browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(result.html.read_text().replace("</main>", f"{SCRIPT}</main>"))
    browser.open(page, 1280)
    assert browser.run("document.title") == "Out-of-distribution report"
    assert not re.search(r"https?://|@import", result.html.read_text())


def test_the_comparison_in_a_browser(tmp_path, browser):
    checkpoint, config = prepare_job(tmp_path, out=str(tmp_path / "both"))
    other = write_encoder(tmp_path / "other")
    found = evaluate_all([checkpoint, other], dataclasses.replace(config, shots=[1, 2]))
    for width in WIDTHS:
        look(browser, found.out / "report.html", width)
    names = [model["name"] for model in found.comparison["models"]]
    assert names == ["run", "other"]
    assert [text.split("\\t")[0] for text in texts(browser, "#models tbody td:first-child")] == names
    assert len(texts(browser, ".pill")) == len(found.comparison["results"]["hapt/grouped-3-folds"]["differences"])
    links = browser.run("[...document.querySelectorAll('#models a')].map(a => a.getAttribute('href'))")
    assert all((found.out / link).is_file() for link in links)
