import copy
import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed
from timm.layers.norm_act import BatchNormAct2d
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tests.support.s3 import free_port
from tests.training.model.test_batch_norm import network as network_of_both_kinds
from training.model.batch_norm import synchronized
from training.model.domains import DomainNorm, Domains, split_by_domain
from training.model.network import build_network, parameter_groups

MIXED = torch.tensor([True, False, True, False])
ROWS = torch.tensor([[1.0], [30.0], [3.0], [10.0]])  # real: mean 2, deviation 1; synthetic: mean 20, deviation 10
NORMALISED = [[-1.0], [1.0], [1.0], [-1.0]]


def layer() -> tuple[DomainNorm, Domains]:
    domains = Domains()
    return DomainNorm(torch.nn.BatchNorm1d(1, eps=1e-12, momentum=0.5), domains), domains


def statistics(norm: DomainNorm) -> list[list[float]]:
    """Return mean, variance and number of batches of the real rows, then of the synthetic rows."""
    return [[buffer.item() for buffer in part.buffers()] for part in (norm.real, norm.synthetic)]


def test_domains_are_normalized_separately_in_row_order():
    norm, domains = layer()
    torch.testing.assert_close(domains.forward(norm, ROWS, MIXED), torch.tensor(NORMALISED))
    # Half of the first values 0 and 1, and half of the unbiased variances 2 and 200.
    assert statistics(norm) == [[1.0, 1.5, 1], [10.0, 100.5, 1]]


def test_sorted_rows_are_normalized_the_same():
    norm, domains = layer()
    normalised = domains.forward(norm, ROWS[[0, 2, 1, 3]], torch.tensor([True, True, False, False]))
    torch.testing.assert_close(normalised, torch.tensor(NORMALISED)[[0, 2, 1, 3]])
    assert statistics(norm) == [[1.0, 1.5, 1], [10.0, 100.5, 1]]


def test_without_domains_all_rows_are_real():
    norm, domains = layer()
    torch.testing.assert_close(norm(ROWS[[0, 2]]), torch.tensor([[-1.0], [1.0]]))
    assert domains.counts is None
    assert statistics(norm) == [[1.0, 1.5, 1], [0.0, 1.0, 0]]


def test_missing_domain_keeps_its_statistics():
    norm, domains = layer()
    normalised = domains.forward(norm, ROWS[[1, 3]], torch.tensor([False, False]))
    torch.testing.assert_close(normalised, torch.tensor([[1.0], [-1.0]]))
    assert statistics(norm) == [[0.0, 1.0, 0], [10.0, 100.5, 1]]


def test_evaluation_uses_statistics_of_real_images():
    norm, domains = layer()
    domains.forward(norm, ROWS, MIXED)
    norm.real.running_var = torch.tensor([4.0])
    torch.testing.assert_close(norm.eval()(torch.tensor([[5.0]])), torch.tensor([[2.0]]))  # (5 - 1) / 2


def test_domains_are_reset_after_error():
    norm, domains = layer()
    with pytest.raises(ValueError, match=r"got 8 rows for a batch of 4: .*patches as rows"):
        domains.forward(lambda rows: norm(rows.repeat(2, 1)), ROWS, MIXED)
    assert domains.counts is None


def test_shared_parameters_learn_from_both_domains():
    norm, domains = layer()
    rows, signal = ROWS.clone().requires_grad_(), torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    (domains.forward(norm, rows, MIXED) * signal).sum().backward()
    assert norm.real.weight is norm.synthetic.weight
    assert norm.real.bias is norm.synthetic.bias
    torch.testing.assert_close(norm.real.weight.grad, torch.tensor([-1.0]))  # -1 + 2 + 3 - 5
    torch.testing.assert_close(norm.real.bias.grad, torch.tensor([11.0]))


@pytest.mark.parametrize("mask", [[1, 0, 0, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0, 0]])
def test_gradients_match_two_batch_norms(mask: list[int]):
    is_real = torch.tensor(mask).bool()
    images, signal = torch.randn(2, 7, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    apart, domains = images.clone().requires_grad_(), Domains()
    norm = DomainNorm(torch.nn.BatchNorm2d(3), domains)
    (domains.forward(norm, apart, is_real) * signal).sum().backward()
    for rows in (is_real, ~is_real):
        alone = images[rows].requires_grad_()
        (torch.nn.BatchNorm2d(3)(alone) * signal[rows]).sum().backward()
        torch.testing.assert_close(apart.grad[rows], alone.grad)  # pyright: ignore[reportOptionalSubscript]


def test_timm_layer_keeps_activation_and_attributes():
    network = torch.nn.Sequential(BatchNormAct2d(1, eps=1e-12))
    domains, norm = split_by_domain(network), network[0]
    activated = domains.forward(network, ROWS.view(4, 1, 1, 1), MIXED)
    torch.testing.assert_close(activated.flatten(), torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert isinstance(norm.act, torch.nn.ReLU)
    assert norm.num_features == 1
    assert not hasattr(norm, "no_such_thing")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_format_and_dtype_are_preserved(dtype: torch.dtype):
    images = torch.randn(4, 3, 5, 5).to(dtype, memory_format=torch.channels_last).requires_grad_()
    domains, gradients = Domains(), []
    norm = DomainNorm(torch.nn.BatchNorm2d(3), domains)
    norm.register_full_backward_hook(lambda _, inputs, __: gradients.append(inputs[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        output = domains.forward(norm, images, MIXED)
    output.backward(torch.randn_like(output))
    for tensor in (output, *gradients):
        assert tensor.dtype == dtype
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert len(gradients) == 1


@pytest.mark.parametrize("name", ["resnet18", "timm/test_efficientnet"])
def test_networks_do_not_mix_domains(name: str):
    torch.manual_seed(0)
    network = build_network(name, 3, "linear", temperature=0.1)
    alone = copy.deepcopy(network)
    domains = split_by_domain(network)
    images = torch.randn(7, 3, 32, 32)
    is_real = torch.tensor([False, True, True, False, True, False, True])
    logits = domains.forward(network, images, is_real)
    torch.testing.assert_close(logits[is_real], alone(images[is_real]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits[~is_real], alone(images[~is_real]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "timm/test_efficientnet"])
def test_optimizer_has_each_parameter_once(name: str):
    network = build_network(name, 3, "linear", temperature=0.1)
    before = [len(group["params"]) for group in parameter_groups(network, weight_decay=1e-4)]
    split_by_domain(network)
    groups = parameter_groups(network, weight_decay=1e-4)
    assert [len(group["params"]) for group in groups] == before
    torch.optim.SGD(groups, lr=0.1)  # SGD rejects duplicate parameters


def test_state_dict_restores_weights_and_both_statistics():
    torch.manual_seed(0)
    trained, loaded = (build_network("resnet18", 3, "linear", temperature=0.1) for _ in range(2))
    domains, images = split_by_domain(trained), torch.randn(4, 3, 64, 64)
    split_by_domain(loaded)
    domains.forward(trained, images, MIXED).sum().backward()
    torch.optim.SGD(trained.parameters(), lr=0.001).step()
    loaded.load_state_dict(trained.state_dict())
    torch.testing.assert_close(loaded.eval()(images), trained.eval()(images), rtol=0, atol=0)
    assert torch.equal(loaded.bn1.synthetic.running_mean, trained.bn1.synthetic.running_mean)  # pyright: ignore
    assert not torch.equal(loaded.bn1.synthetic.running_mean, loaded.bn1.real.running_mean)  # pyright: ignore


def test_copy_has_own_shared_parameters_and_domains():
    norm, _ = layer()
    twin = copy.deepcopy(norm)
    assert twin.real.weight is twin.synthetic.weight
    assert twin.real.weight is not norm.real.weight
    assert twin.domains is not norm.domains


def test_layer_used_twice_stays_one():
    norm = torch.nn.BatchNorm1d(1)
    network = torch.nn.Sequential(norm, torch.nn.Sequential(norm))
    split_by_domain(network)
    assert isinstance(network[0], DomainNorm)
    assert network[0] is network[1][0]  # pyright: ignore[reportIndexIssue]


def test_network_without_batch_norm_is_rejected():
    with pytest.raises(ValueError, match=r"has no batch normalization.*such as resnet50"):
        split_by_domain(torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.LayerNorm(1)))


def small_network() -> tuple[torch.nn.Module, Domains]:
    network = network_of_both_kinds()
    return network, split_by_domain(network)


def test_torch_sync_batch_norm_keeps_parameters_shared():
    network, _ = small_network()
    num_parameters = len(list(network.parameters()))
    network = synchronized(network, on_gpu=True)
    parts = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    assert [isinstance(part, torch.nn.SyncBatchNorm) for part in parts] == [True] * 4
    assert len(list(network.parameters())) == num_parameters
    assert parts[2].weight is parts[3].weight
    assert parts[2].bias is parts[3].bias
    assert parts[2].running_mean is not parts[3].running_mean


def learn(network: torch.nn.Module, domains: Domains, images: torch.Tensor, is_real: torch.Tensor) -> list[Any]:
    """Return gradients for sums of squares in two steps, the second with synthetic rows only, and all buffers."""
    for rows in (torch.ones_like(is_real), ~is_real):
        (domains.forward(network, images[rows], is_real[rows]) ** 2).sum().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return [tensor.numpy() for tensor in [*gradients, *network.buffers()]]


IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 3 + 5
IS_REAL = torch.tensor([True, False, False, True, False, True, True, False])  # two of each in both halves


def work(rank: int, port: int, answers: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    network, domains = small_network()
    parallel = DistributedDataParallel(synchronized(network, on_gpu=False))
    mine = slice(4 * rank, 4 * rank + 4)
    answers.put((rank, learn(parallel, domains, IMAGES[mine], IS_REAL[mine])))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.nightly
def test_two_workers_with_domains_learn_like_one():
    network, domains = small_network()
    num_gradients = len(list(network.parameters()))
    expected = learn(network, domains, IMAGES, IS_REAL)
    context = multiprocessing.get_context("spawn")
    answers, port = context.Queue(), free_port()
    start: Callable[[int], Any] = lambda rank: context.Process(target=work, args=(rank, port, answers))  # noqa: E731
    workers = [start(rank) for rank in range(2)]
    for worker in workers:
        worker.start()
    both = [answers.get(timeout=120)[1] for _ in workers]
    for worker in workers:
        worker.join()
    for learned in both:
        assert len(learned) == len(expected)
        for place, whole in enumerate(torch.as_tensor(each) for each in expected):
            same = whole / 2 if place < num_gradients else whole  # gradients are means over workers
            torch.testing.assert_close(torch.as_tensor(learned[place]), same, rtol=1e-4, atol=1e-4)
