"""``python -m warren_build [STEP…]``: the build steps in place, for work in the checkout.

Steps: ``stubs``, ``cython``, ``logger``, ``core``; all of them when none is named.
``--profile`` names cargo's profile (``dev`` by default, for quick builds).
"""

from __future__ import annotations

import argparse
import time

from . import cargo, cythonize, stubs


def main() -> None:
    """Runs the named steps in their order and says what each took."""
    steps = {
        "stubs": stubs.generate,
        "cython": cythonize.build,
        "logger": lambda: cargo.build_logger(arguments.profile),
        "core": lambda: cargo.build_core(arguments.profile),
    }
    parser = argparse.ArgumentParser(prog="warren_build", description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(steps))
    parser.add_argument("--profile", default="dev", help="cargo profile (default: dev)")
    arguments = parser.parse_args()
    unknown = set(arguments.steps) - set(steps)
    if unknown:
        parser.error(f"unknown step {', '.join(sorted(unknown))}; the steps are {', '.join(steps)}")
    for name, step in steps.items():
        if not arguments.steps or name in arguments.steps:
            started = time.monotonic()
            step()
            print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
