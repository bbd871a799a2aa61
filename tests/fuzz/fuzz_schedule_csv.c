/* Any bytes as a schedule: refused with a message, or a schedule that obeys every rule, survives
 * its own text, and is simulated, lowered and dry-run when it makes progress. */
#include <string.h>

#include "schedule/timeline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct hlm_arena *arena, const struct hlm_schedule *schedule)
{
    const double *zeros = HLM_ARENA_ARRAY(arena, double, schedule->num_stages);
    const struct hlm_sim_costs costs = {.forward_s = zeros,
                                        .backward_s = zeros,
                                        .input_grad_s = zeros,
                                        .weight_grad_s = zeros,
                                        .sync_s = 1};
    struct hlm_sim_result result;
    struct hlm_err err;
    if (hlm_simulate(arena, schedule, &costs, NULL, true, &result, &err) != HLM_OK) {
        return;
    }
    HLM_ASSERT(result.step_s == 1);
    const struct hlm_schedule *lowered = hlm_schedule_lower(arena, schedule);
    hlm_schedule_check(lowered);
    HLM_ASSERT(hlm_schedule_rendezvous(arena, lowered, &err) == HLM_OK);
    const struct hlm_timeline *timeline = hlm_timeline_from_simulation(arena, schedule, &result);
    HLM_ASSERT(hlm_chrome_trace(arena, &timeline, 1) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_schedule *schedule, *again;
    struct hlm_err err;
    const enum hlm_status status =
        hlm_schedule_from_csv(arena, "input", (const char *)data, size, &schedule, &err);
    HLM_ASSERT(status == HLM_OK || status == HLM_INPUT);
    if (status == HLM_OK) {
        hlm_schedule_check(schedule);
        const char *text = hlm_schedule_csv(arena, schedule);
        HLM_ASSERT(hlm_schedule_from_csv(arena, "again", text, strlen(text), &again, &err) ==
                   HLM_OK);
        HLM_ASSERT(again->kind == schedule->kind);
        HLM_ASSERT(strcmp(hlm_schedule_csv(arena, again), text) == 0);
        use(arena, schedule);
    }
    hlm_arena_free(arena);
    return 0;
}
