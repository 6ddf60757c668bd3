# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: auto_pickle=False, autotestdict=False
"""Latency histograms cheap enough to sit on every path.

One `Histogram` records each value twice: exactly, in the classic cumulative buckets that
dashboards read, and finely, in log-linear slots (64 to each power of two, the layout made popular
by HdrHistogram) from which any quantile is known to within 1 % of the value.

The slot of a value is the exponent and the top six mantissa bits of its IEEE 754 double, so
finding it is a shift and a subtraction. Slots span 2^-24 s (59.6 ns) to 2^12 s (4,096 s); a slot
is at most 1/64 of its lower edge wide, and quantiles answer with its middle, so they are off by
at most 1/128 (0.79 %). Values outside the span are kept in the outermost slot and counted in
`clamped_low` and `clamped_high`; minimum, maximum, sum and the classic counts stay exact for them.

Slots are 32 bits wide. The rare one that overflows carries into a second array of 16 bits that is
allocated only then: 2^48 observations a slot is eight years at a million a second, and both
arrays together stay under 16 KiB. Beyond that a slot saturates.

Threads: every method runs from start to end with the interpreter lock held, so each call is
atomic and no locks are taken. Do not use it without the interpreter lock.
"""

import struct

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY, NAN, ceil
from libc.stdint cimport UINT16_MAX, UINT32_MAX, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec


cdef enum:
    SUB_BITS = 6
    SUB_SLOTS = 64
    LOWEST_EXPONENT = -24
    OCTAVES = 36
    SLOTS = 2304
    SLOT_SHIFT = 46
    SLOT_BASE = 63936
    BOUNDS_LIMIT = 64

cdef double LOWEST = 2.0 ** LOWEST_EXPONENT
cdef double HIGHEST = 2.0 ** (LOWEST_EXPONENT + OCTAVES)
cdef uint64_t SLOT_COUNT_MAX = (<uint64_t>1 << 48) - 1

BOUNDS_MAX = BOUNDS_LIMIT
LOWEST_SECONDS = LOWEST
HIGHEST_SECONDS = HIGHEST
RELATIVE_ERROR = 1.0 / (2 * SUB_SLOTS)
# Those of Prometheus' Go client, which the dashboards were made for; its Python client has three more.
DEFAULT_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

cdef object EXPORT_MAGIC = b"WHG1"
# magic, sub-slot bits, lowest exponent, octaves, bounds, count, sum, min, max, clamped low, clamped
# high, rejected, non-empty slots. Then bounds (f64), exact counts (u64), slots (u16, u64).
cdef object EXPORT_HEADER = struct.Struct("<4sBbBBQdddQQQH")
cdef object EXPORT_SLOT = struct.Struct("<HQ")


cdef inline Py_ssize_t slot_of(double seconds) noexcept:
    """The slot of a value within [LOWEST, HIGHEST)."""
    cdef uint64_t bits
    memcpy(&bits, &seconds, sizeof(bits))
    return <Py_ssize_t>(bits >> SLOT_SHIFT) - SLOT_BASE


cdef double slot_edge(Py_ssize_t slot) noexcept:
    """The lower edge of a slot in seconds; `slot == SLOTS` gives HIGHEST."""
    cdef uint64_t bits = <uint64_t>(slot + SLOT_BASE) << SLOT_SHIFT
    cdef double edge
    memcpy(&edge, &bits, sizeof(edge))
    return edge


cdef inline uint64_t monotonic_ns() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


@cython.final
cdef class Histogram:
    """A histogram of durations in seconds.

    `bounds` are the upper bounds (inclusive) of the classic buckets in seconds: finite, strictly
    ascending, at most BOUNDS_MAX of them, without the implied +Inf. ValueError otherwise.
    Memory beyond the object itself is taken by the first observation.
    """

    def __cinit__(self, bounds=DEFAULT_BOUNDS):
        cdef Py_ssize_t i
        values = tuple(float(bound) for bound in bounds)
        if len(values) > BOUNDS_LIMIT:
            raise ValueError(f"{len(values)} bucket bounds: at most {BOUNDS_LIMIT} are possible")
        previous = -INFINITY
        for value in values:
            if not previous < value < INFINITY:
                raise ValueError(
                    f"bucket bound {value}: bounds must be finite and strictly ascending"
                )
            previous = value
        self._bounds_len = len(values)
        self._bounds = <double *>PyMem_Malloc(max(self._bounds_len, 1) * sizeof(double))
        if self._bounds == NULL:
            raise MemoryError
        for i in range(self._bounds_len):
            self._bounds[i] = values[i]
        self._min = INFINITY
        self._max = -INFINITY

    def __dealloc__(self):
        self.release()
        PyMem_Free(self._bounds)

    cdef int allocate(self) except -1:
        self._exact = <uint64_t *>PyMem_Calloc(self._bounds_len + 1, sizeof(uint64_t))
        self._fine = <uint32_t *>PyMem_Calloc(SLOTS, sizeof(uint32_t))
        if self._exact == NULL or self._fine == NULL:
            self.release()
            raise MemoryError
        return 0

    cdef void release(self) noexcept:
        PyMem_Free(self._exact)
        PyMem_Free(self._fine)
        PyMem_Free(self._carry)
        self._exact = NULL
        self._fine = NULL
        self._carry = NULL

    cdef Py_ssize_t record(self, double seconds) except -2:
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t slot
        # Written so that NaN fails it too.
        if not (0.0 <= seconds <= DBL_MAX):
            self._rejected += 1
            return -1
        if self._fine == NULL:
            self.allocate()
        while i < self._bounds_len and seconds > self._bounds[i]:
            i += 1
        if seconds < LOWEST:
            slot = 0
            self._clamped_low += 1
        elif seconds >= HIGHEST:
            slot = SLOTS - 1
            self._clamped_high += 1
        else:
            slot = slot_of(seconds)
        if self._fine[slot] == UINT32_MAX:
            self.carry_into(slot)
        else:
            self._fine[slot] += 1
        self._exact[i] += 1
        self._count += 1
        self._sum += seconds
        if seconds < self._min:
            self._min = seconds
        if seconds > self._max:
            self._max = seconds
        return i

    cdef int carry_into(self, Py_ssize_t slot) except -1:
        cdef uint64_t count = self.slot_count(slot)
        if count < SLOT_COUNT_MAX:
            self.set_slot(slot, count + 1)
        return 0

    cdef uint64_t slot_count(self, Py_ssize_t slot) noexcept:
        cdef uint64_t count
        if self._fine == NULL:
            return 0
        count = self._fine[slot]
        if self._carry != NULL:
            count += <uint64_t>self._carry[slot] << 32
        return count

    cdef int set_slot(self, Py_ssize_t slot, uint64_t count) except -1:
        if count > UINT32_MAX and self._carry == NULL:
            self._carry = <uint16_t *>PyMem_Calloc(SLOTS, sizeof(uint16_t))
            if self._carry == NULL:
                raise MemoryError
        self._fine[slot] = <uint32_t>(count & UINT32_MAX)
        if self._carry != NULL:
            self._carry[slot] = <uint16_t>(count >> 32)
        return 0

    def observe(self, double seconds):
        """Record one duration in seconds.

        NaN, infinities and negative values are not recorded but counted in `rejected`: a clock
        that misbehaves must not break the path it measures.
        """
        self.record(seconds)

    def observe_ns(self, int64_t nanoseconds):
        """Record one duration in nanoseconds; negative ones are rejected as by `observe`."""
        # A division is correctly rounded, so 5_000_000 ns falls into the bucket le="0.005".
        self.record(<double>nanoseconds / 1e9)

    def observe_with(self, double seconds, str example not None):
        """Record one duration in seconds as `observe` does, and keep it as its bucket's exemplar.

        `example` names what took so long (a request, a container). Only the newest of each classic
        bucket is kept.
        """
        cdef timespec now
        cdef Py_ssize_t bucket = self.record(seconds)
        if bucket < 0:
            return
        if self._exemplars is None:
            self._exemplars = [None] * (self._bounds_len + 1)
        clock_gettime(CLOCK_REALTIME, &now)
        self._exemplars[bucket] = (
            example, seconds, <double>now.tv_sec + <double>now.tv_nsec / 1e9
        )

    def exemplars(self):
        """For each classic bucket, +Inf last: `(example, seconds, when)`, or None.

        `when` is in seconds since 1970. Empty before the first exemplar.
        """
        return [] if self._exemplars is None else list(self._exemplars)

    def time(self):
        """A running `Timer` for this histogram, also usable as a context manager."""
        cdef Timer timer = Timer.__new__(Timer)
        timer._histogram = self
        timer._started_ns = monotonic_ns()
        return timer

    @property
    def count(self):
        """Observations recorded."""
        return self._count

    @property
    def sum(self):
        """Sum of all recorded values in seconds."""
        return self._sum

    @property
    def min(self):
        """The smallest recorded value in seconds, exactly; NaN when empty."""
        return self._min if self._count else NAN

    @property
    def max(self):
        """The largest recorded value in seconds, exactly; NaN when empty."""
        return self._max if self._count else NAN

    @property
    def clamped_low(self):
        """Recorded values below LOWEST_SECONDS."""
        return self._clamped_low

    @property
    def clamped_high(self):
        """Recorded values of HIGHEST_SECONDS and more."""
        return self._clamped_high

    @property
    def rejected(self):
        """Values refused because they were NaN, infinite or negative."""
        return self._rejected

    @property
    def bounds(self):
        """The classic upper bounds in seconds, without +Inf."""
        return tuple([self._bounds[i] for i in range(self._bounds_len)])

    def snapshot(self):
        """`(cumulative, sum)`, taken at one instant.

        `cumulative[i]` is the exact count of values <= bounds[i]; one more stands for +Inf and
        equals `count`.
        """
        cdef Py_ssize_t i
        cdef uint64_t running = 0
        cumulative = []
        for i in range(self._bounds_len + 1):
            if self._exact != NULL:
                running += self._exact[i]
            cumulative.append(running)
        return cumulative, self._sum

    def slots(self):
        """The non-empty fine slots, ascending, as `(lower, upper, count)` in seconds."""
        return [
            (slot_edge(i), slot_edge(i + 1), self.slot_count(i))
            for i in range(SLOTS)
            if self.slot_count(i)
        ]

    def quantile(self, double q):
        """The value in seconds at quantile `q` in [0, 1], by nearest rank; NaN when empty.

        Off by at most RELATIVE_ERROR within [LOWEST_SECONDS, HIGHEST_SECONDS); the first and the
        last rank are exact. ValueError when q is outside [0, 1].
        """
        if not (0.0 <= q <= 1.0):
            raise ValueError(f"quantile {q}: must be between 0 and 1")
        if self._count == 0:
            return NAN
        return self.value_at_rank(<uint64_t>ceil(q * <double>self._count))

    cdef double value_at_rank(self, uint64_t rank) noexcept:
        cdef Py_ssize_t slot
        cdef uint64_t seen = 0
        cdef double middle
        if rank <= 1:
            return self._min
        if rank >= self._count:
            return self._max
        for slot in range(SLOTS):
            seen += self.slot_count(slot)
            if seen >= rank:
                middle = (slot_edge(slot) + slot_edge(slot + 1)) / 2
                # The middle of the outermost slots may lie beyond every recorded value.
                return min(max(middle, self._min), self._max)
        return self._max

    def summary(self):
        """Count, sum and the usual quantiles, in seconds, keyed as benches print them."""
        return {
            "count": self._count,
            "sum": self._sum,
            "min": self.min,
            "p50": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "p99.9": self.quantile(0.999),
            "max": self.max,
        }

    def compare(self, Histogram baseline not None):
        """Ratio of each of `summary`'s values to the baseline's: 1.1 is 10 % more.

        NaN where either side is empty or the baseline's value is zero.
        """
        ours = self.summary()
        theirs = baseline.summary()
        return {key: ours[key] / theirs[key] if theirs[key] else NAN for key in ours}

    def merge(self, Histogram other not None):
        """Add all that `other` recorded. ValueError when its bounds differ from ours."""
        cdef Py_ssize_t i
        if self.bounds != other.bounds:
            raise ValueError("histograms with different bucket bounds cannot be merged")
        self._rejected += other._rejected
        if other._count == 0:
            return
        if self._fine == NULL:
            self.allocate()
        for i in range(SLOTS):
            if other.slot_count(i):
                self.set_slot(i, min(self.slot_count(i) + other.slot_count(i), SLOT_COUNT_MAX))
        for i in range(self._bounds_len + 1):
            self._exact[i] += other._exact[i]
        self._count += other._count
        self._sum += other._sum
        self._min = min(self._min, other._min)
        self._max = max(self._max, other._max)
        self._clamped_low += other._clamped_low
        self._clamped_high += other._clamped_high

    def reset(self):
        """Forget everything recorded, and give the memory back."""
        self.release()
        self._count = 0
        self._sum = 0.0
        self._min = INFINITY
        self._max = -INFINITY
        self._clamped_low = 0
        self._clamped_high = 0
        self._rejected = 0
        self._exemplars = None

    def to_bytes(self):
        """Everything recorded but exemplars, as bytes for `from_bytes`.

        Versioned, and the same on every machine.
        """
        cdef Py_ssize_t i
        slots = [(i, self.slot_count(i)) for i in range(SLOTS) if self.slot_count(i)]
        parts = [
            EXPORT_HEADER.pack(
                EXPORT_MAGIC, SUB_BITS, LOWEST_EXPONENT, OCTAVES, self._bounds_len,
                self._count, self._sum, self._min, self._max,
                self._clamped_low, self._clamped_high, self._rejected, len(slots),
            ),
            struct.pack(f"<{self._bounds_len}d", *self.bounds),
            struct.pack(
                f"<{self._bounds_len + 1}Q",
                *[self._exact[i] if self._exact != NULL else 0
                  for i in range(self._bounds_len + 1)],
            ),
        ]
        parts.extend(EXPORT_SLOT.pack(slot, count) for slot, count in slots)
        return b"".join(parts)

    @staticmethod
    def from_bytes(bytes data not None):
        """The histogram that `to_bytes` wrote. ValueError when the bytes are not such an export."""
        return import_histogram(data)

    def __sizeof__(self):
        size = Histogram.__basicsize__ + max(self._bounds_len, 1) * sizeof(double)
        if self._fine != NULL:
            size += SLOTS * sizeof(uint32_t) + (self._bounds_len + 1) * sizeof(uint64_t)
        if self._carry != NULL:
            size += SLOTS * sizeof(uint16_t)
        return size

    def __repr__(self):
        return f"<Histogram count={self._count} sum={self._sum} s p50={self.quantile(0.5)} s>"


@cython.final
@cython.freelist(32)
cdef class Timer:
    """Measures one duration on the monotonic clock. Made by `Histogram.time`, already running.

    As a context manager it starts when the block is entered and records when it is left, also by
    an exception.
    """

    def __init__(self):
        raise TypeError("a Timer is made by Histogram.time()")

    def stop(self):
        """Record the time since the start into the histogram, and return it in seconds."""
        cdef double seconds = <double>(monotonic_ns() - self._started_ns) / 1e9
        self._histogram.record(seconds)
        return seconds

    def __enter__(self):
        self._started_ns = monotonic_ns()
        return self

    def __exit__(self, exc_type, exc, traceback):
        self._histogram.record(<double>(monotonic_ns() - self._started_ns) / 1e9)
        return False


cdef object take(fields, bytes data, Py_ssize_t offset):
    """What the struct `fields` holds at `offset`, and the offset after it."""
    end = offset + fields.size
    if end > len(data):
        raise ValueError(f"histogram export: cut short after {len(data)} bytes, need {end}")
    return fields.unpack_from(data, offset), end


cdef Histogram import_histogram(bytes data):
    cdef Histogram made
    cdef Py_ssize_t i
    header, offset = take(EXPORT_HEADER, data, 0)
    magic, sub_bits, lowest, octaves, bounds_len = header[:5]
    if magic != EXPORT_MAGIC or (sub_bits, lowest, octaves) != (
        SUB_BITS, LOWEST_EXPONENT, OCTAVES
    ):
        raise ValueError("histogram export: not in this release's format, record it again")
    count, total, smallest, largest, low, high, rejected, slots_len = header[5:]
    bounds, offset = take(struct.Struct(f"<{bounds_len}d"), data, offset)
    exact, offset = take(struct.Struct(f"<{bounds_len + 1}Q"), data, offset)
    slots = []
    for _ in range(slots_len):
        slot, offset = take(EXPORT_SLOT, data, offset)
        slots.append(slot)
    if offset != len(data):
        raise ValueError(f"histogram export: {len(data) - offset} bytes too many")
    check_import(count, total, smallest, largest, low + high, exact, slots)
    made = Histogram(bounds)
    made._rejected = rejected
    if count == 0:
        return made
    made.allocate()
    for i in range(bounds_len + 1):
        made._exact[i] = exact[i]
    for index, slot_total in slots:
        made.set_slot(index, slot_total)
    made._count, made._sum, made._min, made._max = count, total, smallest, largest
    made._clamped_low, made._clamped_high = low, high
    return made


cdef object check_import(count, total, smallest, largest, clamped, exact, slots):
    """Raise ValueError unless these could have been recorded together."""
    indexes = [index for index, _ in slots]
    counts = [slot_total for _, slot_total in slots]
    saturated = SLOT_COUNT_MAX in counts
    ordered = indexes == sorted(set(indexes)) and (not indexes or max(indexes) < SLOTS)
    counted = sum(exact) == count and (sum(counts) == count or saturated)
    fits = not counts or 0 < min(counts) <= max(counts) <= SLOT_COUNT_MAX
    if count:
        ranged = 0.0 <= smallest <= largest <= DBL_MAX and total >= 0.0
    else:
        ranged = total == 0.0 and smallest == INFINITY and largest == -INFINITY
    if not (ordered and counted and fits and ranged and clamped <= count):
        raise ValueError("histogram export: its counts contradict each other, record it again")
