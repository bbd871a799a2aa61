/* pipeline: schedules and uniform costs for the tests of schedule/. */
#ifndef HLM_TESTS_SUPPORT_PIPELINE_H
#define HLM_TESTS_SUPPORT_PIPELINE_H

#include <string.h>

#include "base/arena.h"
#include "schedule/simulate.h"
#include "schedule/timeline.h"
#include "tests/support/check.h"

static inline double *pipeline_fill(struct hlm_arena *arena, int32_t count, double value)
{
    double *values = HLM_ARENA_ARRAY(arena, double, count);
    for (int32_t i = 0; i < count; i++) {
        values[i] = value;
    }
    return values;
}

/* Every stage alike: F, B (or I and W) of these seconds, no optimizer, latency c on every boundary.
 */
static inline struct hlm_sim_costs pipeline_costs(struct hlm_arena *arena, int32_t num_stages,
                                                  double forward_s, double backward_s, double c)
{
    return (struct hlm_sim_costs){.forward_s = pipeline_fill(arena, num_stages, forward_s),
                                  .backward_s = pipeline_fill(arena, num_stages, backward_s),
                                  .send_forward_s = pipeline_fill(arena, num_stages, c),
                                  .send_backward_s = pipeline_fill(arena, num_stages, c)};
}

static inline const bool *pipeline_both_sides(struct hlm_arena *arena, int32_t num_stages)
{
    bool *values = HLM_ARENA_ARRAY(arena, bool, num_stages);
    for (int32_t i = 0; i < num_stages; i++) {
        values[i] = true;
    }
    return values;
}

/* With as few chunks as the kind has; NULL where there is no such schedule. */
static inline const struct hlm_schedule *
pipeline_try(struct hlm_arena *arena, enum hlm_schedule_kind kind, int32_t p, int32_t m)
{
    const struct hlm_schedule *schedule = NULL;
    struct hlm_err err = {0};
    const enum hlm_status status =
        hlm_schedule_build(arena, kind, p, hlm_schedule_chunks(kind).min, m, &schedule, &err);
    assert_true(status == HLM_OK || status == HLM_NO);
    return schedule;
}

static inline const struct hlm_schedule *
pipeline_build(struct hlm_arena *arena, enum hlm_schedule_kind kind, int32_t p, int32_t m)
{
    const struct hlm_schedule *schedule = pipeline_try(arena, kind, p, m);
    if (schedule == NULL) {
        fail_msg("no %s for p %d, m %d", hlm_schedule_texts[kind], p, m);
    }
    return schedule;
}

/* The same by name: chunks and group size as given, 0 for the least and the default. */
static inline const struct hlm_schedule *pipeline_build_with(struct hlm_arena *arena,
                                                             struct hlm_schedule_params params)
{
    const struct hlm_schedule *schedule = NULL;
    struct hlm_err err = {0};
    if (params.chunks == 0) {
        params.chunks = hlm_schedule_chunks(params.kind).min;
    }
    check_ok(hlm_schedule_build_with(arena, &params, &schedule, &err), &err);
    return schedule;
}

static inline const struct hlm_schedule *pipeline_from_csv(struct hlm_arena *arena,
                                                           const char *text)
{
    const struct hlm_schedule *schedule = NULL;
    struct hlm_err err = {0};
    check_ok(hlm_schedule_from_csv(arena, "test.csv", text, strlen(text), &schedule, &err), &err);
    return schedule;
}

static inline struct hlm_sim_result pipeline_run(struct hlm_arena *arena,
                                                 const struct hlm_schedule *schedule,
                                                 const struct hlm_sim_costs *costs)
{
    struct hlm_sim_result result = {0};
    struct hlm_err err = {0};
    check_ok(hlm_simulate(arena, schedule, costs, NULL, true, &result, &err), &err);
    return result;
}

/* The list of a rank as "0F0,0SEND_F0,...", without REDUCE_GRAD and OPTIMIZER. */
static inline const char *pipeline_text(struct hlm_arena *arena,
                                        const struct hlm_schedule *schedule, int32_t rank)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t i = 0; i < schedule->ranks[rank].num_actions; i++) {
        const struct hlm_action action = schedule->ranks[rank].actions[i];
        if (action.microbatch >= 0) {
            char name[32];
            hlm_action_format(action, name);
            hlm_text_printf(&text, "%s%s", i == 0 ? "" : ",", name);
        }
    }
    return text.text;
}

/* A schedule with messages placed as one would at first: a receive just before its use, a send
 * right behind what it sends. REDUCE_GRAD and OPTIMIZER at the end. */
static inline const struct hlm_schedule *pipeline_lower_naively(struct hlm_arena *arena,
                                                                const struct hlm_schedule *schedule)
{
    struct hlm_schedule *lowered = HLM_ARENA_NEW(arena, struct hlm_schedule);
    struct hlm_rank_actions *ranks =
        HLM_ARENA_ARRAY(arena, struct hlm_rank_actions, schedule->num_ranks);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        const struct hlm_rank_actions *list = &schedule->ranks[rank];
        struct hlm_action *actions = HLM_ARENA_ARRAY(
            arena, struct hlm_action, 3 * list->num_actions + schedule->num_stages + 1);
        int32_t count = 0;
        for (int32_t i = 0; i < list->num_actions; i++) {
            const struct hlm_action action = list->actions[i];
            assert_true(hlm_action_is_compute(action.kind)); /* pairs: see hlm_schedule_lower */
            const bool forward = action.kind == HLM_ACTION_F;
            const int32_t giver = action.stage + (forward ? -1 : 1);
            const int32_t taker = action.stage + (forward ? 1 : -1);
            if (action.kind != HLM_ACTION_W && giver >= 0 && giver < schedule->num_stages &&
                schedule->stage_rank[giver] != rank) {
                actions[count++] =
                    (struct hlm_action){forward ? HLM_ACTION_RECV_F : HLM_ACTION_RECV_B,
                                        action.stage, action.microbatch};
            }
            actions[count++] = action;
            if (action.kind != HLM_ACTION_W && taker >= 0 && taker < schedule->num_stages &&
                schedule->stage_rank[taker] != rank) {
                actions[count++] =
                    (struct hlm_action){forward ? HLM_ACTION_SEND_F : HLM_ACTION_SEND_B,
                                        action.stage, action.microbatch};
            }
        }
        for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
            if (schedule->stage_rank[stage] == rank) {
                actions[count++] = (struct hlm_action){HLM_ACTION_REDUCE_GRAD, stage, -1};
            }
        }
        actions[count++] =
            (struct hlm_action){HLM_ACTION_OPTIMIZER, hlm_schedule_first_stage(schedule, rank), -1};
        ranks[rank] = (struct hlm_rank_actions){actions, count};
    }
    *lowered = *schedule;
    lowered->ranks = ranks;
    lowered->lowered = true;
    return lowered;
}

static inline int pipeline_setup(void **state)
{
    *state = hlm_arena_new();
    return 0;
}

static inline int pipeline_teardown(void **state)
{
    hlm_arena_free(*state);
    return 0;
}
#define pipeline_test(function)                                                                    \
    cmocka_unit_test_setup_teardown(function, pipeline_setup, pipeline_teardown)

#endif
