"""The progress line: rewritten in place on a terminal, otherwise printed at intervals."""

import time

from rich.console import Console
from rich.live import Live

from ray_jobs.monitor.progress import RunProgress
from training.config import TrainingConfig

PLAIN_LINE_SECONDS = 10.0
"""Interval between lines without a terminal; the end of an epoch always prints one."""


class ProgressLine:
    """A line rewritten in place on a terminal; otherwise printed at intervals and at each epoch's end."""

    def __init__(self, config: TrainingConfig) -> None:
        self.console = Console(markup=False, emoji=False)
        self.live = Live(console=self.console, refresh_per_second=2, transient=True)
        self.config = config
        self._printed_at = 0.0
        self._epoch = 0

    def observe(self, progress: RunProgress) -> None:
        """Show the run's progress."""
        line = progress_line(progress, self.config)
        self.live.start()
        self.live.update(line)
        epoch = progress.training.epoch if progress.training else 0
        is_due = not self.console.is_terminal and time.monotonic() - self._printed_at >= PLAIN_LINE_SECONDS
        if epoch != self._epoch or is_due:
            self._printed_at, self._epoch = time.monotonic(), epoch
            self.console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Remove the line from the terminal."""
        self.live.stop()


def progress_line(progress: RunProgress, config: TrainingConfig) -> str:
    """Return the run's progress in one line."""
    training = progress.training
    pending = f" of {progress.num_actors + progress.num_pending}" if progress.num_pending else ""
    generation = f"generated {progress.generated_per_second:.1f}/s  actors {progress.num_actors}{pending}"
    if training is None:
        return f"  0%  waiting for the first images  {generation}"
    seconds_left = (config.num_trained - training.num_trained) / max(training.trained_per_second, 1e-9)
    reservoir = (
        f"drawn from {training.num_in_reservoir:,}  overlap {training.batch_overlap:.0%}  "
        if config.most_uses > 1
        else ""
    )
    held_out = "-" if training.held_out_top1 is None else f"{training.held_out_top1:.3f}"
    return (
        f"{training.num_trained / config.num_trained:4.0%}  epoch {training.epoch}/{config.num_epochs}  "
        f"{training.num_trained:,}/{config.num_trained:,} trained  "
        f"{generation}  trained {training.trained_per_second:.1f}/s  "
        f"waiting {training.waiting_fraction:.0%}  reuse {training.reuse:.2f}  {reservoir}loss {training.loss:.3f}  "
        f"held-out top-1 {held_out}  {int(seconds_left) // 60}:{int(seconds_left) % 60:02} left"
    )
