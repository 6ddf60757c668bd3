"""`warrend`: one process per host, manager and worker at once.

Exit codes: 0 ended as asked (SIGTERM, SIGINT); 1 the host is not as needed, or something broke and
the supervisor should start it again; 2 the configuration is wrong. Containers run on through all
of them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

from warren import __version__, config
from warren.agent import killmode
from warren.errors import StartupError
from warren.notify import Notifier, watchdog_interval_s
from warren.observe.logging import LogPipeline

if TYPE_CHECKING:
    from warren.daemon_parts import Parts

__all__ = ["main"]

STATUS_INTERVAL_S: Final = 10.0
_log = logging.getLogger("warren.daemon")


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of `warrend`; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["simulate"]:
        from warren.agent.fleet import command

        return command.main(words[1:])
    arguments = _parser().parse_args(words)
    try:
        resolved = _resolve(arguments, os.environ)
        if arguments.check_config:
            _check_certificates(resolved.config)
            print(resolved.as_json() if arguments.format == "json" else resolved.as_table())
            return 0
        return _serve(arguments, resolved)
    except StartupError as error:
        print(f"warrend: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="warrend",
        description="Warren's daemon: runs containers, and manages the hosts that do.",
        epilog="Each option is also a key of the configuration file and a variable WARREN_… ; "
        "an option wins over the variable, that over the file. A fleet of simulated hosts, to "
        "plan with: warrend simulate --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"warrend {__version__}")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"configuration file ({config.DEFAULT_FILE})"
    )
    parser.add_argument(
        "--check-config", action="store_true", help="show each value and its source, and exit"
    )
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="of --check-config"
    )
    for key in config.KEYS:
        meaning, expects = config.described(key)
        parser.add_argument(
            config.flag_name(key), dest=key, metavar="VALUE", help=f"{meaning}; {expects}"
        )
    return parser


def _resolve(arguments: argparse.Namespace, env: Mapping[str, str]) -> config.Resolved:
    flags = {key: getattr(arguments, key) for key in config.KEYS}
    return config.resolve(flags, env, arguments.config)


def _check_certificates(settings: config.Config) -> None:
    if (files := config.tls_files(settings)) is not None:
        # Here, so that who has none does not wait for X.509.
        from warren.tls import credentials_of

        credentials_of(files)


def _serve(arguments: argparse.Namespace, resolved: config.Resolved) -> int:
    settings = resolved.config
    console = {"auto": None, "json": False, "console": True}[settings.log_format]
    pipeline = LogPipeline(level=settings.log_level, console=console)
    pipeline.install()
    notifier = Notifier(os.environ)
    try:
        if (complaint := killmode.check()) is not None:
            _log.warning(complaint)
        daemon = Daemon(settings, pipeline, notifier, lambda: _resolve(arguments, os.environ))
        return uvloop.run(daemon.run())
    finally:
        notifier.close()
        pipeline.close()


class Daemon:
    """The life of the process: start what it consists of, wait for a signal, end it."""

    def __init__(
        self,
        settings: config.Config,
        pipeline: LogPipeline,
        notifier: Notifier,
        resolve_again: Callable[[], config.Resolved],
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._notifier = notifier
        self._resolve_again = resolve_again
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Run until told to stop or until a part breaks; returns the exit code.

        Raises StartupError where something that is needed cannot be had.
        """
        # Here, so that --help and --check-config need none of it.
        from warren.daemon_parts import Parts

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        parts = Parts(self._settings, self._pipeline)
        try:
            await parts.start()
            self._notifier.ready(await parts.summary())
            beat = asyncio.create_task(self._keep_telling(parts))
            try:
                return await self._until_the_end(parts)
            finally:
                beat.cancel()
        finally:
            self._notifier.stopping()
            await parts.close()

    async def _until_the_end(self, parts: Parts) -> int:
        told = asyncio.ensure_future(self._stop.wait())
        ends: set[asyncio.Future[Any]] = {told, parts.broken}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
        if not parts.broken.done():
            _log.info("stopping; containers keep running")
            return 0
        _log.error("stopping, because %s", parts.broken.result())
        return 1

    async def _keep_telling(self, parts: Parts) -> None:
        """Tell the service manager that the loop turns, and from time to time how things are."""
        interval_s = watchdog_interval_s(os.environ, os.getpid())
        loop = asyncio.get_running_loop()
        status_due_s = loop.time()
        while True:
            if interval_s is not None:
                self._notifier.watchdog()
            if loop.time() >= status_due_s:
                self._notifier.status(await parts.summary())
                status_due_s = loop.time() + STATUS_INTERVAL_S
            await asyncio.sleep(min(interval_s or STATUS_INTERVAL_S, STATUS_INTERVAL_S))

    def _reload(self) -> None:
        """SIGHUP: the log level is read anew; everything else needs a restart."""
        try:
            level = self._resolve_again().config.log_level
        except StartupError as error:
            _log.error("configuration not read again: %s", error)
            return
        self._pipeline.set_level(level)
        _log.info("log level is %s; other settings take effect at a restart", level)
