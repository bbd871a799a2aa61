#include "planner/plan_rank.h"

/* Parts of a pass that are communication, and what the tree of a step calls them. */
static const struct {
    enum hlm_part part;
    const char *name;
} comm_parts[] = {{HLM_PART_TP_COMM, "tensor_parallel"},
                  {HLM_PART_CP_COMM, "context_parallel"},
                  {HLM_PART_EP_COMM, "expert_parallel"},
                  {HLM_PART_DP_COMM, "data_parallel"}};
enum { NUM_COMM_PARTS = sizeof(comm_parts) / sizeof(comm_parts[0]) };

const struct hlm_pass_cost *hlm_plan_pass(const struct hlm_plan_simulation *simulation,
                                          struct hlm_action action)
{
    const struct hlm_stage_cost *cost = &simulation->stages[action.stage];
    switch (action.kind) {
    case HLM_ACTION_F:
        return &cost->forward;
    case HLM_ACTION_I:
        return &cost->input_grad;
    case HLM_ACTION_W:
        return &cost->weight_grad;
    default:
        HLM_ASSERT(action.kind == HLM_ACTION_B);
        return &cost->backward;
    }
}

double hlm_plan_pass_comm_s(const struct hlm_pass_cost *pass)
{
    double seconds = 0.0;
    for (int32_t i = 0; i < NUM_COMM_PARTS; i++) {
        seconds += pass->part[comm_parts[i].part];
    }
    return seconds;
}

static bool is_measured(enum hlm_action_kind kind)
{
    return hlm_action_is_compute(kind) || kind == HLM_ACTION_REDUCE_GRAD ||
           kind == HLM_ACTION_OPTIMIZER;
}

struct hlm_rank_actions hlm_plan_measured_actions(struct hlm_arena *arena,
                                                  const struct hlm_schedule *schedule,
                                                  int32_t pipeline_rank)
{
    HLM_ASSERT(schedule->lowered);
    const struct hlm_rank_actions *list = &schedule->ranks[pipeline_rank];
    struct hlm_action *actions = HLM_ARENA_ARRAY(arena, struct hlm_action, list->num_actions);
    struct hlm_rank_actions measured = {.actions = actions};
    for (int32_t i = 0; i < list->num_actions; i++) {
        if (is_measured(list->actions[i].kind)) {
            actions[measured.num_actions++] = list->actions[i];
        }
    }
    return measured;
}

/* ---- the tree ---- */

/* What the passes of a rank took, by what they did. */
struct passes {
    double forward_s, backward_s, comm_s[NUM_COMM_PARTS];
};

static struct passes sum_passes(const struct hlm_plan_simulation *simulation, int32_t rank,
                                const double *compute_s)
{
    const struct hlm_rank_actions *list = &simulation->schedule->ranks[rank];
    struct passes sum = {0};
    int32_t num = 0;
    for (int32_t i = 0; i < list->num_actions; i++) {
        const struct hlm_action action = list->actions[i];
        if (!hlm_action_is_compute(action.kind)) {
            continue;
        }
        const struct hlm_pass_cost *pass = hlm_plan_pass(simulation, action);
        *(action.kind == HLM_ACTION_F ? &sum.forward_s : &sum.backward_s) +=
            compute_s != NULL ? compute_s[num] : pass->seconds - hlm_plan_pass_comm_s(pass);
        num++;
        for (int32_t c = 0; c < NUM_COMM_PARTS; c++) {
            sum.comm_s[c] += pass->part[comm_parts[c].part];
        }
    }
    return sum;
}

static void add_part(struct hlm_time_node *node, struct hlm_time_node *parts, const char *name,
                     double seconds)
{
    if (seconds != 0.0) {
        parts[node->num_parts++] = (struct hlm_time_node){.name = name, .seconds = seconds};
        node->seconds += seconds;
    }
}

static const struct hlm_sim_event *optimizer_of(const struct hlm_sim_result *result, int32_t rank)
{
    const struct hlm_sim_rank *ran = &result->ranks[rank];
    HLM_ASSERT(ran->num_events > 0);
    const struct hlm_sim_event *last = &ran->events[ran->num_events - 1];
    HLM_ASSERT(last->action.kind == HLM_ACTION_OPTIMIZER);
    return last;
}

double hlm_plan_rank_end_s(const struct hlm_sim_result *result, int32_t pipeline_rank)
{
    return optimizer_of(result, pipeline_rank)->end_s;
}

struct hlm_time_node hlm_plan_rank_parts(struct hlm_arena *arena,
                                         const struct hlm_plan_simulation *simulation,
                                         const struct hlm_sim_result *result, int32_t pipeline_rank,
                                         const double *compute_s, double end_s)
{
    enum { DATA = NUM_COMM_PARTS - 1, MAX_PARTS = NUM_COMM_PARTS + 4 };
    const double compute_end_s = result->ranks[pipeline_rank].compute_end_s;
    const double update_s = optimizer_of(result, pipeline_rank)->start_s;
    const struct passes sum = sum_passes(simulation, pipeline_rank, compute_s);
    double passes_s = sum.forward_s + sum.backward_s;
    for (int32_t c = 0; c < NUM_COMM_PARTS; c++) {
        passes_s += sum.comm_s[c];
    }
    struct hlm_time_node *parts = HLM_ARENA_ARRAY(arena, struct hlm_time_node, MAX_PARTS);
    struct hlm_time_node node = {.name = "step", .parts = parts};
    add_part(&node, parts, "forward", sum.forward_s);
    add_part(&node, parts, "backward", sum.backward_s);
    for (int32_t c = 0; c < DATA; c++) {
        add_part(&node, parts, comm_parts[c].name, sum.comm_s[c]);
    }
    add_part(&node, parts, "pipeline", compute_end_s - passes_s);
    add_part(&node, parts, comm_parts[DATA].name, sum.comm_s[DATA] + update_s - compute_end_s);
    add_part(&node, parts, "optimizer", end_s - update_s);
    return node;
}
