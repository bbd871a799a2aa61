#include <math.h>

#include "planner/rank_options.h"
#include "planner/rank_set_internal.h"

/* Steps that the choices of recompute of one load may take; where they are more, it is bounded as
 * one whose layers stand anywhere. */
static const double most_work = 2e4;

/* --- whether a load fits --- */

/* Whether the rank's two stages fit with these layers, all of a kind in one mode: slots and what a
 * stage needs for a moment. If any choice of modes fits, so does one of these: the leaner of two
 * modes of a kind, for all layers of that kind. */
static bool modes_fit(const struct hlm_rank_set *set, const struct hlm_rank_info *rank,
                      int64_t room_bytes, int32_t counts[2][HLM_NUM_LAYER_KINDS],
                      const int32_t *modes)
{
    const struct hlm_rank_held *held = rank->held;
    int64_t slots[2], transient = rank->base_transient_bytes;
    for (int32_t c = 0; c < 2; c++) {
        const struct hlm_rank_stage *stage = &set->problem->stages[held->stages[c]];
        slots[c] = stage->base_slot_bytes;
        for (int32_t kind = 0; kind < HLM_NUM_LAYER_KINDS; kind++) {
            slots[c] += counts[c][kind] * stage->slot_bytes[kind][modes[kind]];
            if (counts[c][kind] > 0 && stage->transient_bytes[kind][modes[kind]] > transient) {
                transient = stage->transient_bytes[kind][modes[kind]];
            }
        }
    }
    bool fits = true;
    for (int32_t row = 0; row < held->num_rows; row++) {
        fits = fits && held->counts[row * 2] * slots[0] + held->counts[row * 2 + 1] * slots[1] <=
                           room_bytes - transient;
    }
    return fits;
}

/* Layers of the rank's two stages by kind. */
static void count_layers(const struct hlm_rank_set *set, int32_t minor, int32_t major,
                         int32_t first, int32_t counts[2][HLM_NUM_LAYER_KINDS])
{
    counts[0][set->minor] = minor;
    counts[0][set->major] = first - minor;
    counts[1][set->minor] = 0;
    counts[1][set->major] = minor + major - first;
}

/* Whether the load has a choice of recompute that fits with so many layers on its first stage. */
static bool first_fits(const struct hlm_rank_set *set, const struct hlm_rank_info *rank,
                       int32_t minor, int32_t major, int32_t first)
{
    int32_t counts[2][HLM_NUM_LAYER_KINDS];
    int64_t room_bytes = rank->room_bytes;
    count_layers(set, minor, major, first, counts);
    for (int32_t c = 0; c < 2; c++) {
        struct hlm_stage_holding holding;
        set->problem->hold(set->problem->context, rank->held->stages[c], counts[c], &holding);
        room_bytes -= holding.static_bytes;
    }
    for (int32_t i = 0; i < HLM_NUM_RECOMPUTES * HLM_NUM_RECOMPUTES; i++) {
        int32_t modes[HLM_NUM_LAYER_KINDS];
        modes[set->major] = i % HLM_NUM_RECOMPUTES;
        modes[set->minor] = i / HLM_NUM_RECOMPUTES;
        if (set->problem->modes[modes[0]] && set->problem->modes[modes[1]] &&
            modes_fit(set, rank, room_bytes, counts, modes)) {
            return true;
        }
    }
    return false;
}

bool hlm_rank_load_has_first(const struct hlm_rank_set *set, int32_t rank, int32_t minor,
                             int32_t major, int32_t first)
{
    const int32_t *stages = set->problem->held[rank].stages;
    const int32_t second = minor + major - first;
    return first >= minor && second >= 0 && second - first <= 1 && first - second <= 1 &&
           (first > 0 || set->problem->stages[stages[0]].may_be_empty) &&
           (second > 0 || set->problem->stages[stages[1]].may_be_empty) &&
           (stages[0] > 0 || minor == set->num_minor || minor == first) &&
           first_fits(set, &set->ranks[rank], minor, major, first);
}

bool hlm_rank_load_can_be_placed(const struct hlm_rank_set *set, int32_t rank, int32_t minor,
                                 int32_t major)
{
    const int32_t num = minor + major;
    bool placed = false;
    for (int32_t first = num / 2; first <= num - num / 2 && !placed; first++) {
        placed = hlm_rank_load_has_first(set, rank, minor, major, first);
    }
    return placed;
}

/* --- what it takes --- */

/* Layers of these stages as a partition has them: minor ones are the first of all. */
static void place(struct hlm_rank_set *set, const int32_t *stages, int32_t minor, int32_t major,
                  int32_t first)
{
    int32_t *ends = set->partition.ends;
    const int32_t begin = stages[0] == 0 ? 0 : set->num_minor - minor;
    if (stages[0] > 0) {
        ends[stages[0] - 1] = begin;
    }
    ends[stages[0]] = begin + first;
    if (stages[1] > stages[0] + 1) {
        ends[stages[1] - 1] = set->num_minor;
    }
    ends[stages[1]] = ends[stages[1] - 1] + minor + major - first;
}

static struct hlm_rank_placed *make_placed(struct hlm_rank_set *set, int32_t rank, int32_t minor,
                                           int32_t major, int32_t first)
{
    const struct hlm_rank_held *held = set->ranks[rank].held;
    struct hlm_rank_placed *placed = HLM_ARENA_NEW(set->arena, struct hlm_rank_placed);
    int32_t counts[2][HLM_NUM_LAYER_KINDS];
    double work = most_work;
    count_layers(set, minor, major, first, counts);
    for (int32_t c = 0; c < 2; c++) {
        struct hlm_stage_holding holding;
        set->problem->hold(set->problem->context, held->stages[c], counts[c], &holding);
        placed->reduce_s += holding.reduce_s;
    }
    if (set->partition.ends == NULL) {
        const int32_t n = set->problem->order->num_stages;
        set->partition = hlm_rank_partition_new(set->arena, n);
        set->takes = HLM_ARENA_ARRAY(set->arena, struct hlm_rank_take, n);
    }
    place(set, held->stages, minor, major, first);
    placed->options =
        hlm_rank_options_find(set->arena, set->problem, rank, &set->partition, set->takes, &work);
    placed->is_exact = work > 0.0 && placed->options != NULL;
    return placed;
}

const struct hlm_rank_placed *hlm_rank_placed_get(struct hlm_rank_set *set, int32_t rank,
                                                  int32_t minor, int32_t major, int32_t first)
{
    struct hlm_rank_info *info = &set->ranks[rank];
    const size_t num_loads = (size_t)(set->num_minor + 1) * (size_t)(set->most + 1);
    if (info->placed == NULL) {
        info->placed = HLM_ARENA_ARRAY(set->arena, const struct hlm_rank_placed *, 2 * num_loads);
    }
    const bool more = first > (minor + major) / 2;
    const struct hlm_rank_placed **placed =
        &info->placed[2 * (minor * (set->most + 1) + major) + (more ? 1 : 0)];
    if (*placed == NULL) {
        *placed = make_placed(set, rank, minor, major, first);
    }
    return *placed;
}

double hlm_rank_placed_row_s(const struct hlm_rank_set *set, const struct hlm_rank_placed *placed,
                             int32_t row, int32_t rank)
{
    const double *factors = hlm_rank_placed_factors_at(set, row, rank, 0); /* [action][2] */
    double least_s = INFINITY;
    for (const struct hlm_rank_option *option = placed->options; option != NULL;
         option = option->next) {
        double seconds = 0.0;
        for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
            seconds += factors[action * 2] * option->seconds[action] +
                       factors[action * 2 + 1] * option->seconds[HLM_SIM_NUM_KINDS + action];
        }
        least_s = fmin(least_s, seconds);
    }
    return least_s + set->problem->rows[row].ends[rank] * placed->reduce_s;
}
