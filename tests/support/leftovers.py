"""What a test session may leave behind: processes, shared memory and temporary folders, all of which it must remove.

The session has a temporary folder of its own, also for Ray's sessions, and marks its processes by an environment
variable, which all that they start inherit.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil

MARK = "FIGMENT_TEST_SESSION"
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_NAMES = ("plasma", "torch_", "psm_")
"""How the names of shared-memory files of Ray, torch and multiprocessing begin; semaphores go with this process."""

ENDS_WITH_US = "multiprocessing.resource_tracker"
"""A helper of Python's own that ends when the process that started it does."""

END_SECONDS = 30.0
"""Processes of a cluster that has been shut down end within this time."""


def own_temp_folder() -> Path:
    """Make a temporary folder for this session and all its processes, and return it.

    Its name is short: Ray's sockets are below it, and a socket's path has at most 107 bytes.
    """
    folder = tempfile.mkdtemp(prefix="figment-")
    os.environ |= {"TMPDIR": folder, "RAY_TMPDIR": folder, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
    tempfile.tempdir = None  # it is read from the environment again
    return Path(folder)


def mark_processes() -> None:
    """Mark all processes that this one starts from now on."""
    os.environ[MARK] = str(os.getpid())


def shared_memory() -> set[Path]:
    """Return the shared-memory files on this machine that are of these kinds."""
    return {path for path in SHARED_MEMORY.iterdir() if path.name.startswith(SHARED_MEMORY_NAMES)}


def marked_processes() -> list[str]:
    """Return the command lines of processes with this session's mark, this one aside."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            is_ours = process.pid != os.getpid() and process.environ().get(MARK) == str(os.getpid())
            if is_ours and ENDS_WITH_US not in command:
                found.append(f"{process.pid}: {command[:200]}")
        except psutil.Error:  # ended meanwhile, a zombie, or another user's
            continue
    return found


def wait_for_marked_processes() -> list[str]:
    """Return the marked processes that are still there after `END_SECONDS`."""
    give_up_at = time.monotonic() + END_SECONDS
    while (found := marked_processes()) and time.monotonic() < give_up_at:
        time.sleep(0.2)
    return found


def remove(folder: Path) -> None:
    """Remove the session's temporary folder."""
    shutil.rmtree(folder, ignore_errors=True)
