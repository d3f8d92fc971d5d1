"""Processes of a test cluster: started as children, watched while they get ready, ended by their ids."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from layout import ClusterError

TAIL = 15  # lines of a log that an error shows


@dataclass(frozen=True)
class Daemon:
    """A running child; `logs` are the files it may say something in, the more telling one first."""

    name: str
    process: subprocess.Popen[bytes]
    logs: tuple[Path, ...]

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def tail(self) -> str:
        """The last lines of its log, under the name of the file."""
        for path in self.logs:
            text = path.read_text(errors="replace") if path.exists() else ""
            if text.strip():
                return f"{path} ends with:\n" + "\n".join(text.splitlines()[-TAIL:])
        return f"{self.name} wrote nothing to {self.logs[0]}"


def start_daemon(name: str, command: Sequence[str | Path], *, environment: Mapping[str, str], log: Path) -> Daemon:
    """Start `command`, which stays in the foreground; what it prints goes beside `log`, the file it writes itself.

    The kernel ends it when this process dies without coming to the end of its work (``setpriv --pdeathsig``).
    A session of its own keeps Ctrl-C from it, so that the daemons can be ended in order.
    """
    printed = log.with_suffix(".err")
    with printed.open("ab") as out:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=dict(environment),
            start_new_session=True,
        )
    return Daemon(name, process, (log, printed))


def wait_until(ready: Callable[[], bool], *, what: str, daemons: Iterable[Daemon], seconds: float = 60) -> None:
    """Return when `ready()` is true.

    Raises:
        ClusterError: one of `daemons` has ended, or the time is over; with the tail of the log that may say why.
    """
    daemons = tuple(daemons)
    end = time.monotonic() + seconds
    while not ready():
        for daemon in daemons:
            if not daemon.running:
                raise ClusterError(f"{daemon.name} ended with code {daemon.process.returncode}. {daemon.tail()}")
        if time.monotonic() > end:
            tails = "\n".join(daemon.tail() for daemon in daemons)
            raise ClusterError(f"not within {seconds:.0f} s: {what}. {tails}")
        time.sleep(0.1)


def stop_daemon(daemon: Daemon, *, how: signal.Signals = signal.SIGTERM, seconds: float = 10) -> None:
    """End it and wait for that; by force when it takes longer than `seconds`."""
    if daemon.running:
        daemon.process.send_signal(how)
    try:
        daemon.process.wait(seconds)
    except subprocess.TimeoutExpired:
        daemon.process.kill()
        daemon.process.wait()
