/* Pipelines whose tp differs between stages: the losses are those of one rank. */
#include "tests/support/check.h"
#include "tests/support/sweep.h"

/* The ways over pipeline ranks: fewer and more ranks behind, in the middle, one on one side. */
struct way {
    int32_t tp, pp, tp_at[GOLDEN_MAX_PP];
};
static const struct way ways[] = {{2, 2, {2, 1}},    {2, 2, {1, 2}},       {4, 2, {4, 2}},
                                  {4, 2, {1, 4}},    {4, 3, {1, 2, 4}},    {2, 3, {2, 1, 2}},
                                  {4, 3, {2, 4, 2}}, {4, 4, {1, 4, 2, 1}}, {4, 4, {4, 2, 4, 4}}};
enum { NUM_WAYS = sizeof(ways) / sizeof(ways[0]) };

/* What goes with a way, in turn. */
static const struct golden_layout beside[] = {
    {.schedule = HLM_SCHEDULE_ZB_V, .vpp = 2},
    {.schedule = HLM_SCHEDULE_1F1B, .sp = true},
    {.schedule = HLM_SCHEDULE_GPIPE, .recompute = HLM_RECOMPUTE_FULL},
    {.schedule = HLM_SCHEDULE_GPIPE, .sp = true, .dp = 2, .zero = 1},
    {.schedule = HLM_SCHEDULE_1F1B_OVERLAP, .dp = 2, .recompute = HLM_RECOMPUTE_SELECTIVE},
    {.schedule = HLM_SCHEDULE_1F1B_OVERLAP, .sp = true},
    {.schedule = HLM_SCHEDULE_ZB_H1, .dp = 2, .zero = 2},
    {.schedule = HLM_SCHEDULE_ZB_H1, .sp = true, .recompute = HLM_RECOMPUTE_SELECTIVE},
    {.schedule = HLM_SCHEDULE_ZB_H2, .sp = true, .dp = 2, .zero = 3},
    {.schedule = HLM_SCHEDULE_ZB_H2},
    {.schedule = HLM_SCHEDULE_1F1B, .sp = true, .dp = 2, .zero = 2},
    {.schedule = HLM_SCHEDULE_1F1B, .dp = 2, .zero = 3},
    {.schedule = HLM_SCHEDULE_1F1B, .cp = 2, .sp = true},
    {.schedule = HLM_SCHEDULE_INTERLEAVED, .vpp = 2, .sp = true}};
enum { NUM_BESIDE = sizeof(beside) / sizeof(beside[0]) };

/* Every way with every `stride`-th of what goes beside, from `first` on. */
static void sweep_model(const char *name, int32_t first, int32_t stride, int32_t min_run,
                        train_backend_fn *backend)
{
    struct sweep sweep = sweep_new(name, 6, 8);
    for (int32_t i = first; i < NUM_WAYS * NUM_BESIDE; i += stride) {
        const struct way *way = &ways[i % NUM_WAYS];
        struct golden_layout layout = beside[i % NUM_BESIDE];
        layout.tp = way->tp;
        layout.pp = way->pp;
        memcpy(layout.tp_at, way->tp_at, sizeof(layout.tp_at));
        sweep_check(&sweep, &layout, backend);
    }
    printf("%s: %d layouts\n", name, sweep.num_run);
    assert_in_range(sweep.num_run, min_run, NUM_WAYS * NUM_BESIDE);
    sweep_free(&sweep);
}

/* Tied embeddings: one tp at both ends. */
static void gpt2(void **state)
{
    (void)state;
    sweep_model("gpt2", 1, 4, 10, hlm_backend_cpu_new);
}

/* Two heads of keys and values: tp of at most two. */
static void llama(void **state)
{
    (void)state;
    sweep_model("llama", 0, 5, 8, hlm_backend_cpu_new);
}

/* Odd sequences: no sp. */
static void vit(void **state)
{
    (void)state;
    sweep_model("vit", 2, 11, 3, hlm_backend_cpu_new);
}

/* Operators that run late, messages staged through the host. */
static void late(void **state)
{
    (void)state;
    sweep_model("gpt2", 3, 22, 2, sweep_late_backend);
}

/* Collectives and messages on queues of their own. */
static void stream_ordered(void **state)
{
    (void)state;
    sweep_model("llama", 1, 72, 2, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpt2), cmocka_unit_test(llama),
                                       cmocka_unit_test(vit), cmocka_unit_test(late),
                                       cmocka_unit_test(stream_ordered)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
