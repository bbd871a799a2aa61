#include "compare/validate_price.h"

#include "costmodel/stage_cost.h"
#include "schedule/simulate.h"

/* Bytes beyond any device's and any host's. A time is wanted even where we think that it does not
 * fit, since it ran. */
static const double any_bytes = 0x1p50;

/* A run whose recompute is not stated had the least that fitted. Predicted memory is off by about a
 * tenth (the tables say by how much), and a tenth too much must not cost a whole forward. */
static const double slack = 1.1;

static double capacity(const struct hlm_validate_problem *problem)
{
    return (double)problem->cluster->groups[0].device.memory_bytes;
}

static const struct hlm_cluster *with_memory(struct hlm_arena *arena,
                                             const struct hlm_cluster *cluster, double bytes)
{
    struct hlm_cluster *copy = hlm_arena_memdup(arena, cluster, sizeof *cluster);
    struct hlm_device_group *groups = hlm_arena_memdup(
        arena, cluster->groups, (size_t)cluster->num_groups * sizeof cluster->groups[0]);
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        groups[g].device.memory_bytes = (int64_t)bytes;
        if (groups[g].host != NULL) {
            struct hlm_host *host = hlm_arena_memdup(arena, groups[g].host, sizeof *groups[g].host);
            host->memory_bytes = any_bytes;
            groups[g].host = host;
        }
    }
    copy->groups = groups;
    return copy;
}

static enum hlm_status price_plan(struct hlm_arena *arena,
                                  const struct hlm_validate_problem *problem,
                                  struct hlm_validate_price *out, struct hlm_err *err)
{
    const struct hlm_plan_stage *stages = NULL;
    const struct hlm_plan *plan = NULL;
    int32_t num_stages = 0;
    HLM_TRY(hlm_plan_even_stages(
        arena, problem->model, with_memory(arena, problem->cluster, slack * capacity(problem)),
        &problem->strategy, problem->recompute, &stages, &num_stages, err));
    HLM_TRY(hlm_plan_price(arena, problem->model, with_memory(arena, problem->cluster, any_bytes),
                           &problem->strategy, stages, num_stages, &plan, NULL, err));
    *out = (struct hlm_validate_price){.step_s = plan->prediction.step_time_s,
                                       .parts = &plan->prediction.parts};
    for (int32_t s = 0; s < plan->prediction.num_memory; s++) {
        const double bytes = (double)plan->prediction.memory[s].peak_bytes;
        out->peak_bytes = bytes > out->peak_bytes ? bytes : out->peak_bytes;
    }
    return HLM_OK;
}

/* ---- several stages a rank ---- */

struct chunked {
    struct hlm_arena *arena;
    const struct hlm_validate_problem *problem;
    struct hlm_strategy strategy; /* with one chunk, which is all that blocks depend on */
    struct hlm_pricer pricer;
    const struct hlm_schedule *schedule;
    struct hlm_stage_cost *stages; /* [num_stages] */
};

/* Every stage recomputes `full` of its layers fully (or all that it has), the rest by `mode`. */
static enum hlm_status make_stages(struct chunked *chunked, int32_t mode, int32_t full,
                                   struct hlm_err *err)
{
    const struct hlm_validate_problem *problem = chunked->problem;
    const struct hlm_plan_stage *even = NULL;
    int32_t num = 0;
    HLM_TRY(hlm_plan_even_stages(chunked->arena, problem->model, problem->cluster,
                                 &problem->strategy, mode, &even, &num, err));
    struct hlm_plan_stage *placed =
        hlm_arena_memdup(chunked->arena, even, (size_t)num * sizeof *even);
    chunked->stages = HLM_ARENA_ARRAY(chunked->arena, struct hlm_stage_cost, num);
    for (int32_t s = 0; s < num; s++) {
        struct hlm_plan_recompute *recompute = &placed[s].recompute;
        const int32_t moved = full < placed[s].num_layers ? full : placed[s].num_layers;
        if (mode == HLM_RECOMPUTE_SELECTIVE) {
            *recompute = (struct hlm_plan_recompute){0, placed[s].num_layers - moved, moved};
        }
        struct hlm_stage_shape shape = hlm_plan_stage_shape(problem->model, placed, num, s);
        shape.stage = chunked->schedule->stage_rank[s];
        hlm_stage_cost(&chunked->pricer, &shape, &chunked->stages[s]);
    }
    return HLM_OK;
}

/* Seconds of a message from stage s to s + 1, whose ranks are neighbours, or the last and the
 * first; 0 on one rank. */
static double boundary_s(const struct chunked *chunked, int32_t stage)
{
    const int32_t from = chunked->schedule->stage_rank[stage];
    const int32_t to = chunked->schedule->stage_rank[stage + 1];
    const int32_t low = from < to ? from : to, high = from < to ? to : from;
    bool both_sides = false;
    return from == to
               ? 0.0
               : hlm_stage_send_s(&chunked->pricer, high == low + 1 ? low : high, &both_sides);
}

static struct hlm_sim_costs make_costs(const struct chunked *chunked)
{
    struct hlm_arena *arena = chunked->arena;
    const int32_t n = chunked->schedule->num_stages;
    double *forward = HLM_ARENA_ARRAY(arena, double, n),
           *backward = HLM_ARENA_ARRAY(arena, double, n);
    double *input = HLM_ARENA_ARRAY(arena, double, n), *weight = HLM_ARENA_ARRAY(arena, double, n);
    double *down = HLM_ARENA_ARRAY(arena, double, n), *up = HLM_ARENA_ARRAY(arena, double, n);
    double *reduce = HLM_ARENA_ARRAY(arena, double, n),
           *optimizer = HLM_ARENA_ARRAY(arena, double, n);
    for (int32_t s = 0; s < n; s++) {
        const struct hlm_stage_cost *stage = &chunked->stages[s];
        forward[s] = stage->forward.seconds;
        backward[s] = stage->backward.seconds;
        input[s] = stage->input_grad.seconds;
        weight[s] = stage->weight_grad.seconds;
        reduce[s] = stage->reduce_s;
        optimizer[s] = stage->optimizer_s;
        if (s + 1 < n) {
            down[s] = up[s + 1] = boundary_s(chunked, s);
        }
    }
    return (struct hlm_sim_costs){
        .forward_s = forward,
        .backward_s = backward,
        .input_grad_s = input,
        .weight_grad_s = weight,
        .send_forward_s = down,
        .send_backward_s = up,
        .reduce_s = reduce,
        .optimizer_s = optimizer,
        .sync_s = hlm_stage_sync_s(&chunked->pricer),
        .overlap_reduce = hlm_lowering_framework(chunked->strategy.lowering)->overlaps_dp};
}

static struct hlm_sim_memory make_memory(const struct chunked *chunked)
{
    struct hlm_arena *arena = chunked->arena;
    const int32_t n = chunked->schedule->num_stages;
    int64_t *fixed = HLM_ARENA_ARRAY(arena, int64_t, chunked->schedule->num_ranks);
    int64_t *slots = HLM_ARENA_ARRAY(arena, int64_t, n),
            *transient = HLM_ARENA_ARRAY(arena, int64_t, n);
    for (int32_t r = 0; r < chunked->schedule->num_ranks; r++) {
        fixed[r] = chunked->pricer.fixed_bytes;
    }
    for (int32_t s = 0; s < n; s++) {
        for (int kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
            fixed[chunked->schedule->stage_rank[s]] += chunked->stages[s].static_bytes[kind];
        }
        slots[s] = chunked->stages[s].slot_bytes;
        transient[s] = chunked->stages[s].transient_bytes;
    }
    return (struct hlm_sim_memory){fixed, slots, transient};
}

/* ---- where the time goes: the rank that computes until last ---- */

static const struct hlm_time_node *make_parts(const struct chunked *chunked,
                                              const struct hlm_sim_result *result)
{
    enum { IDLE = HLM_NUM_PARTS, REST, NUM_NODES };
    const struct hlm_schedule *schedule = chunked->schedule;
    int32_t last = 0;
    for (int32_t r = 1; r < schedule->num_ranks; r++) {
        last = result->ranks[r].compute_end_s > result->ranks[last].compute_end_s ? r : last;
    }
    struct hlm_time_node *nodes = HLM_ARENA_ARRAY(chunked->arena, struct hlm_time_node, NUM_NODES);
    for (int32_t part = 0; part < HLM_NUM_PARTS; part++) {
        nodes[part].name = hlm_part_text((enum hlm_part)part);
        for (int32_t s = 0; s < schedule->num_stages; s++) {
            const struct hlm_stage_cost *stage = &chunked->stages[s];
            nodes[part].seconds += schedule->stage_rank[s] != last
                                       ? 0.0
                                       : schedule->num_microbatches * (stage->forward.part[part] +
                                                                       stage->backward.part[part]);
        }
    }
    const struct hlm_sim_rank *ran = &result->ranks[last];
    nodes[IDLE] =
        (struct hlm_time_node){.name = "pipeline_s", .seconds = ran->compute_end_s - ran->busy_s};
    nodes[REST] = (struct hlm_time_node){.name = "reduce_and_optimizer_s",
                                         .seconds = result->step_s - ran->compute_end_s};
    struct hlm_time_node *step = HLM_ARENA_NEW(chunked->arena, struct hlm_time_node);
    *step = (struct hlm_time_node){
        .name = "step", .seconds = result->step_s, .parts = nodes, .num_parts = NUM_NODES};
    return step;
}

static enum hlm_status price_mode(struct chunked *chunked, int32_t mode, int32_t full,
                                  struct hlm_validate_price *out, struct hlm_err *err)
{
    HLM_TRY(make_stages(chunked, mode, full, err));
    const struct hlm_sim_costs costs = make_costs(chunked);
    const struct hlm_sim_memory memory = make_memory(chunked);
    struct hlm_sim_result result;
    HLM_TRY(hlm_simulate(chunked->arena, chunked->schedule, &costs, &memory, false, &result, err));
    *out =
        (struct hlm_validate_price){.step_s = result.step_s, .parts = make_parts(chunked, &result)};
    for (int32_t r = 0; r < chunked->schedule->num_ranks; r++) {
        const double bytes = (double)result.ranks[r].peak_bytes;
        out->peak_bytes = bytes > out->peak_bytes ? bytes : out->peak_bytes;
    }
    return HLM_OK;
}

static enum hlm_status price_chunks(struct hlm_arena *arena,
                                    const struct hlm_validate_problem *problem,
                                    struct hlm_validate_price *out, struct hlm_err *err)
{
    struct chunked chunked = {.arena = arena, .problem = problem, .strategy = problem->strategy};
    chunked.strategy.vpp = 1;
    chunked.strategy.schedule = HLM_SCHEDULE_1F1B;
    HLM_TRY(hlm_pricer_init(arena, problem->model, &chunked.strategy, problem->cluster, 0,
                            &chunked.pricer, err));
    HLM_TRY(hlm_schedule_build(arena, problem->strategy.schedule, problem->strategy.pp,
                               problem->strategy.vpp, (int32_t)problem->strategy.num_microbatches,
                               &chunked.schedule, err));
    if (problem->recompute >= 0) {
        return price_mode(&chunked, problem->recompute, 0, out, err);
    }
    const double limit = slack * capacity(problem);
    HLM_TRY(price_mode(&chunked, HLM_RECOMPUTE_NONE, 0, out, err));
    const int32_t most = problem->model->num_layers / chunked.schedule->num_stages + 1;
    for (int32_t full = 0; full <= most && out->peak_bytes > limit; full++) {
        HLM_TRY(price_mode(&chunked, HLM_RECOMPUTE_SELECTIVE, full, out, err));
    }
    return HLM_OK;
}

enum hlm_status hlm_validate_price(struct hlm_arena *arena,
                                   const struct hlm_validate_problem *problem,
                                   struct hlm_validate_price *out, struct hlm_err *err)
{
    return problem->strategy.vpp > 1 ? price_chunks(arena, problem, out, err)
                                     : price_plan(arena, problem, out, err);
}
