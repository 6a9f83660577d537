"""Where a model's files are, and exactly which they are. Knows nothing of what the files mean."""

import hashlib
import os
import re
from pathlib import Path

PROJECT_ROOT = Path(__file__).parent.parent

MODEL_FILES = (".json", ".txt", ".safetensors")
"""Endings of the files that decide what a model does."""


COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full commit pins a hub's model by itself: planning needs no network."""

HUB_TIMEOUT_SECONDS = 10.0


def find_model_folder(model: str) -> Path | None:
    """Return the folder that `model` names, seen from here or from the project's root; None for a hub id."""
    for folder in (Path(model), PROJECT_ROOT / model):
        if os.path.isdir(folder):  # False, not an error, for what cannot be a path
            return folder
    return None


def resolve_revision(model: str, revision: str) -> str:
    """Return what pins the model: the hub's commit, or the SHA-256 of the folder's files.

    Raises ValueError with the remedy where there is no such model, before anything expensive starts.
    """
    folder = find_model_folder(model)
    if folder is None:
        return revision if COMMIT.fullmatch(revision) else _hub_commit(model, revision)
    if not (folder / "model_index.json").is_file():
        raise ValueError(
            f"recipe.model is '{model}', a folder without model_index.json. Give a folder in diffusers' layout, as "
            "save_pretrained writes it."
        )
    if revision:
        raise ValueError(f"recipe.revision is '{revision}', but recipe.model '{model}' is a folder. Leave it empty.")
    return folder_sha256(folder)


def check_revision(model: str, revision: str) -> None:
    """Raise ValueError if a recipe's model is gone, or is not the one that `revision` pinned."""
    if resolve_revision(model, "" if find_model_folder(model) else revision) != revision:
        raise ValueError(
            f"The recipe's model '{model}' has changed since the recipe was written. Put the old files back, or plan "
            "again."
        )


def folder_sha256(folder: Path) -> str:
    """Return the hash of names and bytes of a model's files, other files aside."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in MODEL_FILES):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()


def _hub_commit(model: str, revision: str) -> str:
    """Ask the hub; where it does not answer, take what an earlier run left in the local cache."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        commit = HfApi().model_info(model, revision=revision or None, timeout=HUB_TIMEOUT_SECONDS).sha
        return commit or revision
    except HFValidationError as error:
        raise ValueError(f"recipe.model is '{model}': there is no such folder. Check the path.") from error
    except Exception as hub_error:  # which class it is depends on the HTTP client behind the hub's library
        try:
            index_file = hf_hub_download(model, "model_index.json", revision=revision or None, local_files_only=True)
            return Path(index_file).parent.name
        except OSError:
            raise ValueError(
                f"recipe.model is '{model}': there is no such folder, and the Hugging Face hub did not give it "
                f"({type(hub_error).__name__}: {str(hub_error).splitlines()[0]}). Check the path, the id, the network."
            ) from hub_error
