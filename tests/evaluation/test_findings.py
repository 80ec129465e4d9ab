"""Findings: what counts as refuted, and which images are attacked."""

import dataclasses

import numpy as np
import pytest

from gloro_jax.data import Split
from gloro_jax.evaluation import AttackReport, Report, Tightness
from gloro_jax.evaluation.findings import Findings, sample


@pytest.fixture
def findings(small_frozen):
    labels = np.array([0, 1, 2, 3])
    report = Report(0.1, labels, labels, np.array([0.2, np.inf, 0.0, 0.5]), labels < 4)
    chosen = np.array([1, 3])
    images = np.zeros((2, 8, 8, 1), np.float32)
    missed = AttackReport(np.ones(2), np.full(2, np.inf), images, labels[chosen])
    return Findings(
        name="x", config={"data": {}, "training": {}}, summary={}, history=[],
        frozen=small_frozen, report=report, source="here", chosen=chosen,
        attacked=Split(images, labels[chosen]), attack=missed, reach=1.0,
        tightness=Tightness(0.5, 1.0, (0, 1)),
    )  # fmt: skip


def test_an_attack_that_found_nothing_refutes_nothing_even_at_infinity(findings):
    assert findings.refuted == 0
    assert not findings.is_alarm
    np.testing.assert_array_equal(findings.accuracy_under_attack([0.0, 5.0]), [1, 1])


@pytest.mark.parametrize(("distance", "refuted"), [(0.4999, 1), (0.5, 1), (0.5001, 0)])
def test_a_success_counts_against_the_radius_of_its_own_image(findings, distance, refuted):
    hit = dataclasses.replace(findings.attack, distances=np.array([np.inf, distance]))
    changed = dataclasses.replace(findings, attack=hit)
    assert changed.refuted == refuted
    assert changed.is_alarm == bool(refuted)
    np.testing.assert_array_equal(changed.accuracy_under_attack([0.1, 0.6]), [1, 0.5])


def test_a_slope_above_the_bound_is_an_alarm(findings):
    steep = dataclasses.replace(findings, tightness=Tightness(1.01, 1.0, (0, 1)))
    assert steep.is_alarm


def test_samples_are_spread_over_sorted_sets():
    labels = np.repeat(np.arange(10), 100)
    split = Split(np.zeros((1000, 1, 1, 1), np.uint8), labels)
    drawn = sample(split, 100)
    assert len(drawn) == 100
    assert len(np.unique(drawn.labels)) == 10
    assert sample(split, None) is split
    np.testing.assert_array_equal(drawn.labels, sample(split, 100).labels)
