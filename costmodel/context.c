#include "costmodel/context.h"

struct hlm_context hlm_context_of(const struct hlm_model *model,
                                  const struct hlm_strategy *strategy, int32_t rank)
{
    HLM_ASSERT(rank >= 0 && rank < strategy->cp);
    return (struct hlm_context){.ranks = strategy->cp,
                                .rank = rank,
                                .chunks = strategy->cp > 1 && hlm_model_is_causal(model) ? 2 : 1};
}

int64_t hlm_context_own_len(const struct hlm_context *context, int64_t seq_len)
{
    return seq_len / context->ranks;
}

int64_t hlm_context_chunk_len(const struct hlm_context *context, int64_t seq_len)
{
    return seq_len / (context->ranks * context->chunks);
}

int64_t hlm_context_position(const struct hlm_context *context, int64_t seq_len, int64_t place)
{
    const int64_t length = hlm_context_chunk_len(context, seq_len);
    const int64_t piece =
        place < length ? context->rank : 2 * (int64_t)context->ranks - 1 - context->rank;
    return piece * length + place % length;
}
