/* Each rule of hlm_schedule_verify is broken once. */
#include "tests/support/pipeline.h"

/* A schedule of two stages from the texts of its two lists ("0F0 0SEND_F0 ..."). */
static const struct hlm_schedule *make(struct hlm_arena *arena, bool lowered, int32_t m,
                                       const char *const lists[2])
{
    struct hlm_rank_actions *ranks = HLM_ARENA_ARRAY(arena, struct hlm_rank_actions, 2);
    for (int rank = 0; rank < 2; rank++) {
        struct hlm_action *actions = HLM_ARENA_ARRAY(arena, struct hlm_action, strlen(lists[rank]));
        char *save = NULL;
        char *copy = hlm_arena_strdup(arena, lists[rank]);
        for (char *word = strtok_r(copy, " ", &save); word != NULL;
             word = strtok_r(NULL, " ", &save)) {
            struct hlm_err err = {0};
            check_ok(hlm_action_parse(word, &actions[ranks[rank].num_actions++], &err), &err);
        }
        ranks[rank].actions = actions;
    }
    int32_t *stage_rank = HLM_ARENA_ARRAY(arena, int32_t, 2);
    stage_rank[1] = 1;
    struct hlm_schedule *schedule = HLM_ARENA_NEW(arena, struct hlm_schedule);
    *schedule = (struct hlm_schedule){.num_ranks = 2,
                                      .num_stages = 2,
                                      .num_microbatches = m,
                                      .stage_rank = stage_rank,
                                      .ranks = ranks,
                                      .lowered = lowered};
    return schedule;
}

struct row {
    const char *lists[2];
    const char *part;
};

static void check_rows(struct hlm_arena *arena, bool lowered, int32_t m, const struct row *rows,
                       size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct hlm_err err = {0};
        check_fails(hlm_schedule_verify(make(arena, lowered, m, rows[i].lists), &err), HLM_INPUT,
                    &err, rows[i].part);
    }
}

static void test_compute_rules(void **state)
{
    const struct row rows[] = {
        {{"0F0 0B0", "1F0"}, "stage 1, microbatch 0: an action is missing"},
        {{"0F0 0I0", "1F0 1B0"}, "stage 0, microbatch 0: an action is missing"},
        {{"0F0 0F0 0B0", "1F0 1B0"}, "rank 0, action 2 (0F0): comes twice"},
        {{"0F0 0B0 0B0", "1F0 1B0"}, "action 3 (0B0): comes twice"},
        {{"0F0 0B0 0I0", "1F0 1B0"}, "action 3 (0I0): comes twice, or after"},
        {{"0F0 0I0 0W0 0B0", "1F0 1B0"}, "action 4 (0B0): comes twice, or after"},
        {{"0F0 0I0 0W0 0W0", "1F0 1B0"}, "action 4 (0W0): comes twice"},
        {{"0B0 0F0", "1F0 1B0"}, "action 1 (0B0): comes before"},
        {{"0F0 0W0 0I0", "1F0 1B0"}, "action 2 (0W0): comes before"},
        {{"0F0 1B0 0B0", "1F0 1B0"}, "action 2 (1B0): expected a stage of this rank"},
        {{"0F0 0B0 2F0", "1F0 1B0"}, "action 3 (2F0): expected a stage of this rank"},
        {{"0F1 0B1", "1F0 1B0"}, "action 1 (0F1): expected a microbatch of the schedule"},
        {{"0F0 0SEND_F0 0B0", "1F0 1B0"}, "action 2 (0SEND_F0): expected no message"},
        {{"0F0 0B0 0REDUCE_GRAD", "1F0 1B0"}, "action 3 (0REDUCE_GRAD): expected once"},
        {{"0F0 0B0 0OPTIMIZER", "1F0 1B0"}, "action 3 (0OPTIMIZER): expected one"},
    };
    check_rows(*state, false, 1, rows, sizeof rows / sizeof rows[0]);
    struct hlm_err err = {0};
    const char *const good[2] = {"0F0 0I0 0W0", "1F0 1B0"};
    check_ok(hlm_schedule_verify(make(*state, false, 1, good), &err), &err);
}

#define GOOD_0 "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0REDUCE_GRAD 0OPTIMIZER"
#define GOOD_1 "1RECV_F0 1F0 1RECV_F1 1F1 1B0 1SEND_B0 1B1 1SEND_B1 1REDUCE_GRAD 1OPTIMIZER"

static void test_lowered_rules(void **state)
{
    const struct row rows[] = {
        {{"0F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0REDUCE_GRAD 0OPTIMIZER", GOOD_1},
         "stage 0, microbatch 0: an action is missing"},
        {{"0SEND_F0 0F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0REDUCE_GRAD 0OPTIMIZER", GOOD_1},
         "action 1 (0SEND_F0): comes before"},
        {{"0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0B1 0RECV_B1 0REDUCE_GRAD 0OPTIMIZER", GOOD_1},
         "action 7 (0B1): comes before its receive"},
        {{"0F0 0SEND_F0 0SEND_B0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0REDUCE_GRAD 0OPTIMIZER",
          GOOD_1},
         "action 3 (0SEND_B0): expected no message"},
        {{"0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B1 0RECV_B0 0B0 0B1 0REDUCE_GRAD 0OPTIMIZER", GOOD_1},
         "action 5 (0RECV_B1): expected the order in which its rank sends"},
        {{"0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0REDUCE_GRAD 0RECV_B1 0B1 0OPTIMIZER", GOOD_1},
         "action 7 (0REDUCE_GRAD): expected once"},
        {{"0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0OPTIMIZER", GOOD_1},
         "stage 0: REDUCE_GRAD is missing"},
        {{"0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0REDUCE_GRAD", GOOD_1},
         "action 9 (0REDUCE_GRAD): expected one OPTIMIZER at the end"},
        {{GOOD_0, "1F0 1RECV_F0 1RECV_F1 1F1 1B0 1SEND_B0 1B1 1SEND_B1 1REDUCE_GRAD 1OPTIMIZER"},
         "rank 1, action 1 (1F0): comes before its receive"},
    };
    check_rows(*state, true, 2, rows, sizeof rows / sizeof rows[0]);
    struct hlm_err err = {0};
    const char *const good[2] = {GOOD_0, GOOD_1};
    check_ok(hlm_schedule_verify(make(*state, true, 2, good), &err), &err);
}

static void test_pair_rules(void **state)
{
    const struct row rows[] = {
        {{"0F0 0B0 0F1 0B1 0OVERLAP_F_B", "1F0 1B0 1F1 1B1"}, "action 5 (0OVERLAP_F_B): expected"},
        {{"0F0 0OVERLAP_F_B 0B0 0F1 0B1", "1F0 1B0 1F1 1B1"}, "action 2 (0OVERLAP_F_B)"},
        {{"0F0 0OVERLAP_F_B 0F1 0I0 0W0 0B1", "1F0 1B0 1F1 1B1"}, "action 2 (0OVERLAP_F_B)"},
        {{"0F0 0F1 0OVERLAP_F_B", "1F0 1B0 1F1 1B1"}, "action 3 (0OVERLAP_F_B)"},
        {{"0OVERLAP_F_B 0F0 0B0 0F1 0B1", "1F0 1B0 1F1 1B1"}, "action 1 (0OVERLAP_F_B)"},
        {{"0F0 1OVERLAP_F_B 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"}, "expected a stage of this rank"},
    };
    check_rows(*state, false, 2, rows, sizeof rows / sizeof rows[0]);
    struct hlm_err err = {0};
    const char *const good[2] = {"0F0 0OVERLAP_F_B 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"};
    check_ok(hlm_schedule_verify(make(*state, false, 2, good), &err), &err);
}

static void test_placement(void **state)
{
    struct hlm_schedule schedule = *pipeline_build(*state, HLM_SCHEDULE_1F1B, 2, 2);
    const int32_t stage_rank[2] = {0, 2};
    schedule.stage_rank = stage_rank;
    struct hlm_err err = {0};
    check_fails(hlm_schedule_verify(&schedule, &err), HLM_INPUT, &err,
                "stage 1: expected a rank below 2, found 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_compute_rules),
        pipeline_test(test_lowered_rules),
        pipeline_test(test_pair_rules),
        pipeline_test(test_placement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
