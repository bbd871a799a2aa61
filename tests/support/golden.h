/* golden: the tiny models of tests/reference with PyTorch's numbers, an imaginary CPU cluster, and
 * plans over them, for the tests of the executor. */
#ifndef HLM_TESTS_SUPPORT_GOLDEN_H
#define HLM_TESTS_SUPPORT_GOLDEN_H

#include "base/arena.h"
#include "planner/plan.h"

/* One node of `num_devices` CPU cores with round numbers for speeds; 1 GiB a rank. */
const struct hlm_cluster *golden_cluster(struct hlm_arena *arena, int32_t num_devices);

/* The model and the numbers of a golden file tests/reference/golden-<name>.json. */
struct golden_param {
    const char *name;
    const int32_t *shape;
    int32_t num_dims;
    bool decay;
    const char *digest;
    double update_norm;
    const double *grad;
    int32_t num_grad;
};
struct golden {
    struct hlm_model model;
    int64_t global_batch_size, seq_len, seed;
    double loss;
    const double *losses, *grad_norms;
    int32_t num_losses, num_norms;
    const struct golden_param *params;
    int32_t num_params;
};
const struct golden *golden_read(struct hlm_arena *arena, const char *name);

enum { GOLDEN_MAX_PP = 4, GOLDEN_MAX_REPLICAS = 3 };

/* What a test varies; zeros take the default (1, none, gpipe, fp32). */
struct golden_layout {
    int32_t dp, tp, pp, cp, vpp;
    bool sp;
    int32_t zero;
    enum hlm_schedule_kind schedule;
    enum hlm_recompute recompute;
    int64_t microbatch_size;
    enum hlm_dtype dtype;
    int32_t ep, etp;
    /* By pipeline rank, where it differs from tp, which is then the largest of them. */
    int32_t tp_at[GOLDEN_MAX_PP];
    /* Replicas with shares of their own, each on a device group of its own; dp 0: no more. Their dp
     * sum to dp. */
    struct hlm_replicas replicas[GOLDEN_MAX_REPLICAS];
};

/* A priced plan of the layout, or NULL where the layout is not legal for the model (tp does not
 * divide its heads, ...). */
const struct hlm_plan *golden_plan(struct hlm_arena *arena, const struct hlm_model *model,
                                   int64_t global_batch_size, int64_t seq_len,
                                   const struct golden_layout *layout);

/* "dp2 tp2/1 sp pp2 cp1 vpp1 ep1 etp1 gpipe full zero1 mbs1 fp32" */
const char *golden_layout_text(struct hlm_arena *arena, const struct golden_layout *layout);

#endif
