/* profiler_bench: the time of one operator alone, on a device that runs behind the host.
 *
 * What a kernel takes depends on where its operands are, on how busy the device was before, and on
 * whether the host keeps ahead of it. So, for each sample,
 *
 * - operands are random numbers (zeros draw less power and run faster), in sets that rotate: cold
 *   sets together are larger than any cache, so that inputs come from memory as in training; warm
 *   is one set again and again;
 * - a plug of other work goes in front (products that keep the device at the clocks of a training,
 *   and a copy that empties the caches), long enough for the host to put all launches behind it:
 *   then launch latency is no part of the time;
 * - several launches in a row run between two events, and the device's clock counts, not the
 *   host's.
 *
 * Method: NVIDIA's nvbench (cold measurements, a kernel that blocks the stream) and nccl-tests
 * (buffers that move).
 */
#ifndef HLM_EXEC_PROFILER_BENCH_H
#define HLM_EXEC_PROFILER_BENCH_H

#include "base/arena.h"
#include "exec/backend.h"

/* One operator to be measured. op.operands[i] is i or -1, and tensors[i] what operand i is: its
 * role decides what it is filled with (TOKENS and TARGETS: indices below index_limit). is_copy: a
 * device copy of op.m bytes instead. tier: how much its time is worth, 0 most. */
struct hlm_profiler_case {
    struct hlm_op op;
    struct hlm_tensor tensors[HLM_OP_MAX_OPERANDS];
    int64_t index_limit;
    bool is_copy;
    int32_t tier;
};

/* Where time comes from: seconds since some moment, of the same clock as the backend's events.
 * now_s NULL: CLOCK_MONOTONIC. */
struct hlm_profiler_clock {
    double (*now_s)(void *context);
    void *context;
};
double hlm_profiler_now(const struct hlm_profiler_clock *clock);

struct hlm_profiler_bench_config {
    int64_t region_bytes; /* for all operands of a case: the largest case that can be measured */
    int64_t flush_bytes;  /* more than the largest cache of the device */
    double hot_s;         /* time of the products in front of each sample of a product */
    double min_batch_s;   /* launches between two events take at least that long together */
    struct hlm_profiler_clock clock;
};

struct hlm_profiler_bench;

/* HLM_ENV: no memory. The backend must outlive it. */
HLM_MUST_CHECK enum hlm_status
hlm_profiler_bench_new(struct hlm_arena *arena, struct hlm_backend *backend,
                       const struct hlm_profiler_bench_config *config,
                       struct hlm_profiler_bench **out, struct hlm_err *err);
void hlm_profiler_bench_free(struct hlm_profiler_bench *bench); /* NULL accepted */

/* The product in front of samples of products, from now on; its first run counts as warm-up. NULL:
 * none. what: [1], kept by the caller. */
HLM_MUST_CHECK enum hlm_status hlm_profiler_bench_heat_with(struct hlm_profiler_bench *bench,
                                                            const struct hlm_profiler_case *what,
                                                            struct hlm_err *err);

/* Whether the operands of a case fit into the region. */
bool hlm_profiler_bench_has_room(const struct hlm_profiler_bench *bench,
                                 const struct hlm_profiler_case *what);

enum { HLM_PROFILER_MAX_SAMPLES = 32 };

struct hlm_profiler_timing {
    double seconds[HLM_PROFILER_MAX_SAMPLES]; /* of one launch */
    int32_t num_samples;
    double host_s; /* host time of one launch, the least of the samples */
};

/* num_samples more samples behind those of *timing (zeros for none); the launches that warm up are
 * no samples. Once the clock is past deadline_s it stops, with at least one sample. HLM_ENV: the
 * backend can't run the operator. Asserts that there is room. */
HLM_MUST_CHECK enum hlm_status
hlm_profiler_bench_measure(struct hlm_profiler_bench *bench, const struct hlm_profiler_case *what,
                           bool warm, int32_t num_samples, double deadline_s,
                           struct hlm_profiler_timing *timing, struct hlm_err *err);

/* Host seconds to launch an operator on no data, and the device's seconds for it. */
HLM_MUST_CHECK enum hlm_status hlm_profiler_bench_idle(struct hlm_profiler_bench *bench,
                                                       struct hlm_profiler_timing *timing,
                                                       struct hlm_err *err);

#endif
