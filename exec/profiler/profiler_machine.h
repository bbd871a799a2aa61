/* profiler_machine: what a profile says about the machine beside speeds. */
#ifndef HLM_EXEC_PROFILER_MACHINE_H
#define HLM_EXEC_PROFILER_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"

/* Cores of the machine that ranks may use: those of the process (the main thread's affinity, also
 * when the calling thread is tied to one of them), but not fewer than num_ranks, since a launcher
 * may have tied each process to its own; cut to the cores that are online and to the processor
 * quota of the control group (cpu.max, rounded up). */
int32_t hlm_profiler_num_cores(int32_t num_ranks);

/* Ties the calling thread to the index-th core of the process (modulo their number). Where the
 * system refuses, it stays where it is. */
void hlm_profiler_pin(int32_t index);

/* Bytes that processes may still take: MemAvailable of /proc/meminfo, at most what the control
 * group leaves. 0 where neither can be read. */
int64_t hlm_profiler_available_bytes(struct hlm_arena *arena);

/* Resident bytes of this process, 0 where unknown. */
int64_t hlm_profiler_resident_bytes(struct hlm_arena *arena);

/* "AMD EPYC 9554 64-Core Processor" -> "amd-epyc-9554-64-core-processor": what a name in a cluster
 * may hold. */
const char *hlm_profiler_slug(struct hlm_arena *arena, const char *text);

/* The library behind matrix products: "OpenBLAS 0.3.21 ..., kernels Cooperlake". */
const char *hlm_profiler_blas(struct hlm_arena *arena);

/* How busy the processors were in the last ten seconds, as the kernel's pressure file says it:
 * share of time in which some task waited for one. -1: unknown. */
double hlm_profiler_cpu_pressure(struct hlm_arena *arena);

#endif
