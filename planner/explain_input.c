#include "planner/explain_input.h"

#include <math.h>

#define X(name, text) text,
const char *const hlm_explain_input_texts[] = {HLM_EXPLAIN_INPUT_MAP(X) NULL};
#undef X

#define COPY(arena, array, count) hlm_arena_memdup(arena, array, (size_t)(count) * sizeof(*(array)))

/* Factors of the two terms of a time alpha + bytes / bandwidth. */
struct rates {
    double latency, bandwidth;
};

/* The shortest of the measured times stands for the latency in all of them. */
static const struct hlm_curve_point *scale_points(struct hlm_arena *arena,
                                                  const struct hlm_curve_point *points,
                                                  int32_t num_points, struct rates rates)
{
    struct hlm_curve_point *scaled = COPY(arena, points, num_points);
    double least_s = INFINITY;
    for (int32_t i = 0; i < num_points; i++) {
        least_s = fmin(least_s, points[i].seconds);
    }
    for (int32_t i = 0; i < num_points; i++) {
        scaled[i].seconds =
            rates.latency * least_s + (points[i].seconds - least_s) / rates.bandwidth;
    }
    return scaled;
}

static void scale_link(struct hlm_arena *arena, struct hlm_link *link, struct rates rates)
{
    link->alpha_s *= rates.latency;
    link->alpha_rendezvous_s *= rates.latency;
    link->hop_alpha_s *= rates.latency;
    link->bandwidth_bytes_per_s *= rates.bandwidth;
    link->points = scale_points(arena, link->points, link->num_points, rates);
}

/* --- collectives --- */

static void scale_curve(struct hlm_arena *arena, struct hlm_collective_curve *curve,
                        struct rates rates, double ceiling_bytes_per_s)
{
    struct hlm_collective_piece *pieces = COPY(arena, curve->pieces, curve->num_pieces);
    for (int32_t i = 0; i < curve->num_pieces; i++) {
        const double rate = pieces[i].bus_bandwidth_bytes_per_s;
        pieces[i].alpha_s *= rates.latency;
        pieces[i].bus_bandwidth_bytes_per_s =
            fmin(rate * rates.bandwidth, fmax(rate, ceiling_bytes_per_s));
    }
    curve->pieces = pieces;
}

/* Those measured on one node take its link, those on several the network, up to what the node's
 * link carries. */
static void scale_collectives(struct hlm_arena *arena, struct hlm_device_group *group,
                              struct rates inside, struct rates across)
{
    struct hlm_collective_curve *curves = COPY(arena, group->collectives, group->num_collectives);
    for (int32_t i = 0; i < group->num_collectives; i++) {
        const bool one_node = curves[i].num_nodes == 1;
        scale_curve(arena, &curves[i], one_node ? inside : across,
                    one_node ? (double)INFINITY : group->intra_node.bandwidth_bytes_per_s);
    }
    group->collectives = curves;
}

/* --- what each input changes in a group --- */

static void scale_memory(struct hlm_arena *arena, struct hlm_device_group *group, double factor)
{
    (void)arena;
    group->device.memory_bytes = (int64_t)floor((double)group->device.memory_bytes * factor);
}

static void scale_row_compute(struct hlm_arena *arena, struct hlm_device_dtype *row, double factor)
{
    struct hlm_gemm_curve *gemm = COPY(arena, row->gemm, row->num_gemm);
    struct hlm_attention_curve *attention = COPY(arena, row->attention, row->num_attention);
    row->peak_flops_per_s *= factor;
    for (int32_t i = 0; i < row->num_gemm; i++) {
        gemm[i].flops_per_s *= factor;
        gemm[i].tile_start_s /= factor;
    }
    for (int32_t i = 0; i < row->num_attention; i++) {
        attention[i].flops_per_s *= factor;
        attention[i].t_head_s /= factor;
        attention[i].score_s /= factor;
    }
    row->gemm = gemm;
    row->attention = attention;
}

static void scale_row_bandwidth(struct hlm_arena *arena, struct hlm_device_dtype *row,
                                double factor)
{
    struct hlm_gemm_curve *gemm = COPY(arena, row->gemm, row->num_gemm);
    struct hlm_attention_curve *attention = COPY(arena, row->attention, row->num_attention);
    for (int32_t i = 0; i < row->num_gemm; i++) {
        gemm[i].bytes_per_s *= factor;
    }
    for (int32_t i = 0; i < row->num_attention; i++) {
        attention[i].bytes_per_s *= factor;
    }
    row->gemm = gemm;
    row->attention = attention;
}

static void scale_rows(struct hlm_arena *arena, struct hlm_device *device, double factor,
                       void (*scale)(struct hlm_arena *arena, struct hlm_device_dtype *row,
                                     double factor))
{
    struct hlm_device_dtype *rows = COPY(arena, device->dtypes, device->num_dtypes);
    for (int32_t i = 0; i < device->num_dtypes; i++) {
        scale(arena, &rows[i], factor);
    }
    device->dtypes = rows;
}

static void scale_compute(struct hlm_arena *arena, struct hlm_device_group *group, double factor)
{
    scale_rows(arena, &group->device, factor, scale_row_compute);
}

static void scale_bandwidth(struct hlm_arena *arena, struct hlm_device_group *group, double factor)
{
    struct hlm_device *device = &group->device;
    scale_rows(arena, device, factor, scale_row_bandwidth);
    device->memory.bytes_per_s *= factor;
    device->memory.peak_bytes_per_s *= factor;
    struct hlm_op_curve *ops = COPY(arena, device->ops, device->num_ops);
    for (int32_t i = 0; i < device->num_ops; i++) {
        ops[i].points =
            scale_points(arena, ops[i].points, ops[i].num_points, (struct rates){1.0, factor});
    }
    device->ops = ops;
}

static void scale_intra(struct hlm_arena *arena, struct hlm_device_group *group, double factor)
{
    const struct rates faster = {1.0, factor}, same = {1.0, 1.0};
    scale_link(arena, &group->intra_node, faster);
    scale_collectives(arena, group, faster, same);
}

static void scale_inter(struct hlm_arena *arena, struct hlm_device_group *group, double factor)
{
    const struct rates faster = {1.0, factor}, same = {1.0, 1.0};
    group->nic_bandwidth_bytes_per_s *= factor;
    scale_collectives(arena, group, same, faster);
}

static void scale_latency(struct hlm_arena *arena, struct hlm_device_group *group, double factor)
{
    const struct rates shorter = {factor, 1.0};
    scale_link(arena, &group->intra_node, shorter);
    scale_collectives(arena, group, shorter, shorter);
}

/* What an input changes in each group (NULL: nothing), and the part of its factor that links
 * between nodes get. */
struct input_row {
    void (*scale_group)(struct hlm_arena *arena, struct hlm_device_group *group, double factor);
    bool link_latency, link_bandwidth;
};
static const struct input_row rows[HLM_NUM_EXPLAIN_INPUTS] = {
    [HLM_EXPLAIN_INPUT_DEVICE_MEMORY] = {scale_memory, false, false},
    [HLM_EXPLAIN_INPUT_COMPUTE] = {scale_compute, false, false},
    [HLM_EXPLAIN_INPUT_MEMORY_BANDWIDTH] = {scale_bandwidth, false, false},
    [HLM_EXPLAIN_INPUT_INTRA_NODE_BANDWIDTH] = {scale_intra, false, false},
    [HLM_EXPLAIN_INPUT_INTER_NODE_BANDWIDTH] = {scale_inter, false, true},
    [HLM_EXPLAIN_INPUT_LATENCY] = {scale_latency, true, false},
    [HLM_EXPLAIN_INPUT_GLOBAL_BATCH] = {NULL, false, false}};

static const struct hlm_cluster *scale_cluster(struct hlm_arena *arena,
                                               const struct hlm_cluster *cluster,
                                               const struct input_row *row, double factor)
{
    struct hlm_cluster *scaled = COPY(arena, cluster, 1);
    struct hlm_device_group *groups = COPY(arena, cluster->groups, cluster->num_groups);
    struct hlm_inter_link *links = COPY(arena, cluster->links, cluster->num_links);
    for (int32_t i = 0; i < cluster->num_groups; i++) {
        row->scale_group(arena, &groups[i], factor);
    }
    for (int32_t i = 0; i < cluster->num_links; i++) {
        scale_link(
            arena, &links[i].link,
            (struct rates){row->link_latency ? factor : 1.0, row->link_bandwidth ? factor : 1.0});
    }
    scaled->groups = groups;
    scaled->links = links;
    return scaled;
}

void hlm_explain_input_scale(struct hlm_arena *arena, struct hlm_search_problem *problem,
                             enum hlm_explain_input input, double factor)
{
    HLM_ASSERT(factor > 0.0);
    if (rows[input].scale_group != NULL) {
        problem->cluster = scale_cluster(arena, problem->cluster, &rows[input], factor);
    } else {
        problem->global_batch_size = (int64_t)floor((double)problem->global_batch_size * factor);
    }
}
