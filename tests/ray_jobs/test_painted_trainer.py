"""What a painted trainer's ledger notes, and how it counts its waiting."""

import numpy as np

from generation.actor import WorkClock
from ray_jobs.painted_trainer import DeliveryLedger, Waiting


def test_a_trainer_that_takes_a_lost_ones_place_goes_on_with_what_has_not_come():
    ledger = DeliveryLedger()
    begun = ledger.begin("host:1")
    assert (len(begun.taken), begun.first_batch_at) == (0, None)
    ledger.take(np.array([4, 5, 6]), 0.5)
    ledger.take(np.array([0, 1]), 0.25)
    begun = ledger.begin("host:2")
    assert begun.taken.at(np.arange(5)).tolist() == [0, 1, 4, 5, 6]
    assert begun.first_batch_at == ledger.came_at[0]
    assert ledger.trainer() == "host:2"
    assert ledger.waiting_seconds == [0.5, 0.25]


def test_waiting_is_counted_from_the_first_batch_on_and_while_it_lasts():
    now = [0.0]
    waiting = Waiting(WorkClock(lambda: now[0]))
    with waiting.clock:
        now[0] = 7.0
    assert waiting.of_last_batch() == 7.0
    now[0] = 10.0  # 3 s of work
    with waiting.clock:
        now[0] = 12.0
        assert waiting.since_first_batch() == 2.0
        now[0] = 13.0
    assert waiting.of_last_batch() == 3.0
    assert waiting.since_first_batch() == 3.0
