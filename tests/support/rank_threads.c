#include "tests/support/rank_threads.h"

#include <pthread.h>

#include "tests/support/check.h"

struct member {
    struct hlm_comm *comm;
    rank_threads_fn *work;
    void *context;
    pthread_t thread;
    enum hlm_status status;
    struct hlm_err err;
};

static void *member_main(void *argument)
{
    struct member *member = argument;
    member->status = member->work(member->comm, member->context, &member->err);
    if (member->status != HLM_OK) {
        member->comm->ops->abort(member->comm);
    }
    return NULL;
}

enum hlm_status rank_threads_run(struct hlm_arena *arena, const struct hlm_plan *plan,
                                 rank_threads_fn *work, void *context, struct hlm_err *err)
{
    return rank_threads_run_over(arena, plan, hlm_comm_thread_new, work, context, err);
}

enum hlm_status rank_threads_run_over(struct hlm_arena *arena, const struct hlm_plan *plan,
                                      rank_threads_comms_fn *new_comms, rank_threads_fn *work,
                                      void *context, struct hlm_err *err)
{
    const int32_t world = plan->num_ranks;
    struct hlm_comm **comms = HLM_ARENA_ARRAY(arena, struct hlm_comm *, world);
    struct member *members = HLM_ARENA_ARRAY(arena, struct member, world);
    const struct hlm_comm_config config = {
        .strategy = &plan->strategy, .timeout_s = 60.0, .max_bytes = 1 << 20};
    check_ok(new_comms(&config, comms, err), err);
    for (int32_t r = 0; r < world; r++) {
        members[r] = (struct member){.comm = comms[r], .work = work, .context = context};
        assert_int_equal(pthread_create(&members[r].thread, NULL, member_main, &members[r]), 0);
    }
    enum hlm_status status = HLM_OK;
    for (int32_t r = 0; r < world; r++) {
        pthread_join(members[r].thread, NULL);
        hlm_comm_free(comms[r]);
        if (status == HLM_OK && members[r].status != HLM_OK) {
            status = members[r].status;
            *err = members[r].err;
        }
    }
    return status;
}
