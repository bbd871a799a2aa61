/* The reader of measurements: whatever it accepts must have a step time and the views of its
 * timeline, be compared with a plan, be written, and read back to the same text. */
#include <math.h>
#include <string.h>

#include "compare/compare.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A plan to compare with, made once. */
static const struct hlm_plan *make_plan(struct hlm_arena *arena)
{
    struct hlm_err err;
    const struct hlm_model *model = NULL;
    const struct hlm_cluster *cluster = NULL;
    HLM_ASSERT(hlm_model_load(arena, "gpt2-small", &model, &err) == HLM_OK);
    HLM_ASSERT(hlm_cluster_load(arena, "a100-sxm-80g:1x2", &cluster, &err) == HLM_OK);
    struct hlm_strategy strategy = {.dp = 1,
                                    .tp = 1,
                                    .pp = 2,
                                    .schedule = HLM_SCHEDULE_1F1B,
                                    .microbatch_size = 1,
                                    .global_batch_size = 4,
                                    .seq_len = 1024,
                                    .dtype = HLM_DTYPE_BF16};
    hlm_strategy_complete(&strategy);
    const struct hlm_plan_stage *stages = NULL;
    int32_t num_stages = 0;
    const struct hlm_plan *plan = NULL;
    HLM_ASSERT(hlm_plan_even_stages(arena, model, cluster, &strategy, -1, &stages, &num_stages,
                                    &err) == HLM_OK);
    HLM_ASSERT(hlm_plan_price(arena, model, cluster, &strategy, stages, num_stages, &plan, NULL,
                              &err) == HLM_OK);
    return plan;
}

static void compare(struct hlm_arena *arena, const struct hlm_plan *plan,
                    const struct hlm_measurement *measurement)
{
    struct hlm_err err;
    struct hlm_comparison comparison;
    if (hlm_compare(arena, plan, measurement, "input", 0.1, &comparison, &err) == HLM_OK) {
        HLM_ASSERT(isfinite(comparison.error_frac));
        HLM_ASSERT(strlen(hlm_json_write(arena, &hlm_comparison_table, &comparison, false)) > 0);
    } else {
        HLM_ASSERT(err.status == HLM_INPUT);
    }
}

static void use(struct hlm_arena *arena, const struct hlm_measurement *measurement)
{
    int32_t num_clean = -1;
    const double step_s =
        hlm_measurement_step_time(arena, measurement->steps, measurement->num_steps,
                                  measurement->num_warmup_steps, false, &num_clean);
    HLM_ASSERT(isfinite(step_s) && num_clean >= 0 && num_clean <= measurement->num_steps);
    const struct hlm_timeline *timelines[] = {&measurement->timeline};
    HLM_ASSERT(strlen(hlm_chrome_trace(arena, timelines, 1)) > 0);
    struct hlm_err err;
    const struct hlm_measurement *again = NULL;
    const char *text = hlm_json_write(arena, &hlm_measurement_table, measurement, false);
    HLM_ASSERT(hlm_measurement_read_text(arena, "again", text, strlen(text), &again, &err) ==
               HLM_OK);
    HLM_ASSERT(strcmp(hlm_json_write(arena, &hlm_measurement_table, again, false), text) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct hlm_plan *plan = NULL;
    static struct hlm_arena *forever = NULL; /* reachable, so no leak */
    if (plan == NULL) {
        forever = hlm_arena_new();
        plan = make_plan(forever);
    }
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_measurement *measurement = NULL;
    if (hlm_measurement_read_text(arena, "input", (const char *)data, size, &measurement, &err) ==
        HLM_OK) {
        use(arena, measurement);
        compare(arena, plan, measurement);
    }
    hlm_arena_free(arena);
    return 0;
}
