"""The declaration of one setting: default, kind, unit, whether a reload changes it or it is secret, prose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

from policyd_rate_limit.config.kinds import Kind


@dataclass(frozen=True)
class Setting:
    """What is known of one setting beside its value."""

    name: str
    default: Any
    kind: Kind
    prose: str
    unit: str
    reload: bool
    secret: bool
    may_be_empty: bool
    reporting: bool
    heading: str
    sample: Any = None

    @property
    def sampled(self) -> Any:
        """Its value in the sample files: the default, unless another one is better for whoever begins today."""
        return self.default if self.sample is None else self.sample


def setting(
    default: object,
    prose: str,
    *,
    unit: str = "",
    reload: bool = False,
    secret: bool = False,
    may_be_empty: bool = False,
    reporting: bool = False,
    heading: str = "",
    sample: object = None,
) -> Any:
    """Declare a setting.

    ``reload``: a reload changes it. ``secret``: its value appears in no message. ``may_be_empty``: a file
    that gives it no value leaves it at its default. ``reporting``: it concerns the report or the alerts alone, so
    that a mistake in it fails only those. ``heading``: begins a part of the sample files. ``sample``: the value there,
    where that is not the default.
    """
    about = {
        "unit": unit,
        "reload": reload,
        "secret": secret,
        "may_be_empty": may_be_empty,
        "reporting": reporting,
        "heading": heading,
        "sample": sample,
    }
    return Field(
        default,
        description=" ".join(prose.split()),
        repr=not secret,
        json_schema_extra=about,  # type: ignore[arg-type]  # dict is invariant, and all of these are JSON
    )


def declared(model: type[BaseModel]) -> dict[str, Setting]:
    """The declarations of ``model``, as pydantic keeps them, by name."""
    found = {}
    for name, field in model.model_fields.items():
        kind = next(item for item in field.metadata if isinstance(item, Kind))
        about: Any = field.json_schema_extra
        found[name] = Setting(name, field.default, kind, field.description or "", **about)
    return found
