/* compute_clock: wall clock and CPU time that a queue spends computing, without the communication
 * in between. Runs from start to stop and stands still between pause and resume; the queue must be
 * empty (synced) at each of these calls, so that what lies between two of them is all of that
 * segment's work. */
#ifndef HLM_EXEC_COMPUTE_CLOCK_H
#define HLM_EXEC_COMPUTE_CLOCK_H

#include "exec/backend.h"

struct hlm_compute_clock {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    struct hlm_event *begin, *end;
    double wall_s, cpu_s; /* of the segments so far */
};

HLM_MUST_CHECK enum hlm_status hlm_compute_clock_init(struct hlm_compute_clock *clock,
                                                      struct hlm_backend *backend,
                                                      struct hlm_queue *queue, struct hlm_err *err);
void hlm_compute_clock_release(struct hlm_compute_clock *clock);

/* start sets the sums to zero; resume continues them; pause ends a segment and adds it. */
HLM_MUST_CHECK enum hlm_status hlm_compute_clock_start(struct hlm_compute_clock *clock,
                                                       struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_compute_clock_resume(struct hlm_compute_clock *clock,
                                                        struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_compute_clock_pause(struct hlm_compute_clock *clock,
                                                       struct hlm_err *err);

#endif
