/* rank_set_internal: what a rank_set holds, between rank_set.c (preparation and rows), rank_load.c,
 * rank_placed.c (what loads take) and rank_caps.c (which can be within a cutoff). */
#ifndef HLM_PLANNER_RANK_SET_INTERNAL_H
#define HLM_PLANNER_RANK_SET_INTERNAL_H

#include "planner/rank_partition_internal.h"
#include "planner/rank_set.h"

/* Rows of hlm_schedule_held that are looked at, those with the most in all. */
enum { HLM_RANK_MAX_HELD = 3 };

/* A rank with what its stages have in common. */
struct hlm_rank_info {
    const struct hlm_rank_held *held;
    int32_t fewest;     /* layers that its stages have at least */
    int32_t most_minor; /* minor layers that can be on one of its stages, see count_minors */
    double base_s[HLM_SIM_NUM_KINDS];
    double least_s[HLM_NUM_LAYER_KINDS][HLM_SIM_NUM_KINDS]; /* of a layer on it */
    int32_t num_held;
    double *microbatches; /* [num_held][num_chunks]: held of each stage, ascending */
    double base_slots[HLM_RANK_MAX_HELD]; /* what is held beside layers, bytes */
    int64_t room_bytes;                   /* limit */
    int64_t base_transient_bytes;
    struct hlm_stage_holding *sums; /* [minor total + 1][most + 1]: least sums over its stages */
    const struct hlm_rank_load **loads;
    const struct hlm_rank_placed **placed; /* [2 loads]: with the fewer layers on the first stage,
                                              with the more */
};

/* A load of two stages with the layers of each known. */
struct hlm_rank_placed {
    const struct hlm_rank_option *options; /* its choices of recompute */
    bool is_exact;                         /* these are all that there are */
    double reduce_s;
};

/* What a layer of a kind adds to a row on one rank and all (rank_caps.c, make_means). */
struct hlm_rank_mean {
    int32_t rank;
    double layer_s;
};
struct hlm_rank_means {
    struct hlm_rank_mean *ranks; /* [num_ranks], least layer_s first */
    double *own_less_s, less_s;  /* [num_ranks] by how much layers on a rank may fall short, sum */
    double most_s, next_s;       /* the most and the next that a minor layer takes off */
    int32_t most_rank;
};

struct hlm_rank_set {
    struct hlm_arena *arena;
    const struct hlm_rank_problem *problem;
    int32_t major, minor; /* kinds */
    int32_t num_major, num_minor, most, num_chunks;
    struct hlm_rank_info *ranks;
    int32_t num_rows, room; /* rows that were read, and those there is room for */
    double *constants;      /* [num_rows] */
    struct hlm_rank_factors factors;
    double *own_sorted,
        *own_placed; /* [room], as the factors: NULL while these are the problem's */
    bool is_placed, is_led_by_minors;
    double *bases; /* [num_rows][num_ranks]: what the rank's stages have without layers, seconds */
    const struct hlm_rank_means **means; /* [num_rows][HLM_NUM_LAYER_KINDS]; NULL: not yet */
    double least_s[HLM_NUM_LAYER_KINDS][HLM_SIM_NUM_KINDS]; /* of a layer on any rank */
    struct hlm_rank_partition partition; /* to place a load in; ends NULL: not yet */
    struct hlm_rank_take *takes;
};

static inline double hlm_larger(double a, double b)
{
    return a > b ? a : b;
}

/* The least that a layer takes in an action, in any mode that is allowed. */
double hlm_rank_least_layer_s(const struct hlm_rank_problem *problem, int32_t stage, int32_t kind,
                              int32_t action);

/* `num_layers` layers are spread over stages with these weights, ascending, as evenly as can be, so
 * that the sum of the weights of `num` of them is least, or largest: that sum. */
double hlm_rank_spread_sum(const double *weights, int32_t num_chunks, int32_t num_layers,
                           int32_t num, bool largest);

/* [num_chunks]: how often a row has an action of the rank's stages, ascending. */
const double *hlm_rank_factors_at(const struct hlm_rank_set *set, int32_t row, int32_t rank,
                                  int32_t action);

/* The same by stage. */
const double *hlm_rank_placed_factors_at(const struct hlm_rank_set *set, int32_t row, int32_t rank,
                                         int32_t action);

/* What the load takes at the least (rank_load.c). */
const struct hlm_rank_load *hlm_rank_load_make(struct hlm_rank_set *set, int32_t rank,
                                               int32_t minor, int32_t major);

/* Whether the load can be placed at all, where loads say how many layers the first stage has. */
bool hlm_rank_load_can_be_placed(const struct hlm_rank_set *set, int32_t rank, int32_t minor,
                                 int32_t major);
const struct hlm_rank_placed *hlm_rank_placed_get(struct hlm_rank_set *set, int32_t rank,
                                                  int32_t minor, int32_t major, int32_t first);
/* The least that the load takes in a row, with one choice of recompute for all actions. */
double hlm_rank_placed_row_s(const struct hlm_rank_set *set, const struct hlm_rank_placed *placed,
                             int32_t row, int32_t rank);

#endif
