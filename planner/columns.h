/* columns: all legal ways to train, apart from the placement of layers.
 *
 * A strategy column is (dp, tp, pp, cp, vpp, microbatch_size, schedule, zero, sp, ep) with dp * tp
 * * pp * cp = devices of the cluster, any divisors, not powers of two only; tp may reach beyond a
 * node. It is legal when hlm_strategy_check takes it and the schedule exists for its microbatches
 * (and, where asked, the executor runs it). Left out, as nothing is lost:
 *   all schedules but 1f1b with pp = 1
 *       a rank with the whole model does the same work in any order, holds no fewer activations,
 *       and halves of a backward take no less than a whole one
 *   zero > 0 with dp * cp = 1, sp with tp = 1, ep > 1 without experts
 *       the same as without
 * All others are listed and counted, however hopeless: the certificate is about them all.
 *
 * What goes to the host's memory is one choice for all columns: none, unless an offload is
 * required. Free, it would multiply them by six to list mostly what is slower than without, since
 * offload only adds time; where nothing fits without it, the message says with which offload a plan
 * would.
 *
 * Over several device groups (at most HLM_MAX_MIXED_GROUPS) a column also says which of them the
 * pipeline goes through, in which order and with which tp on each (columns_places.h); strategy.tp
 * is the largest tp, and what is required of tp is required of that. Groups that it does not go
 * through stay idle. Through more than one group tp stays within a node, and ranks have one model
 * chunk (gpipe, 1f1b, 1f1b-overlap, zb-h1, zb-h2); through one group all is as on a cluster of that
 * group.
 *
 * Replicas that are not alike, each on a device group of its own, are listed in share_columns.h.
 *
 * They come in families: columns that differ only in zero, schedule, vpp and the order of device
 * groups. A family has one price list for all that 0/1 ZeRO stages do (column_placement.h), so one
 * bound leaves most of them unlisted.
 */
#ifndef HLM_PLANNER_COLUMNS_H
#define HLM_PLANNER_COLUMNS_H

#include "planner/search.h"

struct hlm_column_family {
    struct hlm_strategy
        strategy;        /* with zero 0 and 1f1b, whether that is legal and wanted or not */
    int64_t num_members; /* > 0 */
    /* Over several device groups: the places of every order of the groups (strategy has the first
     * of them); 0 over one. */
    const struct hlm_column_order *orders;
    int32_t num_orders;
};

/* Of all columns. */
static inline enum hlm_offload hlm_columns_offload(const struct hlm_search_require *require)
{
    return require->offload < 0 ? HLM_OFFLOAD_NONE : (enum hlm_offload)require->offload;
}

struct hlm_column_order {
    const struct hlm_rank_place *places; /* NULL: as without (columns_places.h) */
    bool is_mixed;                       /* through more than one group */
};

/* In ascending order of tp, pp, cp, microbatch_size, sp, ep. HLM_NO: there is none; the message is
 * that of the rule that the last candidate broke. */
HLM_MUST_CHECK enum hlm_status hlm_columns_families(struct hlm_arena *arena,
                                                    const struct hlm_search_problem *problem,
                                                    const struct hlm_column_family **out,
                                                    int32_t *out_num, struct hlm_err *err);

/* The columns of a family, in ascending order of the order of groups, zero, schedule, vpp: as many
 * as num_members. */
const struct hlm_strategy *hlm_columns_members(struct hlm_arena *arena,
                                               const struct hlm_search_problem *problem,
                                               const struct hlm_column_family *family);

/* All of them, family by family; errors as hlm_columns_families. */
HLM_MUST_CHECK enum hlm_status hlm_columns_list(struct hlm_arena *arena,
                                                const struct hlm_search_problem *problem,
                                                const struct hlm_strategy **out, int32_t *out_num,
                                                struct hlm_err *err);

#endif
