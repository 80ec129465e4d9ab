"""The public names and signatures: others call them, so a change here is a decision."""

import inspect
import subprocess
import sys

import pytest

import gloro_jax as gj

SIGNATURES = {
    "power_iteration": "(linear, vector, *, steps)",
    "matrix_norm": "(matrix)",
    "conv_norm": "(kernel, *, image_size, strides, padding, groups, tol)",
    "Bounded.apply": "(self, fn, *, lipschitz, step)",
    "Bounded.add": "(a, b)",
    "GloroNet.__call__": "(self, x, *, norms, is_training, batch_axis)",
    "init_spectral": "(net, variables, *, key, input_shape)",
    "bottom_logit": "(logits, *, epsilon)",
    "certified_radius": "(logits)",
    "losses.emma": "(logits, labels, *, epsilon)",
    "losses.gloro_cross_entropy": "(logits, labels, *, epsilon, guarantee)",
    "losses.margin": "(logits, labels, *, epsilon)",
    "losses.lmt": "(logits, labels, *, epsilon)",
    "losses.logit_annealing": "(logits, labels, *, epsilon, offset, temperature, gamma)",
    "losses.offset_cross_entropy": "(logits, labels, *, epsilon, temperature)",
    "losses.crm": "(logits, labels, *, epsilon, weight, sharpness)",
    "losses.trades_kl": "(logits, labels, *, epsilon, weight, guarantee)",
    "losses.trades_ce": "(logits, labels, *, epsilon, weight, guarantee)",
    "freeze": "(net, variables, *, input_shape, on_progress)",
    "certify": "(frozen, x, *, epsilon, guarantee)",
    "load": "(run, *, checkpoint, net)",
    "runs.load_variables": "(run, *, checkpoint)",
    "training.fit": "(net, data, config, *, run, session, backend, initial, optimizer)",
    "training.epochs": "(net, data, config, *, run, session, backend, initial, optimizer)",
    "training.data_parallel": "(step, *, backend, devices)",
    "evaluation.verified_robust_accuracy": "(frozen, batches, *, epsilon, guarantee)",
    "evaluation.attack": (
        "(frozen, images, *, radii, sets, steps, restarts, targets, seed, batch_size, on_progress)"
    ),
    "evaluation.report": (
        "(run, frozen, split, *, epsilon, source, out, examples, steps, on_progress)"
    ),
    "evaluation.tightness": "(frozen, images, *, pairs, steps, seed)",
    "data.from_arrays": "(train, test, *, validation, seed, name, class_names, origin)",
    "data.open_data": "(config)",
    "data.prepare": "(name, *, source, directory, resize, shorter_side, is_skipping_corrupt, "
    "is_overwriting, on_progress)",
    "certificates.write": (
        "(frozen, images, labels, *, epsilon, out, guarantee, has_inputs, source, on_progress)"
    ),
    "certificates.check": "(path, *, data, run)",
    "certificates.describe": "(frozen)",
    "export.write": "(frozen, *, out, epsilon, about)",
    "export.read": "(folder)",
    "torch_import.import_torch": "(file, *, out, epsilon, data, image_size)",
    "ensembles.Voting": "(members, weights, class_names)",
    "ensembles.SoftVoting": "(members, weights, class_names)",
    "ensembles.Cascade": "(members, class_names)",
    "ensembles.Selective": "(members, alpha)",
    "ensembles.Compositional": "(core, certified, gate)",
    "ensembles.EntropyGate": "(threshold)",
    "ensembles.Voting.certify": "(self, x, *, epsilon)",
    "ensembles.SoftVoting.certify": "(self, x, *, epsilon, guarantee)",
    "ensembles.Compositional.certify": "(self, x, *, epsilon)",
    "ensembles.learn_weights": ("(members, images, labels, *, epsilon, steps, learning_rate)"),
    "ensembles.attack_cascade": ("(cascade, images, labels, *, epsilon, steps, restarts, seed)"),
    "ensembles.gate_labels": "(certified, images, labels, *, epsilon)",
    "repair.Repair": "(properties, num_classes)",
    "repair.Repair.__call__": "(self, x, values)",
    "repair.Repair.certify": "(self, frozen, x, *, epsilon)",
    "repair.parse": "(text, *, num_classes)",
    "guarantees.TopK": "(k)",
    "guarantees.Affinity": "(sets)",
    "guarantees.parse": "(text)",
    "guarantees.set_certificate": "(logits, guarantee, *, epsilon)",
    "verifiers.Verifier.verify": "(self, frozen, x, labels, *, norm, radius, box)",
    "verifiers.Verifier.certified_radius": "(self, frozen, x, *, norm, box)",
    "verifiers.Smoothing.certify": "(self, frozen, x, *, key)",
    "testing.check_lipschitz": "(layer, input_shape, *, seed, points, weight_scales)",
}
NAMES = {
    "Bounded", "Certificate", "Estimate", "FrozenNet", "GloroLogits", "GloroNet",
    "PowerIteration", "UpperBound", "bottom_logit", "certificates", "certified_radius", "certify",
    "conv_norm", "data", "ensembles", "evaluation", "export", "freeze", "guarantees",
    "init_spectral", "layers", "load", "losses", "matrix_norm", "models", "power_iteration",
    "recipes", "repair", "runs", "testing", "torch_import", "training", "verifiers",
}  # fmt: skip

DATA = {
    "Augmentation", "Batch", "DataConfig", "Dataset", "Extra", "Split", "digits",
    "evaluation_batches", "from_arrays", "open_data", "prepare", "training_batches", "with_extra",
}  # fmt: skip


def plain_signature(path):
    thing = gj
    for name in path.split("."):
        thing = getattr(thing, name)
    parameters = inspect.signature(thing).parameters.values()
    parts, has_star = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not has_star:
            parts.append("*")
            has_star = True
        parts.append(parameter.name)
    return f"({', '.join(parts)})"


def test_signatures():
    assert {path: plain_signature(path) for path in SIGNATURES} == SIGNATURES


def test_names():
    assert {name for name in dir(gj) if not name.startswith("_")} == NAMES
    assert {name for name in dir(gj.data) if not name.startswith("_")} == DATA
    assert all(hasattr(gj, name) for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'certfy'"):
        getattr(gj, "certfy")  # noqa: B009


def test_usage_comes_before_jax():
    """The first words of the command line do not wait for what they do not need."""
    code = """
import contextlib, sys
from gloro_jax.cli import main
for words in ([], ["--help"], ["--version"]):
    with contextlib.suppress(SystemExit):
        main(words)
print(sorted({"jax", "flax", "numpy", "tyro"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_fields():
    assert gj.Certificate._fields == ("prediction", "radius", "is_certified", "slack")
    fields = ("classes", "k", "radius", "is_certified", "slack")
    assert gj.guarantees.SetCertificate._fields == fields
    assert float(gj.UpperBound(2.0)) == 2.0
    assert float(gj.Estimate(1.5)) == 1.5
