"""What the application is given: every part that touches the world comes in through here.

A test hands in other parts; `service.serve` hands in the real ones.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.registry.reader import RegistryReader
    from service.signing.protocol import Signer
    from service.tables.assessments import AssessmentTable
    from service.tables.tokens import TokenTable

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Where everybody may be let in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The parts of a running service.

    Attributes:
        jobs: The accepted assessments, durable; a worker finds them there.
        tokens: Who may call; ``None`` lets everybody in and is refused beyond loopback.
        registry: Models, versions and reports in MLflow; ``None`` serves no dashboard.
        signer: The process that holds the key; ``None``: reports stay advisory, no override.
        clock: Seconds since the epoch.
        max_streams: Streams of events at once in this process; each holds a thread.
    """

    jobs: "AssessmentTable"
    tokens: "TokenTable | None" = None
    registry: "RegistryReader | None" = None
    signer: "Signer | None" = None
    clock: Callable[[], float] = time.time
    max_streams: int = 16
