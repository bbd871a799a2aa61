#include "tests/support/sweep.h"

#include "tests/support/check.h"
#include "tests/support/late_backend.h"
#include "tests/support/share.h"

enum { NUM_STEPS = 3 }; /* the third sees what the update did to moments */
static const double tolerance = 1e-5;

struct sweep sweep_new(const char *name, int32_t num_layers, int64_t global_batch_size)
{
    return sweep_new_of_length(name, num_layers, global_batch_size, 0);
}

struct sweep sweep_new_of_length(const char *name, int32_t num_layers, int64_t global_batch_size,
                                 int64_t seq_len)
{
    struct sweep sweep = {.arena = hlm_arena_new(), .name = name, .num_steps = NUM_STEPS};
    sweep.golden = *golden_read(sweep.arena, name);
    struct golden *golden = &sweep.golden;
    golden->model.num_layers = num_layers > 0 ? num_layers : golden->model.num_layers;
    golden->global_batch_size =
        global_batch_size > 0 ? global_batch_size : golden->global_batch_size;
    golden->seq_len = seq_len > 0 ? seq_len : golden->seq_len;
    const struct golden_layout one = {.microbatch_size = golden->global_batch_size};
    const struct hlm_plan *plan =
        golden_plan(sweep.arena, &golden->model, golden->global_batch_size, golden->seq_len, &one);
    sweep.reference =
        train_run(sweep.arena, plan, (uint64_t)golden->seed, NUM_STEPS, hlm_backend_cpu_new, NULL);
    return sweep;
}

void sweep_free(struct sweep *sweep)
{
    hlm_arena_free(sweep->arena);
}

void sweep_check(struct sweep *sweep, const struct golden_layout *layout, train_backend_fn *backend)
{
    const struct golden *golden = &sweep->golden;
    const struct hlm_plan *plan = golden_plan(sweep->arena, &golden->model,
                                              golden->global_batch_size, golden->seq_len, layout);
    if (plan == NULL || hlm_lowering_refusal(&plan->model, &plan->strategy) != NULL) {
        return; /* not legal for this model (sp rows that tp does not divide), or priced only */
    }
    if (!share_has(sweep->num_run++)) {
        return;
    }
    const struct train_result result =
        train_run(sweep->arena, plan, (uint64_t)golden->seed, sweep->num_steps, backend, NULL);
    for (int32_t step = 0; step < sweep->num_steps; step++) {
        const double loss = result.losses[step], expected = sweep->reference.losses[step];
        const double norm = result.grad_norms[step], one = sweep->reference.grad_norms[step];
        if (!(fabs(norm - one) <= 10.0 * tolerance * one)) {
            fail_msg("%s %s: gradient norm of step %d is %.9g, one rank has %.9g", sweep->name,
                     golden_layout_text(sweep->arena, layout), step, norm, one);
        }
        if (!(fabs(loss - expected) <= tolerance * fabs(expected))) {
            fail_msg("%s %s: loss of step %d is %.9g, one rank has %.9g", sweep->name,
                     golden_layout_text(sweep->arena, layout), step, loss, expected);
        }
    }
}

enum hlm_status sweep_late_backend(struct hlm_backend **out, struct hlm_err *err)
{
    return late_backend_new(out, 1234, 20e-6, err);
}
