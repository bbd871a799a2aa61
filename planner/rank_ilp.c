#include "planner/rank_ilp.h"

#include <math.h>

struct builder {
    struct hlm_ilp *ilp;
    struct hlm_rank_set *set;
    const struct hlm_rank_caps *caps;
    int32_t y;
    double unit_s;
    struct hlm_rank_ilp_choice *choices; /* by rank */
    int32_t num_choices;
};

/* --- rows --- */

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

/* --- which loads there are --- */

/* Layers that a rank has at least, because the others hold no more. */
static int32_t fewest(const struct builder *builder, int32_t rank)
{
    const int32_t num_ranks = hlm_rank_set_problem(builder->set)->order->num_ranks;
    int32_t left = hlm_rank_set_total(builder->set, true) + hlm_rank_set_total(builder->set, false);
    for (int32_t r = 0; r < num_ranks; r++) {
        left -= r == rank ? 0 : builder->caps->most[r];
    }
    return left > 0 ? left : 0;
}

static int32_t cap(const struct builder *builder, int32_t rank, int32_t minor)
{
    return builder->caps->most_major[rank * (hlm_rank_set_total(builder->set, false) + 1) + minor];
}

static int32_t count_loads(const struct builder *builder)
{
    const int32_t num_ranks = hlm_rank_set_problem(builder->set)->order->num_ranks;
    int32_t num = 0;
    for (int32_t r = 0; r < num_ranks; r++) {
        for (int32_t minor = 0; minor <= hlm_rank_set_total(builder->set, false); minor++) {
            num += 2 * (cap(builder, r, minor) + 1); /* with either placement */
        }
    }
    return num;
}

static void add_choice(struct builder *builder, int32_t rank, int32_t minor, int32_t major,
                       int32_t first)
{
    builder->choices[builder->num_choices++] = (struct hlm_rank_ilp_choice){
        rank, minor, major, first, hlm_ilp_add_column(builder->ilp, 0.0, true)};
}

/* A load, with all that its first stage can have of it. */
static void add_choices(struct builder *builder, int32_t rank, int32_t minor, int32_t major)
{
    if (!hlm_rank_set_is_placed(builder->set)) {
        add_choice(builder, rank, minor, major, -1);
        return;
    }
    const int32_t num = minor + major;
    for (int32_t first = num / 2; first <= num - num / 2; first++) {
        if (hlm_rank_load_has_first(builder->set, rank, minor, major, first)) {
            add_choice(builder, rank, minor, major, first);
        }
    }
}

static bool make_choices(struct builder *builder)
{
    const int32_t num_ranks = hlm_rank_set_problem(builder->set)->order->num_ranks;
    builder->choices =
        HLM_ARENA_ARRAY(builder->ilp->arena, struct hlm_rank_ilp_choice, count_loads(builder));
    for (int32_t r = 0; r < num_ranks; r++) {
        const int32_t before = builder->num_choices, least = fewest(builder, r);
        for (int32_t minor = 0; minor <= hlm_rank_set_total(builder->set, false); minor++) {
            const int32_t first = least > minor ? least - minor : 0;
            for (int32_t major = first; major <= cap(builder, r, minor); major++) {
                if (hlm_rank_load_get(builder->set, r, minor, major)->fits) {
                    add_choices(builder, r, minor, major);
                }
            }
        }
        if (builder->num_choices == before) {
            return false;
        }
    }
    return true;
}

/* --- the program --- */

static void add_assignment_rows(struct builder *builder)
{
    const int32_t minors = add_row(builder, hlm_rank_set_total(builder->set, false), true);
    const int32_t majors = add_row(builder, hlm_rank_set_total(builder->set, true), true);
    int32_t row = -1;
    for (int32_t i = 0; i < builder->num_choices; i++) {
        const struct hlm_rank_ilp_choice *choice = &builder->choices[i];
        if (i == 0 || choice->rank != builder->choices[i - 1].rank) {
            row = add_row(builder, 1.0, true);
        }
        add_entry(builder, row, choice->column, 1.0);
        add_entry(builder, minors, choice->column, choice->minor);
        add_entry(builder, majors, choice->column, choice->major);
    }
}

/* Minor layers that lead: a rank has some only behind one whose first stage has no others. */
static void add_order_rows(struct builder *builder)
{
    const int32_t num_ranks = hlm_rank_set_problem(builder->set)->order->num_ranks;
    for (int32_t r = 1; r < num_ranks; r++) {
        const int32_t row = add_row(builder, -1.0, false);
        for (int32_t i = 0; i < builder->num_choices; i++) {
            const struct hlm_rank_ilp_choice *choice = &builder->choices[i];
            const int32_t others =
                choice->first >= 0 ? choice->first - choice->minor : choice->major;
            if ((choice->rank == r && choice->minor > 0) || (choice->rank == r - 1 && others > 0)) {
                add_entry(builder, row, choice->column, -1.0);
            }
        }
    }
}

static void add_path_row(struct builder *builder, int32_t k, int32_t step)
{
    const int32_t row =
        add_row(builder, hlm_rank_row_constant_s(builder->set, k) / builder->unit_s, false);
    add_entry(builder, row, step, 1.0);
    for (int32_t i = 0; i < builder->num_choices; i++) {
        const struct hlm_rank_ilp_choice *choice = &builder->choices[i];
        const double seconds = hlm_rank_row_s(builder->set, k, choice->rank, choice->minor,
                                              choice->major, choice->first);
        add_entry(builder, row, choice->column, -seconds / builder->unit_s);
    }
}

static void add_optimizer_rows(struct builder *builder, int32_t optimizer)
{
    int32_t row = -1;
    for (int32_t i = 0; i < builder->num_choices; i++) {
        const struct hlm_rank_ilp_choice *choice = &builder->choices[i];
        if (i == 0 || choice->rank != builder->choices[i - 1].rank) {
            row = add_row(builder, 0.0, false);
            add_entry(builder, row, optimizer, 1.0);
        }
        const struct hlm_rank_load *load =
            hlm_rank_load_get(builder->set, choice->rank, choice->minor, choice->major);
        add_entry(builder, row, choice->column, -load->optimizer_s / builder->unit_s);
    }
}

bool hlm_rank_ilp_add(struct hlm_ilp *ilp, struct hlm_rank_set *set,
                      const struct hlm_rank_caps *caps, int32_t y, double unit_s,
                      struct hlm_rank_ilp *out)
{
    struct builder builder = {.ilp = ilp, .set = set, .caps = caps, .y = y, .unit_s = unit_s};
    if (!make_choices(&builder)) {
        return false;
    }
    add_assignment_rows(&builder);
    if (hlm_rank_set_is_led_by_minors(set)) {
        add_order_rows(&builder);
    }
    const int32_t step = hlm_ilp_add_column(ilp, 1.0, false);
    const int32_t optimizer = hlm_ilp_add_column(ilp, 1.0, false);
    for (int32_t k = 0; k < hlm_rank_set_problem(set)->num_rows; k++) {
        add_path_row(&builder, k, step);
    }
    add_optimizer_rows(&builder, optimizer);
    *out = (struct hlm_rank_ilp){
        .set = set, .choices = builder.choices, .num_choices = builder.num_choices};
    return true;
}

void hlm_rank_ilp_read(const struct hlm_rank_ilp *placement, const double *values, int32_t *minors,
                       int32_t *majors, int32_t *firsts)
{
    for (int32_t i = 0; i < placement->num_choices; i++) {
        const struct hlm_rank_ilp_choice *choice = &placement->choices[i];
        if (values[choice->column] > 0.5) {
            minors[choice->rank] = choice->minor;
            majors[choice->rank] = choice->major;
            firsts[choice->rank] = choice->first;
        }
    }
}

/* The solver stops within 1e-7 (1 + |objective|) of the optimum. */
static double proved_bound_s(const struct hlm_ilp_result *result, double unit_s)
{
    return (result->bound - 2e-7 * (1.0 + fabs(result->bound))) * unit_s;
}

enum hlm_ilp_outcome hlm_rank_glpk(struct hlm_arena *scratch, struct hlm_rank_set *set,
                                   const struct hlm_rank_caps *caps, double low_s,
                                   int32_t max_nodes, int32_t *minors, int32_t *majors,
                                   int32_t *firsts, double *out_bound_s, double *out_least_s,
                                   int32_t *out_nodes)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    const double unit_s = low_s / 1000.0;
    struct hlm_ilp ilp;
    hlm_ilp_init(&ilp, scratch);
    struct hlm_rank_ilp placement;
    struct hlm_ilp_result result = {.outcome = HLM_ILP_NO_BETTER};
    double *values = NULL;
    if (hlm_rank_ilp_add(&ilp, set, caps, -1, unit_s, &placement)) {
        values = HLM_ARENA_ARRAY(scratch, double, ilp.num_columns);
        result = hlm_ilp_solve(scratch, &ilp, max_nodes, values);
    }
    *out_least_s = low_s;
    *out_nodes = result.num_nodes;
    if (result.outcome == HLM_ILP_NO_BETTER) {
        *out_least_s = caps->cutoff_s;
    } else if (isfinite(result.bound)) {
        *out_least_s = fmax(low_s, proved_bound_s(&result, unit_s));
    }
    if (result.outcome == HLM_ILP_PROVED || result.outcome == HLM_ILP_INCUMBENT) {
        hlm_rank_ilp_read(&placement, values, minors, majors, firsts);
        *out_bound_s = hlm_rank_bound_s(set, minors, majors, firsts);
    }
    hlm_arena_rewind(scratch, mark);
    return result.outcome;
}
