/* ZeRO-2 and 3: the losses of layouts with shared gradients and parameters are those of one rank.
 */
#include "tests/support/check.h"
#include "tests/support/sweep.h"

static const struct golden_layout layouts[] = {
    {.dp = 2},
    {.dp = 4, .microbatch_size = 1},
    {.dp = 2, .recompute = HLM_RECOMPUTE_FULL, .microbatch_size = 1},
    {.dp = 2, .tp = 2, .recompute = HLM_RECOMPUTE_SELECTIVE},
    {.dp = 2, .tp = 2, .sp = true, .recompute = HLM_RECOMPUTE_SELECTIVE},
    {.dp = 4, .tp = 2, .sp = true, .microbatch_size = 1},
    {.cp = 2},
    {.dp = 2, .cp = 2, .microbatch_size = 1},
    {.dp = 2, .tp = 2, .cp = 2, .sp = true, .recompute = HLM_RECOMPUTE_FULL},
    {.dp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B, .microbatch_size = 1},
    {.dp = 2, .pp = 2, .schedule = HLM_SCHEDULE_GPIPE, .recompute = HLM_RECOMPUTE_FULL},
    {.dp = 2,
     .tp = 2,
     .pp = 2,
     .sp = true,
     .schedule = HLM_SCHEDULE_1F1B,
     .recompute = HLM_RECOMPUTE_SELECTIVE,
     .microbatch_size = 1},
    {.dp = 4, .pp = 2, .schedule = HLM_SCHEDULE_1F1B, .microbatch_size = 1},
    {.cp = 2, .pp = 2, .schedule = HLM_SCHEDULE_1F1B, .microbatch_size = 1},
    {.dp = 2, .pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_INTERLEAVED, .microbatch_size = 1},
    {.dp = 2,
     .tp = 2,
     .pp = 2,
     .vpp = 2,
     .sp = true,
     .schedule = HLM_SCHEDULE_INTERLEAVED,
     .recompute = HLM_RECOMPUTE_FULL,
     .microbatch_size = 1},
    {.dp = 2, .pp = 2, .schedule = HLM_SCHEDULE_ZB_H1, .microbatch_size = 1},
    {.dp = 2,
     .tp = 2,
     .pp = 2,
     .sp = true,
     .schedule = HLM_SCHEDULE_ZB_H1,
     .recompute = HLM_RECOMPUTE_SELECTIVE,
     .microbatch_size = 1},
    {.dp = 2,
     .pp = 2,
     .schedule = HLM_SCHEDULE_ZB_H1,
     .recompute = HLM_RECOMPUTE_FULL,
     .microbatch_size = 1},
    {.dp = 2, .pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_ZB_V, .microbatch_size = 1},
    {.dp = 2,
     .pp = 2,
     .vpp = 2,
     .schedule = HLM_SCHEDULE_DUALPIPE_V,
     .recompute = HLM_RECOMPUTE_SELECTIVE,
     .microbatch_size = 1},
};
enum { NUM_LAYOUTS = sizeof(layouts) / sizeof(layouts[0]) };

/* Every `stride`-th layout with ZeRO-2 and with ZeRO-3. */
static void sweep_model(const char *name, int64_t global_batch_size, int32_t stride,
                        int32_t min_run, train_backend_fn *backend)
{
    struct sweep sweep = sweep_new(name, 4, global_batch_size);
    for (int32_t i = 0; i < NUM_LAYOUTS; i += stride) {
        for (int32_t zero = 2; zero <= 3; zero++) {
            struct golden_layout layout = layouts[i];
            layout.zero = zero;
            sweep_check(&sweep, &layout, backend);
        }
    }
    printf("%s: %d layouts\n", name, sweep.num_run);
    assert_in_range(sweep.num_run, min_run, 2 * NUM_LAYOUTS);
    sweep_free(&sweep);
}

/* Tied embeddings, learned positions. */
static void gpt2(void **state)
{
    (void)state;
    sweep_model("gpt2", 8, 1, 40, hlm_backend_cpu_new);
}

static void llama(void **state)
{
    (void)state;
    sweep_model("llama", 8, 2, 20, hlm_backend_cpu_new);
}

/* Post-norm: the embedding has norms too. */
static void bert(void **state)
{
    (void)state;
    sweep_model("bert", 8, 2, 20, hlm_backend_cpu_new);
}

static void late(void **state)
{
    (void)state;
    sweep_model("gpt2", 8, 5, 8, sweep_late_backend);
}

/* Collectives on queues of their own. */
static void stream_ordered(void **state)
{
    (void)state;
    sweep_model("gpt2", 8, 6, 8, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpt2), cmocka_unit_test(llama),
                                       cmocka_unit_test(bert), cmocka_unit_test(late),
                                       cmocka_unit_test(stream_ordered)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
