"""What a training run is told: frozen dataclasses, checked when they are made."""

import dataclasses
import math

from gloro_jax.losses import LossName


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        epsilon: the l2 radius to certify at, in units of images in [0, 1].
        epochs: passes over the training split.
        loss: emma, gloro_cross_entropy, trades_kl, trades_ce, margin or lmt.
        trades_weight: weight of the robust term of the TRADES losses.
        batch_size: examples per step, over all devices together.
        learning_rate: peak of the NAdam learning rate, which falls to 0 along a cosine.
        warmup_epochs: epochs of linear warm-up to that peak.
        epsilon_start: the training radius begins at this multiple of epsilon.
        epsilon_end: and ends at this one; above 1 leaves margins to spare.
        ramp: share of training over which it rises linearly.
        clip_norm: gradients are scaled down to this global l2 norm.
        power_steps: power-iteration rounds per training step.
        seed: of initial weights, power-iteration vectors and the order of examples.
    """

    epsilon: float
    epochs: int
    loss: LossName = "emma"
    trades_weight: float = 1.0
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_epochs: int = 0
    epsilon_start: float = 0.1
    epsilon_end: float = 1.5
    ramp: float = 0.5
    clip_norm: float = 3.0
    power_steps: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epsilon", "learning_rate", "epsilon_start", "epsilon_end", "clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}.")
        for name in ("epochs", "batch_size", "power_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"ramp is a share of training, from 0 to 1; got {self.ramp}.")
        if not (math.isfinite(self.trades_weight) and self.trades_weight >= 0):
            raise ValueError(f"trades_weight must be at least 0, got {self.trades_weight}.")
        if self.warmup_epochs < 0 or self.seed < 0:
            raise ValueError(
                "warmup_epochs and seed must not be negative, got "
                f"{self.warmup_epochs} and {self.seed}."
            )
