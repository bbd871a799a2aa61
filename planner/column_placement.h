/* column_placement: from a strategy column to its placement problem (stage_pattern.h for gpipe and
 * 1f1b, rank_set.h for all other schedules), and back to the stages of a plan.
 *
 * Prices of blocks depend on few of a column's degrees, so pricers are shared: by device group, tp,
 * cp, microbatch_size, sp, ep, etp, whether the backward is split, whether first and last stage are
 * on different ranks, and how the tp, cp and ep groups lie on the nodes; from ZeRO-2 on also by the
 * replicas. So are schedules with their orders, by kind, pp, vpp and microbatches.
 */
#ifndef HLM_PLANNER_COLUMN_PLACEMENT_H
#define HLM_PLANNER_COLUMN_PLACEMENT_H

#include "planner/plan.h"
#include "planner/rank_partition.h"
#include "planner/search.h"
#include "planner/stage_pattern.h"

struct hlm_pricer_cache;
struct hlm_pricer_cache *hlm_pricer_cache_new(struct hlm_arena *arena,
                                              const struct hlm_search_problem *problem);

/* The layer that a floor looked at, with the prices of its kernels: floors that are asked for one
 * after the other, of strategies that differ in dp and pp alone, share it. To be released. */
struct hlm_layer_memo;
struct hlm_layer_memo *hlm_layer_memo_new(struct hlm_arena *arena);
void hlm_layer_memo_release(struct hlm_layer_memo *memo);

/* The same bound as hlm_family_bound from the layers of the frequent kind alone, of which some rank
 * has ceil(count / pp), without recompute, which only adds work: cheaper, as nothing else is
 * priced. HLM_NO: the cost model refuses it. */
HLM_MUST_CHECK enum hlm_status hlm_family_floor(struct hlm_pricer_cache *cache,
                                                struct hlm_layer_memo *memo,
                                                const struct hlm_strategy *strategy, double *out_s,
                                                struct hlm_err *err);

/* The least step of any column that differs from the strategy in schedule, vpp and zero only.
 * With W the least seconds of a microbatch in all layers, embedding and head (a backward in halves
 * where those take less): some rank has W / pp of it, and some rank ceil(L / pp) layers, for every
 * microbatch; one microbatch goes through all. ZeRO only adds communication to passes. HLM_NO: the
 * cost model refuses it. Over several device groups in any order: some rank takes T, where within
 * less all ranks together take less than the work, or fewer than all layers, at their fastest. */
HLM_MUST_CHECK enum hlm_status hlm_family_bound(struct hlm_pricer_cache *cache,
                                                const struct hlm_strategy *strategy, double *out_s,
                                                struct hlm_err *err);

/* A column with what it costs. `pricer` is its own copy: strategy points to `strategy`, or on mixed
 * clusters to the strategy as rank 0 sees it; `pricers` likewise by pipeline rank. */
struct hlm_column {
    struct hlm_strategy strategy;
    struct hlm_pricer pricer;                /* of pipeline rank 0 */
    const struct hlm_pricer *const *pricers; /* [pp]; one group: all are `pricer` */
    bool is_mixed;                           /* its ranks are not all alike */
    bool is_ranked;                          /* its problem is `ranks`, not `placement` */
    struct hlm_placement placement;
    struct hlm_rank_problem ranks;
    bool *both_sides; /* [pp * vpp] */
};

static inline int32_t hlm_column_num_stages(const struct hlm_column *column)
{
    return column->strategy.pp * column->strategy.vpp;
}

/* The times of a column, without anything about memory: enough for hlm_bound_closed_form of gpipe
 * and 1f1b (hold, slot and static bytes are not set). HLM_NO: the cost model refuses it. */
HLM_MUST_CHECK enum hlm_status hlm_column_init(struct hlm_arena *arena,
                                               struct hlm_pricer_cache *cache,
                                               const struct hlm_strategy *strategy,
                                               struct hlm_column *out, struct hlm_err *err);

/* False: parameters, gradients and optimizer states of the whole model need more than all ranks of
 * a pipeline have, so that no partition fits. */
bool hlm_column_may_fit(const struct hlm_column *column);

/* The least step of a ranked column by what all ranks of a pipeline have together. A layer's slots
 * are held for h microbatches at least, on the mean of the stages of its rank: h * sum of slots +
 * static bytes <= pp * limit, but for what uneven remainders may save. The layers that have to
 * recompute for that, fractions of them counted, each where most microbatches are held, add to the
 * work, whose step ramp.h bounds. INFINITY: nothing fits. Of a mixed column:
 * hlm_column_capacity_bound. */
double hlm_column_memory_bound(struct hlm_pricer_cache *cache, const struct hlm_column *column);

/* The least step of a mixed column of any schedule, by what each rank can take: within T seconds of
 * a microbatch a rank takes so many layers at their fastest, and no more than their states and
 * least slots fit; some rank takes T, where all ranks together take fewer than all layers in less,
 * for every microbatch. Layers of two kinds: the least of both. INFINITY: nothing fits. */
double hlm_column_capacity_bound(struct hlm_pricer_cache *cache, const struct hlm_column *column);

/* Adds memory, reductions and optimizer times (and of a ranked column everything), so that patterns
 * can be made. `column` must not move. */
void hlm_column_complete(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                         struct hlm_column *column);

/* Gives a ranked column, which is completed with the rows that its schedule's ramps make, those of
 * its longest paths: more of them, nearer to a simulation, and dear to find. */
void hlm_column_take_paths(struct hlm_pricer_cache *cache, struct hlm_column *column);

/* The stages of a plan that gives [ends[s-1], ends[s]) to stage s, each with the recompute of its
 * pattern (which must exist); and those of a ranked column's partition. */
const struct hlm_plan_stage *hlm_column_stages(struct hlm_arena *arena, struct hlm_pattern_set *set,
                                               const struct hlm_column *column,
                                               const int32_t *ends);
const struct hlm_plan_stage *hlm_column_ranked_stages(struct hlm_arena *arena,
                                                      const struct hlm_column *column,
                                                      const struct hlm_rank_partition *partition);

/* The simulated step of these stages of a column that is not ranked: the same bits as
 * hlm_plan_price. */
double hlm_column_simulate(struct hlm_arena *scratch, const struct hlm_column *column,
                           const struct hlm_plan_stage *stages);

/* How far the column is from fitting: the largest excess of any rank when layers are spread
 * evenly, all stages of a rank in the recompute mode (of those allowed) that takes the least. <= 0:
 * it fits. */
struct hlm_column_excess {
    int64_t bytes;
    struct hlm_stage_memory memory; /* of that rank; its first stage */
};
struct hlm_column_excess hlm_column_find_excess(struct hlm_pricer_cache *cache,
                                                const struct hlm_column *column);

#endif
