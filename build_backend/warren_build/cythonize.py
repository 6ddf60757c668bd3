"""Cython modules, built in place: ``cython_ext/<name>.pyx`` becomes ``warren._<name>``.

The sources are copied under the target directory first, with the name the module will have: Cython
finds a module's ``.pxd`` by that name, and its C files stay out of the checkout.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

from . import layout

#: Debug information would be nine tenths of what a wheel weighs.
_FLAGS = ["-O3", "-g0"]


def modules() -> list[str]:
    """Names of the Cython modules, as in ``warren._<name>``."""
    return sorted(path.stem for path in layout.CYTHON.glob("*.pyx"))


def build() -> None:
    """Brings the modules' shared objects in ``python/warren`` up to date."""
    names = modules()
    work = _work_dir()
    staged = work / "src" / "warren"
    layout.write_if_changed(staged / "__init__.pxd", b"")
    for name in names:
        for suffix in (".pyx", ".pxd"):
            source = layout.CYTHON / f"{name}{suffix}"
            if source.is_file():
                layout.write_if_changed(staged / f"_{name}{suffix}", source.read_bytes())
    _drop_stale(names)
    if names:
        _compile(names, work)


def _work_dir() -> Path:
    tag = sys.implementation.cache_tag
    return layout.target_dir() / "warren-build" / f"cython-{version('cython')}-{tag}"


def _drop_stale(names: list[str]) -> None:
    """Removes modules whose source is gone, so that no wheel ships them."""
    core = "_core"
    keep = {f"_{name}" for name in names} | {core}
    for path in layout.PACKAGE.glob("_*.so"):
        if path.name.split(".")[0] not in keep:
            path.unlink()


def _compile(names: list[str], work: Path) -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    with contextlib.chdir(work / "src"):
        extensions = [
            Extension(f"warren._{name}", [f"warren/_{name}.pyx"], extra_compile_args=_FLAGS)
            for name in names
        ]
        extensions = cythonize(
            extensions,
            build_dir=os.fspath(work / "c"),
            include_path=["."],
            quiet=True,
        )
        command = build_ext(Distribution({"name": "warren", "ext_modules": extensions}))
        command.build_lib = os.fspath(work / "lib")
        command.build_temp = os.fspath(work / "o")
        command.ensure_finalized()
        command.run()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name in names:
        built = work / "lib" / "warren" / f"_{name}{suffix}"
        layout.write_if_changed(layout.PACKAGE / built.name, built.read_bytes(), 0o755)
