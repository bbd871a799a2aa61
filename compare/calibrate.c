#include "compare/calibrate.h"

#include <string.h>

#include "compare/compare.h"
#include "costmodel/op.h"

static const double least_factor = 0.05, most_factor = 20.0;
static const double least_share = 0.01; /* of the step, below which a ratio is noise */

static double part_s(const struct hlm_time_node *step, const char *name)
{
    for (int32_t i = 0; i < step->num_parts; i++) {
        if (strcmp(step->parts[i].name, name) == 0) {
            return step->parts[i].seconds;
        }
    }
    return 0.0;
}

static double parts_s(const struct hlm_time_node *step, const char *one, const char *other)
{
    return part_s(step, one) + part_s(step, other);
}

/* measured / predicted; 1 where either is too small a part of its step to say anything. */
static double factor(double predicted_s, double measured_s, double predicted_step_s,
                     double measured_step_s)
{
    return predicted_s < least_share * predicted_step_s ||
                   measured_s < least_share * measured_step_s
               ? 1.0
               : measured_s / predicted_s;
}

static enum hlm_status check_factor(const char *where, const char *what, double value,
                                    struct hlm_err *err)
{
    return value >= least_factor && value <= most_factor
               ? HLM_OK
               : hlm_fail(err, HLM_INPUT,
                          "%s: $.parts: %s is %g times what the plan predicted; a calibration "
                          "explains %g to %g",
                          where, what, value, least_factor, most_factor);
}

/* --- scaling; `times` multiplies seconds --- */

struct scaling {
    struct hlm_arena *arena;
    double times;
    const struct hlm_source *source;
};

/* A factor moves all points of a fit alike: they lie as far apart as before. */
static struct hlm_source source_of(const struct scaling *scaling, const struct hlm_source *before)
{
    struct hlm_source source = *scaling->source;
    source.spread_frac = before->spread_frac;
    return source;
}

static const struct hlm_curve_point *scale_points(const struct scaling *scaling,
                                                  const struct hlm_curve_point *points,
                                                  int32_t num_points)
{
    struct hlm_curve_point *scaled =
        HLM_ARENA_ARRAY(scaling->arena, struct hlm_curve_point, num_points);
    for (int32_t i = 0; i < num_points; i++) {
        scaled[i] = (struct hlm_curve_point){points[i].bytes, points[i].seconds * scaling->times};
    }
    return scaled;
}

static const struct hlm_gemm_curve *scale_gemm(const struct scaling *scaling,
                                               const struct hlm_gemm_curve *curves, int32_t num)
{
    struct hlm_gemm_curve *scaled = HLM_ARENA_ARRAY(scaling->arena, struct hlm_gemm_curve, num);
    for (int32_t i = 0; i < num; i++) {
        scaled[i] = curves[i];
        scaled[i].t0_s *= scaling->times;
        scaled[i].flops_per_s /= scaling->times;
        scaled[i].bytes_per_s /= scaling->times;
        scaled[i].tile_start_s *= scaling->times;
        scaled[i].pack_s *= scaling->times;
        scaled[i].source = source_of(scaling, &curves[i].source);
    }
    return scaled;
}

static const struct hlm_attention_curve *scale_attention(const struct scaling *scaling,
                                                         const struct hlm_attention_curve *curves,
                                                         int32_t num)
{
    struct hlm_attention_curve *scaled =
        HLM_ARENA_ARRAY(scaling->arena, struct hlm_attention_curve, num);
    for (int32_t i = 0; i < num; i++) {
        scaled[i] = curves[i];
        scaled[i].t0_s *= scaling->times;
        scaled[i].t_head_s *= scaling->times;
        scaled[i].score_s *= scaling->times;
        scaled[i].flops_per_s /= scaling->times;
        scaled[i].bytes_per_s /= scaling->times;
        scaled[i].source = source_of(scaling, &curves[i].source);
    }
    return scaled;
}

static bool is_optimizer_op(const char *name)
{
    static const enum hlm_op_kind kinds[] = {HLM_OP_FILL_ZERO, HLM_OP_SUM_SQUARES, HLM_OP_ADAMW};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(name, hlm_op_texts[kinds[i]]) == 0) {
            return true;
        }
    }
    return false;
}

static void scale_device(struct hlm_device *device, const struct scaling *compute,
                         const struct scaling *optimizer)
{
    struct hlm_arena *arena = compute->arena;
    struct hlm_device_dtype *dtypes =
        HLM_ARENA_ARRAY(arena, struct hlm_device_dtype, device->num_dtypes);
    for (int32_t i = 0; i < device->num_dtypes; i++) {
        dtypes[i] = device->dtypes[i];
        dtypes[i].gemm = scale_gemm(compute, dtypes[i].gemm, dtypes[i].num_gemm);
        dtypes[i].attention =
            scale_attention(compute, dtypes[i].attention, dtypes[i].num_attention);
    }
    struct hlm_op_curve *ops = HLM_ARENA_ARRAY(arena, struct hlm_op_curve, device->num_ops);
    for (int32_t i = 0; i < device->num_ops; i++) {
        const struct scaling *scaling = is_optimizer_op(device->ops[i].op) ? optimizer : compute;
        ops[i] = device->ops[i];
        ops[i].points = scale_points(scaling, ops[i].points, ops[i].num_points);
        ops[i].source = source_of(scaling, &device->ops[i].source);
    }
    device->dtypes = dtypes;
    device->ops = ops;
    device->memory.t0_s *= compute->times;
    device->memory.bytes_per_s /= compute->times;
    device->memory.source = source_of(compute, &device->memory.source);
}

static void scale_link(struct hlm_link *link, const struct scaling *scaling)
{
    link->alpha_s *= scaling->times;
    link->alpha_rendezvous_s *= scaling->times;
    link->hop_alpha_s *= scaling->times;
    link->bandwidth_bytes_per_s /= scaling->times;
    link->points = scale_points(scaling, link->points, link->num_points);
    link->source = source_of(scaling, &link->source);
}

static const struct hlm_collective_curve *
scale_collectives(const struct scaling *scaling, const struct hlm_collective_curve *curves,
                  int32_t num)
{
    struct hlm_collective_curve *scaled =
        HLM_ARENA_ARRAY(scaling->arena, struct hlm_collective_curve, num);
    for (int32_t i = 0; i < num; i++) {
        struct hlm_collective_piece *pieces =
            HLM_ARENA_ARRAY(scaling->arena, struct hlm_collective_piece, curves[i].num_pieces);
        for (int32_t k = 0; k < curves[i].num_pieces; k++) {
            pieces[k] = curves[i].pieces[k];
            pieces[k].alpha_s *= scaling->times;
            pieces[k].bus_bandwidth_bytes_per_s /= scaling->times;
        }
        scaled[i] = curves[i];
        scaled[i].pieces = pieces;
        scaled[i].source = source_of(scaling, &curves[i].source);
    }
    return scaled;
}

static void scale_links(struct hlm_cluster *cluster, struct hlm_device_group *groups,
                        const struct scaling *scaling)
{
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        scale_link(&groups[g].intra_node, scaling);
        groups[g].nic_bandwidth_bytes_per_s /= scaling->times;
        groups[g].collectives =
            scale_collectives(scaling, groups[g].collectives, groups[g].num_collectives);
    }
    struct hlm_inter_link *links =
        HLM_ARENA_ARRAY(scaling->arena, struct hlm_inter_link, cluster->num_links);
    for (int32_t i = 0; i < cluster->num_links; i++) {
        links[i] = cluster->links[i];
        scale_link(&links[i].link, scaling);
    }
    cluster->links = links;
}

static const struct hlm_cluster *scale_cluster(const struct hlm_plan *plan,
                                               const struct scaling *compute,
                                               const struct scaling *optimizer,
                                               const struct scaling *links)
{
    struct hlm_arena *arena = compute->arena;
    struct hlm_cluster *cluster = HLM_ARENA_NEW(arena, struct hlm_cluster);
    *cluster = plan->cluster;
    struct hlm_device_group *groups =
        hlm_arena_memdup(arena, cluster->groups, (size_t)cluster->num_groups * sizeof(*groups));
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        scale_device(&groups[g].device, compute, optimizer);
    }
    cluster->groups = groups;
    if (links->times != 1.0) {
        scale_links(cluster, groups, links);
    }
    return cluster;
}

static enum hlm_status find_factors(const struct hlm_time_node *predicted,
                                    const struct hlm_measurement *measurement, const char *where,
                                    struct hlm_calibration *out, struct hlm_err *err)
{
    if (!measurement->virtual_time && measurement->num_clean_steps == 0) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.num_clean_steps: expected at least 1, found 0: the machine was busy "
                        "with other work; run again, or with --virtual-time",
                        where);
    }
    const struct hlm_time_node *measured = &measurement->parts;
    const double predicted_s = predicted->seconds, measured_s = measured->seconds;
    const double compute_s = parts_s(measured, "forward", "backward");
    if (compute_s <= 0.0) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: $.parts: expected the parts forward and backward, found neither",
                        where);
    }
    out->compute = compute_s / parts_s(predicted, "forward", "backward");
    out->optimizer = factor(part_s(predicted, "optimizer"), part_s(measured, "optimizer"),
                            predicted_s, measured_s);
    out->links = measurement->virtual_time || out->links_emulated
                     ? 1.0
                     : factor(parts_s(predicted, "tensor_parallel", "data_parallel"),
                              parts_s(measured, "tensor_parallel", "data_parallel"), predicted_s,
                              measured_s);
    HLM_TRY(check_factor(where, "forward and backward", out->compute, err));
    HLM_TRY(check_factor(where, "optimizer", out->optimizer, err));
    return check_factor(where, "communication", out->links, err);
}

static double judged_s(const struct hlm_time_node *step, bool computing)
{
    return computing ? hlm_compare_computed_s(step) : step->seconds;
}

enum hlm_status hlm_calibrate(struct hlm_arena *arena, const struct hlm_plan *plan,
                              const struct hlm_measurement *measurement, const char *where,
                              const char *date, struct hlm_calibration *out, struct hlm_err *err)
{
    struct hlm_time_node promise;
    HLM_TRY(hlm_compare_promise(arena, plan, measurement, where, &promise, err));
    struct hlm_calibration result = {.links_emulated = measurement->emulated_rank >= 0};
    result.before_s = judged_s(&promise, result.links_emulated);
    result.measured_s = result.links_emulated ? hlm_compare_computed_s(&measurement->parts)
                                              : measurement->step_time_s;
    HLM_TRY(find_factors(&promise, measurement, where, &result, err));
    const struct hlm_source source = {
        .kind = HLM_SOURCE_MEASURED,
        .reference = hlm_arena_printf(
            arena, "calibrated by a run of %s on %s, %d ranks (%s%s)", plan->model.name,
            measurement->machine.cpu_model, measurement->num_ranks, measurement->backend,
            result.links_emulated
                ? hlm_arena_printf(arena, ", rank %d alone", measurement->emulated_rank)
                : ""),
        .date = date,
        .num_samples = measurement->num_clean_steps};
    const struct scaling compute = {arena, result.compute, &source};
    const struct scaling optimizer = {arena, result.optimizer, &source};
    const struct scaling links = {arena, result.links, &source};
    result.cluster = scale_cluster(plan, &compute, &optimizer, &links);
    const struct hlm_plan *again = NULL;
    HLM_TRY(hlm_plan_price(arena, &plan->model, result.cluster, &plan->strategy, plan->stages,
                           plan->num_stages, &again, NULL, err));
    HLM_TRY(hlm_compare_promise(arena, again, measurement, where, &promise, err));
    result.after_s = judged_s(&promise, result.links_emulated);
    *out = result;
    return HLM_OK;
}
