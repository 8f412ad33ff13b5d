"""What each loss needs, and that it is refused by name where that is missing."""

import contextlib

import pytest
import torch
from torch import Tensor, nn

from distillers.config.student import StudentConfig
from distillers.distillation import loss_weights as weights
from distillers.distillation.build import distil
from distillers.distillation.readable import check_logits
from distillers.distillation.terms import Term
from distillers.distillation.weighted_sum import WeightedSum
from distillers.errors import InputError
from distillers.losses import wiring
from tests.losses.cases import CASES
from tests.nets import Small

NEEDS = {
    "ab": "maps, first stage",
    "at": "maps",
    "bce": "labels, classifier",
    "catkd": "classifier, class maps",
    "cc": "embeddings",
    "ce": "labels, classifier",
    "crd": "labels, embeddings",
    "crld": "classifier, two views",
    "ctkd": "classifier",
    "dcd": "embeddings",
    "dist": "classifier",
    "distplus": "classifier, maps",
    "dkd": "labels, classifier",
    "ega": "embeddings",
    "embedmatch": "embeddings",
    "fitnet": "maps",
    "fsp": "maps, first stage",
    "ft": "maps, first stage",
    "hkd": "embeddings, maps",
    "ickd": "maps",
    "irg": "embeddings, maps",
    "itrd": "embeddings",
    "kd": "classifier",
    "kdsvd": "maps",
    "luminet": "classifier",
    "mapmatch": "maps",
    "mgd": "maps",
    "mlkd": "classifier, two views",
    "nkd": "labels, classifier",
    "normkd": "classifier",
    "nst": "maps",
    "ofa": "labels, classifier, maps",
    "ofd": "maps",
    "pkt": "embeddings",
    "queuekl": "embeddings",
    "reviewkd": "embeddings, maps",
    "rkd": "embeddings",
    "rld": "labels, classifier",
    "rrd": "embeddings",
    "rrdmomentum": "embeddings",
    "sdd": "labels, classifier, class maps",
    "semckd": "maps",
    "simkd": "classifier, maps",
    "skd": "classifier",
    "softce": "labels, classifier",
    "sp": "maps",
    "srd": "classifier, embeddings",
    "srrl": "classifier, embeddings",
    "ttm": "classifier",
    "vid": "maps",
    "vitkd": "tokens",
    "vkd": "embeddings",
    "wkdf": "maps",
    "wkdl": "labels, classifier",
    "wsld": "labels, classifier",
    "wttm": "classifier",
}
SOFT = {"softce", "bce"}  # their labels may be mixed
LABELS_ONLY = {"ce", "softce", "bce"}  # of the losses with a classifier, these read no teacher
TEACHERS_CLASSIFIER_ONLY = {"simkd", "srrl"}
# Of the losses with a classifier, these do not compare the logits of both networks.
OTHER_LOGITS = LABELS_ONLY | TEACHERS_CLASSIFIER_ONLY | {"catkd"}


def needing(word: str) -> set[str]:
    return {name for name, words in NEEDS.items() if word in words.split(", ")}


TWO_VIEWS, CLASS_MAPS, LABELS = needing("two views"), needing("class maps"), needing("labels")


def test_every_loss_is_in_the_table():
    assert NEEDS.keys() == wiring.losses().keys()


@pytest.fixture(params=sorted(NEEDS))
def name(request) -> str:
    return request.param


def refuse_or_take(refused: bool, message: str):
    """Expect an error with the message, or none."""
    return pytest.raises(InputError, match=message) if refused else contextlib.nullcontext()


def chosen(name: str, **flags) -> weights.Weights:
    return weights.choose(StudentConfig(path_t="x", distill=name, protocol="crd", **flags))


def title(name: str) -> str:
    return wiring.find(name).__name__


def test_needs_are_said(name):
    assert ", ".join(wiring.needs(wiring.find(name))) == NEEDS[name]


def test_a_second_view_is_neither_cached_nor_made_by_dali(name):
    for flags, message in (
        ({"teacher_cache": "auto"}, f"--teacher_cache .*{title(name)} also reads the teacher"),
        ({"dali": "cpu"}, f"--dali cpu makes one view .*{title(name)} reads a second"),
    ):
        with refuse_or_take(name in TWO_VIEWS, message):
            chosen(name, **flags)


def test_mixed_images_have_no_hard_label(name):
    refused = name in LABELS - SOFT - {"ce"}  # softce takes its place
    with refuse_or_take(refused, f"{title(name)} reads hard labels"):
        chosen(name, mixup=0.5)


def test_images_without_any_label(name):
    with refuse_or_take(name in LABELS, f"{name} needs labels; set the weight to 0"):
        wiring.check_has_labels([name])


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_network_without_classifier(name, side):
    without = TEACHERS_CLASSIFIER_ONLY if side == "student" else LABELS_ONLY
    refused = name in needing("classifier") - without
    with refuse_or_take(refused, f"the loss {name} needs .*but the {side} has no classifier"):
        check_logits(
            {name: wiring.find(name)}, student=side != "student", teacher=side != "teacher"
        )


def test_nothing_counts_the_logits_twice_beside_sdd(name):
    terms = [Term(each, CASES[each].build(wiring.find(each)), 1.0) for each in {"sdd", name}]
    refused = name in needing("classifier") - OTHER_LOGITS - {"sdd"}
    with refuse_or_take(refused, f"sdd matches .*{name} would count them twice"):
        WeightedSum(terms)


class Normalizing(Small):
    """Its classifier is not one linear layer of the averaged map."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(self.stage2(self.stage1(self.stem(x)))).flatten(1)
        return self.fc(nn.functional.normalize(pooled))


def test_a_network_that_shows_neither_class_maps_nor_tokens(name):
    reads = f"{title(name)} reads student_{'class_maps' if name in CLASS_MAPS else 'tokens'}"
    with refuse_or_take(name in CLASS_MAPS | {"vitkd"}, f"{reads}.* student Normalizing"):
        distil(
            Normalizing(),
            Normalizing(),
            {"ce": 1.0, name: 1.0},
            images=torch.randn(2, 3, 8, 8),
            train_labels=torch.arange(10) % 5,
            batch_size=6,
        )
