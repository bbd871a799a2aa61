/* problem: what `plan` and `estimate` are asked, from options to loaded profiles. */
#ifndef HLM_CLI_PROBLEM_H
#define HLM_CLI_PROBLEM_H

#include <stdint.h>

#include "base/opt.h"
#include "planner/plan.h"
#include "planner/search.h"

struct hlm_problem_options {
    const char *model, *cluster;
    int64_t global_batch, seq_len; /* seq_len 0: the model's */
    int dtype;                     /* 0: auto, else 1 + enum hlm_dtype */
    int framework;                 /* enum hlm_lowering */
};

extern const char *const hlm_problem_dtype_texts[]; /* "auto" and the dtypes; ends with NULL */

/* Rows for an option table; `options_type` is the command's options struct with a member `problem`
 * of struct hlm_problem_options. */
#define HLM_PROBLEM_OPTS(options_type, is_required)                                                \
    {.name = "model",                                                                              \
     .type = HLM_OPT_STRING,                                                                       \
     .offset = offsetof(options_type, problem.model),                                              \
     .arg = "MODEL",                                                                               \
     .help = "What to train: a built-in name, a model file, or a Hugging Face config.json.",       \
     .required = (is_required)},                                                                   \
        {.name = "cluster",                                                                        \
         .type = HLM_OPT_STRING,                                                                   \
         .offset = offsetof(options_type, problem.cluster),                                        \
         .arg = "CLUSTER",                                                                         \
         .help = "On what: h100-sxm:16x8 (16 nodes of 8), several groups joined by +, a built-in " \
                 "node type, a cluster file, or a folder that profile wrote.",                     \
         .required = (is_required)},                                                               \
        {.name = "global-batch",                                                                   \
         .type = HLM_OPT_INT64,                                                                    \
         .offset = offsetof(options_type, problem.global_batch),                                   \
         .arg = "N",                                                                               \
         .help = "Sequences of one training step.",                                                \
         .min = 1,                                                                                 \
         .max = 1e9,                                                                               \
         .required = (is_required)},                                                               \
        {.name = "seq-len",                                                                        \
         .type = HLM_OPT_INT64,                                                                    \
         .offset = offsetof(options_type, problem.seq_len),                                        \
         .arg = "S",                                                                               \
         .help = "Tokens of a sequence; without it, the longest that the model was made for.",     \
         .min = 1,                                                                                 \
         .max = 1e9},                                                                              \
        {.name = "dtype",                                                                          \
         .type = HLM_OPT_ENUM,                                                                     \
         .offset = offsetof(options_type, problem.dtype),                                          \
         .def = "auto",                                                                            \
         .arg = "DTYPE",                                                                           \
         .help =                                                                                   \
             "Number format of weights and activations; auto: the best that all devices have.",    \
         .enums = hlm_problem_dtype_texts},                                                        \
    {                                                                                              \
        .name = "framework", .type = HLM_OPT_ENUM,                                                 \
        .offset = offsetof(options_type, problem.framework), .def = "hlmplan", .arg = "L",         \
        .help = "Whose fusions, kernels and overlaps to price.", .enums = hlm_lowering_texts       \
    }

struct hlm_problem {
    const struct hlm_model *model;
    const struct hlm_cluster *cluster;
    int64_t global_batch_size, seq_len;
    enum hlm_dtype dtype;
    enum hlm_lowering lowering;
};

/* Loads model and cluster. HLM_INPUT: either is wrong, or a device lacks the dtype. */
HLM_MUST_CHECK enum hlm_status hlm_problem_load(struct hlm_arena *arena,
                                                const struct hlm_problem_options *options,
                                                struct hlm_problem *out, struct hlm_err *err);

/* How messages call what --cluster names: of a folder its cluster.json, else the text itself. */
const char *hlm_problem_cluster_file(struct hlm_arena *arena, const char *cluster);

/* "tp=8,schedule=1f1b" of --require into *out, whose free values say "free" where nothing is
 * required. HLM_USAGE: unknown key or bad value. */
HLM_MUST_CHECK enum hlm_status hlm_problem_require(struct hlm_arena *arena, const char *text,
                                                   struct hlm_search_require *out,
                                                   struct hlm_err *err);

/* The same for another option of the same form, which messages call by its name. */
HLM_MUST_CHECK enum hlm_status hlm_problem_require_option(struct hlm_arena *arena,
                                                          const char *option, const char *text,
                                                          struct hlm_search_require *out,
                                                          struct hlm_err *err);

/* "tp=8,pp=12,microbatch_size=1" of --set into a whole strategy for the problem: without a word for
 * them, dp takes the devices that tp * pp leaves, the schedule is 1f1b, zero 0, microbatch_size 1.
 * *out_recompute: the mode of all layers, -1: the least that fits. HLM_USAGE: unknown key or bad
 * value. */
HLM_MUST_CHECK enum hlm_status hlm_problem_strategy(struct hlm_arena *arena,
                                                    const struct hlm_problem *problem,
                                                    const char *text, struct hlm_strategy *out,
                                                    int32_t *out_recompute, struct hlm_err *err);

#endif
