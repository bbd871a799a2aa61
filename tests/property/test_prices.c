/* What must hold for every price, whatever the figures: more work is never faster, a faster part
 * never slower. Random operators and groups over all built-in devices and node types, seeded. */
#include "tests/support/check.h"

#include "base/rng.h"
#include "costmodel/collective.h"
#include "costmodel/kernel.h"

enum { NUM_TRIES = 4000 };

/* Sums of the same terms in another order may differ in the last bits. */
static const double slack = 1.0 + 1e-12;

static int setup(void **state)
{
    *state = hlm_arena_new();
    return 0;
}

static int teardown(void **state)
{
    hlm_arena_free(*state);
    return 0;
}

static int64_t log_uniform(struct hlm_rng *rng, double min, double max)
{
    return (int64_t)(min * pow(max / min, hlm_rng_next_uniform(rng)));
}

static void set_gemm_work(struct hlm_op *op)
{
    const double m = (double)op->m, n = (double)op->n, k = (double)op->k;
    op->flops = 2.0 * m * n * k;
    op->bytes = hlm_dtype_bytes(op->dtype) * (m * k + k * n + m * n);
}

static void set_attention_work(struct hlm_op *op)
{
    const double tokens = (double)op->batch * (double)op->seq_len * (double)op->heads;
    const double forward = 4.0 * tokens * (double)(op->seq_len * op->head_dim);
    op->flops = forward * (op->causal ? 0.5 : 1.0);
    op->flops *= op->kind == HLM_OP_ATTENTION_BWD ? 2.5 : 1.0;
    op->bytes = 8.0 * tokens * (double)op->head_dim;
}

static enum hlm_dtype random_dtype(struct hlm_rng *rng, const struct hlm_device *device)
{
    return device->dtypes[hlm_rng_next_int(rng, 0, device->num_dtypes - 1)].dtype;
}

static void check_gemm(struct hlm_rng *rng, const struct hlm_device *device)
{
    struct hlm_op op = {.kind = HLM_OP_GEMM,
                        .dtype = random_dtype(rng, device),
                        .layout = (enum hlm_gemm_layout)hlm_rng_next_int(rng, 1, 3),
                        .m = log_uniform(rng, 1, 1e5),
                        .n = log_uniform(rng, 1, 1e5),
                        .k = log_uniform(rng, 1, 1e5)};
    set_gemm_work(&op);
    const double base_s = hlm_kernel_seconds(device, &op);
    assert_true(isfinite(base_s) && base_s > 0.0);
    assert_true(base_s * slack >= op.flops / hlm_device_dtype(device, op.dtype)->peak_flops_per_s);
    int64_t *const sizes[] = {&op.m, &op.n, &op.k};
    for (size_t i = 0; i < 3; i++) {
        const int64_t before = *sizes[i];
        *sizes[i] += log_uniform(rng, 1, 1e4);
        set_gemm_work(&op);
        assert_true(hlm_kernel_seconds(device, &op) * slack >= base_s);
        *sizes[i] = before;
    }
}

static void check_attention(struct hlm_rng *rng, const struct hlm_device *device)
{
    struct hlm_op op = {.kind = hlm_rng_next_int(rng, 0, 1) == 0 ? HLM_OP_ATTENTION_FWD
                                                                 : HLM_OP_ATTENTION_BWD,
                        .dtype = random_dtype(rng, device),
                        .causal = hlm_rng_next_int(rng, 0, 1) == 0,
                        .batch = (int32_t)log_uniform(rng, 1, 64),
                        .heads = (int32_t)log_uniform(rng, 1, 128),
                        .seq_len = log_uniform(rng, 16, 65536),
                        .head_dim = 64 << hlm_rng_next_int(rng, 0, 2)};
    op.kv_heads = op.heads;
    op.v_head_dim = op.head_dim;
    op.operands[3] = op.operands[4] = (int32_t)hlm_rng_next_int(rng, -1, 0);
    op.attention_kernel = (enum hlm_attention_kernel)hlm_rng_next_int(rng, 0, 2);
    set_attention_work(&op);
    const double base_s = hlm_kernel_seconds(device, &op);
    assert_true(isfinite(base_s) && base_s > 0.0);
    struct hlm_op more = op;
    more.batch += (int32_t)log_uniform(rng, 1, 64);
    set_attention_work(&more);
    assert_true(hlm_kernel_seconds(device, &more) * slack >= base_s);
    more = op;
    more.heads += (int32_t)log_uniform(rng, 1, 64);
    set_attention_work(&more);
    assert_true(hlm_kernel_seconds(device, &more) * slack >= base_s);
    more = op;
    more.seq_len += log_uniform(rng, 1, 4096);
    set_attention_work(&more);
    assert_true(hlm_kernel_seconds(device, &more) * slack >= base_s);
}

static void check_memory_bound(struct hlm_rng *rng, const struct hlm_device *device)
{
    static const enum hlm_op_kind kinds[] = {
        HLM_OP_NORM_FWD,       HLM_OP_NORM_BWD,       HLM_OP_ADD,
        HLM_OP_ACTIVATION_FWD, HLM_OP_ACTIVATION_BWD, HLM_OP_ADAMW};
    struct hlm_op op = {.kind = kinds[hlm_rng_next_int(rng, 0, 5)],
                        .dtype = random_dtype(rng, device),
                        .bytes = (double)log_uniform(rng, 1, 1e11)};
    const double base_s = hlm_kernel_seconds(device, &op);
    struct hlm_device faster = *device;
    faster.memory.bytes_per_s *= 1.0 + hlm_rng_next_uniform(rng);
    assert_true(hlm_kernel_seconds(&faster, &op) <= base_s * slack);
    op.bytes *= 1.0 + hlm_rng_next_uniform(rng);
    assert_true(hlm_kernel_seconds(device, &op) * slack >= base_s);
}

static void test_more_work_is_never_faster(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    for (int i = 0; hlm_device_builtin_name(i) != NULL; i++) {
        const struct hlm_device *device = NULL;
        check_ok(hlm_device_load(arena, hlm_device_builtin_name(i), &device, &err), &err);
        struct hlm_rng rng = {.key = 1000 + (uint64_t)i};
        for (int t = 0; t < NUM_TRIES; t++) {
            check_gemm(&rng, device);
            check_attention(&rng, device);
            check_memory_bound(&rng, device);
        }
    }
}

static struct hlm_group_shape random_shape(struct hlm_rng *rng)
{
    struct hlm_group_shape shape = {.ranks_per_node = (int32_t)hlm_rng_next_int(rng, 1, 8),
                                    .num_nodes = (int32_t)log_uniform(rng, 1, 256)};
    shape.groups_per_node = (int32_t)hlm_rng_next_int(rng, 1, 8 / shape.ranks_per_node);
    shape.num_ranks = shape.ranks_per_node * shape.num_nodes;
    return shape;
}

/* A copy of a one-group cluster whose rates are `scale` times as high. */
static struct hlm_cluster scaled(struct hlm_arena *arena, const struct hlm_cluster *cluster,
                                 double scale)
{
    struct hlm_cluster copy = *cluster;
    struct hlm_device_group *group =
        hlm_arena_memdup(arena, cluster->groups, sizeof cluster->groups[0]);
    struct hlm_inter_link *link = hlm_arena_memdup(arena, cluster->links, sizeof cluster->links[0]);
    struct hlm_collective_curve *curves = hlm_arena_memdup(
        arena, group->collectives, (size_t)group->num_collectives * sizeof group->collectives[0]);
    for (int32_t i = 0; i < group->num_collectives; i++) {
        struct hlm_collective_piece *pieces = hlm_arena_memdup(
            arena, curves[i].pieces, (size_t)curves[i].num_pieces * sizeof curves[i].pieces[0]);
        for (int32_t j = 0; j < curves[i].num_pieces; j++) {
            pieces[j].bus_bandwidth_bytes_per_s *= scale;
        }
        curves[i].pieces = pieces;
    }
    group->collectives = curves;
    group->intra_node.bandwidth_bytes_per_s *= scale;
    group->nic_bandwidth_bytes_per_s *= scale;
    link->link.bandwidth_bytes_per_s *= scale;
    copy.groups = group;
    copy.links = link;
    return copy;
}

static void check_collective(struct hlm_rng *rng, const struct hlm_cluster *cluster,
                             const struct hlm_cluster *faster)
{
    const enum hlm_collective op =
        (enum hlm_collective)hlm_rng_next_int(rng, 0, HLM_NUM_COLLECTIVES - 1);
    const struct hlm_group_shape shape = random_shape(rng);
    const double bytes = (double)log_uniform(rng, 1, 1e11);
    const double more = bytes * (1.0 + 4.0 * hlm_rng_next_uniform(rng) * hlm_rng_next_uniform(rng));
    const double base_s = hlm_collective_seconds(cluster, 0, op, bytes, shape);
    assert_true(isfinite(base_s) && (base_s > 0.0) == (shape.num_ranks > 1));
    assert_true(hlm_collective_seconds(cluster, 0, op, more, shape) * slack >= base_s);
    assert_true(hlm_collective_seconds(faster, 0, op, bytes, shape) <= base_s * slack);
    if (shape.num_nodes > 1 && shape.groups_per_node > 1) {
        struct hlm_group_shape less = shape;
        less.groups_per_node--;
        const double less_s = hlm_collective_seconds(cluster, 0, op, bytes, less);
        /* One group alone may be priced by its own measurement instead of the model. */
        assert_true(less.groups_per_node == 1 || less_s <= base_s * slack);
    }
}

static void test_collectives_are_monotone(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    for (int i = 0; hlm_cluster_builtin_name(i) != NULL; i++) {
        const struct hlm_cluster *cluster = NULL;
        const char *text = hlm_arena_printf(arena, "%s:256x8", hlm_cluster_builtin_name(i));
        check_ok(hlm_cluster_load(arena, text, &cluster, &err), &err);
        const struct hlm_cluster faster = scaled(arena, cluster, 1.3);
        struct hlm_rng rng = {.key = 2000 + (uint64_t)i};
        for (int t = 0; t < NUM_TRIES; t++) {
            check_collective(&rng, cluster, &faster);
        }
    }
}

static void test_links_are_monotone(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err;
    const struct hlm_cluster *cluster = NULL;
    check_ok(hlm_cluster_load(arena, "h100:2x8+v100:2x8", &cluster, &err), &err);
    struct hlm_rng rng = {.key = 3000};
    for (int t = 0; t < NUM_TRIES; t++) {
        struct hlm_link link = cluster->links[hlm_rng_next_int(&rng, 0, 2)].link;
        link.eager_limit_bytes = log_uniform(&rng, 1, 1e6);
        link.alpha_rendezvous_s = link.alpha_s * 2.0 * hlm_rng_next_uniform(&rng);
        const double bytes = (double)log_uniform(&rng, 1, 1e9);
        const double base_s = hlm_link_seconds(&link, bytes);
        assert_true(hlm_link_seconds(&link, bytes * 1.01 + 1.0) >= base_s);
        link.bandwidth_bytes_per_s *= 1.5;
        assert_true(hlm_link_seconds(&link, bytes) < base_s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_more_work_is_never_faster, setup, teardown),
        cmocka_unit_test_setup_teardown(test_collectives_are_monotone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links_are_monotone, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
