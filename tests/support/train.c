#include "tests/support/train.h"

#include <pthread.h>

#include "tests/support/check.h"

/* What the threads of one run share. Gradients and parameters of the whole model are gathered under
 * the lock. */
struct run {
    const struct hlm_plan *plan;
    const struct golden *golden;
    uint64_t seed;
    int32_t num_steps;
    train_backend_fn *new_backend;
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

/* Calls put(global index in the golden parameter, value) for each element of a shard; padding rows
 * of the vocabulary have no golden element. */
static void scatter(const struct run *run, const struct hlm_state_param *placed,
                    const float *values, double *to_double, float *to_float)
{
    const struct hlm_param *param = placed->param;
    const int32_t golden = find_golden(run, placed->name);
    const int64_t count = run->golden->params[golden].num_grad;
    int64_t row = 0;
    for (int32_t s = 0; s < param->num_slices; s++) {
        for (int64_t r = 0; r < param->slices[s].num_rows; r++, row++) {
            const int64_t global_row = param->slices[s].global_row + r;
            for (int64_t c = 0; c < param->cols; c++) {
                const int64_t at = global_row * param->global_cols + param->global_col + c;
                const float value = values[row * param->cols + c];
                if (at >= count) {
                    continue;
                }
                if (to_double != NULL) {
                    to_double[at] = (double)value;
                } else {
                    to_float[at] = value;
                }
            }
        }
    }
}

static void collect_grads(const struct member *member)
{
    const struct hlm_state *state = member->state;
    pthread_mutex_lock(&member->run->lock);
    for (int32_t i = 0; i < state->num_params; i++) {
        const int32_t golden = find_golden(member->run, state->params[i].name);
        if (golden >= 0) {
            scatter(member->run, &state->params[i], state->grads_slab + state->params[i].offset,
                    member->run->grads[golden], NULL);
        }
    }
    pthread_mutex_unlock(&member->run->lock);
}

static void collect_params(const struct member *member, float **to)
{
    const struct hlm_state *state = member->state;
    pthread_mutex_lock(&member->run->lock);
    for (int32_t i = 0; i < state->num_params; i++) {
        const int32_t golden = find_golden(member->run, state->params[i].name);
        if (golden >= 0) {
            scatter(member->run, &state->params[i], state->params_slab + state->params[i].offset,
                    NULL, to[golden]);
        }
    }
    pthread_mutex_unlock(&member->run->lock);
}

/* The reduced gradients stand in the slab when the optimizer of the first step begins. */
static void on_action(void *context, int64_t step, const char *action, const char *operation,
                      bool waiting)
{
    const struct member *member = context;
    (void)waiting;
    if (step == 0 && operation == NULL && action != NULL && strstr(action, "OPTIMIZER") != NULL &&
        member->run->golden != NULL) {
        collect_grads(member);
    }
}

static enum hlm_status train_member(struct member *member, struct hlm_arena *arena,
                                    struct hlm_backend *backend, struct hlm_runner **runner)
{
    const struct run *run = member->run;
    const struct hlm_plan *plan = run->plan;
    const struct hlm_data *data = NULL;
    HLM_TRY(hlm_data_open(arena, NULL, &plan->model, plan->strategy.seq_len, run->seed, &data,
                          &member->err));
    HLM_TRY(hlm_state_new(arena, plan, member->comm->rank, backend, run->seed, &member->state,
                          &member->err));
    HLM_TRY(hlm_runner_new(arena, member->state, member->comm, data, &hlm_optimizer_default, runner,
                           &member->err));
    hlm_runner_watch(*runner, on_action, member);
    if (run->golden != NULL) {
        collect_params(member, run->first);
    }
    for (int32_t step = 0; step < run->num_steps; step++) {
        struct hlm_run_step ran;
        HLM_TRY(hlm_runner_step(*runner, step, &ran, &member->err));
        member->losses[step] = ran.loss;
        member->grad_norms[step] = ran.grad_norm;
    }
    if (run->golden != NULL) {
        collect_params(member, run->last);
    }
    return HLM_OK;
}

static void *member_main(void *argument)
{
    struct member *member = argument;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_backend *backend = NULL;
    struct hlm_runner *runner = NULL;
    member->status = member->run->new_backend(&backend, &member->err);
    if (member->status == HLM_OK) {
        member->status = train_member(member, arena, backend, &runner);
    }
    if (member->status != HLM_OK) {
        member->comm->ops->abort(member->comm);
    }
    hlm_runner_free(runner);
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
        hlm_comm_free(members[rank].comm);
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
    struct hlm_err err = {0};
    struct run run = {.plan = plan,
                      .golden = golden,
                      .seed = seed,
                      .num_steps = num_steps,
                      .new_backend = new_backend};
    pthread_mutex_init(&run.lock, NULL);
    if (golden != NULL) {
        make_gather(arena, &run);
    }
    const int32_t world = plan->num_ranks;
    struct hlm_comm **comms = HLM_ARENA_ARRAY(arena, struct hlm_comm *, world);
    struct member *members = HLM_ARENA_ARRAY(arena, struct member, world);
    const struct hlm_comm_config config = {
        .strategy = &plan->strategy, .timeout_s = 60.0, .max_bytes = 1 << 20};
    check_ok(hlm_comm_thread_new(&config, comms, &err), &err);
    for (int32_t rank = 0; rank < world; rank++) {
        members[rank] = (struct member){.run = &run, .comm = comms[rank]};
        assert_int_equal(pthread_create(&members[rank].thread, NULL, member_main, &members[rank]),
                         0);
    }
    join_all(members, world);
    pthread_mutex_destroy(&run.lock);
    struct train_result result = {.grads = run.grads};
    memcpy(result.losses, members[0].losses, sizeof(result.losses));
    memcpy(result.grad_norms, members[0].grad_norms, sizeof(result.grad_norms));
    result.update_norms = golden != NULL ? update_norms(arena, &run) : NULL;
    return result;
}
