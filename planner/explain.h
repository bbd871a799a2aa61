/* explain: why this plan and not another, what limits it, and what would help. The JSON kind
 * "explanation".
 *
 * Every answer is exact within the model: an alternative is the best plan that a search restricted
 * to it finds, a gain is the best plan that a search with changed inputs finds. Nothing is read off
 * duals, which an ILP does not have. The plan itself is priced anew (so an edited plan is explained
 * as it stands), searches use what the plan's certificate was restricted to, and a gap of
 * HLM_EXPLAIN_MAX_GAP_FRAC, so that differences as small as that are real.
 */
#ifndef HLM_PLANNER_EXPLAIN_H
#define HLM_PLANNER_EXPLAIN_H

#include "planner/explain_input.h"
#include "planner/plan.h"
#include "planner/search.h"

#define HLM_EXPLAIN_MAX_GAP_FRAC 1e-3

/* --- why not --- */

/* Difference of two trees of times: children are joined by name and sum to their node in all three
 * numbers (to rounding, 1e-9 of the step). A part that one of the trees lacks is 0 there.
 * delta_s = alternative_s - plan_s. */
struct hlm_explain_delta {
    const char *name;
    double plan_s, alternative_s, delta_s;
    const struct hlm_explain_delta *parts;
    int32_t num_parts;
};

/* A stage of either plan; 0 where a plan has no such stage. By index: with another pp, stage 1 of
 * one plan holds other layers than stage 1 of the other. */
struct hlm_explain_memory {
    int32_t stage;
    int64_t plan_peak_bytes, alternative_peak_bytes;
    int64_t delta_bytes[HLM_NUM_MEMORY_KINDS]; /* alternative - plan */
};

struct hlm_explain_difference {
    struct hlm_strategy strategy; /* of the alternative */
    const struct hlm_plan_stage *stages;
    int32_t num_stages;
    double step_time_s, tokens_per_s;
    double lower_bound_s; /* no plan of this kind is faster; 0: not searched */
    struct hlm_plan_interval interval;
    /* The intervals of both plans overlap: the profile is not precise enough to say which of the
     * two is faster. */
    bool within_uncertainty;
    struct hlm_explain_delta parts; /* name "step" */
    const struct hlm_explain_memory *memory;
    int32_t num_memory;
};

/* A change of one thing that lets an alternative fit. */
struct hlm_explain_change {
    const char *change;   /* a requirement ("pp=16"), or "device_memory=86000000000" */
    double step_time_s;   /* of the best plan after the change */
    int64_t memory_bytes; /* what a device would need; 0: as much as it has */
};

/* The legal strategy that comes closest to fitting when its layers are spread evenly. */
struct hlm_explain_misfit {
    struct hlm_strategy strategy;
    int64_t missing_bytes;
    struct hlm_stage_memory memory; /* of the stage that misses most, with least recompute need */
    enum hlm_memory_kind most;      /* the largest kind there */
    const struct hlm_explain_change *changes; /* fastest plan, that is the cheapest change, first */
    int32_t num_changes;
};

#define HLM_EXPLAIN_VERDICT_MAP(X)                                                                 \
    X(ILLEGAL, "illegal")                                                                          \
    X(DOES_NOT_FIT, "does_not_fit")                                                                \
    X(SAME, "same")     /* it is the plan, */                                                      \
    X(SLOWER, "slower") /* no faster than it, */                                                   \
    X(FASTER, "faster") /* or faster: the plan was restricted, edited, or found with a gap */
enum hlm_explain_verdict {
#define X(name, text) HLM_EXPLAIN_##name,
    HLM_EXPLAIN_VERDICT_MAP(X)
#undef X
};
extern const char *const hlm_explain_verdict_texts[];

struct hlm_explain_alternative {
    const char *asked; /* "tp=4, pp=8", "runner-up 1" */
    enum hlm_explain_verdict verdict;
    const char *rule;                                /* that it breaks; NULL unless ILLEGAL */
    const struct hlm_explain_misfit *misfit;         /* NULL unless DOES_NOT_FIT */
    const struct hlm_explain_difference *difference; /* NULL for these two */
};

/* Why not `asked` instead? What is free in `asked` is free in the alternative, but for what the
 * plan's certificate was restricted to; naming one of dp, tp, pp frees the others of these. Takes
 * one search, and one more for each change that lets a misfit fit. HLM_NO: the question can't be
 * searched (several device groups), or the plan itself is not legal or does not fit. */
HLM_MUST_CHECK enum hlm_status hlm_explain_why_not(struct hlm_arena *arena,
                                                   const struct hlm_plan *plan,
                                                   const struct hlm_search_require *asked,
                                                   struct hlm_explain_alternative *out,
                                                   struct hlm_err *err);

/* Why not the plan's runner-up `index`? A search has found it already; this prices it. */
HLM_MUST_CHECK enum hlm_status hlm_explain_runner_up(struct hlm_arena *arena,
                                                     const struct hlm_plan *plan, int32_t index,
                                                     struct hlm_explain_alternative *out,
                                                     struct hlm_err *err);

/* The difference of two priced plans. */
void hlm_explain_compare(struct hlm_arena *arena, const struct hlm_plan *plan,
                         const struct hlm_plan *alternative, struct hlm_explain_difference *out);

/* The difference of two trees of times; both have the same name. */
struct hlm_explain_delta hlm_explain_subtract(struct hlm_arena *arena,
                                              const struct hlm_time_node *plan,
                                              const struct hlm_time_node *alternative);

/* --- what limits it, what would help --- */

/* What the parts of a step are spent on, and so what could shorten them. */
#define HLM_EXPLAIN_LIMIT_MAP(X)                                                                   \
    X(COMPUTE, "compute")                   /* matrix products, attention */                       \
    X(MEMORY_BANDWIDTH, "memory_bandwidth") /* memory-bound kernels */                             \
    X(MEMORY_CAPACITY, "memory_capacity")   /* recompute and offload: what could not be kept */    \
    X(HOST, "host")                         /* launches */                                         \
    X(TENSOR_PARALLEL, "tensor_parallel")   /* exposed communication of each kind */               \
    X(CONTEXT_PARALLEL, "context_parallel")                                                        \
    X(EXPERT_PARALLEL, "expert_parallel")                                                          \
    X(BUBBLE, "bubble")                                                                            \
    X(TRANSFER, "transfer")                                                                        \
    X(DATA_PARALLEL, "data_parallel")                                                              \
    X(OPTIMIZER, "optimizer") /* update, and with zero the gather of parameters */                 \
    X(OTHER, "other")
enum hlm_explain_limit {
#define X(name, text) HLM_EXPLAIN_LIMIT_##name,
    HLM_EXPLAIN_LIMIT_MAP(X)
#undef X
        HLM_NUM_EXPLAIN_LIMITS
};
extern const char *const hlm_explain_limit_texts[];

struct hlm_explain_share {
    enum hlm_explain_limit limit;
    double seconds, frac; /* of the step; on the rank that ends last */
};

/* Which links a kind of traffic takes. */
#define HLM_EXPLAIN_LINK_MAP(X) X(INTRA_NODE, "intra_node") X(INTER_NODE, "inter_node")
enum hlm_explain_link {
#define X(name, text) HLM_EXPLAIN_LINK_##name,
    HLM_EXPLAIN_LINK_MAP(X)
#undef X
};
extern const char *const hlm_explain_link_texts[];

struct hlm_explain_traffic {
    enum hlm_explain_limit limit; /* tensor_, context_, expert_, data_parallel or transfer */
    enum hlm_explain_link link;   /* inter_node when any of its groups reaches beyond a node */
    int32_t num_ranks, num_nodes; /* of one group */
    double exposed_s;
};

/* What the best plan would reach with one input changed. */
struct hlm_explain_gain {
    enum hlm_explain_input input;
    double factor;
    struct hlm_strategy strategy;
    double step_time_s, tokens_per_s;
    double gain_frac; /* tokens/s over those of the best plan with the inputs as they are, - 1 */
    double most_gain_frac; /* no plan gains more: from the search's lower bound */
    bool same_strategy;    /* as the plan's (global batch apart) */
};

struct hlm_explain_limits {
    const struct hlm_explain_share *shares; /* largest first; their frac sums to 1 */
    int32_t num_shares;
    int32_t last_rank;     /* pipeline rank that ends last */
    int32_t slowest_stage; /* of most forward and backward time per microbatch */
    double slowest_stage_s;
    int32_t fullest_stage; /* of the least memory left, as a share of its device's */
    int64_t headroom_bytes;
    enum hlm_memory_kind most; /* the largest kind there */
    const struct hlm_explain_traffic *traffic;
    int32_t num_traffic;
    /* The best plan with the inputs as they are, which gains are measured against: the plan itself
     * unless a search finds a faster one. */
    double best_step_time_s, best_tokens_per_s;
    const char *not_searched;             /* why gains are not known; NULL: they are */
    const struct hlm_explain_gain *gains; /* without inputs with which nothing fits */
    int32_t num_gains;
};

/* Takes a search for each of the gains. progress may be NULL. HLM_NO: the plan itself is not legal
 * or does not fit. */
HLM_MUST_CHECK enum hlm_status
hlm_explain_limits(struct hlm_arena *arena, const struct hlm_plan *plan,
                   void (*progress)(void *context, double done, double total, const char *detail),
                   void *context, struct hlm_explain_limits *out, struct hlm_err *err);

/* --- the whole answer --- */

struct hlm_explanation {
    const char *model, *cluster; /* names */
    struct hlm_strategy strategy;
    double step_time_s, tokens_per_s;
    struct hlm_plan_interval interval;
    const struct hlm_explain_limits *limits; /* NULL: not asked */
    const struct hlm_explain_alternative *alternatives;
    int32_t num_alternatives;
};
extern const struct hlm_json_table hlm_explanation_table; /* kind "explanation" */

/* The plan as it stands: priced anew, with the certificate and the runners-up that it came with
 * unless it was edited since. */
HLM_MUST_CHECK enum hlm_status hlm_explain_price(struct hlm_arena *arena,
                                                 const struct hlm_plan *plan,
                                                 const struct hlm_plan **out, struct hlm_err *err);

#endif
