/* cpu_step: times training steps of the demo's model on one core through the executor, as `hlmplan
 * run` would, and prints one JSON line like bench/pytorch_cpu_step.py does. bench/cpu_step runs
 * both and prints the ratio.
 *
 *     bench_cpu_step [microbatch_size [steps]]
 */
#include <stdio.h>
#include <stdlib.h>

#include "cli/demo_model.h"
#include "exec/rank.h"

static const struct hlm_gemm_curve gemm = {.layout = HLM_GEMM_ANY,
                                           .form = HLM_GEMM_FORM_LINEAR,
                                           .flops_per_s = 100e9,
                                           .bytes_per_s = 10e9};
static const struct hlm_device_dtype fp32 = {
    .dtype = HLM_DTYPE_FP32, .peak_flops_per_s = 100e9, .gemm = &gemm, .num_gemm = 1};

/* A plan must name a device; what it promises is not looked at here. */
static struct hlm_cluster one_core(struct hlm_device_group *group)
{
    *group = (struct hlm_device_group){
        .name = "core",
        .device = {.name = "core",
                   .backend = HLM_BACKEND_CPU,
                   .memory_bytes = (int64_t)8 << 30,
                   .dtypes = &fp32,
                   .num_dtypes = 1,
                   .memory = {.bytes_per_s = 10e9, .peak_bytes_per_s = 20e9},
                   .shared_memory_slowdown = 1.0},
        .num_nodes = 1,
        .devices_per_node = 1,
        .intra_node = {.bandwidth_bytes_per_s = 10e9},
        .nics_per_node = 1,
        .nic_bandwidth_bytes_per_s = 1e9,
        .nvlink_domain = 1};
    return (struct hlm_cluster){
        .name = "core", .groups = group, .num_groups = 1, .oversubscription = 1.0};
}

static enum hlm_status make_plan(struct hlm_arena *arena, int64_t microbatch_size,
                                 const struct hlm_plan **out, struct hlm_err *err)
{
    static struct hlm_device_group group;
    static struct hlm_cluster cluster;
    cluster = one_core(&group);
    struct hlm_strategy strategy = {.dp = 1,
                                    .tp = 1,
                                    .pp = 1,
                                    .schedule = HLM_SCHEDULE_1F1B,
                                    .microbatch_size = microbatch_size,
                                    .global_batch_size = HLM_DEMO_GLOBAL_BATCH,
                                    .seq_len = HLM_DEMO_SEQ_LEN,
                                    .dtype = HLM_DTYPE_FP32,
                                    .lowering = HLM_LOWERING_HLMPLAN};
    hlm_strategy_complete(&strategy);
    const struct hlm_model *model = hlm_demo_model(arena);
    const struct hlm_plan_stage *stages = NULL;
    int32_t num_stages = 0;
    HLM_TRY(hlm_plan_even_stages(arena, model, &cluster, &strategy, HLM_RECOMPUTE_NONE, &stages,
                                 &num_stages, err));
    return hlm_plan_price(arena, model, &cluster, &strategy, stages, num_stages, out, NULL, err);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Medians over the steps behind the warm-up; the step's CPU time is the sum of its actions'. */
static void print_line(const struct hlm_measurement *measured)
{
    double wall_s[1000];
    int32_t n = 0;
    for (int32_t i = measured->num_warmup_steps; i < measured->num_steps && n < 1000; i++) {
        wall_s[n++] = measured->steps[i].wall_s;
    }
    qsort(wall_s, (size_t)n, sizeof(*wall_s), compare_doubles);
    double cpu_s = 0.0;
    const struct hlm_timeline_rank *rank = &measured->timeline.ranks[0];
    for (int32_t i = 0; i < rank->num_events; i++) {
        cpu_s += rank->events[i].cpu_s;
    }
    const double tokens = HLM_DEMO_GLOBAL_BATCH * HLM_DEMO_SEQ_LEN;
    printf("{\"step_s\": %.6f, \"step_cpu_s\": %.6f, \"tokens_per_s\": %.1f, "
           "\"tokens_per_cpu_s\": %.1f}\n",
           wall_s[n / 2], cpu_s, tokens / wall_s[n / 2], tokens / cpu_s);
}

static enum hlm_status run(struct hlm_arena *arena, int64_t microbatch_size, int32_t steps,
                           struct hlm_err *err)
{
    const struct hlm_plan *plan = NULL;
    struct hlm_backend *backend = NULL;
    struct hlm_comm *comm = NULL;
    const struct hlm_measurement *measured = NULL;
    HLM_TRY(make_plan(arena, microbatch_size, &plan, err));
    const struct hlm_comm_config comm_config = {
        .strategy = &plan->strategy, .timeout_s = 60.0, .max_bytes = 1 << 20};
    HLM_TRY(hlm_backend_cpu_new(&backend, err));
    HLM_TRY(hlm_comm_thread_new(&comm_config, &comm, err));
    const struct hlm_rank_config config = {.plan = plan,
                                           .seed = 1234,
                                           .num_steps = steps + 2,
                                           .num_warmup_steps = 2,
                                           .optimizer = hlm_optimizer_default,
                                           .backend = "cpu",
                                           .transport = "thread",
                                           .backend_library = "",
                                           .num_cores = 1};
    HLM_TRY(hlm_rank_run(arena, &config, backend, comm, NULL, &measured, err));
    print_line(measured);
    hlm_comm_free(comm);
    hlm_backend_free(backend);
    return HLM_OK;
}

int main(int argc, char **argv)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err = {0};
    const int64_t microbatch_size = argc > 1 ? strtoll(argv[1], NULL, 10) : 1;
    const int32_t steps = argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : 5;
    const enum hlm_status status = run(arena, microbatch_size, steps, &err);
    if (status != HLM_OK) {
        fprintf(stderr, "bench_cpu_step: %s\n", err.text);
    }
    hlm_arena_free(arena);
    return (int)status;
}
