"""Class maps and tokens: what only some architectures show."""

import copy
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from distillers import models
from distillers.distillation.build import distil
from distillers.errors import InputError
from distillers.features.classifier import has_class_maps
from distillers.features.extractor import FeatureExtractor
from distillers.features.infer import find_taps, infer_taps
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace
from distillers.losses import wiring
from tests.nets import Declared, Small, make_batch

SIZE = 32


def vit(**changes: Any) -> nn.Module:
    """A small vision transformer with random class tokens and normalizations."""
    torch.manual_seed(0)
    options = {"img_size": SIZE, "patch_size": 8, "embed_dim": 12, "num_heads": 2, "depth": 3}
    kind = changes.pop("kind", timm.models.vision_transformer.VisionTransformer)
    net = kind(**(options | {"num_classes": 5} | changes))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def distilled(**changes: Any) -> nn.Module:
    return vit(kind=timm.models.deit.VisionTransformerDistilled, **changes)


def images(size: int = SIZE) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


SHOWING = {
    "zoo": lambda: models.create("resnet8", 5, SIZE),
    "map before the last stage": lambda: models.create("wrn_16_2", 5, SIZE),
    "declared": Declared,
    "found by rule": Small,
    "torchvision": lambda: models.create("torchvision:resnet18", 5, SIZE),
    "channels last": lambda: models.create("timm:swin_tiny_patch4_window7_224", 5, 64),
    "1x1 convolution after pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 5, 1), nn.Flatten()
    ),
    "no bias": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5, bias=False)
    ),
    "tokens": lambda: vit(class_token=False, global_pool="avg", fc_norm=False),
    "wrapped": lambda: nn.Sequential(nn.Identity(), models.create("vgg8", 5, SIZE)),
}


@pytest.mark.parametrize("name", SHOWING)
def test_the_mean_of_the_class_maps_and_the_bias_are_the_logits(name):
    torch.manual_seed(0)
    net = SHOWING[name]().eval()
    x = images(64 if name == "channels last" else SIZE)
    trace = ForwardTrace(net, x)
    taps = infer_taps(trace)
    assert has_class_maps(trace, taps)
    read = FeatureExtractor(net, taps, ("class_maps", "logits", "pooled"))(x)
    bias = getattr(net.get_submodule(taps.head), "bias", None)
    found = read["class_maps"].mean((2, 3)) + (0 if bias is None else bias)
    torch.testing.assert_close(found, read["logits"], rtol=1e-4, atol=1e-5)
    traced = trace.read(taps, ("class_maps",))["class_maps"]
    torch.testing.assert_close(traced, read["class_maps"], rtol=1e-4, atol=1e-5)


def test_gradient_of_the_class_maps_reaches_the_weight_of_the_classifier_alone_at_its_place():
    torch.manual_seed(0)
    net, x = Small(), images(8)
    taps = find_taps(net, x)
    maps = FeatureExtractor(net, taps, ("class_maps",))(x)["class_maps"]
    (maps.square()).sum().backward()
    final = FeatureExtractor(net, taps, ("final",))(x)["final"]
    weight = net.fc.weight.detach().clone().requires_grad_()
    torch.einsum("ndhw,kd->nkhw", final.detach(), weight).square().sum().backward()
    torch.testing.assert_close(net.fc.weight.grad, weight.grad)
    assert net.fc.bias.grad.abs().max() < 1e-4 * net.fc.weight.grad.abs().max()


class Cosine(Small):
    """A classifier that is not linear in the embedding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.pool(self.stage2(self.stage1(self.stem(x)))).flatten(1)
        return self.fc(nn.functional.normalize(pooled))


REFUSED = {
    "a class token": vit,
    "a normalization after pooling": lambda: vit(class_token=False, global_pool="avg"),
    "two classifiers": distilled,
    "a layer after pooling": lambda: models.create("timm:mobilenetv3_small_050", 5, SIZE),
    "a flattened map": lambda: nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(64, 5)),
    "a normalized embedding": Cosine,
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("loss", ["sdd", "catkd"])
def test_class_maps_without_a_linear_classifier_behind_pooling_are_refused(name, loss):
    torch.manual_seed(0)
    other, net = models.create("resnet8", 5, SIZE), REFUSED[name]()
    for side, pair in (("student", (net, other)), ("teacher", (other, net))):
        with pytest.raises(
            InputError, match=f"{loss.upper()} reads {side}_class_maps.*{side} "
        ) as e:
            distil(*pair, {loss: 1.0}, images=images())
        assert type(net).__name__ in str(e.value)


def test_a_declared_map_that_is_not_the_pooled_one_is_refused():
    taps = Taps(maps=("stage1", "stage2"), head="fc", final="stage2")  # `late` is pooled
    assert not has_class_maps(ForwardTrace(Small(), images(8)), taps)


TOKENS = {
    "class token": (vit, 0, "norm"),
    "none": (lambda: vit(class_token=False, global_pool="avg", fc_norm=False), 0, "norm"),
    "normalized after pooling": (lambda: vit(class_token=False, global_pool="avg"), 0, ""),
    "registers": (lambda: vit(reg_tokens=4), 0, "norm"),
    "registers without class": (
        lambda: vit(reg_tokens=4, class_token=False, global_pool="avg", fc_norm=False),
        0,
        "norm",
    ),
    "distilled": (distilled, 0, "norm"),
    "wrapped": (lambda: nn.Sequential(nn.Identity(), vit(reg_tokens=1)), 1, "norm"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_are_those_that_timm_shows_and_the_last_ones_are_normalized(name):
    build, place, norm = TOKENS[name]
    net, x = build(), images()
    read = FeatureExtractor(net, find_taps(net, x), ("tokens",))(x)["tokens"]
    inner = net[place] if isinstance(net, nn.Sequential) else net
    shown = inner.forward_intermediates(x, intermediates_only=True, output_fmt="NLC", norm=False)
    ends = inner.forward_intermediates(x, intermediates_only=True, output_fmt="NLC", norm=True)
    expected = [*shown[:-1], ends[-1] if norm else shown[-1]]
    assert [tuple(each.shape) for each in read] == [(2, 16, 12)] * 3
    torch.testing.assert_close(read, expected)


def test_tokens_of_the_transformer_of_torchvision():
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(SIZE, 8, 3, 2, 12, 24, num_classes=5).eval()
    taps = find_taps(net, images())
    blocks = tuple(f"encoder.layers.encoder_layer_{i}" for i in (0, 1))
    assert taps.tokens == (*blocks, "encoder.ln")
    read = FeatureExtractor(net, taps, ("tokens",))(images())["tokens"]
    assert [tuple(each.shape) for each in read] == [(2, 16, 12)] * 3


def test_blocks_for_the_class_token_alone_are_not_among_them():
    torch.manual_seed(0)
    net = timm.models.cait.Cait(
        img_size=SIZE, patch_size=8, embed_dim=12, depth=3, num_heads=2, num_classes=5
    )
    assert find_taps(net, images()).tokens == ("blocks.0", "blocks.1", "norm")


NO_TOKENS = {
    "cnn": lambda: models.create("resnet8", 5, SIZE),
    "stages": lambda: models.create("timm:swin_tiny_patch4_window7_224", 5, 64),
    "one block": lambda: vit(depth=1),
}


@pytest.mark.parametrize("name", NO_TOKENS)
def test_tokens_of_other_networks_are_refused_by_name(name):
    torch.manual_seed(0)
    net, x = NO_TOKENS[name](), images(64 if name == "stages" else SIZE)
    other = vit(img_size=x.shape[2])
    for side, pair in (("student", (net, other)), ("teacher", (other, net))):
        wanted = f"ViTKD reads {side}_tokens.*{side} {type(net).__name__}"
        with pytest.raises(InputError, match=wanted):
            distil(*pair, {"vitkd": 1.0}, images=x)


def test_token_grids_that_cannot_be_compared_are_refused_before_the_training():
    pair = vit(), vit(patch_size=16)
    with pytest.raises(InputError, match=r"ViTKD .* student has 16 and the teacher 4"):
        distil(*pair, {"ce": 1.0, "vitkd": 1.0}, images=images())


@pytest.mark.parametrize("weights", [{"ce": 0.1, "sdd": 0.9}, {"ce": 1.0, "sdd": 1.0, "at": 1.0}])
def test_sdd_beside_losses_on_other_things_is_taken(weights):
    task = distil(Declared(), Declared(6), weights, images=images(8))
    task(make_batch()).loss.backward()


def test_a_student_of_catkd_has_no_bias_from_the_first_step_on():
    torch.manual_seed(0)
    student, batch = Declared(), make_batch()
    without = (student.train()(batch.images) - student.fc.bias).detach()
    task = distil(student, Declared(6), {"ce": 1.0, "catkd": 1.0}, images=batch.images)
    task.train()
    torch.testing.assert_close(student(batch.images).detach(), without)
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], 0.1)
    before = copy.deepcopy(student.state_dict())
    for _ in range(2):
        optimizer.zero_grad()
        task(batch).loss.backward()
        optimizer.step()
    assert not task.deployed().fc.bias.any()
    assert not torch.equal(student.fc.weight, before["fc.weight"])
    reader = FeatureExtractor(task.deployed().eval(), task.student_taps, ("class_maps", "logits"))
    read = reader(batch.images)
    torch.testing.assert_close(read["class_maps"].mean((2, 3)), read["logits"])


def test_a_student_of_catkd_may_keep_its_bias():
    torch.manual_seed(0)
    student, batch = Declared(), make_batch()
    bias = student.fc.bias.detach().clone()
    options = {"catkd": {"bias": True}}
    task = distil(
        student, Declared(6), {"ce": 1.0, "catkd": 1.0}, images=batch.images, options=options
    )
    assert torch.equal(task.deployed().fc.bias, bias)
    task(batch).loss.backward()
    assert student.fc.bias.grad.any()


def test_catkd_alone_trains_the_classifier():
    batch = make_batch()
    task = distil(Declared(), Declared(6), {"catkd": 1.0}, images=batch.images)
    assert task.trains_classifier
    task(batch).loss.backward()
    assert task.student.fc.weight.grad.any()


def test_options_and_names_are_known():
    for side in ("student", "teacher"):
        assert {f"{side}_class_maps", f"{side}_tokens"} <= {
            *wiring.FROM_STUDENT,
            *wiring.FROM_TEACHER,
        }
