"""Splits, draws, and that nothing leaks from test subjects."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from imuvid.errors import UserError
from imuvid.ood.probes import ProbeConfig, choose_setting, fit_scores, selection_rule
from imuvid.ood.protocols.folds import (
    Fold,
    ProtocolConfig,
    check_not_pretrained,
    draw_shots,
    make_folds,
    natural_order,
    protocol_name,
)

SUBJECTS = np.repeat([str(i) for i in range(1, 13)], 20)


@pytest.mark.parametrize(
    "config",
    [
        ProtocolConfig("subject-split", ["1", "2", "3"], ["11", "12"]),
        ProtocolConfig("leave-one-subject-out"),
        ProtocolConfig("grouped-folds", num_folds=5),
    ],
)
def test_folds_are_subject_disjoint(config):
    folds = make_folds(SUBJECTS, config, "x")
    for fold in folds:
        assert len(fold.test)
        assert not set(SUBJECTS[fold.train]) & set(SUBJECTS[fold.test])
    if config.kind != "subject-split":
        tested = np.sort(np.concatenate([fold.test for fold in folds]))
        assert (tested == np.arange(len(SUBJECTS))).all()  # every window once


def test_protocol_names_say_what_was_done():
    assert protocol_name(ProtocolConfig("grouped-folds", num_folds=4)) == "grouped-4-folds"
    assert protocol_name(ProtocolConfig()) == "leave-one-subject-out"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ProtocolConfig("subject-split", ["1", "2"], ["2"]), "subject 2 is in train_subjects and in test_subjects"),
        (ProtocolConfig("subject-split", ["1"], ["99"]), "subject 99 has no window: the subjects are 1, 2, 3"),
        (ProtocolConfig("subject-split", ["1"], []), "test_subjects is empty"),
        (ProtocolConfig("grouped-folds", num_folds=13), "between 2 and the 12 subjects"),
        (ProtocolConfig("by-window"), "choose one of subject-split"),
    ],
)
def test_a_protocol_that_does_not_fit_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        make_folds(SUBJECTS, config, "x")


def test_pretrained_test_subjects_are_refused():
    check_not_pretrained(["a", "b"], ["c"], "x")
    with pytest.raises(UserError, match="1 test subjects, first b, were pretrained on"):
        check_not_pretrained(["a", "b"], ["b", "c"], "x")


def test_shots_are_fixed_nested_and_of_training_windows():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, len(SUBJECTS))
    fold = make_folds(SUBJECTS, ProtocolConfig("subject-split", ["1", "2", "3"], ["4"]), "x")[0]
    draws = draw_shots(label, fold, 10, 5, seed=7)
    again = draw_shots(label, fold, 10, 5, seed=7)
    fewer = draw_shots(label, fold, 4, 5, seed=7)
    assert len(draws) == 5
    for draw, same, small in zip(draws, again, fewer, strict=True):
        for kind, chosen in draw.items():
            assert len(set(chosen.tolist())) == 10
            assert (label[chosen] == kind).all()
            assert set(chosen.tolist()) <= set(fold.train.tolist())
            assert (chosen == same[kind]).all()
            assert (small[kind] == chosen[:4]).all()
    assert (draws[0][0] != draws[1][0]).any()
    assert (draw_shots(label, fold, 10, 1, seed=8)[0][0] != draws[0][0]).any()


def test_a_memorising_model_is_at_chance_on_random_labels():
    """Each subject has four kinds of windows, all alike, with labels of pure chance: leaking subjects is worth 1.0."""
    rng = np.random.default_rng(5)
    num_subjects, per_kind = 60, 6
    subject = np.repeat([str(i) for i in range(num_subjects)], 4 * per_kind)
    centres = rng.standard_normal((num_subjects * 4, 8))
    features = np.repeat(centres, per_kind, axis=0) + 0.001 * rng.standard_normal((len(subject), 8))
    label = np.repeat(rng.integers(0, 2, num_subjects * 4), per_kind)

    def score(folds):
        right = []
        for fold in folds:
            model = KNeighborsClassifier(1).fit(features[fold.train], label[fold.train])
            right.append(model.predict(features[fold.test]) == label[fold.test])
        return np.concatenate(right).mean()

    shuffled = rng.permutation(len(subject))
    leaky = [Fold("by window", shuffled[::2], shuffled[1::2])]
    assert score(leaky) > 0.95
    assert score(make_folds(subject, ProtocolConfig("grouped-folds", num_folds=5), "x")) == pytest.approx(0.5, abs=0.12)


def test_probe_ignores_features_that_do_not_vary_and_scores_absent_classes_zero():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 2], 30)
    train = np.column_stack([label + 0.1 * rng.standard_normal(60), np.full(60, 7.0), 1e30 * np.ones(60)])
    test = train + np.array([0, 5.0, 1e29])
    scores = fit_scores(train, label, test, num_classes=3, c=0.1)
    assert (scores.argmax(axis=1) == label).all()
    assert (scores[:, 1] == 0).all()
    assert scores.sum(axis=1) == pytest.approx(np.ones(60), abs=1e-5)


def test_source_validation_chooses_c_from_training_subjects_only():
    rng = np.random.default_rng(0)
    subject = np.repeat([f"s{i}" for i in range(12)], 20)
    label = np.tile([0, 1], 120)
    # The classes differ by a hair along which the features hardly vary: a strong penalty cannot see it.
    common = rng.standard_normal(240)
    train = np.column_stack([common + 0.02 * label, common]) + 0.001 * rng.standard_normal((240, 2))
    config = ProbeConfig(candidates=[0.001, 1000.0])
    domain = np.full(240, "")

    def choose(rule, subject):
        return choose_setting("linear", rule, train, label, subject, domain, config)

    assert choose("source-validation", subject) == 1000.0
    assert choose("lodo-cv", subject) == 1000.0
    assert choose("fixed", subject) is None
    domain = np.repeat(["a", "b"], 120)
    assert choose("lodo-cv", np.full(240, "one")) == 1000.0
    domain = np.full(240, "")
    for rule in ("source-validation", "lodo-cv"):
        with pytest.raises(UserError, match="more training subjects"):
            choose(rule, np.full(240, "one"))


def test_the_selection_rule_is_named():
    assert "C = 0.1" in selection_rule(ProbeConfig())
    assert selection_rule(ProbeConfig(["source-validation", "oracle"])).startswith("source-validation")
    with pytest.raises(UserError, match="choose from fixed, source-validation, lodo-cv, oracle"):
        selection_rule(ProbeConfig(["best"]))
    with pytest.raises(UserError, match="never the headline"):
        selection_rule(ProbeConfig(["oracle"]))
    with pytest.raises(UserError, match="greater than 0"):
        selection_rule(ProbeConfig(c=0.0))


def test_subjects_are_listed_as_people_count():
    assert sorted(["10", "2", "S1", "S12", "S2"], key=natural_order) == ["S1", "S2", "S12", "2", "10"]
