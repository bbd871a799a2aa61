#include "tests/support/pipeline.h"

static void test_passes(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err = {0};
    for (enum hlm_schedule_kind kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        const struct hlm_schedule *lowered =
            hlm_schedule_lower(arena, pipeline_build(arena, kind, 16, 48));
        check_ok(hlm_schedule_rendezvous(arena, lowered, &err), &err);
    }
}

/* Messages where one would put them at first: 1F1B stops wherever two neighbours both have to send.
 */
static void test_naive_order(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err = {0};
    for (int32_t p = 2; p <= 8; p++) {
        for (int32_t m = 2; m <= 16; m++) {
            const struct hlm_schedule *naive =
                pipeline_lower_naively(arena, pipeline_build(arena, HLM_SCHEDULE_1F1B, p, m));
            hlm_schedule_check(naive);
            check_fails(hlm_schedule_rendezvous(arena, naive, &err), HLM_FAILED, &err, "SEND_F");
        }
        const struct hlm_schedule *one =
            pipeline_lower_naively(arena, pipeline_build(arena, HLM_SCHEDULE_1F1B, p, 1));
        check_ok(hlm_schedule_rendezvous(arena, one, &err), &err);
        const struct hlm_schedule *gpipe =
            pipeline_lower_naively(arena, pipeline_build(arena, HLM_SCHEDULE_GPIPE, p, 9));
        check_ok(hlm_schedule_rendezvous(arena, gpipe, &err), &err);
    }
}

/* The last send of one rank finds nobody: only that rank is named. */
static void test_names_blocked_ranks(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_schedule schedule =
        *hlm_schedule_lower(arena, pipeline_build(arena, HLM_SCHEDULE_GPIPE, 2, 1));
    struct hlm_rank_actions ranks[2] = {schedule.ranks[0], schedule.ranks[1]};
    ranks[0].num_actions = 2; /* 0F0 0SEND_F0: nobody receives the gradient */
    schedule.ranks = ranks;
    struct hlm_err err = {0};
    check_fails(hlm_schedule_rendezvous(arena, &schedule, &err), HLM_FAILED, &err, "");
    assert_string_equal(err.text, "deadlock under strict rendezvous: rank 1 at 1SEND_B0");
}

/* A receive only takes the message of its own microbatch. */
static void test_swapped_receives(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_schedule schedule =
        *hlm_schedule_lower(arena, pipeline_build(arena, HLM_SCHEDULE_GPIPE, 2, 2));
    struct hlm_action actions[16];
    struct hlm_rank_actions ranks[2] = {schedule.ranks[0], schedule.ranks[1]};
    memcpy(actions, ranks[1].actions, (size_t)ranks[1].num_actions * sizeof actions[0]);
    for (int32_t i = 0; i < ranks[1].num_actions; i++) {
        if (actions[i].kind == HLM_ACTION_RECV_F) {
            actions[i].microbatch = 1 - actions[i].microbatch;
        }
    }
    ranks[1].actions = actions;
    schedule.ranks = ranks;
    struct hlm_err err = {0};
    check_fails(hlm_schedule_rendezvous(arena, &schedule, &err), HLM_FAILED, &err,
                "rank 0 at 0SEND_F0, rank 1 at 1RECV_F1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_passes),
        pipeline_test(test_naive_order),
        pipeline_test(test_names_blocked_ranks),
        pipeline_test(test_swapped_receives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
