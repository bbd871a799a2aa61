#include "tests/support/pipeline.h"

/* Two stages on one rank and two on the other, one in halves, and a pair. */
static const char text[] = "0F0,0F1,3F0,(0F2;3B0)OVERLAP_F_B,3F1,3I1,0B0,3W1,0B1,3F2,3B2,0B2\n"
                           "1F0,2F0,1F1,2F1,2B0,1B0,2B1,1F2,2F2,1B1,2B2,1B2\n";

static void check_held(const struct hlm_rank_memory *memory, const int64_t *expected, int32_t count,
                       int64_t peak)
{
    assert_int_equal(memory->num_actions, count);
    assert_memory_equal(memory->held, expected, (size_t)count * sizeof *expected);
    assert_int_equal(memory->peak, peak);
}

static void test_counts(void **state)
{
    const struct hlm_schedule *schedule = pipeline_from_csv(*state, text);
    const struct hlm_rank_memory *memory = hlm_schedule_memory(*state, schedule, NULL);
    const int64_t first[] = {1, 2, 3, 4, 4, 4, 4, 3, 2, 2, 2, 1};
    const int64_t second[] = {1, 2, 3, 4, 4, 3, 2, 2, 3, 3, 2, 1};
    check_held(&memory[0], first, 12, 4);
    check_held(&memory[1], second, 12, 4);
    const int32_t stages[4] = {3, 2, 2, 1};
    assert_memory_equal(hlm_schedule_in_flights(*state, schedule), stages, sizeof stages);
}

static void test_amounts(void **state)
{
    const struct hlm_schedule *schedule = pipeline_from_csv(*state, text);
    const int64_t amounts[4] = {10, 1, 2, 7};
    const struct hlm_rank_memory *memory = hlm_schedule_memory(*state, schedule, amounts);
    const int64_t first[] = {10, 20, 27, 37, 37, 37, 37, 27, 20, 17, 17, 10};
    check_held(&memory[0], first, 12, 37);
    assert_int_equal(memory[1].peak, 6);
}

/* With slots of their own the most of every stage counts at once: one row, as in_flights has it. */
static void test_held_apart(void **state)
{
    const struct hlm_schedule *schedule = pipeline_from_csv(*state, text);
    const struct hlm_rank_held *held = hlm_schedule_held_apart(*state, schedule);
    const int32_t first[2] = {3, 1}, second[2] = {2, 2}, first_stages[2] = {0, 3};
    assert_int_equal(held[0].num_rows, 1);
    assert_int_equal(held[0].num_chunks, 2);
    assert_memory_equal(held[0].stages, first_stages, sizeof first_stages);
    assert_memory_equal(held[0].counts, first, sizeof first);
    assert_memory_equal(held[1].counts, second, sizeof second);
}

/* Sends and receives change nothing. */
static void test_lowered(void **state)
{
    for (enum hlm_schedule_kind kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        const struct hlm_schedule *schedule = pipeline_build(*state, kind, 3, 6);
        const struct hlm_schedule *lowered = hlm_schedule_lower(*state, schedule);
        const struct hlm_rank_memory *memory = hlm_schedule_memory(*state, schedule, NULL);
        const struct hlm_rank_memory *again = hlm_schedule_memory(*state, lowered, NULL);
        for (int32_t rank = 0; rank < 3; rank++) {
            check_held(&again[rank], memory[rank].held, memory[rank].num_actions,
                       memory[rank].peak);
        }
        assert_memory_equal(hlm_schedule_in_flights(*state, schedule),
                            hlm_schedule_in_flights(*state, lowered),
                            (size_t)schedule->num_stages * sizeof(int32_t));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_counts),
        pipeline_test(test_amounts),
        pipeline_test(test_held_apart),
        pipeline_test(test_lowered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
