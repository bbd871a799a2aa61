/* From a strategy and a placement of layers to a priced plan: costs per stage, exact simulation,
 * memory check, and the tree that says where the time goes. */
#include <math.h>

#include "base/fmt.h"
#include "planner/plan_hosts.h"
#include "planner/plan_places.h"
#include "planner/plan_pricers.h"

/* What pricing works with, all from one arena. */
struct pricing {
    struct hlm_arena *arena;
    const struct hlm_model *model;
    const struct hlm_cluster *cluster;
    const struct hlm_strategy *strategy;
    const struct hlm_plan_stage *stages;
    int32_t num_stages;
    const struct hlm_pricer *const *pricers; /* [pp] */
    struct hlm_plan_simulation *simulation;
};

static const struct hlm_pricer *stage_pricer(const struct pricing *pricing, int32_t stage)
{
    return pricing->pricers[hlm_layout_stage_rank(pricing->strategy, stage)];
}

static void make_costs(struct pricing *pricing)
{
    struct hlm_arena *arena = pricing->arena;
    const int32_t n = pricing->num_stages;
    struct hlm_stage_cost *stages = HLM_ARENA_ARRAY(arena, struct hlm_stage_cost, n);
    double *forward = HLM_ARENA_ARRAY(arena, double, n);
    double *backward = HLM_ARENA_ARRAY(arena, double, n);
    double *input_grad = HLM_ARENA_ARRAY(arena, double, n);
    double *weight_grad = HLM_ARENA_ARRAY(arena, double, n);
    double *send_forward = HLM_ARENA_ARRAY(arena, double, n);
    double *send_backward = HLM_ARENA_ARRAY(arena, double, n);
    bool *both_sides = HLM_ARENA_ARRAY(arena, bool, n);
    double *reduce = HLM_ARENA_ARRAY(arena, double, n);
    double *optimizer = HLM_ARENA_ARRAY(arena, double, n);
    for (int32_t s = 0; s < n; s++) {
        const struct hlm_stage_shape shape =
            hlm_plan_stage_shape(pricing->model, pricing->stages, n, s);
        hlm_stage_cost(stage_pricer(pricing, s), &shape, &stages[s]);
        forward[s] = stages[s].forward.seconds;
        backward[s] = stages[s].backward.seconds;
        input_grad[s] = stages[s].input_grad.seconds;
        weight_grad[s] = stages[s].weight_grad.seconds;
        reduce[s] = stages[s].reduce_s;
        optimizer[s] = stages[s].optimizer_s;
        if (s + 1 < n) {
            send_forward[s] = hlm_stage_send_s(stage_pricer(pricing, s), s, &both_sides[s]);
            send_backward[s + 1] = send_forward[s];
        }
    }
    pricing->simulation->stages = stages;
    pricing->simulation->costs =
        (struct hlm_sim_costs){.forward_s = forward,
                               .backward_s = backward,
                               .input_grad_s = input_grad,
                               .weight_grad_s = weight_grad,
                               .send_forward_s = send_forward,
                               .send_backward_s = send_backward,
                               .needs_both_sides = both_sides,
                               .reduce_s = reduce,
                               .optimizer_s = optimizer,
                               .sync_s = hlm_stage_sync_s(stage_pricer(pricing, 0))};
}

static enum hlm_status simulate(struct pricing *pricing, bool want_events, struct hlm_err *err)
{
    const struct hlm_strategy *strategy = pricing->strategy;
    const struct hlm_schedule *schedule = NULL;
    HLM_TRY(hlm_schedule_build(pricing->arena, strategy->schedule, strategy->pp, strategy->vpp,
                               (int32_t)strategy->num_microbatches, &schedule, err));
    pricing->simulation->schedule = hlm_schedule_lower(pricing->arena, schedule);
    return hlm_simulate(pricing->arena, pricing->simulation->schedule, &pricing->simulation->costs,
                        NULL, want_events, &pricing->simulation->result, err);
}

/* --- memory --- */

static enum hlm_memory_kind largest_kind(const struct hlm_stage_memory *memory)
{
    enum hlm_memory_kind largest = HLM_MEMORY_PARAMETERS;
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        if (memory->bytes[kind] > memory->bytes[largest]) {
            largest = (enum hlm_memory_kind)kind;
        }
    }
    return largest;
}

static enum hlm_status check_rank_memory(const struct pricing *pricing,
                                         const struct hlm_rank_held *held,
                                         const struct hlm_stage_memory *memory, struct hlm_err *err)
{
    struct hlm_stage_memory all = memory[held->stages[0]];
    all.peak_bytes = 0;
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        all.bytes[kind] = 0;
        for (int32_t c = 0; c < held->num_chunks; c++) {
            all.bytes[kind] += memory[held->stages[c]].bytes[kind];
        }
        all.peak_bytes += all.bytes[kind];
    }
    const int64_t excess = all.peak_bytes - all.limit_bytes;
    if (excess <= 0) {
        return HLM_OK;
    }
    const enum hlm_memory_kind kind = largest_kind(&all);
    const char *who = "stage";
    if (held->num_chunks > 1) {
        who =
            hlm_arena_printf(pricing->arena, "the rank of %d stages with stage", held->num_chunks);
    }
    return hlm_fail(err, HLM_NO,
                    "%s %d needs %s, %s more than the %s of a device; most of it is %s (%s)", who,
                    held->stages[0], hlm_fmt_bytes((double)all.peak_bytes).text,
                    hlm_fmt_bytes((double)excess).text, hlm_fmt_bytes((double)all.limit_bytes).text,
                    hlm_memory_kind_texts[kind], hlm_fmt_bytes((double)all.bytes[kind]).text);
}

/* memory: [num_stages] */
static enum hlm_status make_memory(const struct pricing *pricing, struct hlm_stage_memory *memory,
                                   struct hlm_err *err)
{
    const int32_t n = pricing->num_stages;
    const struct hlm_schedule *schedule = pricing->simulation->schedule;
    const struct hlm_rank_held *held = hlm_plan_held(pricing->arena, pricing->strategy, schedule);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        hlm_plan_rank_memory(pricing->model, stage_pricer(pricing, held[rank].stages[0]),
                             pricing->stages, n, &held[rank], memory);
        HLM_TRY(check_rank_memory(pricing, &held[rank], memory, err));
    }
    return hlm_plan_check_hosts(pricing->cluster, pricing->strategy, memory, n, err);
}

/* --- where the time goes --- */

static struct hlm_time_node leaf(const char *name, double seconds)
{
    return (struct hlm_time_node){.name = name, .seconds = seconds};
}

/* A node of the parts that are not zero. */
static struct hlm_time_node branch(struct hlm_arena *arena, const char *name,
                                   const struct hlm_time_node *parts, int32_t num_parts)
{
    struct hlm_time_node *kept = HLM_ARENA_ARRAY(arena, struct hlm_time_node, num_parts);
    struct hlm_time_node node = {.name = name, .parts = kept};
    for (int32_t i = 0; i < num_parts; i++) {
        node.seconds += parts[i].seconds;
        if (parts[i].seconds != 0.0) {
            kept[node.num_parts++] = parts[i];
        }
    }
    return node;
}

static bool part_is_compute(enum hlm_part part)
{
    return part != HLM_PART_TP_COMM && part != HLM_PART_EP_COMM && part != HLM_PART_DP_COMM &&
           part != HLM_PART_CP_COMM && part != HLM_PART_OFFLOAD;
}

static struct hlm_time_node compute_node(struct hlm_arena *arena, const char *name,
                                         const struct hlm_pass_cost *pass)
{
    struct hlm_time_node parts[HLM_NUM_PARTS];
    int32_t num_parts = 0;
    for (int32_t part = 0; part < HLM_NUM_PARTS; part++) {
        if (part_is_compute((enum hlm_part)part)) {
            parts[num_parts++] = leaf(hlm_part_text((enum hlm_part)part), pass->part[part]);
        }
    }
    return branch(arena, name, parts, num_parts);
}

/* Reductions of all stages of a rank. */
static double rank_reduce_s(const struct hlm_plan_simulation *simulation, int32_t rank)
{
    double seconds = 0.0;
    for (int32_t s = 0; s < simulation->schedule->num_stages; s++) {
        seconds +=
            simulation->schedule->stage_rank[s] == rank ? simulation->costs.reduce_s[s] : 0.0;
    }
    return seconds;
}

int32_t hlm_plan_critical_rank(const struct hlm_plan_simulation *simulation)
{
    const struct hlm_sim_result *result = &simulation->result;
    int32_t critical = 0;
    double latest_s = -1.0;
    for (int32_t r = 0; r < simulation->schedule->num_ranks; r++) {
        const double end_s = result->ranks[r].compute_end_s + rank_reduce_s(simulation, r);
        if (end_s > latest_s) {
            latest_s = end_s;
            critical = r;
        }
    }
    return critical;
}

/* What a rank computes in a step, forward and backward (in halves or not) of all its stages. */
struct rank_passes {
    struct hlm_pass_cost forward, backward;
};

static void add_pass(struct hlm_pass_cost *sum, const struct hlm_pass_cost *pass)
{
    sum->seconds += pass->seconds;
    for (int32_t part = 0; part < HLM_NUM_PARTS; part++) {
        sum->part[part] += pass->part[part];
    }
}

static struct rank_passes find_passes(const struct hlm_plan_simulation *simulation, int32_t rank)
{
    const struct hlm_rank_actions *list = &simulation->schedule->ranks[rank];
    struct rank_passes passes = {0};
    for (int32_t i = 0; i < list->num_actions; i++) {
        const struct hlm_action action = list->actions[i];
        if (!hlm_action_is_compute(action.kind)) {
            continue;
        }
        const struct hlm_stage_cost *cost = &simulation->stages[action.stage];
        const struct hlm_pass_cost *const costs[] = {[HLM_ACTION_F] = &cost->forward,
                                                     [HLM_ACTION_B] = &cost->backward,
                                                     [HLM_ACTION_I] = &cost->input_grad,
                                                     [HLM_ACTION_W] = &cost->weight_grad};
        add_pass(action.kind == HLM_ACTION_F ? &passes.forward : &passes.backward,
                 costs[action.kind]);
    }
    return passes;
}

static struct hlm_time_node both_ways(struct hlm_arena *arena, const char *name,
                                      const struct rank_passes *passes, enum hlm_part part)
{
    const struct hlm_time_node parts[] = {leaf("forward_s", passes->forward.part[part]),
                                          leaf("backward_s", passes->backward.part[part])};
    return branch(arena, name, parts, 2);
}

/* What of it is due to the host, where the optimizer's states live there. */
static struct hlm_time_node optimizer_node(const struct pricing *pricing, int32_t rank,
                                           double seconds)
{
    const struct hlm_plan_simulation *simulation = pricing->simulation;
    const bool on_device = hlm_lowering_framework(pricing->strategy->lowering)->updates_on_device;
    struct hlm_offload_update sum = {0};
    for (int32_t s = 0; s < simulation->schedule->num_stages; s++) {
        const struct hlm_offload_update *own = &simulation->stages[s].offload;
        if (simulation->schedule->stage_rank[s] == rank) {
            sum.to_host_s += own->to_host_s;
            sum.update_s += on_device ? 0.0 : own->update_s;
            sum.to_device_s += own->to_device_s;
        }
    }
    const struct hlm_time_node parts[] = {
        leaf("device_s", seconds - hlm_offload_update_s(&sum)), leaf("to_host_s", sum.to_host_s),
        leaf("host_update_s", sum.update_s), leaf("to_device_s", sum.to_device_s)};
    return hlm_offload_update_s(&sum) > 0.0 ? branch(pricing->arena, "optimizer", parts, 4)
                                            : leaf("optimizer", seconds);
}

static struct hlm_time_node make_parts(const struct pricing *pricing)
{
    struct hlm_arena *arena = pricing->arena;
    const struct hlm_plan_simulation *simulation = pricing->simulation;
    const int32_t rank = hlm_plan_critical_rank(simulation);
    const struct hlm_sim_rank *ran = &simulation->result.ranks[rank];
    const struct rank_passes passes = find_passes(simulation, rank);
    const double reduce_s = rank_reduce_s(simulation, rank), sync_s = simulation->costs.sync_s;
    const double idle_s = ran->compute_end_s - ran->busy_s;
    const double optimizer_s = simulation->result.step_s - ran->compute_end_s - reduce_s - sync_s;

    const struct hlm_time_node pipeline[] = {leaf("bubble_s", idle_s - ran->wait_transfer_s),
                                             leaf("transfer_s", ran->wait_transfer_s)};
    const struct hlm_time_node data[] = {leaf("forward_s", passes.forward.part[HLM_PART_DP_COMM]),
                                         leaf("backward_s", passes.backward.part[HLM_PART_DP_COMM]),
                                         leaf("reduce_s", reduce_s), leaf("sync_s", sync_s)};
    const struct hlm_time_node parts[] = {
        compute_node(arena, "forward", &passes.forward),
        compute_node(arena, "backward", &passes.backward),
        both_ways(arena, "tensor_parallel", &passes, HLM_PART_TP_COMM),
        both_ways(arena, "context_parallel", &passes, HLM_PART_CP_COMM),
        both_ways(arena, "expert_parallel", &passes, HLM_PART_EP_COMM),
        branch(arena, "pipeline", pipeline, 2),
        branch(arena, "data_parallel", data, 4),
        both_ways(arena, "offload", &passes, HLM_PART_OFFLOAD),
        optimizer_node(pricing, rank, optimizer_s)};
    struct hlm_time_node step =
        branch(arena, "step", parts, (int32_t)(sizeof(parts) / sizeof(parts[0])));
    HLM_ASSERT(fabs(step.seconds - simulation->result.step_s) <= 1e-9 * simulation->result.step_s);
    step.seconds = simulation->result.step_s;
    return step;
}

/* Relative uncertainty of the kernels of this dtype on the devices of the critical rank: the spread
 * of the fits, weighted by where the time goes. */
static double spread_frac(const struct pricing *pricing)
{
    const int32_t rank = hlm_plan_critical_rank(pricing->simulation);
    const struct hlm_device *device =
        &pricing->cluster->groups[pricing->pricers[rank]->device_group].device;
    const struct hlm_device_dtype *row = hlm_device_dtype(device, pricing->strategy->dtype);
    double gemm = 0.0, attention = 0.0;
    for (int32_t i = 0; i < row->num_gemm; i++) {
        gemm = fmax(gemm, row->gemm[i].source.spread_frac);
    }
    for (int32_t i = 0; i < row->num_attention; i++) {
        const struct hlm_attention_curve *curve = &row->attention[i];
        attention = curve->kernel == HLM_ATTENTION_BEST ? fmax(attention, curve->source.spread_frac)
                                                        : attention;
    }
    const struct rank_passes both = find_passes(pricing->simulation, rank);
    const struct hlm_pass_cost *passes[] = {&both.forward, &both.backward};
    double seconds = 0.0;
    for (int32_t i = 0; i < 2; i++) {
        seconds += gemm * passes[i]->part[HLM_PART_GEMM] +
                   attention * passes[i]->part[HLM_PART_ATTENTION] +
                   device->memory.source.spread_frac * passes[i]->part[HLM_PART_MEMORY_BOUND];
    }
    return seconds / pricing->simulation->result.step_s;
}

/* Devices of a group that the plan uses. */
struct used {
    double peak, price_per_hour;
};

static void use_devices(const struct pricing *pricing, int32_t device_group, double devices,
                        struct used *used)
{
    const struct hlm_device_group *group = &pricing->cluster->groups[device_group];
    used->peak +=
        devices * hlm_device_dtype(&group->device, pricing->strategy->dtype)->peak_flops_per_s;
    used->price_per_hour += devices * group->price_per_device_hour;
}

static struct used used_devices(const struct pricing *pricing)
{
    const struct hlm_strategy *strategy = pricing->strategy;
    struct used used = {0};
    for (int32_t i = 0; i < strategy->num_replicas; i++) {
        const struct hlm_replicas *replicas = &strategy->replicas[i];
        use_devices(pricing, replicas->device_group,
                    (double)replicas->dp * strategy->tp * strategy->pp * strategy->cp, &used);
    }
    for (int32_t s = 0; strategy->num_replicas == 0 && s < pricing->num_stages; s++) {
        const double devices =
            (double)strategy->dp * pricing->stages[s].tp * strategy->cp / (double)strategy->vpp;
        use_devices(pricing, pricing->stages[s].device_group, devices, &used);
    }
    return used;
}

static void make_rates(const struct pricing *pricing, struct hlm_plan_prediction *prediction)
{
    const struct hlm_strategy *strategy = pricing->strategy;
    const struct used used = used_devices(pricing);
    const double step_s = prediction->step_time_s;
    const double sequences = (double)strategy->global_batch_size;
    const double tokens = sequences * (double)strategy->seq_len;
    const double flops =
        sequences * hlm_model_flops_per_sequence(pricing->model, strategy->seq_len,
                                                 hlm_model_is_causal(pricing->model));
    prediction->mfu = flops / (step_s * used.peak);
    prediction->tokens_per_s = tokens / step_s;
    prediction->cost_per_token = used.price_per_hour / 3600.0 * step_s / tokens;
}

/* Everything of a strategy: of unlike replicas one pricing each. */
struct all_pricings {
    struct pricing *of; /* [num] */
    int32_t num;
    int32_t slowest;
};

/* The most of any replicas, stage by stage, for all of them. */
static void take_most(const struct all_pricings *all, struct hlm_arena *arena)
{
    const int32_t n = all->of[0].num_stages;
    double *reduce_s = HLM_ARENA_ARRAY(arena, double, n);
    double *optimizer_s = HLM_ARENA_ARRAY(arena, double, n);
    double sync_s = 0.0;
    for (int32_t i = 0; i < all->num; i++) {
        const struct hlm_sim_costs *costs = &all->of[i].simulation->costs;
        for (int32_t s = 0; s < n; s++) {
            reduce_s[s] = fmax(reduce_s[s], costs->reduce_s[s]);
            optimizer_s[s] = fmax(optimizer_s[s], costs->optimizer_s[s]);
        }
        sync_s = fmax(sync_s, costs->sync_s);
    }
    for (int32_t i = 0; i < all->num; i++) {
        struct hlm_sim_costs *costs = &all->of[i].simulation->costs;
        costs->reduce_s = reduce_s;
        costs->optimizer_s = optimizer_s;
        costs->sync_s = sync_s;
    }
}

static enum hlm_status price_one(const struct pricing *whole, int32_t index, struct pricing *out,
                                 struct hlm_err *err)
{
    struct hlm_arena *arena = whole->arena;
    *out = *whole;
    out->simulation = HLM_ARENA_NEW(arena, struct hlm_plan_simulation);
    if (whole->strategy->num_replicas > 0) {
        const struct hlm_strategy seen = hlm_strategy_of_replicas(whole->strategy, index);
        out->strategy = hlm_arena_memdup(arena, &seen, sizeof(seen));
        out->simulation->seen_replicas = seen.seen_replicas;
    }
    HLM_TRY(
        hlm_plan_pricers_new(arena, out->model, out->cluster, out->strategy, &out->pricers, err));
    make_costs(out);
    return HLM_OK;
}

/* whole: of the strategy as such, without pricers and simulation. */
static enum hlm_status price(const struct pricing *whole, bool want_events,
                             struct all_pricings *out, struct hlm_err *err)
{
    const int32_t num_replicas = whole->strategy->num_replicas;
    HLM_TRY(hlm_strategy_check(whole->strategy, whole->model, err));
    *out = (struct all_pricings){.num = num_replicas > 0 ? num_replicas : 1};
    out->of = HLM_ARENA_ARRAY(whole->arena, struct pricing, out->num);
    for (int32_t i = 0; i < out->num; i++) {
        HLM_TRY(price_one(whole, i, &out->of[i], err));
    }
    if (out->num > 1) {
        take_most(out, whole->arena);
    }
    for (int32_t i = 0; i < out->num; i++) {
        HLM_TRY(simulate(&out->of[i], want_events, err));
        const double most_s = out->of[out->slowest].simulation->result.step_s;
        out->slowest = out->of[i].simulation->result.step_s > most_s ? i : out->slowest;
    }
    return HLM_OK;
}

const int32_t *hlm_plan_rank_map(struct hlm_arena *arena, const struct hlm_strategy *strategy)
{
    const int32_t num_ranks = (int32_t)hlm_strategy_world_size(strategy);
    int32_t *map = HLM_ARENA_ARRAY(arena, int32_t, num_ranks);
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        map[rank] = (int32_t)hlm_layout_device(strategy, rank);
    }
    return map;
}

/* Then the product of the degrees says how many ranks there are. */
static bool stages_are_alike(const struct hlm_strategy *strategy,
                             const struct hlm_plan_stage *stages, int32_t num_stages)
{
    for (int32_t s = 0; s < num_stages; s++) {
        if (stages[s].tp != strategy->tp) {
            return false;
        }
    }
    return true;
}

static struct pricing pricing_of(struct hlm_arena *arena, const struct hlm_plan *plan)
{
    return (struct pricing){.arena = arena,
                            .model = &plan->model,
                            .cluster = &plan->cluster,
                            .strategy = &plan->strategy,
                            .stages = plan->stages,
                            .num_stages = plan->num_stages};
}

/* Of all replicas, one after the other. */
static enum hlm_status make_all_memory(const struct all_pricings *all,
                                       struct hlm_plan_prediction *prediction, struct hlm_err *err)
{
    const int32_t n = all->of[0].num_stages;
    struct hlm_stage_memory *memory =
        HLM_ARENA_ARRAY(all->of[0].arena, struct hlm_stage_memory, all->num * n);
    for (int32_t i = 0; i < all->num; i++) {
        if (make_memory(&all->of[i], memory + i * n, err) != HLM_OK) {
            if (all->num > 1) {
                hlm_err_prefix(err, "replicas[%d]", i);
            }
            return HLM_NO;
        }
    }
    prediction->memory = memory;
    prediction->num_memory = all->num * n;
    return HLM_OK;
}

enum hlm_status hlm_plan_price(struct hlm_arena *arena, const struct hlm_model *model,
                               const struct hlm_cluster *cluster,
                               const struct hlm_strategy *strategy,
                               const struct hlm_plan_stage *stages, int32_t num_stages,
                               const struct hlm_plan **out,
                               struct hlm_plan_simulation *out_simulation, struct hlm_err *err)
{
    struct hlm_strategy placed = *strategy;
    placed.places = NULL;
    if (stages_are_alike(strategy, stages, num_stages)) {
        HLM_TRY(hlm_plan_check_devices(&placed, cluster, err));
    }
    HLM_TRY(hlm_strategy_check(&placed, model, err));
    HLM_TRY(hlm_plan_locate(arena, cluster, &placed, stages, num_stages, err));
    struct hlm_plan *plan = HLM_ARENA_NEW(arena, struct hlm_plan);
    *plan = (struct hlm_plan){
        .model = *model,
        .cluster = *cluster,
        .strategy = placed,
        .stages = hlm_arena_memdup(arena, stages, (size_t)num_stages * sizeof(*stages)),
        .num_stages = num_stages,
        .num_ranks = (int32_t)hlm_strategy_world_size(&placed)};
    const struct pricing whole = pricing_of(arena, plan);
    struct all_pricings all;
    HLM_TRY(price(&whole, false, &all, err));
    HLM_TRY(make_all_memory(&all, &plan->prediction, err));
    const struct pricing *slowest = &all.of[all.slowest];
    const double step_s = slowest->simulation->result.step_s;
    plan->prediction.step_time_s = step_s;
    plan->prediction.parts = make_parts(slowest);
    const double spread_s = spread_frac(slowest) * step_s;
    plan->prediction.interval = (struct hlm_plan_interval){step_s - spread_s, step_s + spread_s};
    make_rates(&whole, &plan->prediction);
    plan->rank_map = hlm_plan_rank_map(arena, &plan->strategy);
    plan->digests = hlm_plan_digests(arena, plan);
    if (out_simulation != NULL) {
        *out_simulation = *slowest->simulation;
    }
    *out = plan;
    return HLM_OK;
}

/* index < 0: of the slowest. */
static enum hlm_status simulate_plan(struct hlm_arena *arena, const struct hlm_plan *plan,
                                     int32_t index, struct hlm_plan_simulation *out,
                                     struct hlm_err *err)
{
    const struct pricing whole = pricing_of(arena, plan);
    struct all_pricings all;
    HLM_TRY(price(&whole, true, &all, err));
    *out = *all.of[index < 0 ? all.slowest : index].simulation;
    return HLM_OK;
}

enum hlm_status hlm_plan_simulate(struct hlm_arena *arena, const struct hlm_plan *plan,
                                  struct hlm_plan_simulation *out, struct hlm_err *err)
{
    return simulate_plan(arena, plan, -1, out, err);
}

enum hlm_status hlm_plan_simulate_replica(struct hlm_arena *arena, const struct hlm_plan *plan,
                                          int32_t dp, struct hlm_plan_simulation *out,
                                          struct hlm_err *err)
{
    const struct hlm_strategy seen = hlm_strategy_of_replica(&plan->strategy, dp, NULL);
    return simulate_plan(arena, plan, seen.seen_replicas > 0 ? seen.seen_replicas - 1 : 0, out,
                         err);
}
