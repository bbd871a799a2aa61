#include "planner/explain_input.h"
#include "tests/support/small_problem.h"

static const struct hlm_device_group *scaled(struct hlm_arena *arena,
                                             const struct hlm_search_problem *problem,
                                             enum hlm_explain_input input, double factor)
{
    struct hlm_search_problem changed = *problem;
    hlm_explain_input_scale(arena, &changed, input, factor);
    return changed.cluster->groups;
}

static void memory_is_rounded_down(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 4, 4, 1001, 8);
    const struct hlm_device_group *group =
        scaled(arena, &small.problem, HLM_EXPLAIN_INPUT_DEVICE_MEMORY, 1.1);
    assert_int_equal(group->device.memory_bytes, 1101);
    assert_int_equal(small.group.device.memory_bytes, 1001);
    hlm_arena_free(arena);
}

static void compute_scales_rates_and_leaves_fixed_times(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 4, 4, 1LL << 30, 8);
    const struct hlm_device_dtype *before = &small.group.device.dtypes[0];
    const struct hlm_device_group *group =
        scaled(arena, &small.problem, HLM_EXPLAIN_INPUT_COMPUTE, 2.0);
    const struct hlm_device_dtype *after = &group->device.dtypes[0];
    check_close(after->peak_flops_per_s, 2 * before->peak_flops_per_s, 1e-15);
    assert_true(before->num_gemm > 0 && before->num_attention > 0);
    check_close(after->gemm[0].flops_per_s, 2 * before->gemm[0].flops_per_s, 1e-15);
    check_close(after->gemm[0].t0_s, before->gemm[0].t0_s, 0);
    check_close(after->gemm[0].bytes_per_s, before->gemm[0].bytes_per_s, 0);
    check_close(after->attention[0].flops_per_s, 2 * before->attention[0].flops_per_s, 1e-15);
    check_close(group->device.launch_overhead_s, small.group.device.launch_overhead_s, 0);
    check_close(group->device.memory.bytes_per_s, small.group.device.memory.bytes_per_s, 0);
    hlm_arena_free(arena);
}

static void memory_bandwidth_scales_curves(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_curve_point points[] = {{1e3, 2e-6}, {1e6, 10e-6}};
    const struct hlm_op_curve curve = {.op = "norm_fwd", .points = points, .num_points = 2};
    small_problem_init(arena, &small, 4, 4, 1LL << 30, 8);
    small.group.device.ops = &curve;
    small.group.device.num_ops = 1;
    const struct hlm_device_group *group =
        scaled(arena, &small.problem, HLM_EXPLAIN_INPUT_MEMORY_BANDWIDTH, 2.0);
    check_close(group->device.memory.bytes_per_s, 2 * small.group.device.memory.bytes_per_s, 1e-15);
    check_close(group->device.ops[0].points[0].seconds, 2e-6, 1e-15);
    check_close(group->device.ops[0].points[1].seconds, 6e-6, 1e-12);
    check_close(group->device.dtypes[0].gemm[0].bytes_per_s,
                2 * small.group.device.dtypes[0].gemm[0].bytes_per_s, 1e-15);
    hlm_arena_free(arena);
}

/* --- links: a link with points, a collective of one node and one of two --- */

static const struct hlm_curve_point link_points[] = {{8, 4e-6}, {1e6, 14e-6}};
static const struct hlm_collective_piece pieces[] = {{1e4, 5e-6, 0.0}, {0.0, 10e-6, 100e9}};
static const struct hlm_collective_curve curves[] = {
    {.op = HLM_ALL_REDUCE, .num_ranks = 4, .num_nodes = 1, .pieces = pieces, .num_pieces = 2},
    {.op = HLM_ALL_REDUCE, .num_ranks = 8, .num_nodes = 2, .pieces = pieces, .num_pieces = 2}};

static struct hlm_inter_link network_init(struct hlm_arena *arena, struct small_problem *small)
{
    small_problem_init(arena, small, 4, 4, 1LL << 30, 8);
    small->group.num_nodes = 2;
    small->group.collectives = curves;
    small->group.num_collectives = 2;
    small->group.nics_per_node = 1;
    small->group.nic_bandwidth_bytes_per_s = 20e9;
    small->group.intra_node = (struct hlm_link){.alpha_s = 4e-6,
                                                .hop_alpha_s = 1e-6,
                                                .bandwidth_bytes_per_s = 150e9,
                                                .points = link_points,
                                                .num_points = 2};
    return (struct hlm_inter_link){.link = {.alpha_s = 8e-6, .bandwidth_bytes_per_s = 20e9}};
}

static double rate(const struct hlm_device_group *group, int curve)
{
    return group->collectives[curve].pieces[1].bus_bandwidth_bytes_per_s;
}

static void intra_node_link_and_its_collectives(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_inter_link link = network_init(arena, &small);
    small.cluster.links = &link;
    small.cluster.num_links = 1;
    const struct hlm_device_group *group =
        scaled(arena, &small.problem, HLM_EXPLAIN_INPUT_INTRA_NODE_BANDWIDTH, 2.0);
    check_close(group->intra_node.bandwidth_bytes_per_s, 300e9, 1e-15);
    check_close(group->intra_node.alpha_s, 4e-6, 0);
    check_close(group->intra_node.points[0].seconds, 4e-6, 1e-15);
    check_close(group->intra_node.points[1].seconds, 9e-6, 1e-12);
    check_close(rate(group, 0), 200e9, 1e-15);
    check_close(rate(group, 1), 100e9, 1e-15);
    assert_true(group->collectives[0].pieces[0].bus_bandwidth_bytes_per_s == 0.0);
    check_close(group->nic_bandwidth_bytes_per_s, 20e9, 0);
    hlm_arena_free(arena);
}

static void inter_node_link_up_to_the_node(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_inter_link link = network_init(arena, &small);
    small.cluster.links = &link;
    small.cluster.num_links = 1;
    struct hlm_search_problem changed = small.problem;
    hlm_explain_input_scale(arena, &changed, HLM_EXPLAIN_INPUT_INTER_NODE_BANDWIDTH, 2.0);
    const struct hlm_device_group *group = changed.cluster->groups;
    check_close(changed.cluster->links[0].link.bandwidth_bytes_per_s, 40e9, 1e-15);
    check_close(changed.cluster->links[0].link.alpha_s, 8e-6, 0);
    check_close(group->nic_bandwidth_bytes_per_s, 40e9, 1e-15);
    check_close(rate(group, 0), 100e9, 1e-15);
    check_close(rate(group, 1), 150e9, 1e-15); /* what the link inside a node carries */
    check_close(group->intra_node.bandwidth_bytes_per_s, 150e9, 0);
    hlm_arena_free(arena);
}

static void latency_of_all_links(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    const struct hlm_inter_link link = network_init(arena, &small);
    small.cluster.links = &link;
    small.cluster.num_links = 1;
    struct hlm_search_problem changed = small.problem;
    hlm_explain_input_scale(arena, &changed, HLM_EXPLAIN_INPUT_LATENCY, 0.5);
    const struct hlm_device_group *group = changed.cluster->groups;
    check_close(changed.cluster->links[0].link.alpha_s, 4e-6, 1e-15);
    check_close(changed.cluster->links[0].link.bandwidth_bytes_per_s, 20e9, 0);
    check_close(group->intra_node.alpha_s, 2e-6, 1e-15);
    check_close(group->intra_node.hop_alpha_s, 0.5e-6, 1e-15);
    check_close(group->intra_node.points[0].seconds, 2e-6, 1e-12);
    check_close(group->intra_node.points[1].seconds, 12e-6, 1e-12);
    check_close(group->collectives[0].pieces[1].alpha_s, 5e-6, 1e-15);
    check_close(rate(group, 0), 100e9, 0);
    hlm_arena_free(arena);
}

static void batch_is_of_the_problem(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct small_problem small;
    small_problem_init(arena, &small, 4, 4, 1LL << 30, 8);
    struct hlm_search_problem changed = small.problem;
    hlm_explain_input_scale(arena, &changed, HLM_EXPLAIN_INPUT_GLOBAL_BATCH, 2.0);
    assert_int_equal(changed.global_batch_size, 16);
    assert_ptr_equal(changed.cluster, small.problem.cluster);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_rounded_down),
        cmocka_unit_test(compute_scales_rates_and_leaves_fixed_times),
        cmocka_unit_test(memory_bandwidth_scales_curves),
        cmocka_unit_test(intra_node_link_and_its_collectives),
        cmocka_unit_test(inter_node_link_up_to_the_node),
        cmocka_unit_test(latency_of_all_links),
        cmocka_unit_test(batch_is_of_the_problem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
