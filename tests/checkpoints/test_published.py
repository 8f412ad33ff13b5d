"""Networks by name with published weights."""

import pytest
import torch

from distillers import distil, models
from distillers.checkpoints.published import load_published
from distillers.errors import InputError
from tests.nets import make_batch


def test_the_images_of_timm_and_torchvision_are_described(monkeypatch) -> None:
    built, net = [], models.create("resnet8", 10)

    def create(name: str, num_classes: int, image_size: int, pretrained: bool = False):
        built.append((name, num_classes, image_size, pretrained))
        return net

    monkeypatch.setattr("distillers.checkpoints.published.models.create", create)
    card = load_published(
        "timm:vit_small_patch14_dinov2.lvd142m", num_classes=5, image_size=32
    ).card
    assert built == [("timm:vit_small_patch14_dinov2.lvd142m", 0, 518, True)]
    assert (card["num_classes"], card["interpolation"]) == (0, "bicubic")
    card = load_published("torchvision:vit_b_16", num_classes=5, image_size=32).card
    assert built[1:] == [("torchvision:vit_b_16", 1000, 224, True)]
    assert card["class_names"][0] == "tench"
    assert card["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet5", "no timm network 'resnet5'"),
        ("torchvision:resnet5", "no torchvision network 'resnet5'"),
        (
            "timm:test_vit",
            r"no weights for .*A file of its weights will do: --model_t timm:test_vit",
        ),
        ("no_such.module:net", "no module 'no_such'"),
        ("tests.nets:tiny", "takes no pretrained"),
    ],
)
def test_misfits_are_refused(name, message, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message):
        load_published(name, num_classes=5, image_size=32)


def test_encoders_of_transformers(tmp_path, monkeypatch) -> None:
    library = pytest.importorskip("transformers")
    config = library.ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8,
    )  # fmt: skip
    library.ViTModel(config).save_pretrained(tmp_path)
    library.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    teacher = load_published(f"transformers:{tmp_path}", num_classes=5, image_size=64)
    assert teacher.card["num_classes"] == 0
    assert teacher.card["image_size"] == 32
    batch = make_batch(size=32)
    task = distil(models.create("resnet8", 5), teacher, {"kd": 1.0, "mapmatch": 1.0},
                  images=batch.images, teacher_head="fit",
                  labelled=[(batch.images, batch.labels)])  # fmt: skip
    assert torch.isfinite(task(batch).loss)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="--path_t transformers:FOLDER"):
        load_published("transformers:nobody/nothing", num_classes=5, image_size=32)
