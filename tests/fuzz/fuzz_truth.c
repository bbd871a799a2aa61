/* The reader of published measurements: every point that is read becomes a legal problem, or is
 * refused with a reason. */
#include "compare/validate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_truth truth;
    if (hlm_truth_read_text(arena, "input", (const char *)data, size, &truth, &err) == HLM_OK) {
        for (int32_t i = 0; i < truth.num_points; i++) {
            struct hlm_validate_problem problem;
            if (hlm_validate_problem(arena, &truth.points[i], &problem, &err) == HLM_OK) {
                HLM_ASSERT(hlm_strategy_check(&problem.strategy, problem.model, &err) == HLM_OK);
            } else {
                HLM_ASSERT(err.status != HLM_OK && err.text[0] != '\0');
            }
        }
    }
    hlm_arena_free(arena);
    return 0;
}
