#include "tests/support/train.h"

#include <pthread.h>

#include "exec/comm/comm_queue.h"
#include "tests/support/check.h"
#include "tests/support/late_backend.h"

/* What the threads of one run share. Gradients and parameters of the whole model are gathered under
 * the lock. */
struct run {
    const struct hlm_plan *plan;
    const struct golden *golden;
    uint64_t seed;
    int32_t num_steps;
    train_backend_fn *new_backend;
    struct train_experts experts;
    struct hlm_backend *device; /* of all ranks, NULL: each has its own */
    pthread_mutex_t lock;
    double **grads;
    float **first, **last; /* parameters before and after */
};

struct member {
    struct run *run;
    struct hlm_comm *comm;
    struct hlm_state *state;
    pthread_t thread;
    struct hlm_err err;
    enum hlm_status status;
    bool has_grads; /* of step 0 are collected */
    double losses[TRAIN_MAX_STEPS], grad_norms[TRAIN_MAX_STEPS];
};

static int32_t find_golden(const struct run *run, const char *name)
{
    for (int32_t i = 0; i < run->golden->num_params; i++) {
        if (strcmp(run->golden->params[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* Elements of a parameter that a rank has, from the first on. */
struct piece {
    int64_t first, count;
    const float *values;
};

/* Those of the whole parameter where the slab is whole, else this rank's part of it. */
static struct piece piece_of(const struct hlm_state *state, const struct hlm_state_stage *stage,
                             const struct hlm_state_param *placed, bool grads)
{
    const bool whole =
        (grads ? stage->num_held_grads : stage->num_held_params) == stage->num_padded;
    const struct hlm_state_unit *unit = hlm_state_find_unit(stage, placed->offset);
    const int64_t end = placed->offset + placed->num_elements;
    const int64_t from =
        whole || placed->offset > unit->own_first ? placed->offset : unit->own_first;
    const int64_t own_end = whole ? end : unit->own_first + unit->own_count;
    const int64_t to = own_end < end ? own_end : end;
    return (struct piece){
        .first = from - placed->offset,
        .count = to - from,
        .values = to <= from ? NULL
                  : grads    ? hlm_state_grad_address(stage, from)
                             : (float *)(void *)hlm_state_param_address(state, stage, from)};
}

/* Calls put(global index in the golden parameter, value) for each element of a shard; padding rows
 * of the vocabulary have no golden element. */
static void scatter(const struct run *run, const struct hlm_state_param *placed,
                    const struct piece *piece, double *to_double, float *to_float)
{
    const struct hlm_param *param = placed->param;
    const int32_t golden = find_golden(run, placed->name);
    const int64_t count = run->golden->params[golden].num_grad;
    for (int64_t row = 0; row < param->rows; row++) {
        const int64_t global_row = hlm_param_global_row(param, row);
        for (int64_t c = 0; c < param->cols; c++) {
            const int64_t at = global_row * param->global_cols + param->global_col + c;
            const int64_t element = row * param->cols + c - piece->first;
            if (at >= count || element < 0 || element >= piece->count) {
                continue;
            }
            const float value = piece->values[element];
            if (to_double != NULL) {
                to_double[at] = (double)value;
            } else {
                to_float[at] = value;
            }
        }
    }
}

/* The elements of all parameters of the rank, by where a stage has them. */
static void collect(const struct member *member, bool grads, double **to_double, float **to_float)
{
    const struct hlm_state *state = member->state;
    pthread_mutex_lock(&member->run->lock);
    for (int32_t s = 0; s < state->num_stages; s++) {
        const struct hlm_state_stage *stage = &state->stages[s];
        for (int32_t i = 0; i < stage->num_params; i++) {
            const struct hlm_state_param *param = &stage->params[i];
            const int32_t golden = find_golden(member->run, param->name);
            if (golden >= 0) {
                const struct piece piece = piece_of(state, stage, param, grads);
                scatter(member->run, param, &piece, to_double != NULL ? to_double[golden] : NULL,
                        to_float != NULL ? to_float[golden] : NULL);
            }
        }
    }
    pthread_mutex_unlock(&member->run->lock);
}

/* The reduced gradients stand in the slab when the optimizer of the first step begins. */
static void on_action(void *context, int64_t step, const char *action, const char *operation,
                      bool waiting)
{
    struct member *member = context;
    (void)waiting;
    if (step == 0 && !member->has_grads && operation == NULL && action != NULL &&
        strstr(action, "OPTIMIZER") != NULL && member->run->golden != NULL) {
        collect(member, true, member->run->grads, NULL);
        member->has_grads = true;
    }
}

static enum hlm_status clear_params(const struct member *member, struct hlm_err *err)
{
    const struct hlm_state *state = member->state;
    const char *cleared = member->run->experts.cleared;
    for (int32_t s = 0; s < state->num_stages && cleared != NULL; s++) {
        const struct hlm_state_stage *stage = &state->stages[s];
        for (int32_t i = 0; i < stage->num_params; i++) {
            const struct hlm_state_param *param = &stage->params[i];
            const struct hlm_op zero = {
                .kind = HLM_OP_FILL_ZERO, .dtype = state->dtype, .m = param->num_elements, .n = 1};
            void *const operands[HLM_OP_MAX_OPERANDS] = {
                hlm_state_param_address(state, stage, param->offset)};
            const struct hlm_op_scalars scalars = {0};
            if (strstr(param->name, cleared) != NULL) {
                HLM_TRY(state->backend->ops->launch(state->queue, &zero, operands, &scalars, err));
            }
        }
    }
    return state->backend->ops->queue_sync(state->queue, err);
}

static enum hlm_status train_member(struct member *member, struct hlm_arena *arena,
                                    struct hlm_backend *backend, struct hlm_runner **runner)
{
    const struct run *run = member->run;
    const struct hlm_plan *plan = run->plan;
    const struct hlm_data *data = NULL;
    HLM_TRY(hlm_data_open(arena, NULL, &plan->model, plan->strategy.seq_len, run->seed, &data,
                          &member->err));
    HLM_TRY(hlm_state_new_routed(arena, plan, member->comm->rank, backend, run->seed,
                                 run->experts.routing, &member->state, &member->err));
    HLM_TRY(clear_params(member, &member->err));
    HLM_TRY(hlm_runner_new(arena, member->state, member->comm, data, &hlm_optimizer_default, 60.0,
                           runner, &member->err));
    hlm_runner_watch(*runner, on_action, member);
    if (run->golden != NULL) {
        collect(member, false, NULL, run->first);
    }
    for (int32_t step = 0; step < run->num_steps; step++) {
        struct hlm_run_step ran;
        HLM_TRY(hlm_runner_step(*runner, step, &ran, &member->err));
        member->losses[step] = ran.loss;
        member->grad_norms[step] = ran.grad_norm;
    }
    if (run->golden != NULL) {
        collect(member, false, NULL, run->last);
    }
    return HLM_OK;
}

/* Over queues the ranks share the device and the transport works on its memory. */
static enum hlm_status make_backend(struct member *member, struct hlm_backend **out)
{
    const struct run *run = member->run;
    if (run->device == NULL) {
        return run->new_backend(out, &member->err);
    }
    HLM_TRY(late_backend_new_beside(run->device, out, (uint64_t)member->comm->rank + 1, 20e-6,
                                    &member->err));
    return hlm_comm_queue_use_backend(member->comm, *out, &member->err);
}

static void *member_main(void *argument)
{
    struct member *member = argument;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_backend *backend = NULL;
    struct hlm_runner *runner = NULL;
    member->status = make_backend(member, &backend);
    if (member->status == HLM_OK) {
        member->status = train_member(member, arena, backend, &runner);
    }
    if (member->status != HLM_OK) {
        member->comm->ops->abort(member->comm);
    }
    hlm_runner_free(runner);
    hlm_comm_free(member->comm);
    hlm_state_free(member->state);
    hlm_backend_free(backend);
    hlm_arena_free(arena);
    return NULL;
}

static void make_gather(struct hlm_arena *arena, struct run *run)
{
    const int32_t n = run->golden->num_params;
    run->grads = HLM_ARENA_ARRAY(arena, double *, n);
    run->first = HLM_ARENA_ARRAY(arena, float *, n);
    run->last = HLM_ARENA_ARRAY(arena, float *, n);
    for (int32_t i = 0; i < n; i++) {
        const int32_t count = run->golden->params[i].num_grad;
        run->grads[i] = HLM_ARENA_ARRAY(arena, double, count);
        run->first[i] = HLM_ARENA_ARRAY(arena, float, count);
        run->last[i] = HLM_ARENA_ARRAY(arena, float, count);
    }
}

static const double *update_norms(struct hlm_arena *arena, const struct run *run)
{
    double *norms = HLM_ARENA_ARRAY(arena, double, run->golden->num_params);
    for (int32_t i = 0; i < run->golden->num_params; i++) {
        double squares = 0.0;
        for (int32_t k = 0; k < run->golden->params[i].num_grad; k++) {
            const double change = (double)run->last[i][k] - (double)run->first[i][k];
            squares += change * change;
        }
        norms[i] = sqrt(squares);
    }
    return norms;
}

static void join_all(struct member *members, int32_t world)
{
    const struct member *failed = NULL;
    for (int32_t rank = 0; rank < world; rank++) {
        pthread_join(members[rank].thread, NULL);
        if (members[rank].status != HLM_OK && failed == NULL) {
            failed = &members[rank];
        }
    }
    if (failed != NULL) {
        fail_msg("a rank failed: %s", failed->err.text);
    }
}

struct train_result train_run(struct hlm_arena *arena, const struct hlm_plan *plan, uint64_t seed,
                              int32_t num_steps, train_backend_fn *new_backend,
                              const struct golden *golden)
{
    const struct train_experts experts = {.routing = HLM_ROUTING_TOPK};
    return train_run_experts(arena, plan, seed, num_steps, new_backend, golden, &experts);
}

struct train_result train_run_experts(struct hlm_arena *arena, const struct hlm_plan *plan,
                                      uint64_t seed, int32_t num_steps,
                                      train_backend_fn *new_backend, const struct golden *golden,
                                      const struct train_experts *experts)
{
    struct hlm_err err = {0};
    struct run run = {.plan = plan,
                      .golden = golden,
                      .seed = seed,
                      .num_steps = num_steps,
                      .new_backend = new_backend,
                      .experts = *experts};
    pthread_mutex_init(&run.lock, NULL);
    if (golden != NULL) {
        make_gather(arena, &run);
    }
    const int32_t world = plan->num_ranks;
    struct hlm_comm **comms = HLM_ARENA_ARRAY(arena, struct hlm_comm *, world);
    struct member *members = HLM_ARENA_ARRAY(arena, struct member, world);
    const struct hlm_comm_config config = {
        .strategy = &plan->strategy, .timeout_s = 60.0, .max_bytes = 1 << 20};
    if (new_backend == NULL) {
        check_ok(late_backend_new(&run.device, 0, 0.0, &err), &err);
        check_ok(hlm_comm_queue_new(&config, comms, &err), &err);
    } else {
        check_ok(hlm_comm_thread_new(&config, comms, &err), &err);
    }
    for (int32_t rank = 0; rank < world; rank++) {
        members[rank] = (struct member){.run = &run, .comm = comms[rank]};
        assert_int_equal(pthread_create(&members[rank].thread, NULL, member_main, &members[rank]),
                         0);
    }
    join_all(members, world);
    hlm_backend_free(run.device);
    pthread_mutex_destroy(&run.lock);
    struct train_result result = {.grads = run.grads};
    memcpy(result.losses, members[0].losses, sizeof(result.losses));
    memcpy(result.grad_norms, members[0].grad_norms, sizeof(result.grad_norms));
    result.update_norms = golden != NULL ? update_norms(arena, &run) : NULL;
    return result;
}
