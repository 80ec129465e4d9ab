"""Selective ensembles on tabular data and on Fashion-MNIST: consistency, abstention, attributions.

Black, Leino, Fredrikson (ICLR 2022), on the data sets that scikit-learn ships and on Fashion-MNIST.
All models of a data set are one architecture, an MLP of one hidden layer of 64 ReLUs, and differ in
their seed: initial weights and the order of examples. They are trained by one program that maps
over seeds; 20 of them one after another as well, to compare times (compilation apart). 24 ensembles
of each size are drawn from the pool, without replacement within an ensemble; alpha is 0.05.

Command: python -m experiments.rows.selective (about 10 minutes on 2 CPU cores; Fashion-MNIST must
have been prepared: docs/data.md).
"""

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
import sklearn.model_selection

import gloro_jax as gj
from experiments.rows import save
from gloro_jax.ensembles import Selective, ssim, top_overlap
from gloro_jax.ensembles.consistency import spearman
from gloro_jax.ensembles.selective import attributions, select

ALPHA, ENSEMBLES, SIZES, HIDDEN = 0.05, 24, (5, 10, 15, 20), 64


class Task(NamedTuple):
    """A data set, how many models, and how they are trained."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: int
    models: int
    steps: int
    batch: int = 64


def tabular(load: Callable[..., Any], models: int = 200) -> Task:
    x, y = load(return_X_y=True)
    parts = sklearn.model_selection.train_test_split(x, y, test_size=0.3, random_state=0)
    mean, spread = parts[0].mean(axis=0), parts[0].std(axis=0) + 1e-9
    train, test = ((part - mean) / spread for part in parts[:2])
    return Task(
        (train.astype(np.float32), parts[2]), (test.astype(np.float32), parts[3]),
        int(y.max()) + 1, models, steps=400,
    )  # fmt: skip


def fashion() -> Task:
    data = gj.data.open_data(gj.data.DataConfig("fashion_mnist", validation=1 / 12))
    some = np.random.default_rng(0).permutation(len(data.train))[:20_000]
    splits = [(np.asarray(data.train.images)[some], data.train.labels[some])]
    splits.append((np.asarray(data.test.images)[:2000], data.test.labels[:2000]))
    train, test = ((x.reshape(len(x), -1).astype(np.float32) / 255, y) for x, y in splits)
    return Task(train, test, 10, models=60, steps=600)


def scores(params: Any, x: Any) -> Any:
    (w, b), (v, c) = params
    return jax.nn.relu(x @ w + b) @ v + c


def trainer(task: Task) -> Callable[[Any], Any]:
    """A function from a seed to weights."""
    x, y = (jnp.asarray(part) for part in task.train)
    optimizer = optax.adam(2e-3)

    def loss(params: Any, rows: Any) -> Any:
        values = scores(params, x[rows])
        return optax.softmax_cross_entropy_with_integer_labels(values, y[rows]).mean()

    def train(seed: Any) -> Any:
        first, second, order = jax.random.split(jax.random.key(seed), 3)
        w = jax.random.normal(first, (x.shape[1], HIDDEN)) / np.sqrt(x.shape[1])
        v = jax.random.normal(second, (HIDDEN, task.classes)) / np.sqrt(HIDDEN)
        params = ((w, jnp.zeros(HIDDEN)), (v, jnp.zeros(task.classes)))

        def step(carry: Any, key: Any) -> Any:
            params, state = carry
            rows = jax.random.randint(key, (task.batch,), 0, len(x))
            updates, state = optimizer.update(jax.grad(loss)(params, rows), state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(order, task.steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return train


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    jax.block_until_ready(run())
    start = time.perf_counter()
    return jax.block_until_ready(run()), time.perf_counter() - start


def member(pool: Any, index: int) -> Callable[[Any], Any]:
    params = jax.tree.map(lambda leaf: leaf[index], pool)
    return lambda x: scores(params, x)


def consistency(task: Task, pool: Any) -> dict[str, Any]:
    x, y = task.test
    votes = np.asarray(jax.vmap(lambda p: scores(p, x).argmax(axis=1))(pool))
    rng = np.random.default_rng(0)
    single = votes[rng.permutation(len(votes))[:ENSEMBLES]]
    found: dict[str, Any] = {
        "accuracy of one model": float((votes == y).mean()),
        "points on which single models disagree": float((single != single[0]).any(axis=0).mean()),
        "ensembles": {},
    }
    for n in SIZES:
        draws = [rng.permutation(len(votes))[:n] for _ in range(ENSEMBLES)]
        chosen = [select(votes[d], num_classes=task.classes, alpha=ALPHA) for d in draws]
        answers = np.stack([one.prediction for one in chosen])
        top = answers.max(axis=0)
        differ = ((answers != top) & (answers >= 0)).any(axis=0)
        found["ensembles"][n] = {
            "abstains": float((answers < 0).mean()),
            "accuracy, abstention an error": float((answers == y).mean()),
            "points on which two ensembles answer differently": float(differ.mean()),
        }
    return found


def alike(task: Task, pool: Any) -> dict[str, Any]:
    """Similarity of attributions between pairs of single models, and of ensembles."""
    x, rng = jnp.asarray(task.test[0][:200]), np.random.default_rng(1)
    count, found = jax.tree.leaves(pool)[0].shape[0], {}
    for n in (1, *SIZES):
        maps = []
        for _ in range(6):
            own = [member(pool, i) for i in rng.permutation(count)[:n]]
            one = attributions(own[0], x) if n == 1 else Selective(own).attributions(x)
            maps.append(np.asarray(one))
        pairs = list(itertools.combinations(maps, 2))
        found[n] = {
            "Spearman": float(np.mean([spearman(a, b) for a, b in pairs])),
            "top 5": float(np.mean([top_overlap(a, b) for a, b in pairs])),
        }
        if x.shape[1] == 784:
            shape = (-1, 28, 28, 1)
            found[n]["SSIM"] = float(
                np.mean([ssim(a.reshape(shape), b.reshape(shape)) for a, b in pairs])
            )
    return found


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    tasks = {
        "breast cancer": tabular(sklearn.datasets.load_breast_cancer),
        "digits as a table": tabular(sklearn.datasets.load_digits),
        "wine": tabular(sklearn.datasets.load_wine),
        "Fashion-MNIST": fashion(),
    }
    rows = {}
    for name, task in tasks.items():
        train = trainer(task)
        mapped, alone = jax.jit(jax.vmap(train)), jax.jit(train)
        pool = mapped(jnp.arange(task.models))
        _, together = timed(lambda m=mapped: m(jnp.arange(20)))
        _, apart = timed(lambda a=alone: [a(seed) for seed in jnp.arange(20)])
        rows[name] = {
            "models": task.models,
            "seconds, 20 members mapped": together,
            "seconds, 20 members one after another": apart,
            "predictions": consistency(task, pool),
            "attributions": alike(task, pool),
        }
        print(name, rows[name], flush=True)
    row = {"alpha": ALPHA, "ensembles": ENSEMBLES, "hidden": HIDDEN, "tasks": rows}
    save("selective", row, command="python -m experiments.rows.selective")


if __name__ == "__main__":
    main()
