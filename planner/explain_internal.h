/* explain_internal: what the files of explain share. */
#ifndef HLM_PLANNER_EXPLAIN_INTERNAL_H
#define HLM_PLANNER_EXPLAIN_INTERNAL_H

#include "planner/explain.h"

/* --- explain_require.c: requirements by key --- */

#define HLM_EXPLAIN_KEY_MAP(X)                                                                     \
    X(DP, dp, 0)                                                                                   \
    X(TP, tp, 0)                                                                                   \
    X(PP, pp, 0)                                                                                   \
    X(CP, cp, 0)                                                                                   \
    X(VPP, vpp, 0)                                                                                 \
    X(EP, ep, 0)                                                                                   \
    X(SP, sp, -1)                                                                                  \
    X(ZERO, zero, -1)                                                                              \
    X(SCHEDULE, schedule, -1)                                                                      \
    X(RECOMPUTE, recompute, -1)                                                                    \
    X(MICROBATCH_SIZE, microbatch_size, 0)                                                         \
    X(OFFLOAD, offload, -1)
enum hlm_explain_key {
#define X(name, member, free_value) HLM_EXPLAIN_KEY_##name,
    HLM_EXPLAIN_KEY_MAP(X)
#undef X
        HLM_NUM_EXPLAIN_KEYS
};

/* Whether the key is required at all, its value, and setting it. */
bool hlm_explain_requires(const struct hlm_search_require *require, enum hlm_explain_key key);
int64_t hlm_explain_required(const struct hlm_search_require *require, enum hlm_explain_key key);
void hlm_explain_require(struct hlm_search_require *require, enum hlm_explain_key key,
                         int64_t value);
void hlm_explain_free_key(struct hlm_search_require *require, enum hlm_explain_key key);

/* "tp=4", "schedule=1f1b"; and all that is required: "tp=4, pp=8". */
const char *hlm_explain_key_text(struct hlm_arena *arena, enum hlm_explain_key key, int64_t value);
const char *hlm_explain_require_text(struct hlm_arena *arena,
                                     const struct hlm_search_require *require);

/* What the plan was restricted to, and what is asked in its place: see hlm_explain_why_not. */
struct hlm_search_require hlm_explain_merge(const struct hlm_search_require *own,
                                            const struct hlm_search_require *asked);

/* --- explain.c --- */

/* The problem that the plan answers, with what it was restricted to. */
struct hlm_search_problem hlm_explain_problem(const struct hlm_plan *plan);

/* The same degrees and switches; the batch may differ. */
bool hlm_explain_same_strategy(const struct hlm_strategy *a, const struct hlm_strategy *b);

/* --- explain_misfit.c --- */

/* The rule because of which no strategy is legal, and what is legal instead. `listed`: the message of hlm_columns_list, for
 * rules that are about no single strategy. */
const char *hlm_explain_rule(struct hlm_arena *arena, const struct hlm_plan *plan,
                             const struct hlm_search_problem *problem, const char *listed);

/* Why none of these legal strategies fits, and what would help. `asked`: what may be changed. */
const struct hlm_explain_misfit *hlm_explain_misfit_new(struct hlm_arena *arena,
                                                        const struct hlm_search_problem *problem,
                                                        const struct hlm_search_require *asked,
                                                        const struct hlm_strategy *strategies,
                                                        int32_t num_strategies);

/* Step time of the best plan; INFINITY: there is none. */
double hlm_explain_best_step_s(const struct hlm_search_problem *problem);

#endif
