"""Where a model's files are, and exactly which they are. Knows nothing of what the files mean.

On the hub's side all is huggingface_hub's: files are fetched once per node whatever the number of actors, since each
file has a lock there.
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
"""Endings of the files that decide what a model does: `.model` is a vocabulary of SentencePiece's, `.jinja` the form of
a chat that some text encoders read prompts in.
"""

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Endings of weights that may run code when they are loaded."""

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full commit pins a hub's model by itself: planning needs no network."""

CONFIGS = ("model_index.json", "unet/config.json", "transformer/config.json", "scheduler/scheduler_config.json")
"""Small files of a model that are fetched when it is planned: what it reads of a recipe follows from them."""

HUB_TIMEOUT_SECONDS = 10.0

HUB_SETTINGS = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
"""Environment variables: a mirror of the hub, where files are kept, whether to use these alone. Not the token."""


DRIVERS_FOLDER = "FIGMENT_DRIVERS_FOLDER"
"""Environment variable of actors: the folder from which their driver sees relative paths."""

UNCHANGED = b"unchanged"
"""What a stamp holds once a node's files have been compared with the recipe."""


@dataclass(frozen=True)
class ModelSource:
    """What a recipe takes from files that do not ship with it."""

    setting: str
    needed: str
    """A file that it cannot be without, as a pattern."""

    weights: tuple[str, ...]
    """Folders inside it whose weights are always loaded."""

    may_be_file: bool = False
    """Whether the needed file alone will do."""


MODEL = ModelSource(
    "recipe.model", "model_index.json", ("unet", "transformer", "vae", "text_encoder", "text_encoder_2")
)
VAE = ModelSource("recipe.vae", "config.json", ("",))
LORA = ModelSource("recipe.loras", "*.safetensors", ("",), may_be_file=True)


def find_local(name: str) -> Path | None:
    """Return the folder or file that `name` says, seen from the driver's folder or the project's root.

    None for a hub id. `~` is this account's home.
    """
    for folder in (os.environ.get(DRIVERS_FOLDER, ""), "", PROJECT_ROOT):
        path = os.path.join(folder, os.path.expanduser(name))
        if name and os.path.exists(path):  # False, not an error, for what cannot be a path
            return Path(path)
    return None


def local_path(name: str) -> Path:
    """Return the file or folder that a setting says, as `find_local` sees it; where nothing is there, as it is said."""
    return find_local(name) or Path(os.path.expanduser(name))


def resolve_revision(part: ModelSource, name: str, revision: str) -> str:
    """Return what pins a part: the hub's commit, or the SHA-256 of the local files.

    Raises ValueError with the remedy where it cannot be had or is not safe, before anything expensive starts.
    """
    path = find_local(name)
    if path is None:
        return revision if COMMIT.fullmatch(revision) else _hub_commit(part, name, revision)
    if revision:
        raise ValueError(
            f"{part.setting} '{name}' is on this machine, but revision '{revision}' is asked for. Leave it out."
        )
    if path.is_dir():
        check_safetensors(part, name, [file.relative_to(path).as_posix() for file in path.rglob("*")])
    candidates = path.glob(part.needed) if path.is_dir() else [path] if part.may_be_file else []
    found = sorted(file for file in candidates if file.is_file())
    if not found:
        raise ValueError(
            f"{part.setting} is '{name}', without {part.needed}. Give a folder in diffusers' layout, as "
            "save_pretrained writes it."
        )
    if len(found) > 1:
        raise ValueError(f"{part.setting} is '{name}', with {len(found)} files {part.needed}. Name one of them.")
    return files_sha256(path)


def check_revision(part: ModelSource, name: str, revision: str) -> None:
    """Raise ValueError if a part of a recipe is gone, or is not the one that `revision` pinned."""
    if resolve_revision(part, name, "" if find_local(name) else revision) != revision:
        raise ValueError(
            f"{part.setting} '{name}' has changed since the recipe was written. Put the old files back, or plan again."
        )


def check_on_this_node(part: ModelSource, name: str, revision: str) -> None:
    """Raise ValueError if a node's own files are not those of the recipe; hashed once a node, while they stay alike.

    The driver has compared its own alone: another node may hold other weights at the same path.
    """
    path = find_local(name)
    if path is None and not COMMIT.fullmatch(revision):
        raise ValueError(
            f"{part.setting} '{name}' is not on node {socket.gethostname()}. Put it there, or on storage that all "
            "nodes share, or submit the job with --working-dir and a path inside."
        )
    if path is None:
        return
    try:
        with _stamp(path, revision) as stamp:
            if stamp.read() != UNCHANGED:
                check_revision(part, name, revision)
                stamp.write(UNCHANGED)
    except OSError:  # no place for stamps
        check_revision(part, name, revision)


@contextmanager
def _stamp(path: Path, revision: str) -> Iterator[BinaryIO]:
    """Open the stamp of files in their present state, alone on this node; OSError where there is no place for it."""
    folder = Path(tempfile.gettempdir()) / f"figment-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise OSError(f"'{folder}' is another account's")
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
    """Raise ValueError if weights that will be loaded are there as pickles alone."""
    in_folder: dict[str, list[str]] = {folder: [] for folder in part.weights}
    for file in files:
        in_folder.get(os.path.dirname(file), []).append(file)
    for found in in_folder.values():
        pickled = [file for file in found if file.endswith(PICKLES)]
        if pickled and not any(file.endswith(".safetensors") for file in found):
            raise ValueError(
                f"{part.setting} '{name}' has pickled weights ({pickled[0]}), which may run code when they are loaded. "
                "Give safetensors, as save_pretrained writes them."
            )


def files_sha256(path: Path) -> str:
    """Return the hash of a file, or of names and bytes of a folder's model files, other files aside."""
    digest = hashlib.sha256()
    for file in model_files(path):
        place = file.name if path.is_file() else file.relative_to(path).as_posix()
        digest.update(f"{place}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()


def model_files(path: Path) -> list[Path]:
    """Return a file, or those of a folder that decide what a model does, in order; ValueError for a link to nothing."""
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in MODEL_FILES)
    if lost := next((file for file in files if file.is_symlink() and not file.exists()), None):
        raise ValueError(f"'{lost}' is a link that leads nowhere. Put the file there, or take the link out.")
    return [file for file in files if file.is_file()]


def fetch(part: ModelSource, name: str, revision: str) -> Path:
    """Return where a pinned part of one file is on this node, fetched from the hub unless it is there already."""
    from huggingface_hub import snapshot_download

    path = find_local(name) or Path(snapshot_download(name, revision=revision, allow_patterns=part.needed))
    found = [path] if path.is_file() else sorted(path.glob(part.needed))
    if len(found) != 1:
        raise ValueError(f"{part.setting} '{name}' has {len(found)} files {part.needed}, not one.")
    return found[0]


def read_config(name: str, revision: str, file: str) -> dict[str, Any] | None:
    """Return what one of a model's `CONFIGS` says; None where it is not on this machine."""
    from huggingface_hub import try_to_load_from_cache

    folder = find_local(name)
    path = folder / file if folder else try_to_load_from_cache(name, file, revision=revision)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return None
    try:
        found = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"recipe.model '{name}': its {file} is damaged: {error}. Put a whole model there.") from error
    return found if isinstance(found, dict) else None


def licence_of(name: str, revision: str) -> str:
    """Return the licence that a model's card states, or that none is stated where this process can see."""
    from huggingface_hub import hf_hub_download, metadata_load

    path = find_local(name)
    try:
        card = path / "README.md" if path else hf_hub_download(name, "README.md", revision=revision)
        return str((metadata_load(card) or {})["license"])
    except Exception:  # no card, no network, no header, no licence in it: nothing depends on it
        return "not stated"


def _hub_commit(part: ModelSource, name: str, revision: str) -> str:
    """Ask the hub; where it does not answer, take what an earlier run left in the local cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        info = HfApi().model_info(name, revision=revision or None, timeout=HUB_TIMEOUT_SECONDS)
    except HFValidationError as error:
        raise ValueError(f"{part.setting} is '{name}': there is no such file or folder. Check the path.") from error
    except Exception as hub_error:  # which class it is depends on the HTTP client behind the hub's library
        try:
            return Path(snapshot_download(name, revision=revision or None, local_files_only=True)).name
        except OSError:
            raise ValueError(
                f"{part.setting} is '{name}': there is no such folder, and the Hugging Face hub did not give it "
                f"({type(hub_error).__name__}: {str(hub_error).splitlines()[0]}). Check the path, the id, the network; "
                "HF_ENDPOINT may name a mirror."
            ) from hub_error
    files = [sibling.rfilename for sibling in info.siblings or ()]
    check_safetensors(part, name, files)
    found = [file for file in files if "/" not in file and fnmatch(file, part.needed)]
    if len(found) != 1:
        raise ValueError(
            f"{part.setting} is '{name}', which has {len(found)} files {part.needed} on the hub, not one. Give another "
            "id, or a folder or file of your own."
        )
    if part is MODEL:
        _fetch_configs(name, info.sha or revision, files)
    return info.sha or revision


def _fetch_configs(name: str, commit: str, files: Iterable[str]) -> None:
    """Fetch a model's small files, to be read without the network."""
    from huggingface_hub import hf_hub_download

    for file in sorted(set(CONFIGS).intersection(files)):
        try:
            hf_hub_download(name, file, revision=commit)
        except Exception as error:  # a gated model, say: less can be told before it is loaded
            logging.getLogger(__name__).info("%s of %s was not fetched: %s", file, name, error)
            return
