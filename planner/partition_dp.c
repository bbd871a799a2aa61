#include "planner/partition_dp.h"

#include <math.h>

/* A way to fill the stages from one on. */
struct node {
    struct hlm_bound_label label;
    int32_t end;             /* of the stage's own layers */
    const struct node *rest; /* of the next stage; NULL behind the last */
};

struct node_list {
    struct node **nodes;
    int32_t num_nodes, capacity;
};

struct tables {
    struct hlm_arena *arena;
    struct hlm_pattern_set *set;
    const struct hlm_placement *placement;
    const struct hlm_bound_windows *windows;
    double cutoff_s;
    struct node_list *lists; /* [num_stages][num_layers + 1], by begin */
};

static struct node_list *list_at(const struct tables *tables, int32_t stage, int32_t begin)
{
    return &tables->lists[(size_t)stage * (size_t)(tables->placement->num_layers + 1) +
                          (size_t)begin];
}

static bool dominates(const struct hlm_bound_label *a, const struct hlm_bound_label *b)
{
    for (int32_t i = 0; i < HLM_BOUND_LABEL_SIZE; i++) {
        if (a->value[i] > b->value[i]) {
            return false;
        }
    }
    return true;
}

static void list_append(struct hlm_arena *arena, struct node_list *list, struct node *node)
{
    if (list->num_nodes == list->capacity) {
        const int32_t capacity = list->capacity == 0 ? 8 : 2 * list->capacity;
        struct node **nodes = HLM_ARENA_ARRAY(arena, struct node *, capacity);
        for (int32_t i = 0; i < list->num_nodes; i++) {
            nodes[i] = list->nodes[i];
        }
        list->nodes = nodes;
        list->capacity = capacity;
    }
    list->nodes[list->num_nodes++] = node;
}

/* Keeps the new label unless one that is there is at least as good; drops those that it beats. */
static void list_add(struct hlm_arena *arena, struct node_list *list, const struct node *candidate)
{
    for (int32_t i = 0; i < list->num_nodes; i++) {
        if (dominates(&list->nodes[i]->label, &candidate->label)) {
            return;
        }
    }
    int32_t num_kept = 0;
    for (int32_t i = 0; i < list->num_nodes; i++) {
        if (!dominates(&candidate->label, &list->nodes[i]->label)) {
            list->nodes[num_kept++] = list->nodes[i];
        }
    }
    list->num_nodes = num_kept;
    list_append(arena, list, hlm_arena_memdup(arena, candidate, sizeof(*candidate)));
}

/* Adds what [begin, end) on the stage makes of the ways to go on at end. */
static void add_ways(struct tables *tables, int32_t stage, int32_t begin, int32_t end)
{
    const struct hlm_placement *placement = tables->placement;
    const struct hlm_pattern *pattern = hlm_pattern_get(tables->set, stage, begin, end);
    if (pattern == NULL) {
        return;
    }
    const struct node_list *rest = list_at(tables, stage + 1, end);
    for (int32_t i = 0; i < rest->num_nodes; i++) {
        struct node node = {.end = end, .rest = rest->nodes[i]};
        hlm_bound_extend(placement, stage, pattern, &rest->nodes[i]->label, &node.label);
        if (hlm_bound_label_least(placement, tables->windows, stage, begin, &node.label) <=
            tables->cutoff_s) {
            list_add(tables->arena, list_at(tables, stage, begin), &node);
        }
    }
}

static void fill_stage(struct tables *tables, int32_t stage)
{
    const struct hlm_bound_windows *windows = tables->windows;
    for (int32_t begin = windows->begin_min[stage]; begin <= windows->begin_max[stage]; begin++) {
        const int32_t first = windows->begin_min[stage + 1];
        for (int32_t end = first > begin ? first : begin; end <= windows->begin_max[stage + 1];
             end++) {
            add_ways(tables, stage, begin, end);
        }
    }
}

/* The tables of all partitions whose last stage begins at last_begin. */
static void fill_tables(struct tables *tables, int32_t last_begin)
{
    const struct hlm_placement *placement = tables->placement;
    const int32_t last = placement->num_stages - 1;
    tables->lists =
        HLM_ARENA_ARRAY(tables->arena, struct node_list,
                        (size_t)placement->num_stages * (size_t)(placement->num_layers + 1));
    const struct hlm_pattern *pattern =
        hlm_pattern_get(tables->set, last, last_begin, placement->num_layers);
    if (pattern == NULL) {
        return;
    }
    static const struct hlm_bound_label nothing;
    struct node node = {.end = placement->num_layers};
    hlm_bound_extend(placement, last, pattern, &nothing, &node.label);
    list_add(tables->arena, list_at(tables, last, last_begin), &node);
    for (int32_t stage = last - 1; stage >= 0; stage--) {
        fill_stage(tables, stage);
    }
}

static void take_best(const struct tables *tables, bool *found, struct hlm_partition *out)
{
    const struct node_list *list = list_at(tables, 0, 0);
    for (int32_t i = 0; i < list->num_nodes; i++) {
        const struct node *node = list->nodes[i];
        const double bound_s = hlm_bound_finish(tables->placement, &node->label);
        if (bound_s > tables->cutoff_s || (*found && bound_s >= out->bound_s)) {
            continue;
        }
        *found = true;
        out->bound_s = bound_s;
        for (int32_t stage = 0; node != NULL; stage++, node = node->rest) {
            out->ends[stage] = node->end;
        }
    }
}

static struct tables init_tables(struct hlm_arena *arena, struct hlm_pattern_set *set,
                                 const struct hlm_bound_windows *windows)
{
    return (struct tables){.arena = arena,
                           .set = set,
                           .placement = hlm_pattern_set_placement(set),
                           .windows = windows,
                           .cutoff_s = windows->cutoff_s};
}

bool hlm_partition_dp(struct hlm_arena *arena, struct hlm_pattern_set *set,
                      const struct hlm_bound_windows *windows, struct hlm_partition *out)
{
    struct tables tables = init_tables(arena, set, windows);
    const int32_t last = tables.placement->num_stages - 1;
    bool found = false;
    for (int32_t begin = windows->begin_min[last]; begin <= windows->begin_max[last]; begin++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(arena);
        fill_tables(&tables, begin);
        take_best(&tables, &found, out);
        if (found) {
            tables.cutoff_s = out->bound_s;
        }
        hlm_arena_rewind(arena, mark);
    }
    return found;
}

/* --- all partitions below a cutoff --- */

struct listing {
    struct tables *tables;
    hlm_partition_visit *visit;
    void *context;
    const struct hlm_pattern **patterns; /* [num_stages]: of the prefix */
    struct hlm_partition partition;
};

/* The bound of the prefix with the stages of `node` behind it; num_prefix stages in front. */
static double prefix_bound_s(const struct listing *listing, int32_t num_prefix,
                             const struct node *node)
{
    const struct hlm_placement *placement = listing->tables->placement;
    struct hlm_bound_label label = node->label;
    for (int32_t stage = num_prefix - 1; stage >= 0; stage--) {
        struct hlm_bound_label longer;
        hlm_bound_extend(placement, stage, listing->patterns[stage], &label, &longer);
        label = longer;
    }
    return hlm_bound_finish(placement, &label);
}

static bool prefix_can_go_on(const struct listing *listing, int32_t num_prefix, int32_t begin)
{
    const struct node_list *list = list_at(listing->tables, num_prefix, begin);
    for (int32_t i = 0; i < list->num_nodes; i++) {
        if (prefix_bound_s(listing, num_prefix, list->nodes[i]) <= listing->tables->cutoff_s) {
            return true;
        }
    }
    return false;
}

/* Stages in front of `stage` are chosen; the last stage has one choice only. */
static void list_from(struct listing *listing, int32_t stage, int32_t begin)
{
    struct tables *tables = listing->tables;
    const struct hlm_placement *placement = tables->placement;
    if (!prefix_can_go_on(listing, stage, begin)) {
        return;
    }
    if (stage == placement->num_stages - 1) {
        listing->partition.ends[stage] = placement->num_layers;
        listing->partition.bound_s = hlm_bound_partition(tables->set, listing->partition.ends);
        tables->cutoff_s = listing->visit(listing->context, &listing->partition);
        return;
    }
    const int32_t first = tables->windows->begin_min[stage + 1];
    for (int32_t end = first > begin ? first : begin; end <= tables->windows->begin_max[stage + 1];
         end++) {
        listing->patterns[stage] = hlm_pattern_get(tables->set, stage, begin, end);
        if (listing->patterns[stage] != NULL) {
            listing->partition.ends[stage] = end;
            list_from(listing, stage + 1, end);
        }
    }
}

void hlm_partition_list(struct hlm_arena *arena, struct hlm_pattern_set *set,
                        const struct hlm_bound_windows *windows, hlm_partition_visit *visit,
                        void *context)
{
    struct tables tables = init_tables(arena, set, windows);
    const int32_t last = tables.placement->num_stages - 1;
    for (int32_t begin = windows->begin_min[last]; begin <= windows->begin_max[last]; begin++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(arena);
        fill_tables(&tables, begin);
        struct listing listing = {
            .tables = &tables,
            .visit = visit,
            .context = context,
            .patterns =
                HLM_ARENA_ARRAY(arena, const struct hlm_pattern *, tables.placement->num_stages),
            .partition.ends = HLM_ARENA_ARRAY(arena, int32_t, tables.placement->num_stages)};
        list_from(&listing, 0, 0);
        hlm_arena_rewind(arena, mark);
    }
}
