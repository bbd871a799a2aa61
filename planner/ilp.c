#include "planner/ilp.h"

#include <math.h>
#include <string.h>

/* --- a program --- */

void hlm_ilp_init(struct hlm_ilp *ilp, struct hlm_arena *arena)
{
    *ilp = (struct hlm_ilp){.arena = arena};
}

/* Room for one more item; the array doubles when it is full. */
static void *grow(struct hlm_arena *arena, void *items, size_t size, int32_t count,
                  int32_t *capacity)
{
    if (count < *capacity) {
        return items;
    }
    *capacity = *capacity == 0 ? 256 : 2 * *capacity;
    void *larger = hlm_arena_alloc(arena, (size_t)*capacity, size);
    if (count > 0) {
        memcpy(larger, items, (size_t)count * size);
    }
    return larger;
}

int32_t hlm_ilp_add_column(struct hlm_ilp *ilp, double cost, bool is_binary)
{
    ilp->columns =
        grow(ilp->arena, ilp->columns, sizeof(*ilp->columns), ilp->num_columns, &ilp->max_columns);
    ilp->columns[ilp->num_columns] = (struct hlm_ilp_column){cost, is_binary};
    return ilp->num_columns++;
}

int32_t hlm_ilp_add_row(struct hlm_ilp *ilp, double low, double high)
{
    ilp->rows = grow(ilp->arena, ilp->rows, sizeof(*ilp->rows), ilp->num_rows, &ilp->max_rows);
    ilp->rows[ilp->num_rows] = (struct hlm_ilp_row){low, high};
    return ilp->num_rows++;
}

void hlm_ilp_add_entry(struct hlm_ilp *ilp, int32_t row, int32_t column, double value)
{
    ilp->entries =
        grow(ilp->arena, ilp->entries, sizeof(*ilp->entries), ilp->num_entries, &ilp->max_entries);
    ilp->entries[ilp->num_entries++] = (struct hlm_ilp_entry){row, column, value};
}

/* --- a placement in it --- */

struct builder {
    struct hlm_ilp *ilp;
    struct hlm_pattern_set *set;
    const struct hlm_placement *placement;
    const struct hlm_bound_windows *windows;
    int32_t y;
    double unit_s;
    struct hlm_ilp_choice
        *choices; /* by stage: those of stage s are first[s] .. first[s + 1] - 1 */
    int32_t num_choices, max_choices;
    int32_t *first;
    int32_t *loop, *end, *step; /* [num_stages]: columns of S, M, N (gpipe: A, B^, unused) */
};

/* What a row says of a pattern. */
enum quantity { SECONDS, FORWARD, BACKWARD, REDUCE, OPTIMIZER_STEP };

static double pattern_value(const struct hlm_pattern *pattern, enum quantity quantity)
{
    switch (quantity) {
    case SECONDS:
        return hlm_pattern_seconds(pattern);
    case FORWARD:
        return pattern->forward_s;
    case BACKWARD:
        return pattern->backward_s;
    case REDUCE:
        return pattern->reduce_s;
    default:
        return pattern->optimizer_s;
    }
}

/* A row sum >= constant y, or = where equal. */
static int32_t add_row(struct builder *builder, double constant, bool equal)
{
    const bool fixed = builder->y < 0;
    const double low = fixed ? constant : 0.0;
    const int32_t row = hlm_ilp_add_row(builder->ilp, low, equal ? low : (double)INFINITY);
    if (!fixed && constant != 0.0) {
        hlm_ilp_add_entry(builder->ilp, row, builder->y, -constant);
    }
    return row;
}

static void add_entry(struct builder *builder, int32_t row, int32_t column, double value)
{
    if (value != 0.0) {
        hlm_ilp_add_entry(builder->ilp, row, column, value);
    }
}

static void add_patterns(struct builder *builder, int32_t row, int32_t stage,
                         enum quantity quantity, double factor)
{
    for (int32_t i = builder->first[stage]; i < builder->first[stage + 1]; i++) {
        const struct hlm_ilp_choice *choice = &builder->choices[i];
        const struct hlm_pattern *pattern =
            hlm_pattern_get(builder->set, stage, choice->begin, choice->end);
        add_entry(builder, row, choice->column,
                  factor * pattern_value(pattern, quantity) / builder->unit_s);
    }
}

/* --- which patterns there are --- */

static void try_choice(struct builder *builder, int32_t stage, int32_t begin, int32_t end)
{
    if (!hlm_bound_keeps(builder->set, builder->windows, stage, begin, end)) {
        return;
    }
    if (builder->num_choices == builder->max_choices) {
        builder->max_choices = builder->max_choices == 0 ? 256 : 2 * builder->max_choices;
        struct hlm_ilp_choice *choices =
            HLM_ARENA_ARRAY(builder->ilp->arena, struct hlm_ilp_choice, builder->max_choices);
        if (builder->num_choices > 0) {
            memcpy(choices, builder->choices, (size_t)builder->num_choices * sizeof(*choices));
        }
        builder->choices = choices;
    }
    builder->choices[builder->num_choices++] =
        (struct hlm_ilp_choice){stage, begin, end, hlm_ilp_add_column(builder->ilp, 0.0, true)};
}

static void try_counts(struct builder *builder, int32_t stage)
{
    const struct hlm_bound_windows *windows = builder->windows;
    const int32_t fewest = windows->begin_min[stage + 1] - windows->begin_max[stage];
    const int32_t most = windows->begin_max[stage + 1] - windows->begin_min[stage];
    for (int32_t count = fewest > 0 ? fewest : 0; count <= most; count++) {
        try_choice(builder, stage, 0, count);
    }
}

static void try_stretches(struct builder *builder, int32_t stage)
{
    const struct hlm_bound_windows *windows = builder->windows;
    for (int32_t begin = windows->begin_min[stage]; begin <= windows->begin_max[stage]; begin++) {
        const int32_t first = windows->begin_min[stage + 1];
        for (int32_t end = first > begin ? first : begin; end <= windows->begin_max[stage + 1];
             end++) {
            try_choice(builder, stage, begin, end);
        }
    }
}

static bool make_choices(struct builder *builder)
{
    const bool uniform = hlm_pattern_set_is_uniform(builder->set);
    for (int32_t stage = 0; stage < builder->placement->num_stages; stage++) {
        builder->first[stage] = builder->num_choices;
        if (uniform) {
            try_counts(builder, stage);
        } else {
            try_stretches(builder, stage);
        }
        if (builder->num_choices == builder->first[stage]) {
            return false;
        }
    }
    builder->first[builder->placement->num_stages] = builder->num_choices;
    return true;
}

/* --- which rows --- */

static void add_assignment_rows(struct builder *builder)
{
    for (int32_t stage = 0; stage < builder->placement->num_stages; stage++) {
        const int32_t row = add_row(builder, 1.0, true);
        for (int32_t i = builder->first[stage]; i < builder->first[stage + 1]; i++) {
            add_entry(builder, row, builder->choices[i].column, 1.0);
        }
    }
}

static void add_count_row(struct builder *builder)
{
    const int32_t row = add_row(builder, builder->placement->num_layers, true);
    for (int32_t i = 0; i < builder->num_choices; i++) {
        add_entry(builder, row, builder->choices[i].column,
                  builder->choices[i].end - builder->choices[i].begin);
    }
}

/* Stage + 1 begins where stage ends. */
static void add_flow_rows(struct builder *builder, int32_t stage)
{
    const int32_t *first = builder->first;
    const int32_t low = builder->windows->begin_min[stage + 1];
    const int32_t high = builder->windows->begin_max[stage + 1];
    int32_t row = -1;
    for (int32_t at = low; at <= high; at++) {
        const int32_t made = add_row(builder, 0.0, true);
        row = at == low ? made : row;
    }
    for (int32_t i = first[stage]; i < first[stage + 1]; i++) {
        add_entry(builder, row + builder->choices[i].end - low, builder->choices[i].column, 1.0);
    }
    for (int32_t i = first[stage + 1]; i < first[stage + 2]; i++) {
        add_entry(builder, row + builder->choices[i].begin - low, builder->choices[i].column, -1.0);
    }
}

static void add_contiguity_rows(struct builder *builder)
{
    if (hlm_pattern_set_is_uniform(builder->set)) {
        add_count_row(builder);
        return;
    }
    for (int32_t stage = 0; stage + 1 < builder->placement->num_stages; stage++) {
        add_flow_rows(builder, stage);
    }
}

static double transfer(const struct builder *builder, int32_t stage)
{
    return stage + 1 < builder->placement->num_stages
               ? builder->placement->transfer_s[stage] / builder->unit_s
               : 0.0;
}

/* M_s >= loops S_s + own T_s + inner (S_s - S_l - 2 c_{l-1}), T_s = S_s - S_{s+1} - 2 c_s; l > s is
 * the stage behind the window (num_stages: none). Returns the row, for more entries. */
static int32_t add_loop_row(struct builder *builder, int32_t stage, double loops, double own,
                            double inner, int32_t behind)
{
    const int32_t p = builder->placement->num_stages;
    const double constant = -own * 2.0 * transfer(builder, stage) -
                            inner * 2.0 * (behind < p ? transfer(builder, behind - 1) : 0.0);
    const int32_t row = add_row(builder, constant, false);
    add_entry(builder, row, builder->end[stage], 1.0);
    add_entry(builder, row, builder->loop[stage], -(loops + own + inner));
    if (stage + 1 < p && behind == stage + 1) {
        add_entry(builder, row, builder->loop[stage + 1], own + inner);
        return row;
    }
    if (stage + 1 < p) {
        add_entry(builder, row, builder->loop[stage + 1], own);
    }
    if (behind < p) {
        add_entry(builder, row, builder->loop[behind], inner);
    }
    return row;
}

/* Row (4) for windows of `stages` stages. */
static void add_window_row(struct builder *builder, int32_t stage, int32_t stages)
{
    const int32_t rest =
        builder->placement->num_microbatches - 1 - (builder->placement->num_stages - stage);
    (void)add_loop_row(builder, stage, 2.0, rest % stages, rest / stages, stage + stages);
}

static void add_stage_rows(struct builder *builder, int32_t stage)
{
    const int32_t p = builder->placement->num_stages, w = p - stage;
    const int32_t m = builder->placement->num_microbatches;
    const int32_t in_flight = m < w ? m : w;
    (void)add_loop_row(builder, stage, 0.0, m, 0.0, p);
    const int32_t row = add_loop_row(builder, stage, 1.0, m - 1, 0.0, p);
    add_patterns(builder, row, stage, FORWARD, in_flight - 1);
    if (m - 1 < w) {
        return;
    }
    (void)add_loop_row(builder, stage, 1.0 + (m - 1) / w, (m - 1) % w, 0.0, p);
    if (w > 1) {
        add_window_row(builder, stage, 1);
    }
    if (w > 2) {
        add_window_row(builder, stage, 2);
    }
    if (w > 3) {
        add_window_row(builder, stage, w - 1);
    }
}

static void add_chain_rows(struct builder *builder, int32_t stage)
{
    const int32_t p = builder->placement->num_stages;
    const double c = transfer(builder, stage);
    int32_t row = add_row(builder, 2.0 * c, true);
    add_entry(builder, row, builder->loop[stage], 1.0);
    add_patterns(builder, row, stage, SECONDS, -1.0);
    const int32_t reduce = add_row(builder, 0.0, false);
    add_entry(builder, reduce, builder->step[stage], 1.0);
    add_entry(builder, reduce, builder->end[stage], -1.0);
    add_patterns(builder, reduce, stage, REDUCE, -1.0);
    if (stage + 1 == p) {
        return;
    }
    add_entry(builder, row, builder->loop[stage + 1], -1.0);
    /* T_s + 2 c_s is S_s - S_{s+1} */
    row = add_row(builder, 0.0, false);
    add_entry(builder, row, builder->end[stage], 1.0);
    add_entry(builder, row, builder->end[stage + 1], -1.0);
    add_entry(builder, row, builder->loop[stage], -1.0);
    add_entry(builder, row, builder->loop[stage + 1], 1.0);
    row = add_row(builder, c, false);
    add_entry(builder, row, builder->step[stage], 1.0);
    add_entry(builder, row, builder->step[stage + 1], -1.0);
    add_patterns(builder, row, stage, FORWARD, -1.0);
}

static void add_1f1b_rows(struct builder *builder)
{
    const int32_t p = builder->placement->num_stages;
    for (int32_t stage = 0; stage < p; stage++) {
        builder->loop[stage] = hlm_ilp_add_column(builder->ilp, 0.0, false);
        builder->end[stage] = hlm_ilp_add_column(builder->ilp, 0.0, false);
        builder->step[stage] = hlm_ilp_add_column(builder->ilp, stage == 0 ? 1.0 : 0.0, false);
    }
    for (int32_t stage = 0; stage < p; stage++) {
        add_chain_rows(builder, stage);
        add_stage_rows(builder, stage);
    }
}

/* A_s: sum of B + c from s on; B^_s: largest B from s on; H >= A_s + (m-1) B^_s + D_s. */
static void add_gpipe_stage(struct builder *builder, int32_t stage, int32_t forward_max,
                            int32_t tail)
{
    const bool is_last = stage + 1 == builder->placement->num_stages;
    const double rest = builder->placement->num_microbatches - 1;
    int32_t row = add_row(builder, 0.0, false);
    add_entry(builder, row, forward_max, 1.0);
    add_patterns(builder, row, stage, FORWARD, -1.0);
    row = add_row(builder, 0.0, false);
    add_entry(builder, row, builder->end[stage], 1.0);
    add_patterns(builder, row, stage, BACKWARD, -1.0);
    const int32_t sum = add_row(builder, transfer(builder, stage), true);
    add_entry(builder, sum, builder->loop[stage], 1.0);
    add_patterns(builder, sum, stage, BACKWARD, -1.0);
    row = add_row(builder, 0.0, false);
    add_entry(builder, row, tail, 1.0);
    add_entry(builder, row, builder->loop[stage], -1.0);
    add_entry(builder, row, builder->end[stage], -rest);
    add_patterns(builder, row, stage, REDUCE, -1.0);
    if (!is_last) {
        add_entry(builder, sum, builder->loop[stage + 1], -1.0);
        row = add_row(builder, 0.0, false);
        add_entry(builder, row, builder->end[stage], 1.0);
        add_entry(builder, row, builder->end[stage + 1], -1.0);
    }
}

/* The sum of all F + c is a variable of its own, as the constant c is to be multiplied by y. */
static void add_gpipe_rows(struct builder *builder)
{
    const int32_t p = builder->placement->num_stages;
    const int32_t forwards = hlm_ilp_add_column(builder->ilp, 1.0, false);
    const int32_t forward_max =
        hlm_ilp_add_column(builder->ilp, builder->placement->num_microbatches - 1, false);
    const int32_t tail = hlm_ilp_add_column(builder->ilp, 1.0, false);
    double transfers = 0.0;
    for (int32_t stage = 0; stage < p; stage++) {
        builder->loop[stage] = hlm_ilp_add_column(builder->ilp, 0.0, false);
        builder->end[stage] = hlm_ilp_add_column(builder->ilp, 0.0, false);
        transfers += transfer(builder, stage);
    }
    const int32_t row = add_row(builder, transfers, true);
    add_entry(builder, row, forwards, 1.0);
    for (int32_t stage = 0; stage < p; stage++) {
        add_patterns(builder, row, stage, FORWARD, -1.0);
        add_gpipe_stage(builder, stage, forward_max, tail);
    }
}

/* O and the constant Y. */
static void add_optimizer_rows(struct builder *builder)
{
    const int32_t optimizer = hlm_ilp_add_column(builder->ilp, 1.0, false);
    const double sync = builder->placement->sync_s / builder->unit_s;
    for (int32_t stage = 0; stage < builder->placement->num_stages; stage++) {
        const int32_t row = add_row(builder, sync, false);
        add_entry(builder, row, optimizer, 1.0);
        add_patterns(builder, row, stage, OPTIMIZER_STEP, -1.0);
    }
}

bool hlm_ilp_add_placement(struct hlm_ilp *ilp, struct hlm_pattern_set *set,
                           const struct hlm_bound_windows *windows, int32_t y, double unit_s,
                           struct hlm_ilp_placement *out)
{
    const struct hlm_placement *placement = hlm_pattern_set_placement(set);
    const int32_t p = placement->num_stages;
    struct builder builder = {.ilp = ilp,
                              .set = set,
                              .placement = placement,
                              .windows = windows,
                              .y = y,
                              .unit_s = unit_s,
                              .first = HLM_ARENA_ARRAY(ilp->arena, int32_t, p + 1),
                              .loop = HLM_ARENA_ARRAY(ilp->arena, int32_t, p),
                              .end = HLM_ARENA_ARRAY(ilp->arena, int32_t, p),
                              .step = HLM_ARENA_ARRAY(ilp->arena, int32_t, p)};
    if (!make_choices(&builder)) {
        return false;
    }
    add_assignment_rows(&builder);
    add_contiguity_rows(&builder);
    if (placement->schedule == HLM_SCHEDULE_GPIPE) {
        add_gpipe_rows(&builder);
    } else {
        add_1f1b_rows(&builder);
    }
    add_optimizer_rows(&builder);
    *out = (struct hlm_ilp_placement){
        .set = set, .y = y, .choices = builder.choices, .num_choices = builder.num_choices};
    return true;
}

void hlm_ilp_read_partition(const struct hlm_ilp_placement *placement, const double *values,
                            int32_t *ends)
{
    int32_t end = 0, num_stages = 0;
    for (int32_t i = 0; i < placement->num_choices; i++) {
        const struct hlm_ilp_choice *choice = &placement->choices[i];
        if (values[choice->column] > 0.5) {
            HLM_ASSERT(choice->stage == num_stages);
            end += choice->end - choice->begin;
            ends[num_stages++] = end;
        }
    }
    HLM_ASSERT(num_stages == hlm_pattern_set_placement(placement->set)->num_stages);
    HLM_ASSERT(end == hlm_pattern_set_placement(placement->set)->num_layers);
}
