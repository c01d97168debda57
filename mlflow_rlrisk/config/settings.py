"""What all settings share: frozen, checked, unknown keys are errors that name the field."""

import hashlib
import json
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mlflow_rlrisk.errors import ConfigError

LARGEST_COUNT = 2**31 - 1
"""More of anything than arrays can index is a slip of the hand."""
PositiveInt = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _said_once(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """One fault under the name that was given, where pydantic tells one for each type."""
    try:
        return check(value)
    except ValidationError as error:
        need = "a text, a finite number, true or false is needed"
        raise PydanticCustomError("plain_value", need) from error


Plain = Annotated[str | int | float | bool, WrapValidator(_said_once)]
"""A value of a mapping whose names are not ours."""


class Settings(BaseModel):
    """Base of every settings record: frozen, unknown keys are errors, faults name the field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        """Check ``values``; the first fault is raised as `ConfigError` naming the field."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _first_fault(type(self), error) from error

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, values: Any) -> Any:
        """``yes`` in YAML is True, and pydantic would read it as 1."""
        for name, field in cls.model_fields.items():
            value = values.get(name) if isinstance(values, dict) else None
            is_boolean = isinstance(value, bool | np.bool_)
            if is_boolean and field.annotation in (int, float, float | None):
                raise ConfigError(name, value, "a number is needed")
        return values

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of all settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _first_fault(model: type[BaseModel], error: ValidationError) -> ConfigError:
    faults = error.errors()  # a name that is not known explains one that is missing
    first = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):  # of a record in this one
        place = ".".join(str(part) for part in (*first["loc"], inner.field))
        return ConfigError(place, inner.value, inner.need)
    need = first["msg"]
    if first["type"] == "extra_forbidden":
        need = f"unknown setting; known: {', '.join(sorted(model.model_fields))}"
    name = ".".join(str(part) for part in first["loc"]) or model.__name__
    if first["type"] == "missing":
        return ConfigError(name, None, "a value is needed")
    return ConfigError(name, first.get("input"), need)
