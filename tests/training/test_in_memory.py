"""Training in one process on images in memory."""

import numpy as np
import torch

from generation.digits.real_digits import evaluation_digits, training_digits
from training.config import TrainingConfig
from training.in_memory import batches, train_in_memory

CONFIG = TrainingConfig(
    architecture="timm/test_resnet",
    num_images=96,
    num_epochs=1,
    global_batch_size=16,
    base_learning_rate=0.4,
    augmentation="none",
    gpus_per_worker=0,
)


def test_each_pass_has_every_image_once():
    labels = np.arange(40)
    found = list(batches(np.zeros((40, 8, 8, 3), dtype=np.uint8), labels, CONFIG))
    assert [len(batch["label"]) for batch in found] == [16] * 6
    taken = torch.cat([batch["label"] for batch in found]).numpy()
    assert sorted(taken[:40]) == sorted(taken[40:80]) == list(range(40))
    assert taken[:40].tolist() != taken[40:80].tolist()
    assert torch.cat([batch["use"] for batch in found]).tolist() == [0] * 40 + [1] * 40 + [2] * 16
    assert len(list(batches(np.zeros((500, 8, 8, 3), dtype=np.uint8), np.arange(500), CONFIG))) == 6


def test_classifier_learns_and_is_reproducible():
    images, labels = training_digits()
    config = TrainingConfig(**{**CONFIG.__dict__, "num_images": 1920, "global_batch_size": 32})
    first, second = (train_in_memory(images[:300], labels[:300], config, 10) for _ in range(2))
    real_images, real_labels = evaluation_digits()
    with torch.inference_mode():
        logits = first(torch.from_numpy(real_images))
        assert torch.equal(logits, second(torch.from_numpy(real_images)))
    assert np.mean(logits.argmax(dim=1).numpy() == real_labels) > 0.7
    assert not first.training
