/* Whether a strategy is legal for a model: a rule a function. */
#include <stdio.h>

#include "costmodel/strategy.h"

/* Of products, so that sizes of tensors and lengths of schedules stay within 64 and 32 bits. */
#define MAX_RANKS 1073741824.0       /* 2^30 */
#define MAX_PASS_TOKENS 4294967296.0 /* 2^32 */
#define MAX_PASSES 4194304.0         /* 2^22 */

struct count {
    const char *name;
    int64_t value;
};

/* "; nearest: 4, 6" for the divisors of `total` around `value`. */
static void nearest_divisors(int64_t value, int64_t total, char *out, size_t size)
{
    int64_t below = value > total ? total : value - 1, above = value + 1;
    while (below > 0 && total % below != 0) {
        below--;
    }
    while (above <= total && total % above != 0) {
        above++;
    }
    if (below > 0 && above <= total) {
        snprintf(out, size, "; nearest: %lld, %lld", (long long)below, (long long)above);
    } else if (below > 0 || above <= total) {
        snprintf(out, size, "; nearest: %lld", (long long)(below > 0 ? below : above));
    } else {
        out[0] = '\0';
    }
}

static enum hlm_status must_divide(struct count divisor, struct count total, struct hlm_err *err)
{
    if (total.value % divisor.value == 0) {
        return HLM_OK;
    }
    if (err == NULL) {
        return HLM_NO;
    }
    char nearest[80];
    nearest_divisors(divisor.value, total.value, nearest, sizeof nearest);
    return hlm_fail(err, HLM_NO, "%s = %lld does not divide %s = %lld%s", divisor.name,
                    (long long)divisor.value, total.name, (long long)total.value, nearest);
}

static enum hlm_status check_positive(const struct hlm_strategy *strategy,
                                      const struct hlm_model *model, struct hlm_err *err)
{
    (void)model;
    const struct count counts[] = {
        {"dp", strategy->dp},
        {"tp", strategy->tp},
        {"pp", strategy->pp},
        {"cp", strategy->cp},
        {"ep", strategy->ep},
        {"etp", strategy->etp},
        {"vpp", strategy->vpp},
        {"zero_group", strategy->zero_group},
        {"microbatch_size", strategy->microbatch_size},
        {"num_microbatches", strategy->num_microbatches},
        {"global_batch_size", strategy->global_batch_size},
        {"seq_len", strategy->seq_len},
    };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        if (counts[i].value < 1) {
            return hlm_fail(err, HLM_NO, "%s = %lld is not positive", counts[i].name,
                            (long long)counts[i].value);
        }
    }
    return HLM_OK;
}

static enum hlm_status check_size(const struct hlm_strategy *strategy,
                                  const struct hlm_model *model, struct hlm_err *err)
{
    (void)model;
    const struct {
        const char *name;
        double value, max;
    } sizes[] = {
        {"dp * tp * pp * cp", (double)strategy->dp * strategy->tp * strategy->pp * strategy->cp,
         MAX_RANKS},
        {"microbatch_size * seq_len", (double)strategy->microbatch_size * (double)strategy->seq_len,
         MAX_PASS_TOKENS},
        {"pp * vpp * num_microbatches",
         (double)strategy->pp * strategy->vpp * (double)strategy->num_microbatches, MAX_PASSES},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].value > sizes[i].max) {
            return hlm_fail(err, HLM_NO, "%s = %.0f exceeds %.0f", sizes[i].name, sizes[i].value,
                            sizes[i].max);
        }
    }
    return HLM_OK;
}

static bool has_shares(const struct hlm_strategy *strategy)
{
    return strategy->num_replicas > 0 && strategy->seen_replicas == 0;
}

/* What the replicas have in all, and the most of any. */
static enum hlm_status check_shares(const struct hlm_strategy *strategy, struct hlm_err *err)
{
    int64_t dp = 0, most = 0;
    double samples = 0.0;
    for (int32_t i = 0; i < strategy->num_replicas; i++) {
        const struct hlm_replicas *replicas = &strategy->replicas[i];
        if (replicas->dp < 1 || replicas->num_microbatches < 1) {
            return hlm_fail(err, HLM_NO,
                            "replicas[%d] has dp = %d and num_microbatches = %lld: expected 1 of "
                            "each at least",
                            i, replicas->dp, (long long)replicas->num_microbatches);
        }
        for (int32_t before = 0; before < i; before++) {
            if (strategy->replicas[before].device_group == replicas->device_group) {
                return hlm_fail(err, HLM_NO, "replicas[%d] and [%d] are both of device group %d",
                                before, i, replicas->device_group);
            }
        }
        dp += replicas->dp;
        most = replicas->num_microbatches > most ? replicas->num_microbatches : most;
        samples += (double)replicas->dp * (double)strategy->microbatch_size *
                   (double)replicas->num_microbatches;
    }
    if (dp != strategy->dp) {
        return hlm_fail(err, HLM_NO, "the dp of replicas sum to %lld, dp is %d", (long long)dp,
                        strategy->dp);
    }
    if (most != strategy->num_microbatches) {
        return hlm_fail(err, HLM_NO, "the most microbatches of any replica are %lld, not %lld",
                        (long long)most, (long long)strategy->num_microbatches);
    }
    return samples == (double)strategy->global_batch_size
               ? HLM_OK
               : hlm_fail(err, HLM_NO,
                          "dp * microbatch_size * num_microbatches of all replicas sum to %.0f, "
                          "global_batch_size is %lld",
                          samples, (long long)strategy->global_batch_size);
}

static enum hlm_status check_batch(const struct hlm_strategy *strategy,
                                   const struct hlm_model *model, struct hlm_err *err)
{
    (void)model;
    const int64_t per_pass = strategy->dp * strategy->microbatch_size;
    if (has_shares(strategy)) {
        return check_shares(strategy, err);
    }
    if (per_pass * strategy->num_microbatches == strategy->global_batch_size) {
        return HLM_OK;
    }
    return hlm_fail(
        err, HLM_NO,
        "dp * microbatch_size * num_microbatches = %d * %lld * %lld = %lld is not "
        "global_batch_size = %lld",
        strategy->dp, (long long)strategy->microbatch_size, (long long)strategy->num_microbatches,
        (long long)(per_pass * strategy->num_microbatches), (long long)strategy->global_batch_size);
}

static enum hlm_status check_seq_len(const struct hlm_strategy *strategy,
                                     const struct hlm_model *model, struct hlm_err *err)
{
    if (model->kind == HLM_MODEL_VIT && strategy->seq_len != model->seq_len) {
        return hlm_fail(err, HLM_NO, "seq_len = %lld is not the %lld patches and class token of %s",
                        (long long)strategy->seq_len, (long long)model->seq_len, model->name);
    }
    if (model->position == HLM_POSITION_LEARNED && strategy->seq_len > model->seq_len) {
        return hlm_fail(err, HLM_NO, "seq_len = %lld exceeds the %lld learned positions of %s",
                        (long long)strategy->seq_len, (long long)model->seq_len, model->name);
    }
    return must_divide((struct count){"cp", strategy->cp},
                       (struct count){"seq_len", strategy->seq_len}, err);
}

static enum hlm_status check_tp(const struct hlm_strategy *strategy, const struct hlm_model *model,
                                struct hlm_err *err)
{
    const struct count tp = {"tp", strategy->tp};
    HLM_TRY(must_divide(tp, (struct count){"num_heads", model->num_heads}, err));
    HLM_TRY(must_divide(tp, (struct count){"ffn_size", model->ffn_size}, err));
    HLM_TRY(
        must_divide(tp, (struct count){"moe.shared_ffn_size", model->moe.shared_ffn_size}, err));
    if (strategy->tp % model->num_kv_heads == 0) {
        return HLM_OK;
    }
    return must_divide(tp, (struct count){"num_kv_heads", model->num_kv_heads}, err);
}

static enum hlm_status check_cp(const struct hlm_strategy *strategy, const struct hlm_model *model,
                                struct hlm_err *err)
{
    if (strategy->cp == 1 || hlm_strategy_cp_form(strategy) != HLM_CP_FORM_ULYSSES) {
        return HLM_OK;
    }
    const struct count ranks = {"tp * cp (with ulysses)", (int64_t)strategy->tp * strategy->cp};
    HLM_TRY(must_divide(ranks, (struct count){"num_heads", model->num_heads}, err));
    return must_divide(ranks, (struct count){"num_kv_heads", model->num_kv_heads}, err);
}

/* The largest of all pipeline ranks. */
static int32_t largest_tp(const struct hlm_strategy *strategy)
{
    int32_t largest = strategy->tp;
    for (int32_t pp = 0; strategy->places != NULL && pp < strategy->pp; pp++) {
        const int32_t tp = strategy->places[pp].tp;
        largest = tp > largest ? tp : largest;
    }
    return largest;
}

static enum hlm_status check_sp(const struct hlm_strategy *strategy, const struct hlm_model *model,
                                struct hlm_err *err)
{
    (void)model;
    if (!strategy->sp) {
        return HLM_OK;
    }
    if (largest_tp(strategy) == 1) {
        return hlm_fail(err, HLM_NO, "sp needs tp > 1, found tp = 1");
    }
    const int64_t tokens = strategy->microbatch_size * strategy->seq_len / strategy->cp;
    return must_divide((struct count){"tp", strategy->tp},
                       (struct count){"microbatch_size * seq_len (with sp)", tokens}, err);
}

static enum hlm_status check_pp(const struct hlm_strategy *strategy, const struct hlm_model *model,
                                struct hlm_err *err)
{
    const int64_t stages = (int64_t)strategy->pp * strategy->vpp;
    const int64_t blocks = (int64_t)model->num_layers + 2;
    const struct hlm_schedule_chunks chunks = hlm_schedule_chunks(strategy->schedule);
    if (strategy->vpp < chunks.min || strategy->vpp > chunks.max) {
        const char *const expected = chunks.max == 1   ? "one model chunk"
                                     : chunks.max == 2 ? "two model chunks"
                                                       : "two model chunks or more";
        return hlm_fail(err, HLM_NO, "schedule %s has %s per rank, found vpp = %d",
                        hlm_schedule_texts[strategy->schedule], expected, strategy->vpp);
    }
    if (stages > blocks) {
        return hlm_fail(err, HLM_NO,
                        "pp = %d exceeds the %lld blocks of %s (%d layers, embedding and head)",
                        strategy->pp, (long long)blocks, model->name, model->num_layers);
    }
    return HLM_OK;
}

/* Pipeline ranks that are not alike. */
static enum hlm_status check_places(const struct hlm_strategy *strategy,
                                    const struct hlm_model *model, struct hlm_err *err)
{
    const struct hlm_rank_place *places = strategy->places;
    const bool goes_round = strategy->vpp > 1 && hlm_schedule_chunks(strategy->schedule).max > 2;
    const int32_t num_boundaries = strategy->pp - (goes_round ? 0 : 1);
    for (int32_t pp = 0; places != NULL && pp < num_boundaries; pp++) {
        const int32_t next = (pp + 1) % strategy->pp, a = places[pp].tp, b = places[next].tp;
        if (a % b != 0 && b % a != 0) {
            return hlm_fail(err, HLM_NO,
                            "tp = %d of stage %d and tp = %d of stage %d: one must divide the "
                            "other",
                            a, pp, b, next);
        }
    }
    if (places != NULL && model->tied_embeddings && places[0].tp != places[strategy->pp - 1].tp) {
        return hlm_fail(err, HLM_NO,
                        "tied embeddings need one tp on the first and the last stage, found %d "
                        "and %d",
                        places[0].tp, places[strategy->pp - 1].tp);
    }
    return HLM_OK;
}

static enum hlm_status check_experts(const struct hlm_strategy *strategy,
                                     const struct hlm_model *model, struct hlm_err *err)
{
    if (model->moe.num_experts == 0) {
        return strategy->ep == 1
                   ? HLM_OK
                   : hlm_fail(err, HLM_NO, "ep = %d needs a model with experts", strategy->ep);
    }
    const int64_t ranks = (int64_t)strategy->dp * strategy->cp * strategy->tp;
    HLM_TRY(must_divide((struct count){"ep", strategy->ep},
                        (struct count){"moe.num_experts", model->moe.num_experts}, err));
    HLM_TRY(must_divide((struct count){"ep * etp", (int64_t)strategy->ep * strategy->etp},
                        (struct count){"dp * cp * tp", ranks}, err));
    HLM_TRY(must_divide((struct count){"etp", strategy->etp},
                        (struct count){"moe.ffn_size", model->moe.ffn_size}, err));
    if (strategy->etp != 1 && strategy->etp != strategy->tp) {
        return hlm_fail(err, HLM_NO, "etp = %d is neither 1 nor tp = %d", strategy->etp,
                        strategy->tp);
    }
    if (strategy->tp > 1 && !strategy->sp) {
        return hlm_fail(err, HLM_NO, "experts with tp = %d need sp", strategy->tp);
    }
    return HLM_OK;
}

static enum hlm_status check_zero(const struct hlm_strategy *strategy,
                                  const struct hlm_model *model, struct hlm_err *err)
{
    (void)model;
    if (strategy->zero < 0 || strategy->zero > 3) {
        return hlm_fail(err, HLM_NO, "zero = %d is none of 0, 1, 2, 3", strategy->zero);
    }
    if (strategy->zero == 0 && strategy->zero_group != 1) {
        return hlm_fail(err, HLM_NO, "zero_group = %d needs zero of at least 1",
                        strategy->zero_group);
    }
    return must_divide((struct count){"zero_group", strategy->zero_group},
                       (struct count){"dp", hlm_strategy_all_dp(strategy)}, err);
}

/* What unlike replicas can't be combined with (yet). */
static enum hlm_status check_replicas(const struct hlm_strategy *strategy,
                                      const struct hlm_model *model, struct hlm_err *err)
{
    const struct {
        bool found;
        const char *what;
    } refused[] = {
        {strategy->places != NULL, "stages that are not all alike"},
        {strategy->cp > 1, "cp > 1"},
        {model->moe.num_experts > 0, "experts"},
        {strategy->vpp > 1, "several model chunks per rank"},
        {strategy->zero >= 2, "ZeRO-2 and 3"},
        {strategy->zero > 0 && strategy->zero_group != hlm_strategy_all_dp(strategy),
         "states that a part of dp shares"},
        {strategy->offload != HLM_OFFLOAD_NONE, "offload"},
    };
    for (size_t i = 0; strategy->num_replicas > 0 && i < sizeof refused / sizeof refused[0]; i++) {
        if (refused[i].found) {
            return hlm_fail(err, HLM_NO, "replicas with shares of their own can't have %s",
                            refused[i].what);
        }
    }
    return HLM_OK;
}

/* I and W both read what a layer keeps, so that it would have to come back twice or stay. */
static enum hlm_status check_offload(const struct hlm_strategy *strategy,
                                     const struct hlm_model *model, struct hlm_err *err)
{
    const bool moves_layers = hlm_offload_parts(strategy->offload).inputs;
    if (strategy->offload_layers > model->num_layers ||
        (strategy->offload_layers > 0 && !moves_layers)) {
        return hlm_fail(err, HLM_NO,
                        "offload_layers = %d needs as many layers (%s has %d) and an offload of "
                        "their inputs or activations, found %s",
                        strategy->offload_layers, model->name, model->num_layers,
                        hlm_offload_texts[strategy->offload]);
    }
    if (moves_layers && hlm_schedule_splits(strategy->schedule)) {
        return hlm_fail(err, HLM_NO, "offload = %s needs a backward that is not split, found %s",
                        hlm_offload_texts[strategy->offload],
                        hlm_schedule_texts[strategy->schedule]);
    }
    return HLM_OK;
}

enum hlm_status hlm_strategy_check(const struct hlm_strategy *strategy,
                                   const struct hlm_model *model, struct hlm_err *err)
{
    static enum hlm_status (*const rules[])(const struct hlm_strategy *, const struct hlm_model *,
                                            struct hlm_err *) = {
        check_positive, check_size,    check_batch,    check_seq_len, check_tp,
        check_cp,       check_sp,      check_pp,       check_places,  check_experts,
        check_zero,     check_offload, check_replicas,
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        HLM_TRY(rules[i](strategy, model, err));
    }
    return HLM_OK;
}
