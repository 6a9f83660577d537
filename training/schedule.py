"""The learning rate as a pure function of the step."""

import math


def learning_rate_factor(step: int, num_steps: int, warmup_fraction: float) -> float:
    """Return the learning rate at `step` (from 0) as a share of its peak: linear warm-up, then a cosine to 0."""
    num_warmup_steps = round(warmup_fraction * num_steps)
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
