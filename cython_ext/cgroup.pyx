# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: auto_pickle=False, autotestdict=False
"""Parsers of the cgroup and proc files that are read for every container, again and again.

Each function takes the bytes of one file and returns numbers; none opens anything. Bytes that do
not have the file's form raise ValueError, which names the file and shows how the bytes begin.
The forms are those of the kernel's Documentation/admin-guide/cgroup-v1, cgroup-v2.rst and
proc(5).
"""

cimport cython
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memchr, memcmp, strlen


cdef uint64_t NS_PER_US = 1000
cdef uint64_t BYTES_PER_KIB = 1024
# cgroup v1 writes "no limit" as the largest signed number rounded down to a page, and pages
# differ; nothing that big (4 EiB) is a real limit.
cdef uint64_t V1_UNLIMITED = <uint64_t>1 << 62

# /proc/sys/kernel/pid_max cannot be set higher.
cdef uint64_t PID_LIMIT = 1 << 22


cdef object malformed(str kind, str expected, bytes data):
    return ValueError(f"{kind}: expected {expected}, found {data[:64]!r}")


cdef bint parse_uint(const char *at, const char *end, uint64_t *out) noexcept:
    """Parse all of [at, end) as an unsigned decimal. False when it is none or overflows."""
    cdef uint64_t value = 0
    cdef uint64_t digit
    if at >= end:
        return False
    while at < end:
        if at[0] < c"0" or at[0] > c"9":
            return False
        digit = <uint64_t>(at[0] - c"0")
        if value > (UINT64_MAX - digit) // 10:
            return False
        value = value * 10 + digit
        at += 1
    out[0] = value
    return True


cdef bint scale(uint64_t value, uint64_t factor, uint64_t *out) noexcept:
    """value x factor. False on overflow."""
    if value > UINT64_MAX // factor:
        return False
    out[0] = value * factor
    return True


cdef bint whole_uint(bytes data, uint64_t *out) noexcept:
    """Parse a file that is one number and perhaps a newline."""
    cdef const char *at = data
    cdef const char *end = at + len(data)
    if at < end and (end - 1)[0] == c"\n":
        end -= 1
    return parse_uint(at, end, out)


cdef bint find_value(
    bytes data, const char *key, const char **value, const char **value_end
) noexcept:
    """Find the line that begins with `key`, which includes its separator; give what follows."""
    cdef const char *at = data
    cdef const char *end = at + len(data)
    cdef const char *newline
    cdef size_t key_len = strlen(key)
    while at < end:
        newline = <const char *>memchr(at, c"\n", end - at)
        if newline == NULL:
            newline = end
        if <size_t>(newline - at) >= key_len and memcmp(at, key, key_len) == 0:
            value[0] = at + key_len
            value_end[0] = newline
            return True
        at = newline + 1
    return False


cdef object keyed_uint(bytes data, const char *key, str kind):
    cdef const char *value = NULL
    cdef const char *end = NULL
    cdef uint64_t number = 0
    if not find_value(data, key, &value, &end) or not parse_uint(value, end, &number):
        raise malformed(kind, f"a line '{key.decode()}<number>'", data)
    return number


cdef object single_uint(bytes data, str kind):
    cdef uint64_t number = 0
    if not whole_uint(data, &number):
        raise malformed(kind, "one number", data)
    return number


cdef object limit_uint(bytes data, str kind):
    if data == b"max\n" or data == b"max":
        return None
    return single_uint(data, kind)


def cpu_usage_ns_v1(bytes data not None):
    """CPU time used in nanoseconds, from v1 `cpuacct.usage`."""
    return single_uint(data, "cpuacct.usage")


def cpu_usage_ns_v2(bytes data not None):
    """CPU time used in nanoseconds (the kernel counts microseconds), from v2 `cpu.stat`."""
    cdef uint64_t usage_ns = 0
    if not scale(keyed_uint(data, b"usage_usec ", "cpu.stat"), NS_PER_US, &usage_ns):
        raise malformed("cpu.stat", "usage_usec below 2^64 ns", data)
    return usage_ns


def memory_usage_bytes_v1(bytes data not None):
    """Memory charged in bytes, page cache included, from v1 `memory.usage_in_bytes`."""
    return single_uint(data, "memory.usage_in_bytes")


def memory_usage_bytes_v2(bytes data not None):
    """Memory charged in bytes, page cache included, from v2 `memory.current`."""
    return single_uint(data, "memory.current")


def memory_limit_bytes_v1(bytes data not None):
    """The limit in bytes, None for unlimited, from v1 `memory.limit_in_bytes`."""
    limit = single_uint(data, "memory.limit_in_bytes")
    return None if limit >= V1_UNLIMITED else limit


def memory_limit_bytes_v2(bytes data not None):
    """The limit in bytes, None for unlimited, from v2 `memory.max`."""
    return limit_uint(data, "memory.max")


def memory_inactive_file_bytes_v1(bytes data not None):
    """Reclaimable page cache of the whole subtree in bytes, from v1 `memory.stat`.

    Usage less this is the working set.
    """
    return keyed_uint(data, b"total_inactive_file ", "memory.stat")


def memory_inactive_file_bytes_v2(bytes data not None):
    """Reclaimable page cache in bytes, from v2 `memory.stat`. Usage less this is the working set."""
    return keyed_uint(data, b"inactive_file ", "memory.stat")


def oom_kills_v1(bytes data not None):
    """Processes killed for lack of memory, from v1 `memory.oom_control` (Linux 4.13 or newer)."""
    return keyed_uint(data, b"oom_kill ", "memory.oom_control")


def oom_kills_v2(bytes data not None):
    """Processes killed for lack of memory, from v2 `memory.events`."""
    return keyed_uint(data, b"oom_kill ", "memory.events")


cdef bint io_numbers(
    bytes data, const char *first, const char *second, uint64_t *one, uint64_t *other
) noexcept:
    """Add up, over all lines, the numbers that follow `first` and `second`, each up to a space."""
    cdef const char *at = data
    cdef const char *end = at + len(data)
    cdef const char *stop
    cdef const char *line_end
    cdef size_t first_len = strlen(first), second_len = strlen(second)
    cdef uint64_t number = 0
    cdef uint64_t *into
    cdef size_t skip
    one[0] = other[0] = 0
    while at < end:
        line_end = <const char *>memchr(at, c"\n", end - at)
        if line_end == NULL:
            line_end = end
        while at < line_end:
            stop = <const char *>memchr(at, c" ", line_end - at)
            if stop == NULL:
                stop = line_end
            into, skip = NULL, 0
            if <size_t>(line_end - at) >= first_len and memcmp(at, first, first_len) == 0:
                into, skip = one, first_len
            elif <size_t>(line_end - at) >= second_len and memcmp(at, second, second_len) == 0:
                into, skip = other, second_len
            if into != NULL:
                at += skip
                stop = <const char *>memchr(at, c" ", line_end - at)
                if stop == NULL:
                    stop = line_end
                if not parse_uint(at, stop, &number) or into[0] > UINT64_MAX - number:
                    return False
                into[0] += number
            at = stop + 1
        at = line_end + 1
    return True


def io_bytes_v1(bytes data not None):
    """Bytes read and written, all devices, from v1 `blkio.throttle.io_service_bytes_recursive`."""
    cdef uint64_t read = 0, written = 0
    if not io_numbers(data, b"Read ", b"Write ", &read, &written):
        raise malformed("blkio.throttle.io_service_bytes_recursive", "numbers of bytes", data)
    return read, written


def io_bytes_v2(bytes data not None):
    """Bytes read and written, all devices, from v2 `io.stat`."""
    cdef uint64_t read = 0, written = 0
    if not io_numbers(data, b"rbytes=", b"wbytes=", &read, &written):
        raise malformed("io.stat", "rbytes= and wbytes= with numbers", data)
    return read, written


def pids_current(bytes data not None):
    """Tasks in the cgroup, from `pids.current` of either version."""
    return single_uint(data, "pids.current")


def pids_max(bytes data not None):
    """The limit on tasks, None for unlimited, from `pids.max` of either version."""
    return limit_uint(data, "pids.max")


def mem_total_bytes(bytes data not None):
    """Usable memory of the host in bytes, from `/proc/meminfo`."""
    cdef const char *at = NULL
    cdef const char *end = NULL
    cdef uint64_t number = 0
    cdef bint valid = find_value(data, b"MemTotal:", &at, &end)
    if valid:
        while at < end and at[0] == c" ":
            at += 1
        valid = end - at > 3 and memcmp(end - 3, b" kB", 3) == 0
    if (
        not valid
        or not parse_uint(at, end - 3, &number)
        or not scale(number, BYTES_PER_KIB, &number)
    ):
        raise malformed("/proc/meminfo", "a line 'MemTotal: <number> kB'", data)
    return number


@cython.final
cdef class ProcStat:
    """What Warren needs of `/proc/<pid>/stat`.

    `comm` is the program's name as the kernel has it, at most 15 bytes of any kind. Times are in
    clock ticks (`os.sysconf("SC_CLK_TCK")` a second), `starttime_ticks` counts from boot and
    tells a process from a later one with the same pid; `rss_pages` is in pages.
    """

    def __init__(self):
        raise TypeError("a ProcStat is made by proc_stat()")

    def __repr__(self):
        return (
            f"<ProcStat pid={self.pid} comm={self.comm!r} state={self.state} "
            f"starttime_ticks={self.starttime_ticks}>"
        )


cdef bint next_uint(const char **at, const char *end, int skip, uint64_t *out) noexcept:
    """Skip `skip` fields separated by single spaces, then parse one and the space after it."""
    cdef const char *stop
    while skip >= 0:
        stop = <const char *>memchr(at[0], c" ", end - at[0])
        if stop == NULL or stop == at[0]:
            return False
        if skip == 0 and not parse_uint(at[0], stop, out):
            return False
        at[0] = stop + 1
        skip -= 1
    return True


def proc_stat(bytes data not None):
    """Parse `/proc/<pid>/stat`. The name may hold spaces, newlines and parentheses: see proc(5)."""
    cdef const char *start = data
    cdef const char *end = start + len(data)
    cdef const char *at
    cdef uint64_t pid = 0, utime = 0, stime = 0, threads = 0, starttime = 0, rss = 0
    cdef ProcStat stat
    # The name is whatever stands between the first and the last parenthesis.
    cdef Py_ssize_t opened = data.find(b" (")
    cdef Py_ssize_t closed = data.rfind(b") ")
    if (
        opened < 0
        or closed < opened + 2
        or end - start < closed + 5
        or not parse_uint(start, start + opened, &pid)
        or pid > PID_LIMIT
        or not (c"A" <= (start + closed + 2)[0] <= c"z")
        or (start + closed + 3)[0] != c" "
    ):
        raise malformed("/proc/<pid>/stat", "'pid (comm) state'", data)
    at = start + closed + 4
    # Fields 14, 15, 20, 22 and 24 by proc(5)'s numbering; `at` stands before field 4.
    if not (
        next_uint(&at, end, 10, &utime)
        and next_uint(&at, end, 0, &stime)
        and next_uint(&at, end, 4, &threads)
        and next_uint(&at, end, 1, &starttime)
        and next_uint(&at, end, 1, &rss)
    ):
        raise malformed("/proc/<pid>/stat", "at least 25 fields", data)
    stat = ProcStat.__new__(ProcStat)
    stat.pid = pid
    stat.comm = data[opened + 2:closed]
    stat.state = chr((start + closed + 2)[0])
    stat.utime_ticks, stat.stime_ticks, stat.num_threads = utime, stime, threads
    stat.starttime_ticks, stat.rss_pages = starttime, rss
    return stat
