#include "planner/stage_pattern.h"
#include "tests/support/check.h"
#include "tests/support/placement.h"

/* One stage of 8 layers whose memory is set by each test: slots of 100, 40, 10 bytes; backward of
 * 2, 2.5, 3 seconds. */
static void hold_nothing(const void *context, int32_t stage,
                         const int32_t counts[HLM_NUM_LAYER_KINDS], struct hlm_stage_holding *out)
{
    (void)context;
    (void)stage;
    *out = (struct hlm_stage_holding){.static_bytes = 10 * (counts[0] + counts[1])};
}

static const uint8_t dense[8];
static const uint8_t mixed[8] = {0, 0, 1, 1, 1, 1, 1, 1};

struct one_stage {
    struct hlm_stage_prices prices;
    struct hlm_placement placement;
};

static void one_stage_init(struct one_stage *one, const uint8_t *kinds, int64_t limit_bytes)
{
    *one = (struct one_stage){.prices = {.forward_s = {1, 2},
                                         .backward_s = {{2, 2.5, 3}, {4, 4.25, 6}},
                                         .slot_bytes = {{100, 40, 10}, {100, 40, 10}},
                                         .transient_bytes = {{0, 5, 50}, {0, 5, 50}},
                                         .base_forward_s = 0.5,
                                         .base_backward_s = 0.5,
                                         .base_slot_bytes = 7,
                                         .base_transient_bytes = 3,
                                         .limit_bytes = limit_bytes,
                                         .in_flight = 2,
                                         .may_be_empty = true},
                              .placement = {.schedule = HLM_SCHEDULE_1F1B,
                                            .num_stages = 1,
                                            .num_layers = 8,
                                            .num_microbatches = 2,
                                            .layer_kinds = kinds,
                                            .modes = {true, true, true},
                                            .hold = hold_nothing}};
    one->placement.stages = &one->prices;
}

static const struct hlm_pattern *pattern_of(struct hlm_arena *arena, struct one_stage *one)
{
    return hlm_pattern_get(hlm_pattern_set_new(arena, &one->placement), 0, 0, 8);
}

static void memory_decides_layer_by_layer(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct one_stage one;
    /* static 80 + 2 (7 + 800) + 3 */
    one_stage_init(&one, dense, 1697);
    const struct hlm_pattern *all = pattern_of(arena, &one);
    assert_int_equal(all->recompute[HLM_RECOMPUTE_NONE], 8);
    check_close(all->forward_s, 8.5, 1e-15);
    check_close(all->backward_s, 16.5, 1e-15);
    /* One byte less: one selective layer (its transient is 2 bytes more than the base's). */
    one_stage_init(&one, dense, 1696);
    const struct hlm_pattern *less = pattern_of(arena, &one);
    assert_int_equal(less->recompute[HLM_RECOMPUTE_SELECTIVE], 1);
    check_close(less->backward_s, 17.0, 1e-15);
    hlm_arena_free(arena);
}

static void nothing_fits_below_the_least(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct one_stage one;
    /* all full: 80 + 2 (7 + 80) + 50 */
    one_stage_init(&one, dense, 304);
    const struct hlm_pattern *least = pattern_of(arena, &one);
    assert_int_equal(least->recompute[HLM_RECOMPUTE_FULL], 8);
    one_stage_init(&one, dense, 303);
    assert_null(pattern_of(arena, &one));
    hlm_arena_free(arena);
}

static void only_allowed_modes(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct one_stage one;
    one_stage_init(&one, dense, 10000);
    one.placement.modes[HLM_RECOMPUTE_NONE] = one.placement.modes[HLM_RECOMPUTE_SELECTIVE] = false;
    assert_int_equal(pattern_of(arena, &one)->recompute[HLM_RECOMPUTE_FULL], 8);
    hlm_arena_free(arena);
}

static void middle_stages_are_not_empty(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct one_stage one;
    one_stage_init(&one, dense, 10000);
    assert_non_null(hlm_pattern_get(hlm_pattern_set_new(arena, &one.placement), 0, 3, 3));
    one.prices.may_be_empty = false;
    assert_null(hlm_pattern_get(hlm_pattern_set_new(arena, &one.placement), 0, 3, 3));
    hlm_arena_free(arena);
}

/* Full layers stand in front, so with dense layers first a full moe layer takes two full dense ones
 * along. */
static void modes_follow_the_order_of_layers(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct one_stage one;
    for (int64_t limit = 304; limit <= 1800; limit += 37) {
        one_stage_init(&one, mixed, limit);
        const struct hlm_pattern *pattern = pattern_of(arena, &one);
        const struct stage_times times = stage_times_new(arena, 1);
        assert_true(brute_stage(&one.placement, 0, 0, 8, &times) == (pattern != NULL));
        if (pattern != NULL) {
            check_close(pattern->backward_s, times.backward_s[0], 1e-15);
        }
    }
    hlm_arena_free(arena);
}

/* A part of a stretch that fits fits, and takes no longer. */
static void parts_cost_no_more(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(3)};
    for (int i = 0; i < 200; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        const struct random_shape shape = {.max_stages = 3,
                                           .max_layers = 8,
                                           .max_microbatches = 8,
                                           .unequal = true,
                                           .tight = true};
        const struct hlm_placement *placement = random_placement(arena, &rng, &shape);
        struct hlm_pattern_set *set = hlm_pattern_set_new(arena, placement);
        for (int32_t begin = 0; begin < placement->num_layers; begin++) {
            for (int32_t end = begin + 2; end <= placement->num_layers; end++) {
                const struct hlm_pattern *whole = hlm_pattern_get(set, 0, begin, end);
                const struct hlm_pattern *back = hlm_pattern_get(set, 0, begin, end - 1);
                const struct hlm_pattern *front = hlm_pattern_get(set, 0, begin + 1, end);
                if (whole != NULL) {
                    assert_true(back != NULL && front != NULL);
                    assert_true(back->backward_s <= whole->backward_s * (1 + 1e-12));
                    assert_true(front->backward_s <= whole->backward_s * (1 + 1e-12));
                }
            }
        }
        hlm_arena_free(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_decides_layer_by_layer),
        cmocka_unit_test(nothing_fits_below_the_least),
        cmocka_unit_test(only_allowed_modes),
        cmocka_unit_test(middle_stages_are_not_empty),
        cmocka_unit_test(modes_follow_the_order_of_layers),
        cmocka_unit_test(parts_cost_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
