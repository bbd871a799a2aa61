/* rank_threads: the ranks of a plan as threads of the test, each with a communicator. */
#ifndef HLM_TESTS_SUPPORT_RANK_THREADS_H
#define HLM_TESTS_SUPPORT_RANK_THREADS_H

#include "exec/comm/comm.h"
#include "planner/plan.h"

/* What one rank does. Where it fails, the transport is aborted, so that its peers fail too. */
typedef enum hlm_status rank_threads_fn(struct hlm_comm *comm, void *context, struct hlm_err *err);

/* Runs work(comm, context) for each rank of the plan; the first status in rank order that is not
 * HLM_OK is returned with its message. */
enum hlm_status rank_threads_run(struct hlm_arena *arena, const struct hlm_plan *plan,
                                 rank_threads_fn *work, void *context, struct hlm_err *err);

/* The same over another transport among threads: hlm_comm_thread_new, hlm_comm_queue_new. */
typedef enum hlm_status rank_threads_comms_fn(const struct hlm_comm_config *config,
                                              struct hlm_comm **out, struct hlm_err *err);
enum hlm_status rank_threads_run_over(struct hlm_arena *arena, const struct hlm_plan *plan,
                                      rank_threads_comms_fn *new_comms, rank_threads_fn *work,
                                      void *context, struct hlm_err *err);

#endif
