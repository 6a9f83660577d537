"""How a job ends at a signal, in one line: Ctrl-C, or SIGTERM of `kill`, `timeout`, `scancel`, systemd, `ray job stop`.

A signal to the whole process group or control group ends a local Ray too. Its driver would then wait for Ray's head for
a minute, and be aborted by Ray: the end of such a job does not wait for Ray.
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
"""The signals that end a job, and how each is told."""

LONGEST_END_SECONDS = 25.0
"""Limit of an orderly end; Slurm and Kubernetes send SIGKILL after 30 s."""

END_WITHOUT_RAY_SECONDS = 2.0
"""Limit of an end once Ray's head is gone: what needs no Ray takes less."""

POLL_SECONDS = 0.2


class Termination:
    """What a job says at SIGTERM or Ctrl-C, and whether one came."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._head = ""
        self._waker: socket.socket | None = None
        self._announcing = threading.RLock()  # the handler may come amid its own thread's
        self.has_begun = False
        self.status = 0

    @property
    def kept(self) -> str:
        """What stays of the work so far and how to go on, in one line; empty if nothing is known."""
        return next((kept for kept in reversed(self._kept) if kept), "")

    @contextmanager
    def keeping(self, kept: str) -> Iterator[None]:
        """Set what stays if the body does not end; an inner body's goes before."""
        self._kept.append(kept)
        try:
            yield
        finally:
            self._kept.pop()

    def handle(self, head: str | None = None) -> None:
        """Handle both signals from here on; `head` is HOST:PORT of the Ray cluster that an orderly end needs."""
        if head is not None:
            self._head = head
        if threading.current_thread() is not threading.main_thread() or self.has_begun:
            return
        for number in WORDS:
            if signal.getsignal(number) == signal.SIG_IGN:  # a script's job in the background: Ctrl-C is not for it
                continue
            signal.signal(number, lambda number, _: self.begin(signal.Signals(number)))
        if self._waker is None:
            woken, self._waker = socket.socketpair()
            self._waker.setblocking(False)
            signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(woken,), daemon=True).start()
            atexit.register(self._exit_with_status)  # before Ray's own, so that it comes after it

    def begin(self, number: signal.Signals) -> NoReturn:
        """Say what is kept, and end by SystemExit, for which the work's own clean-up has limited time."""
        for each in WORDS:
            signal.signal(each, signal.SIG_IGN)  # `timeout` sends one to the process and one to its group
        self._announce(number)
        sys.exit(self.status)

    def _exit_with_status(self) -> None:
        """Exit with the signal's status: a call of Ray's that a signal ends makes another SystemExit of it, with 1."""
        if self.has_begun:
            with suppress(OSError, ValueError):  # nobody reads it any more
                sys.stdout.flush()
            os._exit(self.status)

    def _watch(self, woken: socket.socket) -> None:
        """See a signal also while the main thread waits in a call of Ray's, where Python runs no handler."""
        while (number := woken.recv(1)[0]) not in WORDS:
            pass
        self._announce(signal.Signals(number))

    def _announce(self, number: signal.Signals) -> None:
        """Say once what is kept, and limit the time of the end."""
        with self._announcing:
            if self.has_begun:
                return
            self.has_begun, self.status = True, 128 + number  # as shells have it
        with suppress(OSError, ValueError):  # not by print: the signal may have come amid one
            os.write(sys.stderr.fileno(), f"{f'{WORDS[number]}. {self.kept}'.rstrip()}\n".encode())
        threading.Thread(target=_exit_late, args=(self._head, self.status), daemon=True).start()


TERMINATION = Termination()
"""That of this process: there is one handler of a signal."""


def _exit_late(head: str, status: int) -> None:
    """Exit without clean-up if that takes too long, sooner where there is no head of Ray's, or no more."""
    began_at = time.monotonic()
    while time.monotonic() - began_at < LONGEST_END_SECONDS and _is_there(head):
        time.sleep(POLL_SECONDS)
    time.sleep(END_WITHOUT_RAY_SECONDS)
    os._exit(status)


def _is_there(head: str) -> bool:
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
