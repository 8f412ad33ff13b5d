"""Vision encoders of the transformers library."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distillers.errors import InputError, first_line, install_command
from distillers.models.pretrained import check_hub

EXTRA = f"it needs the transformers library: {install_command('hf')}"


class VisionEncoder(nn.Module):
    """A vision encoder of the transformers library: images (n, 3, h, w) to embeddings (n, d).

    The embedding is that of `get_image_features`, as of CLIP and SigLIP, else the pooled output,
    else the first token of the last hidden state.
    """

    num_classes = 0

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self._has_text = hasattr(encoder, "get_image_features")

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (n, d) of normalized images (n, 3, h, w)."""
        model: Any = self.encoder
        found = model.get_image_features(images) if self._has_text else model(images)
        if isinstance(found, Tensor):
            return found
        pooled = getattr(found, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        hidden = found.last_hidden_state
        return hidden[:, 0] if hidden.ndim == 3 else hidden.mean((2, 3))


def load_encoder(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Load a vision encoder, and the preprocessing that its weights expect.

    Args:
        name: of a repository on the Hugging Face Hub, or a folder.

    Raises:
        InputError: if transformers is not installed, or the weights are neither a folder nor in the
            local cache nor can be downloaded, or it is no vision encoder.
    """
    with _loading(name) as transformers:
        encoder: Any = transformers.AutoModel.from_pretrained(name, trust_remote_code=False)
        processor: Any = transformers.AutoImageProcessor.from_pretrained(name)
    has_text = hasattr(encoder, "get_image_features")
    if not has_text and getattr(encoder, "main_input_name", "") != "pixel_values":
        raise InputError(f"transformers:{name} is a {type(encoder).__name__}, no vision encoder.")
    if has_text and hasattr(encoder, "text_model"):
        encoder.text_model = None  # only images are encoded
    return VisionEncoder(encoder), _facts(processor)


def empty_encoder(name: str) -> nn.Module:
    """Return a vision encoder with new weights, as its configuration describes it.

    Raises:
        InputError: if transformers is not installed, or there is no such configuration.
    """
    with _loading(name) as transformers:
        described = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        return transformers.AutoModel.from_config(described)


@contextmanager
def _loading(name: str) -> Iterator[Any]:
    """Give the library, and turn what it raises for a repository into an `InputError`."""
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise InputError(f"transformers:{name} cannot be loaded; {EXTRA}.") from error
    _check_available(name)
    try:
        yield transformers
    except (OSError, ValueError) as error:
        raise InputError(f"transformers:{name} cannot be loaded: {first_line(error)}") from error


def _facts(processor: Any) -> dict[str, Any]:
    size = getattr(processor, "crop_size", None) or processor.size
    side = size.get("height") or size.get("shortest_edge")
    bicubic = 3  # PIL's number
    return {
        "num_classes": 0,
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "image_size": int(side),
        "interpolation": "bicubic" if processor.resample == bicubic else "bilinear",
    }


def _check_available(name: str) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    if Path(name).is_dir() or isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    problem = f"no weights for transformers:{name}: it is not in {constants.HF_HUB_CACHE}, and "
    advice = "Load it once on a machine with a network connection and copy that folder here."
    check_hub(problem, advice)
