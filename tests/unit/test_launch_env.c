#include <stdlib.h>

#include "exec/launch/control.h"
#include "exec/launch/launch_env.h"
#include "exec/launch/launch_meeting.h"
#include "tests/support/check.h"

static const char *const variables[] = {HLM_CONTROL_VARIABLE,
                                        HLM_MEETING_VARIABLE,
                                        "OMPI_COMM_WORLD_RANK",
                                        "OMPI_COMM_WORLD_SIZE",
                                        "OMPI_COMM_WORLD_LOCAL_RANK",
                                        "PMI_RANK",
                                        "PMI_SIZE",
                                        "MPI_LOCALRANKID",
                                        "PMIX_RANK",
                                        "SLURM_PROCID",
                                        "SLURM_NTASKS",
                                        "SLURM_LOCALID",
                                        "SLURM_STEP_ID",
                                        "SLURM_STEPID",
                                        "SLURM_JOB_ID",
                                        "SLURM_STEP_NODELIST",
                                        "SLURM_JOB_NODELIST",
                                        "SLURM_LAUNCH_NODE_IPADDR",
                                        "RANK",
                                        "WORLD_SIZE",
                                        "LOCAL_RANK",
                                        "LOCAL_WORLD_SIZE",
                                        "MASTER_ADDR",
                                        "MASTER_PORT",
                                        "TORCHELASTIC_RUN_ID",
                                        "TORCHELASTIC_RESTART_COUNT"};

enum { MAX_SET = 12 };

/* The environment of a case: "NAME=value". */
static void set_environment(const char *const set[MAX_SET])
{
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        unsetenv(variables[i]);
    }
    for (int i = 0; i < MAX_SET && set[i] != NULL; i++) {
        char name[64];
        const size_t length = strcspn(set[i], "=");
        snprintf(name, sizeof name, "%.*s", (int)length, set[i]);
        setenv(name, set[i] + length + 1, 1);
    }
}

#define OMPI(rank, size) "OMPI_COMM_WORLD_RANK=" rank, "OMPI_COMM_WORLD_SIZE=" size
#define SLURM(rank, size) "SLURM_PROCID=" rank, "SLURM_NTASKS=" size, "SLURM_STEP_ID=0"
#define TORCH(rank, size) "RANK=" rank, "WORLD_SIZE=" size
#define REAL_TORCHRUN "TORCHELASTIC_RUN_ID=none"
#define OURS HLM_CONTROL_VARIABLE "=unix:word:/path"

static void test_launchers(void **state)
{
    (void)state;
    static const struct {
        const char *set[MAX_SET];
        struct hlm_rank_env env;
    } cases[] = {
        {{NULL}, {HLM_LAUNCHER_NONE, 0, 1, -1, false, false}},
        {{OURS}, {HLM_LAUNCHER_NONE, 0, 1, -1, false, true}},
        {{OMPI("1", "4"), "OMPI_COMM_WORLD_LOCAL_RANK=1"},
         {HLM_LAUNCHER_OPEN_MPI, 1, 4, 1, true, false}},
        {{OMPI("0", "1")}, {HLM_LAUNCHER_OPEN_MPI, 0, 1, -1, true, false}},
        {{"PMI_RANK=2", "PMI_SIZE=3", "MPI_LOCALRANKID=0"},
         {HLM_LAUNCHER_MPICH, 2, 3, 0, true, false}},
        {{SLURM("3", "8"), "SLURM_LOCALID=1"}, {HLM_LAUNCHER_SLURM, 3, 8, 1, false, false}},
        {{SLURM("3", "8"), "PMIX_RANK=3"}, {HLM_LAUNCHER_SLURM, 3, 8, -1, true, false}},
        {{TORCH("5", "6"), "LOCAL_RANK=2"}, {HLM_LAUNCHER_TORCHRUN, 5, 6, 2, false, false}},
        /* no ranks of a step: a batch script, a shell, a shell with Slurm's own manager */
        {{"SLURM_PROCID=0", "SLURM_NTASKS=8"}, {HLM_LAUNCHER_NONE, 0, 1, -1, false, false}},
        {{"SLURM_NTASKS=8", "SLURM_STEP_ID=0"}, {HLM_LAUNCHER_NONE, 0, 1, -1, false, false}},
        {{SLURM("0", "1")}, {HLM_LAUNCHER_NONE, 0, 1, -1, false, false}},
        {{SLURM("0", "1"), "PMI_RANK=0", "PMI_SIZE=1"},
         {HLM_LAUNCHER_NONE, 0, 1, -1, false, false}},
        /* several that agree */
        {{SLURM("3", "8"), TORCH("3", "8")}, {HLM_LAUNCHER_SLURM, 3, 8, -1, false, false}},
        {{OMPI("1", "2"), TORCH("1", "2")}, {HLM_LAUNCHER_OPEN_MPI, 1, 2, -1, true, false}},
        {{SLURM("1", "2"), "PMI_RANK=1", "PMI_SIZE=2"},
         {HLM_LAUNCHER_MPICH, 1, 2, -1, true, false}},
        /* one inside the other */
        {{OMPI("5", "16"), SLURM("1", "2")}, {HLM_LAUNCHER_OPEN_MPI, 5, 16, -1, true, false}},
        {{TORCH("5", "16"), REAL_TORCHRUN, SLURM("0", "2")},
         {HLM_LAUNCHER_TORCHRUN, 5, 16, -1, false, false}},
        {{TORCH("5", "16"), REAL_TORCHRUN, OMPI("0", "2")},
         {HLM_LAUNCHER_TORCHRUN, 5, 16, -1, false, false}},
        /* started by ourselves, from a shell that has some of them */
        {{OURS, TORCH("1", "2"), SLURM("0", "4")}, {HLM_LAUNCHER_TORCHRUN, 1, 2, -1, false, true}},
        {{OURS, OMPI("1", "2"), TORCH("7", "8")}, {HLM_LAUNCHER_OPEN_MPI, 1, 2, -1, true, true}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct hlm_rank_env env;
        struct hlm_err err;
        set_environment(cases[i].set);
        check_ok(hlm_rank_env_read(&env, &err), &err);
        const struct hlm_rank_env *expected = &cases[i].env;
        if (env.launcher != expected->launcher || env.rank != expected->rank ||
            env.world_size != expected->world_size || env.local_rank != expected->local_rank ||
            env.has_mpi != expected->has_mpi || env.ours != expected->ours) {
            fail_msg("case %zu: %s, rank %d of %d, local rank %d, MPI %d, ours %d", i,
                     hlm_launcher_texts[env.launcher], env.rank, env.world_size, env.local_rank,
                     env.has_mpi, env.ours);
        }
    }
}

static void test_broken(void **state)
{
    (void)state;
    static const struct {
        const char *set[MAX_SET];
        const char *part;
    } cases[] = {
        {{"RANK=3"}, "the environment has RANK but no WORLD_SIZE (torchrun sets both)"},
        {{"WORLD_SIZE=3"}, "the environment has WORLD_SIZE but no RANK (torchrun sets both)"},
        {{"OMPI_COMM_WORLD_RANK=0"}, "but no OMPI_COMM_WORLD_SIZE (Open MPI sets both)"},
        {{"SLURM_PROCID=1", "SLURM_STEP_ID=0"}, "but no SLURM_NTASKS (Slurm sets both)"},
        {{TORCH("4", "4")}, "the environment has RANK=4; expected a whole number from 0 to 3"},
        {{TORCH("-1", "4")}, "RANK=-1; expected a whole number from 0 to 3"},
        {{TORCH("1x", "4")}, "RANK=1x; expected"},
        {{TORCH("", "4")}, "RANK=; expected"},
        {{TORCH("0", "0")}, "WORLD_SIZE=0; expected a whole number from 1 to"},
        {{TORCH("0", "99999999999")}, "WORLD_SIZE=99999999999; expected"},
        {{TORCH("0", "2"), "LOCAL_RANK=2"}, "LOCAL_RANK=2; expected a whole number from 0 to 1"},
        {{OMPI("0", "2x")}, "OMPI_COMM_WORLD_SIZE=2x; expected"},
        {{OMPI("1", "2"), TORCH("0", "2")},
         "contradicts itself: OMPI_COMM_WORLD_RANK=1 of OMPI_COMM_WORLD_SIZE=2, but RANK=0 of "
         "WORLD_SIZE=2; unset"},
        {{SLURM("1", "2"), TORCH("1", "4")},
         "contradicts itself: SLURM_PROCID=1 of SLURM_NTASKS=2, but RANK=1 of WORLD_SIZE=4"},
        {{OMPI("1", "2"), "PMI_RANK=0", "PMI_SIZE=3"}, "but PMI_RANK=0 of PMI_SIZE=3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct hlm_rank_env env;
        struct hlm_err err;
        set_environment(cases[i].set);
        check_fails(hlm_rank_env_read(&env, &err), HLM_ENV, &err, cases[i].part);
    }
}

static void test_meetings(void **state)
{
    (void)state;
    static const struct {
        const char *set[MAX_SET];
        struct hlm_meeting meeting;
    } cases[] = {
        {{TORCH("1", "2"), "MASTER_ADDR=node1", "MASTER_PORT=29500", REAL_TORCHRUN,
          "TORCHELASTIC_RESTART_COUNT=3"},
         {"node1", 29517, -1, "none.3"}},
        {{TORCH("0", "2"), "MASTER_ADDR=::1", "MASTER_PORT=65535"}, {"::1", 65518, -1, "."}},
        {{SLURM("0", "2"), "SLURM_JOB_ID=1000", "SLURM_STEP_NODELIST=gpu[07-09,3],x",
          "SLURM_JOB_NODELIST=other", "SLURM_LAUNCH_NODE_IPADDR=10.0.0.1"},
         {"gpu07", 28000, -1, "1000.0"}},
        {{"SLURM_PROCID=0", "SLURM_NTASKS=2", "SLURM_STEP_ID=2", "SLURM_JOB_ID=1000",
          "SLURM_JOB_NODELIST=other"},
         {"other", 28002, -1, "1000.2"}},
        {{SLURM("0", "2"), "SLURM_JOB_ID=1000", "SLURM_LAUNCH_NODE_IPADDR=10.0.0.1"},
         {"10.0.0.1", 28000, -1, "1000.0"}},
        {{SLURM("0", "2"), "SLURM_JOB_ID=1000", "SLURM_STEP_NODELIST=a", "MASTER_ADDR=b",
          "MASTER_PORT=1000"},
         {"b", 1017, -1, "1000.0"}},
        {{OURS, TORCH("0", "2"), "MASTER_ADDR=127.0.0.1", "MASTER_PORT=1000",
          HLM_MEETING_VARIABLE "=7"},
         {"127.0.0.1", 1017, 7, "word"}},
        {{OURS, TORCH("1", "2"), "MASTER_ADDR=127.0.0.1", "MASTER_PORT=1000",
          HLM_MEETING_VARIABLE "=7"},
         {"127.0.0.1", 1017, -1, "word"}},
    };
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct hlm_rank_env env;
        struct hlm_meeting meeting;
        struct hlm_err err;
        set_environment(cases[i].set);
        check_ok(hlm_rank_env_read(&env, &err), &err);
        check_ok(hlm_rank_env_meeting(arena, &env, &meeting, &err), &err);
        assert_string_equal(meeting.address, cases[i].meeting.address);
        assert_int_equal(meeting.port, cases[i].meeting.port);
        assert_int_equal(meeting.listener, cases[i].meeting.listener);
        assert_string_equal(meeting.run, cases[i].meeting.run);
    }
    hlm_arena_free(arena);
}

static void test_no_meeting(void **state)
{
    (void)state;
    static const struct {
        const char *set[MAX_SET];
        const char *part;
    } cases[] = {
        {{NULL}, "names no launcher: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are missing"},
        {{TORCH("0", "2"), "MASTER_PORT=29500"}, "no MASTER_ADDR, where rank 0 can be reached"},
        {{TORCH("0", "2"), "MASTER_ADDR=", "MASTER_PORT=29500"}, "no MASTER_ADDR"},
        {{TORCH("0", "2"), "MASTER_ADDR=node1"}, "the environment has no MASTER_PORT"},
        {{TORCH("0", "2"), "MASTER_ADDR=node1", "MASTER_PORT=0"},
         "MASTER_PORT=0; expected a whole number from 1 to 65535"},
        {{TORCH("0", "2"), "MASTER_ADDR=node1", "MASTER_PORT=65536"},
         "MASTER_PORT=65536; expected"},
        {{SLURM("0", "2"), "SLURM_JOB_ID=7"},
         "no MASTER_ADDR, SLURM_STEP_NODELIST or SLURM_LAUNCH_NODE_IPADDR"},
        {{SLURM("0", "2"), "SLURM_JOB_ID=7", "SLURM_STEP_NODELIST=a["},
         "SLURM_STEP_NODELIST: expected a list of nodes like host[01-03,7],other, found \"a[\""},
        {{SLURM("0", "2"), "SLURM_STEP_NODELIST=a"}, "no MASTER_PORT and no SLURM_JOB_ID"},
        {{SLURM("0", "2"), "SLURM_STEP_NODELIST=a", "SLURM_JOB_ID=x"}, "SLURM_JOB_ID=x; expected"},
    };
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct hlm_rank_env env;
        struct hlm_meeting meeting;
        struct hlm_err err;
        set_environment(cases[i].set);
        check_ok(hlm_rank_env_read(&env, &err), &err);
        check_fails(hlm_rank_env_meeting(arena, &env, &meeting, &err), HLM_ENV, &err,
                    cases[i].part);
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_launchers),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_meetings),
        cmocka_unit_test(test_no_meeting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
