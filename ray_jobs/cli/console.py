"""Hide the messages of Ray and other libraries from a command's console, unless `log_level` is `debug`.

Ray's C++ code writes to file descriptor 2, not to `sys.stderr`. A command writes its own lines to a copy of that
descriptor, and redirects the original to a log file once it has one.
"""

import faulthandler
import os
import sys
from pathlib import Path


class Console:
    """The console of this process."""

    def __init__(self) -> None:
        self.shows_libraries = False
        """Whether messages of libraries are shown."""

        self._is_detached = False

    def detach_stderr(self) -> None:
        """Redirect `sys.stderr` and crash traces to a copy of file descriptor 2."""
        if self._is_detached:
            return
        sys.stderr.flush()
        copy = os.dup(2)
        sys.stderr = open(copy, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)  # noqa: SIM115
        self._is_detached = True

    def send_native_messages_to(self, log: Path) -> None:
        """Redirect file descriptor 2 to a log file, unless library messages are shown.

        Does nothing before `detach_stderr`, because `sys.stderr` would be redirected too.
        """
        if not self._is_detached or self.shows_libraries:
            return
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        faulthandler.enable(sys.stderr)


CONSOLE = Console()
"""The console of this process."""
