"""The driver's side of a variant of peers_speed.py: its process, which runs only in its turns."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from speed_case import ANSWER, ORDERS

HERE = Path(__file__).parent
OURS = "ours"
VARIANTS = {
    OURS: ("speed_ours.py",),
    "stock TFF": ("speed_tff.py",),
    "FedJAX, jit": ("speed_fedjax.py", "jit"),
    "FedJAX, pmap": ("speed_fedjax.py", "pmap"),
    "PyTorch, 1 thread": ("speed_torch.py", "1"),
    "PyTorch, 2 threads": ("speed_torch.py", "2"),
    "pfl, 2 threads": ("speed_pfl.py", "1"),
    "pfl, 2 processes": ("speed_pfl.py", "2"),
    "Flower, Ray": ("speed_flower.py",),
}
"""The script of each variant, with its own arguments."""
IN_OUR_ENVIRONMENT = ("speed_ours.py", "speed_tff.py")
START = 900.0
"""Most seconds until a process is ready, with the making of its environment."""


class Failed(Exception):
    """A variant gives no times; the text is for its cell."""


@dataclass
class Child:
    """The process of a variant."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    most: float
    """Most seconds of a round."""
    seconds: list[float] = field(default_factory=list)
    """Of each round, also those that are not counted."""
    saved: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """By round: the global parameters (P,) after round 1 and round ORDERS."""

    def __post_init__(self) -> None:
        # It knows if the number of an ended process has gone to another one.
        self._whole = psutil.Process(self.process.pid)
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode(errors="replace").strip()
            if text.startswith(ANSWER):
                self._answers.put(text.removeprefix(ANSWER))
        self._answers.put("")  # it has ended

    def ready(self) -> None:
        """Waits until the process can run rounds."""
        with self._running():
            self._answer(START)

    def round(self) -> None:
        """Runs a round."""
        path = self.log.with_suffix(".npy")
        with self._running():
            self.seconds.append(float(self._ask("round")))
            if len(self.seconds) in (1, ORDERS):
                self._ask(f"save {path}")
                self.saved[len(self.seconds)] = np.load(path)

    def _ask(self, command: str) -> str:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `_answer` says why
            self.process.stdin.write(f"{command}\n".encode())
            self.process.stdin.flush()
        return self._answer(self.most)

    def _answer(self, most: float) -> str:
        try:
            answer = self._answers.get(timeout=most)
        except queue.Empty:
            raise Failed(f"stopped after {most:.0f} s") from None
        if not answer:
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            raise Failed(f"failed: {lines[-1] if lines else 'without a message'}"[:200].replace("|", "/"))
        return answer

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            for each in [self._whole, *self._whole.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(number)

    def close(self) -> None:
        """Ends the process and those that it started."""
        self._signal(signal.SIGCONT)
        with suppress(psutil.NoSuchProcess):
            started = self._whole.children(recursive=True)
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            self.process.kill()
            for each in started:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.wait()


def start(name: str, folder: Path, most: float, arguments: tuple[str, ...] = ()) -> Child:
    """Starts the process of a variant."""
    script, *own = VARIANTS[name]
    uv = Path(sys.executable).with_name("uv")
    python = [sys.executable] if script in IN_OUR_ENVIRONMENT else [uv, "run", "--quiet"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    log = folder / f"{script.removesuffix('.py')}_{'_'.join(own)}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*python, HERE / script, folder, *own, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=env,
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the others
        )
    return Child(name, process, log, most)
