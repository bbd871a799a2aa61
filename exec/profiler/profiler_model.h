/* profiler_model: the few kinds of models that together hold every operator of our executor, in any
 * size: what the profiler measures operators of. */
#ifndef HLM_EXEC_PROFILER_MODEL_H
#define HLM_EXEC_PROFILER_MODEL_H

#include "costmodel/strategy.h"
#include "profiles/model.h"

#define HLM_PROFILER_FAMILY_MAP(X)                                                                 \
    X(GPT, "decoder with gelu")                                                                    \
    X(LLAMA, "decoder with swiglu")                                                                \
    X(BERT, "encoder")                                                                             \
    X(VIT, "image classifier")
enum hlm_profiler_family {
#define X(name, text) HLM_PROFILER_##name,
    HLM_PROFILER_FAMILY_MAP(X)
#undef X
        HLM_NUM_PROFILER_FAMILIES
};
extern const char *const hlm_profiler_family_texts[];

/* seq_len of the image classifier follows from its image (64 pixels, patches of 8), and its
 * vocabulary is its classes. */
struct hlm_profiler_sizes {
    enum hlm_profiler_family family;
    int64_t hidden, seq_len, microbatch_size, vocab;
    int32_t heads, layers;
};

/* The name is the family's text. */
struct hlm_model hlm_profiler_model(const struct hlm_profiler_sizes *sizes);

/* One rank, one microbatch; gradients and master parameters in fp32. seq_len: the model's. */
struct hlm_strategy hlm_profiler_strategy_of(const struct hlm_profiler_sizes *sizes,
                                             const struct hlm_model *model, enum hlm_dtype dtype);

#endif
