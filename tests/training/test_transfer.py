"""What a linear probe and fine-tuning may change, and what they must leave."""

import io
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distillers import models, progress
from distillers.checkpoints.input_adapter import with_normalization
from distillers.data import load
from distillers.data.batch import Batch
from distillers.distillation.build import distil
from distillers.distributed.world import Shard, World
from distillers.errors import InputError
from distillers.losses import CE
from distillers.training.fsdp import full_state
from distillers.training.precomputed import EmbeddingLoader, PrecomputedEmbeddings
from distillers.training.trainer import Hyperparameters, Trainer, fit
from distillers.training.transfer import Transfer, classifier_of, replace_classifier
from tests.nets import Declared, Small, make_batch
from tests.processes import together

CLASSIFIERS = {
    "resnet8": "fc",
    "wrn_16_1": "fc",
    "vgg8": "classifier",
    "ResNet50": "linear",
    "MobileNetV2": "classifier.0",
    "ShuffleV1": "linear",
    "ShuffleV2": "linear",
    "timm:mobilenetv3_small_050": "classifier",
    "timm:vit_tiny_patch16_224": "head",
    "torchvision:mobilenet_v2": "classifier.1",
}
CPU = torch.device("cpu")


class Batches:
    def __init__(self, task):
        self.task = task

    def __len__(self):
        return 3

    def epoch(self, number, start_batch=0):
        batches = (make_batch(seed=10 * number + i) for i in range(3))
        embed = self.task.embed
        return (
            replace(b, images=embed(b.images)) if self.task.precompute_features else b
            for b in batches
        )


def trained(net, **modes):
    """The network after a few steps with a new classifier of five classes, and what it was."""
    before = {key: value.clone() for key, value in net.state_dict().items()}
    head = classifier_of(net, make_batch().images)
    torch.manual_seed(1)
    replace_classifier(net, head, 5)
    task = Transfer(net, head, CE(), **modes)
    fit(
        task,
        Batches(task),
        Hyperparameters(2, 0.1),
        evaluate=lambda _: {},
        on_epoch_end=lambda *_: None,
    )
    after = task.deployed().state_dict()
    assert not torch.equal(after[f"{head}.weight"], before[f"{head}.weight"][:5])
    others = [key for key in before if not key.startswith(f"{head}.")]
    return {key: (before[key], after[key]) for key in others}


def small():
    torch.manual_seed(0)
    net = Small(classes=7)
    net(make_batch().images)  # moves its statistics away from those of a new network
    return net


def simkd():
    torch.manual_seed(0)
    student, teacher = Declared(3, 7), Declared(4, 7)
    return distil(student, teacher, {"simkd": 1.0}, images=make_batch().images).deployed()


def same_bytes(pair):
    a, b = (each.numpy().tobytes() for each in pair)
    return a == b


@pytest.mark.parametrize("make", [small, simkd])
@pytest.mark.parametrize("precompute_features", [False, True])
def test_a_linear_probe_leaves_every_byte_of_the_backbone(make, precompute_features):
    pairs = trained(make(), precompute_features=precompute_features)
    assert any("running_var" in key for key in pairs)
    assert any("num_batches_tracked" in key for key in pairs)
    assert all(same_bytes(pair) for pair in pairs.values())


def test_the_published_probe_moves_statistics_and_nothing_else():
    pairs = trained(small(), update_bn_stats=True)
    moved = {key for key, pair in pairs.items() if not same_bytes(pair)}
    assert moved == {
        f"stage2.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


@pytest.mark.parametrize("update_bn_stats", [False, True])
def test_fine_tuning_moves_weights_and_only_as_published_statistics(update_bn_stats):
    pairs = trained(small(), finetune=True, update_bn_stats=update_bn_stats)
    for key, pair in pairs.items():
        is_statistic = "running_" in key or "num_batches" in key
        assert same_bytes(pair) == (is_statistic and not update_bn_stats), key


def test_dropout_acts_while_the_backbone_learns():
    net = Small()
    net.late = nn.Dropout(0.5)
    for modes, active in ({}, False), ({"finetune": True}, True), ({"update_bn_stats": True}, True):
        task = Transfer(net, "fc", CE(), **modes)
        task.train()
        assert net.late.training == active
        assert net.stage2[1].training == modes.get("update_bn_stats", False)


def test_embeddings_of_a_backbone_that_changes_are_refused():
    for modes in ({"finetune": True}, {"update_bn_stats": True}):
        with pytest.raises(ValueError, match="do not follow"):
            Transfer(Small(), "fc", CE(), precompute_features=True, **modes)


def test_a_step_on_embeddings_is_the_step_on_their_images():
    net, batch = small(), make_batch(n=32, classes=7)
    on_images, on_embeddings = (
        Transfer(net, "fc", CE()),
        Transfer(net, "fc", CE(), precompute_features=True),
    )
    on_images.train()
    embedded = replace(batch, images=on_embeddings.embed(batch.images))
    one, other = on_images(batch), on_embeddings(embedded)
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.loss, other.loss)
    assert one.parts.keys() == other.parts.keys() == {"ce"}
    deployed = on_embeddings.deployed().eval()
    assert deployed.state_dict().keys() == net.state_dict().keys()
    assert torch.equal(deployed(batch.images), deployed(embedded.images))


# A linear probe on embeddings and on images, fine-tuning, and that with divided weights
TOGETHER = [({"precompute_features": True}, False), ({}, False), ({"finetune": True}, False)]
TOGETHER += [({"finetune": True}, True)]


def learned_together():
    """Three steps in each process, on its part of every batch; what comes out is kept."""
    world = World(dist.get_rank(), dist.get_world_size(), dist.get_rank())
    for number, (modes, shard) in enumerate(TOGETHER):
        found = full_state(steps(world, Hyperparameters(1, 0.1, shard=shard), modes))
        for key, value in found.items():
            assert all(torch.equal(each, value) for each in world.gather(value)), key
        if world.is_first:
            torch.save(found, f"found{number}.pt")


def steps(world, hparams, modes):
    torch.manual_seed(0)
    task = Transfer(small(), "fc", CE(), **modes)
    trainer = Trainer(task, hparams, world)
    task.train()
    for step in range(3):
        batch = make_batch(n=12, classes=7, seed=step)
        rows = torch.arange(12).split(12 // world.size)[world.rank]
        counts = (len(rows),) * world.size if world.size > 1 else ()
        part = Batch(*(each[rows] for each in batch), rows_per_rank=counts)
        if task.precompute_features:
            part = replace(part, images=task.embed(part.images))
        trainer.backward(part, 0.0)
        trainer.optimizer_step()
    return trainer.runner.deployed().state_dict()


def test_several_processes_learn_what_one_does_and_leave_the_backbone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    together(3, learned_together)
    before = small().state_dict()
    statistics = {key for key in before if "running_" in key or "num_batches" in key}
    for number, (modes, _) in enumerate(TOGETHER):
        found, expected = (
            torch.load(f"found{number}.pt"),
            steps(World(), Hyperparameters(1, 0.1), modes),
        )
        torch.testing.assert_close(found, dict(expected), rtol=1e-5, atol=1e-6)
        same = {key for key in before if same_bytes((before[key], found[key]))}
        kept = statistics if modes.get("finetune") else set(before) - {"fc.weight", "fc.bias"}
        assert same == kept, modes


def test_embeddings_come_in_the_order_and_share_of_images():
    """Each process and a process that begins in the middle get what one alone would."""
    vectors, labels = torch.randn(23, 4), torch.arange(23) % 3
    whole = EmbeddingLoader(vectors, labels, 8, seed=1, drop_last=False)
    batches = list(whole.epoch(2))
    assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(23))
    assert len(batches) == len(whole) == 3
    for batch in batches:
        assert torch.equal(batch.images, vectors[batch.index])
        assert torch.equal(batch.labels, labels[batch.index])
    rest = list(whole.epoch(2, start_batch=1))
    assert all(torch.equal(a.index, b.index) for a, b in zip(batches[1:], rest, strict=True))
    assert not torch.equal(batches[0].index, next(whole.epoch(3)).index)
    two = [
        list(
            EmbeddingLoader(vectors, labels, 4, seed=1, drop_last=False, shard=Shard(r, 2)).epoch(2)
        )
        for r in range(2)
    ]
    for number, batch in enumerate(batches):
        parts = [each[number] for each in two]
        assert sorted(torch.cat([p.index for p in parts]).tolist()) == sorted(batch.index.tolist())
        assert parts[0].rows_per_rank == tuple(len(p.labels) for p in parts)


def test_a_long_embedding_speaks_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(progress, "QUIET", -1.0)
    stream = io.StringIO()
    assert list(progress.counted("ab", "embedding", 2, stream)) == ["a", "b"]
    assert stream.getvalue() == "embedding: 1 of 2 batches\nembedding: 2 of 2 batches\n"


def test_embedded_sets_split_as_their_images_do():
    images = load("digits")
    source = PrecomputedEmbeddings(images, lambda x: x.mean((2, 3)))
    kept, held_out = source.split(0.2, seed=3)
    of_images, _ = images.split(0.2, seed=3)
    assert torch.equal(kept.train_labels, of_images.train_labels)
    assert held_out.test_loader(CPU).num_images == 1297 - len(of_images.train_labels)
    loader = kept.train_loader(64, seed=0, drop_last=True, device=CPU)
    first = next(loader.epoch(1))
    pixels = of_images.train_images[first.index].float().mean((2, 3)) / 255
    expected = ((pixels - images.mean[0]) / images.std[0]).expand(-1, 3)
    torch.testing.assert_close(first.images, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(first.labels, of_images.train_labels[first.index])


def test_images_are_seen_in_the_normalisation_of_the_network():
    images = load("digits")
    seen = with_normalization(images, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    plain = next(images.test_loader(CPU).epoch(1)).images
    pixels = plain * images.std[0] + images.mean[0]
    mean, std = (torch.tensor(x)[:, None, None] for x in (seen.mean, seen.std))
    expected = (pixels - mean) / std
    torch.testing.assert_close(next(seen.test_loader(CPU).epoch(1)).images, expected)
    torch.testing.assert_close(seen.sample(CPU), expected[:2])
    assert with_normalization(images, None, None) is images
    one = with_normalization(seen, [0.5], [0.2])
    assert (one.mean, one.std) == ((0.5,) * 3, (0.2,) * 3)


@pytest.mark.parametrize(
    ("name", "head"),
    CLASSIFIERS.items(),
)
def test_classifiers_of_any_name_are_found_and_replaced(name, head):
    size = 224 if ":" in name else 32
    net = models.create(name, num_classes=7, image_size=size)
    images = torch.randn(2, 3, size, size)
    assert classifier_of(net, images) == head
    replace_classifier(net, head, 3)
    assert net.eval()(images).shape == (2, 3)
    again = models.create(name, num_classes=3, image_size=size)
    again.load_state_dict(net.state_dict())  # so what is saved can be built


def test_a_classifier_that_is_no_linear_layer_is_refused():
    squeeze = models.create("torchvision:squeezenet1_1", num_classes=5, image_size=64)
    with pytest.raises(InputError, match=r"SqueezeNet does not end .* in classifier.1, a Conv2d"):
        classifier_of(squeeze, torch.randn(2, 3, 64, 64))

    class Scaled(Small):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(InputError, match="does not end in one linear layer"):
        classifier_of(Scaled(), make_batch().images)


def test_a_new_classifier_begins_as_published():
    net = models.create("wrn_40_2", num_classes=100)
    torch.manual_seed(0)
    replace_classifier(net, "fc", 200)
    assert float(net.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not net.fc.bias.any()
