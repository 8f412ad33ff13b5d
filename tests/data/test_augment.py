"""Operations and policies of augmentation against PIL, timm, torchvision and slow derivations."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from timm.data import auto_augment as theirs
from torch import Tensor
from torchvision.transforms import v2

from distillers.config.augmentation import POLICIES, parse_policy
from distillers.data.augment import named
from distillers.data.augment.augmenter import Augmenter
from distillers.data.augment.boxes import NUM_DRAWS, central_box, draw_boxes, resized_crops
from distillers.data.augment.draws import uniforms
from distillers.data.augment.erase import random_erasing
from distillers.data.augment.kernels import kernels
from distillers.data.augment.operations import GEOMETRIC, OPERATIONS, matrices
from distillers.data.augment.policies import Choice, ColorJitterPolicy, FlipPolicy, RandomPolicy
from distillers.errors import InputError

CPU = torch.device("cpu")
FILL = (128, 120, 100)
SIDE = 40
TEXTS = [
    *("rand-m9-mstd0.5-inc1", "rand-m7-n3-p0.8", "rand-m9-tweights", "rand-m20-mmax30-t3a"),
    *("original", "originalr-mstd0.5", "v0", "v0r", "3a", "trivial", "fixmatch"),
    *("augmix-m5-w4-d2", "augmix-m3-a0.5-mstd1"),
]


def smooth(num: int, channels: int = 3, side: int = SIDE) -> Tensor:
    """Return smooth random images of different contrast."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(256, (num, channels, 8, 8), generator=generator).float()
    images = torch.nn.functional.interpolate(small, size=(side, side), mode="bicubic")
    images[1::2] = images[1::2] / 3 + 30
    return images.clamp(0, 255).to(torch.uint8)


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def build(text: str):
    return named.build_policy(parse_policy(text))


def augmenter(text: str, seed: int = 3, mean=(0.5, 0.4, 0.3)) -> Augmenter:
    return Augmenter(build(text), mean, seed=seed, stream=1, device=CPU)


# ---- operations ---------------------------------------------------------------------------------


def affine(kernel: str, value: float) -> list[float]:
    return matrices(kernel, np.array([value]), SIDE, SIDE)[0].tolist()


def moved(*matrix: float) -> Callable[[Image.Image], Image.Image]:
    bilinear = Image.Resampling.BILINEAR
    return lambda image: image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=bilinear, fillcolor=FILL
    )


EXACT = [
    ("invert", [0.0], ImageOps.invert),
    ("autocontrast", [0.0], ImageOps.autocontrast),
    ("equalize", [0.0], ImageOps.equalize),
    *(("solarize", [t], lambda x, t=t: ImageOps.solarize(x, t)) for t in (0, 100, 256)),
    *(("solarize_add", [a], lambda x, a=a: theirs.solarize_add(x, a)) for a in (0, 60, 128)),
    *(("posterize", [b], lambda x, b=b: ImageOps.posterize(x, b)) for b in (1, 4, 7)),
    *(
        (name, [f], lambda x, f=f, enhance=enhance: enhance(x).enhance(f))
        for f in (0.1, 1.0, 1.37, 1.9)
        for name, enhance in (
            ("brightness", ImageEnhance.Brightness),
            ("contrast", ImageEnhance.Contrast),
            ("color", ImageEnhance.Color),
            ("sharpness", ImageEnhance.Sharpness),
        )
    ),
]
MOVED = [
    (affine("shear_x", 0.3), moved(1, 0.3, 0, 0, 1, 0)),
    (affine("shear_y", -0.2), moved(1, 0, 0, -0.2, 1, 0)),
    (affine("translate_x", 0.3), moved(1, 0, 12, 0, 1, 0)),
    (affine("translate_y", -0.21), moved(1, 0, 0, 0, 1, -8.4)),
    (affine("move_x", -7.5), moved(1, 0, -7.5, 0, 1, 0)),
    (affine("move_y", 32), moved(1, 0, 0, 0, 1, 32)),
    *(
        (
            affine("rotate", degrees),
            lambda x, degrees=degrees: x.rotate(
                degrees, resample=Image.Resampling.BILINEAR, fillcolor=FILL
            ),
        )
        for degrees in (10, -27, 135)
    ),
]


def apply(kernel: str, images: Tensor, argument: list[float]) -> Tensor:
    arguments = torch.tensor(argument).float().expand(len(images), -1)
    return kernels(torch.tensor(FILL, dtype=torch.uint8))[kernel](images, arguments)


@pytest.mark.parametrize(("kernel", "argument", "reference"), EXACT)
def test_operations_on_values_are_those_of_pil(kernel, argument, reference):
    images = smooth(4)
    before = images.clone()
    found = apply(kernel, images, argument)
    expected = torch.stack([tensor(reference(pil(image))) for image in images])
    differences = (found.int() - expected.int()).abs()
    # PIL rounds whole quotients of autocontrast down now and then.
    assert differences.max() <= (kernel == "autocontrast")
    assert differences.float().mean() < (0.02 if kernel == "autocontrast" else 1e-9)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("argument", "reference"), MOVED)
def test_moved_images_are_those_of_pil(argument, reference):
    images = smooth(4)
    expected = torch.stack([tensor(reference(pil(image))) for image in images])
    differences = (apply("affine", images, argument).int() - expected.int()).abs()
    assert differences.amax(1).gt(1).sum() <= 4  # at the border of the image, by rounding
    assert differences.float().mean() < 0.5  # PIL rounds down


@pytest.mark.parametrize("radius", [0.1, 0.7, 2.0])
def test_blurred_images_are_nearly_those_of_pil(radius):
    """PIL's blur is an approximation by boxes."""
    images = smooth(4)
    blur = ImageFilter.GaussianBlur(radius)
    expected = torch.stack([tensor(pil(image).filter(blur)) for image in images])
    differences = (apply("gaussian_blur", images, [radius]).int() - expected.int()).abs()
    assert differences.max() <= 7
    assert differences.float().mean() < 0.7


def test_squares_flips_and_grey_images():
    images = smooth(2)
    cut = apply("cutout", images, [0.5, 0.25, 0.5])
    assert torch.equal(cut[..., 20:], images[..., 20:])
    inner = cut[:, :, 10:30, :20]
    assert torch.equal(inner, torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1).expand_as(inner))
    assert torch.equal(apply("hflip", images, [0.0]), images.flip(-1))
    assert torch.equal(apply("vflip", images, [0.0]), images.flip(-2))
    grey = smooth(2, channels=1)
    for kernel, argument in (("color", [0.3]), ("contrast", [1.5]), ("equalize", [0.0])):
        found = kernels(torch.tensor([9], dtype=torch.uint8))[kernel](
            grey, torch.tensor(argument).expand(2, -1)
        )
        same = apply(kernel, grey.expand(-1, 3, -1, -1), argument)
        assert torch.equal(found.expand_as(same), same)


def test_each_image_has_its_own_argument():
    images = smooth(4)
    table = kernels(torch.tensor(FILL, dtype=torch.uint8))
    columns = {"affine": 6, "cutout": 3}
    for name, kernel in table.items():
        arguments = torch.rand(4, columns.get(name, 1)) + 0.3
        together = kernel(images, arguments)
        for number in range(4):
            one = kernel(images[number : number + 1], arguments[number : number + 1])
            assert torch.equal(one[0], together[number]), name


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() & theirs.LEVEL_TO_ARG.keys()))
@pytest.mark.parametrize("level", [0, 3, 7.7, 10])
def test_arguments_at_each_magnitude_are_those_of_timm(name, level):
    own, function = OPERATIONS[name].argument, theirs.LEVEL_TO_ARG[name]
    if function is None or name == "GaussianBlurRand":
        return
    expected = set()
    for seed in range(20):
        random.seed(seed)
        expected |= {round(function(level, {"translate_pct": 0.45})[0], 9)}
    at = np.full(2, float(level)), np.array([0.2, 0.8])
    factor = [1 - x for x in expected] if name == "Desaturate" else expected
    found = {round(float(x), 9) for x in own(*at)}
    assert found == {round(x, 9) for x in factor}


# ---- policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_images_of_a_batch_are_augmented_as_one_by_one(text):
    images, rows = smooth(24, side=16), torch.arange(100, 124)
    turns, policy = torch.arange(24) % 3 + 1, augmenter(text)
    before = images.clone()
    together = policy(images, rows, turns)
    for number in range(24):
        one = slice(number, number + 1)
        assert torch.equal(policy(images[one], rows[one], turns[one])[0], together[number])
    assert torch.equal(images, before)
    changed = (together != images).flatten(1).any(1).float().mean()
    assert changed > 0.3
    for other in (augmenter(text, seed=4)(images, rows, turns), policy(images, rows, turns + 3)):
        assert not torch.equal(other, together)


def applied(policy, num: int = 20_000) -> list[set[tuple[int, str]]]:
    """Return what a policy does to each of many images, as layer and kernel."""
    draws = uniforms(0, 0, np.ones(num, np.int64), np.arange(num), policy.num_draws)
    found: list[set[tuple[int, str]]] = [set() for _ in range(num)]
    for number, layer in enumerate(policy.draw(draws).chains[0]):
        for group in layer:
            for row in group.rows:
                found[row].add((number, group.kernel))
    return found


def test_randaugment_applies_each_operation_as_often_as_timm():
    counts = np.zeros(2)
    kinds: dict[str, int] = {}
    for each in applied(build("rand-m9-inc1-p0.7")):
        for layer, kernel in each:
            counts[layer] += 1
            kinds[kernel] = kinds.get(kernel, 0) + 1
    assert np.allclose(counts / 20_000, 0.7, atol=0.02)
    assert len(kinds) == 15
    assert abs(kinds["rotate"] / 20_000 - 2 * 0.7 / 15) < 0.01


def test_weighted_operations_are_drawn_without_replacement_as_by_numpy():
    weights = [6.0, 3.0, 1.0]
    kernels_ = ("invert", "equalize", "autocontrast")
    plain = [Choice(OPERATIONS[n], 5) for n in ("Invert", "Equalize", "AutoContrast")]
    found = applied(RandomPolicy(plain, 2, weights))
    rng = np.random.default_rng(0)
    p = np.array(weights) / 10
    expected = [tuple(rng.choice(3, 2, replace=False, p=p)) for _ in range(5000)]
    for first in range(3):
        for second in range(3):
            pair = {(0, kernels_[first]), (1, kernels_[second])}
            share = np.mean([each == pair for each in found])
            assert abs(share - np.mean([each == (first, second) for each in expected])) < 0.015


def test_noise_of_magnitudes_has_the_given_deviation_and_limits():
    draws = uniforms(0, 0, np.ones(20_000, np.int64), np.arange(20_000), 3)
    rows = np.arange(20_000)
    solarize = OPERATIONS["SolarizeAdd"]._replace(argument=lambda level, _: level)
    levels = Choice(solarize, 9, std=0.5).group(rows, draws).arguments[:, 0]
    assert levels.max() <= 10
    assert abs(levels.mean() - 9) < 0.05
    assert abs(levels.std() - 0.5) < 0.03
    uniform = Choice(solarize, 9, std=math.inf).group(rows, draws).arguments[:, 0]
    assert abs(uniform.mean() - 4.5) < 0.1
    assert uniform.max() <= 9


def test_autoaugment_applies_one_of_timms_sequences():
    policy = build("original")
    sequences = theirs.auto_augment_policy("original")
    allowed = [{(i, OPERATIONS[op.name].kernel) for i, op in enumerate(each)} for each in sequences]
    found = applied(policy, 3000)
    assert all(any(each <= one for one in allowed) for each in found)
    assert any(len(each) == 2 for each in found)


def test_trivialaugment_has_the_magnitudes_of_torchvision():
    space = v2.TrivialAugmentWide._AUGMENTATION_SPACE
    names = {"brightness": "Brightness", "shear_x": "ShearX", "move_y": "TranslateY"}
    names |= {"rotate": "Rotate", "posterize": "Posterize", "solarize": "Solarize"}
    policy = build("trivial")
    draws = uniforms(0, 0, np.ones(30_000, np.int64), np.arange(30_000), policy.num_draws)
    seen: dict[str, set[float]] = {}
    for group in policy.draw(draws).chains[0][0]:
        seen.setdefault(group.kernel, set()).update(group.arguments[:, 0].round(4).tolist())
    for kernel, name in names.items():
        bins, signed = space[name]
        magnitudes = bins(31, 32, 32)
        values = {round(float(x), 4) for x in magnitudes}
        if kernel == "solarize":  # of values up to 1
            values = {round(255 * float(x), 4) for x in magnitudes}
        elif kernel == "brightness":  # a factor
            values = {round(1 + x, 4) for x in values | {-x for x in values}}
        elif signed:
            values |= {-x for x in values}
        assert len(seen[kernel]) == len(values), kernel
        assert np.allclose(sorted(seen[kernel]), sorted(values), atol=2e-3), kernel


def test_augmix_mixes_chains_as_a_loop_over_images_does():
    images, policy = smooth(6, side=16), augmenter("augmix-m5-w3")
    draws = uniforms(3, 1, np.ones(6, np.int64), np.arange(6), policy._policy.num_draws)
    draw = policy._policy.draw(draws)
    assert draw.weights is not None
    assert draw.kept is not None
    assert np.allclose(draw.weights.sum(1) + draw.kept, 1)
    found = policy(images, torch.arange(6), torch.ones(6, dtype=torch.int64))
    lengths = set()
    for row in range(6):
        total = draw.kept[row] * images[row].double()
        for chain, weight in zip(draw.chains, draw.weights[row], strict=True):
            mine = [[g for g in layer if row in g.rows] for layer in chain]
            lengths.add(sum(bool(layer) for layer in mine))
            total += weight * policy._run(images, chain)[row].double()
        assert (total - found[row].double()).abs().max() <= 0.51
    assert lengths == {1, 2, 3}


def test_flips_and_jitter_have_the_given_probability_and_strength():
    found = applied(FlipPolicy(0.3, 0.1))
    assert abs(np.mean([(0, "hflip") in each for each in found]) - 0.3) < 0.01
    assert abs(np.mean([(1, "vflip") in each for each in found]) - 0.1) < 0.01
    draws = uniforms(0, 0, np.ones(3000, np.int64), np.arange(3000), 6)
    chain = ColorJitterPolicy(0.4).draw(draws).chains[0]
    for layer in chain:  # each image gets each of the three once
        assert sorted(np.concatenate([g.rows for g in layer])) == list(range(3000))
        assert {g.kernel for g in layer} == {"brightness", "contrast", "color"}
        for group in layer:
            assert 0.6 <= group.arguments.min() < 0.61
            assert 1.39 < group.arguments.max() <= 1.4
    assert all(len(each) == 3 for each in applied(ColorJitterPolicy(0.4), 50))


# ---- crops and erasing --------------------------------------------------------------------------


def test_boxes_are_drawn_as_torchvision_draws_them():
    draws = uniforms(0, 0, np.ones(4000, np.int64), np.arange(4000), NUM_DRAWS)
    boxes, fits = draw_boxes(draws, 32, 48, (0.08, 1.0), (3 / 4, 4 / 3))
    assert fits.mean() > 0.99
    assert (boxes[:, 0] + boxes[:, 2] <= 32).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 48).all()
    torch.manual_seed(0)
    image = torch.empty(3, 32, 48)
    reference = np.array(
        [
            v2.RandomResizedCrop(8).make_params([image])[key]
            for _ in range(1000)
            for key in ("top", "left", "height", "width")
        ]
    ).reshape(-1, 4)
    assert np.allclose(boxes[fits].mean(0), reference.mean(0), atol=0.6)
    assert np.allclose(boxes[fits].std(0), reference.std(0), atol=0.6)
    assert central_box(32, 48, (3 / 4, 4 / 3)) == (0, 2, 32, 43)


def test_crops_are_resized_as_torchvision_resizes_them():
    images = smooth(3, side=32)
    boxes = torch.tensor([[0, 0, 32, 32], [3, 5, 20, 11], [31, 31, 1, 1]])
    found = resized_crops(images, boxes)
    for image, box, crop in zip(images, boxes.tolist(), found, strict=True):
        expected = v2.functional.resized_crop(image, *box, [32, 32], antialias=True)
        assert (crop.int() - expected.int()).abs().max() <= 1


def test_erased_boxes_are_those_of_timm_in_size_and_number():
    from timm.data.random_erasing import RandomErasing as Theirs

    images = torch.full((2000, 3, 32, 32), 7.0)
    ones = torch.ones(2000, dtype=torch.int64)
    settings = {"prob": 0.25, "seed": 0, "stream": 0}
    erased = random_erasing(images.clone(), torch.arange(2000), ones, **settings)
    torch.manual_seed(0)
    random.seed(0)
    theirs_ = Theirs(0.25, mode="pixel", device="cpu")(images.clone())
    for number, each in enumerate((erased, theirs_)):
        changed = (each != 7).all(1)
        share = changed.flatten(1).any(1).float().mean()
        assert abs(share - 0.25) < 0.03, number
        noise = each[(each != 7)]
        assert abs(noise.mean()) < 0.02
        assert abs(noise.std() - 1) < 0.02
        areas = changed.sum((1, 2))[changed.flatten(1).any(1)].float()
        assert abs(areas.mean() - 1024 * (0.02 + 1 / 3) / 2) < 20, number
    alone = random_erasing(images[:7].clone(), torch.arange(7) + 50, ones[:7], **settings)
    assert torch.equal(alone, erased[50:57])


def test_numbers_are_uniform_and_independent():
    rows = np.arange(50_000)
    numbers = uniforms(1, 2, np.full(50_000, 3), rows, 4)
    assert 0 < numbers.min() < numbers.max() < 1
    assert np.allclose(numbers.mean(0), 0.5, atol=0.01)
    assert np.allclose(np.cov(numbers.T), np.eye(4) / 12, atol=0.002)
    for other in (
        uniforms(2, 2, np.full(50_000, 3), rows, 4),
        uniforms(1, 3, np.full(50_000, 3), rows, 4),
        uniforms(1, 2, np.full(50_000, 4), rows, 4),
        uniforms(1, 2, np.full(50_000, 3), rows + 1, 4),
        np.roll(numbers, 1, axis=1),
    ):
        assert abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.01
    histogram = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert abs(histogram / numbers.size - 0.05).max() < 0.003
    assert np.array_equal(
        uniforms(-1, 0, rows[:3], rows[:3], 2), uniforms(-1, 0, rows[:3], rows[:3], 2)
    )


# ---- names --------------------------------------------------------------------------------------


def test_texts_are_read_as_timm_reads_them():
    policy = parse_policy("rand-m9-n3-mstd0.5-inc1-p0.4")
    built = named.build_policy(policy)
    reference = theirs.rand_augment_transform("rand-m9-n3-mstd0.5-inc1-p0.4")
    assert built._num_layers == reference.num_layers
    for own, other in zip(built._choices, reference.ops, strict=True):
        assert own.operation is OPERATIONS[other.name]
        assert (own.magnitude, own.prob, own.std) == (9, other.prob, other.magnitude_std)
    mixed = build("augmix-m5-w4-d2")
    assert (mixed._width, mixed._depth, mixed._alpha) == (4, 2, 1.0)
    assert all(np.isinf(choice.std) for choice in mixed._choices)
    assert set(POLICIES) >= {text.split("-")[0] for text in TEXTS}


WRONG = {
    "rnd-m9": "no policy in --aa 'rnd', did you mean 'rand'",
    "rand-m11": "the magnitude m is 11; it must be from 0 to 10; rand-m11-mmax11 allows more",
    "rand-m-1": "'m' is not a name with a number",
    "rand-mm9": "no setting of rand in --aa rand-mm9 'mm', did you mean",
    "rand-p1.5": "p is 1.5; it must be in [0, 1]",
    "rand-n0": "n is 0; it must be a whole number from 1 to 10",
    "rand-twheights": "no set of operations in --aa rand-twheights 'wheights', did you mean",
    "augmixx": "did you mean 'augmix'",
    "original-m9": "no setting of original",
    "trivial-m9": "no setting of trivial in --aa trivial-m9 'm'. There are: none.",
    "augmix-w0": "w is 0; it must be a whole number",
    "": "no policy in --aa ''",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_texts_are_refused(text):
    with pytest.raises(InputError) as error:
        parse_policy(text)
    assert WRONG[text] in str(error.value)


# ---- devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_waits_for_the_device(text):
    """A fake GPU has no values that could be read back."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    rows, turns = torch.arange(24), torch.ones(24, dtype=torch.int64)
    policy = build(text)
    count = policy.num_draws
    draw = policy.draw(uniforms(0, 0, turns.numpy(), rows.numpy(), count))
    with FakeTensorMode(allow_non_fake_inputs=True):
        made = Augmenter(policy, (0.5, 0.4, 0.3), seed=0, stream=0, device=torch.device("cuda"))
        images = torch.empty(24, 3, 16, 16, dtype=torch.uint8, device="cuda")
        found = made.apply(images, draw)
    assert found.shape == images.shape
    assert (found.device.type, found.dtype) == ("cuda", torch.uint8)


def test_no_crop_waits_for_the_device():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        images = torch.empty(9, 3, 16, 16, dtype=torch.uint8, device="cuda")
        found = resized_crops(images, torch.zeros(9, 4, dtype=torch.int64, device="cuda"))
    assert (found.shape, found.device.type, found.dtype) == (images.shape, "cuda", torch.uint8)


def test_every_geometric_operation_has_a_matrix():
    for kernel in GEOMETRIC:
        assert matrices(kernel, np.zeros(2), 8, 8).tolist() == [[1, 0, 0, 0, 1, 0]] * 2
