#include <string.h>

#include "planner/explain.h"

static const struct hlm_time_node *find_part(const struct hlm_time_node *node, const char *name)
{
    for (int32_t i = 0; node != NULL && i < node->num_parts; i++) {
        if (strcmp(node->parts[i].name, name) == 0) {
            return &node->parts[i];
        }
    }
    return NULL;
}

/* Either node may be missing. */
static struct hlm_explain_delta subtract(struct hlm_arena *arena, const struct hlm_time_node *plan,
                                         const struct hlm_time_node *alternative)
{
    const int32_t num_plan = plan != NULL ? plan->num_parts : 0;
    const int32_t num_alternative = alternative != NULL ? alternative->num_parts : 0;
    struct hlm_explain_delta *parts =
        HLM_ARENA_ARRAY(arena, struct hlm_explain_delta, num_plan + num_alternative);
    struct hlm_explain_delta delta = {.name = plan != NULL ? plan->name : alternative->name,
                                      .plan_s = plan != NULL ? plan->seconds : 0.0,
                                      .alternative_s =
                                          alternative != NULL ? alternative->seconds : 0.0,
                                      .parts = parts};
    delta.delta_s = delta.alternative_s - delta.plan_s;
    for (int32_t i = 0; i < num_plan; i++) {
        const struct hlm_time_node *part = &plan->parts[i];
        parts[delta.num_parts++] = subtract(arena, part, find_part(alternative, part->name));
    }
    for (int32_t i = 0; i < num_alternative; i++) {
        const struct hlm_time_node *part = &alternative->parts[i];
        if (find_part(plan, part->name) == NULL) {
            parts[delta.num_parts++] = subtract(arena, NULL, part);
        }
    }
    return delta;
}

struct hlm_explain_delta hlm_explain_subtract(struct hlm_arena *arena,
                                              const struct hlm_time_node *plan,
                                              const struct hlm_time_node *alternative)
{
    return subtract(arena, plan, alternative);
}

/* Of unlike replicas those that hold most. */
static const struct hlm_stage_memory *memory_of(const struct hlm_plan *plan, int32_t stage)
{
    const struct hlm_stage_memory *most = NULL;
    for (int32_t i = stage; stage < plan->num_stages && i < plan->prediction.num_memory;
         i += plan->num_stages) {
        const struct hlm_stage_memory *own = &plan->prediction.memory[i];
        most = most == NULL || own->peak_bytes > most->peak_bytes ? own : most;
    }
    return most;
}

static struct hlm_explain_memory subtract_memory(int32_t stage, const struct hlm_stage_memory *plan,
                                                 const struct hlm_stage_memory *alternative)
{
    struct hlm_explain_memory memory = {.stage = stage};
    memory.plan_peak_bytes = plan != NULL ? plan->peak_bytes : 0;
    memory.alternative_peak_bytes = alternative != NULL ? alternative->peak_bytes : 0;
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        memory.delta_bytes[kind] = (alternative != NULL ? alternative->bytes[kind] : 0) -
                                   (plan != NULL ? plan->bytes[kind] : 0);
    }
    return memory;
}

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

void hlm_explain_compare(struct hlm_arena *arena, const struct hlm_plan *plan,
                         const struct hlm_plan *alternative, struct hlm_explain_difference *out)
{
    const struct hlm_plan_prediction *one = &plan->prediction, *other = &alternative->prediction;
    const int32_t num_memory = larger(plan->num_stages, alternative->num_stages);
    struct hlm_explain_memory *memory =
        HLM_ARENA_ARRAY(arena, struct hlm_explain_memory, num_memory);
    for (int32_t s = 0; s < num_memory; s++) {
        memory[s] = subtract_memory(s, memory_of(plan, s), memory_of(alternative, s));
    }
    const struct hlm_plan_certificate *certificate = alternative->certificate;
    *out = (struct hlm_explain_difference){
        .strategy = alternative->strategy,
        .stages = alternative->stages,
        .num_stages = alternative->num_stages,
        .step_time_s = other->step_time_s,
        .tokens_per_s = other->tokens_per_s,
        .lower_bound_s = certificate != NULL ? certificate->lower_bound_s : 0.0,
        .interval = other->interval,
        .within_uncertainty = hlm_plan_intervals_meet(&one->interval, &other->interval),
        .parts = hlm_explain_subtract(arena, &one->parts, &other->parts),
        .memory = memory,
        .num_memory = num_memory};
}
