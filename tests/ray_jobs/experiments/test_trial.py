"""Decisions about learners at the ends of epochs. With Ray: test_experiment.py."""

import asyncio
from typing import Any

from ray_jobs.experiments.trial import EpochReports
from training.progress import TrainingProgress


def end_of(epoch: int) -> TrainingProgress:
    return TrainingProgress(64 * epoch, 0, epoch, 0.0, 0.0, held_out_top1=0.5)


def test_repeated_report_gets_the_answer_of_the_first():
    reports: Any = EpochReports.__ray_metadata__.modified_class()  # pyright: ignore[reportAttributeAccessIssue]

    async def answers() -> list[bool]:
        lost = asyncio.create_task(reports.ask("a", end_of(1)))
        assert await reports.next("a") == end_of(1)
        lost.cancel()
        await reports.decide("a", 1, True)
        again = await reports.ask("a", end_of(1))
        other = asyncio.create_task(reports.ask("a", end_of(2)))
        assert await reports.next("a") == end_of(2)
        await reports.decide("a", 2, False)
        return [again, await other]

    assert asyncio.run(answers()) == [True, False]
    assert asyncio.run(reports.has_stopped("a"))
    assert not asyncio.run(reports.has_stopped("b"))
