"""Networks inside wrappers: where they are read does not change, and every loss trains them."""

from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from distillers import models
from distillers.checkpoints.input_adapter import InputAdapter
from distillers.distillation.build import distil
from distillers.errors import InputError
from distillers.features.extractor import FeatureExtractor
from distillers.features.infer import find_taps
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace
from distillers.features.unwrap import unwrap
from tests.nets import Declared, Small, make_batch

CLASSES = 10
SIZE = 64


class Backbone(nn.Module):
    """Calls the network by keyword, as Hugging Face's classes do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone = net

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.backbone(pixel_values)


class Output(nn.Module):
    """Returns an object, of which `Logits` takes the logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.model = net

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.model(pixel_values))


class Logits(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.hf = Output(net)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.hf(pixel_values=x).logits * self.scale


class Normalize(nn.Module):
    def __init__(self, learned: bool = False) -> None:
        super().__init__()
        mean = torch.full((3, 1, 1), 0.1)
        self.register_buffer("mean", mean)
        self.norm = nn.BatchNorm2d(3) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm((x - self.mean) / 0.5)


class Resized(nn.Module):
    """Enlarges the images before the network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.inside = net

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(F.interpolate(x, SIZE, mode="bilinear"))


def adapted(net: nn.Module, size: int | None = None) -> nn.Module:
    half, one = [0.5] * 3, [1.0] * 3
    return InputAdapter(net, half, one, half, half, None if size is None else (size, size))


WRAPPERS = {
    "": lambda net: net,
    "backbone": Backbone,
    "net": adapted,
    "1": lambda net: nn.Sequential(Normalize(), net),
    "1.": lambda net: nn.Sequential(Normalize(learned=True), net),
    "module": nn.DataParallel,
    "hf.model": Logits,
    "backbone.1.module": lambda net: Backbone(nn.Sequential(Normalize(), nn.DataParallel(net))),
}


def prefixed(prefix: str, taps: Taps) -> Taps:
    return taps.under(prefix.strip(".")) if prefix else taps


def vit(**options) -> nn.Module:
    return timm.create_model("test_vit", num_classes=CLASSES, img_size=SIZE, **options)


def net_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "test_vit_average":
        return vit(global_pool="avg", class_token=False)
    if name.startswith("test_vit"):
        return timm.create_model(name, num_classes=CLASSES, img_size=SIZE)
    if name.startswith("test_"):
        return timm.create_model(name, num_classes=CLASSES)
    if name == "vit_b_16":
        return torchvision.models.VisionTransformer(SIZE, 16, 2, 2, 16, 32, num_classes=CLASSES)
    if name in ("resnet8", "vgg8"):
        return models.create(name, num_classes=CLASSES)
    return torchvision.models.get_model(name, num_classes=CLASSES)


NETWORKS = (
    *("test_vit", "test_vit2", "test_vit_average", "vit_b_16", "test_resnet", "test_convnext"),
    *("test_efficientnet", "test_byobnet", "test_mambaout", "resnet8", "vgg8", "squeezenet1_1"),
    *("shufflenet_v2_x0_5", "mobilenet_v3_small"),
)


@pytest.fixture(scope="module")
def batch():
    return make_batch(4, CLASSES, SIZE)


QUICK = ("test_vit", "vit_b_16", "test_resnet", "resnet8")  # in all wrappers; others in one
PAIRS = [
    pytest.param(
        name,
        wrapper,
        marks=() if name in QUICK or wrapper == "backbone.1.module" else pytest.mark.slow,
    )
    for name in NETWORKS
    for wrapper in WRAPPERS
]


@pytest.mark.parametrize(("name", "wrapper"), PAIRS)
def test_a_wrapped_network_is_read_where_it_is_read_alone(name, wrapper, batch):
    net = net_of(name).eval()
    expected = prefixed(wrapper, find_taps(net, batch.images))
    wrapped = WRAPPERS[wrapper](net).eval()
    taps = find_taps(wrapped, batch.images)
    assert (taps.head, taps.maps) == (expected.head, expected.maps)
    assert (taps.final, taps.preacts, taps.stem) == (
        expected.final,
        expected.preacts,
        expected.stem,
    )
    head = wrapped.get_submodule(taps.head)
    assert isinstance(head, nn.Linear | nn.Conv2d)
    trace = ForwardTrace(wrapped, batch.images)
    assert trace.shapes(taps).dim == head.weight.shape[1]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "resnet8"])
def test_losses_on_the_embedding_train_all_of_a_wrapped_network(name, wrapper, batch):
    student = WRAPPERS[wrapper](net_of(name))
    teacher = WRAPPERS[wrapper](net_of("resnet8"))
    weights = dict.fromkeys(("crd", "dcd", "rrd", "rkd", "pkt", "srrl"), 1.0)
    options = {"crd": {"negatives": 2}, "rrd": {"queue_size": 8}}
    task = distil(
        student,
        teacher,
        weights,
        images=batch.images,
        train_labels=batch.labels,
        batch_size=4,
        options=options,
    )
    task(batch).loss.backward()
    head = {id(p) for p in student.get_submodule(task.student_taps.head).parameters()}
    untrained = [
        name for name, p in student.named_parameters() if p.grad is None and id(p) not in head
    ]
    assert untrained in ([], ["scale"])
    assert next(p for p in student.parameters() if p.ndim == 4).grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["test_vit", "vit_b_16", "test_convnext", "test_resnet"])
def test_a_network_that_gets_larger_images_is_read_at_their_size(name):
    images = torch.randn(2, 3, 32, 32)
    net = net_of(name)
    expected = find_taps(net, torch.randn(2, 3, SIZE, SIZE))
    for wrapped, path in (
        (adapted(net, SIZE), "net"),
        (Resized(net), "inside"),
        (Backbone(adapted(net, SIZE)), "backbone.net"),
    ):
        taps = find_taps(wrapped, images)
        assert taps == expected.under(path)
        kinds = ("pooled", "maps", "final", "logits")
        read = FeatureExtractor(wrapped.eval(), taps, kinds)(images)
        assert read["maps"][0].ndim == 4
        task = distil(models.create("resnet8", CLASSES), wrapped, {"kd": 1.0}, images=images)
        assert task(make_batch(2, CLASSES, 32)).loss.isfinite()


def test_embeddings_of_two_wrapped_networks_differ(batch):
    read = []
    for seed in range(2):
        torch.manual_seed(seed)
        net = Backbone(vit()).eval()
        taps = find_taps(net, batch.images)
        read.append(FeatureExtractor(net, taps, ("pooled",))(batch.images)["pooled"])
    assert read[0].shape == (4, 64)
    assert not torch.allclose(*read)


def test_a_wrapper_is_a_module_of_which_one_child_has_layers():
    net = Declared()
    assert unwrap(net) == ("", net)
    assert unwrap(Backbone(nn.Sequential(Normalize(learned=True), net))) == ("backbone.1", net)
    both = nn.ModuleDict({"first": Small(), "second": Small()})
    assert unwrap(both) == ("", both)


def test_declared_taps_of_a_network_that_runs_twice_are_not_taken():
    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Declared()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + self.net(x.flip(3))

    batch = make_batch()
    assert find_taps(Flipped(), batch.images).head == ""
    task = distil(Declared(), Flipped(), {"kd": 1.0}, images=batch.images)
    assert task(batch).loss.isfinite()


class Cosine(nn.Module):
    """A classifier of its own: cosines with the rows of a matrix."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(classes, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x) @ F.normalize(self.rows).T


@pytest.mark.parametrize("after", [nn.Identity(), nn.BatchNorm1d(5), nn.LayerNorm(5)])
@pytest.mark.parametrize(
    "head",
    [
        nn.Linear(8, 5),
        nn.Linear(8, 5, bias=False),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 5, bias=False)),
        Cosine(8, 5),
    ],
)
def test_the_head_is_the_layer_that_takes_the_embedding(head, after):
    if isinstance(head, Cosine) and not isinstance(after, nn.Identity):
        pytest.skip("its output is not the logits")
    net, images = Small(), make_batch().images
    net.fc = nn.Sequential(nn.Dropout(), head, after)
    assert find_taps(net, images).head == "fc.1"


class Pixels(nn.Module):
    """Classifies the pixels with one matrix, behind a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.fc = nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(len(x), 192)
        out[:, :] = self.normalize(x).flatten(1)
        return self.fc(out)


def test_pixels_are_no_embedding():
    net, batch = Pixels(), make_batch()
    assert find_taps(net, batch.images).head == ""
    distil(net, Small(), {"ce": 1.0, "kd": 1.0}, images=batch.images)(batch).loss.backward()
    with pytest.raises(InputError, match="CRD reads student_pooled, but the student has none"):
        distil(net, Small(), {"crd": 1.0}, images=batch.images)
    for role in ("student", "teacher"):
        pair = (net, Small()) if role == "student" else (Small(), net)
        taps = {f"{role}_taps": Taps(maps=(), head="fc")}
        with pytest.raises(InputError, match=r"fc is no classifier of Pixels.*no parameter"):
            distil(*pair, {"kd": 1.0}, images=batch.images, **taps)
    net.taps = Taps(maps=(), head="fc")
    with pytest.raises(InputError, match=r"backbone\.fc is no classifier of Backbone"):
        distil(Backbone(net), Small(), {"kd": 1.0}, images=batch.images)


def test_an_embedding_that_is_filled_in_or_scripted_is_computed():
    class Filled(Small):
        def forward(self, x: Tensor) -> Tensor:
            maps = self.stage2(self.stage1(self.stem(x)))
            out = torch.zeros(len(x), 8)
            out[:, :4].copy_(maps.mean((2, 3))[:, :4])
            return self.fc(out)

    images = make_batch().images
    assert find_taps(Filled(), images).head == "fc"
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    with pytest.warns((FutureWarning, DeprecationWarning)):
        traced = torch.jit.trace(layers, images)
    assert find_taps(nn.Sequential(traced, nn.Linear(288, 5)), images).head == "1"


class Probe(nn.Module):
    """Trains a classifier on a frozen backbone."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(8, 5)
        if how == "frozen":
            self.backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.how != "no_grad"):
            x = self.backbone(x).flatten(1)
        return self.fc(x.detach() if self.how == "detached" else x)


@pytest.mark.parametrize("how", ["frozen", "no_grad", "detached"])
@pytest.mark.parametrize("loss", ["crd", "dcd", "rrd", "rkd", "pkt"])
def test_a_loss_without_gradient_is_refused_by_name(how, loss):
    torch.manual_seed(0)  # other weights of the small networks have no gradient
    batch = make_batch()
    given = {"images": batch.images, "train_labels": batch.labels, "batch_size": 6}
    with pytest.raises(InputError, match=f"loss {loss} gives Probe no gradient.*student_pooled"):
        distil(Probe(how), Small(), {"ce": 1.0, loss: 1.0}, **given)
    distil(Probe(how), Small(), {"kd": 1.0}, **given)(batch).loss.backward()
    distil(Small(), Probe(how), {loss: 1.0}, **given)(batch).loss.backward()


class Detached(nn.Module):
    """A loss whose author cut the student off."""

    def forward(self, student_logits: Tensor) -> Tensor:
        return student_logits.detach().square().mean()


def test_a_loss_that_cuts_the_student_off_is_refused():
    name = "tests.features.test_wrapped:Detached"
    with pytest.raises(InputError, match="detached has no gradient"):
        distil(Small(), Small(), {"ce": 1.0, name: 1.0}, images=make_batch().images)
    frozen = Small().requires_grad_(False)
    with pytest.raises(InputError, match="loss ce gives Small no gradient"):
        distil(frozen, Small(), {"ce": 1.0}, images=make_batch().images)


class Returns(nn.Module):
    """Returns what another network returns, in something else."""

    def __init__(self, change) -> None:
        super().__init__()
        self.net, self.change = Small(), change

    def forward(self, images):
        return self.change(self.net(images))


OTHERS = {
    "dict": lambda logits: {"logits": logits},
    "tuple": lambda logits: (logits,),
    "SimpleNamespace": lambda logits: SimpleNamespace(logits=logits),
    "3-d tensor": lambda logits: logits[None],
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_network_that_returns_no_logits_is_told_how_to(kind, role):
    nets = {"student": Small(), "teacher": Small(), role: Returns(OTHERS[kind])}
    with pytest.raises(
        InputError, match=rf"Returns must return logits .*, not a {kind}.*; wrap it"
    ):
        distil(**nets, weights={"kd": 1.0}, images=make_batch().images)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_compiled_network_is_refused_with_what_to_compile(role):
    nets = {"student": Small(), "teacher": Small()}
    nets[role] = nn.Sequential(torch.compile(nets[role], backend="eager"))
    with pytest.raises(InputError, match=r"by torch\.compile.*compile what `distil` ret"):
        distil(**nets, weights={"kd": 1.0}, images=make_batch().images)
