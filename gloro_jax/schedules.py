"""Schedules: from the step count to a number, traced with the training step."""

import optax


def epsilon_ramp(epsilon: float, *, start: float, end: float, ramp_steps: int) -> optax.Schedule:
    """The training radius: linear from `start * epsilon` to `end * epsilon`, then constant.

    Training beyond the target radius (`end` above 1) is deliberate: it leaves margins to spare
    (Hu et al. 2023 use 0.1 to 1.5 over the first half of training).

    Args:
        epsilon: the target l2 radius, in the units of the images.
        start: factor at step 0.
        end: factor from step `ramp_steps` on.
        ramp_steps: length of the ramp; 0 is constant at `end`.
    """
    if ramp_steps == 0:
        return optax.constant_schedule(end * epsilon)
    return optax.linear_schedule(start * epsilon, end * epsilon, ramp_steps)


def warmup_cosine(peak: float, *, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """The learning rate: linear warm-up to `peak`, then a cosine down to 0 at `total_steps`."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else peak,
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=max(total_steps, warmup_steps + 1),
    )
