"""What building a student's run computes before the first step."""

from collections import Counter

import torch

from distillers import data, models
from distillers.checkpoints.io import save
from distillers.config.student import StudentConfig
from distillers.distributed.world import World
from distillers.models.resnet_cifar import ResNet
from distillers.training.student_setup import build_student
from distillers.training.teachers import load_teachers


def test_each_network_runs_at_most_twice(tmp_path, monkeypatch):
    torch.manual_seed(0)
    weights = models.create("resnet14", num_classes=10).state_dict()
    save(tmp_path / "teacher.pth", {"model": weights, "card": {"model": "resnet14"}})
    flags = {"dataset": "digits", "model_s": "resnet8", "batch_size": 8, "gpu_id": "cpu"}
    config = StudentConfig(path_t=str(tmp_path / "teacher.pth"), distill="srrl+at+sp", **flags)
    counts, forward = Counter(), ResNet.forward

    def counted(self, images):
        counts[len(self.layer1)] += 1  # two blocks in the teacher and its fused copy
        return forward(self, images)

    monkeypatch.setattr(ResNet, "forward", counted)
    source = data.load("digits")
    setup = build_student(config, load_teachers(config, source, World()), source, World())
    assert setup.task.frozen.pairs  # a copy was fused
    assert counts == {1: 2, 2: 2}
