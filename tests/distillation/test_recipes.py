"""The weights that a flag left out stands for, against the published tables."""

import pytest

from distillers.config.student import StudentConfig
from distillers.distillation import loss_weights as weights
from distillers.distillation import pair_recipes, recipes
from distillers.errors import InputError
from distillers.losses import wiring

# CE, KL, method; copied from the published run scripts' tables.
PUBLISHED = {
    "crd": {
        "kd": (0.1, 0.9, 0),
        "fitnet": (1, 0, 100),
        "at": (1, 0, 1000),
        "sp": (1, 0, 3000),
        "cc": (1, 0, 0.02),
        "vid": (1, 0, 1),
        "rkd": (1, 0, 1),
        "pkt": (1, 0, 30000),
        "ft": (1, 0, 200),
        "nst": (1, 0, 50),
        "crd": (1, 0, 0.8),
        "rrd": (1, 0, 1),
        "dcd": (1, 0, 1),
        "simkd": (0, 0, 1),
    },
    "simkd": {
        "kd": (1, 1, 0),
        "fitnet": (1, 1, 100),
        "at": (1, 1, 1000),
        "sp": (1, 1, 3000),
        "vid": (1, 1, 1),
        "crd": (1, 1, 0.8),
        "semckd": (1, 1, 400),
        "srrl": (1, 1, 1),
        "simkd": (0, 0, 1),
        "rrd": (1, 1, 1),
    },
}
CASES = [(p, m, w) for p, rows in PUBLISHED.items() for m, w in rows.items()]


def config(**flags) -> StudentConfig:
    return StudentConfig(path_t="x", **flags)


@pytest.mark.parametrize(("protocol", "method", "expected"), CASES)
def test_weights_left_out_are_the_published_ones(protocol, method, expected):
    chosen = weights.choose(config(protocol=protocol, distill=method))
    assert (chosen.ce, chosen.kd, chosen.method) == expected


def test_every_recipe_is_of_a_loss_that_takes_its_options():
    known = wiring.losses()
    tables = [*recipes.PROTOCOLS.values(), *recipes.IMAGENET.values()]
    for table in tables:
        for name, row in table.items():
            assert set(row.options) <= set(wiring.options(known[name]))
            assert row.source


def test_flags_win_over_the_published_weights():
    chosen = weights.choose(config(distill="crd", cls=0.5, div=0.25, beta=2.0))
    assert chosen.terms() == {"ce": 0.5, "kd": 0.25, "crd": 2.0}
    without = config(distill="fitnet", div=0.9, beta=0.0)
    assert set(weights.options(without, weights.choose(without))) == {"ce", "kd"}


def test_methods_add_up():
    chosen = weights.choose(config(protocol="crd", distill="crd+kd"))
    assert chosen.terms() == {"ce": 1.0, "kd": 1.0, "crd": 0.8}
    chosen = weights.choose(config(protocol="crd", distill="rrd+dkd"))
    assert chosen.terms() == {"ce": 1.0, "rrd": 1.0, "dkd": 1.0}


def test_the_documented_names_of_methods_are_understood():
    names = {"hint": "fitnet", "attention": "at", "similarity": "sp", "correlation": "cc"}
    for old, new in names.items():
        assert config(distill=old).methods() == [new]


def test_documented_flags_become_options():
    flags = config(distill="crd", nce_k=32, nce_t=0.1, nce_m=0.9, feat_dim=64, mode="relax")
    options = weights.options(flags, weights.choose(flags))
    assert options["crd"] == {
        "negatives": 32, "temperature": 0.1, "momentum": 0.9, "dim": 64, "mode": "relax"
    }  # fmt: skip
    flags = config(distill="rrd", nce_k=32, nce_t_s=0.04, nce_t_t=0.1, kd_T=2.0, div=1.0)
    options = weights.options(flags, weights.choose(flags))
    assert options["rrd"] == {
        "queue_size": 32, "student_temperature": 0.04, "teacher_temperature": 0.1
    }  # fmt: skip
    assert options["kd"] == {"temperature": 2.0}


def test_a_protocol_sets_its_own_hint_layer_and_a_flag_wins():
    for protocol, layer in (("crd", 2), ("simkd", 1)):
        flags = config(protocol=protocol, distill="fitnet")
        assert weights.options(flags, weights.choose(flags))["fitnet"] == {"hint_layer": layer}
    flags = config(distill="fitnet", hint_layer=3)
    assert weights.options(flags, weights.choose(flags))["fitnet"] == {"hint_layer": 3}


def test_pairs_and_imagenet_have_numbers_of_their_own():
    flags = config(protocol="crd", distill="dkd", model_s="resnet20")
    chosen = weights.choose(flags, "resnet56")
    assert weights.options(flags, chosen, "resnet56")["dkd"]["beta"] == 2.0
    assert "beta" not in weights.options(flags, chosen, "resnet110")["dkd"]
    assert weights.choose(config(distill="reviewkd", model_s="resnet20")).method == 0.6
    assert weights.choose(config(distill="semckd", dataset="imagenet")).method == 50
    assert weights.choose(config(distill="kd", dataset="imagenet", protocol="crd")).ce == 0.5


def test_single_pairs_have_the_options_of_their_loss_and_a_source():
    known = wiring.losses()
    for pairs in (pair_recipes.CIFAR, pair_recipes.IMAGENET):
        for (method, *_), row in pairs.items():
            assert set(row.options) <= set(wiring.options(known[method]))
            assert row.source or method == "dkd"


NUMBERS = [  # protocol crd: CE, method, options
    ("catkd", "resnet32x4", "resnet8x4", 1, 15, {"resolution": 2, "normalise": False}),
    ("catkd", "resnet32x4", "ShuffleV1", 1, 600, {"resolution": 4, "normalise": True}),
    ("luminet", "vgg13", "vgg8", 1, 1, {"alpha": 70.0, "temperature": 8.0}),
    ("wkdf", "wrn_40_2", "ShuffleV1", 1, 0.3, {"mean_weight": 3.0, "grid": 4}),
    ("sdd", "vgg13", "MobileNetV2", 0.1, 0.9, {"scales": (1, 2, 4)}),
    ("sdd", "vgg13", "vgg8", 0.1, 0.9, {}),
    ("skd", "resnet32x4", "resnet8x4", 0.5, 0.5, {}),
]


@pytest.mark.parametrize(("method", "teacher", "student", "ce", "weight", "wanted"), NUMBERS)
def test_pairs_of_the_second_set_have_their_numbers(method, teacher, student, ce, weight, wanted):
    flags = config(protocol="crd", distill=method, model_s=student)
    chosen = weights.choose(flags, teacher)
    assert (chosen.ce, chosen.kd, chosen.method) == (ce, 0, weight)
    found = weights.options(flags, chosen, teacher)[method]
    assert {name: found.get(name) for name in wanted} == wanted
    beside = weights.choose(config(distill=method, model_s=student), teacher)
    assert (beside.ce, beside.kd) == (1, 0 if method == "sdd" else 1)


def test_the_kl_divergence_beside_vkd_has_temperature_1_unless_a_flag_says_otherwise():
    for given, expected in ((None, 1.0), (2.0, 2.0)):
        flags = config(protocol="crd", distill="vkd", kd_T=given)
        chosen = weights.choose(flags)
        assert weights.options(flags, chosen)["kd"] == {"temperature": expected}
        assert bool(
            weights.departures(
                flags, chosen, weights.settings(chosen, weights.options(flags, chosen))
            )
        ) is (given is not None)


def test_options_of_absent_losses_are_refused():
    flags = config(distill="kd", option=(("crd.dim=3",),))
    with pytest.raises(InputError, match="does not use crd"):
        weights.options(flags, weights.choose(flags))


def test_slow_networks_take_the_lower_published_rate():
    assert recipes.learning_rate("MobileNetV2", 32) == 0.01
    assert recipes.learning_rate("resnet8x4", 32) == 0.05
    assert recipes.learning_rate("ResNet18", 224) == 0.1


def test_the_documented_bank_of_rrd_is_its_own_loss():
    assert config(distill="rrd", memory_type="momentum").methods() == ["rrdmomentum"]
    assert config(distill="rrd", memory_type="fifo").methods() == ["rrd"]


def test_a_loss_of_ones_own_is_alone_unless_a_method_is_named_beside_it():
    own = {"loss": "examples.own_loss:CosineEmbedding"}
    assert config().methods() == ["kd"]
    assert config(**own).methods() == [own["loss"]]
    assert config(distill="kd", **own).methods() == ["kd", own["loss"]]
    names = {
        config(**each).folder(1, 0, 1, "t").name.rpartition("_")[0]
        for each in ({}, own, {"distill": "kd", **own})
    }
    assert len(names) == 3
