"""Deployed networks on the Hugging Face Hub; the extra `hub`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import yaml

from distillers.checkpoints.export import describe, write_safetensors
from distillers.checkpoints.load import Program, Ready, load
from distillers.errors import InputError

WEIGHTS = "model.safetensors"
PATIENCE_SECONDS = 5.0


def push_to_hub(
    network: str | Path | Ready, repo_id: str, *, private: bool = False, token: str | None = None
) -> str:
    """Upload a network with its model card.

    Args:
        network: what `distillers.load` gives or reads.
        repo_id: as in "name/repository"; it is made where it does not exist.
        private: whether a new repository is.
        token: left out, the one that `hf auth login` has stored.

    Returns:
        the repository's address.

    Raises:
        InputError: when the network cannot be read, or the hub does not answer or refuses.
    """
    ready = network if isinstance(network, Ready) else load(network)
    if isinstance(ready.net, Program):
        raise InputError(
            "a program of torch.export has no weights to upload; push the checkpoint or the "
            "safetensors file."
        )
    card = describe(ready)
    _require_answer()
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as name, _plain_errors(repo_id):
        folder = Path(name)
        write_safetensors(ready.net, card, folder / WEIGHTS)
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
) -> Ready:
    """The network that `push_to_hub` has uploaded, in evaluation mode on the CPU.

    Args:
        repo_id: as in "name/repository".
        revision: a branch, a tag or a commit; left out, the newest.
        token: for a private repository.
        model: the architecture, where it is code of your own.

    Raises:
        InputError: when it is neither on the hub nor in its local cache, or cannot be read.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        _require_answer()
    except InputError:
        cached = try_to_load_from_cache(repo_id, WEIGHTS, revision=revision)
        if not isinstance(cached, str):
            raise
        return load(cached, model=model)
    with _plain_errors(repo_id):
        path = hf_hub_download(repo_id, WEIGHTS, revision=revision, token=token)
    return load(path, model=model)


def model_card(card: dict[str, object], repo_id: str) -> str:
    """The README.md of a repository, from the card of the artefact."""
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


def _require_answer() -> None:
    """Fail at once where the hub cannot be reached; its own client retries for long."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise InputError("the hub cannot be used: HF_HUB_OFFLINE is set.")
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE_SECONDS).close()
    except HTTPError:
        return  # it answers; what it thinks of this request does not matter
    except OSError as error:
        raise InputError(
            f"{constants.ENDPOINT} does not answer ({error}). Without a network, `distillers "
            "export` writes a file that `distillers.load` reads."
        ) from error


@contextmanager
def _plain_errors(repo_id: str) -> Iterator[None]:
    """What the hub refuses, in one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the hub refused {repo_id}: {reason}") from error
