"""Locate a model's files and pin their exact version, whatever the files contain.

huggingface_hub downloads each file once per node, guarded by its own locks.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

PROJECT_ROOT = Path(__file__).parents[2]

MODEL_FILES = (".json", ".txt", ".safetensors", ".model", ".jinja")
"""Suffixes of the files that affect a model's output: `.model` is a SentencePiece vocabulary, `.jinja` a chat template
that some text encoders apply to prompts.
"""

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of weight files that may run code when loaded."""

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full commit hash pins a model on the hub; planning then needs no network."""

CONFIGS = ("model_index.json", "unet/config.json", "transformer/config.json", "scheduler/scheduler_config.json")
"""Small files of a model, fetched when planning; they determine which recipe settings it uses."""

HUB_TIMEOUT_SECONDS = 10.0

HUB_SETTINGS = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TORCH_HOME")
"""Environment variables that select the hub's mirror, its cache and offline mode, and torchvision's cache. The hub's
token is not among them.
"""


DRIVERS_FOLDER = "FIGMENT_DRIVERS_FOLDER"
"""Environment variable of actors: the driver's working directory, against which relative paths resolve."""

UNCHANGED = b"unchanged"
"""Content of a stamp file once a node's files have been compared with the recipe."""


@dataclass(frozen=True)
class ModelSource:
    """A kind of model files that a recipe refers to."""

    setting: str
    needed: str
    """Glob pattern of the required file."""

    weights: tuple[str, ...]
    """Subfolders whose weights are always loaded."""

    may_be_file: bool = False
    """Whether the required file alone is enough."""


MODEL = ModelSource(
    "recipe.model", "model_index.json", ("unet", "transformer", "vae", "text_encoder", "text_encoder_2")
)
VAE = ModelSource("recipe.vae", "config.json", ("",))
LORA = ModelSource("recipe.loras", "*.safetensors", ("",), may_be_file=True)
CHECK = ModelSource("recipe.check", "config.json", ("",), may_be_file=True)


def find_local(name: str) -> Path | None:
    """Return the local folder or file called `name`, relative to the driver's folder or the project root.

    None for a hub id. `~` expands to the home directory.
    """
    for folder in (os.environ.get(DRIVERS_FOLDER, ""), "", PROJECT_ROOT):
        path = os.path.join(folder, os.path.expanduser(name))
        if name and os.path.exists(path):  # returns False for invalid paths
            return Path(path)
    return None


def local_path(name: str) -> Path:
    """Return the path found by `find_local`, or the given path if nothing exists there."""
    return find_local(name) or Path(os.path.expanduser(name))


def resolve_revision(part: ModelSource, name: str, revision: str) -> str:
    """Return the pinned version of a part: the hub's commit, or the SHA-256 of the local files.

    Raises ValueError with the remedy if the part is missing or unsafe, before anything expensive starts.
    """
    path = find_local(name)
    if path is None:
        return revision if COMMIT.fullmatch(revision) else _hub_commit(part, name, revision)
    if revision:
        raise ValueError(
            f"{part.setting} '{name}' is a local path, which has no revision '{revision}'. Remove the revision."
        )
    if path.is_dir():
        check_safetensors(part, name, [file.relative_to(path).as_posix() for file in path.rglob("*")])
    candidates = path.glob(part.needed) if path.is_dir() else [path] if part.may_be_file else []
    found = sorted(file for file in candidates if file.is_file())
    if not found:
        raise ValueError(
            f"{part.setting} is '{name}', which has no {part.needed}. Use a folder in diffusers' layout, as "
            "save_pretrained writes it."
        )
    if len(found) > 1:
        raise ValueError(f"{part.setting} is '{name}', which has {len(found)} files {part.needed}. Name one of them.")
    return files_sha256(path)


def check_revision(part: ModelSource, name: str, revision: str) -> None:
    """Raise ValueError if a part of a recipe is missing or no longer matches `revision`."""
    if resolve_revision(part, name, "" if find_local(name) else revision) != revision:
        raise ValueError(
            f"{part.setting} '{name}' has changed since the recipe was written. Restore the old files, or plan again."
        )


def check_on_this_node(part: ModelSource, name: str, revision: str) -> None:
    """Raise ValueError if this node's files differ from the recipe's; hashes once per node while files are unchanged.

    The driver checks its own files only; another node may have other weights at the same path.
    """
    path = find_local(name)
    if path is None and not COMMIT.fullmatch(revision):
        raise ValueError(
            f"{part.setting} '{name}' is not on node {socket.gethostname()}. Copy it there, put it on shared "
            "storage, or submit the job with --working-dir and a path inside."
        )
    if path is None:
        return
    try:
        with _stamp(path, revision) as stamp:
            if stamp.read() != UNCHANGED:
                check_revision(part, name, revision)
                stamp.write(UNCHANGED)
    except OSError:  # no writable folder for stamps
        check_revision(part, name, revision)


@contextmanager
def _stamp(path: Path, revision: str) -> Iterator[BinaryIO]:
    """Open and lock the stamp of these files in their current state; raise OSError if it cannot be stored."""
    folder = Path(tempfile.gettempdir()) / f"figment-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise OSError(f"'{folder}' belongs to another account")
    states = [
        (f"{file}", state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        for file in model_files(path)
        for state in (file.stat(),)
    ]
    name = hashlib.sha256(f"{revision} {states}".encode()).hexdigest()
    with (folder / name).open("a+b") as stamp:
        fcntl.flock(stamp, fcntl.LOCK_EX)
        stamp.seek(0)
        yield stamp


def check_safetensors(part: ModelSource, name: str, files: Iterable[str]) -> None:
    """Raise ValueError if weights to be loaded exist only as pickles."""
    in_folder: dict[str, list[str]] = {folder: [] for folder in part.weights}
    for file in files:
        in_folder.get(os.path.dirname(file), []).append(file)
    for found in in_folder.values():
        pickled = [file for file in found if file.endswith(PICKLES)]
        if pickled and not any(file.endswith(".safetensors") for file in found):
            raise ValueError(
                f"{part.setting} '{name}' has pickled weights ({pickled[0]}), which may run code when loaded. Use "
                "safetensors, as save_pretrained writes them."
            )


def files_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and bytes of a folder's model files."""
    digest = hashlib.sha256()
    for file in model_files(path):
        relative = file.name if path.is_file() else file.relative_to(path).as_posix()
        digest.update(f"{relative}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()


def model_files(path: Path) -> list[Path]:
    """Return a file, or a folder's model files, sorted; raise ValueError for a broken link."""
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in MODEL_FILES)
    if broken := next((file for file in files if file.is_symlink() and not file.exists()), None):
        raise ValueError(f"'{broken}' is a broken link. Restore its target, or remove the link.")
    return [file for file in files if file.is_file()]


def fetch(part: ModelSource, name: str, revision: str) -> Path:
    """Return the local path of a pinned single-file part, downloading it from the hub if needed."""
    from huggingface_hub import snapshot_download

    path = find_local(name) or Path(snapshot_download(name, revision=revision, allow_patterns=part.needed))
    found = [path] if path.is_file() else sorted(path.glob(part.needed))
    if len(found) != 1:
        raise ValueError(f"{part.setting} '{name}' has {len(found)} files {part.needed}; use one with exactly 1.")
    return found[0]


def read_config(name: str, revision: str, file: str) -> dict[str, Any] | None:
    """Return the content of one of a model's `CONFIGS`; None if it is not on this machine."""
    from huggingface_hub import try_to_load_from_cache

    folder = find_local(name)
    path = folder / file if folder else try_to_load_from_cache(name, file, revision=revision)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return None
    try:
        found = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"recipe.model '{name}': its {file} is damaged: {error}. Download the model again.") from error
    return found if isinstance(found, dict) else None


def licence_of(name: str, revision: str) -> str:
    """Return the licence from a model's card, or "not stated"."""
    from huggingface_hub import hf_hub_download, metadata_load

    path = find_local(name)
    try:
        card = path / "README.md" if path else hf_hub_download(name, "README.md", revision=revision)
        return str((metadata_load(card) or {})["license"])
    except Exception:  # no card, network, header or licence: nothing depends on it
        return "not stated"


def _hub_commit(part: ModelSource, name: str, revision: str) -> str:
    """Return the commit from the hub, or from the local cache if the hub is unreachable."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        info = HfApi().model_info(name, revision=revision or None, timeout=HUB_TIMEOUT_SECONDS)
    except HFValidationError as error:
        raise ValueError(
            f"{part.setting} is '{name}', which is not an existing file or folder. Check the path."
        ) from error
    except Exception as hub_error:  # the class depends on huggingface_hub's HTTP client
        try:
            return Path(snapshot_download(name, revision=revision or None, local_files_only=True)).name
        except OSError:
            raise ValueError(
                f"{part.setting} is '{name}', which is not an existing folder, and the Hugging Face hub did not return "
                f"it ({type(hub_error).__name__}: {str(hub_error).splitlines()[0]}). Check the path, the id and the "
                "network; set HF_ENDPOINT to use a mirror."
            ) from hub_error
    files = [sibling.rfilename for sibling in info.siblings or ()]
    check_safetensors(part, name, files)
    found = [file for file in files if "/" not in file and fnmatch(file, part.needed)]
    if len(found) != 1:
        raise ValueError(
            f"{part.setting} is '{name}', which has {len(found)} files {part.needed} on the hub instead of 1. Use "
            "another id, or a local folder or file."
        )
    if part is MODEL:
        _fetch_configs(name, info.sha or revision, files)
    return info.sha or revision


def _fetch_configs(name: str, commit: str, files: Iterable[str]) -> None:
    """Download a model's small files for offline use."""
    from huggingface_hub import hf_hub_download

    for file in sorted(set(CONFIGS).intersection(files)):
        try:
            hf_hub_download(name, file, revision=commit)
        except Exception as error:  # such as a gated model: fewer checks run before it is loaded
            logging.getLogger(__name__).info("%s of %s was not downloaded: %s", file, name, error)
            return
