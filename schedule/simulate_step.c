/* The two common schedules without lists. Both walk actions in an order in which every input is
 * known when it is needed, and keep one number per stage (or microbatch) of what is still needed.
 *
 * 1f1b. Stage s has w = min(p - 1 - s, m) warm-up forwards. Let round j run, for s = 0, 1, .., the
 * forward of microbatch j (if j < m) and then the backward of microbatch i = j - (p - 1 - s) (if 0
 * <= i < m). A stage then runs F0 .. Fw-1, Fw, B0, Fw+1, B1, .., Fm-1, B.., .., Bm-1: its list.
 * F(s, j) needs F(s - 1, j), from this round; B(s, i) needs B(s + 1, i), whose round is (i + p - 2
 * - s) = j - 1: the last backward of stage s + 1 before this round; s ascends, so it is still
 * there.
 *
 * gpipe. All forwards stage by stage from the first, then all backwards from the last: stage s
 * needs the ends of its neighbour only, which are overwritten in place.
 *
 * Each time is computed by the same operations on the same operands as in simulate.c: equal bits.
 */
#include "schedule/simulate.h"

struct walk {
    const struct hlm_sim_costs *costs;
    int32_t num_stages, num_microbatches;
    double *free_s;          /* [num_stages]: end of the stage's last action */
    double *last_backward_s; /* 1f1b: [num_stages] */
    double *ends_s;          /* gpipe: [num_microbatches] of the neighbour, then of this stage */
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static inline double begin(double given_s, double free_s, double transfer_s, bool needs_both_sides)
{
    const double arrival_s =
        needs_both_sides ? larger(given_s, free_s) + transfer_s : given_s + transfer_s;
    return larger(arrival_s, free_s);
}

/* One direction over one boundary. */
struct channel {
    double transfer_s;
    bool exists, needs_both_sides;
};

static struct channel channel_into(const struct walk *walk, bool forward, int32_t stage)
{
    const struct hlm_sim_costs *costs = walk->costs;
    const int32_t giver = forward ? stage - 1 : stage + 1;
    if (giver < 0 || giver >= walk->num_stages) {
        return (struct channel){0};
    }
    const int32_t boundary = forward ? giver : stage;
    return (struct channel){
        .transfer_s = hlm_sim_at(forward ? costs->send_forward_s : costs->send_backward_s, giver),
        .exists = true,
        .needs_both_sides = costs->needs_both_sides != NULL && costs->needs_both_sides[boundary]};
}

/* Duration of an action that stands at `position` in the list of its stage. */
static inline double duration(const struct walk *walk, const double *of_stage, int32_t stage,
                              int32_t position)
{
    const double *const *measured = walk->costs->action_s;
    return measured == NULL ? of_stage[stage] : measured[stage][position];
}

/* ---- gpipe ---- */

static void gpipe_pass(struct walk *walk, bool forward, int32_t stage)
{
    const double *of_stage = forward ? walk->costs->forward_s : walk->costs->backward_s;
    const struct channel in = channel_into(walk, forward, stage);
    const int32_t first_position = forward ? 0 : walk->num_microbatches;
    double free_s = walk->free_s[stage];
    for (int32_t i = 0; i < walk->num_microbatches; i++) {
        const double start_s =
            in.exists ? begin(walk->ends_s[i], free_s, in.transfer_s, in.needs_both_sides) : free_s;
        free_s = start_s + duration(walk, of_stage, stage, first_position + i);
        walk->ends_s[i] = free_s;
    }
    walk->free_s[stage] = free_s;
}

static void gpipe(struct hlm_arena *arena, struct walk *walk)
{
    walk->ends_s = HLM_ARENA_ARRAY(arena, double, walk->num_microbatches);
    for (int32_t stage = 0; stage < walk->num_stages; stage++) {
        gpipe_pass(walk, true, stage);
    }
    for (int32_t stage = walk->num_stages - 1; stage >= 0; stage--) {
        gpipe_pass(walk, false, stage);
    }
}

/* ---- 1f1b ---- */

struct channels {
    struct channel forward, backward;
};

static void one_f_one_b_round(struct walk *walk, const struct channels *channels, int32_t round)
{
    const int32_t last = walk->num_stages - 1;
    double forward_end_s = 0;
    for (int32_t stage = 0; stage <= last; stage++) {
        double free_s = walk->free_s[stage];
        const int32_t warm_up = last - stage;
        if (round < walk->num_microbatches) {
            const struct channel *in = &channels[stage].forward;
            const int32_t position = round <= warm_up ? round : 2 * round - warm_up;
            const double start_s =
                in->exists ? begin(forward_end_s, free_s, in->transfer_s, in->needs_both_sides)
                           : free_s;
            free_s = start_s + duration(walk, walk->costs->forward_s, stage, position);
            forward_end_s = free_s;
        }
        const int32_t back = round - warm_up;
        if (back >= 0 && back < walk->num_microbatches) {
            const struct channel *in = &channels[stage].backward;
            const int32_t position = round < walk->num_microbatches ? warm_up + 2 * back + 1
                                                                    : walk->num_microbatches + back;
            const double start_s = in->exists ? begin(walk->last_backward_s[stage + 1], free_s,
                                                      in->transfer_s, in->needs_both_sides)
                                              : free_s;
            free_s = start_s + duration(walk, walk->costs->backward_s, stage, position);
            walk->last_backward_s[stage] = free_s;
        }
        walk->free_s[stage] = free_s;
    }
}

static void one_f_one_b(struct hlm_arena *arena, struct walk *walk)
{
    walk->last_backward_s = HLM_ARENA_ARRAY(arena, double, walk->num_stages);
    struct channels *channels = HLM_ARENA_ARRAY(arena, struct channels, walk->num_stages);
    for (int32_t stage = 0; stage < walk->num_stages; stage++) {
        channels[stage].forward = channel_into(walk, true, stage);
        channels[stage].backward = channel_into(walk, false, stage);
    }
    for (int32_t round = 0; round < walk->num_microbatches + walk->num_stages - 1; round++) {
        one_f_one_b_round(walk, channels, round);
    }
}

/* ---- the whole ---- */

/* With one stage a rank the last backward is the last action, so overlap_reduce changes nothing. */
static double finish(const struct walk *walk)
{
    double meet_s = 0;
    for (int32_t stage = 0; stage < walk->num_stages; stage++) {
        meet_s = larger(meet_s, walk->free_s[stage] + hlm_sim_at(walk->costs->reduce_s, stage));
    }
    const double start_s = meet_s + walk->costs->sync_s;
    double step_s = start_s;
    for (int32_t stage = 0; stage < walk->num_stages; stage++) {
        step_s = larger(step_s, start_s + hlm_sim_at(walk->costs->optimizer_s, stage));
    }
    return step_s;
}

double hlm_simulate_step(struct hlm_arena *arena, enum hlm_schedule_kind kind, int32_t num_stages,
                         int32_t num_microbatches, const struct hlm_sim_costs *costs)
{
    static void (*const walks[])(struct hlm_arena *, struct walk *) = {
        [HLM_SCHEDULE_GPIPE] = gpipe,
        [HLM_SCHEDULE_1F1B] = one_f_one_b,
    };
    HLM_ASSERT((size_t)kind < sizeof walks / sizeof walks[0] && walks[kind] != NULL);
    HLM_ASSERT(num_stages >= 1 && num_microbatches >= 1);
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    struct walk walk = {.costs = costs,
                        .num_stages = num_stages,
                        .num_microbatches = num_microbatches,
                        .free_s = HLM_ARENA_ARRAY(arena, double, num_stages)};
    walks[kind](arena, &walk);
    const double step_s = finish(&walk);
    hlm_arena_rewind(arena, mark);
    return step_s;
}
