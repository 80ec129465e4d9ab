"""All that a report says about one run, computed from its folder and its data."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gloro_jax import guarantees, runs
from gloro_jax.alarms import lower_norms, norm_alarm
from gloro_jax.data.dataset import Split
from gloro_jax.evaluation.attacks import AttackReport, attack
from gloro_jax.evaluation.tightness import Tightness, tightness
from gloro_jax.evaluation.vra import Report, verified_robust_accuracy
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.paths import place
from gloro_jax.plain import brief


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """One run, looked at.

    Attributes:
        name: of the run folder.
        config: as in config.json.
        summary: as in summary.json; empty if the run did not finish.
        history: one row per epoch.
        frozen: the network.
        report: certificates of the whole split.
        source: which images these are, in words.
        chosen: (n,) which images of the split were attacked, drawn at random.
        attacked: those images.
        attack: the nearest change of prediction found around each of those, up to `reach`.
        reach: how far the attack searched.
        tightness: of the Lipschitz bound.
        lower_norms: of every layer, found from below.
        norm_alarm: what is wrong with the stored norms, in words; empty if nothing is.
        relaxed: certificates of the whole split under the guarantee that the run was trained for;
            None where that is the strict one, of `report`.
    """

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    frozen: FrozenNet
    report: Report
    source: str
    chosen: np.ndarray
    attacked: Split
    attack: AttackReport
    reach: float
    tightness: Tightness
    lower_norms: dict[str, float] = dataclasses.field(default_factory=dict)
    norm_alarm: str = ""
    relaxed: Report | None = None

    __repr__ = brief

    @property
    def refuted(self) -> int:
        """Attacks that succeeded inside a certified radius: each one is a bug."""
        inside = self.attack.distances <= self.report.radii[self.chosen]
        return int((self.attack.is_success & inside).sum())

    @property
    def is_alarm(self) -> bool:
        """Whether anything here refutes the certificates."""
        return self.refuted > 0 or self.tightness.is_alarm or bool(self.norm_alarm)

    @property
    def class_names(self) -> list[str]:
        """What the classes are called."""
        numbers = [str(label) for label in range(self.frozen.net.num_classes)]
        return list(self.config["data"].get("class_names") or numbers)

    def accuracy_under_attack(self, radii: Any) -> np.ndarray:
        """Share of attacked images that stay correct up to each of `radii`, as far as found."""
        held = np.where(self.report.is_correct[self.chosen], self.attack.distances, -1.0)
        return (held[None, :] > np.asarray(radii, float).reshape(-1, 1)).mean(axis=1)


def look_at(
    run: str | os.PathLike[str],
    frozen: FrozenNet,
    split: Split,
    *,
    source: str,
    epsilon: float,
    examples: int,
    steps: int,
    on_progress: Callable[[int], None] = lambda images: None,
) -> Findings:
    """Certifies a split, attacks some of its images, and tests the Lipschitz bound.

    Args:
        run: the run folder.
        frozen: its network.
        split: the images.
        source: which images these are, in words.
        epsilon: the l2 radius certified at.
        examples: how many images to attack, drawn at random with a fixed seed.
        steps: of the attack, per target class.
        on_progress: called with the number of images attacked since the last call.
    """
    folder = place(run)
    config, held = runs.read_config(folder), [(split.images, split.labels)]
    report = verified_robust_accuracy(frozen, held, epsilon=epsilon)
    chosen = drawn(len(split), examples)
    seen = split.images[chosen]
    attacked = Split(seen, split.labels[chosen])
    finite = report.radii[np.isfinite(report.radii)]
    reach = 1.5 * max(2 * epsilon, float(np.quantile(finite, 0.99)) if len(finite) else 0.0)
    found = attack(frozen, seen, radii=reach, steps=steps, restarts=1, on_progress=on_progress)
    lower = lower_norms(frozen)
    return Findings(
        name=(folder.resolve() if isinstance(folder, Path) else folder).name,
        config=config,
        summary=runs.read_summary(folder),
        history=runs.read_metrics(folder),
        frozen=frozen,
        report=report,
        source=source,
        chosen=chosen,
        attacked=attacked,
        attack=found,
        reach=reach,
        tightness=tightness(frozen, split.images if isinstance(split.images, np.ndarray) else seen),
        lower_norms={path: float(np.max(norms)) for path, norms in lower.items()},
        norm_alarm=norm_alarm(frozen, lower),
        relaxed=_relaxed(frozen, held, epsilon, config),
    )


def _relaxed(frozen: FrozenNet, held: Any, epsilon: float, config: dict[str, Any]) -> Report | None:
    """Certificates under the guarantee that a run was trained for, unless it is the strict one."""
    wanted = guarantees.parse(config.get("training", {}).get("guarantee", "strict"))
    if wanted is None:
        return None
    return verified_robust_accuracy(frozen, held, epsilon=epsilon, guarantee=wanted)


def sample(split: Split, count: int | None) -> Split:
    """`count` of a split's images, drawn at random with a fixed seed; all if None."""
    if count is None or count >= len(split):
        return split
    chosen = drawn(len(split), count)
    return Split(split.images[chosen], split.labels[chosen])


def drawn(total: int, count: int) -> np.ndarray:
    """Which images `sample` takes: sets are often sorted, the first would be of one class."""
    return np.sort(np.random.default_rng(0).permutation(total)[:count])
