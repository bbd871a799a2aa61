#include "planner/rank_partition.h"

#include <math.h>
#include <string.h>

struct hlm_rank_partition hlm_rank_partition_new(struct hlm_arena *arena, int32_t num_stages)
{
    return (struct hlm_rank_partition){.ends = HLM_ARENA_ARRAY(arena, int32_t, num_stages),
                                       .full = HLM_ARENA_ARRAY(arena, int32_t, num_stages),
                                       .selective = HLM_ARENA_ARRAY(arena, int32_t, num_stages)};
}

void hlm_rank_partition_copy(struct hlm_rank_partition *to, const struct hlm_rank_partition *from,
                             int32_t num_stages)
{
    const size_t size = (size_t)num_stages * sizeof(int32_t);
    memcpy(to->ends, from->ends, size);
    memcpy(to->full, from->full, size);
    memcpy(to->selective, from->selective, size);
}

/* --- one stage --- */

/* What a stage takes with its layers and its choice of recompute. */
struct stage_take {
    bool allowed;
    double seconds[HLM_SIM_NUM_KINDS];
    int64_t slot_bytes, transient_bytes;
};

static struct stage_take take_stage(const struct hlm_rank_problem *problem, int32_t stage,
                                    int32_t begin, int32_t end, int32_t full, int32_t selective)
{
    const struct hlm_rank_stage *prices = &problem->stages[stage];
    struct stage_take take = {.allowed = begin < end || prices->may_be_empty,
                              .slot_bytes = prices->base_slot_bytes,
                              .transient_bytes = prices->base_transient_bytes};
    memcpy(take.seconds, prices->base_s, sizeof(take.seconds));
    for (int32_t layer = begin; layer < end; layer++) {
        const int32_t kind = problem->layer_kinds[layer], at = layer - begin;
        const int32_t mode = at < full               ? HLM_RECOMPUTE_FULL
                             : at < full + selective ? HLM_RECOMPUTE_SELECTIVE
                                                     : HLM_RECOMPUTE_NONE;
        take.allowed = take.allowed && problem->modes[mode];
        for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
            take.seconds[action] += prices->layer_s[kind][mode][action];
        }
        take.slot_bytes += prices->slot_bytes[kind][mode];
        if (prices->transient_bytes[kind][mode] > take.transient_bytes) {
            take.transient_bytes = prices->transient_bytes[kind][mode];
        }
    }
    return take;
}

static void hold_stage(const struct hlm_rank_problem *problem, int32_t stage, int32_t begin,
                       int32_t end, struct hlm_stage_holding *out)
{
    int32_t counts[HLM_NUM_LAYER_KINDS] = {0};
    for (int32_t layer = begin; layer < end; layer++) {
        counts[problem->layer_kinds[layer]]++;
    }
    problem->hold(problem->context, stage, counts, out);
}

static int32_t begin_of(const struct hlm_rank_partition *partition, int32_t stage)
{
    return stage == 0 ? 0 : partition->ends[stage - 1];
}

/* Bytes of a rank that are free; negative: it does not fit. takes: [num_stages]. */
static int64_t rank_slack(const struct hlm_rank_problem *problem, int32_t rank,
                          const struct hlm_rank_partition *partition,
                          const struct stage_take *takes)
{
    const struct hlm_rank_held *held = &problem->held[rank];
    int64_t static_bytes = 0, transient_bytes = 0, most = 0;
    for (int32_t c = 0; c < held->num_chunks; c++) {
        const int32_t s = held->stages[c];
        struct hlm_stage_holding holding;
        hold_stage(problem, s, begin_of(partition, s), partition->ends[s], &holding);
        static_bytes += holding.static_bytes;
        transient_bytes =
            takes[s].transient_bytes > transient_bytes ? takes[s].transient_bytes : transient_bytes;
    }
    for (int32_t row = 0; row < held->num_rows; row++) {
        int64_t slots = 0;
        for (int32_t c = 0; c < held->num_chunks; c++) {
            slots += held->counts[row * held->num_chunks + c] * takes[held->stages[c]].slot_bytes;
        }
        most = slots > most ? slots : most;
    }
    return problem->stages[held->stages[0]].limit_bytes - static_bytes - transient_bytes - most;
}

/* Whether the stages of every rank have numbers of layers that differ by one at most. */
static bool is_even(const struct hlm_rank_problem *problem,
                    const struct hlm_rank_partition *partition)
{
    for (int32_t r = 0; r < problem->order->num_ranks; r++) {
        const struct hlm_rank_held *held = &problem->held[r];
        int32_t fewest = INT32_MAX, most = 0;
        for (int32_t c = 0; c < held->num_chunks; c++) {
            const int32_t s = held->stages[c];
            const int32_t count = partition->ends[s] - begin_of(partition, s);
            fewest = count < fewest ? count : fewest;
            most = count > most ? count : most;
        }
        if (most > fewest + 1) {
            return false;
        }
    }
    return true;
}

/* --- simulation --- */

/* Costs of all stages, and what they are made from. */
struct costs {
    double *seconds[HLM_SIM_NUM_KINDS];
    double *reduce_s, *optimizer_s, *send_backward_s;
    struct hlm_sim_costs sim;
};

static struct costs costs_new(struct hlm_arena *arena, const struct hlm_rank_problem *problem)
{
    const int32_t n = problem->order->num_stages;
    struct costs costs = {.reduce_s = HLM_ARENA_ARRAY(arena, double, n),
                          .optimizer_s = HLM_ARENA_ARRAY(arena, double, n),
                          .send_backward_s = HLM_ARENA_ARRAY(arena, double, n)};
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        costs.seconds[action] = HLM_ARENA_ARRAY(arena, double, n);
    }
    for (int32_t s = 1; s < n; s++) {
        costs.send_backward_s[s] = problem->transfer_s[s - 1];
    }
    costs.sim = (struct hlm_sim_costs){.forward_s = costs.seconds[HLM_ACTION_F],
                                       .backward_s = costs.seconds[HLM_ACTION_B],
                                       .input_grad_s = costs.seconds[HLM_ACTION_I],
                                       .weight_grad_s = costs.seconds[HLM_ACTION_W],
                                       .send_forward_s = problem->transfer_s,
                                       .send_backward_s = costs.send_backward_s,
                                       .needs_both_sides = problem->both_sides,
                                       .reduce_s = costs.reduce_s,
                                       .optimizer_s = costs.optimizer_s,
                                       .sync_s = problem->sync_s};
    return costs;
}

static void set_times(const struct costs *costs, int32_t stage, const double *seconds)
{
    for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
        costs->seconds[action][stage] = seconds[action];
    }
}

static void set_holding(const struct hlm_rank_problem *problem, const struct costs *costs,
                        const struct hlm_rank_partition *partition, int32_t stage)
{
    struct hlm_stage_holding holding;
    hold_stage(problem, stage, begin_of(partition, stage), partition->ends[stage], &holding);
    costs->reduce_s[stage] = holding.reduce_s;
    costs->optimizer_s[stage] = holding.optimizer_s;
}

double hlm_rank_simulate(struct hlm_arena *scratch, const struct hlm_rank_problem *problem,
                         const struct hlm_rank_partition *partition)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    const int32_t n = problem->order->num_stages;
    struct stage_take *takes = HLM_ARENA_ARRAY(scratch, struct stage_take, n);
    const struct costs costs = costs_new(scratch, problem);
    bool fits = is_even(problem, partition);
    for (int32_t s = 0; s < n; s++) {
        takes[s] = take_stage(problem, s, begin_of(partition, s), partition->ends[s],
                              partition->full[s], partition->selective[s]);
        set_times(&costs, s, takes[s].seconds);
        set_holding(problem, &costs, partition, s);
        fits = fits && takes[s].allowed;
    }
    for (int32_t r = 0; r < problem->order->num_ranks; r++) {
        fits = fits && rank_slack(problem, r, partition, takes) >= 0;
    }
    const double step_s =
        fits ? hlm_sim_order_step(scratch, problem->order, &costs.sim) : (double)INFINITY;
    hlm_arena_rewind(scratch, mark);
    return step_s;
}

const struct hlm_path_row *hlm_rank_partition_rows(struct hlm_arena *arena,
                                                   const struct hlm_rank_problem *problem,
                                                   const struct hlm_rank_partition *partition)
{
    struct hlm_arena *scratch = hlm_arena_new();
    const struct costs costs = costs_new(scratch, problem);
    for (int32_t s = 0; s < problem->order->num_stages; s++) {
        const struct stage_take take =
            take_stage(problem, s, begin_of(partition, s), partition->ends[s], partition->full[s],
                       partition->selective[s]);
        set_times(&costs, s, take.seconds);
        set_holding(problem, &costs, partition, s);
    }
    const struct hlm_path_row *rows = hlm_sim_path_rows(arena, problem->order, &costs.sim);
    hlm_arena_free(scratch);
    return rows;
}

void hlm_rank_add_rows(struct hlm_arena *arena, struct hlm_rank_problem *problem,
                       const struct hlm_rank_partition *partition)
{
    const struct hlm_path_row *more = hlm_rank_partition_rows(arena, problem, partition);
    const int32_t num_more = hlm_sim_num_path_rows(problem->order);
    struct hlm_path_row *rows =
        HLM_ARENA_ARRAY(arena, struct hlm_path_row, problem->num_rows + num_more);
    memcpy(rows, problem->rows, (size_t)problem->num_rows * sizeof(*rows));
    memcpy(&rows[problem->num_rows], more, (size_t)num_more * sizeof(*rows));
    problem->rows = rows;
    problem->num_rows += num_more;
}

/* --- guesses --- */

/* What is left over of a rank's layers goes to stages that carry neither embedding nor head first.
 */
void hlm_rank_spread(const struct hlm_rank_problem *problem, const int32_t *totals,
                     const int32_t *firsts, struct hlm_rank_partition *out)
{
    for (int32_t r = 0; r < problem->order->num_ranks; r++) {
        const struct hlm_rank_held *held = &problem->held[r];
        int32_t more = totals[r] % held->num_chunks;
        if (firsts != NULL && firsts[r] >= 0) {
            out->ends[held->stages[0]] = firsts[r];
            out->ends[held->stages[1]] = totals[r] - firsts[r];
            continue;
        }
        for (int pass = 0; pass < 2; pass++) {
            for (int32_t c = held->num_chunks - 1; c >= 0; c--) {
                const int32_t s = held->stages[c];
                if (problem->stages[s].may_be_empty == (pass == 1)) {
                    out->ends[s] = totals[r] / held->num_chunks + (more > 0 ? 1 : 0);
                    more -= more > 0 ? 1 : 0;
                }
            }
        }
    }
    for (int32_t s = 1; s < problem->order->num_stages; s++) {
        out->ends[s] += out->ends[s - 1];
    }
}

/* Layers of a rank that recompute: `count` of them in `mode`, the rest in `rest`. */
struct policy {
    enum hlm_recompute mode, rest;
};

static void apply_policy(const struct hlm_rank_problem *problem, int32_t rank, struct policy policy,
                         int32_t count, struct hlm_rank_partition *partition)
{
    const struct hlm_rank_held *held = &problem->held[rank];
    for (int32_t c = 0; c < held->num_chunks; c++) {
        const int32_t s = held->stages[c];
        const int32_t n = partition->ends[s] - begin_of(partition, s);
        const int32_t own = count < n ? count : n;
        int32_t counts[HLM_NUM_RECOMPUTES] = {0};
        counts[policy.mode] += own;
        counts[policy.rest] += n - own;
        partition->full[s] = counts[HLM_RECOMPUTE_FULL];
        partition->selective[s] = counts[HLM_RECOMPUTE_SELECTIVE];
        count -= own;
    }
}

/* Seconds of the backwards of a rank; INFINITY: it does not fit. */
static double rank_backward_s(const struct hlm_rank_problem *problem, int32_t rank,
                              const struct hlm_rank_partition *partition, struct stage_take *takes)
{
    const struct hlm_rank_held *held = &problem->held[rank];
    double seconds = 0.0;
    for (int32_t c = 0; c < held->num_chunks; c++) {
        const int32_t s = held->stages[c];
        takes[s] = take_stage(problem, s, begin_of(partition, s), partition->ends[s],
                              partition->full[s], partition->selective[s]);
        seconds += problem->order->splits_backward ? takes[s].seconds[HLM_ACTION_I]
                                                   : takes[s].seconds[HLM_ACTION_B];
        if (!takes[s].allowed) {
            return INFINITY;
        }
    }
    return rank_slack(problem, rank, partition, takes) >= 0 ? seconds : (double)INFINITY;
}

static bool choose_rank(const struct hlm_rank_problem *problem, int32_t rank,
                        struct hlm_rank_partition *partition, struct stage_take *takes)
{
    static const struct policy policies[] = {{HLM_RECOMPUTE_SELECTIVE, HLM_RECOMPUTE_NONE},
                                             {HLM_RECOMPUTE_FULL, HLM_RECOMPUTE_NONE},
                                             {HLM_RECOMPUTE_FULL, HLM_RECOMPUTE_SELECTIVE}};
    const struct hlm_rank_held *held = &problem->held[rank];
    int32_t n = 0, best_count = 0;
    struct policy best = policies[0];
    double best_s = INFINITY;
    for (int32_t c = 0; c < held->num_chunks; c++) {
        n += partition->ends[held->stages[c]] - begin_of(partition, held->stages[c]);
    }
    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        for (int32_t count = 0; count <= n; count++) {
            apply_policy(problem, rank, policies[i], count, partition);
            const double seconds = rank_backward_s(problem, rank, partition, takes);
            if (isfinite(seconds)) {
                if (seconds < best_s) {
                    best_s = seconds;
                    best = policies[i];
                    best_count = count;
                }
                break;
            }
        }
    }
    apply_policy(problem, rank, best, best_count, partition);
    return isfinite(best_s);
}

bool hlm_rank_choose_recompute(struct hlm_arena *scratch, const struct hlm_rank_problem *problem,
                               struct hlm_rank_partition *partition)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    struct stage_take *takes =
        HLM_ARENA_ARRAY(scratch, struct stage_take, problem->order->num_stages);
    bool fits = is_even(problem, partition);
    for (int32_t r = 0; fits && r < problem->order->num_ranks; r++) {
        fits = choose_rank(problem, r, partition, takes);
    }
    hlm_arena_rewind(scratch, mark);
    return fits;
}

/* --- all partitions --- */

/* A choice of recompute for the stages of one rank: [num_chunks] each. */
struct option {
    int32_t *full, *selective;
    double *seconds; /* [num_chunks][HLM_SIM_NUM_KINDS] */
    struct option *next;
};

struct listing {
    struct hlm_arena *scratch;
    const struct hlm_rank_problem *problem;
    const struct hlm_rank_caps *caps;
    double cutoff_s;
    double *work;
    hlm_rank_visit *visit;
    void *context;
    struct hlm_rank_partition partition;
    struct costs costs;
    struct stage_take *takes;  /* [num_stages] */
    int32_t *used;             /* [num_ranks]: layers so far */
    int32_t *fewest, *longest; /* [num_ranks]: layers of a stage so far */
    struct option **options;   /* [num_ranks] */
};

static bool beats(const struct listing *listing, const struct option *a, const struct option *b,
                  int32_t num_chunks)
{
    for (int32_t c = 0; c < num_chunks; c++) {
        for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
            const bool counts = listing->problem->order->splits_backward || action <= HLM_ACTION_B;
            if (counts && a->seconds[c * HLM_SIM_NUM_KINDS + action] >
                              b->seconds[c * HLM_SIM_NUM_KINDS + action]) {
                return false;
            }
        }
    }
    return true;
}

/* Keeps what the stages of the rank are set to, unless another option is as good. */
static void keep_option(struct listing *listing, int32_t rank)
{
    const struct hlm_rank_held *held = &listing->problem->held[rank];
    const int32_t v = held->num_chunks;
    struct option *option = HLM_ARENA_NEW(listing->scratch, struct option);
    option->full = HLM_ARENA_ARRAY(listing->scratch, int32_t, v);
    option->selective = HLM_ARENA_ARRAY(listing->scratch, int32_t, v);
    option->seconds = HLM_ARENA_ARRAY(listing->scratch, double, (size_t)v *HLM_SIM_NUM_KINDS);
    for (int32_t c = 0; c < v; c++) {
        const int32_t s = held->stages[c];
        option->full[c] = listing->partition.full[s];
        option->selective[c] = listing->partition.selective[s];
        memcpy(&option->seconds[c * HLM_SIM_NUM_KINDS], listing->takes[s].seconds,
               sizeof(listing->takes[s].seconds));
    }
    struct option **at = &listing->options[rank];
    while (*at != NULL) {
        if (beats(listing, *at, option, v)) {
            return;
        }
        if (beats(listing, option, *at, v)) {
            *at = (*at)->next;
        } else {
            at = &(*at)->next;
        }
    }
    *at = option;
}

/* Tries all choices for the stages of the rank from chunk c on. */
static void find_options(struct listing *listing, int32_t rank, int32_t c)
{
    const struct hlm_rank_problem *problem = listing->problem;
    const struct hlm_rank_held *held = &problem->held[rank];
    if (c == held->num_chunks) {
        *listing->work -= 10.0 * c;
        if (rank_slack(problem, rank, &listing->partition, listing->takes) >= 0) {
            keep_option(listing, rank);
        }
        return;
    }
    const int32_t s = held->stages[c];
    const int32_t begin = begin_of(&listing->partition, s), end = listing->partition.ends[s];
    for (int32_t full = 0; full <= end - begin; full++) {
        for (int32_t selective = 0; full + selective <= end - begin; selective++) {
            listing->takes[s] = take_stage(problem, s, begin, end, full, selective);
            listing->partition.full[s] = full;
            listing->partition.selective[s] = selective;
            if (listing->takes[s].allowed && *listing->work > 0.0) {
                find_options(listing, rank, c + 1);
            }
        }
    }
}

/* The largest path row with the times that are set. */
static double rows_s(const struct listing *listing)
{
    double seconds = 0.0;
    for (int32_t k = 0; k < listing->problem->num_rows; k++) {
        seconds = fmax(seconds, hlm_path_row_s(listing->problem->order, &listing->problem->rows[k],
                                               &listing->costs.sim));
    }
    *listing->work -= (double)listing->problem->num_rows * listing->problem->order->num_stages;
    return seconds;
}

static void set_option(const struct listing *listing, int32_t rank, const struct option *option)
{
    const struct hlm_rank_held *held = &listing->problem->held[rank];
    for (int32_t c = 0; c < held->num_chunks; c++) {
        const int32_t s = held->stages[c];
        listing->partition.full[s] = option->full[c];
        listing->partition.selective[s] = option->selective[c];
        set_times(&listing->costs, s, &option->seconds[c * HLM_SIM_NUM_KINDS]);
    }
}

/* All options of the ranks from `rank` on; those of the others are set. */
static void try_options(struct listing *listing, int32_t rank)
{
    const struct hlm_sim_order *order = listing->problem->order;
    if (*listing->work <= 0.0) {
        return;
    }
    if (rank == order->num_ranks) {
        *listing->work -= order->num_places;
        const double step_s = hlm_sim_order_step(listing->scratch, order, &listing->costs.sim);
        listing->cutoff_s = listing->visit(listing->context, &listing->partition, step_s);
        return;
    }
    for (const struct option *option = listing->options[rank]; option != NULL;
         option = option->next) {
        set_option(listing, rank, option);
        try_options(listing, rank + 1);
    }
}

/* The least times of any option of each stage. False: a rank has none. */
static bool set_least_times(struct listing *listing)
{
    const struct hlm_rank_problem *problem = listing->problem;
    for (int32_t r = 0; r < problem->order->num_ranks; r++) {
        const struct hlm_rank_held *held = &problem->held[r];
        listing->options[r] = NULL;
        find_options(listing, r, 0);
        if (listing->options[r] == NULL) {
            return false;
        }
        for (int32_t c = 0; c < held->num_chunks; c++) {
            double least_s[HLM_SIM_NUM_KINDS] = {INFINITY, INFINITY, INFINITY, INFINITY};
            for (const struct option *option = listing->options[r]; option != NULL;
                 option = option->next) {
                for (int32_t action = 0; action < HLM_SIM_NUM_KINDS; action++) {
                    least_s[action] =
                        fmin(least_s[action], option->seconds[c * HLM_SIM_NUM_KINDS + action]);
                }
            }
            set_times(&listing->costs, held->stages[c], least_s);
        }
    }
    return true;
}

static void try_partition(struct listing *listing)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(listing->scratch);
    for (int32_t s = 0; s < listing->problem->order->num_stages; s++) {
        set_holding(listing->problem, &listing->costs, &listing->partition, s);
    }
    if (set_least_times(listing) && *listing->work > 0.0 && rows_s(listing) <= listing->cutoff_s) {
        try_options(listing, 0);
    }
    hlm_arena_rewind(listing->scratch, mark);
}

/* Layers that the stages from `stage` on can take at most, and need at least. */
static void room_behind(const struct listing *listing, int32_t stage, int32_t *out_least,
                        int32_t *out_most)
{
    const struct hlm_rank_problem *problem = listing->problem;
    *out_least = *out_most = 0;
    for (int32_t r = 0; r < problem->order->num_ranks; r++) {
        bool has_stage = false;
        for (int32_t c = 0; c < problem->held[r].num_chunks; c++) {
            has_stage = has_stage || problem->held[r].stages[c] >= stage;
        }
        *out_most += has_stage ? listing->caps->most[r] - listing->used[r] : 0;
    }
    for (int32_t s = stage; s < problem->order->num_stages; s++) {
        *out_least += problem->stages[s].may_be_empty ? 0 : 1;
    }
}

static void list_from(struct listing *listing, int32_t stage, int32_t begin)
{
    const struct hlm_rank_problem *problem = listing->problem;
    *listing->work -= 1.0;
    if (*listing->work <= 0.0) {
        return;
    }
    if (stage == problem->order->num_stages) {
        if (begin == problem->num_layers) {
            try_partition(listing);
        }
        return;
    }
    const int32_t rank = problem->order->stage_rank[stage];
    const int32_t room = listing->caps->most[rank] - listing->used[rank];
    const int32_t fewest = listing->fewest[rank], longest = listing->longest[rank];
    int32_t first = problem->stages[stage].may_be_empty ? 0 : 1;
    first = longest - 1 > first ? longest - 1 : first;
    for (int32_t n = first; n <= room && n <= fewest + 1 && begin + n <= problem->num_layers; n++) {
        int32_t least = 0, most = 0;
        listing->used[rank] += n;
        listing->fewest[rank] = n < fewest ? n : fewest;
        listing->longest[rank] = n > longest ? n : longest;
        room_behind(listing, stage + 1, &least, &most);
        const int32_t left = problem->num_layers - begin - n;
        if (left >= least && left <= most) {
            listing->partition.ends[stage] = begin + n;
            list_from(listing, stage + 1, begin + n);
        }
        listing->used[rank] -= n;
        listing->fewest[rank] = fewest;
        listing->longest[rank] = longest;
    }
}

bool hlm_rank_list(struct hlm_arena *scratch, const struct hlm_rank_problem *problem,
                   const struct hlm_rank_caps *caps, double *work, hlm_rank_visit *visit,
                   void *context)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    const int32_t n = problem->order->num_stages;
    struct listing listing = {
        .scratch = scratch,
        .problem = problem,
        .caps = caps,
        .cutoff_s = caps->cutoff_s,
        .work = work,
        .visit = visit,
        .context = context,
        .partition = hlm_rank_partition_new(scratch, n),
        .costs = costs_new(scratch, problem),
        .takes = HLM_ARENA_ARRAY(scratch, struct stage_take, n),
        .used = HLM_ARENA_ARRAY(scratch, int32_t, problem->order->num_ranks),
        .fewest = HLM_ARENA_ARRAY(scratch, int32_t, problem->order->num_ranks),
        .longest = HLM_ARENA_ARRAY(scratch, int32_t, problem->order->num_ranks),
        .options = HLM_ARENA_ARRAY(scratch, struct option *, problem->order->num_ranks)};
    for (int32_t r = 0; r < problem->order->num_ranks; r++) {
        listing.fewest[r] = problem->num_layers;
    }
    list_from(&listing, 0, 0);
    hlm_arena_rewind(scratch, mark);
    return *work > 0.0;
}
