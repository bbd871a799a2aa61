/* rank_set: the placement problem of schedules that are bounded by paths, looked at rank by rank.
 *
 * gpipe and 1f1b have bounds of their own (bound.h). All others are bounded by the path rows of
 * schedule/simulate_paths.h: a step is at least
 *
 *     sum_{stage, kind of action} a_k[stage][kind] * seconds + transfers + reductions + sync
 *         + max O
 *
 * for each row k, whatever the partition. A rank may own several stages, whose memory is one; their
 * numbers of layers differ by one at most (as frameworks have it; layers that are heaped on one
 * stage of a rank lengthen the way through the pipeline). What is placed here is layers on ranks: a
 * load (d, e) of a rank is so many layers of either kind, wherever they stand among its stages. Of
 * a rank with two stages a load may also say how many layers stand on the first (even numbers leave
 * one or two possibilities), and then which these are: where the d layers of one kind come before
 * all others and are fewer than ranks, stages 1 .. p-1 have at least one layer each, so these d
 * stand on first stages of ranks, in front of the others there. Of such a load the memory is exact,
 * and so is what it takes in a row: the least over its choices of recompute. What follows for all
 * others is a relaxation, so a bound of it is a bound of every partition:
 *
 *   order     which layers a rank takes is left open, their number is not; a stage has only those
 *             that leave enough for the stages in front and behind
 *   a_k       each kind's layers stand on the stages where a_k is smallest, as far as even numbers
 *             of layers allow; what recompute adds counts by the smallest a_k of the rank
 *   memory    of the rows h of hlm_schedule_held three; in each, layers stand where h is smallest
 *             and those that recompute where it is largest
 *   recompute the least backward that this memory allows, of B and of I each by itself
 *   reduction, optimizer, static bytes: the least sum over the stages of the rank, each by itself
 */
#ifndef HLM_PLANNER_RANK_SET_H
#define HLM_PLANNER_RANK_SET_H

#include "planner/stage_pattern.h"
#include "schedule/simulate_paths.h"

/* Seconds and bytes of one layer on a stage by kind, recompute mode and kind of action; `base` is
 * what the stage has without any layer, as in hlm_stage_prices. */
struct hlm_rank_stage {
    double layer_s[HLM_NUM_LAYER_KINDS][HLM_NUM_RECOMPUTES][HLM_SIM_NUM_KINDS];
    int64_t slot_bytes[HLM_NUM_LAYER_KINDS][HLM_NUM_RECOMPUTES];
    int64_t transient_bytes[HLM_NUM_LAYER_KINDS][HLM_NUM_RECOMPUTES];
    double base_s[HLM_SIM_NUM_KINDS];
    int64_t base_slot_bytes, base_transient_bytes;
    int64_t limit_bytes; /* of its rank, less what every rank needs */
    bool may_be_empty;
};

/* How often each row has the actions of a rank's stages: [num_rows][num_ranks][HLM_SIM_NUM_KINDS]
 * [num_chunks], `sorted` ascending, `placed` by stage (two chunks only, else NULL). It depends on
 * rows and stages alone, so that all problems with the same rows share it. */
struct hlm_rank_factors {
    int32_t num_rows;
    const double *sorted, *placed;
};
const struct hlm_rank_factors *hlm_rank_factors_new(struct hlm_arena *arena,
                                                    const struct hlm_sim_order *order,
                                                    const struct hlm_rank_held *held,
                                                    const struct hlm_path_row *rows,
                                                    int32_t num_rows);

struct hlm_rank_problem {
    const struct hlm_sim_order *order;
    const struct hlm_rank_held *held; /* [num_ranks] */
    const struct hlm_path_row *rows;  /* [num_rows], of schedule/simulate_paths.h, of every rank one
                                         at least */
    int32_t num_rows;
    const struct hlm_rank_factors *factors; /* of the rows, or the first of them; NULL: not made */
    int32_t num_layers;
    const uint8_t *layer_kinds;          /* [num_layers] */
    const struct hlm_rank_stage *stages; /* [num_stages]; layers cost the same on all of a rank */
    const double *transfer_s;            /* [num_stages]: as in hlm_placement */
    const bool *both_sides;              /* [num_stages] */
    double sync_s;
    bool modes[HLM_NUM_RECOMPUTES];
    void (*hold)(const void *context, int32_t stage, const int32_t counts[HLM_NUM_LAYER_KINDS],
                 struct hlm_stage_holding *out);
    const void *context;
};

/* What a load takes at the least. */
struct hlm_rank_load {
    bool fits;
    double seconds[HLM_SIM_NUM_KINDS]; /* of one microbatch, all stages of the rank */
    double reduce_s, optimizer_s;
};

/* Loads are written (minor, major): counts of the kind with fewer layers and of the other. */
struct hlm_rank_set;

/* cutoff_s: loads that alone take longer are not looked at (INFINITY: all are). */
struct hlm_rank_set *hlm_rank_set_new(struct hlm_arena *arena,
                                      const struct hlm_rank_problem *problem, double cutoff_s);
/* Takes the rows that its problem has now in place of those it had. */
void hlm_rank_set_read_rows(struct hlm_rank_set *set);
/* Takes the rows that its problem has got behind those it had. */
void hlm_rank_set_read_more_rows(struct hlm_rank_set *set);
const struct hlm_rank_problem *hlm_rank_set_problem(const struct hlm_rank_set *set);
int32_t hlm_rank_set_total(const struct hlm_rank_set *set, bool major); /* layers of a kind */
int32_t hlm_rank_set_minor(const struct hlm_rank_set *set);             /* the kind with fewer */
const struct hlm_rank_load *hlm_rank_load_get(struct hlm_rank_set *set, int32_t rank, int32_t minor,
                                              int32_t major);

/* Whether loads can say how many layers the first of two stages has. */
bool hlm_rank_set_is_placed(const struct hlm_rank_set *set);
/* Whether a load can have so many there, memory included. */
bool hlm_rank_load_has_first(const struct hlm_rank_set *set, int32_t rank, int32_t minor,
                             int32_t major, int32_t first);
/* Whether the minor layers come before all others, on first stages of ranks in ascending order: a
 * rank has some only if the first stage of the rank in front has no others. */
bool hlm_rank_set_is_led_by_minors(const struct hlm_rank_set *set);

/* Row k is const + sum_rank hlm_rank_row_s + max optimizer_s. The load must fit. first: layers on
 * the first stage; negative: any. */
double hlm_rank_row_constant_s(const struct hlm_rank_set *set, int32_t row);
double hlm_rank_row_s(struct hlm_rank_set *set, int32_t row, int32_t rank, int32_t minor,
                      int32_t major, int32_t first);

/* The bound of all partitions with these loads, [num_ranks] each; INFINITY: one does not fit.
 * firsts: NULL, or layers on first stages as above. */
double hlm_rank_bound_s(struct hlm_rank_set *set, const int32_t *minors, const int32_t *majors,
                        const int32_t *firsts);

/* What is known of all partitions whose bound is at most cutoff_s: a rank with `minor` layers of
 * the one kind has at most most_major[rank][minor] of the other, -1: none. False: there is no such
 * partition. cutoff_s may be INFINITY: memory alone. */
struct hlm_rank_caps {
    double cutoff_s;
    int32_t *most_major; /* [num_ranks][minor total + 1] */
    int32_t *most;       /* [num_ranks]: layers of both kinds */
};
bool hlm_rank_narrow(struct hlm_arena *arena, struct hlm_rank_set *set, double cutoff_s,
                     struct hlm_rank_caps *out);

/* As hlm_bound_threshold: a cutoff that hlm_rank_narrow refuses, close to one that it takes (whose
 * caps are handed out, in the arena); low_s when it refuses none, INFINITY when it refuses
 * cutoff_s.
 */
double hlm_rank_threshold(struct hlm_arena *arena, struct hlm_rank_set *set, double low_s,
                          double cutoff_s, struct hlm_rank_caps *out);

#endif
