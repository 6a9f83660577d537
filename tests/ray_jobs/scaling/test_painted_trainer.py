"""The ledger and the pacing of the fake trainer."""

import numpy as np

from ray_jobs.scaling.painted_trainer import DeliveryLedger, next_due_at


def test_replacement_trainer_continues_with_undelivered_samples():
    ledger = DeliveryLedger()
    taken, first_batch_at = ledger.begin("host:1")
    assert (len(taken), first_batch_at) == (0, None)
    ledger.record(np.array([4, 5, 6]), 0.5)
    ledger.record(np.array([0, 1]), 0.25)
    taken, first_batch_at = ledger.begin("host:2")
    assert taken.at(np.arange(5)).tolist() == [0, 1, 4, 5, 6]
    assert first_batch_at == ledger.delivered_at[0]
    assert ledger.trainer() == "host:2"
    assert ledger.deliveries().nums.tolist() == [3, 2]
    assert ledger.deliveries().waiting_seconds.tolist() == [0.5, 0.25]


def test_short_delay_is_caught_up_and_a_long_wait_is_not():
    due_at = next_due_at(0.0, delivered_at=100.0, period_seconds=2.0)
    assert due_at == 100.0  # due one period after 98
    due_at = next_due_at(due_at, delivered_at=100.5, period_seconds=2.0)  # delayed by half a second
    assert due_at == 102.0
    assert next_due_at(due_at, delivered_at=110.0, period_seconds=2.0) == 110.0  # waited 8 s: the next is due at once
    assert next_due_at(110.0, delivered_at=110.0, period_seconds=2.0) == 112.0
