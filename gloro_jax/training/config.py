"""What a training run is told: frozen dataclasses, checked when they are made."""

import dataclasses
import math
from typing import Literal

from gloro_jax import guarantees
from gloro_jax.data.augment import Augmentation
from gloro_jax.losses import RELAXABLE, LossName
from gloro_jax.plain import settle
from gloro_jax.schedules import check_schedule

_TINY, _HUGE = 1e-9, 1e9  # what stays between these, float32 holds

OptimizerName = Literal["adam", "nadam", "adamw", "sgd", "muon"]
ComputeType = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Schedules are a line of text each, "[0.1]-[50%:1.5]" or a name such as "cos"; the grammar is
    in gloro_jax/schedules.py. Their values are factors.

    Attributes:
        epsilon: the l2 radius to certify at, in units of images in [0, 1]; with norm=linf, which
            ibp and crown_ibp know, the linf radius. The command line takes 36/255, too.
        epochs: passes over the training split.
        loss: emma, logit_annealing, margin, offset_cross_entropy, crm, lmt, gloro_cross_entropy,
            trades_kl or trades_ce; or ibp or crown_ibp, which train against what a verifier
            proves (`gloro-jax verify`), and whose estimates of VRA are that verifier's.
        norm: of the ball that ibp and crown_ibp train against, l2 or linf; its radius is epsilon.
            Certificates speak of l2 balls whatever it is.
        guarantee: what is to be certified, and what validation counts: strict, top-5 (the five
            highest classes as a set, or fewer), or sets of classes that may be taken for one
            another, [0,2][1][3]. Others than strict go with gloro_cross_entropy, trades_kl and
            trades_ce (docs/guarantees.md).
        trades_weight: weight of the robust term of the TRADES losses and of CRM, and the share of
            the worst case, up to 1, in ibp and crown_ibp.
        trades_schedule: how that weight moves.
        epsilon_schedule: how the training radius moves, in factors of epsilon; above 1 leaves
            margins to spare. Its grammar: docs/training.md.
        batch_size: examples per step, over all devices together.
        microbatches: parts that each device's share of a batch is computed in, to save memory. On
            CPU each part is compiled by itself, so that many take long to begin.
        optimizer: nadam, adam, adamw, sgd (with momentum, Nesterov's), or muon, which moves kernels
            by their momentum with all singular values made one (Jordan et al. 2024), scaled to
            the size of Adam's moves, and the rest as nadam.
        momentum: of sgd.
        weight_decay: of adamw, and of sgd before its momentum; 0 for none. Kernels alone decay:
            biases, gains and other vectors do not.
        lookahead: every so many steps, step back halfway to where the last such step ended
            (Zhang et al. 2019); 0 for never. Validated and kept are the fast weights.
        average: weights are averaged over steps with this decay (EMA), 0.999 say; 0 for none.
            Validated and kept is the average.
        learning_rate: its peak.
        learning_rate_schedule: how the learning rate moves.
        warmup_epochs: epochs over which the learning rate also rises linearly from 0.
        clip_norm: gradients are scaled down to this global l2 norm.
        power_steps: power-iteration rounds per training step.
        compute: precision of activations in training, "float32" or "bfloat16"; weights, norms and
            the optimiser stay float32, and so do validation and certificates.
        augmentation: what happens to training images.
        seed: of initial weights, power-iteration vectors, the order of examples, augmentation.
    """

    epsilon: float
    epochs: int
    loss: LossName = "emma"
    norm: Literal["l2", "linf"] = "l2"
    guarantee: str = "strict"
    trades_weight: float = 1.0
    trades_schedule: str = "fixed"
    epsilon_schedule: str = "[0.1]-[50%:1.5]"
    batch_size: int = 128
    microbatches: int = 1
    optimizer: OptimizerName = "nadam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    lookahead: int = 0
    average: float = 0.0
    learning_rate: float = 2e-3
    learning_rate_schedule: str = "cos"
    warmup_epochs: int = 0
    clip_norm: float = 3.0
    power_steps: int = 5
    compute: ComputeType = "float32"
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        settle(self)
        for name in ("epsilon", "learning_rate", "clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}.")
            if not _TINY <= value <= _HUGE:
                raise ValueError(f"{name} must be between {_TINY:g} and {_HUGE:g}, got {value}.")
        for name in ("epochs", "batch_size", "microbatches", "power_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.seed >= 2**31:
            raise ValueError(f"seed must be below 2**31, got {self.seed}.")
        for name in ("warmup_epochs", "seed", "lookahead"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not (math.isfinite(self.trades_weight) and self.trades_weight >= 0):
            raise ValueError(f"trades_weight must be at least 0, got {self.trades_weight}.")
        self._check_what_is_proved()
        for name in ("momentum", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 0 and below 1, got {getattr(self, name)}.")
        if not (math.isfinite(self.weight_decay) and 0 <= self.weight_decay < _HUGE):
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}.")
        if self.weight_decay and self.optimizer not in ("adamw", "sgd"):
            raise ValueError(
                f"weight_decay goes with adamw and sgd, and optimizer is {self.optimizer}."
            )
        if self.lookahead == 1:
            raise ValueError("lookahead is 0, or at least 2 steps, got 1.")
        if self.batch_size % self.microbatches:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of microbatches, "
                f"{self.microbatches}."
            )
        self._check_schedules()

    def _check_schedules(self) -> None:
        for name in ("epsilon_schedule", "trades_schedule", "learning_rate_schedule"):
            is_rate = name != "trades_schedule"
            is_share = self.is_verified and not is_rate and self.trades_weight > 0
            most = 1 / self.trades_weight if is_share else math.inf
            text = getattr(self, name)
            check_schedule(name, text, epochs=self.epochs, must_be_positive=is_rate, most=most)

    def _check_what_is_proved(self) -> None:
        if guarantees.parse(self.guarantee) and self.loss not in RELAXABLE:
            raise ValueError(
                f"guarantee={self.guarantee} goes with loss {', '.join(RELAXABLE)}, which lift the "
                f"score of all sets at once; loss={self.loss} centres on the label."
            )
        if not self.is_verified and self.norm != "l2":
            raise ValueError(f"norm={self.norm} goes with loss ibp or crown_ibp, not {self.loss}.")
        if not self.is_verified:
            return
        if self.trades_weight > 1:
            raise ValueError(
                f"trades_weight is the share of the worst case in loss={self.loss}, at most 1; "
                f"got {self.trades_weight}."
            )
        if self.compute != "float32":
            raise ValueError(
                f"compute={self.compute} does not go with loss={self.loss}, whose bounds are "
                "computed in float32: leave it at float32."
            )
        if self.augmentation.noise:
            raise ValueError(
                f"augmentation.noise leaves the pixels between 0 and 1 that loss={self.loss} "
                f"proves things about: set it to 0, not {self.augmentation.noise}."
            )

    @property
    def is_verified(self) -> bool:
        """Whether the loss asks a verifier."""
        return self.loss in ("ibp", "crown_ibp")
