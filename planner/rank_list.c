#include <math.h>
#include <string.h>

#include "planner/rank_list_internal.h"

/* Rows that are looked at in a listing, places of the table of one, and numbers that all of them
 * hold (a quarter of a gigabyte), at most. */
enum { MAX_ROWS = 4000, MAX_TABLE = 20000, MAX_NUMBERS = 1 << 25 };

struct load {
    int32_t minor, major, first; /* first: as for hlm_rank_row_s */
    double optimizer_s;
};

/* What a row of the problem says of loads. */
struct row {
    double *values; /* [num_loads] */
    double *rest;   /* [num_ranks + 1][minor total + 1][major total + 1]: least of the ranks from
                       this one on that have so many layers together */
    double *fixed;  /* [num_ranks + 1]: of the loads of the ranks in front, and the constant */
};

struct branching {
    struct hlm_rank_listing listing;
    struct hlm_rank_set *set;
    const struct hlm_rank_caps *caps;
    int32_t num_ranks, num_minor, num_major;
    int32_t *begins; /* [num_ranks + 1]: loads of a rank */
    struct load *loads;
    struct row *rows; /* [num_rows], room for max_rows */
    int32_t num_rows, max_rows;
    int32_t *chosen; /* [num_ranks]: index of the load */
    double *bounds;  /* [num_loads]: of a node's children */
};

/* --- loads --- */

/* Layers that a rank has at least, because the others hold no more. */
static int32_t fewest(const struct branching *branching, int32_t rank)
{
    int32_t left = branching->num_minor + branching->num_major;
    for (int32_t r = 0; r < branching->num_ranks; r++) {
        left -= r == rank ? 0 : branching->caps->most[r];
    }
    return left > 0 ? left : 0;
}

static int32_t cap(const struct branching *branching, int32_t rank, int32_t minor)
{
    return branching->caps->most_major[rank * (branching->num_minor + 1) + minor];
}

static int32_t add_load(struct branching *branching, int32_t num, int32_t rank, int32_t minor,
                        int32_t major)
{
    const struct hlm_rank_load *load = hlm_rank_load_get(branching->set, rank, minor, major);
    if (!load->fits) {
        return num;
    }
    const int32_t all = minor + major;
    const bool placed = hlm_rank_set_is_placed(branching->set);
    for (int32_t first = placed ? all / 2 : -1; first <= (placed ? all - all / 2 : -1); first++) {
        if (!placed || hlm_rank_load_has_first(branching->set, rank, minor, major, first)) {
            branching->loads[num++] = (struct load){minor, major, first, load->optimizer_s};
        }
    }
    return num;
}

static int32_t count_loads(const struct branching *branching)
{
    int32_t num = 0;
    for (int32_t r = 0; r < branching->num_ranks; r++) {
        for (int32_t minor = 0; minor <= branching->num_minor; minor++) {
            num += 2 * (cap(branching, r, minor) + 1);
        }
    }
    return num;
}

/* False: a rank has none. */
static bool make_loads(struct branching *branching)
{
    struct hlm_arena *kept = branching->listing.kept;
    int32_t num = 0;
    branching->loads = HLM_ARENA_ARRAY(kept, struct load, count_loads(branching));
    branching->begins = HLM_ARENA_ARRAY(kept, int32_t, branching->num_ranks + 1);
    for (int32_t r = 0; r < branching->num_ranks; r++) {
        const int32_t least = fewest(branching, r);
        for (int32_t minor = 0; minor <= branching->num_minor; minor++) {
            for (int32_t major = least > minor ? least - minor : 0;
                 major <= cap(branching, r, minor); major++) {
                num = add_load(branching, num, r, minor, major);
            }
        }
        branching->begins[r + 1] = num;
        if (num == branching->begins[r]) {
            return false;
        }
    }
    branching->bounds = HLM_ARENA_ARRAY(kept, double, num);
    return true;
}

/* Whether the load may follow those that are chosen: minor layers that lead stand behind no
 * others. */
static bool may_follow(const struct branching *branching, int32_t rank, const struct load *load)
{
    if (rank == 0 || load->minor == 0 || !hlm_rank_set_is_led_by_minors(branching->set)) {
        return true;
    }
    const struct load *before = &branching->loads[branching->chosen[rank - 1]];
    return (before->first >= 0 ? before->first - before->minor : before->major) == 0;
}

/* --- rows --- */

static size_t rest_at(const struct branching *branching, int32_t rank, int32_t minor, int32_t major)
{
    const size_t width = (size_t)branching->num_major + 1;
    const size_t size = ((size_t)branching->num_minor + 1) * width;
    return (size_t)rank * size + (size_t)minor * width + (size_t)major;
}

static void fill_rest(const struct branching *branching, struct row *row, int32_t rank)
{
    for (int32_t minor = 0; minor <= branching->num_minor; minor++) {
        for (int32_t major = 0; major <= branching->num_major; major++) {
            double least_s = INFINITY;
            for (int32_t i = branching->begins[rank]; i < branching->begins[rank + 1]; i++) {
                const struct load *load = &branching->loads[i];
                if (load->minor <= minor && load->major <= major) {
                    least_s = fmin(least_s,
                                   row->values[i] +
                                       row->rest[rest_at(branching, rank + 1, minor - load->minor,
                                                         major - load->major)]);
                }
            }
            row->rest[rest_at(branching, rank, minor, major)] = least_s;
        }
    }
}

/* Of the ranks in front of `rank` loads are chosen. */
static void read_row(struct branching *branching, int32_t index, int32_t rank)
{
    struct hlm_arena *kept = branching->listing.kept;
    struct row *row = &branching->rows[index];
    const int32_t p = branching->num_ranks;
    const size_t num_rest = rest_at(branching, p + 1, 0, 0);
    row->values = HLM_ARENA_ARRAY(kept, double, branching->begins[p]);
    row->rest = HLM_ARENA_ARRAY(kept, double, num_rest);
    row->fixed = HLM_ARENA_ARRAY(kept, double, p + 1);
    for (size_t i = rest_at(branching, p, 0, 0) + 1; i < num_rest; i++) {
        row->rest[i] = INFINITY;
    }
    for (int32_t r = p - 1; r >= 0; r--) {
        for (int32_t i = branching->begins[r]; i < branching->begins[r + 1]; i++) {
            const struct load *load = &branching->loads[i];
            row->values[i] =
                hlm_rank_row_s(branching->set, index, r, load->minor, load->major, load->first);
        }
        fill_rest(branching, row, r);
    }
    row->fixed[0] = hlm_rank_row_constant_s(branching->set, index);
    for (int32_t r = 0; r < rank; r++) {
        row->fixed[r + 1] = row->fixed[r] + row->values[branching->chosen[r]];
    }
    *branching->listing.work -= (double)num_rest;
}

/* Rows that the problem has got since. Those beyond the room bound stages, not loads. */
static void read_rows(struct branching *branching, int32_t rank)
{
    const int32_t num_rows = branching->listing.problem.num_rows;
    const int32_t wanted = num_rows < branching->max_rows ? num_rows : branching->max_rows;
    if (branching->num_rows < wanted) {
        hlm_rank_set_read_more_rows(branching->set);
    }
    while (branching->num_rows < wanted) {
        read_row(branching, branching->num_rows++, rank);
    }
}

static void make_room_for_rows(struct branching *branching)
{
    const size_t numbers = rest_at(branching, branching->num_ranks + 1, 0, 0) +
                           (size_t)branching->begins[branching->num_ranks];
    branching->max_rows =
        numbers < MAX_NUMBERS / MAX_ROWS ? MAX_ROWS : (int32_t)(MAX_NUMBERS / numbers);
    branching->rows = HLM_ARENA_ARRAY(branching->listing.kept, struct row, branching->max_rows);
}

/* --- stages of given loads --- */

/* Whether the ranks' stages have the layers of either kind that their loads say. */
static bool has_loads(const struct branching *branching)
{
    const struct hlm_rank_problem *problem = &branching->listing.problem;
    for (int32_t r = 0; branching->num_minor > 0 && r < branching->num_ranks; r++) {
        int32_t minor = 0;
        for (int32_t c = 0; c < problem->held[r].num_chunks; c++) {
            const int32_t s = problem->held[r].stages[c];
            const int32_t end = branching->listing.partition.ends[s];
            for (int32_t i = hlm_rank_stage_begin(&branching->listing.partition, s); i < end; i++) {
                minor += problem->layer_kinds[i] == hlm_rank_set_minor(branching->set) ? 1 : 0;
            }
        }
        if (minor != branching->loads[branching->chosen[r]].minor) {
            return false;
        }
    }
    return true;
}

/* Layers of the stages from `stage` on; more[r]: stages of the rank that are still to have one
 * more than the others. */
static void spread_from(struct branching *branching, int32_t stage, int32_t begin, int32_t *more,
                        int32_t *stages_left)
{
    struct hlm_rank_listing *listing = &branching->listing;
    const struct hlm_rank_problem *problem = &listing->problem;
    *listing->work -= 1.0;
    if (*listing->work <= 0.0) {
        return;
    }
    if (stage == problem->order->num_stages) {
        if (has_loads(branching)) {
            hlm_rank_try_options(listing);
        }
        return;
    }
    const int32_t rank = problem->order->stage_rank[stage];
    const struct load *load = &branching->loads[branching->chosen[rank]];
    const int32_t each = (load->minor + load->major) / problem->held[rank].num_chunks;
    stages_left[rank]--;
    for (int32_t extra = 0; extra <= 1; extra++) {
        const bool first_agrees = load->first < 0 || stage != problem->held[rank].stages[0] ||
                                  each + extra == load->first;
        if (more[rank] < extra || more[rank] - extra > stages_left[rank] || !first_agrees ||
            (each + extra == 0 && !problem->stages[stage].may_be_empty)) {
            continue;
        }
        more[rank] -= extra;
        listing->partition.ends[stage] = begin + each + extra;
        spread_from(branching, stage + 1, begin + each + extra, more, stages_left);
        more[rank] += extra;
    }
    stages_left[rank]++;
}

static void spread_loads(struct branching *branching)
{
    const struct hlm_rank_problem *problem = &branching->listing.problem;
    const struct hlm_arena_mark mark = hlm_arena_mark(branching->listing.scratch);
    int32_t *more = HLM_ARENA_ARRAY(branching->listing.scratch, int32_t, branching->num_ranks);
    int32_t *left = HLM_ARENA_ARRAY(branching->listing.scratch, int32_t, branching->num_ranks);
    for (int32_t r = 0; r < branching->num_ranks; r++) {
        const struct load *load = &branching->loads[branching->chosen[r]];
        left[r] = problem->held[r].num_chunks;
        more[r] = (load->minor + load->major) % left[r];
    }
    spread_from(branching, 0, 0, more, left);
    hlm_arena_rewind(branching->listing.scratch, mark);
}

/* --- the tree --- */

/* The bound of a node with one load more. */
static double child_bound(const struct branching *branching, int32_t rank, int32_t index,
                          int32_t minor, int32_t major, double optimizer_s)
{
    const struct load *load = &branching->loads[index];
    double bound_s = 0.0;
    if (load->minor > minor || load->major > major || !may_follow(branching, rank, load)) {
        return INFINITY;
    }
    const size_t rest = rest_at(branching, rank + 1, minor - load->minor, major - load->major);
    for (int32_t k = 0; k < branching->num_rows; k++) {
        const struct row *row = &branching->rows[k];
        bound_s = fmax(bound_s, row->fixed[rank] + row->values[index] + row->rest[rest]);
    }
    *branching->listing.work -= branching->num_rows;
    return bound_s + fmax(optimizer_s, load->optimizer_s);
}

static void choose(struct branching *branching, int32_t rank, int32_t index)
{
    branching->chosen[rank] = index;
    for (int32_t k = 0; k < branching->num_rows; k++) {
        struct row *row = &branching->rows[k];
        row->fixed[rank + 1] = row->fixed[rank] + row->values[index];
    }
}

/* The child of least bound of those not done (INFINITY); -1: none is within the cutoff. */
static int32_t best_child(const struct branching *branching, int32_t rank)
{
    int32_t best = -1;
    double least_s = branching->listing.cutoff_s;
    for (int32_t i = branching->begins[rank]; i < branching->begins[rank + 1]; i++) {
        if (branching->bounds[i] <= least_s && isfinite(branching->bounds[i])) {
            least_s = branching->bounds[i];
            best = i;
        }
    }
    return best;
}

/* Loads of the ranks from `rank` on, which have so many layers together; of the most promising
 * first. Its rows were learned in the meantime: bounds are looked at again before each step. */
static void branch(struct branching *branching, int32_t rank, int32_t minor, int32_t major,
                   double optimizer_s)
{
    if (rank == branching->num_ranks) {
        spread_loads(branching);
        return;
    }
    for (int32_t i = branching->begins[rank]; i < branching->begins[rank + 1]; i++) {
        branching->bounds[i] = child_bound(branching, rank, i, minor, major, optimizer_s);
    }
    for (int32_t i = best_child(branching, rank); i >= 0 && *branching->listing.work > 0.0;
         i = best_child(branching, rank)) {
        const struct load *load = &branching->loads[i];
        branching->bounds[i] = child_bound(branching, rank, i, minor, major, optimizer_s);
        if (branching->bounds[i] <= branching->listing.cutoff_s) {
            choose(branching, rank, i);
            branch(branching, rank + 1, minor - load->minor, major - load->major,
                   fmax(optimizer_s, load->optimizer_s));
            read_rows(branching, rank);
        }
        branching->bounds[i] = INFINITY;
    }
}

/* --- the listing --- */

static void listing_init(struct hlm_rank_listing *listing, struct hlm_arena *scratch,
                         const struct hlm_rank_problem *problem)
{
    const int32_t n = problem->order->num_stages;
    *listing = (struct hlm_rank_listing){
        .scratch = scratch,
        .kept = hlm_arena_new(),
        .problem = *problem,
        .partition = hlm_rank_partition_new(scratch, n),
        .costs = hlm_rank_costs_new(scratch, problem),
        .takes = HLM_ARENA_ARRAY(scratch, struct hlm_rank_take, n),
        .options =
            HLM_ARENA_ARRAY(scratch, const struct hlm_rank_option *, problem->order->num_ranks)};
}

/* Whether tables of rows have a size that pays. */
static bool has_tables(const struct branching *branching)
{
    return rest_at(branching, branching->num_ranks + 1, 0, 0) <= MAX_TABLE;
}

bool hlm_rank_list(struct hlm_arena *scratch, const struct hlm_rank_problem *problem,
                   const struct hlm_rank_caps *caps, double *work, hlm_rank_visit *visit,
                   void *context)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    struct branching branching = {.caps = caps, .num_ranks = problem->order->num_ranks};
    listing_init(&branching.listing, scratch, problem);
    branching.listing.cutoff_s = caps->cutoff_s;
    branching.listing.work = work;
    branching.listing.visit = visit;
    branching.listing.context = context;
    branching.set =
        hlm_rank_set_new(branching.listing.kept, &branching.listing.problem, caps->cutoff_s);
    branching.num_minor = hlm_rank_set_total(branching.set, false);
    branching.num_major = hlm_rank_set_total(branching.set, true);
    branching.chosen = HLM_ARENA_ARRAY(branching.listing.kept, int32_t, branching.num_ranks);
    if (!has_tables(&branching)) {
        *work = 0.0;
    } else if (make_loads(&branching)) {
        make_room_for_rows(&branching);
        read_rows(&branching, 0);
        branch(&branching, 0, branching.num_minor, branching.num_major, 0.0);
    }
    hlm_arena_free(branching.listing.kept);
    hlm_arena_rewind(scratch, mark);
    return *work > 0.0;
}
