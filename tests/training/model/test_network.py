import pytest
import torch

from training.model.network import (
    CosineHead,
    build_network,
    check_architecture,
    check_features,
    check_sizes,
    features_and_logits,
    parameter_groups,
)


def test_a_cosine_head_sees_directions_alone():
    head = CosineHead(2, 2, temperature=0.1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[5.0, 0.0], [3.0, 4.0]]))
    expected = torch.tensor([[10.0, 6.0], [0.0, 8.0]])  # cosines 1, 0.6, 0 and 0.8, over 0.1
    torch.testing.assert_close(head(torch.tensor([[0.2, 0.0], [0.0, 70.0]])), expected)


def test_a_step_turns_the_classes_of_a_cosine_head_as_far_as_those_of_a_linear_layer():
    torch.manual_seed(0)
    features, labels = torch.randn(64, 2048), torch.arange(64) % 8
    angles = []
    for head in (CosineHead(2048, 8, temperature=0.1), CosineHead(2048, 8, temperature=0.1)):
        if angles:  # as torch.randn starts, 78 times as long
            head.weight = torch.nn.Parameter(torch.nn.functional.normalize(head.weight.detach(), dim=1) * 2048**0.5)
        before = head.weight.detach().clone()
        torch.nn.functional.cross_entropy(head(features), labels).backward()
        torch.optim.SGD(head.parameters(), lr=0.1).step()
        cosines = torch.nn.functional.cosine_similarity(before, head.weight.detach())
        angles.append(float(cosines.clamp(-1, 1).arccos().rad2deg().mean()))
    lengths = CosineHead(2048, 8, temperature=0.1).weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((8,), 3**-0.5), atol=0.02, rtol=0)  # variance 1 / (3 x 2048) each
    assert angles[0] > 0.5
    assert angles[1] < angles[0] / 1000


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "timm/resnet10t", "vit_tiny_patch16_224"])
def test_either_head_gives_a_logit_for_each_class(name: str):
    images = torch.zeros(2, 3, 224, 224)
    for head in ("linear", "cosine"):
        network = build_network(name, 7, head, temperature=0.1).eval()
        assert network(images).shape == (2, 7)
    cosine_heads = [module for module in network.modules() if isinstance(module, CosineHead)]
    assert len(cosine_heads) == 1


def test_a_network_without_a_linear_end_cannot_have_a_cosine_head():
    with pytest.raises(ValueError, match=r"SqueezeNet does not end in a linear layer, .* Use another architecture"):
        build_network("squeezenet1_1", 7, "cosine", temperature=0.1)


class TwoTokens(torch.nn.Module):
    """Has two tokens, of one pixel and of the next, and a last layer for each."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.head_dist = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.head(images[:, :, 0, 0]) + self.head_dist(images[:, :, 0, 1])) / 2


def test_features_of_a_distilled_network_are_the_mean_of_what_both_its_heads_see():
    images = torch.tensor([[[[1.0, 3.0]], [[0.0, 8.0]], [[-2.0, 2.0]]]])
    features, logits = features_and_logits(TwoTokens(), 2, images)
    torch.testing.assert_close(features, torch.tensor([[2.0, 4.0, 0.0]]))
    assert logits.shape == (1, 2)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s", "repvit_m0_9"])
def test_a_cosine_head_does_not_take_the_place_of_one_of_two(name: str):
    check_features(name)
    with torch.device("meta"), pytest.raises(ValueError, match=r"averages two linear layers, .* Use another arch"):
        build_network(name, 7, "cosine", temperature=0.1)


def test_features_of_a_distilled_network_are_timms():
    network = build_network("deit_tiny_distilled_patch16_224", 7, "linear", temperature=0.1).eval()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features, _ = features_and_logits(network, 7, images)
        timms = network.forward_head(network.forward_features(images), pre_logits=True)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(features, timms)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_with_auxiliary_outputs_trains_on_its_main_one(name: str):
    network = build_network(name, 7, "linear", temperature=0.1).train()
    network(torch.randn(2, 3, 75, 75)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_images_of_a_size_that_a_network_does_not_take_are_refused():
    check_sizes("resnet50", {8})
    check_sizes("inception_v3", {75, 299})
    with pytest.raises(
        ValueError, match=r"'inception_v3' does not accept images of 64 px: .*size.*\. Use another one,"
    ):
        check_sizes("inception_v3", {64, 299})
    with pytest.raises(ValueError, match=r"'vit_b_16' does not accept images of 96 px: Wrong image height"):
        check_sizes("vit_b_16", {224, 96})


def test_an_architecture_that_nobody_has_is_told_with_what_is_near():
    check_architecture("resnet50")
    check_architecture("convnext_tiny")
    check_architecture("timm/resnet50")
    with pytest.raises(ValueError, match=r"'resnet51', which neither torchvision nor timm has\. Similar: .*resnet5"):
        check_architecture("resnet51")


def test_biases_and_normalisation_do_not_decay():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), CosineHead(4, 2, 1)
    )
    weights, others = parameter_groups(network, 1e-4)
    assert [tuple(parameter.shape) for parameter in weights["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert [tuple(parameter.shape) for parameter in others["params"]] == [(4,)] * 3
    assert (weights["weight_decay"], others["weight_decay"]) == (1e-4, 0.0)
