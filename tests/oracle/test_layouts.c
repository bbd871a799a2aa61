/* The losses of every layout, schedule, ZeRO and recompute setting are those of one rank. */
#include "tests/support/check.h"
#include "tests/support/late_backend.h"
#include "tests/support/train.h"

enum { NUM_STEPS = 5 };
static const double tolerance = 1e-5;

static const int32_t degrees[][3] = {/* dp, tp, pp */
                                     {1, 1, 1}, {2, 1, 1}, {1, 2, 1}, {1, 1, 2}, {4, 1, 1},
                                     {1, 4, 1}, {1, 1, 4}, {2, 2, 1}, {2, 1, 2}, {1, 2, 2},
                                     {2, 2, 2}, {4, 2, 1}, {2, 1, 4}, {1, 2, 4}, {4, 1, 2}};

struct sweep {
    struct hlm_arena *arena;
    const char *name;
    const struct golden *golden;
    struct train_result reference;
    int32_t num_run;
};

static void check_losses(struct sweep *sweep, const struct golden_layout *layout,
                         train_backend_fn *backend)
{
    const struct golden *golden = sweep->golden;
    const struct hlm_plan *plan = golden_plan(sweep->arena, &golden->model,
                                              golden->global_batch_size, golden->seq_len, layout);
    if (plan == NULL || hlm_lowering_refusal(&plan->model, &plan->strategy) != NULL) {
        return; /* not legal for this model (sp rows that tp does not divide), or priced only */
    }
    const struct train_result result =
        train_run(sweep->arena, plan, (uint64_t)golden->seed, NUM_STEPS, backend, NULL);
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        const double loss = result.losses[step], expected = sweep->reference.losses[step];
        if (!(fabs(loss - expected) <= tolerance * fabs(expected))) {
            fail_msg("%s %s: loss of step %d is %.9g, one rank has %.9g", sweep->name,
                     golden_layout_text(sweep->arena, layout), step, loss, expected);
        }
    }
    sweep->num_run++;
}

static void sweep_switches(struct sweep *sweep, const int32_t degree[3], train_backend_fn *backend)
{
    for (int32_t zero = 0; zero <= (degree[0] > 1 ? 1 : 0); zero++) {
        for (int32_t sp = 0; sp <= (degree[1] > 1 ? 1 : 0); sp++) {
            for (int32_t schedule = 0; schedule < (degree[2] > 1 ? 2 : 1); schedule++) {
                for (int32_t recompute = 0; recompute < HLM_NUM_RECOMPUTES; recompute++) {
                    const struct golden_layout layout = {
                        .dp = degree[0],
                        .tp = degree[1],
                        .pp = degree[2],
                        .sp = sp == 1,
                        .zero = zero,
                        .schedule = (enum hlm_schedule_kind)schedule,
                        .recompute = (enum hlm_recompute)recompute};
                    check_losses(sweep, &layout, backend);
                }
            }
        }
    }
}

static void sweep_model(const char *name, train_backend_fn *backend, int32_t min_run)
{
    struct sweep sweep = {.arena = hlm_arena_new(), .name = name};
    sweep.golden = golden_read(sweep.arena, name);
    const struct golden_layout one = {.microbatch_size = sweep.golden->global_batch_size};
    const struct hlm_plan *plan =
        golden_plan(sweep.arena, &sweep.golden->model, sweep.golden->global_batch_size,
                    sweep.golden->seq_len, &one);
    sweep.reference = train_run(sweep.arena, plan, (uint64_t)sweep.golden->seed, NUM_STEPS,
                                hlm_backend_cpu_new, NULL);
    for (size_t i = 0; i < sizeof(degrees) / sizeof(degrees[0]); i++) {
        sweep_switches(&sweep, degrees[i], backend);
    }
    assert_in_range(sweep.num_run, min_run, 1000);
    printf("%s: %d layouts\n", name, sweep.num_run);
    hlm_arena_free(sweep.arena);
}

static void gpt2(void **state)
{
    (void)state;
    sweep_model("gpt2", hlm_backend_cpu_new, 100);
}

static void llama(void **state)
{
    (void)state;
    sweep_model("llama", hlm_backend_cpu_new, 80);
}

static void bert(void **state)
{
    (void)state;
    sweep_model("bert", hlm_backend_cpu_new, 100);
}

static void vit(void **state)
{
    (void)state;
    sweep_model("vit", hlm_backend_cpu_new, 60);
}

/* Operators that run late, on queues, in memory that the host can't reach. */
static enum hlm_status new_late_backend(struct hlm_backend **out, struct hlm_err *err)
{
    return late_backend_new(out, 1234, 20e-6, err);
}

static void late(void **state)
{
    (void)state;
    sweep_model("gpt2", new_late_backend, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpt2), cmocka_unit_test(llama),
                                       cmocka_unit_test(bert), cmocka_unit_test(vit),
                                       cmocka_unit_test(late)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
