#include <stdlib.h>

#include "costmodel/memory.h"
#include "tests/support/blocks.h"

static int64_t aligned_bytes(const struct hlm_block *block, int32_t tensor)
{
    const int64_t bytes = (int64_t)hlm_tensor_bytes(&block->tensors[tensor]);
    return (bytes + HLM_ALIGNMENT_BYTES - 1) / HLM_ALIGNMENT_BYTES * HLM_ALIGNMENT_BYTES;
}

/* Plays a pass on a row of bytes, one per alignment unit, that say which tensor was written there
 * last: whatever is read must still be there. Behind the transient tensors lies the stash, behind
 * that what is held. */
struct player {
    const struct hlm_block *block;
    const struct hlm_block_memory *memory;
    const int64_t *offsets; /* of the pass */
    unsigned parts;         /* that run in it */
    bool forward;
    int64_t transient_bytes;
    int32_t *owner; /* [units] */
};

/* Where the tensor's region begins and ends, in bytes. */
static void region_of(const struct player *player, int32_t tensor, int64_t *begin, int64_t *end)
{
    const struct hlm_block_memory *memory = player->memory;
    const int64_t bounds[] = {0, player->transient_bytes,
                              player->transient_bytes + memory->stash_bytes,
                              player->transient_bytes + memory->stash_bytes + memory->held_bytes};
    const enum hlm_place place = memory->place[tensor];
    const int region = place == HLM_PLACE_STASH                      ? 1
                       : place == HLM_PLACE_HELD && !player->forward ? 2
                                                                     : 0;
    *begin = bounds[region];
    *end = bounds[region + 1];
}

static int64_t first_unit(const struct player *player, int32_t tensor)
{
    int64_t begin = 0, end = 0;
    region_of(player, tensor, &begin, &end);
    const int64_t offset = player->offsets[tensor];
    assert_true(offset >= 0 && begin + offset + aligned_bytes(player->block, tensor) <= end);
    assert_int_equal((begin + offset) % HLM_ALIGNMENT_BYTES, 0);
    return (begin + offset) / HLM_ALIGNMENT_BYTES;
}

static void check_there(const struct player *player, const struct hlm_op *op, int32_t tensor)
{
    const int64_t first = first_unit(player, tensor);
    const int64_t count = aligned_bytes(player->block, tensor) / HLM_ALIGNMENT_BYTES;
    for (int64_t u = first; u < first + count; u++) {
        if (player->owner[u] != tensor) {
            fail_msg("%s reads %s, of which a part is overwritten", hlm_op_texts[op->kind],
                     player->block->tensors[tensor].name);
        }
    }
}

static void write(const struct player *player, int32_t tensor)
{
    const int64_t first = first_unit(player, tensor);
    const int64_t count = aligned_bytes(player->block, tensor) / HLM_ALIGNMENT_BYTES;
    for (int64_t u = first; u < first + count; u++) {
        player->owner[u] = tensor;
    }
}

static void play(const struct player *player, const struct hlm_op *ops, int32_t num_ops)
{
    for (int32_t o = 0; o < num_ops; o++) {
        const struct hlm_op *op = &ops[o];
        for (int pass = 0; pass < 3 && (player->parts & (1U << op->part)) != 0;
             pass++) { /* read; write; what was written is all there */
            for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
                const int32_t tensor = op->operands[i];
                if (tensor < 0 || player->memory->place[tensor] == HLM_PLACE_EXTERNAL) {
                    continue;
                }
                if (pass == 1 && hlm_op_writes(op, i)) {
                    write(player, tensor);
                } else if (pass == 0 ? hlm_op_reads(op, i) : pass == 2) {
                    check_there(player, op, tensor);
                }
            }
        }
    }
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Nothing transient outlives a pass. */
static void next_pass(struct player *player, const int64_t *offsets, unsigned parts)
{
    for (int64_t u = 0; u < player->transient_bytes / HLM_ALIGNMENT_BYTES; u++) {
        player->owner[u] = -1;
    }
    player->offsets = offsets;
    player->parts = parts;
    player->forward = false;
    play(player, player->block->backward, player->block->num_backward);
}

static void play_all(struct hlm_arena *arena, const struct hlm_block *block, bool split)
{
    const unsigned weight = 1U << HLM_PART_WEIGHT_GRAD;
    struct hlm_block_memory memory;
    hlm_block_memory_of(arena, block, split, &memory);
    const int64_t transient =
        larger(memory.forward_transient_bytes, memory.backward_transient_bytes);
    const int64_t units =
        (transient + memory.stash_bytes + memory.held_bytes) / HLM_ALIGNMENT_BYTES;
    struct player player = {
        .block = block,
        .memory = &memory,
        .offsets = memory.forward_offset,
        .parts = ~0U,
        .forward = true,
        .transient_bytes = transient,
        .owner = HLM_ARENA_ARRAY(arena, int32_t, units),
    };
    memset(player.owner, 0xFF, (size_t)units * sizeof *player.owner);
    play(&player, block->forward, block->num_forward);
    next_pass(&player, memory.backward_offset, split ? ~weight : ~0U);
    if (split) {
        next_pass(&player, memory.weight_offset, weight);
    }
}

static void check_offsets(struct hlm_arena *arena, const struct hlm_block *block,
                          const struct hlm_model *model, const struct hlm_strategy *strategy)
{
    (void)model;
    (void)strategy;
    play_all(arena, block, false);
    play_all(arena, block, true);
}

static void what_is_read_is_never_overwritten(void **state)
{
    (void)state;
    assert_true(tiny_for_each(check_offsets) > 1000);
}

/* How often each tensor was written before an operator read it, in the order of the list or I in
 * front of W. Gradients of parameters are sums, in any order. */
static void count_versions(struct hlm_arena *arena, const struct hlm_block *block, bool split,
                           int32_t *versions)
{
    const unsigned weight = 1U << HLM_PART_WEIGHT_GRAD;
    const unsigned passes[] = {split ? ~weight : ~0U, split ? weight : 0U};
    int32_t *writes = HLM_ARENA_ARRAY(arena, int32_t, block->num_tensors);
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t o = 0; o < block->num_backward; o++) {
            const struct hlm_op *op = &block->backward[o];
            for (int32_t i = 0; (passes[pass] & (1U << op->part)) != 0 && i < HLM_OP_MAX_OPERANDS;
                 i++) {
                const bool sum =
                    op->operands[i] >= 0 && block->tensors[op->operands[i]].role == HLM_TENSOR_GRAD;
                const bool reads = hlm_op_reads(op, i) && !sum;
                versions[o * HLM_OP_MAX_OPERANDS + i] = reads ? writes[op->operands[i]] : 0;
            }
            for (int32_t i = 0; (passes[pass] & (1U << op->part)) != 0 && i < HLM_OP_MAX_OPERANDS;
                 i++) {
                if (hlm_op_writes(op, i)) {
                    writes[op->operands[i]]++;
                }
            }
        }
    }
}

static void check_split_order(struct hlm_arena *arena, const struct hlm_block *block,
                              const struct hlm_model *model, const struct hlm_strategy *strategy)
{
    (void)model;
    if (strategy->lowering != HLM_LOWERING_HLMPLAN) {
        return; /* others repeat operators whose results are kept, with the same values */
    }
    const int32_t count = block->num_backward * HLM_OP_MAX_OPERANDS;
    int32_t *whole = HLM_ARENA_ARRAY(arena, int32_t, count);
    int32_t *halves = HLM_ARENA_ARRAY(arena, int32_t, count);
    count_versions(arena, block, false, whole);
    count_versions(arena, block, true, halves);
    assert_memory_equal(whole, halves, (size_t)count * sizeof *whole);
}

/* A weight gradient that is put off reads what it would have read in its place. */
static void halves_read_the_same(void **state)
{
    (void)state;
    assert_true(tiny_for_each(check_split_order) > 1000);
}

static void check_split_summary(struct hlm_arena *arena, const struct hlm_block *block,
                                const struct hlm_model *model, const struct hlm_strategy *strategy)
{
    (void)model;
    (void)strategy;
    struct hlm_block_memory whole, split;
    hlm_block_memory(arena, block, &whole);
    hlm_block_memory_of(arena, block, true, &split);
    assert_int_equal(whole.held_bytes + whole.input_grad_bytes, 0);
    assert_ptr_equal(whole.backward_offset, whole.weight_offset);
    assert_int_equal(split.stash_bytes, whole.stash_bytes);
    assert_int_equal(split.forward_transient_bytes >= whole.forward_transient_bytes, true);
    assert_true(split.backward_transient_bytes <= whole.backward_transient_bytes);
    assert_int_equal(split.input_grad_bytes, block->grad_input >= 0 ? split.input_bytes : 0);
    int64_t held = 0;
    for (int32_t t = 0; t < block->num_tensors; t++) {
        held += split.place[t] == HLM_PLACE_HELD ? aligned_bytes(block, t) : 0;
    }
    assert_int_equal(split.held_bytes, held);
    assert_int_equal(hlm_block_slot_bytes(block, &split) - hlm_block_slot_bytes(block, &whole),
                     split.held_bytes + split.input_grad_bytes);
    /* The weight gradients of a layer need the gradients of its products' results. */
    assert_true(block->kind != HLM_BLOCK_DENSE || split.held_bytes > 0);
}

static void split_blocks_hold_more(void **state)
{
    (void)state;
    assert_true(tiny_for_each(check_split_summary) > 1000);
}

static bool reads_external(const struct hlm_block *block, int32_t tensor)
{
    for (int32_t o = 0; o < block->num_backward; o++) {
        for (int32_t i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
            if (block->backward[o].operands[i] == tensor) {
                return true;
            }
        }
    }
    return false;
}

static void check_summary(struct hlm_arena *arena, const struct hlm_block *block,
                          const struct hlm_model *model, const struct hlm_strategy *strategy)
{
    struct hlm_block_memory memory;
    hlm_block_memory(arena, block, &memory);
    int64_t stash = 0, elements = 0;
    for (int32_t t = 0; t < block->num_tensors; t++) {
        const bool external = block->tensors[t].role != HLM_TENSOR_ACTIVATION;
        assert_int_equal(memory.place[t] == HLM_PLACE_EXTERNAL, external);
        stash += memory.place[t] == HLM_PLACE_STASH ? aligned_bytes(block, t) : 0;
    }
    for (int32_t p = 0; p < block->num_params; p++) {
        elements += block->params[p].rows * block->params[p].cols;
    }
    assert_int_equal(memory.stash_bytes, stash);
    assert_int_equal(memory.num_param_elements, elements);
    assert_int_equal(memory.num_expert_elements > 0,
                     block->kind == HLM_BLOCK_MOE ||
                         (block->kind == HLM_BLOCK_HEAD && model->mtp_layers > 0));
    if (block->input >= 0) {
        assert_int_equal(memory.keeps_input, reads_external(block, block->input));
        const double bytes = (double)block->activation_rows * (double)model->hidden_size *
                             hlm_dtype_bytes(strategy->dtype);
        assert_true((double)memory.input_bytes >= bytes);
        assert_true((double)memory.input_bytes < bytes + HLM_ALIGNMENT_BYTES);
    }
    assert_false(memory.keeps_output);
    if (block->recompute == HLM_RECOMPUTE_FULL) {
        assert_int_equal(memory.stash_bytes, 0);
        assert_true(memory.keeps_input);
    }
}

static void summaries_are_sums_over_tensors(void **state)
{
    (void)state;
    assert_true(tiny_for_each(check_summary) > 1000);
}

static void more_recompute_keeps_less(void **state)
{
    (void)state;
    for (int i = 0; i < TINY_NUM_KINDS * HLM_NUM_LOWERINGS; i++) {
        const struct hlm_model model = tiny_model((enum tiny_kind)(i % TINY_NUM_KINDS));
        const struct hlm_strategy strategy =
            tiny_strategy(&model, 1, false, (enum hlm_lowering)(i / TINY_NUM_KINDS));
        struct hlm_arena *arena = hlm_arena_new();
        int64_t before = INT64_MAX;
        for (int r = 0; r < HLM_NUM_RECOMPUTES; r++) {
            struct hlm_block_memory memory;
            hlm_block_memory(
                arena,
                tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_DENSE, (enum hlm_recompute)r),
                &memory);
            assert_true(memory.stash_bytes < before);
            before = memory.stash_bytes;
        }
        hlm_arena_free(arena);
    }
}

/* A hand-made block: y is kept for an overlapping reduction although nothing reads it meanwhile. */
static void operands_of_overlapping_collectives_stay_until_the_result_is_read(void **state)
{
    (void)state;
    const struct hlm_tensor tensors[] = {
        {"x", HLM_TENSOR_INPUT, HLM_DTYPE_FP32, 64, 1, -1},
        {"partial", HLM_TENSOR_ACTIVATION, HLM_DTYPE_FP32, 64, 1, -1},
        {"shard", HLM_TENSOR_ACTIVATION, HLM_DTYPE_FP32, 32, 1, -1},
        {"other", HLM_TENSOR_ACTIVATION, HLM_DTYPE_FP32, 64, 1, -1},
        {"y", HLM_TENSOR_OUTPUT, HLM_DTYPE_FP32, 32, 1, -1},
    };
    struct hlm_op ops[] = {
        {.kind = HLM_OP_ADD, .operands = {0, 0, 1, -1, -1, -1, -1, -1}},
        {.kind = HLM_OP_REDUCE_SCATTER, .operands = {1, 2, -1, -1, -1, -1, -1, -1}},
        {.kind = HLM_OP_ADD, .operands = {0, 0, 3, -1, -1, -1, -1, -1}},
        {.kind = HLM_OP_ADD, .operands = {2, 2, 4, -1, -1, -1, -1, -1}},
    };
    const struct hlm_block block = {
        .tensors = tensors,
        .num_tensors = 5,
        .forward = ops,
        .num_forward = 4,
        .input = 0,
        .output = 4,
        .grad_output = -1,
        .grad_input = -1,
    };
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_block_memory memory;
    hlm_block_memory(arena, &block, &memory);
    assert_int_equal(memory.forward_offset[1], 0);
    assert_int_equal(memory.forward_offset[2], 256);
    assert_int_equal(memory.forward_offset[3], 0); /* takes the place of partial */
    assert_int_equal(memory.forward_transient_bytes, 512);
    ops[1].overlaps_next = true;
    hlm_block_memory(arena, &block, &memory);
    assert_int_equal(memory.forward_offset[3], 512);
    assert_int_equal(memory.forward_transient_bytes, 768);
    hlm_arena_free(arena);
}

/* --- parameters, gradients, optimizer states --- */

static double static_sum(const struct hlm_strategy *strategy, int64_t elements, int64_t experts)
{
    int64_t bytes[HLM_NUM_MEMORY_KINDS];
    hlm_memory_static(strategy, elements, experts, bytes);
    assert_int_equal(bytes[HLM_MEMORY_ACTIVATIONS], 0);
    assert_int_equal(bytes[HLM_MEMORY_TRANSIENT], 0);
    assert_int_equal(bytes[HLM_MEMORY_FIXED], 0);
    return (double)(bytes[HLM_MEMORY_PARAMETERS] + bytes[HLM_MEMORY_GRADIENTS] +
                    bytes[HLM_MEMORY_OPTIMIZER]);
}

static struct hlm_strategy states_strategy(enum hlm_dtype dtype, int32_t dp, int32_t zero)
{
    struct hlm_strategy strategy = {
        .dp = dp,
        .tp = 1,
        .pp = 1,
        .zero = zero,
        .microbatch_size = 1,
        .global_batch_size = dp,
        .seq_len = 1,
        .dtype = dtype,
    };
    hlm_strategy_complete(&strategy);
    return strategy;
}

static void static_bytes_are_those_of_megatron(void **state)
{
    (void)state;
    const int64_t n = 1600;
    for (int32_t d = 1; d <= 16; d *= 2) {
        const struct hlm_strategy mixed = states_strategy(HLM_DTYPE_BF16, d, 0);
        const struct hlm_strategy zero = states_strategy(HLM_DTYPE_BF16, d, 1);
        const struct hlm_strategy single = states_strategy(HLM_DTYPE_FP32, d, 0);
        const struct hlm_strategy single_zero = states_strategy(HLM_DTYPE_FP32, d, 1);
        check_near(static_sum(&mixed, n, 0), 18.0 * (double)n, 0.0);
        check_near(static_sum(&zero, n, 0), (6.0 + 12.0 / d) * (double)n, 0.0);
        check_near(static_sum(&single, n, 0), 16.0 * (double)n, 0.0);
        check_near(static_sum(&single_zero, n, 0), (8.0 + 8.0 / d) * (double)n, 0.0);
    }
}

static void slabs_are_padded_to_the_group(void **state)
{
    (void)state;
    const struct hlm_strategy strategy = states_strategy(HLM_DTYPE_FP32, 4, 1);
    int64_t bytes[HLM_NUM_MEMORY_KINDS];
    hlm_memory_static(&strategy, 1001, 0, bytes);
    assert_int_equal(bytes[HLM_MEMORY_PARAMETERS], 4 * 1004);
    assert_int_equal(bytes[HLM_MEMORY_OPTIMIZER], 8 * 251);
}

/* Experts on ep of the dp ranks are shared by dp / ep ranks only. */
static void expert_states_are_sharded_over_their_own_group(void **state)
{
    (void)state;
    struct hlm_strategy strategy = states_strategy(HLM_DTYPE_BF16, 8, 1);
    strategy.ep = 4;
    check_near(static_sum(&strategy, 3200, 1600), 1600.0 * (6.0 + 12.0 / 8 + 6.0 + 12.0 / 2), 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_read_is_never_overwritten),
        cmocka_unit_test(halves_read_the_same),
        cmocka_unit_test(split_blocks_hold_more),
        cmocka_unit_test(summaries_are_sums_over_tensors),
        cmocka_unit_test(more_recompute_keeps_less),
        cmocka_unit_test(operands_of_overlapping_collectives_stay_until_the_result_is_read),
        cmocka_unit_test(static_bytes_are_those_of_megatron),
        cmocka_unit_test(slabs_are_padded_to_the_group),
        cmocka_unit_test(expert_states_are_sharded_over_their_own_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
