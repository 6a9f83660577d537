"""Outputs of a network for a batch of images."""

from functools import partial

import numpy as np
import pytest
import torch

from evaluation.config import EvaluationConfig
from evaluation.inference.network import KINDS, Kinds, Network, Request, best_guesses
from evaluation.inference.trained_model import EvaluationError, build_classifier
from tests.support.models import untrained, untrained_checkpoint


def test_guesses_are_the_best_five_with_the_first_ones_confidence():
    logits = torch.log(torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0, 0.5], [10.0, 4.0, 3.0, 2.0, 0.5, 1.0]]))
    guesses = best_guesses(logits, [])
    assert guesses["prediction"].tolist() == [[4, 3, 2, 1, 0], [0, 1, 2, 3, 5]]
    np.testing.assert_allclose(guesses["confidence"], [10 / 20.5, 10 / 20.5], rtol=1e-6)
    assert (guesses["prediction"].dtype, guesses["confidence"].dtype) == (np.int32, np.float32)


def test_guesses_and_confidences_are_among_shared_labels():
    logits = torch.log(torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0], [6.0, 2.0, 1.0, 1.0, 90.0]]))
    guesses = best_guesses(logits, [0, 2, 3])  # of 1 + 3 + 4, and of 6 + 1 + 1
    assert guesses["prediction"][0].tolist() == [3, 2, 0]
    assert guesses["prediction"][1, 0] == 0
    np.testing.assert_allclose(guesses["confidence"], [4 / 8, 6 / 8], rtol=1e-6)


def test_single_shared_label_has_confidence_1():
    guesses = best_guesses(torch.tensor([[5.0, -5.0], [-5.0, 5.0]]), [1])
    assert guesses["prediction"].tolist() == [[1], [1]]
    assert guesses["confidence"].tolist() == [1.0, 1.0]


def test_network_computes_the_same_guesses_with_and_without_features():
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    requests = [Request(KINDS, [0, 2]), Request(("guesses",), [0, 2]), Request(("features",))]
    compute = Network(untrained().build, EvaluationConfig(), requests).load()
    both = compute(0, images)
    assert both.keys() == {"prediction", "confidence", "feature"}
    assert set(both["prediction"].ravel()) == {0, 2}
    assert (both["feature"].shape, both["feature"].dtype) == ((4, 512), np.float32)
    for number, num_columns in ((1, 2), (2, 1)):
        alone = compute(number, images)
        assert len(alone) == num_columns
        for name, column in alone.items():
            np.testing.assert_allclose(column, both[name], rtol=1e-5)


@pytest.mark.parametrize("kinds", [("guesses",), ("features",), KINDS])
def test_nan_and_infinite_outputs_are_refused(kinds: Kinds):
    checkpoint = untrained_checkpoint()
    checkpoint["state_dict"]["network.conv1.weight"].fill_(torch.nan)
    compute = Network(partial(build_classifier, checkpoint), EvaluationConfig(), [Request(kinds)]).load()
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        compute(0, np.zeros((1, 32, 32, 3), dtype=np.uint8))
