#include "exec/bootstrap/bootstrap_join.h"
#include "tests/support/check.h"

/* What all ranks have found out together. */
static const struct hlm_placement own = {.own_gpus = true, .all_have_gpus = true};
static const struct hlm_placement shared = {
    .why_shared = "ranks 0 and 1 on a would share the GPU 0", .all_have_gpus = true};
static const struct hlm_placement none = {.why_shared = "rank 0 on a has no GPU: no driver"};

static void test_transport(void **state)
{
    (void)state;
    static const struct {
        enum hlm_backend_choice backend;
        enum hlm_transport wish;
        const struct hlm_placement *placement;
        bool has_mpi;
        enum hlm_transport transport;
        const char *why; /* part of it; NULL: nothing is said */
    } cases[] = {
        {HLM_BACKEND_CHOICE_AUTO, HLM_TRANSPORT_AUTO, &own, true, HLM_TRANSPORT_NCCL, "over NCCL"},
        {HLM_BACKEND_CHOICE_CUDA, HLM_TRANSPORT_AUTO, &own, false, HLM_TRANSPORT_NCCL, "over NCCL"},
        {HLM_BACKEND_CHOICE_CPU, HLM_TRANSPORT_AUTO, &own, true, HLM_TRANSPORT_MPI, NULL},
        {HLM_BACKEND_CHOICE_AUTO, HLM_TRANSPORT_AUTO, &none, true, HLM_TRANSPORT_MPI, NULL},
        {HLM_BACKEND_CHOICE_AUTO, HLM_TRANSPORT_AUTO, &shared, true, HLM_TRANSPORT_MPI,
         "over MPI, since ranks 0 and 1 on a would share"},
        {HLM_BACKEND_CHOICE_CUDA, HLM_TRANSPORT_MPI, &own, true, HLM_TRANSPORT_MPI, NULL},
        {HLM_BACKEND_CHOICE_CUDA, HLM_TRANSPORT_NCCL, &own, true, HLM_TRANSPORT_NCCL, NULL},
    };
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct hlm_join_config config = {.backend = cases[i].backend,
                                               .transport = cases[i].wish};
        enum hlm_transport transport = HLM_TRANSPORT_THREAD;
        const char *why = NULL;
        struct hlm_err err;
        check_ok(hlm_join_transport(arena, &config, cases[i].placement, cases[i].has_mpi,
                                    &transport, &why, &err),
                 &err);
        assert_int_equal(transport, cases[i].transport);
        assert_int_equal(why == NULL, cases[i].why == NULL);
        assert_true(why == NULL || strstr(why, cases[i].why) != NULL);
    }
    hlm_arena_free(arena);
}

static void test_no_transport(void **state)
{
    (void)state;
    static const struct {
        enum hlm_transport wish;
        const struct hlm_placement *placement;
        bool has_mpi;
        const char *part;
    } cases[] = {
        {HLM_TRANSPORT_NCCL, &shared, true, "--transport nccl: ranks 0 and 1 on a would share"},
        {HLM_TRANSPORT_NCCL, &none, false, "--transport nccl: rank 0 on a has no GPU: no driver"},
        {HLM_TRANSPORT_AUTO, &none, false,
         "without MPI ranks can only talk over NCCL, with a GPU for each, but rank 0 on a has no "
         "GPU"},
        {HLM_TRANSPORT_AUTO, &shared, false,
         "but ranks 0 and 1 on a would share the GPU 0; CPU ranks"},
    };
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct hlm_join_config config = {.backend = HLM_BACKEND_CHOICE_AUTO,
                                               .transport = cases[i].wish};
        enum hlm_transport transport = HLM_TRANSPORT_THREAD;
        const char *why = NULL;
        struct hlm_err err;
        check_fails(hlm_join_transport(arena, &config, cases[i].placement, cases[i].has_mpi,
                                       &transport, &why, &err),
                    HLM_ENV, &err, cases[i].part);
        assert_int_equal(transport, HLM_TRANSPORT_THREAD);
    }
    hlm_arena_free(arena);
}

/* Refused before anybody waits for anybody. */
static void test_wishes(void **state)
{
    (void)state;
    static const struct {
        enum hlm_backend_choice backend;
        enum hlm_transport wish;
        struct hlm_rank_env env;
        enum hlm_status status;
        const char *part;
    } cases[] = {
        {HLM_BACKEND_CHOICE_CPU,
         HLM_TRANSPORT_NCCL,
         {.launcher = HLM_LAUNCHER_TORCHRUN},
         HLM_USAGE,
         "--transport nccl needs a GPU for each rank, but --backend cpu uses none"},
        {HLM_BACKEND_CHOICE_CPU,
         HLM_TRANSPORT_AUTO,
         {.launcher = HLM_LAUNCHER_TORCHRUN},
         HLM_ENV,
         "without MPI ranks can only talk over NCCL, with a GPU for each, but --backend cpu uses "
         "none"},
        {HLM_BACKEND_CHOICE_AUTO,
         HLM_TRANSPORT_MPI,
         {.launcher = HLM_LAUNCHER_TORCHRUN},
         HLM_ENV,
         "--transport mpi: torchrun started the ranks, not mpirun"},
        {HLM_BACKEND_CHOICE_AUTO,
         HLM_TRANSPORT_MPI,
         {.launcher = HLM_LAUNCHER_SLURM},
         HLM_ENV,
         "--transport mpi: this srun does not join its tasks by PMIx"},
    };
    struct hlm_arena *arena = hlm_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct hlm_strategy strategy = {.dp = 2, .tp = 1, .pp = 1, .cp = 1};
        const struct hlm_join_config config = {.strategy = &strategy,
                                               .settings = "",
                                               .backend = cases[i].backend,
                                               .transport = cases[i].wish,
                                               .timeout_s = 0.1};
        struct hlm_rank_env env = cases[i].env;
        struct hlm_joined joined;
        struct hlm_err err;
        env.world_size = 2;
        check_fails(hlm_join(arena, &config, &env, &joined, &err), cases[i].status, &err,
                    cases[i].part);
        assert_true(joined.comm == NULL && joined.bootstrap == NULL && joined.mpi == NULL);
        hlm_join_abort(&joined, &err);
        hlm_join_release(&joined);
    }
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transport),
        cmocka_unit_test(test_no_transport),
        cmocka_unit_test(test_wishes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
