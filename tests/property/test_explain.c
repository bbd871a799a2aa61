/* What must hold for every explanation: differences sum to the whole, and a better input never
 * makes the best plan slower. Random small problems over the built-in devices, seeded; optima are
 * proved, so nothing here depends on how well a search went. */
#include "planner/explain.h"
#include "tests/support/placement.h"
#include "tests/support/share.h"
#include "tests/support/small_problem.h"

enum { NUM_PROBLEMS = 60, NUM_PAIRS = 200 };

static const char *const clusters[] = {"v100-sxm2-32g:1x4", "v100-sxm2-32g:2x2", "a100-sxm-80g:2x4",
                                       "a100-sxm-40g:1x8",  "h100-sxm-80g:1x4",  "h100-sxm-80g:2x2",
                                       "h200-sxm-141g:2x2"};
enum { NUM_CLUSTERS = sizeof(clusters) / sizeof(clusters[0]) };

struct random_problem {
    struct hlm_model model;
    struct hlm_cluster cluster;
    struct hlm_device_group group;
    struct hlm_search_problem problem;
};

/* Three of four are short of memory: they have a part of what the best plan with plenty takes. */
static void shorten_memory(struct hlm_arena *arena, struct hlm_rng *rng,
                           struct random_problem *random)
{
    const struct hlm_plan *plan = NULL;
    struct hlm_err unused;
    struct hlm_search_problem problem = random->problem;
    problem.max_gap_frac = 0.05;
    if (hlm_rng_next_int(rng, 0, 3) > 0 &&
        hlm_search(arena, &problem, NULL, NULL, &plan, &unused) == HLM_OK) {
        int64_t most_bytes = 0;
        for (int32_t s = 0; s < plan->num_stages; s++) {
            const int64_t peak_bytes = plan->prediction.memory[s].peak_bytes;
            most_bytes = peak_bytes > most_bytes ? peak_bytes : most_bytes;
        }
        random->group.device.memory_bytes = hlm_rng_next_int(rng, most_bytes / 3, most_bytes);
    }
}

/* The links of a quarter of the problems wait for both sides. */
static void random_problem_init(struct hlm_arena *arena, struct hlm_rng *rng,
                                struct random_problem *out)
{
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    const struct hlm_cluster *cluster = NULL;
    check_ok(hlm_model_load(arena, hlm_rng_next_int(rng, 0, 1) == 0 ? "gpt2-small" : "llama2-7b",
                            &model, &err),
             &err);
    check_ok(hlm_cluster_load(arena, clusters[hlm_rng_next_int(rng, 0, NUM_CLUSTERS - 1)], &cluster,
                              &err),
             &err);
    out->model = *model;
    out->model.num_layers = (int32_t)hlm_rng_next_int(rng, 1, 6);
    out->cluster = *cluster;
    out->group = cluster->groups[0];
    out->group.device.fixed_memory_bytes = 64LL << 20;
    out->group.intra_node.needs_both_sides = hlm_rng_next_int(rng, 0, 3) == 0;
    out->cluster.groups = &out->group;
    out->problem = (struct hlm_search_problem){
        .model = &out->model,
        .cluster = &out->cluster,
        .global_batch_size = 8 * hlm_rng_next_int(rng, 1, 6),
        .seq_len = 256 * hlm_rng_next_int(rng, 1, 4),
        .dtype = HLM_DTYPE_FP16,
        .lowering = HLM_LOWERING_HLMPLAN,
        .require = {.sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1},
        .max_gap_frac = 0};
    shorten_memory(arena, rng, out);
}

/* NULL: nothing fits, or the optimum could not be proved. */
static const struct hlm_plan *optimum(struct hlm_arena *arena,
                                      const struct hlm_search_problem *problem)
{
    const struct hlm_plan *plan = NULL;
    struct hlm_err err;
    const enum hlm_status status = hlm_search(arena, problem, NULL, NULL, &plan, &err);
    if (status != HLM_OK) {
        assert_int_equal(status, HLM_NO);
        return NULL;
    }
    return plan->certificate->gap_frac <= 1e-8 ? plan : NULL;
}

static void better_inputs_are_never_slower(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(20240607)};
    int32_t num_checked = 0, num_faster[HLM_NUM_EXPLAIN_INPUTS] = {0};
    for (int i = 0; i < share_of(NUM_PROBLEMS); i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct random_problem random;
        random_problem_init(arena, &rng, &random);
        const struct hlm_plan *plan = optimum(arena, &random.problem);
        for (int input = 0; plan != NULL && input < HLM_EXPLAIN_INPUT_GLOBAL_BATCH; input++) {
            struct hlm_search_problem better = random.problem;
            const double by = 1.0 + 2.0 * hlm_rng_next_uniform(&rng);
            const double factor = input == HLM_EXPLAIN_INPUT_LATENCY ? 1.0 / by : by;
            hlm_explain_input_scale(arena, &better, (enum hlm_explain_input)input, factor);
            const struct hlm_plan *improved = optimum(arena, &better);
            if (improved == NULL) {
                continue;
            }
            const double before_s = plan->prediction.step_time_s;
            const double after_s = improved->prediction.step_time_s;
            if (after_s > before_s * (1 + 1e-7)) {
                fail_msg("problem %d: %s x %g makes the best step %.9g s instead of %.9g s", i,
                         hlm_explain_input_texts[input], factor, after_s, before_s);
            }
            num_faster[input] += after_s < before_s * (1 - 1e-6) ? 1 : 0;
            num_checked++;
        }
        hlm_arena_free(arena);
    }
    print_message("%d optima compared\n", num_checked);
    assert_true(num_checked > 2 * share_of(NUM_PROBLEMS));
    for (int input = 0; input < HLM_EXPLAIN_INPUT_GLOBAL_BATCH; input++) {
        print_message("%s: faster in %d\n", hlm_explain_input_texts[input], num_faster[input]);
        assert_true(num_faster[input] > 0 || !share_is_whole());
    }
}

/* --- differences --- */

static void check_sums(const struct hlm_explain_delta *delta, double step_s)
{
    double plan_s = 0.0, alternative_s = 0.0, delta_s = 0.0;
    check_near(delta->delta_s, delta->alternative_s - delta->plan_s, 1e-12 * step_s);
    for (int32_t i = 0; i < delta->num_parts; i++) {
        plan_s += delta->parts[i].plan_s;
        alternative_s += delta->parts[i].alternative_s;
        delta_s += delta->parts[i].delta_s;
        check_sums(&delta->parts[i], step_s);
    }
    if (delta->num_parts > 0) {
        check_near(plan_s, delta->plan_s, 1e-9 * step_s);
        check_near(alternative_s, delta->alternative_s, 1e-9 * step_s);
        check_near(delta_s, delta->delta_s, 1e-9 * step_s);
    }
}

/* A random choice of degrees, or what the search leaves free. */
static struct hlm_search_require random_require(struct hlm_rng *rng)
{
    static const int32_t degrees[] = {0, 1, 2, 4};
    return (struct hlm_search_require){.tp = degrees[hlm_rng_next_int(rng, 0, 3)],
                                       .pp = degrees[hlm_rng_next_int(rng, 0, 3)],
                                       .sp = -1,
                                       .zero = (int32_t)hlm_rng_next_int(rng, -1, 1),
                                       .schedule = (int32_t)hlm_rng_next_int(rng, -1, 1),
                                       .recompute = (int32_t)hlm_rng_next_int(rng, -1, 2),
                                       .offload = -1};
}

static void differences_sum_to_the_whole(void **state)
{
    (void)state;
    struct hlm_rng rng = {.key = placement_seed(99)};
    int32_t num_differences = 0, num_misfits = 0, num_illegal = 0;
    for (int i = 0; i < share_of(NUM_PAIRS); i++) {
        struct hlm_arena *arena = hlm_arena_new();
        struct random_problem random;
        const struct hlm_plan *plan = NULL;
        struct hlm_err err;
        random_problem_init(arena, &rng, &random);
        random.problem.max_gap_frac = 0.01;
        const struct hlm_search_require asked = random_require(&rng);
        if (hlm_search(arena, &random.problem, NULL, NULL, &plan, &err) == HLM_OK) {
            struct hlm_explain_alternative alternative;
            check_ok(hlm_explain_why_not(arena, plan, &asked, &alternative, &err), &err);
            if (alternative.difference != NULL) {
                const struct hlm_explain_difference *difference = alternative.difference;
                check_sums(&difference->parts, plan->prediction.step_time_s);
                check_near(difference->parts.delta_s,
                           difference->step_time_s - plan->prediction.step_time_s,
                           1e-9 * plan->prediction.step_time_s);
                assert_true(difference->step_time_s >=
                            plan->certificate->lower_bound_s * (1 - 1e-9));
                num_differences++;
            }
            num_misfits += alternative.verdict == HLM_EXPLAIN_DOES_NOT_FIT ? 1 : 0;
            num_illegal += alternative.verdict == HLM_EXPLAIN_ILLEGAL ? 1 : 0;
        }
        hlm_arena_free(arena);
    }
    print_message("%d differences, %d misfits, %d illegal\n", num_differences, num_misfits,
                  num_illegal);
    assert_true(num_differences > share_of(NUM_PAIRS) / 5);
    assert_true((num_misfits > 0 && num_illegal > 0) || !share_is_whole());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(better_inputs_are_never_slower),
        cmocka_unit_test(differences_sum_to_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
