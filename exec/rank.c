#include "exec/rank.h"

#include <time.h>

#include "base/fmt.h"
#include "exec/comm/comm_emulate.h"
#include "exec/comm/exchange.h"
#include "exec/rank_messages.h"

/* What run_steps works with, released by its caller. */
struct rank {
    const struct hlm_rank_config *config;
    struct hlm_comm *comm;
    struct hlm_heartbeat *heartbeat;
    struct hlm_state *state;
    struct hlm_runner *runner;
    struct hlm_rank_memory_use memory; /* the most of all steps */
    const double *message_s;           /* measured ones, NULL: none */
    /* What the runner said last. */
    int64_t step;
    const char *action, *operation;
    double told_s; /* when the last line about a step was sent */
};

/* --- what it is doing --- */

static bool is_alone(const struct rank *rank)
{
    return rank->config->emulation != HLM_RECORD_ALL_RANKS;
}

static void watch(void *context, int64_t step, const char *action, const char *operation,
                  bool waiting)
{
    struct rank *rank = context;
    rank->step = step;
    rank->action = action;
    rank->operation = operation;
    if (is_alone(rank)) {
        hlm_comm_emulate_action(rank->comm, action);
    }
    hlm_heartbeat_set(rank->heartbeat, step, action, operation, waiting);
}

static void alive(void *context)
{
    const struct rank *rank = context;
    hlm_heartbeat_set(rank->heartbeat, rank->step, rank->action, rank->operation, true);
}

const char *hlm_rank_step_text(struct hlm_arena *arena, const struct hlm_plan *plan, int32_t step,
                               int32_t num_steps, const struct hlm_run_step *ran,
                               const struct hlm_rank_memory_use *memory)
{
    double tokens_per_s = 0.0, mfu = 0.0;
    hlm_measurement_rates(plan, ran->wall_s, &tokens_per_s, &mfu);
    struct hlm_text text;
    hlm_text_init(&text, arena);
    hlm_text_printf(&text, "step %d of %d: ", step + 1, num_steps);
    if (ran->loss != 0.0) {
        hlm_text_printf(&text, "loss %.6f, ", ran->loss);
    }
    hlm_text_printf(&text, "gradient norm %.4g, %s, %s tokens/s", ran->grad_norm,
                    hlm_fmt_seconds(ran->wall_s).text, hlm_fmt_count(tokens_per_s).text);
    if (mfu > 0.0) {
        hlm_text_printf(&text, ", MFU %.1f %% (%s attention)", 100.0 * mfu,
                        hlm_model_is_causal(&plan->model) ? "causal" : "full");
    }
    hlm_text_printf(&text, ", %s", hlm_fmt_bytes((double)memory->allocated_bytes).text);
    if (memory->device_total_bytes > 0) {
        hlm_text_printf(&text, " (device: %s of %s)",
                        hlm_fmt_bytes((double)memory->device_used_bytes).text,
                        hlm_fmt_bytes((double)memory->device_total_bytes).text);
    }
    return text.text;
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void tell_step(struct hlm_arena *arena, struct rank *rank, int32_t step,
                      const struct hlm_run_step *ran)
{
    static const double least_s = 0.5; /* between two lines */
    const struct hlm_rank_config *config = rank->config;
    const double now = now_s();
    const bool edge = step == 0 || step + 1 == config->num_steps;
    if ((!is_alone(rank) && rank->comm->rank != 0) || (!edge && now - rank->told_s < least_s)) {
        return;
    }
    rank->told_s = now;
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    const char *text =
        hlm_rank_step_text(arena, config->plan, step, config->num_steps, ran, &rank->memory);
    if (is_alone(rank)) {
        hlm_heartbeat_progress(rank->heartbeat, "rank %d of %d alone, %s", rank->comm->rank,
                               rank->comm->world_size, text);
    } else {
        hlm_heartbeat_progress(rank->heartbeat, "%s", text);
    }
    hlm_arena_rewind(arena, mark);
}

/* --- the steps --- */

static enum hlm_status note_memory(struct rank *rank, struct hlm_backend *backend,
                                   struct hlm_err *err)
{
    int64_t used = 0, total = 0;
    rank->memory.allocated_bytes = rank->state->allocated_bytes;
    if (backend->ops->memory != NULL) {
        HLM_TRY(backend->ops->memory(backend, &used, &total, err));
    }
    rank->memory.device_used_bytes =
        used > rank->memory.device_used_bytes ? used : rank->memory.device_used_bytes;
    rank->memory.device_total_bytes = total;
    return HLM_OK;
}

static double timeout_s(const struct hlm_rank_config *config)
{
    static const double usual_s = 60.0;
    return config->timeout_s > 0.0 ? config->timeout_s : usual_s;
}

static enum hlm_status make_rank(struct hlm_arena *arena, struct rank *rank,
                                 struct hlm_backend *backend, struct hlm_err *err)
{
    const struct hlm_rank_config *config = rank->config;
    const struct hlm_plan *plan = config->plan;
    const struct hlm_data *data = NULL;
    HLM_TRY(hlm_data_open(arena, config->data_path, &plan->model, plan->strategy.seq_len,
                          config->seed, &data, err));
    HLM_TRY(hlm_state_new_routed(arena, plan, rank->comm->rank, backend, config->seed,
                                 config->routing, &rank->state, err));
    HLM_TRY(hlm_runner_new(arena, rank->state, rank->comm, data, &config->optimizer,
                           timeout_s(config), &rank->runner, err));
    hlm_runner_watch(rank->runner, watch, rank);
    hlm_runner_use_graphs(rank->runner, !config->without_graphs);
    if (is_alone(rank)) {
        hlm_comm_emulate_alive(rank->comm, alive, rank);
    }
    return HLM_OK;
}

/* From a replica's share of the loss to its mean. */
static double all_over_own(const struct hlm_plan *plan, int32_t rank)
{
    const struct hlm_strategy *all = &plan->strategy;
    const struct hlm_strategy own =
        hlm_strategy_of_replica(all, hlm_layout_coords(all, rank).dp, NULL);
    return (double)all->global_batch_size / (double)(own.microbatch_size * own.num_microbatches);
}

static enum hlm_status run_steps(struct hlm_arena *arena, struct rank *rank,
                                 struct hlm_backend *backend, struct hlm_record **out,
                                 struct hlm_err *err)
{
    const struct hlm_rank_config *config = rank->config;
    struct hlm_record *record = NULL;
    HLM_TRY(make_rank(arena, rank, backend, err));
    HLM_TRY(hlm_record_new(arena, config->plan, config->num_steps, config->num_warmup_steps,
                           &record, err));
    for (int32_t step = 0; step < config->num_steps; step++) {
        struct hlm_run_step ran;
        HLM_TRY(hlm_runner_step(rank->runner, step, &ran, err));
        if (is_alone(rank)) {
            ran.loss *= all_over_own(config->plan, rank->comm->rank);
        }
        hlm_record_add(record, rank->comm->rank, &ran);
        HLM_TRY(note_memory(rank, backend, err));
        tell_step(arena, rank, step, &ran);
    }
    *out = record;
    return HLM_OK;
}

/* --- the measurement --- */

static enum hlm_status gather(void *context, const void *own, void *all, int64_t bytes,
                              struct hlm_err *err)
{
    return hlm_exchange_host_gather(context, HLM_GROUP_WORLD, own, all, bytes, err);
}

static enum hlm_status finish_record(struct hlm_arena *arena, const struct rank *rank,
                                     struct hlm_record *record, struct hlm_exchange *exchange,
                                     const struct hlm_measurement **out, struct hlm_err *err)
{
    const struct hlm_rank_config *config = rank->config;
    const struct hlm_record_about about = {.backend = config->backend,
                                           .transport = config->transport,
                                           .backend_library = config->backend_library,
                                           .virtual_time = config->virtual_time,
                                           .message_s = rank->message_s,
                                           .message_bytes = rank->state->boundary_bytes,
                                           .emulation = config->emulation,
                                           .num_cores = config->num_cores,
                                           .peak_bytes = rank->memory.allocated_bytes,
                                           .device_used_bytes = rank->memory.device_used_bytes,
                                           .device_total_bytes = rank->memory.device_total_bytes};
    const struct hlm_record_world world = {rank->comm->rank, rank->comm->world_size, gather,
                                           exchange};
    hlm_heartbeat_set(rank->heartbeat, config->num_steps, NULL, "gathering of the measurement",
                      !is_alone(rank));
    return hlm_record_finish(arena, record, &world, &about, out, err);
}

/* With an exchange of its own: the runner's went with it. */
static enum hlm_status report(struct hlm_arena *arena, const struct rank *rank,
                              struct hlm_backend *backend, struct hlm_record *record,
                              const struct hlm_measurement **out, struct hlm_err *err)
{
    struct hlm_exchange *exchange = NULL;
    const struct hlm_exchange_config config = {.strategy = &rank->config->plan->strategy,
                                               .comm = rank->comm,
                                               .backend = backend,
                                               .queue = rank->state->queue,
                                               .timeout_s = timeout_s(rank->config)};
    HLM_TRY(hlm_exchange_new(arena, &config, &exchange, err));
    const enum hlm_status status = finish_record(arena, rank, record, exchange, out, err);
    hlm_exchange_free(exchange);
    return status;
}

enum hlm_status hlm_rank_run(struct hlm_arena *arena, const struct hlm_rank_config *config,
                             struct hlm_backend *backend, struct hlm_comm *comm,
                             struct hlm_heartbeat *heartbeat, const struct hlm_measurement **out,
                             struct hlm_err *err)
{
    struct rank rank = {.config = config, .comm = comm, .heartbeat = heartbeat};
    struct hlm_record *record = NULL;
    enum hlm_status status = run_steps(arena, &rank, backend, &record, err);
    hlm_runner_free(rank.runner);
    if (status == HLM_OK && config->measured_messages) {
        hlm_heartbeat_set(heartbeat, config->num_steps, NULL, "messages between stages", true);
        status = hlm_rank_messages_measure(arena, config->plan, comm, rank.state->boundary_bytes,
                                           &rank.message_s, err);
    }
    if (status == HLM_OK) {
        status = report(arena, &rank, backend, record, out, err);
    }
    hlm_state_free(rank.state);
    return status;
}
