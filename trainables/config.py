"""Frozen configs, and configs made from the signature of a registered function."""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, create_model, model_validator
from pydantic_core import PydanticCustomError


class Config(BaseModel):
    """A frozen, strict config: unknown keys, NaN, infinity and implicit conversions are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    known = list(cls.model_fields)
                    raise PydanticCustomError(
                        "unknown_key", "unknown key", {"key": key, "known": known}
                    )
        return data


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Listed = BeforeValidator(_tupled)
"""Marks a tuple field: there, a list in YAML is one value and not a sweep axis."""


def options_config(
    name: str, function: Callable[..., Any], base: type[Config] = Config
) -> type[Config]:
    """The config `{name: NAME, option: value, …}` of a registered function.

    The function's keyword-only parameters with an annotation and a default are its options; one
    without a default is a required key. `base` adds the fields every entry of a registry shares.
    """
    fields: dict[str, Any] = {"name": (Literal[name], ...)}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            required = parameter.default is inspect.Parameter.empty
            fields[parameter.name] = (
                parameter.annotation,
                ... if required else parameter.default,
            )
    return create_model(f"{name}_options", __base__=base, **fields)


def options_of(config: Config, function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword arguments `config` holds for `function`."""
    parameters = inspect.signature(function).parameters.values()
    return {
        parameter.name: getattr(config, parameter.name)
        for parameter in parameters
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def canonical(config: Config) -> dict[str, Any]:
    """The values that decide numbers, as plain JSON types; fields that are None are left out,
    so that a new optional field does not change the identity of older configs."""
    return config.model_dump(mode="json", exclude_none=True)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, whatever their order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
