/* Context parallelism in the cost model: who has which positions, the operators of the three forms,
 * their volumes and their prices. */
#include "costmodel/context.h"

#include "costmodel/data_parallel.h"
#include "costmodel/stage_cost.h"
#include "tests/support/blocks.h"
#include "tests/support/golden.h"

/* --- positions --- */

static void every_position_has_one_rank(void **state)
{
    (void)state;
    enum { MAX_LEN = 64 };
    for (int32_t ranks = 1; ranks <= 4; ranks++) {
        for (int32_t chunks = 1; chunks <= 2; chunks++) {
            const int64_t seq_len = 8 * ranks;
            int owners[MAX_LEN] = {0};
            for (int32_t rank = 0; rank < ranks; rank++) {
                const struct hlm_context context = {ranks, rank, chunks};
                assert_int_equal(hlm_context_own_len(&context, seq_len), 8);
                assert_int_equal(hlm_context_chunk_len(&context, seq_len), 8 / chunks);
                int64_t last = -1;
                for (int64_t place = 0; place < 8; place++) {
                    const int64_t position = hlm_context_position(&context, seq_len, place);
                    assert_true(position > last && position < seq_len);
                    owners[position]++;
                    last = position;
                }
            }
            for (int64_t position = 0; position < seq_len; position++) {
                assert_int_equal(owners[position], 1);
            }
        }
    }
}

/* Under a causal mask every rank's queries see as many keys. */
static void causal_ranks_have_equal_work(void **state)
{
    (void)state;
    struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_strategy strategy = tiny_strategy(&model, 1, false, HLM_LOWERING_HLMPLAN);
    strategy.cp = 4;
    for (int32_t rank = 0; rank < 4; rank++) {
        const struct hlm_context context = hlm_context_of(&model, &strategy, rank);
        int64_t seen = 0;
        for (int64_t place = 0; place < 16; place++) {
            seen += hlm_context_position(&context, 64, place) + 1;
        }
        assert_int_equal(seen, 64 * 65 / 2 / 4);
    }
    model = tiny_model(TINY_BERT);
    const struct hlm_context context = hlm_context_of(&model, &strategy, 2);
    assert_int_equal(hlm_context_position(&context, 64, 0), 32);
    assert_int_equal(hlm_context_position(&context, 64, 15), 47);
}

static void operators_know_their_positions(void **state)
{
    (void)state;
    const struct hlm_op alone = {.seq_len = 6};
    const struct hlm_op shared = {
        .seq_len = 12, .context_ranks = 3, .context_rank = 1, .context_chunks = 2};
    const int64_t expected[] = {2, 3, 8, 9};
    assert_int_equal(hlm_op_position(&alone, 8), 2);
    for (int64_t row = 0; row < 8; row++) {
        assert_int_equal(hlm_op_position(&shared, row), expected[row % 4]);
    }
}

/* --- operators --- */

static const enum hlm_cp_form forms[] = {HLM_CP_FORM_ALLGATHER, HLM_CP_FORM_RING,
                                         HLM_CP_FORM_ULYSSES};

static const struct hlm_block *layer_of(struct hlm_arena *arena, const struct hlm_model *model,
                                        const struct hlm_strategy *strategy,
                                        enum hlm_recompute recompute)
{
    return tiny_block(arena, model, strategy, 0, HLM_BLOCK_DENSE, recompute);
}

static struct hlm_strategy shared_strategy(const struct hlm_model *model, int32_t tp, bool sp,
                                           enum hlm_lowering lowering, enum hlm_cp_form form)
{
    struct hlm_strategy strategy = tiny_strategy(model, tp, sp, lowering);
    strategy.cp = 2;
    strategy.cp_form = form;
    return strategy;
}

/* All blocks of all sets, forms, recompute modes, with sp and without. */
static void every_form_holds_the_invariants(void **state)
{
    (void)state;
    static const enum tiny_kind kinds[] = {TINY_GPT, TINY_LLAMA, TINY_BERT, TINY_NEOX};
    int num_blocks = 0;
    for (int i = 0; i < 4 * HLM_NUM_LOWERINGS * 3 * 3; i++) {
        struct hlm_arena *arena = hlm_arena_new();
        const struct hlm_model model = tiny_model(kinds[i % 4]);
        const int sp_tp = i / 12 % 3; /* tp 1, tp 3, tp 3 with sp */
        const struct hlm_strategy strategy = shared_strategy(
            &model, sp_tp > 0 ? 3 : 1, sp_tp == 2, (enum hlm_lowering)(i / 36), forms[i / 4 % 3]);
        for (int mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            hlm_block_check(layer_of(arena, &model, &strategy, (enum hlm_recompute)mode));
            num_blocks++;
        }
        hlm_block_check(
            tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_EMBEDDING, HLM_RECOMPUTE_NONE));
        hlm_block_check(
            tiny_block(arena, &model, &strategy, 0, HLM_BLOCK_HEAD, HLM_RECOMPUTE_NONE));
        hlm_arena_free(arena);
    }
    assert_int_equal(num_blocks, 36 * HLM_NUM_LOWERINGS * HLM_NUM_RECOMPUTES);
}

static const struct hlm_op *find(const struct hlm_op *ops, int32_t num, enum hlm_op_kind kind)
{
    for (int32_t i = 0; i < num; i++) {
        if (ops[i].kind == kind) {
            return &ops[i];
        }
    }
    return NULL;
}

/* Bytes of the cp group's collectives of a kind in a pass. */
static double group_bytes(const struct hlm_op *ops, int32_t num, enum hlm_op_kind kind)
{
    double bytes = 0.0;
    for (int32_t i = 0; i < num; i++) {
        bytes += ops[i].group == HLM_GROUP_CP && ops[i].kind == kind ? ops[i].bytes : 0.0;
    }
    return bytes;
}

/* Keys and values of all ranks once forward; backward once more, and their gradients. */
static void gathered_volumes(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model model = tiny_model(TINY_LLAMA);
    const struct hlm_strategy strategy =
        shared_strategy(&model, 3, false, HLM_LOWERING_MEGATRON, HLM_CP_FORM_ALLGATHER);
    /* 6 sequences of 16, 6 key heads of 4 and their values on 3 ranks, in two bytes */
    const double all = 6.0 * 16.0 * (6.0 / 3.0) * (4.0 + 4.0) * 2.0;
    for (int mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        const struct hlm_block *block =
            layer_of(arena, &model, &strategy, (enum hlm_recompute)mode);
        /* Full recompute of this set repeats all of the forward, and gathers once more behind it */
        const double times = mode == HLM_RECOMPUTE_FULL ? 2.0 : 1.0;
        check_close(group_bytes(block->forward, block->num_forward, HLM_OP_ALL_GATHER), all, 1e-12);
        check_close(group_bytes(block->backward, block->num_backward, HLM_OP_ALL_GATHER),
                    times * all, 1e-12);
        check_close(group_bytes(block->backward, block->num_backward, HLM_OP_REDUCE_SCATTER), all,
                    1e-12);
    }
    hlm_arena_free(arena);
}

/* Neither gathered keys nor their copies stay for the backward. */
static void gathered_keys_are_not_kept(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_block_memory memory[2];
    for (int i = 0; i < 2; i++) {
        const struct hlm_strategy strategy =
            shared_strategy(&model, 1, false, HLM_LOWERING_HLMPLAN,
                            i == 0 ? HLM_CP_FORM_ALLGATHER : HLM_CP_FORM_RING);
        hlm_block_memory_of(arena, layer_of(arena, &model, &strategy, HLM_RECOMPUTE_NONE), false,
                            &memory[i]);
    }
    assert_int_equal(memory[0].stash_bytes, memory[1].stash_bytes);
    /* The keys and values of 6 sequences of 16 in fp32 lie beside what attention needs anyway. */
    assert_true(memory[0].backward_transient_bytes >= 6 * 16 * 2 * 48 * 4);
    hlm_arena_free(arena);
}

/* Four all-to-alls of what a rank has: q, k, v and out; half as many again where the forward is
 * repeated. */
static void exchanged_volumes(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model model = tiny_model(TINY_GPT);
    const struct hlm_strategy strategy =
        shared_strategy(&model, 3, false, HLM_LOWERING_MEGATRON, HLM_CP_FORM_ULYSSES);
    const double own = 6.0 * 8.0 * (48.0 / 3.0) * 2.0; /* of q: rows, 12 heads of 4, bytes */
    for (int mode = 0; mode < HLM_NUM_RECOMPUTES; mode += 2) {
        const struct hlm_block *block =
            layer_of(arena, &model, &strategy, (enum hlm_recompute)mode);
        const double times = mode == HLM_RECOMPUTE_FULL ? 2.0 : 1.0;
        check_close(group_bytes(block->forward, block->num_forward, HLM_OP_ALL_TO_ALL), 4.0 * own,
                    1e-12);
        check_close(group_bytes(block->backward, block->num_backward, HLM_OP_ALL_TO_ALL),
                    times * 4.0 * own, 1e-12);
    }
    const struct hlm_block *block = layer_of(arena, &model, &strategy, HLM_RECOMPUTE_NONE);
    const struct hlm_op *op = find(block->forward, block->num_forward, HLM_OP_ATTENTION_FWD);
    assert_int_equal(op->heads, 2); /* of 12, on tp 3 and cp 2, over whole sequences */
    assert_int_equal(op->m, 6 * 16);
    hlm_arena_free(arena);
}

/* Each form computes the same share of the scores. */
static void forms_have_equal_scores(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model model = tiny_model(TINY_LLAMA);
    const struct hlm_strategy one = tiny_strategy(&model, 3, false, HLM_LOWERING_MEGATRON);
    const struct hlm_block *whole = layer_of(arena, &model, &one, HLM_RECOMPUTE_NONE);
    for (int i = 0; i < 3; i++) {
        const struct hlm_strategy strategy =
            shared_strategy(&model, 3, false, HLM_LOWERING_MEGATRON, forms[i]);
        const struct hlm_block *block = layer_of(arena, &model, &strategy, HLM_RECOMPUTE_NONE);
        check_close(find(block->backward, block->num_backward, HLM_OP_ATTENTION_BWD)->flops,
                    find(whole->backward, whole->num_backward, HLM_OP_ATTENTION_BWD)->flops / 2.0,
                    1e-12);
    }
    hlm_arena_free(arena);
}

static void ulysses_needs_heads(void **state)
{
    (void)state;
    struct hlm_err err;
    const struct hlm_model model = tiny_model(TINY_LLAMA); /* 12 heads, 6 of keys */
    struct hlm_strategy strategy =
        shared_strategy(&model, 2, false, HLM_LOWERING_MEGATRON, HLM_CP_FORM_ULYSSES);
    check_fails(hlm_strategy_check(&strategy, &model, &err), HLM_NO, &err,
                "tp * cp (with ulysses) = 4 does not divide num_kv_heads = 6");
    strategy.cp = 8;
    check_fails(hlm_strategy_check(&strategy, &model, &err), HLM_NO, &err,
                "tp * cp (with ulysses) = 16 does not divide num_heads = 12");
    strategy.cp_form = HLM_CP_FORM_RING;
    check_ok(hlm_strategy_check(&strategy, &model, &err), &err);
}

static void sets_have_their_form(void **state)
{
    (void)state;
    struct hlm_strategy strategy = {.lowering = HLM_LOWERING_HLMPLAN};
    assert_int_equal(hlm_strategy_cp_form(&strategy), HLM_CP_FORM_ALLGATHER);
    strategy.lowering = HLM_LOWERING_MEGATRON;
    assert_int_equal(hlm_strategy_cp_form(&strategy), HLM_CP_FORM_RING);
    struct hlm_err err;
    check_ok(hlm_strategy_set(&strategy, "cp_form", "ulysses", &err), &err);
    assert_int_equal(hlm_strategy_cp_form(&strategy), HLM_CP_FORM_ULYSSES);
}

/* --- prices --- */

static struct hlm_block_cost price(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                                   enum hlm_cp_form form, enum hlm_recompute recompute)
{
    struct hlm_err err;
    struct hlm_pricer pricer;
    const struct hlm_model model = tiny_model(TINY_GPT);
    const struct hlm_strategy strategy =
        shared_strategy(&model, 1, false, HLM_LOWERING_HLMPLAN, form);
    check_ok(hlm_pricer_init(arena, &model, &strategy, cluster, 0, &pricer, &err), &err);
    return pricer.blocks[HLM_BLOCK_DENSE][recompute];
}

/* 6 sequences of 16 with 12 heads of 4 in fp32, over two ranks of one node. */
static void forms_are_priced(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_cluster *cluster = golden_cluster(arena, 2);
    const struct hlm_group_shape two = {2, 1, 2, 1};
    const double q_bytes = 6.0 * 16.0 * 48.0 * 4.0;
    const double gather_s = hlm_collective_seconds(cluster, 0, HLM_ALL_GATHER, 2.0 * q_bytes, two);
    const double scatter_s =
        hlm_collective_seconds(cluster, 0, HLM_REDUCE_SCATTER, 2.0 * q_bytes, two);
    const double qkv_s =
        hlm_collective_seconds(cluster, 0, HLM_ALL_TO_ALL, 3.0 * q_bytes / 2.0, two);
    const double out_s = hlm_collective_seconds(cluster, 0, HLM_ALL_TO_ALL, q_bytes / 2.0, two);
    struct hlm_block_cost cost = price(arena, cluster, HLM_CP_FORM_ALLGATHER, HLM_RECOMPUTE_NONE);
    check_close(cost.forward.part[HLM_PART_CP_COMM], gather_s, 1e-12);
    check_close(cost.backward.part[HLM_PART_CP_COMM], gather_s + scatter_s, 1e-12);
    check_close(cost.input_grad.part[HLM_PART_CP_COMM], gather_s + scatter_s, 1e-12);
    assert_true(cost.weight_grad.part[HLM_PART_CP_COMM] <= 0.0);
    cost = price(arena, cluster, HLM_CP_FORM_ULYSSES, HLM_RECOMPUTE_NONE);
    check_close(cost.forward.part[HLM_PART_CP_COMM], qkv_s + out_s, 1e-12);
    check_close(cost.backward.part[HLM_PART_CP_COMM], qkv_s + out_s, 1e-12);
    cost = price(arena, cluster, HLM_CP_FORM_RING, HLM_RECOMPUTE_NONE);
    check_close(cost.forward.part[HLM_PART_CP_COMM],
                hlm_dp_exposed_s(cost.forward.part[HLM_PART_ATTENTION], gather_s), 1e-12);
    check_close(cost.backward.part[HLM_PART_CP_COMM],
                hlm_dp_exposed_s(cost.backward.part[HLM_PART_ATTENTION], 2.0 * gather_s), 1e-12);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_position_has_one_rank),
                                       cmocka_unit_test(causal_ranks_have_equal_work),
                                       cmocka_unit_test(operators_know_their_positions),
                                       cmocka_unit_test(every_form_holds_the_invariants),
                                       cmocka_unit_test(gathered_volumes),
                                       cmocka_unit_test(gathered_keys_are_not_kept),
                                       cmocka_unit_test(exchanged_volumes),
                                       cmocka_unit_test(forms_have_equal_scores),
                                       cmocka_unit_test(ulysses_needs_heads),
                                       cmocka_unit_test(sets_have_their_form),
                                       cmocka_unit_test(forms_are_priced)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
