"""Push networks to the Hugging Face Hub and load them from it; needs the extra `hub`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from distillers.checkpoints.card import complete_card
from distillers.checkpoints.export import write_safetensors
from distillers.checkpoints.load import Classifier, load
from distillers.checkpoints.onnx import RuntimeNetwork
from distillers.checkpoints.program import Program
from distillers.errors import InputError, first_line
from distillers.models.pretrained import check_hub

WEIGHTS = "model.safetensors"
UNUSABLE = (  # an error and its advice
    "the hub cannot be used: ",
    "Without a network, `distillers export` writes a file that `distillers.load` reads.",
)


def push_to_hub(
    network: str | Path | Classifier,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a network with its model card.

    Args:
        network: a network from `distillers.load`, or a path for it.
        repo_id: as in "name/repository"; created if it does not exist.
        private: whether a new repository is private.
        token: an access token; by default the one that `hf auth login` stored.

    Returns:
        The repository's URL.

    Raises:
        InputError: if the network cannot be loaded, or the hub does not answer or refuses.
    """
    classifier = network if isinstance(network, Classifier) else load(network)
    if isinstance(classifier.net, Program | RuntimeNetwork):
        raise InputError(
            "a .pt2, .onnx or .xml file is a program without weights to upload; push the "
            "checkpoint or the safetensors file."
        )
    card = complete_card(classifier)
    check_hub(*UNUSABLE)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as name, _short_errors(repo_id):
        folder = Path(name)
        write_safetensors(classifier.net, card, folder / WEIGHTS)
        (folder / "README.md").write_text(model_card(card, repo_id))
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        message = f"{card['model']} by distillers {card['distillers']}"
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    return str(url)


def from_pretrained(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    model: str | None = None,
) -> Classifier:
    """Load a network that `push_to_hub` uploaded, in evaluation mode on the CPU.

    Args:
        repo_id: as in "name/repository".
        revision: a branch, tag or commit; by default the newest.
        token: for a private repository.
        model: the architecture, if it is your own code.

    Raises:
        InputError: if it is neither on the hub nor in the local cache, or cannot be loaded.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        check_hub(*UNUSABLE)
    except InputError:
        cached = try_to_load_from_cache(repo_id, WEIGHTS, revision=revision)
        if not isinstance(cached, str):
            raise
        return load(cached, model=model)
    with _short_errors(repo_id):
        path = hf_hub_download(repo_id, WEIGHTS, revision=revision, token=token)
    return load(path, model=model)


def model_card(card: dict[str, object], repo_id: str) -> str:
    """Return the README.md of a repository, from the network's card."""
    head: dict[str, object] = {
        "library_name": "distillers",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "knowledge-distillation"],
    }
    facts = {
        "network": card["model"],
        "data set": card.get("dataset"),
        "classes": card.get("num_classes"),
        "image size": card.get("image_size"),
        "test accuracy (%)": card.get("accuracy"),
        "parameters": card.get("parameters"),
        "multiply-accumulates": card.get("macs"),
        "mean": card.get("mean"),
        "std": card.get("std"),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value is not None)
    return (
        f"---\n{yaml.safe_dump(head)}---\n\n# {repo_id}\n\n"
        f"Written by distillers {card['distillers']}.\n\n| | |\n|---|---|\n{rows}\n\n"
        "```python\nimport distillers\nfrom torchvision.io import decode_image\n\n"
        f'net = distillers.from_pretrained("{repo_id}")\n'
        'pixels = decode_image("photo.jpg", "RGB", apply_exif_orientation=True)\n'
        "logits = net(net.preprocess(pixels))\n```\n"
    )


@contextmanager
def _short_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of the hub into an `InputError` of one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError) as error:
        reason = first_line(error)
        raise InputError(f"the hub refused {repo_id}: {reason}") from error
