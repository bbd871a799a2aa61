#include "planner/verify_require.h"

static enum hlm_status check_recompute(int32_t mode, const struct hlm_plan_stage *stages,
                                       int32_t num_stages, const char *what, struct hlm_err *err)
{
    for (int32_t s = 0; mode >= 0 && s < num_stages; s++) {
        const int32_t counts[HLM_NUM_RECOMPUTES] = {
            [HLM_RECOMPUTE_NONE] = stages[s].recompute.none,
            [HLM_RECOMPUTE_SELECTIVE] = stages[s].recompute.selective,
            [HLM_RECOMPUTE_FULL] = stages[s].recompute.full};
        if (counts[mode] != stages[s].num_layers) {
            return hlm_fail(err, HLM_NO, "%s: recompute=%s was required, but not of all layers",
                            what, hlm_recompute_texts[mode]);
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_verify_require(const struct hlm_search_require *require,
                                   const struct hlm_strategy *strategy,
                                   const struct hlm_plan_stage *stages, int32_t num_stages,
                                   const char *what, struct hlm_err *err)
{
    const struct {
        const char *name;
        int64_t required, any, value;
    } rows[] = {
        {"dp", require->dp, 0, strategy->dp},
        {"tp", require->tp, 0, strategy->tp},
        {"pp", require->pp, 0, strategy->pp},
        {"cp", require->cp, 0, strategy->cp},
        {"vpp", require->vpp, 0, strategy->vpp},
        {"ep", require->ep, 0, strategy->ep},
        {"sp", require->sp, -1, strategy->sp ? 1 : 0},
        {"zero", require->zero, -1, strategy->zero},
        {"schedule", require->schedule, -1, (int64_t)strategy->schedule},
        {"microbatch_size", require->microbatch_size, 0, strategy->microbatch_size},
        {"offload", require->offload < 0 ? (int64_t)HLM_OFFLOAD_NONE : require->offload, -1,
         (int64_t)strategy->offload},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].required != rows[i].any && rows[i].required != rows[i].value) {
            return hlm_fail(err, HLM_NO, "%s: %s = %lld was required, found %lld", what,
                            rows[i].name, (long long)rows[i].required, (long long)rows[i].value);
        }
    }
    return check_recompute(require->recompute, stages, num_stages, what, err);
}
