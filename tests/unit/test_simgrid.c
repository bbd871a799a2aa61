#include "schedule/simgrid.h"

#include "tests/support/pipeline.h"

static const struct hlm_simgrid_cluster cluster = {3, 10e-6, 10e9};

static void test_trace(void **state)
{
    const struct hlm_simgrid_item items[] = {
        {.kind = HLM_SIMGRID_RECV, .bytes = 4096, .peer = 0, .tag = 5},
        {.kind = HLM_SIMGRID_COMPUTE, .seconds = 0.0125},
        {.kind = HLM_SIMGRID_SEND, .bytes = 5000000000, .peer = 2, .tag = 6},
    };
    const struct hlm_simgrid_program program = {items, 3};
    assert_string_equal(hlm_simgrid_trace(*state, 1, &program), "1 init\n"
                                                                "1 recv 0 5 4096 6\n"
                                                                "1 compute 12500000\n"
                                                                "1 isend 2 6 5000000000 6\n"
                                                                "1 waitall\n"
                                                                "1 finalize\n");
}

/* 10 bytes over 3 ranks: chunks of 4, 3, 3. Rank 5 stands at position 1. */
static void test_ring(void **state)
{
    const int32_t members[3] = {2, 5, 9};
    const struct hlm_simgrid_item item = {.kind = HLM_SIMGRID_ALL_GATHER,
                                          .bytes = 10,
                                          .tag = 7,
                                          .members = members,
                                          .num_members = 3};
    const struct hlm_simgrid_program program = {&item, 1};
    assert_string_equal(hlm_simgrid_trace(*state, 5, &program), "5 init\n"
                                                                "5 isend 9 7 3 6\n"
                                                                "5 recv 2 7 4 6\n"
                                                                "5 wait 5 9 7\n"
                                                                "5 isend 9 7 4 6\n"
                                                                "5 recv 2 7 3 6\n"
                                                                "5 wait 5 9 7\n"
                                                                "5 waitall\n"
                                                                "5 finalize\n");
}

/* In every round of every collective, what a rank receives is what its neighbour sends. */
static void test_ring_matches(void **state)
{
    enum { N = 5 };
    const int32_t members[N] = {0, 1, 2, 3, 4};
    const int rounds[] = {[HLM_SIMGRID_ALL_REDUCE] = 8,
                          [HLM_SIMGRID_ALL_GATHER] = 4,
                          [HLM_SIMGRID_REDUCE_SCATTER] = 4};
    for (enum hlm_simgrid_kind kind = HLM_SIMGRID_ALL_REDUCE; kind < HLM_SIMGRID_NUM_KINDS;
         kind++) {
        const struct hlm_simgrid_item item = {
            .kind = kind, .bytes = 1003, .members = members, .num_members = N};
        const struct hlm_simgrid_program program = {&item, 1};
        const char *traces[N];
        for (int32_t rank = 0; rank < N; rank++) {
            traces[rank] = hlm_simgrid_trace(*state, rank, &program);
        }
        for (int round = 0; round < rounds[kind]; round++) {
            int sent[N], received[N];
            for (int rank = 0; rank < N; rank++) {
                traces[rank] = strstr(traces[rank], "isend") + 1;
                assert_int_equal(sscanf(traces[rank], "send %*d %*d %d", &sent[rank]), 1);
                assert_int_equal(
                    sscanf(strstr(traces[rank], "recv"), "recv %*d %*d %d", &received[rank]), 1);
            }
            for (int rank = 0; rank < N; rank++) {
                assert_int_equal(received[(rank + 1) % N], sent[rank]);
            }
        }
        for (int rank = 0; rank < N; rank++) {
            assert_null(strstr(traces[rank], "isend"));
        }
    }
}

static void test_ring_seconds(void **state)
{
    (void)state;
    check_close(hlm_simgrid_ring_seconds(&cluster, HLM_SIMGRID_ALL_REDUCE, 8, 67108864),
                14 * (10e-6 + 8388608 / 10e9), 1e-15);
    check_close(hlm_simgrid_ring_seconds(&cluster, HLM_SIMGRID_ALL_GATHER, 8, 67108864),
                7 * (10e-6 + 8388608 / 10e9), 1e-15);
    assert_true(hlm_simgrid_ring_seconds(&cluster, HLM_SIMGRID_REDUCE_SCATTER, 1, 1e9) == 0);
}

static void test_files(void **state)
{
    const char *platform = hlm_simgrid_platform(*state, &cluster);
    assert_non_null(strstr(platform, "radical=\"0-2\" speed=\"1Gf\""));
    assert_non_null(
        strstr(platform, "bw=\"10000000000Bps\" lat=\"5e-6s\" sharing_policy=\"SPLITDUPLEX\""));
    assert_string_equal(hlm_simgrid_hosts(*state, 3), "node-0\nnode-1\nnode-2\n");
    assert_string_equal(hlm_simgrid_ranks(*state, 2), "rank-0.txt\nrank-1.txt\n");
    const char *command = hlm_simgrid_command(*state, 3, "/opt/replay");
    assert_non_null(
        strstr(command, "smpirun -quiet -np 3 -platform platform.xml -hostfile hosts.txt"));
    assert_non_null(strstr(command, "--cfg=network/crosstraffic:0"));
    assert_non_null(strstr(command, "-replay ranks.txt /opt/replay"));
}

/* pp 2, dp 2, tp 2: rank 5 = pipeline rank 1, dp index 0, tp index 1. */
static void test_job(void **state)
{
    const double forward[2] = {0.02, 0.04}, backward[2] = {0.06, 0.08};
    const int64_t bytes[2] = {1000, 2000}, tp_bytes[2] = {30, 40}, dp_bytes[2] = {500, 600};
    const struct hlm_sim_costs costs = {.forward_s = forward, .backward_s = backward};
    const struct hlm_simgrid_job job = {.schedule = pipeline_build(*state, HLM_SCHEDULE_1F1B, 2, 1),
                                        .costs = &costs,
                                        .send_forward_bytes = bytes,
                                        .send_backward_bytes = bytes,
                                        .tp = 2,
                                        .dp = 2,
                                        .forward_all_reduces = 2,
                                        .backward_all_reduces = 1,
                                        .tp_bytes = tp_bytes,
                                        .dp_bytes = dp_bytes};
    const struct hlm_simgrid_program *program = &hlm_simgrid_programs(*state, &job)[5];
    const struct hlm_simgrid_item *items = program->items;
    assert_int_equal(program->num_items, 9);
    assert_true(items[0].kind == HLM_SIMGRID_RECV && items[0].peer == 1 && items[0].bytes == 1000);
    assert_true(items[1].kind == HLM_SIMGRID_COMPUTE && items[1].seconds == 0.02);
    assert_true(items[2].kind == HLM_SIMGRID_ALL_REDUCE && items[2].bytes == 40);
    assert_true(items[2].members[0] == 4 && items[2].members[1] == 5);
    assert_true(items[3].kind == HLM_SIMGRID_COMPUTE && items[4].kind == HLM_SIMGRID_ALL_REDUCE);
    assert_true(items[5].kind == HLM_SIMGRID_COMPUTE && items[5].seconds == 0.08);
    assert_true(items[6].kind == HLM_SIMGRID_ALL_REDUCE && items[6].tag == items[2].tag);
    assert_true(items[7].kind == HLM_SIMGRID_SEND && items[7].peer == 1 && items[7].bytes == 2000);
    assert_true(items[7].tag != items[0].tag);
    assert_true(items[8].kind == HLM_SIMGRID_ALL_REDUCE && items[8].bytes == 600);
    assert_true(items[8].members[0] == 5 && items[8].members[1] == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_trace),        pipeline_test(test_ring),
        pipeline_test(test_ring_matches), pipeline_test(test_ring_seconds),
        pipeline_test(test_files),        pipeline_test(test_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
