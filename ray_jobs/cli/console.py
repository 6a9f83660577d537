"""What a command shows on the console of what Ray and other libraries print: with `log_level=debug` all, else nothing.

Ray's C++ code writes to file descriptor 2, past `sys.stderr`. A command keeps a copy of that descriptor for its own
lines, and sends the original to a log file once it has one.
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

        self._is_kept = False

    def keep(self) -> None:
        """Let `sys.stderr`, and the trace of a crash, write to a copy of file descriptor 2."""
        if self._is_kept:
            return
        sys.stderr.flush()
        copy = os.dup(2)
        sys.stderr = open(copy, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)  # noqa: SIM115
        self._is_kept = True

    def send_native_messages_to(self, log: Path) -> None:
        """Append what goes to file descriptor 2 from here on to a log file, unless it is to be shown.

        Without `keep` it stays where it is: `sys.stderr` would go there too.
        """
        if not self._is_kept or self.shows_libraries:
            return
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        faulthandler.enable(sys.stderr)


CONSOLE = Console()
"""That of this process."""
