import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generation.random_streams import draws
from generation.sample import NO_LABEL
from training.checkpoint import read_checkpoint
from training.config import TrainingConfig
from training.model.classifier import Classifier, NonFiniteLossError, load_classifier, scores_as_weights, top1_of

RESNET18 = TrainingConfig(architecture="resnet18", num_images=64, num_epochs=1, global_batch_size=8, gpus_per_worker=0)


def batch(value: int = 0) -> dict[str, torch.Tensor]:
    images = torch.full((2, 32, 32, 3), value, dtype=torch.uint8)
    return {
        "serial": torch.tensor([41, 42]),
        "use": torch.tensor([0, 2]),
        "is_real": torch.tensor([False, False]),
        "extent": torch.tensor([[32, 32], [32, 32]]),
        "label": torch.tensor([0, 1]),
        "image": images,
    }


def test_nan_loss_names_step_and_samples():
    classifier = Classifier(RESNET18, num_classes=2, image_size=32)
    with torch.no_grad():
        next(classifier.network.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"nan at step 0, on samples \[41, 42\]"):
        classifier.training_step(batch(), 0)


class Means(torch.nn.Module):
    """Two logits of an image: its mean, and 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([mean, torch.zeros_like(mean)], dim=1)


def test_loss_is_mean_over_all_crops():
    config = dataclasses.replace(RESNET18, augmentation="multi_crop", num_local_crops=3, local_crop_size=16)
    classifier = Classifier(config, num_classes=2, image_size=32)
    classifier.network = Means()
    samples = batch() | {"image": torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)}
    loss = classifier.training_step(samples, 0)
    numbers = draws(config.seed, np.array([41, 42]), np.array([0, 2]), classifier.augment.num_draws)
    crops = classifier.augment(samples["image"], numbers)
    assert [len(each) for each in crops] == [2, 6]
    logits = torch.cat([Means()(classifier.normalize(each)) for each in crops])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1] * 4))
    torch.testing.assert_close(loss, expected)


def test_scores_become_weights_of_mean_one():
    scores, labels = torch.tensor([0.2, 0.6, 0.9]), torch.tensor([0, 1, NO_LABEL])
    torch.testing.assert_close(scores_as_weights(scores, labels != NO_LABEL), torch.tensor([0.5, 1.5, 0.0]))
    assert scores_as_weights(torch.zeros(3), labels != NO_LABEL).tolist() == [0, 0, 0]


def losses(**settings: Any) -> float:
    """Return the loss of two crops of two images with labels 0 and 1 and logits (0, 0) and (ln 3, 0)."""
    classifier = Classifier(dataclasses.replace(RESNET18, **settings), num_classes=2, image_size=32)
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]).repeat(2, 1)
    columns = {
        "label": torch.tensor([0, 1]),
        "score": torch.tensor([0.2, 0.6]),
        "soft_label": torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float16),
    }
    return classifier._loss_of(logits, columns).item() / 2


def test_scores_weight_each_images_loss():
    of_first, of_second = math.log(2), math.log(4)  # probabilities 1/2 and 1/4
    assert losses() == pytest.approx((of_first + of_second) / 2)
    assert losses(weight_by_score=True) == pytest.approx((0.5 * of_first + 1.5 * of_second) / 2)


def test_soft_labels_add_their_own_term():
    soft = (math.log(2) + math.log(4 / 3)) / 2  # (1/2, 1/2) of (1/2, 1/2), and (1, 0) of (3/4, 1/4)
    assert losses(soft_labels=0.1) == pytest.approx((math.log(2) + math.log(4)) / 2 + 0.1 * soft)


def test_excluded_sample_has_no_loss():
    classifier = Classifier(RESNET18, num_classes=2, image_size=32)
    classifier.network = Means()
    logits = Means()(torch.randn(2, 3, 32, 32))
    alone = classifier._loss_of(logits[:1], {"label": torch.tensor([0])})
    torch.testing.assert_close(classifier._loss_of(logits, {"label": torch.tensor([0, NO_LABEL])}), alone / 2)
    assert classifier._loss_of(logits, {"label": torch.tensor([NO_LABEL] * 2)}) == 0
    scored = {"label": torch.tensor([0, NO_LABEL]), "score": torch.tensor([0.3, 0.0])}
    weighing = Classifier(dataclasses.replace(RESNET18, weight_by_score=True), num_classes=2, image_size=32)
    torch.testing.assert_close(weighing._loss_of(logits, scored), alone / 2)
    classifier.held_out_top1.update(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, NO_LABEL]))
    assert classifier.held_out_top1.compute() == 1


def test_training_accuracy_uses_first_crops_of_included_samples():
    logits = torch.tensor(
        [[2.0, 1.0], [3.0, 0.0], [0.0, 1.0], [0.0, 9.0], [0.0, 9.0], [0.0, 9.0]]
    )  # two crops of three
    assert top1_of(logits, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)
    assert top1_of(logits, torch.tensor([0, 1, NO_LABEL])) == 0.5
    assert top1_of(logits, torch.tensor([NO_LABEL] * 3)) == 0


def test_step_logs_learning_rate_and_gradient_norm(monkeypatch: pytest.MonkeyPatch):
    config = dataclasses.replace(RESNET18, num_images=2560, num_epochs=1, global_batch_size=128, base_learning_rate=0.2)
    classifier, logged = Classifier(config, num_classes=2, image_size=32), dict[str, float]()
    monkeypatch.setattr(classifier, "log", lambda name, value: logged.update({name: float(value)}))
    optimisation = classifier.configure_optimizers()
    for parameter, value in zip(classifier.network.parameters(), (3.0, 4.0), strict=False):
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad.view(-1)[0] = value
    classifier.on_before_optimizer_step(optimisation["optimizer"])
    assert logged == pytest.approx({"train/gradient_norm": 5.0, "train/learning_rate": 0.05})  # half of 0.2 * 128 / 256


def test_held_out_loss_excludes_unlabeled_samples():
    classifier = Classifier(RESNET18, num_classes=2, image_size=32)
    classifier.network = Constant()
    for labels in ([0, 0, 1], [1, NO_LABEL]):
        images = torch.zeros(len(labels), 32, 32, 3, dtype=torch.uint8)
        classifier.validation_step({"image": images, "label": torch.tensor(labels)}, 0)
    likely, unlikely = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))  # logits are 1 and 0
    assert float(classifier.held_out_loss.compute()) == pytest.approx((2 * likely + 2 * unlikely) / 4, rel=1e-6)


class Constant(torch.nn.Module):
    """Logits 1 and 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]]).repeat(len(images), 1)


def test_checkpoint_restores_classifier(tmp_path: Path):
    classifier = Classifier(RESNET18, num_classes=2, image_size=32).eval()
    checkpoint = {"state_dict": classifier.state_dict(), "recipe": {}, "run": {}}
    classifier.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "checkpoint.ckpt")
    again = load_classifier(read_checkpoint(tmp_path / "checkpoint.ckpt"))
    assert again.config == RESNET18
    torch.testing.assert_close(again(batch(100)["image"]), classifier(batch(100)["image"]), rtol=0, atol=0)


def test_missing_damaged_and_foreign_checkpoints_have_own_errors(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no such file"):
        read_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(tmp_path / "cut.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"not written by ray_jobs\.train"):
        read_checkpoint(tmp_path / "foreign.ckpt")
