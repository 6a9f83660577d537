"""End a job at Ctrl-C or SIGTERM (`kill`, `timeout`, `scancel`, systemd, `ray job stop`) with one line.

A signal to the whole process group or control group ends a local Ray too. The driver would then wait a minute for Ray's
head and be aborted by Ray, so the exit does not wait for a Ray that has ended.
"""

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

WORDS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}
"""The signals that end a job, and the word printed for each."""

LONGEST_END_SECONDS = 25.0
"""Time limit of an orderly exit; Slurm and Kubernetes send SIGKILL after 30 s."""

END_WITHOUT_RAY_SECONDS = 2.0
"""Time limit of the clean-up once Ray's head has ended."""

POLL_SECONDS = 0.2


class Termination:
    """Handler of SIGTERM and Ctrl-C, and the line that it prints."""

    def __init__(self) -> None:
        self._hints: list[str] = []
        self._head = ""
        self._waker: socket.socket | None = None
        self._announcing = threading.RLock()  # the handler may interrupt its own thread while that announces
        self.has_begun = False
        self.status = 0

    @property
    def hint(self) -> str:
        """What remains of the work and how to resume, in one line; empty if nothing is known."""
        return next((hint for hint in reversed(self._hints) if hint), "")

    @contextmanager
    def with_hint(self, hint: str) -> Iterator[None]:
        """Set the hint for a signal during the body; an inner body's hint takes precedence unless it is empty."""
        self._hints.append(hint)
        try:
            yield
        finally:
            self._hints.pop()

    def handle(self, head: str | None = None) -> None:
        """Handle both signals from here on; `head` is HOST:PORT of the Ray cluster that an orderly end needs."""
        if head is not None:
            self._head = head
        if threading.current_thread() is not threading.main_thread() or self.has_begun:
            return
        for number in WORDS:
            if signal.getsignal(number) == signal.SIG_IGN:  # a background job of a script ignores Ctrl-C
                continue
            signal.signal(number, lambda number, _: self.begin(signal.Signals(number)))
        if self._waker is None:
            woken, self._waker = socket.socketpair()
            self._waker.setblocking(False)
            signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(woken,), daemon=True).start()
            atexit.register(self._exit_with_status)  # before Ray's own, so that it comes after it

    def begin(self, number: signal.Signals) -> NoReturn:
        """Print what remains, and raise SystemExit; the clean-up that follows has limited time."""
        for each in WORDS:
            signal.signal(each, signal.SIG_IGN)  # `timeout` sends one to the process and one to its group
        self._announce(number)
        sys.exit(self.status)

    def _exit_with_status(self) -> None:
        """Exit with the signal's status, because a Ray call interrupted by a signal raises SystemExit with status 1."""
        if self.has_begun:
            with suppress(OSError, ValueError):  # its reader may have ended
                sys.stdout.flush()
            os._exit(self.status)

    def _watch(self, woken: socket.socket) -> None:
        """Notice a signal while the main thread waits in a Ray call, where Python runs no handler."""
        while (number := woken.recv(1)[0]) not in WORDS:
            pass
        self._announce(signal.Signals(number))

    def _announce(self, number: signal.Signals) -> None:
        """Print once what remains, and start the time limit of the exit."""
        with self._announcing:
            if self.has_begun:
                return
            self.has_begun, self.status = True, 128 + number  # as in shells
        with suppress(OSError, ValueError):  # not by print, which the signal may have interrupted
            os.write(sys.stderr.fileno(), f"{f'{WORDS[number]}. {self.hint}'.rstrip()}\n".encode())
        threading.Thread(target=_exit_late, args=(self._head, self.status), daemon=True).start()


TERMINATION = Termination()
"""The signal handler of this process."""


def _exit_late(head: str, status: int) -> None:
    """Exit without further clean-up at the time limit, which is shorter without a running Ray head."""
    began_at = time.monotonic()
    while time.monotonic() - began_at < LONGEST_END_SECONDS and _is_running(head):
        time.sleep(POLL_SECONDS)
    time.sleep(END_WITHOUT_RAY_SECONDS)
    os._exit(status)


def _is_running(head: str) -> bool:
    host, _, port = head.rpartition(":")
    if not head:
        return False
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except TimeoutError:  # busy
        return True
    except OSError:
        return False
    return True
