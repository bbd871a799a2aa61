/* shards: how a block is shared from ZeRO-2 on in sets that share in turn (hlmplan).
 *
 * Each block has units of its own, padded to a multiple of the ranks that share them, of which each
 * rank keeps an equal part (its shard): gradients, moments and master copies, from ZeRO-3 on
 * parameters too. A pass of a block
 *   - gathers the units whose parameters it reads (ZeRO-3), and
 *   - clears, fills and reduce-scatters the gradients of the units that it writes, and adds what
 *     comes back to the shard.
 * What is whole lives in the pass only, one block at a time. Nothing runs beside it.
 *
 * Parameters of one unit are reduced together:
 *   EARLY    split backward only: those whose gradients I makes (norms)
 *   DENSE    the rest; both with those of sum_over_tp first, whose shards are summed over tp at the
 *            end of a step
 *   TABLE    the token table, where embedding and head share it: alone, so that its shards are the
 *            same elements in both blocks. A head without a copy borrows that of the embedding.
 *   EXPERT   over edp in place of dp
 */
#ifndef HLM_COSTMODEL_SHARDS_H
#define HLM_COSTMODEL_SHARDS_H

#include <stdbool.h>
#include <stdint.h>

#include "costmodel/op.h"
#include "costmodel/strategy.h"

#define HLM_SHARD_MAP(X) X(EARLY, "early") X(DENSE, "dense") X(TABLE, "table") X(EXPERT, "expert")
enum hlm_shard_kind {
#define X(name, text) HLM_SHARD_##name,
    HLM_SHARD_MAP(X)
#undef X
        HLM_NUM_SHARD_KINDS
};

/* num_padded = num_shards * num_own elements; all 0: the block has no such unit. */
struct hlm_shard_unit {
    enum hlm_group group; /* DP or EDP */
    int32_t num_shards;
    int64_t num_elements, num_padded, num_own;
    int64_t num_sum_over_tp; /* leading elements */
};

/* The passes of a block: BACKWARD is all of it, or I where the backward is split. */
enum { HLM_SHARD_FORWARD, HLM_SHARD_BACKWARD, HLM_SHARD_WEIGHT_GRAD, HLM_NUM_SHARD_PASSES };

struct hlm_block_shards {
    struct hlm_shard_unit units[HLM_NUM_SHARD_KINDS];
    bool borrows_table; /* the unit TABLE is another block's */
    /* Bits 1 << enum hlm_shard_kind by pass: whose parameters it reads, whose gradients it writes.
     */
    uint32_t read[HLM_NUM_SHARD_PASSES], written[HLM_NUM_SHARD_PASSES];
};

/* Whether blocks are shared so: ZeRO-2 and 3 of these sets (struct hlm_framework). */
bool hlm_shards_apply(const struct hlm_strategy *strategy);

/* tied: embedding and head of the model share their table. The strategy's shares apply. */
void hlm_block_shards(const struct hlm_block *block, const struct hlm_strategy *strategy, bool tied,
                      struct hlm_block_shards *out);

/* The two halves of it: the units, which do not depend on degrees (split: of the backward), and how
 * a strategy's ranks share them (num_shards, num_own, num_padded). */
void hlm_block_units(const struct hlm_block *block, bool split, bool tied,
                     struct hlm_block_shards *out);
void hlm_shards_pad(struct hlm_block_shards *shards, const struct hlm_strategy *strategy);

/* The unit of one of the block's parameters. */
enum hlm_shard_kind hlm_shard_of_param(const struct hlm_block *block,
                                       const struct hlm_strategy *strategy, bool tied,
                                       int32_t param);

/* Bytes of the whole units that a pass of the block needs beside its workspace: gradients, and
 * parameters where these are shards, each of all its units one behind the other in order of kind,
 * and up to a multiple of HLM_ALIGNMENT_BYTES. */
struct hlm_shards_whole {
    int64_t params_bytes, grads_bytes;
};
struct hlm_shards_whole hlm_shards_whole(const struct hlm_block_shards *shards,
                                         const struct hlm_strategy *strategy);

#endif
