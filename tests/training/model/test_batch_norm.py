import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed
from timm.layers.norm_act import BatchNormAct2d

from tests.support.s3 import free_port
from training.model.batch_norm import synchronized


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4, affine=False),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3),
        BatchNormAct2d(4),
        torch.nn.Flatten(),
    )


def learn(normalised: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradient of each parameter for a sum of squares, and the running statistics."""
    (normalised(images) ** 2).sum().backward()
    gradients = [parameter.grad for parameter in normalised.parameters() if parameter.grad is not None]
    return [*gradients, *(buffer.clone() for buffer in normalised.buffers())]


def work(rank: int, port: int, images: torch.Tensor, answers: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    mine = images[:5] if rank == 0 else images[5:]  # unequal shares
    answers.put((rank, [tensor.numpy() for tensor in learn(synchronized(network(), on_gpu=False), mine)]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_workers_normalize_and_learn_like_one():
    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 3 + 5
    expected = learn(network(), images)
    context = multiprocessing.get_context("spawn")
    answers, port = context.Queue(), free_port()
    start: Callable[[int], Any] = lambda rank: context.Process(target=work, args=(rank, port, images, answers))  # noqa: E731
    workers = [start(rank) for rank in range(2)]
    for worker in workers:
        worker.start()
    (_, first), (_, second) = sorted(answers.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    num_gradients = len(list(network().parameters()))
    for place, whole in enumerate(expected):
        if place < num_gradients:
            torch.testing.assert_close(torch.from_numpy(first[place] + second[place]), whole, rtol=1e-4, atol=1e-4)
        else:
            torch.testing.assert_close(torch.from_numpy(first[place]), whole)
            torch.testing.assert_close(torch.from_numpy(second[place]), whole)


class Halving(torch.nn.BatchNorm2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) / 2


def test_custom_batch_norm_is_rejected_except_timms():
    with pytest.raises(ValueError, match=r"has a Halving layer, which cannot be synchronized.*num_workers=1"):
        synchronized(torch.nn.Sequential(Halving(4)), on_gpu=False)
    layer = synchronized(BatchNormAct2d(4), on_gpu=False).eval()
    assert layer(torch.full((1, 4, 1, 1), -1.0)).tolist() == BatchNormAct2d(4).eval()(-torch.ones(1, 4, 1, 1)).tolist()


def test_eval_mode_uses_running_statistics():
    images = torch.randn(4, 3, 6, 6)
    plain, ours = network().eval(), synchronized(network(), on_gpu=False).eval()
    torch.testing.assert_close(ours(images), plain(images), rtol=0, atol=0)
    assert ours.state_dict().keys() == plain.state_dict().keys()
