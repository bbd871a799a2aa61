/* crew: ranks that are threads of one process, whatever they exchange (comm_thread, comm_queue):
 * one lock for all that they share, on which each rank sleeps by itself; who has left; who has
 * ended the run. First member of what a transport's ranks share. */
#ifndef HLM_EXEC_CREW_H
#define HLM_EXEC_CREW_H

#include <pthread.h>
#include <time.h>

#include "exec/comm/comm.h"

enum { HLM_CREW_NOBODY = -1 };

struct hlm_crew_member {
    pthread_cond_t wake; /* the rank sleeps on it, nobody else */
    bool left;
};

struct hlm_crew {
    pthread_mutex_t lock;
    int32_t world_size, num_open, aborted_by; /* num_open: ranks that are not released */
    double timeout_s;
    struct hlm_crew_member *members; /* [world_size] */
};

/* False: no memory. Either way the crew is released by hlm_crew_release. */
bool hlm_crew_init(struct hlm_crew *crew, int32_t world_size, double timeout_s);
void hlm_crew_release(struct hlm_crew *crew);

/* Makes the ranks of a new crew by `make`, which counts each in num_open; after a failure those
 * that were made are released, and what they share is freed, by the last of them or by `discard`.
 */
typedef enum hlm_status hlm_crew_make_fn(const struct hlm_comm_config *config,
                                         struct hlm_crew *crew, int32_t rank, struct hlm_comm **out,
                                         struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_crew_make(const struct hlm_comm_config *config,
                                             struct hlm_crew *crew, hlm_crew_make_fn *make,
                                             void (*discard)(struct hlm_crew *crew),
                                             struct hlm_comm **out, struct hlm_err *err);

/* Ends the run for all. Not under the lock. */
void hlm_crew_abort(struct hlm_crew *crew, int32_t rank);

/* CLOCK_MONOTONIC. */
struct timespec hlm_crew_deadline(double seconds);
bool hlm_crew_passed(const struct timespec *deadline);

/* --- for the lock's holder --- */

/* Sleeps until another rank wakes this one; false after the deadline. */
bool hlm_crew_sleep(struct hlm_crew *crew, int32_t rank, const struct timespec *deadline);
void hlm_crew_wake(struct hlm_crew *crew, int32_t rank);
void hlm_crew_wake_all(struct hlm_crew *crew);
/* Tells the others that the rank is not there any more. */
void hlm_crew_leave(struct hlm_crew *crew, int32_t rank);

/* HLM_FAILED when `rank` would wait for `peer` in vain: it has left, or somebody has ended the run.
 * what: "a message from", "the arrival of". */
HLM_MUST_CHECK enum hlm_status hlm_crew_check_peer(const struct hlm_crew *crew, int32_t rank,
                                                   int32_t peer, const char *what,
                                                   struct hlm_err *err);
enum hlm_status hlm_crew_fail_late(const struct hlm_crew *crew, int32_t rank, int32_t peer,
                                   const char *what, struct hlm_err *err);

#endif
