/* profiler_link: what moving data between the ranks of one machine costs, over the transport that
 * moves it: messages between two ranks, and collectives by size.
 *
 * Wall time, the least of the repetitions: of what a loaded machine adds, little is left in the
 * least. A transfer is timed with both ranks waiting for it, as the cost model means it (a link
 * that needs both sides).
 */
#ifndef HLM_EXEC_PROFILER_LINK_H
#define HLM_EXEC_PROFILER_LINK_H

#include "base/arena.h"
#include "exec/comm/comm.h"
#include "profiles/cluster.h"

enum { HLM_PROFILER_MAX_MESSAGE_BYTES = 16 << 20 };

/* The link between two ranks, and the measured collectives of one group size after the other.
 * Sources hold numbers of samples only; the caller adds what, when and where. */
struct hlm_profiler_links {
    struct hlm_link link;
    struct hlm_collective_curve *collectives;
    int32_t num_collectives;
};

/* Seconds of a message of `bytes` from rank `first` to rank `second`, half of there and back again:
 * the least of num_repeats, behind one that does not count. data: room for the message. *out is set
 * on all ranks. collective over the world */
HLM_MUST_CHECK enum hlm_status hlm_profiler_message_measure(struct hlm_comm *comm, int32_t first,
                                                            int32_t second, void *data,
                                                            int64_t bytes, int32_t num_repeats,
                                                            double *out, struct hlm_err *err);

/* The links between every two ranks, one pair after the other: out [world_size * (world_size - 1) /
 * 2], ranks 0 1, 0 2, ..., 1 2, ..., on all ranks; each time the least of num_repeats. Sizes end at
 * HLM_PROFILER_MAX_MESSAGE_BYTES, or where a message takes 30 ms: there only bandwidth counts. Over
 * a host transport, at least two ranks. Sources as in struct hlm_profiler_links. collective over
 * the world */
HLM_MUST_CHECK enum hlm_status hlm_profiler_pairs_measure(struct hlm_arena *arena,
                                                          struct hlm_comm *comm,
                                                          int32_t num_repeats, struct hlm_link *out,
                                                          struct hlm_err *err);

/* Over a transport that is there: messages between ranks 0 and 1, collectives over the world (at
 * least two ranks). *out is set on rank 0. collective over the world */
HLM_MUST_CHECK enum hlm_status hlm_profiler_links_measure(struct hlm_arena *arena,
                                                          struct hlm_comm *comm,
                                                          struct hlm_profiler_links *out,
                                                          struct hlm_err *err);

/* Over the thread transport: worlds of 2, 4, 8, ... and num_cores ranks, one thread a core. With
 * one core the two threads of the only world share it. */
HLM_MUST_CHECK enum hlm_status hlm_profiler_thread_links_measure(struct hlm_arena *arena,
                                                                 int32_t num_cores,
                                                                 struct hlm_profiler_links *out,
                                                                 struct hlm_err *err);

/* Pieces through measured points (bytes ascending; factor: hlm_collective_factor): flat up to the
 * first size, straight lines between sizes, the last one going on. A line that would start below
 * zero is one through the origin and its right end. [num_points + 1] pieces at most. */
int32_t hlm_profiler_make_pieces(const struct hlm_curve_point *points, int32_t num_points,
                                 double factor, struct hlm_collective_piece *out);

#endif
