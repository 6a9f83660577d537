"""Learning rate schedule as a pure function of the images seen, independent of batch size and workers."""

import math

from training.config import TrainingConfig


def learning_rate(num_seen: int, config: TrainingConfig) -> float:
    """Return the learning rate after `num_seen` images: linear warm-up, then cosine decay to the final rate."""
    peak, final = config.peak_learning_rate, config.final_learning_rate
    seen_fraction = min(1.0, num_seen / config.num_trained)
    if seen_fraction < config.warmup_fraction:
        return peak * seen_fraction / config.warmup_fraction
    progress = (seen_fraction - config.warmup_fraction) / (1 - config.warmup_fraction)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress))
