"""One line of the registry in `thresholds`."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One line.

    Attributes:
        id: Stable name. ``component.<name>`` belongs to a component of the index,
            ``policy.<field>`` to a field of `PolicyConfig`; the others are context.
        values: The numbers by name.
        meaning: What is claimed at the line.
        source: Who drew it.
        scope: On what it was seen, and how strong that is.
        default_use: What the default policy does with it.
    """

    id: str
    values: Mapping[str, float]
    meaning: str
    source: str
    scope: str
    default_use: str


def line(
    name: str, meaning: str, source: str, scope: str, default_use: str, **values: float
) -> Threshold:
    """A `Threshold` whose ``values`` are given by name."""
    texts = {"meaning": meaning, "source": source, "scope": scope, "default_use": default_use}
    return Threshold(id=name, values=MappingProxyType(values), **texts)
