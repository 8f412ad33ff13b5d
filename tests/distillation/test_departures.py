"""Which settings of a run are not as its protocol publishes them."""

import pytest

from distillers.config.student import StudentConfig
from distillers.distillation import loss_weights as weights
from distillers.losses import CRD

CASES = {
    # what was given: what departs
    "kd": {},
    "kd cls=.1 div=.9 beta=0": {},  # the documented command gives the published weights
    "kd cls=1 div=1": {"ce": 1.0, "kd": 1.0},
    "kd kd_T=4": {},
    "kd kd_T=2": {"kd.temperature": 2.0},
    "crd": {},
    "crd beta=.8 nce_k=16384 option=crd.dim=128": {},
    "crd beta=2 nce_k=4096 option=crd.dim=64": {"crd": 2.0, "crd.negatives": 4096, "crd.dim": 64},
    "crd div=1": {"kd": 1.0},
    "crd div=1 option=kd.temperature=2": {"kd": 1.0, "kd.temperature": 2.0},
    "crd+kd": {},
    "crd+kd cls=0": {"ce": 0.0},
    "fitnet": {},
    "fitnet hint_layer=1": {"fitnet.hint_layer": 1},
    "simkd": {},
    "simkd cls=0 div=0 beta=1 factor=2": {},
    "simkd factor=8": {"simkd.factor": 8},
    "at cls=1 beta=0": {"at": 0.0},
    "kd option=ce.class_weight=[1.0,2.0]": {"ce.class_weight": (1.0, 2.0)},  # () by default
}
READ = {**dict.fromkeys(("cls", "div", "beta", "kd_T"), float), "option": lambda text: ((text,),)}


@pytest.mark.parametrize("words", CASES)
def test_only_what_is_not_published_departs(words):
    method, *given = words.split()
    flags = {name: READ.get(name, int)(text) for name, text in (w.split("=", 1) for w in given)}
    config = StudentConfig(distill=method, protocol="crd", path_t="t.pth", **flags)
    chosen = weights.choose(config)
    settings = weights.settings(chosen, weights.options(config, chosen))
    assert weights.departures(config, chosen, settings) == CASES[words]


def test_a_loss_of_ones_own_is_told_like_the_others():
    flags = {"loss": "examples.own_loss:Centre", "option": (("centre.power=1",),), "beta": 0.5}
    config = StudentConfig(protocol="crd", path_t="t.pth", **flags)
    chosen = weights.choose(config)
    settings = weights.settings(chosen, weights.options(config, chosen))
    assert settings["examples.own_loss:Centre"] == 0.5
    told = weights.departures(config, chosen, settings)
    assert told == {"examples.own_loss:Centre": 0.5, "centre.power": 1.0}


def test_settings_are_complete():
    """Every weight and every option, so that equal settings are equal losses."""
    config = StudentConfig(distill="crd", protocol="crd", path_t="t.pth")
    chosen = weights.choose(config)
    settings = weights.settings(chosen, weights.options(config, chosen))
    options = {f"crd.{name}" for name in weights.wiring.options(CRD)}
    assert settings.keys() == {"ce", "crd", "ce.label_smoothing"} | options


def test_a_pair_with_weights_of_its_own_does_not_depart():
    config = StudentConfig(distill="dkd", protocol="crd", path_t="t.pth", model_s="vgg8")
    for teacher, beta in (("vgg13", 6.0), ("resnet32x4", 8.0)):
        chosen = weights.choose(config, teacher)
        settings = weights.settings(chosen, weights.options(config, chosen, teacher))
        assert settings["dkd.beta"] == beta
        assert weights.departures(config, chosen, settings, teacher) == {}
    assert weights.departures(config, chosen, settings, "vgg13") == {"dkd.beta": 8.0}
