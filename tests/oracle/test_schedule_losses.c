/* The losses of every schedule, with all chunks that it can have, are those of one rank. */
#include "schedule/action.h"
#include "tests/support/check.h"
#include "tests/support/sweep.h"

/* What goes with a schedule, in turn. */
static const struct golden_layout beside[] = {
    {0},
    {.tp = 2, .sp = true, .recompute = HLM_RECOMPUTE_SELECTIVE},
    {.dp = 2, .zero = 1},
    {.recompute = HLM_RECOMPUTE_FULL},
    {.tp = 2, .recompute = HLM_RECOMPUTE_SELECTIVE},
    {.dp = 2, .recompute = HLM_RECOMPUTE_FULL},
    {.dp = 2, .tp = 2, .sp = true, .zero = 1},
    {.dp = 2, .zero = 3, .recompute = HLM_RECOMPUTE_SELECTIVE},
    {.dp = 2, .tp = 2, .sp = true, .zero = 2},
};
enum { NUM_BESIDE = sizeof(beside) / sizeof(beside[0]), MAX_VPP = 3 };

static bool has_schedule(const struct sweep *sweep, const struct golden_layout *layout)
{
    const int64_t dp = layout->dp > 0 ? layout->dp : 1;
    const struct hlm_schedule *schedule = NULL;
    struct hlm_err err;
    return sweep->golden.global_batch_size % dp == 0 &&
           hlm_schedule_build(sweep->arena, layout->schedule, layout->pp, layout->vpp,
                              (int32_t)(sweep->golden.global_batch_size / dp), &schedule,
                              &err) == HLM_OK;
}

/* Every schedule with pp ranks and all chunks that it can have. The first plain, the others in
 * turn; `turn` goes on from call to call. */
static void sweep_schedules(struct sweep *sweep, int32_t pp, int32_t *turn,
                            train_backend_fn *backend)
{
    for (int kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        const struct hlm_schedule_chunks chunks = hlm_schedule_chunks((enum hlm_schedule_kind)kind);
        for (int32_t vpp = chunks.min; vpp <= chunks.max && vpp <= MAX_VPP; vpp++) {
            for (int i = 0; i < 2; i++) {
                struct golden_layout layout = beside[i == 0 ? 0 : 1 + (*turn)++ % (NUM_BESIDE - 1)];
                layout.pp = pp;
                layout.vpp = vpp;
                layout.schedule = (enum hlm_schedule_kind)kind;
                if (has_schedule(sweep, &layout)) {
                    sweep_check(sweep, &layout, backend);
                }
            }
        }
    }
}

/* Ten layers: twelve stages with embedding and head. */
struct extent {
    const int64_t *batches; /* microbatches, where dp = 1 */
    size_t num_batches;
    int32_t max_pp, min_run;
};

static void sweep_model(const char *name, const struct extent *extent, train_backend_fn *backend)
{
    int32_t num_run = 0, turn = 0;
    for (size_t i = 0; i < extent->num_batches; i++) {
        struct sweep sweep = sweep_new(name, 10, extent->batches[i]);
        for (int32_t pp = 1; pp <= extent->max_pp; pp *= 2) {
            sweep_schedules(&sweep, pp, &turn, backend);
        }
        num_run += sweep.num_run;
        sweep_free(&sweep);
    }
    assert_in_range(num_run, extent->min_run, 1000);
    printf("%s: %d layouts of all schedules\n", name, num_run);
}

/* From as many microbatches as ranks to more than twice as many. */
static const int64_t batches[] = {4, 9};
static const struct extent all = {batches, 2, 4, 80}, many = {&batches[1], 1, 4, 40},
                           some = {&batches[0], 1, 4, 30}, few = {&batches[0], 1, 2, 20};

static void gpt2(void **state)
{
    (void)state;
    sweep_model("gpt2", &all, hlm_backend_cpu_new);
}

static void llama(void **state)
{
    (void)state;
    sweep_model("llama", &many, hlm_backend_cpu_new);
}

static void bert(void **state)
{
    (void)state;
    sweep_model("bert", &few, hlm_backend_cpu_new);
}

/* Operators that run late, messages staged through the host. */
static void late(void **state)
{
    (void)state;
    sweep_model("gpt2", &some, sweep_late_backend);
}

/* The same with a transport whose operations stand on queues beside them. */
static void stream_ordered(void **state)
{
    (void)state;
    sweep_model("gpt2", &few, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpt2), cmocka_unit_test(llama),
                                       cmocka_unit_test(bert), cmocka_unit_test(late),
                                       cmocka_unit_test(stream_ordered)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
