"""Why queries cannot be evaluated: what torchreid's assertion does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchreid_spectral.evaluation.inputs import as_ids, check_ids
from torchreid_spectral.evaluation.ranking import positions_of

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """Which queries are dropped, and why.

    Args:
        num_queries: Queries given.
        absent: Indices of queries whose identity is not in the gallery.
        same_camera: Indices of queries whose identity is there, but only from the query's camera.
        cameras: How many different cameras query and gallery have together.
    """

    num_queries: int
    absent: NDArray[np.int64]
    same_camera: NDArray[np.int64]
    cameras: int

    @property
    def num_valid(self) -> int:
        """Queries that count."""
        return self.num_queries - len(self.absent) - len(self.same_camera)

    def __str__(self) -> str:
        if self.num_valid == self.num_queries:
            return f"All {self.num_queries} queries can be evaluated."
        dropped = self.num_queries - self.num_valid
        lines = [f"{dropped} of {self.num_queries} queries are left out:"]
        for rows, why in (
            (self.absent, "the identity is not in the gallery"),
            (self.same_camera, "the identity is in the gallery from the query's own camera only"),
        ):
            if len(rows):
                more = ", ..." if len(rows) > 5 else ""
                shown = ", ".join(str(row) for row in rows[:5])
                lines.append(f"  {len(rows)}: {why} (queries {shown}{more})")
        if self.cameras == 1:
            lines.append(
                "  All images carry one camera id. The protocol leaves out gallery images of the "
                "query's identity and camera: give each camera its own id."
            )
        return "\n".join(lines)


def diagnose(
    q_pids: NDArray[Any], g_pids: NDArray[Any], q_camids: NDArray[Any], g_camids: NDArray[Any]
) -> Diagnosis:
    """Find the queries without a gallery image of their identity from another camera.

    Args:
        q_pids: ``(Q,)`` identities.
        g_pids: ``(G,)`` identities.
        q_camids: ``(Q,)`` cameras.
        g_camids: ``(G,)`` cameras.

    Returns:
        The queries that are dropped and why; as text it explains itself.

    Raises:
        InputError: If there is not one camera for each identity.

    Example:
        >>> print(diagnose(*(np.array(ids) for ids in ([1, 2], [1, 1], [0, 0], [0, 1]))))
        1 of 2 queries are left out:
          1: the identity is not in the gallery (queries 1)
    """
    q_pids, g_pids, q_camids, g_camids = map(as_ids, (q_pids, g_pids, q_camids, g_camids))
    check_ids(q_pids, g_pids, q_camids, g_camids)
    cameras_of = {pid: set(g_camids[rows].tolist()) for pid, rows in positions_of(g_pids).items()}
    absent, same = [], []
    for row, (pid, camid) in enumerate(zip(q_pids.tolist(), q_camids.tolist())):
        cameras = cameras_of.get(pid)
        if cameras is None:
            absent.append(row)
        elif cameras == {camid}:
            same.append(row)
    count = len(np.union1d(q_camids, g_camids))
    absent_rows, same_rows = (np.array(rows, dtype=np.int64) for rows in (absent, same))
    return Diagnosis(len(q_pids), absent_rows, same_rows, count)
