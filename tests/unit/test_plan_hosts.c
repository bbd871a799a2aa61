#include "planner/plan_hosts.h"

#include "tests/support/check.h"

/* Two pipeline ranks of four devices each on two nodes of four: a rank a node; or both on one node
 * of eight. */
struct job {
    struct hlm_device_group groups[1];
    struct hlm_host host;
    struct hlm_cluster cluster;
    struct hlm_strategy strategy;
    struct hlm_stage_memory memory[2];
};

static void job_init(struct job *job, int32_t num_nodes, double host_bytes)
{
    *job = (struct job){
        .host = {.memory_bytes = host_bytes},
        .groups = {{.name = "g", .num_nodes = num_nodes, .devices_per_node = 8 / num_nodes}},
        .strategy = {.dp = 2, .tp = 2, .pp = 2, .offload = HLM_OFFLOAD_OPTIMIZER},
        .memory = {{.stage = 0, .host_bytes = 100}, {.stage = 1, .host_bytes = 70}}};
    hlm_strategy_complete(&job->strategy);
    job->groups[0].host = &job->host;
    job->cluster = (struct hlm_cluster){.groups = job->groups, .num_groups = 1};
}

static enum hlm_status check(struct job *job, struct hlm_err *err)
{
    job->groups[0].host = &job->host;
    job->cluster.groups = job->groups;
    return hlm_plan_check_hosts(&job->cluster, &job->strategy, job->memory, 2, err);
}

static void a_node_holds_what_its_ranks_keep(void **state)
{
    (void)state;
    struct job job;
    struct hlm_err err;
    job_init(&job, 2, 400.0);
    check_ok(check(&job, &err), &err);
    job.host.memory_bytes = 399.0;
    check_fails(check(&job, &err), HLM_NO, &err,
                "offload = optimizer needs 400 B of the host of node 0 (g), which has 399 B");
    job.memory[0].host_bytes = 10; /* then the second node is the fuller one */
    job.host.memory_bytes = 279.0;
    check_fails(check(&job, &err), HLM_NO, &err, "280 B of the host of node 1 (g)");
    job_init(&job, 1, 680.0);
    check_ok(check(&job, &err), &err);
    job.host.memory_bytes = 679.0;
    check_fails(check(&job, &err), HLM_NO, &err, "680 B of the host of node 0 (g)");
}

static void without_offload_no_host_is_needed(void **state)
{
    (void)state;
    struct job job;
    struct hlm_err err;
    job_init(&job, 2, 0.0);
    job.strategy.offload = HLM_OFFLOAD_NONE;
    check_ok(check(&job, &err), &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_node_holds_what_its_ranks_keep),
        cmocka_unit_test(without_offload_no_host_is_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
