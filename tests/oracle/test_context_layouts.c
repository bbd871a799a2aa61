/* Ranks that share sequences (cp, gathered keys and values) have the losses of one rank beside
 * every other degree, and hold the bytes that were predicted. */
#include "exec/runner/state.h"
#include "tests/support/check.h"
#include "tests/support/sweep.h"

/* Two sequences in a microbatch: their rows alternate on a rank, and a tp rank's share of them
 * under sp starts inside of one. */
enum { SEQ_LEN = 8, MICROBATCH = 2 };

static const int32_t degrees[][4] = {/* dp, tp, pp, cp */
                                     {1, 1, 1, 2}, {1, 1, 1, 4}, {2, 1, 1, 2},
                                     {1, 2, 1, 2}, {1, 1, 2, 2}, {2, 2, 1, 2},
                                     {1, 2, 2, 2}, {2, 1, 2, 2}, {1, 2, 1, 4}};
enum { NUM_DEGREES = sizeof(degrees) / sizeof(degrees[0]), NUM_LAYOUTS = 78 };

typedef void visit_fn(void *context, const struct golden_layout *layout);

/* Calls visit for every layout of a degree. zero 1 shares states over dp * cp ranks, so it is for
 * cp alone too. */
static void visit_degree(const int32_t degree[4], visit_fn *visit, void *context)
{
    for (int32_t i = 0; i < 2 * 2 * HLM_NUM_RECOMPUTES; i++) {
        const struct golden_layout layout = {
            .dp = degree[0],
            .tp = degree[1],
            .pp = degree[2],
            .cp = degree[3],
            .zero = i & 1,
            .sp = (i & 2) != 0,
            .schedule = degree[2] > 1 && (i & 1) == 0 ? HLM_SCHEDULE_1F1B : HLM_SCHEDULE_GPIPE,
            .microbatch_size = (i & 1) == 0 ? MICROBATCH : 1,
            .recompute = (enum hlm_recompute)(i / 4)};
        if (!layout.sp || layout.tp > 1) {
            visit(context, &layout);
        }
    }
}

/* Schedules that split the backward or give a rank several stages. */
static const struct golden_layout other_schedules[] = {
    {.cp = 2, .pp = 2, .schedule = HLM_SCHEDULE_ZB_H1},
    {.cp = 2, .pp = 2, .vpp = 2, .zero = 1, .schedule = HLM_SCHEDULE_INTERLEAVED},
    {.cp = 2, .pp = 2, .vpp = 2, .tp = 2, .sp = true, .schedule = HLM_SCHEDULE_ZB_V},
    {.cp = 2,
     .pp = 2,
     .vpp = 2,
     .schedule = HLM_SCHEDULE_DUALPIPE_V,
     .recompute = HLM_RECOMPUTE_FULL}};
enum { NUM_SCHEDULES = sizeof(other_schedules) / sizeof(other_schedules[0]) };

static void check_losses(void *context, const struct golden_layout *layout)
{
    sweep_check(context, layout, hlm_backend_cpu_new);
}

static void check_late_losses(void *context, const struct golden_layout *layout)
{
    sweep_check(context, layout, sweep_late_backend);
}

static void sweep_model(const char *name)
{
    struct sweep sweep = sweep_new_of_length(name, 0, 0, SEQ_LEN);
    for (int i = 0; i < NUM_DEGREES; i++) {
        visit_degree(degrees[i], check_losses, &sweep);
    }
    for (int i = 0; i < NUM_SCHEDULES; i++) {
        sweep_check(&sweep, &other_schedules[i], hlm_backend_cpu_new);
    }
    assert_int_equal(sweep.num_run, NUM_LAYOUTS + NUM_SCHEDULES);
    sweep_free(&sweep);
}

static void gpt2(void **state)
{
    (void)state;
    sweep_model("gpt2");
}

static void llama(void **state)
{
    (void)state;
    sweep_model("llama");
}

static void bert(void **state)
{
    (void)state;
    sweep_model("bert");
}

static void late(void **state)
{
    (void)state;
    struct sweep sweep = sweep_new_of_length("gpt2", 0, 0, SEQ_LEN);
    visit_degree(degrees[0], check_late_losses, &sweep);
    visit_degree(degrees[3], check_late_losses, &sweep);
    assert_int_equal(sweep.num_run, 6 + 12);
    sweep_free(&sweep);
}

/* --- memory --- */

struct fixture {
    struct hlm_arena *arena;
    struct hlm_backend *backend;
    const struct golden *golden;
    int32_t num_plans;
};

static void check_bytes(void *context, const struct golden_layout *layout)
{
    struct fixture *fixture = context;
    const struct golden *golden = fixture->golden;
    const struct hlm_plan *plan =
        golden_plan(fixture->arena, &golden->model, golden->global_batch_size, SEQ_LEN, layout);
    struct hlm_err err;
    for (int32_t rank = 0; rank < plan->num_ranks; rank++) {
        struct hlm_state *made = NULL;
        check_ok(hlm_state_new(fixture->arena, plan, rank, fixture->backend, 7, &made, &err), &err);
        const struct hlm_stage_memory *memory = &plan->prediction.memory[made->stages[0].stage];
        const int64_t expected = memory->peak_bytes - memory->bytes[HLM_MEMORY_FIXED];
        if (made->allocated_bytes != expected) {
            fail_msg("%s: rank %d allocates %lld bytes, predicted are %lld",
                     golden_layout_text(fixture->arena, layout), rank,
                     (long long)made->allocated_bytes, (long long)expected);
        }
        hlm_state_free(made);
    }
    fixture->num_plans++;
}

static void memory_is_as_predicted(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2", "llama", "bert"};
    struct hlm_err err;
    struct fixture fixture = {.arena = hlm_arena_new()};
    check_ok(hlm_backend_cpu_new(&fixture.backend, &err), &err);
    for (int n = 0; n < 3; n++) {
        fixture.golden = golden_read(fixture.arena, names[n]);
        for (int i = 0; i < NUM_DEGREES; i++) {
            visit_degree(degrees[i], check_bytes, &fixture);
        }
    }
    assert_int_equal(fixture.num_plans, 3 * NUM_LAYOUTS);
    hlm_backend_free(fixture.backend);
    hlm_arena_free(fixture.arena);
}

/* --- what is refused --- */

static const char *refusal(const struct golden *golden, int32_t cp, int64_t seq_len,
                           enum hlm_cp_form form)
{
    struct hlm_strategy strategy = {.dp = 1,
                                    .tp = 1,
                                    .pp = 1,
                                    .cp = cp,
                                    .microbatch_size = 1,
                                    .global_batch_size = 4,
                                    .seq_len = seq_len,
                                    .cp_form = form};
    hlm_strategy_complete(&strategy);
    const char *text = hlm_lowering_refusal(&golden->model, &strategy);
    return text != NULL ? text : "";
}

static void other_forms_are_refused(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct golden *gpt2 = golden_read(arena, "gpt2"), *bert = golden_read(arena, "bert");
    const char *odd = "causal context parallelism where 2 * cp does not divide seq_len";
    assert_string_equal(refusal(gpt2, 2, 12, HLM_CP_FORM_AUTO), "");
    assert_string_equal(refusal(gpt2, 2, 12, HLM_CP_FORM_ALLGATHER), "");
    assert_string_equal(refusal(gpt2, 2, 12, HLM_CP_FORM_RING), "ring attention (cp_form = ring)");
    assert_string_equal(refusal(gpt2, 2, 12, HLM_CP_FORM_ULYSSES),
                        "Ulysses attention (cp_form = ulysses)");
    assert_string_equal(refusal(gpt2, 1, 12, HLM_CP_FORM_RING), "");
    assert_string_equal(refusal(gpt2, 4, 12, HLM_CP_FORM_AUTO), odd);
    assert_string_equal(refusal(bert, 4, 12, HLM_CP_FORM_AUTO), "");
    assert_string_equal(refusal(golden_read(arena, "vit"), 5, 5, HLM_CP_FORM_AUTO),
                        "context parallelism of images");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpt2),
                                       cmocka_unit_test(llama),
                                       cmocka_unit_test(bert),
                                       cmocka_unit_test(late),
                                       cmocka_unit_test(memory_is_as_predicted),
                                       cmocka_unit_test(other_forms_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
