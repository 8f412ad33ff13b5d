"""What the second set brings beside its losses: command lines of SemCKD."""

import pytest
import torch

from distillers import models
from distillers.checkpoints.architecture import name_from_folder
from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.distillation import loss_weights as weights

AUXILIARY = (
    "./save/student_model/S:resnet8x4_double_T:resnet32x4_cifar100_pkt_r:1.0_a:1.0_b:30000.0_1/"
    "resnet8x4_double_best.pth"
)
PRINTED = [  # in the run script of SemCKD
    ("irg", "./save/models/resnet32x4_vanilla/ckpt_epoch_240.pth", "resnet8x4", 0.005),
    ("pkt", "./save/models/resnet32x4_vanilla/ckpt_epoch_240.pth", "resnet8x4_double", 30000),
    ("hkd", AUXILIARY, "resnet8x4", 1),
]


@pytest.mark.parametrize(("method", "path", "student", "beta"), PRINTED)
def test_the_printed_command_lines_of_semckd_are_understood(method, path, student, beta):
    words = f"--path-t {path} --distill {method} --model_s {student} -r 1 -a 1 -b {beta} --trial 1"
    config = parse(StudentConfig, words.split(), "train_student.py")
    config.check()
    assert config.path_t == path
    assert weights.choose(config).terms() == {"ce": 1, "kd": 1, method: beta}


def test_the_auxiliary_of_hkd_has_twice_the_width_and_is_found_by_its_folder():
    with torch.device("meta"):
        double, single = (models.create(n, 100) for n in ("resnet8x4_double", "resnet8x4"))
    widths = [[net.conv1.out_channels, net.fc.in_features] for net in (double, single)]
    assert widths == [[64, 512], [32, 256]]
    assert double.state_dict().keys() == single.state_dict().keys()
    assert name_from_folder(AUXILIARY) == "resnet8x4_double"
