/* plan: everything that is needed to run, and what was promised of it. The JSON kind "plan".
 *
 * A plan is made by the search, or by hlm_plan_price from a strategy and a placement of layers; the
 * file is all that passes between `hlmplan` and `hlmplan-rank`. `digests` cover model, cluster,
 * strategy and stages, so that `run` notices an edited plan; `estimate` prices an edited plan
 * again.
 */
#ifndef HLM_PLANNER_PLAN_H
#define HLM_PLANNER_PLAN_H

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "costmodel/stage_cost.h"
#include "profiles/cluster.h"
#include "profiles/model.h"
#include "schedule/simulate.h"

/* How many layers of a stage use each mode. The first `full` layers of a stage recompute fully, the
 * next `selective` selectively, the rest not at all. */
struct hlm_plan_recompute {
    int32_t none, selective, full;
};

struct hlm_plan_stage {
    int32_t rank_group; /* pipeline rank that runs it */
    int32_t first_layer, num_layers;
    int32_t device_group; /* index into cluster.groups */
    int32_t tp;
    struct hlm_plan_recompute recompute;
};
extern const struct hlm_json_table hlm_plan_stage_table;

/* A node of the tree of a predicted time; children sum to seconds. At most four levels. */
struct hlm_time_node {
    const char *name;
    double seconds;
    const struct hlm_time_node *parts;
    int32_t num_parts;
};
extern const struct hlm_json_table hlm_time_node_table;

struct hlm_plan_interval {
    double low_s, high_s; /* from the spread of the profile's fits */
};
extern const struct hlm_json_table hlm_plan_interval_table;

/* Whether they overlap. */
static inline bool hlm_plan_intervals_meet(const struct hlm_plan_interval *a,
                                           const struct hlm_plan_interval *b)
{
    return a->low_s <= b->high_s && b->low_s <= a->high_s;
}
extern const struct hlm_json_table hlm_stage_memory_table;

struct hlm_plan_prediction {
    double step_time_s;
    struct hlm_time_node
        parts;  /* name "step"; the rank on the critical path: forward, backward,
                   tensor_parallel, pipeline (bubble, transfer), data_parallel, offload, optimizer */
    double mfu; /* dense peak of dtype; causal attention counted half for decoders */
    double tokens_per_s;
    double cost_per_token; /* currency of price_per_device_hour; 0: no prices */
    /* [num_stages], or with replicas [num_replicas][num_stages], at the moment when the stage's
     * rank holds most. A rank with several stages has the sum of their peaks; what they share
     * (TRANSIENT, FIXED) stands with the first. */
    const struct hlm_stage_memory *memory;
    int32_t num_memory;
    struct hlm_plan_interval interval;
};

#define HLM_PROOF_MAP(X)                                                                           \
    X(OPTIMAL, "optimal")                                                                          \
    X(FEASIBLE, "feasible")                                                                        \
    X(INFEASIBLE, "infeasible")                                                                    \
    X(UNKNOWN, "unknow"                                                                            \
               "n")
enum hlm_proof {
#define X(name, text) HLM_PROOF_##name,
    HLM_PROOF_MAP(X)
#undef X
};
extern const char *const hlm_proof_texts[];

struct hlm_plan_offer;

struct hlm_plan_master {
    enum hlm_proof status;
    double objective_s; /* least proved bound over its columns = best-first answer among strategies
                           whose replicas are alike */
    int32_t num_columns;
};

/* What a search was restricted to. Degrees that are 0 (sp, zero, schedule, recompute: -1) are free;
 * offload -1: none (columns.h says why that is not free). */
struct hlm_search_require {
    int32_t dp, tp, pp, cp, vpp, ep, sp, zero, schedule, recompute, offload;
    int64_t microbatch_size;
};
extern const struct hlm_json_table hlm_search_require_table;

struct hlm_plan_certificate {
    struct hlm_search_require require; /* the columns that it speaks of, */
    bool runnable_only;                /* only those that our executor runs, */
    bool all_groups;                   /* only those that use all device groups */
    double lower_bound_s, gap_frac, max_gap_frac;
    int64_t num_columns, num_pruned_by_bound, num_infeasible, num_ilps, num_simulated;
    int64_t num_bounds; /* computed, of families and of columns, before any ILP */
    int64_t num_nodes;  /* of branch and bound, in all ILPs */
    struct hlm_plan_master master;
    const struct hlm_plan_offer *offer; /* of a plan that was chosen by price: plan_offer.h */
};

struct hlm_plan_runner_up {
    struct hlm_strategy strategy;
    const struct hlm_plan_stage *stages;
    int32_t num_stages;
    double step_time_s;
    struct hlm_plan_interval interval;
    /* The intervals of plan and runner-up overlap: the profile is not precise enough to say which
     * of the two is faster. */
    bool within_uncertainty;
};

struct hlm_plan_digests {
    const char *model, *cluster, *strategy, *stages; /* 16 hex digits each */
};
extern const struct hlm_json_table hlm_plan_digests_table;

struct hlm_plan_meta {
    double search_cpu_s;
    const char *date, *host, *hlmplan_version; /* filled by the CLI */
};
extern const struct hlm_json_table hlm_plan_meta_table;

struct hlm_plan {
    struct hlm_model model;
    struct hlm_cluster cluster;
    struct hlm_strategy strategy;
    const struct hlm_plan_stage *stages;
    int32_t num_stages;
    const int32_t *rank_map; /* [world_size]: device of each rank */
    int32_t num_ranks;
    struct hlm_plan_prediction prediction;
    const struct hlm_plan_certificate *certificate; /* NULL: priced, not searched */
    const struct hlm_plan_runner_up *runners_up;
    int32_t num_runners_up;
    struct hlm_plan_digests digests;
    struct hlm_plan_meta meta;
};
extern const struct hlm_json_table hlm_plan_table;

/* Reads a plan and checks what the table can't: that stages tile the layers, strategy and stages
 * agree, the rank map is a permutation. Does not compare digests, but where strategy or stages were
 * edited so that there are more ranks or fewer, the rank map is made anew. */
HLM_MUST_CHECK enum hlm_status hlm_plan_read(struct hlm_arena *arena, const char *path,
                                             const struct hlm_plan **out, struct hlm_err *err);

/* What hlm_plan_read checks of strategy and stages: their degrees, and that the stages tile the
 * layers. */
HLM_MUST_CHECK enum hlm_status hlm_plan_check_placement(const struct hlm_plan *plan,
                                                        const char *where, struct hlm_err *err);

/* The same of a runner-up, for the plan's model and cluster: hlm_plan_read takes it as it is, so
 * that an edited plan may hold stale ones, but it must be checked before it is priced. */
HLM_MUST_CHECK enum hlm_status hlm_plan_check_runner_up(const struct hlm_plan *plan, int32_t index,
                                                        struct hlm_err *err);

/* hlm_plan_read from a text; `name` is how messages call it. */
HLM_MUST_CHECK enum hlm_status hlm_plan_read_text(struct hlm_arena *arena, const char *name,
                                                  const char *text, size_t length,
                                                  const struct hlm_plan **out, struct hlm_err *err);

/* Hashes of the parts as they stand. */
struct hlm_plan_digests hlm_plan_digests(struct hlm_arena *arena, const struct hlm_plan *plan);

/* HLM_INPUT naming the part that was edited. */
HLM_MUST_CHECK enum hlm_status hlm_plan_check_digests(struct hlm_arena *arena,
                                                      const struct hlm_plan *plan,
                                                      const char *where, struct hlm_err *err);

/* Prices a strategy and a placement: builds the whole plan (prediction, digests, rank map) by the
 * exact simulation. HLM_NO when it does not fit or is not legal: the message says which stage, how
 * many bytes are missing and of which kind most.
 * Unlike replicas (strategy.h): each of replicas[] is simulated on its devices with its
 * microbatches, and must fit them. A reduction waits for all replicas and takes, like all that they
 * do together, as long as on the slowest of them, and all wait for the slowest optimizer; so with
 * end_gs the end of the last backward of stage s on replicas g the step is max_s (max_g end_gs +
 * max_g D_gs) + max_g Y_g + max_gs O_gs, the most of their simulations with these D, Y and O. Parts
 * and simulation are those of the slowest. `out_costs`, `out_result` (may be NULL) hand out
 * what the simulator saw. */
struct hlm_plan_simulation {
    const struct hlm_schedule *schedule; /* lowered */
    struct hlm_sim_costs costs;
    struct hlm_sim_result result;
    const struct hlm_stage_cost *stages; /* [num_stages] */
    int32_t seen_replicas; /* as in the strategy that was simulated; 0: all are alike */
};
HLM_MUST_CHECK enum hlm_status
hlm_plan_price(struct hlm_arena *arena, const struct hlm_model *model,
               const struct hlm_cluster *cluster, const struct hlm_strategy *strategy,
               const struct hlm_plan_stage *stages, int32_t num_stages, const struct hlm_plan **out,
               struct hlm_plan_simulation *out_simulation, struct hlm_err *err);

/* Where the ranks of a strategy stand, if nobody says otherwise: the device of each, in the arena.
 */
const int32_t *hlm_plan_rank_map(struct hlm_arena *arena, const struct hlm_strategy *strategy);

/* HLM_NO: the strategy has more ranks than the cluster has devices. */
HLM_MUST_CHECK enum hlm_status hlm_plan_check_devices(const struct hlm_strategy *strategy,
                                                      const struct hlm_cluster *cluster,
                                                      struct hlm_err *err);

/* Even placement (layers as equal as possible, one fewer where embedding or head weigh more than a
 * layer), with the least recompute that fits: what `estimate --set` uses when no stages are given;
 * recompute < 0: choose. */
HLM_MUST_CHECK enum hlm_status
hlm_plan_even_stages(struct hlm_arena *arena, const struct hlm_model *model,
                     const struct hlm_cluster *cluster, const struct hlm_strategy *strategy,
                     int32_t recompute, const struct hlm_plan_stage **out, int32_t *out_num,
                     struct hlm_err *err);

/* The simulation of a plan that was read from a file, with events; of unlike replicas that of the
 * slowest. */
HLM_MUST_CHECK enum hlm_status hlm_plan_simulate(struct hlm_arena *arena,
                                                 const struct hlm_plan *plan,
                                                 struct hlm_plan_simulation *out,
                                                 struct hlm_err *err);

/* That of a rank's replica, by its dp coordinate. */
HLM_MUST_CHECK enum hlm_status hlm_plan_simulate_replica(struct hlm_arena *arena,
                                                         const struct hlm_plan *plan, int32_t dp,
                                                         struct hlm_plan_simulation *out,
                                                         struct hlm_err *err);

/* The pipeline rank whose gradients are reduced last: it decides when the optimizers start, and the
 * trees of predicted and measured parts are about it. */
int32_t hlm_plan_critical_rank(const struct hlm_plan_simulation *simulation);

/* Copies into the arena what the strategy points to: where its ranks stand, and its replicas. */
void hlm_plan_keep_strategy(struct hlm_arena *arena, struct hlm_strategy *strategy);

/* Another plan for the same cluster as a runner-up to `plan`; its strategy and stages are copied.
 */
struct hlm_plan_runner_up hlm_plan_as_runner_up(struct hlm_arena *arena,
                                                const struct hlm_plan *other,
                                                const struct hlm_plan *plan);

/* The device on which a rank runs. */
const struct hlm_device *hlm_plan_rank_device(const struct hlm_plan *plan, int32_t rank);

/* How many device groups the stages are on; and a plan of this strategy, whose replicas may each be
 * on one of their own. */
int32_t hlm_plan_num_groups(const struct hlm_plan_stage *stages, int32_t num_stages);
int32_t hlm_plan_groups_used(const struct hlm_strategy *strategy,
                             const struct hlm_plan_stage *stages, int32_t num_stages);

/* The predicted peak of a pipeline rank (of the first replicas): the sum over its stages. And that
 * of a rank of the world. */
int64_t hlm_plan_rank_peak_bytes(const struct hlm_plan *plan, int32_t rank);
int64_t hlm_plan_world_rank_peak_bytes(const struct hlm_plan *plan, int32_t world_rank);

/* How many microbatches the ranks of a schedule hold memory for: our executor gives every stage
 * slots of its own for as many as it ever holds, frameworks that allocate as they go only hold what
 * is in use at a time. */
const struct hlm_rank_held *hlm_plan_held(struct hlm_arena *arena,
                                          const struct hlm_strategy *strategy,
                                          const struct hlm_schedule *schedule);

/* Memory of the stages of one rank (see hlm_plan_prediction): fills out[s] of its stages. `pricer`
 * is that of their device group. */
void hlm_plan_rank_memory(const struct hlm_model *model, const struct hlm_pricer *pricer,
                          const struct hlm_plan_stage *stages, int32_t num_stages,
                          const struct hlm_rank_held *held, struct hlm_stage_memory *out);

/* Block kind and recompute mode of a layer of a plan's stage. */
enum hlm_block_kind hlm_plan_layer_kind(const struct hlm_model *model, int32_t layer);
enum hlm_recompute hlm_plan_layer_recompute(const struct hlm_plan_stage *stage, int32_t layer);
/* The shape of a stage, for hlm_stage_cost. */
struct hlm_stage_shape hlm_plan_stage_shape(const struct hlm_model *model,
                                            const struct hlm_plan_stage *stages, int32_t num_stages,
                                            int32_t stage);

#endif
