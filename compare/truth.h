/* truth: published measurements of training runs, as others collected them.
 *
 * A truth file is a JSON array of points: what was trained, on what, how it was divided, and one
 * measured number. Keys of a point that say how it came about (source, notes, checks) are let by;
 * those of model, parallel, batch and target are not, since each of them changes the prediction.
 * A point that cannot be read does not spoil the file: it is refused by its message.
 *
 * The words are those of the file, not ours: `hidden` for hidden_size, `micro` for microbatch_size,
 * `heads` for num_heads, `gated` for swiglu; values that a source does not state are null there and
 * 0 here. dp counts replicas of the dense layers: tp * pp * cp * dp = gpus.
 */
#ifndef HLM_COMPARE_TRUTH_H
#define HLM_COMPARE_TRUTH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"

/* What was measured. train_step: seconds of an optimizer step; layer_time: forward + backward of
 * one layer, milliseconds; memory: peak GPU memory, GB; oom: whether it fitted (1) or not (0). */
#define HLM_TRUTH_KIND_MAP(X)                                                                      \
    X(TRAIN_STEP, "train_step")                                                                    \
    X(LAYER_TIME, "layer_time")                                                                    \
    X(MEMORY, "memory")                                                                            \
    X(OOM, "oom")
enum hlm_truth_kind {
#define X(name, text) HLM_TRUTH_##name,
    HLM_TRUTH_KIND_MAP(X)
#undef X
        HLM_NUM_TRUTH_KINDS
};
extern const char *const hlm_truth_kind_texts[];

struct hlm_truth_moe {
    int32_t experts, top_k, dense_layers;
    int64_t ffn_hidden, shared_ffn_hidden;
    double capacity_factor; /* 0: no token is dropped or padded */
};

struct hlm_truth_mla {
    int64_t q_lora, kv_lora, qk_nope, qk_rope, v;
};

struct hlm_truth_model {
    const char *name;
    int32_t layers, heads, kv_heads, window_layers, mtp_layers;
    int64_t hidden, head_dim, ffn_hidden, vocab, seq_len, window;
    bool gated, tied_embeddings, qkv_bias;
    double params_count;
    const char *activation, *block, *pos_emb; /* NULL: not stated */
    const struct hlm_truth_moe *moe;          /* NULL: dense */
    const struct hlm_truth_mla *mla;
};

struct hlm_truth_hardware {
    const char *gpu, *gpu_family; /* the source's name, the normalised one */
    double gpu_mem_gb;            /* 0: not stated */
    int32_t gpus, gpus_per_node;
    const char *interconnect; /* a sentence */
};

struct hlm_truth_parallel {
    int32_t tp, pp, dp, cp, ep, etp, vpp, zero, zero_group; /* 0: not stated */
    bool sp;
};

struct hlm_truth_batch {
    int64_t global, micro; /* sequences; micro 0: not stated */
    double num_microbatches;
};

struct hlm_truth_measured {
    double memory_gb, memory_gib; /* peak beside a step time; 0: not measured */
};

struct hlm_truth_target {
    const char *metric, *basis;
    double value;
};

struct hlm_truth_point {
    const char *id, *family, *use;
    double family_weight; /* 1 / number of scored points of the family, 0: informational */
    enum hlm_truth_kind kind;
    struct hlm_truth_model model;
    struct hlm_truth_hardware hardware;
    struct hlm_truth_parallel parallel;
    struct hlm_truth_batch batch;
    const char *recompute, *recompute_detail, *precision, *schedule, *optimizer, *overlap,
        *software;
    const char *const *offload;
    int32_t num_offload;
    struct hlm_truth_measured measured;
    struct hlm_truth_target target;
    const char *unreadable; /* why it could not be read; NULL: it could */
};

struct hlm_truth {
    const struct hlm_truth_point *points;
    int32_t num_points;
};

/* Reads a truth file ("-": stdin), or a text that messages call `name`. HLM_INPUT: not an array in
 * JSON. */
HLM_MUST_CHECK enum hlm_status hlm_truth_read_text(struct hlm_arena *arena, const char *name,
                                                   const char *text, size_t length,
                                                   struct hlm_truth *out, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_truth_read(struct hlm_arena *arena, const char *path,
                                              struct hlm_truth *out, struct hlm_err *err);

#endif
