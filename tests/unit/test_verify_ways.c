#include "planner/columns_places.h"
#include "planner/verify_ways.h"
#include "tests/support/mixed_problem.h"

/* What the search walks through, counted: those that the verifier lists must be among them, and as
 * many. */
struct walked {
    struct hlm_arena *arena;
    const struct mixed_problem *mixed;
    int32_t replicas, num;
    const struct hlm_rank_place *places[1000];
    int32_t pp[1000];
};

static void walk(void *context, const struct hlm_group_run *runs, int32_t num_runs)
{
    struct walked *walked = context;
    int32_t pp = 0;
    for (int32_t i = 0; i < num_runs; i++) {
        if (walked->mixed->model.num_heads % runs[i].tp != 0) {
            return;
        }
        pp += runs[i].pp;
    }
    if (walked->mixed->model.tied_embeddings && runs[0].tp != runs[num_runs - 1].tp) {
        return;
    }
    walked->pp[walked->num] = pp;
    walked->places[walked->num++] = hlm_columns_places(walked->arena, &walked->mixed->cluster,
                                                       walked->replicas, runs, num_runs);
}

static bool same_places(const struct hlm_rank_place *a, const struct hlm_rank_place *b, int32_t pp)
{
    for (int32_t i = 0; a != NULL && b != NULL && i < pp; i++) {
        if (a[i].tp != b[i].tp || a[i].first_rank != b[i].first_rank ||
            a[i].first_device != b[i].first_device) {
            return false;
        }
    }
    return (a == NULL) == (b == NULL);
}

static void ways_are_those_of_the_search(void **state)
{
    (void)state;
    static const int32_t devices[] = {4, 6, 2};
    for (int32_t tied = 0; tied < 2; tied++) {
        for (int32_t replicas = 1; replicas <= 6; replicas++) {
            struct hlm_arena *arena = hlm_arena_new();
            struct mixed_problem mixed;
            mixed_problem_init(arena, &mixed, 3, devices, 8, 8);
            mixed.model.tied_embeddings = tied == 1;
            struct walked walked = {.arena = arena, .mixed = &mixed, .replicas = replicas};
            hlm_columns_each_way(&mixed.cluster, replicas, 10, walk, &walked);
            const struct hlm_verify_way *ways = NULL;
            int32_t num_ways = 0, num = 0;
            hlm_verify_ways(arena, &mixed.cluster, &mixed.model, replicas, &ways, &num_ways);
            for (int32_t i = 0; i < num_ways; i++) {
                for (int32_t o = 0; o < ways[i].num_orders; o++, num++) {
                    bool found = false;
                    for (int32_t w = 0; w < walked.num; w++) {
                        found =
                            found || (walked.pp[w] == ways[i].pp &&
                                      same_places(walked.places[w], ways[i].orders[o], ways[i].pp));
                    }
                    assert_true(found);
                }
            }
            assert_int_equal(num, walked.num);
            assert_true(replicas > 2 || num > 10);
            hlm_arena_free(arena);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ways_are_those_of_the_search)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
