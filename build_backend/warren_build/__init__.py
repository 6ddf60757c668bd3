"""The build backend of Warren (PEP 517, in-tree).

A wheel is made in four steps, each of which skips what is up to date:

1. ``stubs``    Python modules from ``proto/`` into ``python/warren/pb/``;
2. ``cythonize``  ``cython_ext/*.pyx`` into ``python/warren/_<name>*.so``;
3. ``cargo``    the container logger into ``python/warren/bin/warren-log``;
4. maturin builds ``warren._core`` and packs all of it.

The same steps with ``warren._core`` copied into the checkout instead of a wheel are
``python -m warren_build``, which is what ``make dev`` runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from . import cargo, cythonize, editable, layout, sdist, stubs

Settings = Mapping[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Nothing beyond ``build-system.requires``: a Rust toolchain is asked for, not fetched."""
    return []


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """Nothing beyond ``build-system.requires``."""
    return []


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    """Writes the ``.dist-info`` directory and returns its name."""
    return str(_maturin().prepare_metadata_for_build_wheel(metadata_directory, config_settings))


def build_wheel(
    wheel_directory: str,
    config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    """Builds the wheel into ``wheel_directory`` and returns its file name."""
    maturin = _maturin()
    stubs.generate()
    cythonize.build()
    cargo.build_logger(profile="release")
    return str(maturin.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Writes the source archive into ``sdist_directory`` and returns its file name."""
    return sdist.write(sdist_directory, prepare_metadata_for_build_wheel)


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """Nothing beyond ``build-system.requires``."""
    return []


def prepare_metadata_for_build_editable(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    """Writes the ``.dist-info`` directory and returns its name."""
    return prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def build_editable(
    wheel_directory: str,
    config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    """Builds everything in place, and a wheel that only points at the checkout.

    With the setting ``build=no`` it only points: ``make dev`` builds afterwards, so that a core
    that does not compile stops nobody's work on the rest.
    """
    if (config_settings or {}).get("build") != "no":
        in_place(profile="dev")
    return editable.write(wheel_directory, prepare_metadata_for_build_wheel)


def in_place(profile: str) -> None:
    """Brings everything generated in the checkout up to date; ``profile`` is cargo's."""
    cargo.require()
    stubs.generate()
    cythonize.build()
    cargo.build_logger(profile)
    cargo.build_core(profile)


def _maturin() -> Any:
    cargo.require()
    # Without build isolation pip does not put the environment's scripts on the path, and maturin
    # is started as a command. Last, so that an isolated environment's own maturin wins.
    os.environ["PATH"] = os.pathsep.join(
        [os.environ.get("PATH", ""), os.path.dirname(sys.executable)]
    )
    os.chdir(layout.ROOT)
    import maturin

    return maturin
