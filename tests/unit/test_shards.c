#include "costmodel/shards.h"

#include "costmodel/memory.h"
#include "tests/support/blocks.h"

enum { NUM_REPLICAS = 4 };

static struct hlm_strategy shared_strategy(const struct hlm_model *model, int32_t tp, int32_t zero,
                                           enum hlm_schedule_kind schedule)
{
    struct hlm_strategy strategy = tiny_strategy(model, tp, tp > 1, HLM_LOWERING_HLMPLAN);
    strategy.dp = NUM_REPLICAS;
    strategy.zero = zero;
    strategy.zero_group = 0;
    strategy.schedule = schedule;
    hlm_strategy_complete(&strategy);
    return strategy;
}

static struct hlm_block_shards shards_of(struct hlm_arena *arena, const struct hlm_model *model,
                                         const struct hlm_strategy *strategy,
                                         enum hlm_block_kind kind)
{
    struct hlm_block_shards shards;
    hlm_block_shards(tiny_block(arena, model, strategy, 0, kind, HLM_RECOMPUTE_NONE), strategy,
                     model->tied_embeddings, &shards);
    return shards;
}

static int64_t num_params(struct hlm_arena *arena, const struct hlm_model *model,
                          const struct hlm_strategy *strategy, enum hlm_block_kind kind)
{
    struct hlm_block_memory memory;
    hlm_block_memory(arena, tiny_block(arena, model, strategy, 0, kind, HLM_RECOMPUTE_NONE),
                     &memory);
    return memory.num_param_elements;
}

/* From ZeRO-2 on, and of the set that our executor runs. */
static void applies(void **state)
{
    (void)state;
    const struct hlm_model model = tiny_model(TINY_GPT);
    for (int32_t zero = 0; zero <= 3; zero++) {
        struct hlm_strategy strategy = shared_strategy(&model, 1, zero, HLM_SCHEDULE_1F1B);
        for (int set = 0; set < HLM_NUM_LOWERINGS; set++) {
            strategy.lowering = (enum hlm_lowering)set;
            assert_int_equal(hlm_shards_apply(&strategy), zero >= 2 && set == HLM_LOWERING_HLMPLAN);
        }
    }
}

/* Every parameter is in one unit; padded to a multiple of the replicas. */
static void units_have_all_parameters(void **state)
{
    (void)state;
    static const enum hlm_schedule_kind schedules[] = {HLM_SCHEDULE_1F1B, HLM_SCHEDULE_ZB_H1};
    struct hlm_arena *arena = hlm_arena_new();
    for (int i = 0; i < TINY_NUM_KINDS * 2 * HLM_NUM_BLOCKS; i++) {
        const struct hlm_model model = tiny_model((enum tiny_kind)(i % TINY_NUM_KINDS));
        const enum hlm_block_kind kind = (enum hlm_block_kind)(i / TINY_NUM_KINDS / 2);
        const struct hlm_strategy strategy =
            shared_strategy(&model, 2, 3, schedules[i / TINY_NUM_KINDS % 2]);
        if (kind == HLM_BLOCK_MOE && model.moe.num_experts == 0) {
            continue;
        }
        const struct hlm_block_shards shards = shards_of(arena, &model, &strategy, kind);
        int64_t num_elements = 0;
        for (int unit = 0; unit < HLM_NUM_SHARD_KINDS; unit++) {
            const struct hlm_shard_unit *what = &shards.units[unit];
            const bool borrowed = unit == HLM_SHARD_TABLE && shards.borrows_table;
            num_elements += borrowed ? 0 : what->num_elements;
            assert_int_equal(what->num_padded, what->num_own * what->num_shards);
            assert_in_range(what->num_padded - what->num_elements, 0, what->num_shards - 1);
        }
        assert_int_equal(num_elements, num_params(arena, &model, &strategy, kind));
    }
    hlm_arena_free(arena);
}

/* Embedding and head have the table as a unit of its own, of equal size. */
static void table_is_alone(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model model = tiny_model(TINY_GPT);
    struct hlm_strategy strategy = shared_strategy(&model, 1, 3, HLM_SCHEDULE_1F1B);
    const struct hlm_block_shards below = shards_of(arena, &model, &strategy, HLM_BLOCK_EMBEDDING);
    const struct hlm_block_shards head = shards_of(arena, &model, &strategy, HLM_BLOCK_HEAD);
    assert_int_equal(below.units[HLM_SHARD_TABLE].num_elements, 60 * 24);
    assert_int_equal(head.units[HLM_SHARD_TABLE].num_elements, 60 * 24);
    assert_false(below.borrows_table);
    assert_true(head.borrows_table);
    strategy.pp = 2;
    const struct hlm_block_shards copy = shards_of(arena, &model, &strategy, HLM_BLOCK_HEAD);
    assert_false(copy.borrows_table);
    assert_int_equal(copy.units[HLM_SHARD_TABLE].num_own, 60 * 24 / NUM_REPLICAS);
    hlm_arena_free(arena);
}

/* A whole backward writes everything; in halves I has the norms and W the rest, and W of a dense
 * layer reads no parameter. */
static void halves_write_their_own(void **state)
{
    (void)state;
    const uint32_t early = 1U << HLM_SHARD_EARLY, dense = 1U << HLM_SHARD_DENSE;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model model = tiny_model(TINY_GPT);
    const struct hlm_strategy whole = shared_strategy(&model, 1, 3, HLM_SCHEDULE_1F1B);
    const struct hlm_strategy halves = shared_strategy(&model, 1, 3, HLM_SCHEDULE_ZB_H1);
    const struct hlm_block_shards one = shards_of(arena, &model, &whole, HLM_BLOCK_DENSE);
    const struct hlm_block_shards two = shards_of(arena, &model, &halves, HLM_BLOCK_DENSE);
    assert_int_equal(one.units[HLM_SHARD_EARLY].num_elements, 0);
    assert_int_equal(one.read[HLM_SHARD_FORWARD], dense);
    assert_int_equal(one.written[HLM_SHARD_FORWARD], 0);
    assert_int_equal(one.written[HLM_SHARD_BACKWARD], dense);
    assert_int_equal(one.written[HLM_SHARD_WEIGHT_GRAD], 0);
    assert_int_equal(two.units[HLM_SHARD_EARLY].num_elements, 4 * 24); /* two norms */
    assert_int_equal(two.read[HLM_SHARD_FORWARD], early | dense);
    assert_int_equal(two.written[HLM_SHARD_BACKWARD], early);
    assert_int_equal(two.written[HLM_SHARD_WEIGHT_GRAD], dense);
    assert_int_equal(two.read[HLM_SHARD_WEIGHT_GRAD], 0);
    hlm_arena_free(arena);
}

/* Gradients are whole in a pass, from ZeRO-3 on parameters too. */
static void whole_bytes(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_model model = tiny_model(TINY_GPT);
    for (int32_t zero = 2; zero <= 3; zero++) {
        struct hlm_strategy strategy = shared_strategy(&model, 1, zero, HLM_SCHEDULE_1F1B);
        strategy.dtype = HLM_DTYPE_BF16;
        const struct hlm_block_shards shards = shards_of(arena, &model, &strategy, HLM_BLOCK_DENSE);
        const struct hlm_shards_whole whole = hlm_shards_whole(&shards, &strategy);
        const int64_t num_padded = shards.units[HLM_SHARD_DENSE].num_padded;
        assert_in_range(whole.grads_bytes - 4 * num_padded, 0, HLM_ALIGNMENT_BYTES - 1);
        if (zero == 2) {
            assert_int_equal(whole.params_bytes, 0);
        } else {
            assert_in_range(whole.params_bytes - 2 * num_padded, 0, HLM_ALIGNMENT_BYTES - 1);
        }
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(applies), cmocka_unit_test(units_have_all_parameters),
        cmocka_unit_test(table_is_alone), cmocka_unit_test(halves_write_their_own),
        cmocka_unit_test(whole_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
