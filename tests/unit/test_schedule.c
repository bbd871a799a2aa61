#include "tests/support/pipeline.h"

static void check_shape(struct hlm_arena *arena, enum hlm_schedule_kind kind, int32_t p, int32_t m)
{
    const struct hlm_schedule *schedule = pipeline_try(arena, kind, p, m);
    if (schedule == NULL) {
        /* Only these two have shapes that don't exist. */
        assert_true((kind == HLM_SCHEDULE_INTERLEAVED && m % p != 0) ||
                    (kind == HLM_SCHEDULE_DUALPIPE_V && m < 2 * p));
        return;
    }
    hlm_schedule_check(schedule);
    assert_int_equal(schedule->kind, kind);
    assert_int_equal(schedule->num_stages, p * hlm_schedule_chunks(kind).min);
    assert_false(schedule->lowered);
    struct hlm_err err = {0};
    const struct hlm_schedule *lowered = hlm_schedule_lower(arena, schedule);
    hlm_schedule_check(lowered);
    check_ok(hlm_schedule_rendezvous(arena, lowered, &err), &err);
    if (kind != HLM_SCHEDULE_INTERLEAVED) {
        const int32_t *counted = hlm_schedule_in_flights(arena, lowered);
        for (int32_t s = 0; s < schedule->num_stages; s++) {
            assert_int_equal(counted[s], hlm_schedule_in_flight(kind, schedule->num_stages, m, s));
        }
    }
}

/* Every shape obeys the rules, is lowered to lists that pass a strict rendezvous, and holds what
 * hlm_schedule_in_flight says. */
static void test_all_shapes(void **state)
{
    struct hlm_arena *arena = *state;
    for (enum hlm_schedule_kind kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        for (int32_t p = 1; p <= 8; p++) {
            for (int32_t m = 1; m <= 20; m++) {
                const struct hlm_arena_mark mark = hlm_arena_mark(arena);
                check_shape(arena, kind, p, m);
                hlm_arena_rewind(arena, mark);
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
    assert_string_equal(
        hlm_schedule_csv(arena, pipeline_build(arena, HLM_SCHEDULE_1F1B_OVERLAP, 3, 6)),
        "0F0,0F1,0F2,0F3,0F4,0B0,0F5,0B1,0B2,0B3,0B4,0B5\n"
        "1F0,1F1,1F2,1B0,1F3,1B1,1F4,1B2,1F5,1B3,1B4,1B5\n"
        "2F0,2B0,2F1,2B1,2F2,2B2,2F3,2B3,2F4,2B4,2F5,2B5\n");
    assert_string_equal(hlm_schedule_csv(arena, pipeline_build(arena, HLM_SCHEDULE_ZB_H2, 2, 4)),
                        "0F0,0F1,0F2,0I0,0W0,0F3,0I1,0W1,0I2,0W2,0I3,0W3\n"
                        "1F0,1I0,1F1,1I1,1F2,1I2,1W0,1F3,1I3,1W1,1W2,1W3\n");
}

/* Round robin, or down and up. */
static void test_stage_ranks(void **state)
{
    const int32_t round_robin[6] = {0, 1, 2, 0, 1, 2}, v[6] = {0, 1, 2, 2, 1, 0};
    for (enum hlm_schedule_kind kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        const struct hlm_schedule *schedule = pipeline_build(*state, kind, 3, 6);
        const bool is_v = kind >= HLM_SCHEDULE_ZB_V;
        assert_memory_equal(schedule->stage_rank, is_v ? v : round_robin,
                            (size_t)schedule->num_stages * sizeof(int32_t));
    }
}

static void test_illegal_shapes(void **state)
{
    struct hlm_arena *arena = *state;
    const struct {
        enum hlm_schedule_kind kind;
        int32_t num_ranks, chunks, num_microbatches, group_size;
        const char *part;
    } rows[] = {
        {HLM_SCHEDULE_GPIPE, 0, 1, 4, 0, "pp >= 1, found 0"},
        {HLM_SCHEDULE_1F1B, 4, 0, 4, 0, "vpp >= 1, found 0"},
        {HLM_SCHEDULE_1F1B, 4, 1, 0, 0, "num_microbatches >= 1, found 0"},
        {HLM_SCHEDULE_ZB_V, 4, 2, -3, 0, "found -3"},
        {HLM_SCHEDULE_GPIPE, 4, 2, 4, 0, "schedule gpipe expected vpp = 1, found 2"},
        {HLM_SCHEDULE_ZB_H1, 4, 2, 4, 0, "vpp = 1, found 2"},
        {HLM_SCHEDULE_INTERLEAVED, 4, 1, 4, 0, "vpp >= 2, found 1"},
        {HLM_SCHEDULE_V_MIN, 4, 3, 4, 0, "vpp = 2, found 3"},
        {HLM_SCHEDULE_1F1B, 100000, 1, 100000, 0, "100000 * 1 * 100000"},
        {HLM_SCHEDULE_INTERLEAVED, 4, 2, 6, 0, "found 2 = 6 modulo the group size 4"},
        {HLM_SCHEDULE_INTERLEAVED, 4, 2, 3, 0, "group size 4, num_microbatches = 3"},
        {HLM_SCHEDULE_INTERLEAVED, 4, 2, 8, 3, "pp = 4, group size 3"},
        {HLM_SCHEDULE_INTERLEAVED, 4, 2, 8, 9, "group size 9, num_microbatches = 8"},
        {HLM_SCHEDULE_INTERLEAVED, 4, 2, 13, 5, "found 3 = 13 modulo the group size 5"},
        {HLM_SCHEDULE_DUALPIPE_V, 4, 2, 7, 0, "num_microbatches >= 2 pp = 8, found"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct hlm_schedule *schedule = NULL;
        struct hlm_err err = {0};
        const struct hlm_schedule_params params = {rows[i].kind, rows[i].num_ranks, rows[i].chunks,
                                                   rows[i].num_microbatches, rows[i].group_size};
        check_fails(hlm_schedule_build_with(arena, &params, &schedule, &err), HLM_NO, &err,
                    rows[i].part);
        assert_null(schedule);
    }
}

/* Every legal group size, also with more chunks, and the counts of each chunk. */
static void test_groups(void **state)
{
    struct hlm_arena *arena = *state;
    int32_t num_legal = 0;
    for (int32_t p = 1; p <= 5; p++) {
        for (int32_t i = 0; i < 3 * 13 * 13; i++) {
            const struct hlm_schedule_params params = {HLM_SCHEDULE_INTERLEAVED, p, 2 + i % 3,
                                                       1 + i / 3 % 13, 1 + i / 39};
            const int32_t m = params.num_microbatches, n = params.group_size;
            const bool is_legal = p <= n && n <= m && (m % n == 0 || m % n >= p);
            const struct hlm_schedule *schedule;
            struct hlm_err err = {0};
            const enum hlm_status status = hlm_schedule_build_with(arena, &params, &schedule, &err);
            assert_int_equal(status, is_legal ? HLM_OK : HLM_NO);
            if (is_legal) {
                num_legal++;
                hlm_schedule_check(schedule);
                const struct hlm_schedule *lowered = hlm_schedule_lower(arena, schedule);
                check_ok(hlm_schedule_rendezvous(arena, lowered, &err), &err);
                const char *text = hlm_schedule_csv(arena, schedule);
                assert_int_equal(pipeline_from_csv(arena, text)->kind, HLM_SCHEDULE_INTERLEAVED);
            }
        }
    }
    assert_true(num_legal > 300);
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
        pipeline_test(test_all_shapes),  pipeline_test(test_orders),
        pipeline_test(test_stage_ranks), pipeline_test(test_illegal_shapes),
        pipeline_test(test_groups),      pipeline_test(test_first_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
