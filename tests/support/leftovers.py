"""Find processes and shared memory that a test session left behind, and remove the session's temporary folder.

The session and its Ray sessions use one temporary folder. An environment variable marks the session's processes; child
processes inherit it.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil

MARK = "FIGMENT_TEST_SESSION"
"""Environment variable with the pid of the process that started the session."""

SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_NAMES = ("plasma", "torch_", "psm_")
"""Prefixes of the shared-memory files of Ray, torch and multiprocessing. Semaphores end with this process."""

ENDS_WITH_US = "multiprocessing.resource_tracker"
"""Part of the command line of a helper process of Python, which ends with its parent."""

END_SECONDS = 30.0
"""Timeout for the processes of a cluster to end after its shutdown."""


def own_temp_folder() -> Path:
    """Create and return a temporary folder for this session and all its processes.

    The folder has a short name, because Ray's sockets are in it and a socket's path has at most 107 bytes.
    """
    folder = tempfile.mkdtemp(prefix="figment-")
    os.environ |= {"TMPDIR": folder, "RAY_TMPDIR": folder, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
    tempfile.tempdir = None  # makes tempfile read TMPDIR again
    return Path(folder)


def mark_processes() -> None:
    """Mark all processes that this process starts from now on."""
    os.environ[MARK] = str(os.getpid())


def shared_memory() -> set[Path]:
    """Return the files in shared memory whose names start with `SHARED_MEMORY_NAMES`."""
    return {path for path in SHARED_MEMORY.iterdir() if path.name.startswith(SHARED_MEMORY_NAMES)}


def marked_processes() -> list[str]:
    """Return pid and command line of each process with this session's mark, except this process."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            is_ours = process.pid != os.getpid() and process.environ().get(MARK) == str(os.getpid())
            if is_ours and ENDS_WITH_US not in command:
                found.append(f"{process.pid}: {command[:200]}")
        except psutil.Error:  # the process has ended, is a zombie, or belongs to another user
            continue
    return found


def wait_for_marked_processes() -> list[str]:
    """Wait for marked processes to end; return the processes that still run after `END_SECONDS`."""
    give_up_at = time.monotonic() + END_SECONDS
    while (found := marked_processes()) and time.monotonic() < give_up_at:
        time.sleep(0.2)
    return found


def remove(folder: Path) -> None:
    """Remove the session's temporary folder, as far as possible."""
    shutil.rmtree(folder, ignore_errors=True)
