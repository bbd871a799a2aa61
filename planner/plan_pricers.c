#include "planner/plan_pricers.h"

/* An earlier rank whose prices are the same, or `pp` itself. */
static int32_t first_alike(const struct hlm_strategy *strategy, const struct hlm_cluster *cluster,
                           int32_t pp)
{
    if (strategy->places == NULL && cluster->num_groups == 1) {
        return 0;
    }
    const int32_t group = hlm_layout_device_group(strategy, cluster, pp);
    for (int32_t before = 0; before < pp; before++) {
        if (hlm_strategy_at(strategy, before).tp == hlm_strategy_at(strategy, pp).tp &&
            hlm_layout_device_group(strategy, cluster, before) == group) {
            return before;
        }
    }
    return pp;
}

enum hlm_status hlm_plan_pricers_new(struct hlm_arena *arena, const struct hlm_model *model,
                                     const struct hlm_cluster *cluster,
                                     const struct hlm_strategy *strategy,
                                     const struct hlm_pricer *const **out, struct hlm_err *err)
{
    const struct hlm_pricer **pricers =
        HLM_ARENA_ARRAY(arena, const struct hlm_pricer *, strategy->pp);
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        const int32_t alike = first_alike(strategy, cluster, pp);
        if (alike < pp) {
            pricers[pp] = pricers[alike];
            continue;
        }
        const struct hlm_strategy at = hlm_strategy_at(strategy, pp);
        const struct hlm_strategy *seen =
            strategy->places == NULL ? strategy : hlm_arena_memdup(arena, &at, sizeof(at));
        struct hlm_pricer *pricer = HLM_ARENA_NEW(arena, struct hlm_pricer);
        HLM_TRY(hlm_pricer_init(arena, model, seen, cluster,
                                hlm_layout_device_group(strategy, cluster, pp), pricer, err));
        pricers[pp] = pricer;
    }
    *out = pricers;
    return HLM_OK;
}
