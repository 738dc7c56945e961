"""What stops a run: signals, and numbers that are not finite."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

from torchreid_spectral.errors import RunError

__all__ = ["Interrupted", "NotFinite", "StopSignals"]

logger = logging.getLogger(__name__)

GRACE = 3.0
_MAX_SKIPPED_IN_A_ROW = 20


class Interrupted(RunError):
    """A run was told to stop; its state is saved.

    Args:
        message: What to tell.
        signum: The signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class StopSignals:
    """Turns the first SIGTERM or Ctrl-C into a wish that the loop looks at between steps.

    What comes within :data:`GRACE` seconds of it is the same wish: a scheduler may signal all
    processes of a job, and torchrun pass its own on. One that comes later ends the process as if
    there were no handler.
    """

    def __init__(self) -> None:
        self.received, self._since = 0, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._since = signum, now
        elif now - self._since > GRACE:
            self._give_back()
            signal.raise_signal(signum)

    def _give_back(self) -> None:
        while self._before:
            signum, handler = self._before.popitem()
            # None: one that was not set from Python, and cannot be put back from there
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


class NotFinite:
    """Decides what becomes of a step whose loss or gradient is not finite.

    Args:
        policy: ``stop`` or ``skip``.

    Attributes:
        skipped: Steps that were passed over.
        checkpoint: The last good one, for the message.
    """

    def __init__(self, policy: str) -> None:
        self.policy, self.skipped, self._in_a_row, self._overflows = policy, 0, 0, 0
        self.checkpoint = "none yet"

    def allows(self, values: Mapping[str, float], data: Mapping[str, Any]) -> bool:
        """Say whether the optimiser may take the step.

        Args:
            values: What must be finite, by name.
            data: The batch, for its file names.

        Returns:
            ``False`` where the step is to be passed over.

        Raises:
            RunError: If the policy is to stop, or nothing but such steps come.
        """
        wrong = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            self._in_a_row = 0
            return True
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        what = f"The training step is not finite ({', '.join(wrong)})"
        if self.policy == "skip" and self._in_a_row <= _MAX_SKIPPED_IN_A_ROW:
            logger.warning("%s and is passed over. Its images: %s", what, _files(data))
            return False
        raise self._stop(what, data)

    def let_overflow(self, norm: float, data: Mapping[str, Any]) -> None:
        """Let a scaler pass over a gradient that overflows and lower its scale, not for ever.

        Args:
            norm: Of the gradient.
            data: The batch, for its file names.

        Raises:
            RunError: If no scale helps.
        """
        self._overflows = 0 if math.isfinite(norm) else self._overflows + 1
        if self._overflows > _MAX_SKIPPED_IN_A_ROW:
            what = f"The gradient is not finite in {self._overflows} steps under any scale"
            raise self._stop(what, data)

    def _stop(self, what: str, data: Mapping[str, Any]) -> RunError:
        return RunError(
            f"{what}. Last good checkpoint: {self.checkpoint}. Lower train.lr, clip with "
            "train.clip_norm, or pass over such steps with train.on_nan skip; go on with "
            f"model.resume auto. The batch's images: {_files(data)}"
        )


def _files(data: Mapping[str, Any]) -> str:
    return ", ".join(map(str, data.get("impath", []))) or "unnamed"
