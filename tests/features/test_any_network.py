"""Networks of many families, none of which declares where it is read."""

import json

import pytest
import torch
from torch import Tensor, nn

from distillers import models
from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.distillation.build import distil
from distillers.errors import InputError
from distillers.features.extractor import FeatureExtractor
from distillers.features.infer import find_taps
from distillers.features.taps import KINDS, Taps, with_maps
from distillers.features.trace import ForwardTrace
from distillers.losses import SimKD
from distillers.models import external as elsewhere
from tests.nets import Small, make_batch

CLASSES = 10
SIZE = 64
SMALL_SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}


def build(name: str, size: int = SIZE) -> nn.Module:
    torch.manual_seed(0)
    return elsewhere.create(name, CLASSES, size, pretrained=False).eval()


def images(size: int = SIZE) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


class Tokens(nn.Module):
    """A transformer without attention: a class token before an 8 x 8 grid."""

    def __init__(self, width: int = 6, blocks: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 1)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        rows = (
            nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, width))
            for _ in range(blocks)
        )
        self.blocks = nn.ModuleList(rows)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


@pytest.mark.parametrize(
    ("name", "maps", "final", "preact"),
    [
        ("timm:resnet18", ("layer1", "layer2", "layer3", "layer4"), "layer4", "layer4.1.act2"),
        (
            "timm:mobilenetv3_small_050",
            ("blocks.0", "blocks.1", "blocks.3", "blocks.5"),
            "classifier",
            "blocks.5.0.bn1.act",
        ),
        ("timm:tf_efficientnet_lite0", ("blocks.1", "blocks.2", "blocks.4", "blocks.6"), "bn2", ""),
        ("timm:convnext_atto", ("stages.0", "stages.1", "stages.2", "stages.3"), "head.fc", ""),
        ("timm:regnety_002", ("s1", "s2", "s3", "s4"), "s4", "s4.b7.act3"),
        ("timm:dla46x_c", ("level2", "level3", "level4", "level5"), "level5", "level5.root.relu"),
        (
            "timm:hrnet_w18_small",
            ("layer1", "incre_modules.1", "incre_modules.2", "incre_modules.3"),
            "final_layer",
            "incre_modules.3.0.act3",
        ),
        (
            "torchvision:resnet18",
            ("layer1", "layer2", "layer3", "layer4"),
            "layer4",
            "layer4.1.relu",
        ),
        (
            "torchvision:mobilenet_v2",
            ("features.3", "features.6", "features.13", "features.17"),
            "features.18",
            "",
        ),
        (
            "torchvision:mnasnet0_5",
            ("layers.8.2", "layers.9", "layers.11", "layers.13"),
            "layers.16",
            "",
        ),
        ("torchvision:shufflenet_v2_x0_5", ("stage2", "stage3", "stage4"), "conv5", None),
        (
            "torchvision:densenet121",
            (
                "features.denseblock1",
                "features.denseblock2",
                "features.denseblock3",
                "features.denseblock4",
            ),
            "classifier",
            "",
        ),
        ("torchvision:alexnet", ("features.4", "features.11"), "classifier.6", "features.11"),
        (
            "torchvision:regnet_y_400mf",
            tuple(f"trunk_output.block{i}" for i in (1, 2, 3, 4)),
            "trunk_output.block4",
            "trunk_output.block4.block4-5.activation",
        ),
    ],
)
def test_stages_end_where_their_last_block_does(name, maps, final, preact):
    net, x = build(name), images()
    taps = find_taps(net, x)
    assert (taps.maps, taps.final) == (maps, final)
    assert taps.preacts[-1:] == (() if preact is None else (preact,))
    shapes = ForwardTrace(net, x).shapes(taps)
    assert list(shapes.sizes) == sorted(set(shapes.sizes), reverse=True)
    kinds = [kind for kind in KINDS if kind == "logits" or taps.places(kind)]
    read = FeatureExtractor(net, taps, kinds)(x)
    torch.testing.assert_close(read["final"].mean((2, 3)), read["pooled"])
    for stage, before in zip(read["maps"], read.get("preacts", read["maps"]), strict=True):
        assert stage.shape == before.shape
        assert torch.equal(stage, before) or before.min() < 0
    assert read["stem"].shape[2] >= shapes.sizes[0][0]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_tokens_become_the_maps_that_timm_makes_of_them(name):
    net, x = build(f"timm:{name}"), images()
    taps = find_taps(net, x)
    assert taps.maps == ("blocks.2", "blocks.5", "blocks.8", "blocks.11")
    shown = net.forward_intermediates(x, [2, 5, 8, 11], intermediates_only=True)
    read = FeatureExtractor(net, taps, ("maps", "preacts", "pooled", "final"))(x)
    torch.testing.assert_close(read["maps"], shown)
    torch.testing.assert_close(read["preacts"], shown)
    assert taps.final == taps.head == "head"  # the class token is the mean of no map
    assert torch.equal(read["final"], read["pooled"][:, :, None, None])


def test_channels_last_maps_are_permuted():
    import timm

    torch.manual_seed(0)
    name = "swin_tiny_patch4_window7_224"
    net = timm.create_model(name, img_size=SIZE, num_classes=CLASSES, **SMALL_SWIN).eval()
    taps, x = find_taps(net, images()), images()
    shapes = ForwardTrace(net, x).shapes(taps)
    assert shapes.channels == (16, 32, 64, 128)
    assert shapes.sizes == ((16, 16), (8, 8), (4, 4), (2, 2))
    read = FeatureExtractor(net, taps, ("maps", "final", "pooled"))(x)
    shown = net.forward_intermediates(x, intermediates_only=True, output_fmt="NCHW")
    torch.testing.assert_close(read["maps"], shown)
    assert taps.final == "norm"
    torch.testing.assert_close(read["final"].mean((2, 3)), read["pooled"])


def test_tokens_in_another_order_than_the_image_are_no_maps():
    import timm

    torch.manual_seed(0)
    net = timm.create_model(
        "hiera_tiny_224", img_size=(128, 128), embed_dim=16, stages=(1, 1, 1, 1), num_classes=5
    )
    taps = find_taps(net, images(128))
    assert taps.maps == ()
    assert ForwardTrace(net, images(128)).shapes(taps).channels == ()


def test_a_stage_may_be_a_single_place():
    net, x = build("torchvision:resnet18", 32), images(32)
    taps = find_taps(net, x)
    assert taps.maps == ("layer1", "layer2", "layer3", "layer4")
    assert ForwardTrace(net, x).shapes(taps).sizes == ((8, 8), (4, 4), (2, 2), (1, 1))


def test_a_network_around_another_is_read_inside():
    net = nn.Sequential(build("timm:resnet18"))
    taps = find_taps(net, images())
    assert taps.maps == ("0.layer1", "0.layer2", "0.layer3", "0.layer4")
    assert taps.head == "0.fc"


class Flat(nn.Module):
    """Two layers on pixels: no maps at all."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(192, 7)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x.flatten(1)).relu())


class Functional(Flat):
    """Makes its logits without a module."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.hidden(x.flatten(1)), self.head.weight)


def test_a_network_without_maps_learns_by_what_reads_none():
    net, batch = Flat(), make_batch()
    shapes = ForwardTrace(net, batch.images).shapes(find_taps(net, batch.images))
    assert (shapes.channels, shapes.sizes, shapes.dim) == ((), (), 7)
    task = distil(net, Small(), {"kd": 1.0, "rkd": 1.0, "srrl": 1.0}, images=batch.images)
    task(batch).loss.backward()
    task = distil(Small(), net, {"kd": 1.0, "simkd": 1.0}, images=batch.images)
    task(batch).loss.backward()
    with pytest.raises(
        InputError, match=r"AT reads student_maps, but the student has none.*--taps_s"
    ):
        distil(net, Small(), {"at": 1.0}, images=batch.images)
    with pytest.raises(InputError, match=r"FT reads teacher_maps, but the teacher has none.*Taps"):
        distil(Small(), net, {"ft": 1.0}, images=batch.images)


def test_a_network_without_a_head_learns_by_its_logits():
    net, batch = Functional(), make_batch()
    assert find_taps(net, batch.images) == Taps(maps=(), head="")
    assert ForwardTrace(net, batch.images).shapes(Taps(maps=(), head="")).dim == 0
    distil(net, Small(), {"kd": 1.0}, images=batch.images)(batch).loss.backward()
    with pytest.raises(InputError, match="PKT reads student_pooled, but the student has none"):
        distil(net, Small(), {"pkt": 1.0}, images=batch.images)


def test_a_teacher_of_two_heads_has_none_to_borrow():
    teacher, x = build("timm:deit_tiny_distilled_patch16_224"), images()
    student = models.create("resnet8", CLASSES, SIZE)
    with pytest.raises(InputError, match=r"SRRL needs teacher_head.* has no single layer"):
        distil(student, teacher, {"srrl": 1.0}, images=x)


def test_maps_may_be_named():
    net, x = build("torchvision:resnet18"), images()
    taps = find_taps(net, x, maps=("layer2", "layer4"))
    assert taps.maps == ("layer2", "layer4")
    assert taps.preacts == ("layer2.1.relu", "layer4.1.relu")
    assert taps.final == "layer4"
    small = Small()
    declared = Taps(maps=("stage1", "stage2"), head="fc", preacts=("stage1.1", "stage2.2"))
    assert with_maps(declared, ["stage1"]) == Taps(maps=("stage1",), head="fc", final="stage2")
    with pytest.raises(InputError, match="did you mean 'stage2'"):
        find_taps(small, torch.randn(2, 3, 8, 8), maps=("stage22",))
    with pytest.raises(InputError, match=r"fc is \(2, 5\), which is no map of images of 8 x 8"):
        find_taps(small, torch.randn(2, 3, 8, 8), maps=("fc",))


@pytest.mark.parametrize("words", [["layer2,layer3"], ["layer2", "layer3"], ["layer2, layer3,"]])
def test_maps_may_be_named_on_the_command_line(words):
    config = parse(StudentConfig, ["--taps_t", *words, "--taps-s", "a.b", "-c", "1"], "test")
    assert (config.taps_t, config.taps_s, config.cls) == (("layer2", "layer3"), ("a.b",), 1)
    assert parse(StudentConfig, [], "test").taps_t == ()


def test_a_wrong_path_into_a_large_network_names_few():
    with pytest.raises(InputError, match=r"did you mean 'blocks.2'") as error:
        find_taps(build("timm:vit_tiny_patch16_224"), images(), maps=("blocks.12",))
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_tokens_teach_and_learn(role):
    torch.manual_seed(0)
    batch = make_batch()
    pair = (Tokens(), Small()) if role == "student" else (Small(), Tokens())
    weights = dict.fromkeys(("ft", "sp", "semckd", "simkd", "srrl"), 1.0)
    step = distil(*pair, weights, images=batch.images, batch_size=6)(batch)
    step.loss.backward()
    assert torch.isfinite(step.loss)


def test_a_transformer_is_deployed_by_simkd():
    torch.manual_seed(0)
    batch = make_batch()
    task = distil(Tokens(), Small(), {"simkd": 1.0}, images=batch.images)
    task(batch)
    deployed = task.deployed().eval()
    again = SimKD.rebuild(Tokens(), json.loads(json.dumps(deployed.card)))
    again.load_state_dict(deployed.state_dict())
    assert torch.equal(again.eval()(batch.images), deployed(batch.images))


@pytest.mark.slow
def test_a_step_with_tokens_compiles_without_a_break():
    torch.manual_seed(0)
    batch = make_batch()
    task = distil(Tokens(), Tokens(8), {"kd": 1.0, "vid": 1.0, "srrl": 1.0}, images=batch.images)
    expected = task(batch).loss
    torch.testing.assert_close(torch.compile(task, fullgraph=True)(batch).loss, expected)
