"""A host whose clock is wrong: a daemon that is told another time of day than this machine has.

There are no namespaces for the time of day, and setting it would concern everybody here. So the
calls of the C library by which a process asks for it are put in front of the real ones.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from tests.support.node import WarrenNode

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead_s;

__attribute__((constructor)) static void look(void) {
  int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
  ahead_s = mmap(NULL, sizeof *ahead_s, PROT_READ, MAP_SHARED, file, 0);
  close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += *ahead_s;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec exactly;
  int failed = clock_gettime(CLOCK_REALTIME, &exactly);
  now->tv_sec = exactly.tv_sec;
  now->tv_usec = exactly.tv_nsec / 1000;
  return failed;
}

time_t time(time_t *now) {
  struct timespec exactly;
  clock_gettime(CLOCK_REALTIME, &exactly);
  if (now) *now = exactly.tv_sec;
  return exactly.tv_sec;
}
"""


class Clock:
    """The time of day of one daemon, which has yet to be started; right at first."""

    def __init__(self, node: WarrenNode, folder: Path) -> None:
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(_SOURCE)
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True
        )
        self._ahead = folder / "ahead"
        self._ahead.write_bytes(bytes(8))
        node.env |= {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(self._ahead)}

    def set(self, ahead_s: int) -> None:
        """From now on it is that much ahead of this machine's."""
        with self._ahead.open("r+b") as file:
            file.write(struct.pack("=q", ahead_s))
