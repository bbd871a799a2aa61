#include "planner/columns.h"

/* The list under construction. */
struct lister {
    const struct hlm_search_problem *problem;
    struct hlm_arena *arena;
    struct hlm_strategy *strategies;
    int32_t num_strategies, capacity;
    int64_t num_devices;
    struct hlm_err reason; /* why the last candidate is not legal */
};

static bool wanted(int32_t required, int32_t free_value, int32_t value)
{
    return required == free_value || required == value;
}

static void keep(struct lister *lister, const struct hlm_strategy *strategy)
{
    if (lister->num_strategies == lister->capacity) {
        lister->capacity = lister->capacity == 0 ? 256 : 2 * lister->capacity;
        struct hlm_strategy *larger =
            HLM_ARENA_ARRAY(lister->arena, struct hlm_strategy, lister->capacity);
        for (int32_t i = 0; i < lister->num_strategies; i++) {
            larger[i] = lister->strategies[i];
        }
        lister->strategies = larger;
    }
    lister->strategies[lister->num_strategies++] = *strategy;
}

static void try_strategy(struct lister *lister, struct hlm_strategy strategy)
{
    const struct hlm_search_problem *problem = lister->problem;
    hlm_strategy_complete(&strategy);
    if (hlm_strategy_check(&strategy, problem->model, &lister->reason) != HLM_OK) {
        return;
    }
    const char *refused = NULL;
    if (problem->runnable_only) {
        refused = hlm_lowering_refusal(problem->model, &strategy);
    }
    if (refused != NULL) {
        (void)hlm_fail(&lister->reason, HLM_NO, "the executor does not run %s", refused);
        return;
    }
    keep(lister, &strategy);
}

/* Schedule, ZeRO stage: the innermost choices. */
static void try_switches(struct lister *lister, struct hlm_strategy strategy)
{
    const struct hlm_search_require *require = &lister->problem->require;
    for (int32_t zero = 0; zero <= (strategy.dp > 1 ? 1 : 0); zero++) {
        for (int32_t schedule = 0; schedule < HLM_NUM_SCHEDULES; schedule++) {
            const bool same = schedule == HLM_SCHEDULE_GPIPE && strategy.pp == 1;
            if (!same && hlm_schedule_is_searched((enum hlm_schedule_kind)schedule) &&
                wanted(require->zero, -1, zero) && wanted(require->schedule, -1, schedule)) {
                strategy.zero = zero;
                strategy.schedule = (enum hlm_schedule_kind)schedule;
                try_strategy(lister, strategy);
            }
        }
    }
}

static void try_experts(struct lister *lister, struct hlm_strategy strategy)
{
    const int32_t num_experts = lister->problem->model->moe.num_experts;
    const int64_t ranks = (int64_t)strategy.dp * strategy.tp;
    for (int32_t ep = 1; ep == 1 || ep <= num_experts; ep++) {
        const bool divides = ep == 1 || (num_experts % ep == 0 && ranks % ep == 0);
        if (divides && wanted(lister->problem->require.ep, 0, ep)) {
            strategy.ep = ep;
            try_switches(lister, strategy);
        }
    }
}

static void try_sizes(struct lister *lister, struct hlm_strategy strategy)
{
    const struct hlm_search_require *require = &lister->problem->require;
    const int64_t per_replica = strategy.global_batch_size / strategy.dp;
    if (per_replica * strategy.dp != strategy.global_batch_size) {
        (void)hlm_fail(&lister->reason, HLM_NO, "dp = %d does not divide global_batch_size = %lld",
                       strategy.dp, (long long)strategy.global_batch_size);
        return;
    }
    for (int64_t size = 1; size <= per_replica; size++) {
        const bool fits = require->microbatch_size == 0 || require->microbatch_size == size;
        if (per_replica % size != 0 || !fits) {
            continue;
        }
        strategy.microbatch_size = size;
        for (int32_t sp = 0; sp <= (strategy.tp > 1 ? 1 : 0); sp++) {
            if (wanted(require->sp, -1, sp)) {
                strategy.sp = sp == 1;
                try_experts(lister, strategy);
            }
        }
    }
}

static void try_degrees(struct lister *lister, struct hlm_strategy strategy)
{
    const struct hlm_search_require *require = &lister->problem->require;
    for (int64_t tp = 1; tp <= lister->num_devices; tp++) {
        if (lister->num_devices % tp != 0 || !wanted(require->tp, 0, (int32_t)tp)) {
            continue;
        }
        const int64_t rest = lister->num_devices / tp;
        for (int64_t pp = 1; pp <= rest; pp++) {
            const int64_t dp = rest / pp;
            if (rest % pp == 0 && wanted(require->pp, 0, (int32_t)pp) &&
                wanted(require->dp, 0, (int32_t)dp)) {
                strategy.tp = (int32_t)tp;
                strategy.pp = (int32_t)pp;
                strategy.dp = (int32_t)dp;
                try_sizes(lister, strategy);
            }
        }
    }
}

enum hlm_status hlm_columns_list(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                                 const struct hlm_strategy **out, int32_t *out_num,
                                 struct hlm_err *err)
{
    const int32_t schedule = problem->require.schedule;
    if (schedule >= 0 && schedule < HLM_NUM_SCHEDULES &&
        !hlm_schedule_is_searched((enum hlm_schedule_kind)schedule)) {
        return hlm_fail(err, HLM_NO, "the search does not cover schedule %s",
                        hlm_schedule_texts[schedule]);
    }
    struct lister lister = {.problem = problem,
                            .arena = arena,
                            .num_devices = hlm_cluster_num_devices(problem->cluster)};
    (void)hlm_fail(&lister.reason, HLM_NO,
                   "no degrees dp * tp * pp = %lld devices agree with what is required",
                   (long long)lister.num_devices);
    try_degrees(&lister, (struct hlm_strategy){.global_batch_size = problem->global_batch_size,
                                               .seq_len = problem->seq_len,
                                               .dtype = problem->dtype,
                                               .lowering = problem->lowering});
    if (lister.num_strategies == 0) {
        return hlm_fail(err, HLM_NO, "no strategy is legal for %s on %lld devices: %s",
                        problem->model->name, (long long)lister.num_devices, lister.reason.text);
    }
    *out = lister.strategies;
    *out_num = lister.num_strategies;
    return HLM_OK;
}
