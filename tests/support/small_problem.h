/* small_problem: a model of a few layers and a cluster of a few devices, small enough that every
 * plan can be tried, for the tests of the search. */
#ifndef HLM_TESTS_SUPPORT_SMALL_PROBLEM_H
#define HLM_TESTS_SUPPORT_SMALL_PROBLEM_H

#include "planner/search.h"
#include "tests/support/check.h"

struct small_problem {
    struct hlm_model model;
    struct hlm_cluster cluster;
    struct hlm_device_group group;
    struct hlm_host host;
    struct hlm_search_problem problem;
};

/* gpt2-small cut to num_layers, on one node of num_devices V100 with memory_bytes each. */
static inline void small_problem_init(struct hlm_arena *arena, struct small_problem *small,
                                      int32_t num_layers, int32_t num_devices, int64_t memory_bytes,
                                      int64_t batch)
{
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    const struct hlm_cluster *cluster = NULL;
    check_ok(hlm_model_load(arena, "gpt2-small", &model, &err), &err);
    check_ok(hlm_cluster_load(arena, "v100-sxm2-32g:1x4", &cluster, &err), &err);
    small->model = *model;
    small->model.num_layers = num_layers;
    small->model.vocab_size = 5000;
    small->cluster = *cluster;
    small->group = cluster->groups[0];
    small->group.devices_per_node = num_devices;
    small->group.nvlink_domain = num_devices;
    small->group.device.memory_bytes = memory_bytes;
    small->group.device.fixed_memory_bytes = 64LL << 20;
    small->host = (struct hlm_host){.memory_bytes = 1e12,
                                    .memory_bandwidth_bytes_per_s = 100e9,
                                    .link_bandwidth_bytes_per_s = 12e9};
    small->group.host = &small->host;
    small->cluster.groups = &small->group;
    small->problem = (struct hlm_search_problem){
        .model = &small->model,
        .cluster = &small->cluster,
        .global_batch_size = batch,
        .seq_len = 512,
        .dtype = HLM_DTYPE_FP16,
        .lowering = HLM_LOWERING_HLMPLAN,
        .require = {.sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1},
        .max_gap_frac = 0.01,
        .top_k = 3};
}

static inline void small_problem_wait_for_both_sides(struct small_problem *small)
{
    small->group.intra_node.needs_both_sides = true;
    small->group.intra_node.alpha_s = 2e-4;
    small->group.intra_node.alpha_rendezvous_s = 2e-4;
}

#endif
