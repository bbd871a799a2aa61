/* How fast steps are simulated: actions a CPU-second, by schedule, and the time of one step. Ranks
 * that differ in dp, tp and cp do the same at the same time, so a step of thousands of ranks is one
 * of pp ranks (tests/oracle/test_folded_world.c holds it against one of all ranks). The last rows
 * are whole steps of plans: with prices of all operators, the schedule built, memory checked and
 * the parts summed up, as `estimate` does it. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "planner/plan.h"
#include "schedule/simulate_paths.h"

static double cpu_s(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double *fill(struct hlm_arena *arena, int32_t num, double value)
{
    double *values = HLM_ARENA_ARRAY(arena, double, num);
    for (int32_t i = 0; i < num; i++) {
        values[i] = value * (1.0 + 0.01 * (i % 7));
    }
    return values;
}

static double order_s(struct hlm_arena *arena, const struct hlm_schedule *schedule,
                      const struct hlm_sim_order **out)
{
    struct hlm_err err;
    const double start_s = cpu_s();
    if (hlm_sim_order_new(arena, schedule, out, &err) != HLM_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return cpu_s() - start_s;
}

static void measure(enum hlm_schedule_kind kind, int32_t pp, int32_t vpp, int32_t num_microbatches)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_schedule *schedule = NULL;
    const struct hlm_sim_order *order = NULL;
    if (hlm_schedule_build(arena, kind, pp, vpp, num_microbatches, &schedule, &err) != HLM_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    const int32_t n = pp * vpp;
    const struct hlm_sim_costs costs = {.forward_s = fill(arena, n, 1.0),
                                        .backward_s = fill(arena, n, 2.0),
                                        .input_grad_s = fill(arena, n, 1.1),
                                        .weight_grad_s = fill(arena, n, 0.9),
                                        .send_forward_s = fill(arena, n, 0.01),
                                        .send_backward_s = fill(arena, n, 0.01)};
    const double making_s = order_s(arena, schedule, &order);
    double seconds = 0.0, start_s = cpu_s(), sum_s = 0.0;
    int32_t times = 0;
    for (; seconds < 0.2; times++, seconds = cpu_s() - start_s) {
        sum_s += hlm_sim_order_step(arena, order, &costs);
    }
    start_s = cpu_s();
    (void)hlm_sim_path_rows(arena, order, &costs);
    const double rows_s = cpu_s() - start_s;
    printf("%-13s %4d %4d %6d %9d %9.2f %9.3f %9.1f %9.2f  %.1f\n", hlm_schedule_texts[kind], pp,
           vpp, num_microbatches, order->num_places, 1e3 * making_s, 1e3 * seconds / times,
           1e-6 * order->num_places * times / seconds, 1e3 * rows_s, sum_s / times);
    hlm_arena_free(arena);
}

struct whole_step {
    const char *model, *cluster;
    struct hlm_strategy strategy;
};
/* The plans that the search finds. */
static const struct whole_step whole_steps[] = {
    {"llama3.1-405b",
     "h100-sxm:2048x8",
     {.dp = 16,
      .tp = 2,
      .pp = 64,
      .cp = 8,
      .vpp = 2,
      .sp = true,
      .zero = 1,
      .schedule = HLM_SCHEDULE_ZB_V,
      .microbatch_size = 1,
      .global_batch_size = 2048}},
    {"megatron-1t",
     "h100-sxm:2048x8",
     {.dp = 32,
      .tp = 4,
      .pp = 64,
      .cp = 2,
      .vpp = 2,
      .sp = true,
      .zero = 1,
      .schedule = HLM_SCHEDULE_ZB_V,
      .microbatch_size = 1,
      .global_batch_size = 3072}},
};

static void load_step(struct hlm_arena *arena, const struct whole_step *step,
                      const struct hlm_model **model, const struct hlm_cluster **cluster)
{
    struct hlm_err err;
    if (hlm_model_load(arena, step->model, model, &err) != HLM_OK ||
        hlm_cluster_load(arena, step->cluster, cluster, &err) != HLM_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
}

static void measure_whole(const struct whole_step *step)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    const struct hlm_cluster *cluster = NULL;
    const struct hlm_plan_stage *stages = NULL;
    const struct hlm_plan *plan = NULL;
    struct hlm_plan_simulation simulation = {0};
    int32_t num_stages = 0;
    load_step(arena, step, &model, &cluster);
    struct hlm_strategy strategy = step->strategy;
    strategy.seq_len = model->seq_len;
    strategy.dtype = hlm_cluster_best_dtype(cluster);
    hlm_strategy_complete(&strategy);
    enum hlm_status status =
        hlm_plan_even_stages(arena, model, cluster, &strategy, -1, &stages, &num_stages, &err);
    double start_s = cpu_s();
    if (status == HLM_OK) {
        status = hlm_plan_price(arena, model, cluster, &strategy, stages, num_stages, &plan,
                                &simulation, &err);
    }
    if (status != HLM_OK) {
        fprintf(stderr, "%s: %s\n", step->model, err.text);
        exit(1);
    }
    const double price_s = cpu_s() - start_s;
    start_s = cpu_s();
    const bool again = hlm_simulate(arena, simulation.schedule, &simulation.costs, NULL, false,
                                    &simulation.result, &err) == HLM_OK;
    const double simulate_s = cpu_s() - start_s;
    printf("%-13s %6d %-10s %4d %5lld %9.2f %11.2f  %.3f\n", step->model, plan->num_ranks,
           hlm_schedule_texts[strategy.schedule], strategy.pp, (long long)strategy.num_microbatches,
           1e3 * price_s, again ? 1e3 * simulate_s : 0.0, simulation.result.step_s);
    hlm_arena_free(arena);
}

int main(void)
{
    printf("%-13s %4s %4s %6s %9s %9s %9s %9s %9s  %s\n", "schedule", "pp", "vpp", "m", "actions",
           "order ms", "step ms", "M/s", "rows ms", "step");
    for (int kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        const int32_t vpp = hlm_schedule_chunks((enum hlm_schedule_kind)kind).min;
        measure((enum hlm_schedule_kind)kind, 16, vpp, 96);
        measure((enum hlm_schedule_kind)kind, 64, vpp, 512);
    }
    printf("\n%-13s %6s %-10s %4s %5s %9s %11s  %s\n", "whole step", "ranks", "schedule", "pp", "m",
           "all ms", "simulate ms", "step s");
    for (size_t i = 0; i < sizeof(whole_steps) / sizeof(whole_steps[0]); i++) {
        measure_whole(&whole_steps[i]);
    }
    return 0;
}
