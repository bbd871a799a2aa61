/* What the search costs: columns, bounds, programs, nodes, simulations, CPU seconds and gap over
 * the full space, for problems from a few devices to 16,384. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "planner/search.h"

struct problem {
    const char *model, *cluster;
    int64_t batch;
};
static const struct problem problems[] = {
    {"gpt2-small", "v100-sxm2-32g:1x8", 64},   {"llama2-7b", "a100-sxm-80g:4x8", 256},
    {"llama2-70b", "a100-sxm-80g:16x8", 512},  {"mixtral-8x7b", "h100-sxm:8x8", 512},
    {"gpt3-175b", "a100-sxm-80g:128x8", 1536}, {"llama3.1-405b", "h100-sxm:2048x8", 2048},
    {"megatron-1t", "h100-sxm:2048x8", 3072},  {"deepseek-v3", "h100-sxm:2048x8", 15360},
};

static double cpu_s(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void search_one(const struct problem *row)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_search_problem problem = {
        .global_batch_size = row->batch,
        .lowering = HLM_LOWERING_HLMPLAN,
        .require = {.sp = -1, .zero = -1, .schedule = -1, .recompute = -1, .offload = -1},
        .max_gap_frac = 0.01,
        .top_k = 3};
    const struct hlm_plan *plan = NULL;
    if (hlm_model_load(arena, row->model, &problem.model, &err) != HLM_OK ||
        hlm_cluster_load(arena, row->cluster, &problem.cluster, &err) != HLM_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    problem.dtype = hlm_cluster_best_dtype(problem.cluster);
    problem.seq_len = problem.model->seq_len;
    const double start_s = cpu_s();
    if (hlm_search(arena, &problem, NULL, NULL, &plan, &err) != HLM_OK) {
        fprintf(stderr, "%s on %s: %s\n", row->model, row->cluster, err.text);
        exit(1);
    }
    const double search_s = cpu_s() - start_s;
    const struct hlm_plan_certificate *certificate = plan->certificate;
    const struct hlm_strategy *best = &plan->strategy;
    printf("%-14s %-20s %9lld %8lld %8lld %6lld %7lld %6lld %9.3f %8.3f %8.4f  dp=%d tp=%d pp=%d "
           "cp=%d vpp=%d "
           "ep=%d mbs=%lld sp=%d zero=%d %s\n",
           row->model, row->cluster, (long long)certificate->num_columns,
           (long long)certificate->num_infeasible, (long long)certificate->num_bounds,
           (long long)certificate->num_ilps, (long long)certificate->num_nodes,
           (long long)certificate->num_simulated, search_s, 100.0 * certificate->gap_frac,
           plan->prediction.step_time_s, best->dp, best->tp, best->pp, best->cp, best->vpp,
           best->ep, (long long)best->microbatch_size, best->sp, best->zero,
           hlm_schedule_texts[best->schedule]);
    hlm_arena_free(arena);
}

int main(int argc, char **argv)
{
    printf("%-14s %-20s %9s %8s %8s %6s %7s %6s %9s %8s %8s  %s\n", "model", "cluster", "columns",
           "misfits", "bounds", "ILPs", "nodes", "sims", "CPU s", "gap %", "step s", "best");
    for (size_t i = 0; i < sizeof(problems) / sizeof(problems[0]); i++) {
        if (argc < 2 || strcmp(argv[1], problems[i].model) == 0) {
            search_one(&problems[i]);
            fflush(stdout);
        }
    }
    return 0;
}
