"""What a painted trainer's ledger notes, and how it counts its waiting."""

import numpy as np

from ray_jobs.scaling.painted_trainer import DeliveryLedger, next_due_at


def test_a_trainer_that_takes_a_lost_ones_place_goes_on_with_what_has_not_come():
    ledger = DeliveryLedger()
    taken, first_batch_at = ledger.begin("host:1")
    assert (len(taken), first_batch_at) == (0, None)
    ledger.take(np.array([4, 5, 6]), 0.5)
    ledger.take(np.array([0, 1]), 0.25)
    taken, first_batch_at = ledger.begin("host:2")
    assert taken.at(np.arange(5)).tolist() == [0, 1, 4, 5, 6]
    assert first_batch_at == ledger.came_at[0]
    assert ledger.trainer() == "host:2"
    assert ledger.deliveries().nums.tolist() == [3, 2]
    assert ledger.deliveries().waiting_seconds.tolist() == [0.5, 0.25]


def test_what_handing_over_a_batch_takes_is_made_up_for_and_a_wait_is_not():
    due_at = next_due_at(0.0, came_at=100.0, period_seconds=2.0)
    assert due_at == 100.0  # a period after it would have been due
    due_at = next_due_at(due_at, came_at=100.5, period_seconds=2.0)  # half a second on its way
    assert due_at == 102.0
    assert next_due_at(due_at, came_at=110.0, period_seconds=2.0) == 110.0  # waited for 8 s: the next at once, no more
    assert next_due_at(110.0, came_at=110.0, period_seconds=2.0) == 112.0
