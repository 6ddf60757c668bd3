# cython: language_level=3
from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef class Histogram:
    # 0 <= bounds_len <= BOUNDS_MAX; `exact` has bounds_len + 1 counts, the last one for +Inf.
    cdef double *_bounds
    cdef Py_ssize_t _bounds_len
    # NULL until the first observation; all three NULL or only `_carry` NULL.
    cdef uint64_t *_exact
    cdef uint32_t *_fine
    cdef uint16_t *_carry
    # sum(exact) == count, always; sum(fine + carry) == count unless a slot is saturated.
    cdef uint64_t _count
    cdef double _sum
    cdef double _min
    cdef double _max
    cdef uint64_t _clamped_low
    cdef uint64_t _clamped_high
    cdef uint64_t _rejected
    # None until the first exemplar; then one for each exact bucket, or None.
    cdef list _exemplars

    # The exact bucket it fell into; -1 when it was rejected.
    cdef Py_ssize_t record(self, double seconds) except -2
    cdef int allocate(self) except -1
    cdef void release(self) noexcept
    cdef int carry_into(self, Py_ssize_t slot) except -1
    cdef uint64_t slot_count(self, Py_ssize_t slot) noexcept
    cdef int set_slot(self, Py_ssize_t slot, uint64_t count) except -1
    cdef double value_at_rank(self, uint64_t rank) noexcept


cdef class Timer:
    cdef Histogram _histogram
    cdef uint64_t _started_ns
