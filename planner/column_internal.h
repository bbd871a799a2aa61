/* column_internal: what the files behind column_placement.h share.
 *
 *   column_cache      pricers, schedules and their paths that many columns have in common
 *   column_family     floors and bounds of whole families
 *   column_placement  the times of a column, and its completion
 *   column_memory     what its stages hold
 *   column_ranks      the problem of a column whose schedule is bounded by paths
 *   column_bound      bounds by what all ranks of a pipeline have together
 *   column_stages     back to the stages of a plan
 */
#ifndef HLM_PLANNER_COLUMN_INTERNAL_H
#define HLM_PLANNER_COLUMN_INTERNAL_H

#include "planner/column_placement.h"
#include "planner/columns_places.h"

/* The block that a layer of each kind is. */
static const enum hlm_block_kind hlm_layer_blocks[HLM_NUM_LAYER_KINDS] = {HLM_BLOCK_DENSE,
                                                                          HLM_BLOCK_MOE};

/* --- column_cache.c --- */

struct hlm_cache_tables;
struct hlm_pricer_cache {
    struct hlm_arena *arena;
    const struct hlm_search_problem *problem;
    const uint8_t *layer_kinds; /* [num_layers]: index into hlm_layer_blocks */
    struct hlm_cache_tables *tables;
};

/* All that it gives out lives as long as the cache. */
struct hlm_cached_pricer {
    const struct hlm_pricer *pricer; /* NULL: the cost model refuses */
    const struct hlm_err *why;       /* then the reason */
};
struct hlm_cached_schedule {
    const struct hlm_sim_order *order;
    const struct hlm_rank_held *held; /* [pp] */
    /* Microbatches held of a layer: the least of any rank on the mean of its stages, the most of
     * any stage, and how many layers' worth ranks may fall short of the mean in all. */
    double mean_held, most_held, short_held;
};

/* Prices of all blocks. `strategy` as pipeline rank pp sees it, the first of those that are alike.
 */
const struct hlm_cached_pricer *hlm_cache_pricer(struct hlm_pricer_cache *cache,
                                                 const struct hlm_strategy *strategy, int32_t pp);

/* The least seconds of a layer of this kind on pipeline rank 0. HLM_NO: the cost model refuses (err
 * is set the first time that it is asked). memo: column_placement.h. */
enum hlm_status hlm_cache_least_s(struct hlm_pricer_cache *cache, struct hlm_layer_memo *memo,
                                  const struct hlm_strategy *strategy, int32_t kind, double *out_s,
                                  struct hlm_err *err);

const struct hlm_cached_schedule *hlm_cache_schedule(struct hlm_pricer_cache *cache,
                                                     const struct hlm_strategy *strategy);

/* Rows of paths, with what problems share of them. */
struct hlm_cached_rows {
    const struct hlm_path_row *rows;
    int32_t num_rows;
    const struct hlm_rank_factors *factors;
};

/* The rows that the schedule's ramps make: one per rank. */
const struct hlm_cached_rows *hlm_cache_ramp_rows(struct hlm_pricer_cache *cache,
                                                  const struct hlm_strategy *strategy);

/* The rows of a schedule whose stages take seconds[kind of action] and transfers transfer_s, all to
 * the steps of their ratio to the forward (a doubling): hlm_sim_num_path_rows. */
const struct hlm_cached_rows *hlm_cache_path_rows(struct hlm_pricer_cache *cache,
                                                  const struct hlm_strategy *strategy,
                                                  const double seconds[HLM_SIM_NUM_KINDS],
                                                  double transfer_s);

/* --- column_family.c --- */

/* Pipeline ranks in a row that are alike. */
struct hlm_column_run {
    int32_t first, num;
    struct hlm_strategy seen; /* the strategy as they see it */
    const struct hlm_cached_pricer *cached;
};

/* Returns how many runs there are. */
int32_t hlm_column_runs(struct hlm_pricer_cache *cache, const struct hlm_strategy *strategy,
                        struct hlm_column_run runs[HLM_MAX_MIXED_GROUPS]);

/* Least seconds of a microbatch in a block, of the allowed modes: its work (F and B, or I and W
 * where these take less), and its way down and up (F and B, or I, behind which W need not be waited
 * for). */
struct hlm_least_block {
    double work_s, way_s;
};
struct hlm_least_block hlm_least_block_of(const struct hlm_pricer_cache *cache,
                                          const struct hlm_pricer *pricer, enum hlm_block_kind kind,
                                          bool is_layer);

/* Layers that `num` ranks take within so many seconds, each layer_s; a hair more, as sums in
 * another order may be a hair less. */
double hlm_layers_within(double num, double layer_s, double seconds);

/* --- column_placement.c --- */

static inline const struct hlm_pricer *hlm_column_stage_pricer(const struct hlm_column *column,
                                                               int32_t stage)
{
    return column->pricers[hlm_layout_stage_rank(&column->strategy, stage)];
}

/* transfer_s and column->both_sides: [num_stages], of the boundary behind each stage. */
void hlm_column_fill_transfers(const struct hlm_column *column, double *transfer_s);

/* --- column_memory.c --- */

/* A stage without layers, with the ends of the model that are its. */
struct hlm_stage_shape hlm_column_empty_shape(const struct hlm_strategy *strategy, int32_t stage);

/* What every stage needs for a moment beside its blocks: that of one with no block at all. */
int64_t hlm_column_boundary_bytes(const struct hlm_pricer *pricer);

/* Memory of a stage of gpipe and 1f1b. */
void hlm_column_fill_memory(const struct hlm_pricer *pricer, int32_t stage,
                            struct hlm_stage_prices *prices);

/* Context of hlm_column_hold, the `hold` of a placement or rank problem: costs of the stages that
 * are alike by counts of layers, made when asked for. `column` must not move. */
struct hlm_column_holding;
struct hlm_column_holding *hlm_column_holding_new(struct hlm_arena *arena,
                                                  const struct hlm_column *column);
void hlm_column_hold(const void *context, int32_t stage, const int32_t counts[HLM_NUM_LAYER_KINDS],
                     struct hlm_stage_holding *out);

/* --- column_ranks.c --- */

/* Fills column->ranks, with the rows of the ramps. */
void hlm_column_complete_ranks(struct hlm_arena *arena, struct hlm_pricer_cache *cache,
                               struct hlm_column *column);

#endif
