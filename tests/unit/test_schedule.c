#include "tests/support/pipeline.h"

/* Every shape obeys the rules, and its lists give the closed form of activations in flight. */
static void test_all_shapes(void **state)
{
    struct hlm_arena *arena = *state;
    for (enum hlm_schedule_kind kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        for (int32_t p = 1; p <= 8; p++) {
            for (int32_t m = 1; m <= 16; m++) {
                const struct hlm_schedule *schedule = pipeline_build(arena, kind, p, m);
                hlm_schedule_check(schedule);
                assert_int_equal(schedule->kind, kind);
                assert_int_equal(schedule->num_stages, p);
                assert_false(schedule->lowered);
                for (int32_t rank = 0; rank < p; rank++) {
                    int32_t live = 0, peak = 0;
                    for (int32_t i = 0; i < schedule->ranks[rank].num_actions; i++) {
                        live += schedule->ranks[rank].actions[i].kind == HLM_ACTION_F ? 1 : -1;
                        peak = live > peak ? live : peak;
                    }
                    assert_int_equal(peak, hlm_schedule_in_flight(kind, p, m, rank));
                }
            }
        }
    }
}

static void test_orders(void **state)
{
    struct hlm_arena *arena = *state;
    assert_string_equal(hlm_schedule_csv(arena, pipeline_build(arena, HLM_SCHEDULE_GPIPE, 2, 3)),
                        "0F0,0F1,0F2,0B0,0B1,0B2\n1F0,1F1,1F2,1B0,1B1,1B2\n");
    assert_string_equal(hlm_schedule_csv(arena, pipeline_build(arena, HLM_SCHEDULE_1F1B, 3, 4)),
                        "0F0,0F1,0F2,0B0,0F3,0B1,0B2,0B3\n1F0,1F1,1B0,1F2,1B1,1F3,1B2,1B3\n"
                        "2F0,2B0,2F1,2B1,2F2,2B2,2F3,2B3\n");
    /* Fewer microbatches than stages. */
    assert_string_equal(hlm_schedule_csv(arena, pipeline_build(arena, HLM_SCHEDULE_1F1B, 4, 2)),
                        "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n2F0,2F1,2B0,2B1\n3F0,3B0,3F1,3B1\n");
}

static void test_illegal_shapes(void **state)
{
    struct hlm_arena *arena = *state;
    const struct {
        int32_t num_ranks, chunks, num_microbatches;
        const char *part;
    } rows[] = {{0, 1, 4, "pp >= 1, found 0"},
                {4, 0, 4, "vpp >= 1, found 0"},
                {4, 1, 0, "num_microbatches >= 1, found 0"},
                {4, 1, -3, "found -3"},
                {4, 2, 4, "vpp = 1, found 2"},
                {100000, 1, 100000, "100000 * 1 * 100000"}};
    for (enum hlm_schedule_kind kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            const struct hlm_schedule *schedule = NULL;
            struct hlm_err err = {0};
            check_fails(hlm_schedule_build(arena, kind, rows[i].num_ranks, rows[i].chunks,
                                           rows[i].num_microbatches, &schedule, &err),
                        HLM_NO, &err, rows[i].part);
            assert_null(schedule);
        }
    }
}

static void test_first_stage(void **state)
{
    const struct hlm_schedule *schedule =
        pipeline_from_csv(*state, "1F0,2F0,2B0,1B0\n0F0,3F0,3B0,0B0\n");
    assert_int_equal(hlm_schedule_first_stage(schedule, 0), 1);
    assert_int_equal(hlm_schedule_first_stage(schedule, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_all_shapes),
        pipeline_test(test_orders),
        pipeline_test(test_illegal_shapes),
        pipeline_test(test_first_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
