"""What `warrenctl --help` costs beside importing click.

Whole processes, one kind after the other in turns, so that a busy machine slows all alike. Rows:
the interpreter alone; `python -c 'import click'`, the measure; `warrenctl --help`; a completion,
which imports a noun's module as well. `ratio` is the median divided by that of importing click:
the goal for `--help` is at most 1.25.

    python -m benches.cli_help [--json] [--quick]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benches._common import Report, arguments, median

# As the script that pip writes for the entry point.
_SCRIPT = "import sys; sys.argv[0] = 'warrenctl'; from warren.cli.main import main; main()"
_COMPLETE = {
    "_WARRENCTL_COMPLETE": "bash_complete",
    "COMP_WORDS": "warrenctl service create --re",
    "COMP_CWORD": "3",
}
KINDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "python -c pass": (["-c", "pass"], {}),
    "import click": (["-c", "import click"], {}),
    "warrenctl --help": (["-c", _SCRIPT, "--help"], {}),
    "completion": (["-c", _SCRIPT], _COMPLETE),
}


def run_ms(words: list[str], more_env: dict[str, str]) -> float:
    """Milliseconds from starting a process to its end."""
    started_s = time.perf_counter()
    subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **more_env},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )
    return (time.perf_counter() - started_s) * 1000


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "")
    rounds = 5 if options.quick else 40
    times_ms: dict[str, list[float]] = {name: [] for name in KINDS}
    # The first round only fills caches.
    for number in range(rounds + 1):
        for name, (words, more_env) in KINDS.items():
            taken_ms = run_ms(words, more_env)
            if number:
                times_ms[name].append(taken_ms)
    report = Report(f"start of the command line, {rounds} runs each")
    base_ms = median(times_ms["import click"])
    for name, values in times_ms.items():
        middle_ms = median(values)
        report.row(name, median_ms=middle_ms, min_ms=min(values), ratio=middle_ms / base_ms)
    report.finish(options)


if __name__ == "__main__":
    main()
