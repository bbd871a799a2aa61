/* Properties of orders on random problems. The seed is printed; SEED=<n> sets it. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/rng.h"
#include "schedule/order.h"
#include "tests/support/pipeline.h"
#include "tests/support/share.h"

enum { NUM_CASES = 1500, MAX_RANKS = 6, MAX_MICROBATCHES = 12, MAX_STAGES = 3 * MAX_RANKS };

struct fixture {
    struct hlm_arena *arena;
    uint64_t seed;
};

struct problem {
    const struct hlm_schedule *textbook;
    double seconds[6][MAX_STAGES]; /* F, B, I, W, transfers */
    int64_t amounts[MAX_STAGES];
    struct hlm_sim_costs costs;
    struct hlm_order_problem order;
};

static const struct hlm_schedule *make_textbook(struct hlm_arena *arena, struct hlm_rng *rng)
{
    const struct hlm_schedule *textbook = NULL;
    struct hlm_err err = {0};
    while (textbook == NULL) {
        const enum hlm_schedule_kind kind =
            (enum hlm_schedule_kind)hlm_rng_next_int(rng, 0, HLM_SCHEDULE_V_MIN);
        const struct hlm_schedule_params params = {
            .kind = kind,
            .num_ranks = (int32_t)hlm_rng_next_int(rng, 1, MAX_RANKS),
            .chunks = hlm_schedule_chunks(kind).min +
                      (kind == HLM_SCHEDULE_INTERLEAVED ? (int32_t)hlm_rng_next_int(rng, 0, 1) : 0),
            .num_microbatches = (int32_t)hlm_rng_next_int(rng, 1, MAX_MICROBATCHES)};
        if (hlm_schedule_build_with(arena, &params, &textbook, &err) != HLM_OK) {
            textbook = NULL;
        }
    }
    return textbook;
}

static void make_costs(struct problem *problem, struct hlm_rng *rng)
{
    const bool equal = hlm_rng_next_int(rng, 0, 2) == 0;
    const double latency = (double)hlm_rng_next_int(rng, 0, 2) * hlm_rng_next_uniform(rng);
    const double scales[6] = {1, 2, 1, 1, latency, latency};
    for (int i = 0; i < 6; i++) {
        const double same = hlm_rng_next_uniform(rng);
        for (int s = 0; s < MAX_STAGES; s++) {
            problem->seconds[i][s] =
                scales[i] * (0.05 + (equal ? same : hlm_rng_next_uniform(rng)));
        }
    }
    for (int s = 0; s < MAX_STAGES; s++) {
        problem->amounts[s] = hlm_rng_next_int(rng, 1, 4);
    }
    problem->costs = (struct hlm_sim_costs){.forward_s = problem->seconds[0],
                                            .backward_s = problem->seconds[1],
                                            .input_grad_s = problem->seconds[2],
                                            .weight_grad_s = problem->seconds[3],
                                            .send_forward_s = problem->seconds[4],
                                            .send_backward_s = problem->seconds[5]};
}

static void make(struct hlm_arena *arena, struct hlm_rng *rng, struct problem *problem)
{
    problem->textbook = make_textbook(arena, rng);
    make_costs(problem, rng);
    struct hlm_err err = {0};
    check_ok(hlm_order_problem_from(arena, problem->textbook, &problem->costs,
                                    hlm_rng_next_int(rng, 0, 1) == 0 ? NULL : problem->amounts,
                                    &problem->order, &err),
             &err);
}

static double makespan(struct hlm_arena *arena, const struct problem *problem,
                       const struct hlm_schedule *schedule)
{
    return pipeline_run(arena, schedule, &problem->costs).pipeline_s;
}

static void check_order(struct hlm_arena *arena, const struct problem *problem,
                        const struct hlm_schedule *out)
{
    struct hlm_err err = {0};
    hlm_schedule_check(out);
    const struct hlm_rank_memory *memory = hlm_schedule_memory(arena, out, problem->order.amounts);
    for (int32_t rank = 0; rank < out->num_ranks; rank++) {
        assert_true(memory[rank].peak <= problem->order.limits[rank]);
    }
    const struct hlm_schedule *lowered = hlm_schedule_lower(arena, out);
    hlm_schedule_check(lowered);
    check_ok(hlm_schedule_rendezvous(arena, lowered, &err), &err);
}

static const struct hlm_schedule *list_of(struct hlm_arena *arena, const struct problem *problem,
                                          const struct hlm_schedule *textbook)
{
    const struct hlm_schedule *out = NULL;
    struct hlm_err err = {0};
    check_ok(hlm_order_list(arena, &problem->order, textbook, &out, &err), &err);
    check_order(arena, problem, out);
    return out;
}

static void for_all(void **state, uint64_t salt,
                    void (*property)(struct hlm_arena *, struct problem *, struct hlm_rng *))
{
    const struct fixture *fixture = *state;
    for (uint64_t i = 0; i < (uint64_t)share_of(NUM_CASES); i++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(fixture->arena);
        struct hlm_rng rng = {.key = hlm_rng_bits(fixture->seed, salt * NUM_CASES + i)};
        struct problem problem;
        make(fixture->arena, &rng, &problem);
        property(fixture->arena, &problem, &rng);
        hlm_arena_rewind(fixture->arena, mark);
    }
}

/* bound <= hill climbing <= list scheduling <= textbook, under the textbook's own memory. */
static void ordered(struct hlm_arena *arena, struct problem *problem, struct hlm_rng *rng)
{
    (void)rng;
    const double textbook_s = makespan(arena, problem, problem->textbook);
    const struct hlm_schedule *list = list_of(arena, problem, problem->textbook);
    const struct hlm_schedule *improved = hlm_order_improve(arena, &problem->order, list, 50);
    check_order(arena, problem, improved);
    const double list_s = makespan(arena, problem, list);
    const double improved_s = makespan(arena, problem, improved);
    const double bound_s = hlm_order_bound(&problem->order);
    if (list_s > textbook_s || improved_s > list_s || bound_s > improved_s * (1 + 1e-12)) {
        fail_msg("%s p %d m %d: textbook %.17g, list %.17g, improved %.17g, bound %.17g",
                 hlm_schedule_texts[problem->textbook->kind], problem->textbook->num_ranks,
                 problem->textbook->num_microbatches, textbook_s, list_s, improved_s, bound_s);
    }
}

static void test_ordered(void **state)
{
    for_all(state, 1, ordered);
}

/* Any limits with room for a microbatch have an order, which keeps them; the bound holds for it,
 * and falls when there is more room. */
static void limited(struct hlm_arena *arena, struct problem *problem, struct hlm_rng *rng)
{
    const struct hlm_order_problem *order = &problem->order;
    int64_t limits[MAX_RANKS] = {0}, more[MAX_RANKS];
    for (int32_t stage = 0; stage < order->num_stages; stage++) {
        limits[order->stage_rank[stage]] += order->amounts[stage];
    }
    for (int32_t rank = 0; rank < order->num_ranks; rank++) {
        limits[rank] += hlm_rng_next_int(rng, 0, 6);
        more[rank] = limits[rank] + hlm_rng_next_int(rng, 0, 6);
    }
    problem->order.limits = limits;
    const bool with_textbook = hlm_rng_next_int(rng, 0, 1) == 1;
    const double list_s =
        makespan(arena, problem, list_of(arena, problem, with_textbook ? problem->textbook : NULL));
    const double bound_s = hlm_order_bound(order);
    problem->order.limits = more;
    const double looser_s = hlm_order_bound(order);
    if (bound_s > list_s * (1 + 1e-12) || looser_s > bound_s * (1 + 1e-12)) {
        fail_msg("%s p %d m %d: list %.17g, bound %.17g, with more room %.17g",
                 hlm_schedule_texts[problem->textbook->kind], problem->textbook->num_ranks,
                 problem->textbook->num_microbatches, list_s, bound_s, looser_s);
    }
}

static void test_limited(void **state)
{
    for_all(state, 2, limited);
}

/* Links that need both sides: the list is still no worse than the textbook, the bound still holds.
 */
static void both_sides(struct hlm_arena *arena, struct problem *problem, struct hlm_rng *rng)
{
    problem->costs.needs_both_sides = pipeline_both_sides(arena, MAX_STAGES);
    ordered(arena, problem, rng);
}

static void test_both_sides(void **state)
{
    for_all(state, 3, both_sides);
}

/* The unit of time changes nothing. */
static void scales(struct hlm_arena *arena, struct problem *problem, struct hlm_rng *rng)
{
    (void)rng;
    const double before_s = makespan(arena, problem, list_of(arena, problem, problem->textbook));
    const double bound_s = hlm_order_bound(&problem->order);
    for (int i = 0; i < 6; i++) {
        for (int s = 0; s < MAX_STAGES; s++) {
            problem->seconds[i][s] *= 0x1p-20;
        }
    }
    const double after_s = makespan(arena, problem, list_of(arena, problem, problem->textbook));
    assert_true(after_s == before_s * 0x1p-20);
    assert_true(hlm_order_bound(&problem->order) == bound_s * 0x1p-20);
}

static void test_scales(void **state)
{
    for_all(state, 4, scales);
}

static int setup(void **state)
{
    static const uint64_t usual = 20240607;
    const char *text = getenv("SEED");
    struct fixture *fixture = malloc(sizeof *fixture);
    fixture->arena = hlm_arena_new();
    fixture->seed = text == NULL ? usual : strtoull(text, NULL, 10);
    print_message("SEED=%" PRIu64 "\n", fixture->seed);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    hlm_arena_free(fixture->arena);
    free(fixture);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ordered),
        cmocka_unit_test(test_limited),
        cmocka_unit_test(test_both_sides),
        cmocka_unit_test(test_scales),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
