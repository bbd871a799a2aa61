#include "exec/comm/crew.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* --- life --- */

bool hlm_crew_init(struct hlm_crew *crew, int32_t world_size, double timeout_s)
{
    pthread_condattr_t clock;
    *crew = (struct hlm_crew){
        .world_size = world_size, .aborted_by = HLM_CREW_NOBODY, .timeout_s = timeout_s};
    pthread_mutex_init(&crew->lock, NULL);
    crew->members = calloc((size_t)world_size, sizeof *crew->members);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    for (int32_t i = 0; crew->members != NULL && i < world_size; i++) {
        pthread_cond_init(&crew->members[i].wake, &clock);
    }
    pthread_condattr_destroy(&clock);
    return crew->members != NULL;
}

void hlm_crew_release(struct hlm_crew *crew)
{
    for (int32_t i = 0; crew->members != NULL && i < crew->world_size; i++) {
        pthread_cond_destroy(&crew->members[i].wake);
    }
    pthread_mutex_destroy(&crew->lock);
    free(crew->members);
}

enum hlm_status hlm_crew_make(const struct hlm_comm_config *config, struct hlm_crew *crew,
                              hlm_crew_make_fn *make, void (*discard)(struct hlm_crew *crew),
                              struct hlm_comm **out, struct hlm_err *err)
{
    const int32_t world_size = crew->world_size;
    for (int32_t rank = 0; rank < world_size; rank++) {
        const enum hlm_status status = make(config, crew, rank, &out[rank], err);
        if (status != HLM_OK) {
            if (rank == 0) {
                discard(crew);
            }
            for (int32_t i = 0; i < rank; i++) {
                hlm_comm_free(out[i]);
            }
            return status;
        }
    }
    return HLM_OK;
}

void hlm_crew_abort(struct hlm_crew *crew, int32_t rank)
{
    pthread_mutex_lock(&crew->lock);
    if (crew->aborted_by == HLM_CREW_NOBODY) {
        crew->aborted_by = rank;
    }
    hlm_crew_wake_all(crew);
    pthread_mutex_unlock(&crew->lock);
}

/* --- waiting --- */

struct timespec hlm_crew_deadline(double seconds)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    const double whole = (double)(int64_t)seconds;
    at.tv_sec += (time_t)whole;
    at.tv_nsec += (long)((seconds - whole) * 1e9);
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

bool hlm_crew_passed(const struct timespec *deadline)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > deadline->tv_sec ||
           (now.tv_sec == deadline->tv_sec && now.tv_nsec >= deadline->tv_nsec);
}

bool hlm_crew_sleep(struct hlm_crew *crew, int32_t rank, const struct timespec *deadline)
{
    return pthread_cond_timedwait(&crew->members[rank].wake, &crew->lock, deadline) != ETIMEDOUT;
}

void hlm_crew_wake(struct hlm_crew *crew, int32_t rank)
{
    pthread_cond_signal(&crew->members[rank].wake);
}

void hlm_crew_wake_all(struct hlm_crew *crew)
{
    for (int32_t i = 0; i < crew->world_size; i++) {
        hlm_crew_wake(crew, i);
    }
}

void hlm_crew_leave(struct hlm_crew *crew, int32_t rank)
{
    crew->members[rank].left = true;
    hlm_crew_wake_all(crew);
}

enum hlm_status hlm_crew_check_peer(const struct hlm_crew *crew, int32_t rank, int32_t peer,
                                    const char *what, struct hlm_err *err)
{
    if (crew->aborted_by != HLM_CREW_NOBODY) {
        return hlm_fail(err, HLM_FAILED,
                        "rank %" PRId32 " waits for %s rank %" PRId32 ", but rank %" PRId32
                        " has ended the run",
                        rank, what, peer, crew->aborted_by);
    }
    if (crew->members[peer].left) {
        return hlm_fail(err, HLM_FAILED,
                        "rank %" PRId32 " waits for %s rank %" PRId32 ", which has left", rank,
                        what, peer);
    }
    return HLM_OK;
}

enum hlm_status hlm_crew_fail_late(const struct hlm_crew *crew, int32_t rank, int32_t peer,
                                   const char *what, struct hlm_err *err)
{
    return hlm_fail(err, HLM_FAILED, "rank %" PRId32 " has waited %g s for %s rank %" PRId32, rank,
                    crew->timeout_s, what, peer);
}
