/* What a rank allocates is what the cost model says of its stages, to the byte: their static bytes
 * and slots, and the largest workspace; and that is what a plan promises. */
#include "exec/runner/state.h"
#include "tests/support/check.h"
#include "tests/support/golden.h"
#include "tests/support/share.h"

enum { SEED = 11 };

struct fixture {
    struct hlm_arena *arena;
    struct hlm_backend *backend;
    struct hlm_backend_ops ops; /* of a backend that has every dtype */
    int32_t num_layouts;        /* of the long test, with those that the build passes over */
    int32_t num_checked;
};

/* Making a state launches no other operator. */
static enum hlm_status launch_zero(struct hlm_queue *queue, const struct hlm_op *op,
                                   void *const operands[HLM_OP_MAX_OPERANDS],
                                   const struct hlm_op_scalars *scalars, struct hlm_err *err)
{
    (void)queue;
    (void)scalars;
    (void)err;
    assert_int_equal(op->kind, HLM_OP_FILL_ZERO);
    memset(operands[0], 0, (size_t)op->m * (size_t)hlm_dtype_bytes(op->dtype));
    return HLM_OK;
}

static int enter(void **state)
{
    static struct fixture fixture;
    struct hlm_err err;
    fixture = (struct fixture){.arena = hlm_arena_new()};
    check_ok(hlm_backend_cpu_new(&fixture.backend, &err), &err);
    fixture.ops = *fixture.backend->ops;
    fixture.ops.launch = launch_zero;
    fixture.backend->ops = &fixture.ops;
    *state = &fixture;
    return 0;
}

static int leave(void **state)
{
    struct fixture *fixture = *state;
    hlm_backend_free(fixture->backend);
    hlm_arena_free(fixture->arena);
    return 0;
}

static int64_t predicted_bytes(struct fixture *fixture, const struct hlm_plan *plan,
                               const struct hlm_schedule *schedule, int32_t pp)
{
    struct hlm_err err;
    struct hlm_pricer pricer;
    const int32_t *in_flight = hlm_schedule_in_flights(fixture->arena, schedule);
    int64_t bytes = 0, transient = 0;
    const struct hlm_strategy at = hlm_strategy_at(&plan->strategy, pp);
    check_ok(hlm_pricer_init(fixture->arena, &plan->model, &at, &plan->cluster, 0, &pricer, &err),
             &err);
    for (int32_t s = 0; s < plan->num_stages; s++) {
        const struct hlm_stage_shape shape =
            hlm_plan_stage_shape(&plan->model, plan->stages, plan->num_stages, s);
        struct hlm_stage_cost cost;
        if (schedule->stage_rank[s] != pp) {
            continue;
        }
        hlm_stage_cost(&pricer, &shape, &cost);
        for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
            bytes += cost.static_bytes[kind];
        }
        bytes += in_flight[s] * cost.slot_bytes;
        transient = cost.transient_bytes > transient ? cost.transient_bytes : transient;
    }
    return bytes + transient;
}

/* What the plan promises that a rank needs, but for what is not ours to allocate. */
static int64_t promised_bytes(const struct hlm_plan *plan, int32_t pp)
{
    int64_t bytes = hlm_plan_rank_peak_bytes(plan, pp);
    for (int32_t s = 0; s < plan->num_stages; s++) {
        bytes -= plan->stages[s].rank_group == pp
                     ? plan->prediction.memory[s].bytes[HLM_MEMORY_FIXED]
                     : 0;
    }
    return bytes;
}

static void check_plan(struct fixture *fixture, const struct hlm_plan *plan,
                       const struct hlm_schedule *schedule, const char *where)
{
    for (int32_t rank = 0; rank < plan->num_ranks; rank++) {
        struct hlm_err err;
        struct hlm_state *made = NULL;
        check_ok(hlm_state_new(fixture->arena, plan, rank, fixture->backend, SEED, &made, &err),
                 &err);
        const int64_t expected = predicted_bytes(fixture, plan, schedule, made->coords.pp);
        if (made->allocated_bytes != expected) {
            fail_msg("%s: rank %d allocates %lld bytes, predicted are %lld", where, rank,
                     (long long)made->allocated_bytes, (long long)expected);
        }
        if (promised_bytes(plan, made->coords.pp) != made->allocated_bytes) {
            fail_msg("%s: rank %d allocates %lld bytes, the plan promises %lld", where, rank,
                     (long long)made->allocated_bytes,
                     (long long)promised_bytes(plan, made->coords.pp));
        }
        hlm_state_free(made);
        fixture->num_checked++;
    }
}

static void check_layout(struct fixture *fixture, const char *name, int64_t global_batch_size,
                         const struct golden_layout *layout)
{
    struct golden golden = *golden_read(fixture->arena, name);
    const int32_t dp = layout->dp > 0 ? layout->dp : 1;
    const struct hlm_schedule *schedule = NULL;
    struct hlm_err err;
    golden.model.num_layers = 10;
    if (hlm_schedule_build(fixture->arena, layout->schedule, layout->pp, layout->vpp,
                           (int32_t)(global_batch_size / dp), &schedule, &err) != HLM_OK) {
        return;
    }
    const struct hlm_plan *plan =
        golden_plan(fixture->arena, &golden.model, global_batch_size, golden.seq_len, layout);
    /* Else not legal for this model (sp rows that tp does not divide), or priced only. */
    if (plan != NULL && hlm_lowering_refusal(&plan->model, &plan->strategy) == NULL) {
        check_plan(fixture, plan, schedule,
                   hlm_arena_printf(fixture->arena, "%s %s", name,
                                    golden_layout_text(fixture->arena, layout)));
    }
}

static void check_schedules(struct fixture *fixture, const char *name,
                            const struct golden_layout *beside)
{
    for (int kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        const struct hlm_schedule_chunks chunks = hlm_schedule_chunks((enum hlm_schedule_kind)kind);
        for (int32_t pp = 1; pp <= 4; pp *= 2) {
            struct golden_layout layout = *beside;
            layout.pp = pp;
            layout.vpp = chunks.min;
            layout.schedule = (enum hlm_schedule_kind)kind;
            if (share_has(fixture->num_layouts++)) {
                check_layout(fixture, name, 16, &layout);
            }
        }
    }
}

static void test_all(void **state)
{
    static const char *const models[] = {"gpt2", "llama", "bert", "vit"};
    static const struct golden_layout beside[] = {
        {0},
        {.tp = 2, .sp = true, .recompute = HLM_RECOMPUTE_SELECTIVE},
        {.dp = 2, .zero = 1, .dtype = HLM_DTYPE_BF16},
        {.tp = 2, .recompute = HLM_RECOMPUTE_FULL, .dtype = HLM_DTYPE_BF16},
        {.dp = 2, .zero = 2, .recompute = HLM_RECOMPUTE_SELECTIVE},
        {.dp = 2, .tp = 2, .sp = true, .zero = 3, .dtype = HLM_DTYPE_BF16},
        {.dp = 4, .zero = 3, .recompute = HLM_RECOMPUTE_FULL},
    };
    struct fixture *fixture = *state;
    for (size_t m = 0; m < sizeof(models) / sizeof(models[0]); m++) {
        for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
            check_schedules(fixture, models[m], &beside[i]);
        }
    }
    assert_true(fixture->num_checked > share_of(1000));
}

/* Each pipeline rank with a tp of its own. */
static void test_uneven(void **state)
{
    static const struct golden_layout layouts[] = {
        {.tp = 2, .pp = 2, .tp_at = {1, 2}, .sp = true, .schedule = HLM_SCHEDULE_1F1B},
        {.tp = 4, .pp = 2, .tp_at = {4, 2}, .schedule = HLM_SCHEDULE_GPIPE, .dp = 2, .zero = 1},
        {.tp = 2,
         .pp = 3,
         .tp_at = {2, 1, 2},
         .sp = true,
         .schedule = HLM_SCHEDULE_ZB_H1,
         .dp = 2,
         .zero = 2,
         .dtype = HLM_DTYPE_BF16},
        {.tp = 4,
         .pp = 4,
         .tp_at = {1, 4, 2, 1},
         .schedule = HLM_SCHEDULE_ZB_H2,
         .dp = 2,
         .zero = 3,
         .recompute = HLM_RECOMPUTE_SELECTIVE}};
    struct fixture *fixture = *state;
    const int32_t before = fixture->num_checked;
    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
        struct golden_layout layout = layouts[i];
        layout.vpp = 1;
        check_layout(fixture, "gpt2", 16, &layout);
        check_layout(fixture, "llama", 16, &layout);
        check_layout(fixture, "vit", 16, &layout);
    }
    assert_true(fixture->num_checked - before > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_all, enter, leave),
                                       cmocka_unit_test_setup_teardown(test_uneven, enter, leave)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
