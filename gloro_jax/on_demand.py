"""Public names of a package, imported when they are first asked for."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def on_demand(
    package: str, rooms: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The package's `__getattr__` and `__dir__`.

    Args:
        package: its `__name__`.
        rooms: the module of each name, inside the package, for several names with spaces between
            them; "" for modules themselves.
    """
    room_of = {name: room for names, room in rooms.items() for name in names.split()}
    own = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in room_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not (room := room_of[name]):
            return importlib.import_module(f"{package}.{name}")
        own[name] = getattr(importlib.import_module(f"{package}.{room}"), name)
        return own[name]

    def names() -> list[str]:
        """The public names; other modules that happen to be imported are not among them."""
        return sorted({*room_of, *(name for name in own if name.startswith("__"))})

    return get, names
