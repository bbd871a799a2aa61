/* data: what the ranks train on.
 *
 * Every sample of the whole run has a global index g = step * global_batch_size + position, and its
 * content depends on g and the seed only, so that any layout of ranks sees the same batches.
 *   synthetic  token j of sample g = floor(uniform(key "tokens", g * (seq_len + 1) + j) *
 *              vocab_size)
 *   text file  bytes of the file from offset floor(uniform(key "offset", g) * (size - seq_len))
 *   decoder    inputs are tokens 0 .. seq_len-1, targets tokens 1 .. seq_len
 *   encoder    position j is masked when uniform(key "mask", g * seq_len + j) < 0.15 or j = g mod
 *              seq_len; a masked input is token vocab_size - 1, its target the original; other
 *              targets are -1
 *   vit        pixel = normal(key "pixels", ((g * channels + c) * image_size + y) * image_size + x)
 *              in fp32, label = floor(uniform(key "labels", g) * num_classes)
 * A key is hlm_hash(HLM_HASH_START, name) ^ seed.
 */
#ifndef HLM_EXEC_DATA_H
#define HLM_EXEC_DATA_H

#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "costmodel/context.h"
#include "profiles/model.h"

struct hlm_data;

/* path NULL: synthetic. HLM_INPUT: unreadable, shorter than seq_len + 2 bytes, a vocabulary below
 * 256, or a model that takes no text. */
HLM_MUST_CHECK enum hlm_status hlm_data_open(struct hlm_arena *arena, const char *path,
                                             const struct hlm_model *model, int64_t seq_len,
                                             uint64_t seed, const struct hlm_data **out,
                                             struct hlm_err *err);

/* One sample: tokens and targets [seq_len] (vit: targets [1], tokens unused), pixels [channels,
 * image, image] (vit; else unused). Unused pointers may be NULL. */
void hlm_data_sample(const struct hlm_data *data, int64_t sample, int32_t *tokens, int32_t *targets,
                     float *pixels);

/* The same for one rank of a cp group: tokens and targets of its positions [own_len], in the order
 * of costmodel/context.h. Images are not shared: ranks 1. */
void hlm_data_share(const struct hlm_data *data, const struct hlm_context *context, int64_t sample,
                    int32_t *tokens, int32_t *targets, float *pixels);

/* Number of positions of samples [first, first + count) that have a loss. */
int64_t hlm_data_num_targets(const struct hlm_data *data, int64_t first, int64_t count);

#endif
