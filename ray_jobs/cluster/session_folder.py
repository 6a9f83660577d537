"""The folder of a local Ray's sessions: sockets, logs, and objects spilled from memory."""

import os
from datetime import datetime
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir
from ray._private.utils import validate_socket_filepath

from generation.files import check_writable


def session_folder() -> Path:
    """Return the folder of all sessions."""
    return Path(get_default_ray_temp_dir())


def check_session_folder() -> None:
    """Raise ValueError if Ray cannot create its sockets there."""
    folder = session_folder()
    setting = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    given = f"{setting} is '{folder.parent}'" if setting else f"Ray's session folder is '{folder}'"
    remedy = "Set RAY_TMPDIR to a writable folder with a short absolute path, such as /tmp/NAME."
    if not folder.is_absolute():
        raise ValueError(f"{given}, which is not an absolute path. {remedy}")
    num_bytes = len(os.fsencode(longest_socket(folder)))
    try:
        validate_socket_filepath(longest_socket(folder))
    except OSError as error:
        raise ValueError(
            f"{given}, which is too long: the paths of Ray's sockets below it would have {num_bytes} bytes, and the "
            f"system allows 107 (macOS: 103). {remedy}"
        ) from error
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not os.path.isdir(existing):
        raise ValueError(f"{given}, but '{existing}' is not a folder. {remedy}")
    try:
        check_writable(Path(existing))
    except OSError as error:
        raise ValueError(f"{given}, but '{existing}' cannot be written: {error.strerror}. {remedy}") from error


def longest_socket(folder: Path) -> str:
    """Return the longest socket path that Ray will use for this process."""
    session = f"session_{datetime(2026, 1, 1):%Y-%m-%d_%H-%M-%S_%f}_{os.getpid()}"
    return f"{folder}/{session}/sockets/plasma_store"
