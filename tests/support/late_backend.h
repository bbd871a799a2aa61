/* late_backend: a backend that is late on purpose, to find what a synchronous one forgives.
 *
 * It computes with the CPU backend, but on a worker thread per queue and after random delays:
 *
 * - Work without an event wait in front of it runs before, beside or after what it depends on.
 *   Under ThreadSanitizer such a race is reported every time.
 * - Uploads read the host's buffer when their turn comes; downloads fill it with 0xFF at once and
 *   with data when theirs comes. Who reuses or reads it before a sync gets rubbish.
 * - Fresh memory holds 0xFF (NaN as fp32), not zeros.
 * - Addresses that alloc hands out are mapped without any access right (the data lies elsewhere),
 *   so that the host's dereferencing one ends the program. They are not handed out again.
 * - Broken invariants (abort): an operand outside of living memory when the operator runs, a queue
 *   used by another thread than its maker, the time of an event whose record has not run, in a
 *   capture anything but launches, copies and sums.
 *
 * Lists are launched one by one, graphs are lists of launches.
 *
 * Errors of launches come out of the next queue_sync, which leaves the queue unusable.
 */
#ifndef HLM_TESTS_SUPPORT_LATE_BACKEND_H
#define HLM_TESTS_SUPPORT_LATE_BACKEND_H

#include <stdatomic.h>

#include "exec/backend.h"

/* seed: of the delays; each task starts after 0 to max_delay_s seconds (0: only the threads are
 * late). */
HLM_MUST_CHECK enum hlm_status late_backend_new(struct hlm_backend **out, uint64_t seed,
                                                double max_delay_s, struct hlm_err *err);

/* A second backend on the device of `other`, for another thread: events and memory cross, as
 * exec/backend.h says of backends in one process. */
HLM_MUST_CHECK enum hlm_status late_backend_new_beside(struct hlm_backend *other,
                                                       struct hlm_backend **out, uint64_t seed,
                                                       double max_delay_s, struct hlm_err *err);

/* What is put on the queue from now on stands still until *open, or for `seconds` at most. */
void late_backend_hold(struct hlm_queue *queue, const atomic_bool *open, double seconds);

#endif
