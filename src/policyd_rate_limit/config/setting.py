"""The declaration of settings: default, kind, unit, whether a reload changes it or it is secret, prose.

And of what has them: a data class, which reads each of its values as the kind of the setting has it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Self

from policyd_rate_limit.config.kind import Fault, Kind, Wrong


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
    kind: Kind,
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
    that gives it no value leaves it at its default. ``reporting``: it concerns the report, the alerts or the web page
    alone, so that a mistake in it fails only those. ``heading``: begins a part of the sample files. ``sample``: the
    value there, where that is not the default.
    """
    about = {
        "kind": kind,
        "default": default,
        "prose": " ".join(prose.split()),
        "unit": unit,
        "reload": reload,
        "secret": secret,
        "may_be_empty": may_be_empty,
        "reporting": reporting,
        "heading": heading,
        "sample": sample,
    }
    return field(repr=not secret, metadata=about)


class SettingsError(ValueError):
    """Some settings have values that they cannot have: the ``faults`` of each, by its name. The text shows no value."""

    def __init__(self, faults: Mapping[str, tuple[Fault, ...]]) -> None:
        self.faults = faults
        super().__init__(", ".join(f"{name}: {Wrong(*found)}" for name, found in faults.items()))


@dataclass(frozen=True, init=False)
class Declared:
    """The base of frozen data classes whose fields are settings."""

    def __init__(self, **values: Any) -> None:
        """Read ``values``, as a file may hold them; what is not given has its default.

        Raises SettingsError, with everything that is wrong, and TypeError where a name is no setting.
        """
        settings = self.declarations()
        unknown = values.keys() - settings.keys()
        if unknown:
            raise TypeError(f"no settings: {', '.join(sorted(unknown))}")
        faults: dict[str, tuple[Fault, ...]] = {}
        for name, about in settings.items():
            try:
                object.__setattr__(self, name, about.kind.read(values.get(name, about.default)))
            except Wrong as wrong:
                faults[name] = wrong.faults
        if faults:
            raise SettingsError(faults)

    @classmethod
    @cache
    def declarations(cls) -> Mapping[str, Setting]:
        """The settings, by name, in the order in which they are declared."""
        return {one.name: Setting(one.name, **one.metadata) for one in fields(cls) if one.metadata}

    def with_values(self, **values: Any) -> Self:
        """The same, but for ``values``, each as it stands in others of this class: they are not read once more."""
        changed = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(changed, name, value)
        return changed
