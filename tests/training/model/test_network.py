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


def test_cosine_head_ignores_lengths():
    head = CosineHead(2, 2, temperature=0.1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[5.0, 0.0], [3.0, 4.0]]))
    expected = torch.tensor([[10.0, 6.0], [0.0, 8.0]])  # cosines 1, 0.6, 0 and 0.8, over 0.1
    torch.testing.assert_close(head(torch.tensor([[0.2, 0.0], [0.0, 70.0]])), expected)


def test_cosine_head_initial_length_lets_classes_rotate():
    torch.manual_seed(0)
    features, labels = torch.randn(64, 2048), torch.arange(64) % 8
    angles = []
    for head in (CosineHead(2048, 8, temperature=0.1), CosineHead(2048, 8, temperature=0.1)):
        if angles:  # as torch.randn initializes, 78 times longer
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
def test_each_head_has_a_logit_per_class(name: str):
    images = torch.zeros(2, 3, 224, 224)
    for head in ("linear", "cosine"):
        network = build_network(name, 7, head, temperature=0.1).eval()
        assert network(images).shape == (2, 7)
    cosine_heads = [module for module in network.modules() if isinstance(module, CosineHead)]
    assert len(cosine_heads) == 1


def test_cosine_head_needs_a_linear_last_layer():
    with pytest.raises(ValueError, match=r"SqueezeNet does not end in a linear layer, .* Use another architecture"):
        build_network("squeezenet1_1", 7, "cosine", temperature=0.1)


class TwoTokens(torch.nn.Module):
    """Network with two tokens, one per pixel, and a head for each."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.head_dist = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.head(images[:, :, 0, 0]) + self.head_dist(images[:, :, 0, 1])) / 2


def test_distilled_features_are_mean_of_head_inputs():
    images = torch.tensor([[[[1.0, 3.0]], [[0.0, 8.0]], [[-2.0, 2.0]]]])
    features, logits = features_and_logits(TwoTokens(), 2, images)
    torch.testing.assert_close(features, torch.tensor([[2.0, 4.0, 0.0]]))
    assert logits.shape == (1, 2)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s", "repvit_m0_9"])
def test_cosine_head_is_rejected_for_two_heads(name: str):
    check_features(name)
    with torch.device("meta"), pytest.raises(ValueError, match=r"averages two linear layers, .* Use another arch"):
        build_network(name, 7, "cosine", temperature=0.1)


def test_distilled_features_match_timm():
    network = build_network("deit_tiny_distilled_patch16_224", 7, "linear", temperature=0.1).eval()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features, _ = features_and_logits(network, 7, images)
        timms = network.forward_head(network.forward_features(images), pre_logits=True)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(features, timms)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_outputs_are_disabled(name: str):
    network = build_network(name, 7, "linear", temperature=0.1).train()
    network(torch.randn(2, 3, 75, 75)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_unsupported_image_sizes_are_rejected():
    check_sizes("resnet50", {8})
    check_sizes("inception_v3", {75, 299})
    with pytest.raises(
        ValueError, match=r"'inception_v3' does not accept images of 64 px: .*size.*\. Use another one,"
    ):
        check_sizes("inception_v3", {64, 299})
    with pytest.raises(ValueError, match=r"'vit_b_16' does not accept images of 96 px: Wrong image height"):
        check_sizes("vit_b_16", {224, 96})


def test_unknown_architecture_error_names_similar_ones():
    check_architecture("resnet50")
    check_architecture("convnext_tiny")
    check_architecture("timm/resnet50")
    with pytest.raises(ValueError, match=r"'resnet51', which neither torchvision nor timm has\. Similar: .*resnet5"):
        check_architecture("resnet51")


def test_biases_and_normalization_do_not_decay():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), CosineHead(4, 2, 1)
    )
    weights, others = parameter_groups(network, 1e-4)
    assert [tuple(parameter.shape) for parameter in weights["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert [tuple(parameter.shape) for parameter in others["params"]] == [(4,)] * 3
    assert (weights["weight_decay"], others["weight_decay"]) == (1e-4, 0.0)
