/* The losses of every layout, schedule, ZeRO and recompute setting are those of one rank. */
#include "tests/support/check.h"
#include "tests/support/sweep.h"

static const int32_t degrees[][3] = {/* dp, tp, pp */
                                     {1, 1, 1}, {2, 1, 1}, {1, 2, 1}, {1, 1, 2}, {4, 1, 1},
                                     {1, 4, 1}, {1, 1, 4}, {2, 2, 1}, {2, 1, 2}, {1, 2, 2},
                                     {2, 2, 2}, {4, 2, 1}, {2, 1, 4}, {1, 2, 4}, {4, 1, 2}};

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
                    sweep_check(sweep, &layout, backend);
                }
            }
        }
    }
}

static void sweep_model(const char *name, train_backend_fn *backend, int32_t min_run)
{
    struct sweep sweep = sweep_new(name, 0, 0);
    for (size_t i = 0; i < sizeof(degrees) / sizeof(degrees[0]); i++) {
        sweep_switches(&sweep, degrees[i], backend);
    }
    assert_in_range(sweep.num_run, min_run, 1000);
    printf("%s: %d layouts\n", name, sweep.num_run);
    sweep_free(&sweep);
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

static void late(void **state)
{
    (void)state;
    sweep_model("gpt2", sweep_late_backend, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpt2), cmocka_unit_test(llama),
                                       cmocka_unit_test(bert), cmocka_unit_test(vit),
                                       cmocka_unit_test(late)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
