# cython: language_level=3
from libc.stdint cimport uint64_t


cdef class ProcStat:
    cdef readonly uint64_t pid
    cdef readonly bytes comm
    cdef readonly str state
    cdef readonly uint64_t utime_ticks
    cdef readonly uint64_t stime_ticks
    cdef readonly uint64_t num_threads
    cdef readonly uint64_t starttime_ticks
    cdef readonly uint64_t rss_pages
