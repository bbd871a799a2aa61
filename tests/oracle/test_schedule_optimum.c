/* How far schedules are from the best order that their stages, times and memory allow: against
 * enumeration of all orders, the ILP, and the lower bound. */
#include "base/rng.h"
#include "planner/schedule_glpk.h"
#include "tests/support/pipeline.h"

static struct hlm_order_problem problem_of(struct hlm_arena *arena,
                                           const struct hlm_schedule *schedule,
                                           const struct hlm_sim_costs *costs)
{
    struct hlm_order_problem problem;
    struct hlm_err err = {0};
    check_ok(hlm_order_problem_from(arena, schedule, costs, NULL, &problem, &err), &err);
    return problem;
}

/* ---- all orders of small problems ---- */

enum { MAX_LENGTH = 16, MAX_LISTS = 1024, MAX_RANKS = 3 };

struct lists {
    struct hlm_action actions[MAX_LISTS][MAX_LENGTH];
    int32_t count, length;
};

struct enumeration {
    const struct hlm_order_problem *problem;
    int32_t rank;
    struct lists *lists;
    struct hlm_action now[MAX_LENGTH];
    int32_t done[3][4]; /* [F, G, W][stage] */
    int64_t held;
};

/* Whether the next action of a row may come now, as far as its own rank says. */
static bool may_come(const struct enumeration *all, int row, int32_t stage)
{
    const struct hlm_order_problem *problem = all->problem;
    const int32_t next = all->done[row][stage];
    if (next == problem->num_microbatches || (row > 0 && all->done[row - 1][stage] <= next)) {
        return false;
    }
    for (int32_t other = 0; other < problem->num_stages; other++) {
        const bool is_giver = row == 0 ? other < stage : other > stage;
        if (row < 2 && is_giver && problem->stage_rank[other] == all->rank &&
            all->done[row][other] <= next) {
            return false;
        }
    }
    return row > 0 || all->held + problem->amounts[stage] <= problem->limits[all->rank];
}

static void enumerate(struct enumeration *all, int32_t length)
{
    const struct hlm_order_problem *problem = all->problem;
    const enum hlm_action_kind kinds[3] = {
        HLM_ACTION_F, problem->splits_backward ? HLM_ACTION_I : HLM_ACTION_B, HLM_ACTION_W};
    const int num_rows = problem->splits_backward ? 3 : 2;
    if (length == all->lists->length) {
        assert_true(all->lists->count < MAX_LISTS);
        memcpy(all->lists->actions[all->lists->count++], all->now, sizeof all->now);
        return;
    }
    for (int row = 0; row < num_rows; row++) {
        for (int32_t stage = 0; stage < problem->num_stages; stage++) {
            if (problem->stage_rank[stage] != all->rank || !may_come(all, row, stage)) {
                continue;
            }
            const int64_t change = row == 0              ? problem->amounts[stage]
                                   : row == num_rows - 1 ? -problem->amounts[stage]
                                                         : 0;
            all->now[length] = (struct hlm_action){kinds[row], stage, all->done[row][stage]++};
            all->held += change;
            enumerate(all, length + 1);
            all->held -= change;
            all->done[row][stage]--;
        }
    }
}

static struct lists *lists_of(struct hlm_arena *arena, const struct hlm_order_problem *problem,
                              int32_t rank)
{
    struct enumeration *all = HLM_ARENA_NEW(arena, struct enumeration);
    all->problem = problem;
    all->rank = rank;
    all->lists = HLM_ARENA_NEW(arena, struct lists);
    const int32_t num_rows = problem->splits_backward ? 3 : 2;
    all->lists->length =
        num_rows * problem->num_stages / problem->num_ranks * problem->num_microbatches;
    enumerate(all, 0);
    return all->lists;
}

/* The least makespan over all combinations of lists. */
static double enumerated_s(struct hlm_arena *arena, const struct hlm_order_problem *problem)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    struct lists *lists[MAX_RANKS] = {NULL};
    struct hlm_rank_actions ranks[MAX_RANKS] = {{NULL, 0}};
    int64_t num_combinations = 1;
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        lists[rank] = lists_of(arena, problem, rank);
        num_combinations *= lists[rank]->count;
    }
    const struct hlm_schedule schedule = {.kind = HLM_NUM_SCHEDULES,
                                          .num_ranks = problem->num_ranks,
                                          .num_stages = problem->num_stages,
                                          .num_microbatches = problem->num_microbatches,
                                          .stage_rank = problem->stage_rank,
                                          .ranks = ranks};
    double least_s = INFINITY;
    for (int64_t i = 0; i < num_combinations; i++) {
        int64_t rest = i;
        for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
            ranks[rank] = (struct hlm_rank_actions){lists[rank]->actions[rest % lists[rank]->count],
                                                    lists[rank]->length};
            rest /= lists[rank]->count;
        }
        const struct hlm_arena_mark before = hlm_arena_mark(arena);
        struct hlm_sim_result result;
        struct hlm_err err;
        if (hlm_simulate(arena, &schedule, problem->costs, NULL, false, &result, &err) == HLM_OK) {
            least_s = fmin(least_s, result.pipeline_s);
        }
        hlm_arena_rewind(arena, before);
    }
    hlm_arena_rewind(arena, mark);
    return least_s;
}

/* Unequal stages and latencies. */
static struct hlm_sim_costs random_costs(struct hlm_arena *arena, struct hlm_rng *rng,
                                         int32_t num_stages)
{
    double *values[6];
    for (int i = 0; i < 6; i++) {
        values[i] = HLM_ARENA_ARRAY(arena, double, num_stages);
        for (int32_t stage = 0; stage < num_stages; stage++) {
            const int64_t largest = i < 4 ? 8 : 3;
            values[i][stage] = (double)hlm_rng_next_int(rng, i < 4 ? 1 : 0, largest);
        }
    }
    return (struct hlm_sim_costs){.forward_s = values[0],
                                  .backward_s = values[1],
                                  .input_grad_s = values[2],
                                  .weight_grad_s = values[3],
                                  .send_forward_s = values[4],
                                  .send_backward_s = values[5]};
}

/* The ILP finds what enumeration finds; the bound is below it, list scheduling above. */
static void test_ilp_equals_enumeration(void **state)
{
    struct hlm_arena *arena = *state;
    static const struct hlm_schedule_params shapes[] = {
        {HLM_SCHEDULE_GPIPE, 2, 1, 4, 0}, {HLM_SCHEDULE_1F1B, 3, 1, 4, 0},
        {HLM_SCHEDULE_ZB_H1, 2, 1, 3, 0}, {HLM_SCHEDULE_ZB_H1, 3, 1, 2, 0},
        {HLM_SCHEDULE_ZB_H2, 2, 1, 3, 0}, {HLM_SCHEDULE_INTERLEAVED, 2, 2, 2, 0},
        {HLM_SCHEDULE_ZB_H1, 3, 1, 3, 0}, {HLM_SCHEDULE_V_MIN, 2, 2, 2, 0},
    };
    int num_improved = 0, num_above_bound = 0;
    for (uint64_t i = 0; i < 40; i++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(arena);
        struct hlm_rng rng = {.key = hlm_rng_bits(4711, i)};
        const struct hlm_schedule *textbook =
            pipeline_build_with(arena, shapes[i % (sizeof shapes / sizeof shapes[0])]);
        const struct hlm_sim_costs costs = random_costs(arena, &rng, textbook->num_stages);
        const struct hlm_order_problem problem = problem_of(arena, textbook, &costs);
        const struct hlm_schedule *list = NULL;
        struct hlm_err err = {0};
        check_ok(hlm_order_list(arena, &problem, textbook, &list, &err), &err);
        struct hlm_schedule_optimum optimum;
        hlm_schedule_glpk(arena, &problem, list, 0, &optimum);
        const double expected_s = enumerated_s(arena, &problem);
        const double list_s = pipeline_run(arena, list, &costs).pipeline_s;
        assert_true(optimum.is_proved);
        if (optimum.makespan_s != expected_s || hlm_order_bound(&problem) > expected_s ||
            list_s < expected_s) {
            fail_msg("case %d, %s: ILP %g, enumeration %g, bound %g, list %g", (int)i,
                     hlm_schedule_texts[textbook->kind], optimum.makespan_s, expected_s,
                     hlm_order_bound(&problem), list_s);
        }
        num_improved += pipeline_run(arena, textbook, &costs).pipeline_s > expected_s;
        num_above_bound += expected_s > hlm_order_bound(&problem);
        hlm_arena_rewind(arena, mark);
    }
    assert_true(num_improved > 5 && num_above_bound > 5); /* the cases are not trivial */
}

/* ---- how far each schedule is from the best ---- */

/* F, I, W of a chunk, and the latency of a boundary. UNEQUAL: every third stage is slower. */
enum times { EQUAL, MEASURED, LONG_W, LATENCY, UNEQUAL, NUM_TIMES };
static const struct {
    double f, i, w, c, slower;
} times[NUM_TIMES] = {[EQUAL] = {1, 1, 1, 0, 1},
                      [MEASURED] = {10, 11, 7, 0, 1},
                      [LONG_W] = {10, 7, 11, 0, 1},
                      [LATENCY] = {1, 1, 1, 0.25, 1},
                      [UNEQUAL] = {1, 1, 1, 0, 1.25}};

/* Makespans of the textbook order, of what list scheduling and (up to 4 x 8) hill climbing find
 * with the textbook's memory, of the ILP (0: not asked), and the lower bound. Where textbook and
 * bound are equal, no order of any kind is better: with equal times that is everywhere but in
 * DualPipe-V, in V-min on two ranks, and in ZB-H2 with fewer microbatches than it is made for. */
static const struct distance {
    enum hlm_schedule_kind kind;
    int32_t p, m;
    enum times times;
    double textbook_s, list_s, optimum_s, bound_s;
} distances[] = {
    {HLM_SCHEDULE_GPIPE, 2, 4, EQUAL, 15, 15, 15, 15},
    {HLM_SCHEDULE_GPIPE, 2, 4, MEASURED, 140, 140, 140, 140},
    {HLM_SCHEDULE_GPIPE, 2, 4, LONG_W, 140, 140, 140, 140},
    {HLM_SCHEDULE_GPIPE, 2, 4, LATENCY, 15.5, 15.5, 15.5, 15.5},
    {HLM_SCHEDULE_GPIPE, 2, 4, UNEQUAL, 18, 18, 18, 18},
    {HLM_SCHEDULE_GPIPE, 3, 5, EQUAL, 21, 21, 21, 21},
    {HLM_SCHEDULE_GPIPE, 3, 5, MEASURED, 196, 196, 196, 196},
    {HLM_SCHEDULE_GPIPE, 3, 5, LONG_W, 196, 196, 196, 196},
    {HLM_SCHEDULE_GPIPE, 3, 5, LATENCY, 22, 22, 22, 22},
    {HLM_SCHEDULE_GPIPE, 3, 5, UNEQUAL, 24.75, 21.75, 21.75, 21.75},
    {HLM_SCHEDULE_GPIPE, 4, 4, EQUAL, 21, 21, 21, 21},
    {HLM_SCHEDULE_GPIPE, 4, 4, MEASURED, 196, 196, 196, 196},
    {HLM_SCHEDULE_GPIPE, 4, 4, LONG_W, 196, 196, 196, 196},
    {HLM_SCHEDULE_GPIPE, 4, 4, LATENCY, 22.5, 22.5, 22.5, 22.5},
    {HLM_SCHEDULE_GPIPE, 4, 4, UNEQUAL, 24, 21.75, 21.75, 21.75},
    {HLM_SCHEDULE_1F1B, 2, 4, EQUAL, 15, 15, 15, 15},
    {HLM_SCHEDULE_1F1B, 2, 4, MEASURED, 140, 140, 140, 140},
    {HLM_SCHEDULE_1F1B, 2, 4, LONG_W, 140, 140, 140, 140},
    {HLM_SCHEDULE_1F1B, 2, 4, LATENCY, 16, 16, 16, 16},
    {HLM_SCHEDULE_1F1B, 2, 4, UNEQUAL, 18, 18, 18, 18},
    {HLM_SCHEDULE_1F1B, 3, 5, EQUAL, 21, 21, 21, 21},
    {HLM_SCHEDULE_1F1B, 3, 5, MEASURED, 196, 196, 196, 196},
    {HLM_SCHEDULE_1F1B, 3, 5, LONG_W, 196, 196, 196, 196},
    {HLM_SCHEDULE_1F1B, 3, 5, LATENCY, 23, 23, 23, 23},
    {HLM_SCHEDULE_1F1B, 3, 5, UNEQUAL, 24, 24, 24, 24},
    {HLM_SCHEDULE_1F1B, 4, 4, EQUAL, 21, 21, 21, 21},
    {HLM_SCHEDULE_1F1B, 4, 4, MEASURED, 196, 196, 196, 196},
    {HLM_SCHEDULE_1F1B, 4, 4, LONG_W, 196, 196, 196, 196},
    {HLM_SCHEDULE_1F1B, 4, 4, LATENCY, 23.5, 23.5, 23.5, 23.5},
    {HLM_SCHEDULE_1F1B, 4, 4, UNEQUAL, 22.5, 22.5, 22.5, 22.5},
    {HLM_SCHEDULE_1F1B_OVERLAP, 2, 4, EQUAL, 15, 15, 15, 15},
    {HLM_SCHEDULE_1F1B_OVERLAP, 2, 4, MEASURED, 140, 140, 140, 140},
    {HLM_SCHEDULE_1F1B_OVERLAP, 2, 4, LONG_W, 140, 140, 140, 140},
    {HLM_SCHEDULE_1F1B_OVERLAP, 2, 4, LATENCY, 15.5, 15.5, 15.5, 15.5},
    {HLM_SCHEDULE_1F1B_OVERLAP, 2, 4, UNEQUAL, 18, 18, 18, 18},
    {HLM_SCHEDULE_1F1B_OVERLAP, 3, 5, EQUAL, 21, 21, 21, 21},
    {HLM_SCHEDULE_1F1B_OVERLAP, 3, 5, MEASURED, 196, 196, 196, 196},
    {HLM_SCHEDULE_1F1B_OVERLAP, 3, 5, LONG_W, 196, 196, 196, 196},
    {HLM_SCHEDULE_1F1B_OVERLAP, 3, 5, LATENCY, 22, 22, 22, 22},
    {HLM_SCHEDULE_1F1B_OVERLAP, 3, 5, UNEQUAL, 22.25, 22.25, 22.25, 22.25},
    {HLM_SCHEDULE_1F1B_OVERLAP, 4, 4, EQUAL, 21, 21, 21, 21},
    {HLM_SCHEDULE_1F1B_OVERLAP, 4, 4, MEASURED, 196, 196, 196, 196},
    {HLM_SCHEDULE_1F1B_OVERLAP, 4, 4, LONG_W, 196, 196, 196, 196},
    {HLM_SCHEDULE_1F1B_OVERLAP, 4, 4, LATENCY, 22.5, 22.5, 22.5, 22.5},
    {HLM_SCHEDULE_1F1B_OVERLAP, 4, 4, UNEQUAL, 21.75, 21.75, 21.75, 21.75},
    {HLM_SCHEDULE_INTERLEAVED, 2, 4, EQUAL, 27, 27, 27, 27},
    {HLM_SCHEDULE_INTERLEAVED, 2, 4, MEASURED, 252, 252, 252, 252},
    {HLM_SCHEDULE_INTERLEAVED, 2, 4, LONG_W, 252, 252, 252, 252},
    {HLM_SCHEDULE_INTERLEAVED, 2, 4, LATENCY, 28.5, 28.5, 28.5, 28.5},
    {HLM_SCHEDULE_INTERLEAVED, 2, 4, UNEQUAL, 30, 30, 30, 30},
    {HLM_SCHEDULE_INTERLEAVED, 4, 4, EQUAL, 33, 33, 33, 33},
    {HLM_SCHEDULE_INTERLEAVED, 4, 4, MEASURED, 308, 308, 308, 308},
    {HLM_SCHEDULE_INTERLEAVED, 4, 4, LONG_W, 308, 308, 308, 308},
    {HLM_SCHEDULE_INTERLEAVED, 4, 4, LATENCY, 36.5, 36.5, 36.5, 36.5},
    {HLM_SCHEDULE_INTERLEAVED, 4, 4, UNEQUAL, 39, 39, 39, 36.75},
    {HLM_SCHEDULE_ZB_H1, 2, 4, EQUAL, 13, 13, 13, 13},
    {HLM_SCHEDULE_ZB_H1, 2, 4, MEASURED, 126, 126, 126, 126},
    {HLM_SCHEDULE_ZB_H1, 2, 4, LONG_W, 122, 122, 122, 122},
    {HLM_SCHEDULE_ZB_H1, 2, 4, LATENCY, 14, 14, 14, 14},
    {HLM_SCHEDULE_ZB_H1, 2, 4, UNEQUAL, 16, 16, 16, 16},
    {HLM_SCHEDULE_ZB_H1, 3, 5, EQUAL, 17, 17, 17, 17},
    {HLM_SCHEDULE_ZB_H1, 3, 5, MEASURED, 168, 168, 168, 168},
    {HLM_SCHEDULE_ZB_H1, 3, 5, LONG_W, 160, 160, 160, 160},
    {HLM_SCHEDULE_ZB_H1, 3, 5, LATENCY, 19, 19, 19, 19},
    {HLM_SCHEDULE_ZB_H1, 3, 5, UNEQUAL, 20.5, 19.75, 19.75, 19.75},
    {HLM_SCHEDULE_ZB_H1, 4, 4, EQUAL, 15, 15, 15, 15},
    {HLM_SCHEDULE_ZB_H1, 4, 4, MEASURED, 154, 154, 154, 154},
    {HLM_SCHEDULE_ZB_H1, 4, 4, LONG_W, 142, 142, 142, 142},
    {HLM_SCHEDULE_ZB_H1, 4, 4, LATENCY, 17.5, 17, 16.5, 16.5},
    {HLM_SCHEDULE_ZB_H1, 4, 4, UNEQUAL, 17.5, 17, 16.5, 16.25},
    {HLM_SCHEDULE_ZB_H2, 2, 4, EQUAL, 13, 13, 13, 13},
    {HLM_SCHEDULE_ZB_H2, 2, 4, MEASURED, 122, 122, 122, 122},
    {HLM_SCHEDULE_ZB_H2, 2, 4, LONG_W, 122, 122, 122, 122},
    {HLM_SCHEDULE_ZB_H2, 2, 4, LATENCY, 13.25, 13.25, 13.25, 13.25},
    {HLM_SCHEDULE_ZB_H2, 2, 4, UNEQUAL, 16, 16, 16, 16},
    {HLM_SCHEDULE_ZB_H2, 3, 5, EQUAL, 17, 17, 17, 17},
    {HLM_SCHEDULE_ZB_H2, 3, 5, MEASURED, 160, 160, 160, 160},
    {HLM_SCHEDULE_ZB_H2, 3, 5, LONG_W, 160, 160, 160, 160},
    {HLM_SCHEDULE_ZB_H2, 3, 5, LATENCY, 17.5, 17.5, 17.5, 17.5},
    {HLM_SCHEDULE_ZB_H2, 3, 5, UNEQUAL, 19.75, 19.75, 19.75, 19.75},
    {HLM_SCHEDULE_ZB_H2, 4, 4, EQUAL, 16, 15, 15, 15},
    {HLM_SCHEDULE_ZB_H2, 4, 4, MEASURED, 157, 154, 154, 154},
    {HLM_SCHEDULE_ZB_H2, 4, 4, LONG_W, 149, 142, 142, 142},
    {HLM_SCHEDULE_ZB_H2, 4, 4, LATENCY, 17.25, 16.5, 16.5, 16.5},
    {HLM_SCHEDULE_ZB_H2, 4, 4, UNEQUAL, 17.75, 17, 16.5, 16.25},
    {HLM_SCHEDULE_ZB_V, 2, 4, EQUAL, 25, 25, 25, 25},
    {HLM_SCHEDULE_ZB_V, 2, 4, MEASURED, 235, 235, 235, 235},
    {HLM_SCHEDULE_ZB_V, 2, 4, LONG_W, 234, 234, 234, 234},
    {HLM_SCHEDULE_ZB_V, 2, 4, LATENCY, 25.75, 25.75, 25.75, 25.75},
    {HLM_SCHEDULE_ZB_V, 2, 4, UNEQUAL, 28, 28, 28, 28},
    {HLM_SCHEDULE_V_HALF, 2, 4, EQUAL, 25, 25, 25, 25},
    {HLM_SCHEDULE_V_HALF, 2, 4, MEASURED, 240, 235, 235, 235},
    {HLM_SCHEDULE_V_HALF, 2, 4, LONG_W, 237, 234, 234, 234},
    {HLM_SCHEDULE_V_HALF, 2, 4, LATENCY, 26.5, 25.75, 25.75, 25.75},
    {HLM_SCHEDULE_V_HALF, 2, 4, UNEQUAL, 28, 28, 28, 28},
    {HLM_SCHEDULE_V_MIN, 2, 4, EQUAL, 27, 25, 25, 25},
    {HLM_SCHEDULE_V_MIN, 2, 4, MEASURED, 280, 241, 235, 235},
    {HLM_SCHEDULE_V_MIN, 2, 4, LONG_W, 255, 234, 234, 234},
    {HLM_SCHEDULE_V_MIN, 2, 4, LATENCY, 29.5, 25.75, 25.75, 25.75},
    {HLM_SCHEDULE_V_MIN, 2, 4, UNEQUAL, 30, 28, 28, 28},
    {HLM_SCHEDULE_DUALPIPE_V, 2, 4, EQUAL, 26, 26, 0, 25},
    {HLM_SCHEDULE_DUALPIPE_V, 2, 4, MEASURED, 248, 248, 0, 234},
    {HLM_SCHEDULE_DUALPIPE_V, 2, 4, LONG_W, 244, 244, 0, 234},
    {HLM_SCHEDULE_DUALPIPE_V, 2, 4, LATENCY, 27, 27, 0, 25.25},
    {HLM_SCHEDULE_DUALPIPE_V, 2, 4, UNEQUAL, 28.5, 28.5, 0, 28},
    {HLM_SCHEDULE_GPIPE, 4, 8, EQUAL, 33, 33, 0, 33},
    {HLM_SCHEDULE_GPIPE, 4, 8, MEASURED, 308, 308, 0, 308},
    {HLM_SCHEDULE_GPIPE, 4, 8, LONG_W, 308, 308, 0, 308},
    {HLM_SCHEDULE_GPIPE, 4, 8, LATENCY, 34.5, 34.5, 0, 34.5},
    {HLM_SCHEDULE_GPIPE, 4, 8, UNEQUAL, 39, 33.75, 0, 33.75},
    {HLM_SCHEDULE_GPIPE, 16, 128, EQUAL, 429, 429, 0, 429},
    {HLM_SCHEDULE_GPIPE, 16, 128, MEASURED, 4004, 4004, 0, 4004},
    {HLM_SCHEDULE_GPIPE, 16, 128, LONG_W, 4004, 4004, 0, 4004},
    {HLM_SCHEDULE_GPIPE, 16, 128, LATENCY, 436.5, 436.5, 0, 436.5},
    {HLM_SCHEDULE_GPIPE, 16, 128, UNEQUAL, 528, 522, 0, 522},
    {HLM_SCHEDULE_1F1B, 4, 8, EQUAL, 33, 33, 0, 33},
    {HLM_SCHEDULE_1F1B, 4, 8, MEASURED, 308, 308, 0, 308},
    {HLM_SCHEDULE_1F1B, 4, 8, LONG_W, 308, 308, 0, 308},
    {HLM_SCHEDULE_1F1B, 4, 8, LATENCY, 37, 37, 0, 36.5},
    {HLM_SCHEDULE_1F1B, 4, 8, UNEQUAL, 37.5, 37.5, 0, 37.5},
    {HLM_SCHEDULE_1F1B, 16, 128, EQUAL, 429, 429, 0, 429},
    {HLM_SCHEDULE_1F1B, 16, 128, MEASURED, 4004, 4004, 0, 4004},
    {HLM_SCHEDULE_1F1B, 16, 128, LONG_W, 4004, 4004, 0, 4004},
    {HLM_SCHEDULE_1F1B, 16, 128, LATENCY, 496, 496, 0, 495},
    {HLM_SCHEDULE_1F1B, 16, 128, UNEQUAL, 526.5, 526.5, 0, 526.5},
    {HLM_SCHEDULE_1F1B_OVERLAP, 4, 8, EQUAL, 33, 33, 0, 33},
    {HLM_SCHEDULE_1F1B_OVERLAP, 4, 8, MEASURED, 308, 308, 0, 308},
    {HLM_SCHEDULE_1F1B_OVERLAP, 4, 8, LONG_W, 308, 308, 0, 308},
    {HLM_SCHEDULE_1F1B_OVERLAP, 4, 8, LATENCY, 34.5, 34.5, 0, 34.5},
    {HLM_SCHEDULE_1F1B_OVERLAP, 4, 8, UNEQUAL, 34, 34, 0, 34},
    {HLM_SCHEDULE_1F1B_OVERLAP, 16, 128, EQUAL, 429, 429, 0, 429},
    {HLM_SCHEDULE_1F1B_OVERLAP, 16, 128, MEASURED, 4004, 4004, 0, 4004},
    {HLM_SCHEDULE_1F1B_OVERLAP, 16, 128, LONG_W, 4004, 4004, 0, 4004},
    {HLM_SCHEDULE_1F1B_OVERLAP, 16, 128, LATENCY, 436.5, 436.5, 0, 436.5},
    {HLM_SCHEDULE_1F1B_OVERLAP, 16, 128, UNEQUAL, 523, 523, 0, 523},
    {HLM_SCHEDULE_INTERLEAVED, 4, 8, EQUAL, 57, 57, 0, 57},
    {HLM_SCHEDULE_INTERLEAVED, 4, 8, MEASURED, 532, 532, 0, 532},
    {HLM_SCHEDULE_INTERLEAVED, 4, 8, LONG_W, 532, 532, 0, 532},
    {HLM_SCHEDULE_INTERLEAVED, 4, 8, LATENCY, 60.5, 60.5, 0, 60.5},
    {HLM_SCHEDULE_INTERLEAVED, 4, 8, UNEQUAL, 66, 66, 0, 63.75},
    {HLM_SCHEDULE_INTERLEAVED, 16, 128, EQUAL, 813, 813, 0, 813},
    {HLM_SCHEDULE_INTERLEAVED, 16, 128, MEASURED, 7588, 7588, 0, 7588},
    {HLM_SCHEDULE_INTERLEAVED, 16, 128, LONG_W, 7588, 7588, 0, 7588},
    {HLM_SCHEDULE_INTERLEAVED, 16, 128, LATENCY, 828.5, 828.5, 0, 828.5},
    {HLM_SCHEDULE_INTERLEAVED, 16, 128, UNEQUAL, 976.5, 957.5, 0, 912.75},
    {HLM_SCHEDULE_ZB_H1, 4, 8, EQUAL, 27, 27, 0, 27},
    {HLM_SCHEDULE_ZB_H1, 4, 8, MEASURED, 266, 266, 0, 266},
    {HLM_SCHEDULE_ZB_H1, 4, 8, LONG_W, 254, 254, 0, 254},
    {HLM_SCHEDULE_ZB_H1, 4, 8, LATENCY, 30, 30, 0, 30},
    {HLM_SCHEDULE_ZB_H1, 4, 8, UNEQUAL, 32.5, 31.75, 0, 31.25},
    {HLM_SCHEDULE_ZB_H1, 16, 128, EQUAL, 399, 399, 0, 399},
    {HLM_SCHEDULE_ZB_H1, 16, 128, MEASURED, 3794, 3794, 0, 3794},
    {HLM_SCHEDULE_ZB_H1, 16, 128, LONG_W, 3734, 3734, 0, 3734},
    {HLM_SCHEDULE_ZB_H1, 16, 128, LATENCY, 414, 414, 0, 414},
    {HLM_SCHEDULE_ZB_H1, 16, 128, UNEQUAL, 495.5, 495.5, 0, 494},
    {HLM_SCHEDULE_ZB_H2, 4, 8, EQUAL, 27, 27, 0, 27},
    {HLM_SCHEDULE_ZB_H2, 4, 8, MEASURED, 254, 254, 0, 254},
    {HLM_SCHEDULE_ZB_H2, 4, 8, LONG_W, 254, 254, 0, 254},
    {HLM_SCHEDULE_ZB_H2, 4, 8, LATENCY, 27.75, 27.75, 0, 27.75},
    {HLM_SCHEDULE_ZB_H2, 4, 8, UNEQUAL, 31, 31, 0, 31},
    {HLM_SCHEDULE_ZB_H2, 16, 128, EQUAL, 399, 399, 0, 399},
    {HLM_SCHEDULE_ZB_H2, 16, 128, MEASURED, 3734, 3734, 0, 3734},
    {HLM_SCHEDULE_ZB_H2, 16, 128, LONG_W, 3734, 3734, 0, 3734},
    {HLM_SCHEDULE_ZB_H2, 16, 128, LATENCY, 402.75, 402.75, 0, 402.75},
    {HLM_SCHEDULE_ZB_H2, 16, 128, UNEQUAL, 494, 494, 0, 494},
    {HLM_SCHEDULE_ZB_V, 4, 8, EQUAL, 51, 51, 0, 51},
    {HLM_SCHEDULE_ZB_V, 4, 8, MEASURED, 481, 481, 0, 481},
    {HLM_SCHEDULE_ZB_V, 4, 8, LONG_W, 484, 478, 0, 478},
    {HLM_SCHEDULE_ZB_V, 4, 8, LATENCY, 54.25, 53.25, 0, 53.25},
    {HLM_SCHEDULE_ZB_V, 4, 8, UNEQUAL, 58, 57.75, 0, 57.25},
    {HLM_SCHEDULE_ZB_V, 16, 128, EQUAL, 783, 783, 0, 783},
    {HLM_SCHEDULE_ZB_V, 16, 128, MEASURED, 7333, 7333, 0, 7333},
    {HLM_SCHEDULE_ZB_V, 16, 128, LONG_W, 7360, 7360, 0, 7318},
    {HLM_SCHEDULE_ZB_V, 16, 128, LATENCY, 801.25, 801.25, 0, 794.25},
    {HLM_SCHEDULE_ZB_V, 16, 128, UNEQUAL, 890, 890, 0, 880.25},
    {HLM_SCHEDULE_V_HALF, 4, 8, EQUAL, 53, 53, 0, 53},
    {HLM_SCHEDULE_V_HALF, 4, 8, MEASURED, 523, 522, 0, 518},
    {HLM_SCHEDULE_V_HALF, 4, 8, LONG_W, 501, 501, 0, 489},
    {HLM_SCHEDULE_V_HALF, 4, 8, LATENCY, 57.5, 57.5, 0, 57.5},
    {HLM_SCHEDULE_V_HALF, 4, 8, UNEQUAL, 60.5, 60, 0, 58.5},
    {HLM_SCHEDULE_V_HALF, 16, 128, EQUAL, 809, 809, 0, 809},
    {HLM_SCHEDULE_V_HALF, 16, 128, MEASURED, 7678, 7678, 0, 7658},
    {HLM_SCHEDULE_V_HALF, 16, 128, LONG_W, 7524, 7524, 0, 7474},
    {HLM_SCHEDULE_V_HALF, 16, 128, LATENCY, 831.5, 831.5, 0, 831.5},
    {HLM_SCHEDULE_V_HALF, 16, 128, UNEQUAL, 909.75, 909.75, 0, 899.5},
    {HLM_SCHEDULE_V_MIN, 4, 8, EQUAL, 59, 59, 0, 59},
    {HLM_SCHEDULE_V_MIN, 4, 8, MEASURED, 637, 621, 0, 574},
    {HLM_SCHEDULE_V_MIN, 4, 8, LONG_W, 558, 554, 0, 534},
    {HLM_SCHEDULE_V_MIN, 4, 8, LATENCY, 69, 69, 0, 63.5},
    {HLM_SCHEDULE_V_MIN, 4, 8, UNEQUAL, 65.5, 65.5, 0, 64},
    {HLM_SCHEDULE_V_MIN, 16, 128, EQUAL, 827, 827, 0, 827},
    {HLM_SCHEDULE_V_MIN, 16, 128, MEASURED, 9061, 9061, 0, 7826},
    {HLM_SCHEDULE_V_MIN, 16, 128, LONG_W, 8152, 8152, 0, 7642},
    {HLM_SCHEDULE_V_MIN, 16, 128, LATENCY, 1019.5, 1019.5, 0, 904.0833333},
    {HLM_SCHEDULE_V_MIN, 16, 128, UNEQUAL, 928.25, 928.25, 0, 922},
    {HLM_SCHEDULE_DUALPIPE_V, 4, 8, EQUAL, 54, 54, 0, 51},
    {HLM_SCHEDULE_DUALPIPE_V, 4, 8, MEASURED, 520, 520, 0, 478},
    {HLM_SCHEDULE_DUALPIPE_V, 4, 8, LONG_W, 508, 508, 0, 478},
    {HLM_SCHEDULE_DUALPIPE_V, 4, 8, LATENCY, 58.5, 58.5, 0, 52.25},
    {HLM_SCHEDULE_DUALPIPE_V, 4, 8, UNEQUAL, 61, 61, 0, 57.25},
    {HLM_SCHEDULE_DUALPIPE_V, 16, 128, EQUAL, 798, 798, 0, 783},
    {HLM_SCHEDULE_DUALPIPE_V, 16, 128, MEASURED, 7533, 7533, 0, 7323},
    {HLM_SCHEDULE_DUALPIPE_V, 16, 128, LONG_W, 7468, 7468, 0, 7318},
    {HLM_SCHEDULE_DUALPIPE_V, 16, 128, LATENCY, 871.5, 871.5, 0, 793.25},
    {HLM_SCHEDULE_DUALPIPE_V, 16, 128, UNEQUAL, 901.5, 901.5, 0, 880.25},
};

static struct hlm_sim_costs costs_of(struct hlm_arena *arena, enum times kind, int32_t num_stages)
{
    double *values[5];
    const double seconds[5] = {times[kind].f, times[kind].i + times[kind].w, times[kind].i,
                               times[kind].w, times[kind].c};
    for (int i = 0; i < 5; i++) {
        values[i] = HLM_ARENA_ARRAY(arena, double, num_stages);
        for (int32_t stage = 0; stage < num_stages; stage++) {
            values[i][stage] = seconds[i] * (stage % 3 == 1 && i < 4 ? times[kind].slower : 1.0);
        }
    }
    return (struct hlm_sim_costs){.forward_s = values[0],
                                  .backward_s = values[1],
                                  .input_grad_s = values[2],
                                  .weight_grad_s = values[3],
                                  .send_forward_s = values[4],
                                  .send_backward_s = values[4]};
}

/* Pairs are two actions for the bound, and a backward its halves: B is I + W here. */
static double bound_of_pairs(struct hlm_arena *arena, const struct hlm_schedule *schedule,
                             const struct hlm_sim_costs *costs)
{
    const struct hlm_rank_memory *memory = hlm_schedule_memory(arena, schedule, NULL);
    int64_t *limits = HLM_ARENA_ARRAY(arena, int64_t, schedule->num_ranks);
    int64_t *amounts = HLM_ARENA_ARRAY(arena, int64_t, schedule->num_stages);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        limits[rank] = memory[rank].peak;
    }
    for (int32_t stage = 0; stage < schedule->num_stages; stage++) {
        amounts[stage] = 1;
    }
    const struct hlm_order_problem problem = {.num_ranks = schedule->num_ranks,
                                              .num_stages = schedule->num_stages,
                                              .num_microbatches = schedule->num_microbatches,
                                              .stage_rank = schedule->stage_rank,
                                              .splits_backward = true,
                                              .costs = costs,
                                              .amounts = amounts,
                                              .limits = limits};
    return hlm_order_bound(&problem);
}

static struct distance measure(struct hlm_arena *arena, const struct distance *row)
{
    const struct hlm_schedule *textbook = pipeline_build(arena, row->kind, row->p, row->m);
    const struct hlm_sim_costs costs = costs_of(arena, row->times, textbook->num_stages);
    struct distance found = *row;
    found.textbook_s = pipeline_run(arena, textbook, &costs).pipeline_s;
    if (row->kind == HLM_SCHEDULE_DUALPIPE_V) {
        found.list_s = found.textbook_s;
        found.bound_s = bound_of_pairs(arena, textbook, &costs);
        return found;
    }
    const struct hlm_order_problem problem = problem_of(arena, textbook, &costs);
    const struct hlm_schedule *list = NULL;
    struct hlm_err err = {0};
    check_ok(hlm_order_list(arena, &problem, textbook, &list, &err), &err);
    list = row->p * row->m <= 32 ? hlm_order_improve(arena, &problem, list, 2000) : list;
    found.list_s = pipeline_run(arena, list, &costs).pipeline_s;
    found.bound_s = hlm_order_bound(&problem);
    if (row->optimum_s > 0) {
        struct hlm_schedule_optimum optimum;
        hlm_schedule_glpk(arena, &problem, list, 0, &optimum);
        assert_true(optimum.is_proved);
        found.optimum_s = optimum.makespan_s;
    }
    return found;
}

static bool is_close(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fmax(a, b);
}

static void test_distances(void **state)
{
    for (size_t i = 0; i < sizeof distances / sizeof distances[0]; i++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(*state);
        const struct distance *row = &distances[i];
        const struct distance found = measure(*state, row);
        if (!is_close(found.textbook_s, row->textbook_s) || !is_close(found.list_s, row->list_s) ||
            !is_close(found.optimum_s, row->optimum_s) || !is_close(found.bound_s, row->bound_s)) {
            fail_msg("%s p %d m %d times %d: textbook %.10g, list %.10g, optimum %.10g, bound "
                     "%.10g",
                     hlm_schedule_texts[row->kind], row->p, row->m, (int)row->times,
                     found.textbook_s, found.list_s, found.optimum_s, found.bound_s);
        }
        hlm_arena_rewind(*state, mark);
    }
}

/* The memory that the figures above are under: chunk activations of the rank that holds most, of
 * the 2 p that 1F1B holds in units of half a rank's layers. */
static void test_memory(void **state)
{
    static const struct {
        enum hlm_schedule_kind kind;
        int64_t peak; /* p = 16, m = 128 */
    } rows[] = {{HLM_SCHEDULE_GPIPE, 128},       {HLM_SCHEDULE_1F1B, 16},
                {HLM_SCHEDULE_1F1B_OVERLAP, 31}, {HLM_SCHEDULE_INTERLEAVED, 47},
                {HLM_SCHEDULE_ZB_H1, 16},        {HLM_SCHEDULE_ZB_H2, 31},
                {HLM_SCHEDULE_ZB_V, 32},         {HLM_SCHEDULE_V_HALF, 18},
                {HLM_SCHEDULE_V_MIN, 12},        {HLM_SCHEDULE_DUALPIPE_V, 33}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct hlm_schedule *schedule = pipeline_build(*state, rows[i].kind, 16, 128);
        const struct hlm_rank_memory *memory = hlm_schedule_memory(*state, schedule, NULL);
        int64_t peak = 0;
        for (int32_t rank = 0; rank < 16; rank++) {
            peak = memory[rank].peak > peak ? memory[rank].peak : peak;
        }
        assert_int_equal(peak, rows[i].peak);
    }
}

/* With the objective of the zero-bubble papers, the longest span of a rank, ZB-H1 reaches what MIP
 * solvers proved optimal for its memory: 17, 15, 154, 27 and 266; ZB-H2 reaches 24, no idle time.
 */
static void test_published_spans(void **state)
{
    static const struct {
        struct hlm_schedule_params params;
        enum times times;
        double span_s;
    } rows[] = {{{HLM_SCHEDULE_ZB_H1, 3, 1, 5, 0}, EQUAL, 17},
                {{HLM_SCHEDULE_ZB_H1, 4, 1, 4, 0}, EQUAL, 15},
                {{HLM_SCHEDULE_ZB_H1, 4, 1, 4, 0}, MEASURED, 154},
                {{HLM_SCHEDULE_ZB_H1, 4, 1, 8, 0}, EQUAL, 27},
                {{HLM_SCHEDULE_ZB_H1, 4, 1, 8, 0}, MEASURED, 266},
                {{HLM_SCHEDULE_ZB_H2, 4, 1, 8, 0}, EQUAL, 24}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct hlm_schedule *schedule = pipeline_build_with(*state, rows[i].params);
        const struct hlm_sim_costs costs = costs_of(*state, rows[i].times, schedule->num_stages);
        const struct hlm_sim_result result = pipeline_run(*state, schedule, &costs);
        double span_s = 0;
        for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
            span_s =
                fmax(span_s, result.ranks[rank].compute_end_s - result.ranks[rank].first_start_s);
        }
        assert_true(span_s == rows[i].span_s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_distances),
        pipeline_test(test_memory),
        pipeline_test(test_published_spans),
        pipeline_test(test_ilp_equals_enumeration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
