"""What is installed in another Python environment, by its packages' metadata: nothing of it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PLACES = tuple(
    f"{lib}/python*/{packages}"
    for lib in ("lib", "local/lib", "lib64")
    for packages in ("site-packages", "dist-packages")
)


def installed(python: Path | None, name: str) -> tuple[str, ...]:
    """Return the packages, as `name-version`, whose name begins so, in the environment of an interpreter."""
    if python is None or not python.is_file():
        return ()
    root = python.parent.parent  # not resolved: an environment's interpreter is a link
    found = {path.name for place in _PLACES for path in root.glob(f"{place}/{name}*-*.dist-info")}
    return tuple(sorted(item.removesuffix(".dist-info") for item in found))
