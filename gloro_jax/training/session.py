"""How one sitting of a training run is held; nothing here changes what is learnt."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Session:
    """Resuming, saving and watching.

    Attributes:
        is_resuming: go on from the newest checkpoint in the run folder; where there is none yet,
            start.
        resume_step: go on from the checkpoint of this step instead.
        checkpoint_seconds: save a checkpoint when the last one is this old.
        is_writing_tensorboard: also write event files, into RUN/tensorboard.
        is_profiling: record ten training steps with JAX's profiler, into RUN/profile.
    """

    is_resuming: bool = False
    resume_step: int | None = None
    checkpoint_seconds: float = 60.0
    is_writing_tensorboard: bool = False
    is_profiling: bool = False

    def __post_init__(self) -> None:
        if not self.checkpoint_seconds >= 0:
            raise ValueError(
                f"checkpoint_seconds must not be negative, got {self.checkpoint_seconds}."
            )
        if self.resume_step is not None and not self.is_resuming:
            raise ValueError(
                "--resume-step goes with --resume; from Python, resume_step with is_resuming=True."
            )
