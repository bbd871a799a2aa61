/* Predicted against published collectives across nodes. The model is asked without the measured
 * curves over several nodes, as it prices all the groups that nobody has measured. */
#include "tests/support/check.h"
#include "tests/support/table.h"

#include "costmodel/collective.h"

/* Columns: system gpu op ngpus nnodes bytes dtype time_us busbw_gbs lib config src */
struct net_case {
    const char *system, *op, *config; /* config: part of the column */
    enum hlm_collective collective;
    int32_t num_ranks, num_nodes;
    const char *cluster;
    double max_median; /* of the relative error at 1 MiB and more */
    int min_rows;
};

static const struct net_case cases[] = {
    {"A100x8-8xHDRIB-Sophia", "all_reduce", "", HLM_ALL_REDUCE, 16, 2, "dgx-a100", 0.10, 10},
    {"A100x8-8xHDRIB-Sophia", "all_gather", "", HLM_ALL_GATHER, 16, 2, "dgx-a100", 0.10, 10},
    {"A100x8-8xHDRIB-Sophia", "alltoall", "", HLM_ALL_TO_ALL, 16, 2, "dgx-a100", 0.10, 10},
    {"H100x8-8xNDR400IB", "all_reduce", "", HLM_ALL_REDUCE, 16, 2, "dgx-h100", 0.20, 14},
    {"H100x8-8xNDR400IB", "all_reduce", "", HLM_ALL_REDUCE, 32, 4, "dgx-h100", 0.15, 14},
    {"H100x8-8xNDR400IB", "all_reduce", "", HLM_ALL_REDUCE, 64, 8, "dgx-h100", 0.15, 14},
    {"H200x8-a3ultra-8x400G", "all_gather", "", HLM_ALL_GATHER, 16, 2, "dgx-h200", 0.10, 14},
};
enum { NUM_CASES = sizeof cases / sizeof cases[0] };

/* The cluster without what was measured across nodes. */
static const struct hlm_cluster *forget(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                                        int32_t num_nodes)
{
    struct hlm_cluster *copy = hlm_arena_memdup(arena, cluster, sizeof *cluster);
    struct hlm_device_group *group =
        hlm_arena_memdup(arena, cluster->groups, sizeof cluster->groups[0]);
    struct hlm_collective_curve *curves =
        HLM_ARENA_ARRAY(arena, struct hlm_collective_curve, group->num_collectives);
    int32_t num = 0;
    for (int32_t i = 0; i < group->num_collectives; i++) {
        if (group->collectives[i].num_nodes == 1) {
            curves[num++] = group->collectives[i];
        }
    }
    group->num_nodes = num_nodes;
    group->collectives = curves;
    group->num_collectives = num;
    copy->groups = group;
    return copy;
}

static void use_row(char *const *fields, const struct hlm_cluster *const *bare,
                    const struct hlm_cluster *const *full, struct error_list *model,
                    struct error_list *with_curve)
{
    for (int i = 0; i < NUM_CASES; i++) {
        const struct net_case *c = &cases[i];
        const double bytes = atof(fields[5]);
        if (strcmp(fields[0], c->system) != 0 || strcmp(fields[2], c->op) != 0 ||
            atoi(fields[3]) != c->num_ranks || atoi(fields[4]) != c->num_nodes ||
            strstr(fields[10], c->config) == NULL || bytes < 1048576.0) {
            continue;
        }
        const struct hlm_group_shape shape = {.num_ranks = c->num_ranks,
                                              .num_nodes = c->num_nodes,
                                              .ranks_per_node = c->num_ranks / c->num_nodes,
                                              .groups_per_node = 1};
        const double measured_s = atof(fields[7]) * 1e-6;
        error_add(&model[i], hlm_collective_seconds(bare[i], 0, c->collective, bytes, shape),
                  measured_s);
        error_add(&with_curve[i], hlm_collective_seconds(full[i], 0, c->collective, bytes, shape),
                  measured_s);
    }
}

static void test_across_nodes(void **state)
{
    (void)state;
    FILE *file = fopen(TABLE_FOLDER "/collectives.csv", "r");
    if (file == NULL) {
        skip();
        return;
    }
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_cluster *bare[NUM_CASES], *full[NUM_CASES];
    struct error_list model[NUM_CASES] = {0}, with_curve[NUM_CASES] = {0};
    for (int i = 0; i < NUM_CASES; i++) {
        check_ok(hlm_cluster_load(arena, cases[i].cluster, &full[i], &err), &err);
        bare[i] = forget(arena, full[i], cases[i].num_nodes);
    }
    char line[1000], *fields[TABLE_MAX_FIELDS];
    while (fgets(line, sizeof line, file) != NULL) {
        if (table_split(line, fields) == 12) {
            use_row(fields, bare, full, model, with_curve);
        }
    }
    fclose(file);
    for (int i = 0; i < NUM_CASES; i++) {
        const struct net_case *c = &cases[i];
        const double median = error_quantile(&model[i], 0.5);
        print_message("%-21s %-10s %2d ranks %d nodes, %3d sizes: model median error %.1f %%, p90 "
                      "%.1f %%; with measured curve %.1f %%\n",
                      c->system, c->op, (int)c->num_ranks, (int)c->num_nodes, model[i].num,
                      100.0 * median, 100.0 * error_quantile(&model[i], 0.9),
                      100.0 * error_quantile(&with_curve[i], 0.5));
        assert_true(model[i].num >= c->min_rows);
        assert_true(median <= c->max_median);
        assert_true(error_quantile(&with_curve[i], 0.5) <= fmax(0.05, median));
        free(model[i].values);
        free(with_curve[i].values);
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_across_nodes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
