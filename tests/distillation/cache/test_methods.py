import pytest
import torch

from distillers import models
from distillers.data import load
from distillers.distillation import recipes
from distillers.distillation.build import distil
from distillers.distillation.cache.folder import CacheFolder, resolve_cache_dir
from distillers.distillation.cache.key import cache_key
from distillers.distillation.cache.loader import CachedTeacherLoader
from distillers.distillation.cache.teacher_cache import (
    TeacherCache,
    cached_tensors,
    unique_tensors,
)
from distillers.training.trainer import Hyperparameters, Trainer

CPU = torch.device("cpu")
OPTIONS = {"crd": {"negatives": 64}, "ft": {"warmup_epochs": 0}}
NUM, BATCH, VIEWS = 64, 32, 2


@pytest.fixture(scope="module")
def digits():
    return load("digits").resized(16).keep(torch.arange(NUM))


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return models.create("resnet14", num_classes=10).eval()


@pytest.fixture(scope="module")
def where(tmp_path_factory, digits, teacher):
    """One cache, which the methods share."""
    key = cache_key(teacher, "resnet14", digits)
    return CacheFolder(resolve_cache_dir(tmp_path_factory.mktemp("cache"), key), key)


def task_of(method, digits, teacher):
    torch.manual_seed(0)
    row = recipes.recipe("crd", method)
    task = distil(
        models.create("resnet8", num_classes=10),
        teacher,
        row.weights(method),
        images=digits.sample(CPU),
        train_labels=digits.train_labels,
        batch_size=BATCH,
        options={method: OPTIONS[method]} if method in OPTIONS else None,
    )
    return task.train()


def losses(task, loader, epochs, **hparams):
    trainer = Trainer(task, Hyperparameters(epochs=3, learning_rate=0.01, clip_grad=1.0, **hparams))
    found = []
    for epoch in epochs:
        torch.manual_seed(epoch)  # CRD draws its negatives
        for batch in loader.epoch(epoch):
            found.append(float(trainer.backward(batch, 0.5).loss.detach()))
            trainer.optimizer_step()
    return found


def cached(task, where, digits):
    reads = cached_tensors(task, digits.sample(CPU))
    return TeacherCache(where, task, reads, NUM * VIEWS)


@pytest.mark.parametrize("method", [*recipes.ELEVEN, "ft"])
def test_a_method_learns_from_the_cache_as_from_the_teacher(digits, teacher, where, method):
    """Three epochs: twice with the cache, which the first run fills as far as others have not."""
    loader = digits.train_loader(BATCH, seed=1, drop_last=True, device=CPU, views=VIEWS)
    exact = losses(task_of(method, digits, teacher), loader, (1, 2, 3))
    for ran in (None, 0):
        task = task_of(method, digits, teacher)
        cache = cached(task, where, digits)
        assert losses(task, CachedTeacherLoader(loader, cache), (1, 2, 3)) == pytest.approx(
            exact, rel=5e-3
        )
        assert ran is None or cache.num_computed == ran
    half = losses(
        task_of(method, digits, teacher), CachedTeacherLoader(loader, cache), (1,), precision="bf16"
    )
    assert half == pytest.approx(exact[: len(half)], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "at", "srrl"])
def test_a_compiled_step_takes_the_teacher_s_values_in(digits, teacher, where, method):
    """One compilation without a break, and nothing of the teacher in it."""
    from torch._dynamo.testing import CompileCounter

    loader = digits.train_loader(BATCH, seed=1, drop_last=True, device=CPU, views=VIEWS)
    exact = losses(task_of(method, digits, teacher), loader, (1, 2, 3))
    task, counter = task_of(method, digits, teacher), CompileCounter()
    trainer = Trainer(task, Hyperparameters(epochs=3, learning_rate=0.01, clip_grad=1.0))
    trainer.runner._run = torch.compile(task, backend=counter, fullgraph=True)
    found = []
    for epoch in (1, 2, 3):
        for batch in CachedTeacherLoader(loader, cached(task, where, digits)).epoch(epoch):
            found.append(float(trainer.backward(batch, 0.5).loss.detach()))
            trainer.optimizer_step()
    assert found == pytest.approx(exact, rel=5e-3)
    assert counter.frame_count == 1
    once = counter.op_count
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(task, backend=counter, fullgraph=True)
    compiled(next(loader.epoch(1)), 0.5)
    assert counter.op_count > once + 20  # with the teacher


STORED = {
    "kd": {"logits"},
    "srrl": {"logits", "pooled"},
    "fitnet": {"map-layer2-out"},
    "sp": {"map-layer3-out"},
    "simkd": {"map-layer3-out"},
    "at": {"map-layer1-out", "map-layer2-out", "map-layer3-out"},
}


@pytest.mark.parametrize("method", STORED)
def test_no_more_is_stored_than_a_method_reads(digits, teacher, method):
    reads = cached_tensors(task_of(method, digits, teacher), digits.sample(CPU))
    assert {read.name for read in unique_tensors(reads)} == STORED[method]
