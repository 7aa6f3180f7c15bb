"""What mypyc is to know of a class where the package is compiled; it says nothing where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_attributes):
        """Leave the class as it is. See "Native classes" in mypyc's documentation."""
        return lambda of_class: of_class


__all__ = ["mypyc_attr"]
