"""Find and remove processes, shared memory and temporary folders left by a test session.

The session has its own temporary folder, also for Ray's sessions, and marks its processes with an environment variable,
which their children inherit.
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
"""Prefixes of the shared-memory files of Ray, torch and multiprocessing; semaphores end with this process."""

ENDS_WITH_US = "multiprocessing.resource_tracker"
"""A helper process of Python that ends with its parent."""

END_SECONDS = 30.0
"""Timeout for the processes of a cluster to end after its shutdown."""


def own_temp_folder() -> Path:
    """Create and return a temporary folder for this session and all its processes.

    Its name is short, since it contains Ray's sockets and a socket's path has at most 107 bytes.
    """
    folder = tempfile.mkdtemp(prefix="figment-")
    os.environ |= {"TMPDIR": folder, "RAY_TMPDIR": folder, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
    tempfile.tempdir = None  # makes tempfile read the environment again
    return Path(folder)


def mark_processes() -> None:
    """Mark all processes started by this one from now on."""
    os.environ[MARK] = str(os.getpid())


def shared_memory() -> set[Path]:
    """Return the shared-memory files of these kinds on this machine."""
    return {path for path in SHARED_MEMORY.iterdir() if path.name.startswith(SHARED_MEMORY_NAMES)}


def marked_processes() -> list[str]:
    """Return the command lines of processes with this session's mark, except this one."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            is_ours = process.pid != os.getpid() and process.environ().get(MARK) == str(os.getpid())
            if is_ours and ENDS_WITH_US not in command:
                found.append(f"{process.pid}: {command[:200]}")
        except psutil.Error:  # ended, a zombie, or another user's
            continue
    return found


def wait_for_marked_processes() -> list[str]:
    """Wait for marked processes to end; return those still running after `END_SECONDS`."""
    give_up_at = time.monotonic() + END_SECONDS
    while (found := marked_processes()) and time.monotonic() < give_up_at:
        time.sleep(0.2)
    return found


def remove(folder: Path) -> None:
    """Remove the session's temporary folder."""
    shutil.rmtree(folder, ignore_errors=True)
