#include "exec/rank.h"

#include "base/fmt.h"
#include "exec/record.h"

static void watch(void *context, int64_t step, const char *action, const char *operation,
                  bool waiting)
{
    hlm_heartbeat_set(context, step, action, operation, waiting);
}

static void tell_step(struct hlm_heartbeat *heartbeat, const struct hlm_rank_config *config,
                      int32_t step, const struct hlm_run_step *ran)
{
    const struct hlm_strategy *strategy = &config->plan->strategy;
    const double tokens = (double)(strategy->global_batch_size * strategy->seq_len);
    hlm_heartbeat_progress(heartbeat, "step %d of %d: loss %.6f, gradient norm %.4f, %s, %s tokens/s",
                           step + 1, config->num_steps, ran->loss, ran->grad_norm,
                           hlm_fmt_seconds(ran->wall_s).text,
                           hlm_fmt_count(tokens / ran->wall_s).text);
}

/* What run_steps works with, released by its caller. */
struct rank {
    struct hlm_state *state;
    struct hlm_runner *runner;
};

static enum hlm_status run_steps(struct hlm_arena *arena, const struct hlm_rank_config *config,
                                 struct hlm_backend *backend, struct hlm_comm *comm,
                                 struct hlm_heartbeat *heartbeat, struct rank *rank,
                                 struct hlm_record **out, struct hlm_err *err)
{
    const struct hlm_plan *plan = config->plan;
    const struct hlm_data *data = NULL;
    HLM_TRY(hlm_data_open(arena, config->data_path, &plan->model, plan->strategy.seq_len,
                          config->seed, &data, err));
    HLM_TRY(hlm_state_new(arena, plan, comm->rank, backend, config->seed, &rank->state, err));
    HLM_TRY(hlm_runner_new(arena, rank->state, comm, data, &config->optimizer, &rank->runner, err));
    hlm_runner_watch(rank->runner, watch, heartbeat);
    struct hlm_record *record =
        hlm_record_new(arena, plan, config->num_steps, config->num_warmup_steps);
    for (int32_t step = 0; step < config->num_steps; step++) {
        struct hlm_run_step ran;
        HLM_TRY(hlm_runner_step(rank->runner, step, &ran, err));
        hlm_record_add(record, &ran);
        if (comm->rank == 0) {
            tell_step(heartbeat, config, step, &ran);
        }
    }
    *out = record;
    return HLM_OK;
}

enum hlm_status hlm_rank_run(struct hlm_arena *arena, const struct hlm_rank_config *config,
                             struct hlm_backend *backend, struct hlm_comm *comm,
                             struct hlm_heartbeat *heartbeat, const struct hlm_measurement **out,
                             struct hlm_err *err)
{
    struct rank rank = {0};
    struct hlm_record *record = NULL;
    enum hlm_status status =
        run_steps(arena, config, backend, comm, heartbeat, &rank, &record, err);
    if (status == HLM_OK) {
        const struct hlm_record_about about = {.backend = config->backend,
                                               .transport = config->transport,
                                               .backend_library = config->backend_library,
                                               .virtual_time = config->virtual_time,
                                               .num_cores = config->num_cores,
                                               .peak_bytes = rank.state->allocated_bytes};
        hlm_heartbeat_set(heartbeat, config->num_steps, NULL, "gathering of the measurement", true);
        status = hlm_record_finish(arena, record, comm, &about, out, err);
    }
    hlm_runner_free(rank.runner);
    hlm_state_free(rank.state);
    return status;
}
