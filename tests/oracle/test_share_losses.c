/* Replicas with shares of their own have the losses of one rank. */
#include "tests/support/check.h"
#include "tests/support/sweep.h"

static const struct golden_layout layouts[] = {
    /* 3 : 1 */
    {.dp = 2, .schedule = HLM_SCHEDULE_1F1B, .replicas = {{0, 1, 6, 0}, {1, 1, 2, 0}}},
    {.dp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B, .replicas = {{0, 1, 6, 0}, {1, 1, 2, 0}}},
    {.dp = 2,
     .pp = 2,
     .zero = 1,
     .schedule = HLM_SCHEDULE_ZB_H1,
     .replicas = {{0, 1, 2, 0}, {1, 1, 6, 0}}},
    /* fewer microbatches than stages, another order of groups, two replicas on one group */
    {.dp = 3,
     .pp = 2,
     .schedule = HLM_SCHEDULE_GPIPE,
     .recompute = HLM_RECOMPUTE_SELECTIVE,
     .replicas = {{1, 1, 6, 0}, {0, 2, 1, 0}}},
    {.dp = 2,
     .tp = 2,
     .sp = true,
     .zero = 1,
     .schedule = HLM_SCHEDULE_1F1B,
     .replicas = {{0, 1, 7, 0}, {1, 1, 1, 0}}},
    {.dp = 3,
     .zero = 1,
     .schedule = HLM_SCHEDULE_1F1B,
     .replicas = {{0, 1, 5, 0}, {1, 1, 2, 0}, {2, 1, 1, 0}}},
};
enum { NUM_LAYOUTS = sizeof(layouts) / sizeof(layouts[0]) };

static void check_all(const char *name, train_backend_fn *backend, int32_t least)
{
    struct sweep sweep = sweep_new(name, 4, 8);
    sweep.num_steps = 3;
    for (int32_t i = 0; i < NUM_LAYOUTS; i++) {
        sweep_check(&sweep, &layouts[i], backend);
    }
    assert_in_range(sweep.num_run, least, NUM_LAYOUTS);
    sweep_free(&sweep);
}

static void gpt2(void **state)
{
    (void)state;
    check_all("gpt2", hlm_backend_cpu_new, NUM_LAYOUTS);
}

/* Masked tokens: samples have different numbers of targets. */
static void bert(void **state)
{
    (void)state;
    check_all("bert", hlm_backend_cpu_new, 4);
}

static void stream_ordered(void **state)
{
    (void)state;
    check_all("gpt2", NULL, NUM_LAYOUTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpt2), cmocka_unit_test(bert),
                                       cmocka_unit_test(stream_ordered)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
