/* The whole quick profile of a GPU: on a device with its own module, emulated with facts that this
 * test makes up and the smallest operators only. */
#include "tests/support/check.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "exec/comm/comm_queue.h"
#include "exec/cuda_loader.h"
#include "exec/profiler/profiler.h"
#include "exec/profiler/profiler_choices.h"
#include "exec/profiler/profiler_link_queue.h"
#include "profiles/cluster.h"
#include "tests/gpu/device.h"

enum { MAX_RANKS = 2 };

/* --- the module of a device that is not there --- */

static struct hlm_cuda_versions fake_versions(void)
{
    return (struct hlm_cuda_versions){
        .driver = 13000, .runtime = 13010, .cublas = 130100, .nccl = 22809};
}

static enum hlm_status fake_device(int32_t device, struct hlm_cuda_device *out, struct hlm_err *err)
{
    (void)device;
    (void)err;
    *out = (struct hlm_cuda_device){.name = "Emulated GPU",
                                    .memory_bytes = 1 << 30,
                                    .free_bytes = 3 << 28,
                                    .num_sms = 4,
                                    .major = 9};
    return HLM_OK;
}

static void fake_choices(struct hlm_backend *backend, struct hlm_arena *arena,
                         struct hlm_cuda_choices *out)
{
    (void)backend;
    (void)arena;
    *out = (struct hlm_cuda_choices){
        .version = HLM_CUDA_CHOICES_VERSION, .device = "Emulated GPU", .num_sms = 4};
}

static const struct hlm_cuda_module fake_module = {
    .versions = fake_versions, .device = fake_device, .choices = fake_choices};

static const struct hlm_cuda_module *module_of_device(void)
{
    const struct hlm_cuda_loader as_usual = {0};
    struct hlm_cuda cuda = {.module = &fake_module};
    struct hlm_err err = {0};
    if (!device_is_emulated()) {
        check_ok(hlm_cuda_open(&as_usual, &cuda, NULL, &err), &err);
    }
    return cuda.module;
}

/* --- ranks as threads on one device --- */

struct rank {
    pthread_t thread;
    struct hlm_comm *comm;
    struct hlm_profiler_config config;
    enum hlm_status status;
    struct hlm_err err;
};

static enum hlm_status run_rank(struct hlm_arena *arena, struct rank *rank,
                                struct hlm_backend *backend)
{
    HLM_TRY(hlm_comm_queue_use_backend(rank->comm, backend, &rank->err));
    return hlm_profiler_run(arena, &rank->config, backend, rank->comm, NULL, &rank->err);
}

static void *rank_main(void *context)
{
    struct rank *rank = context;
    struct hlm_backend *backend = NULL;
    struct hlm_arena *arena = hlm_arena_new();
    rank->status = device_backend_new(!device_is_emulated(), &backend, &rank->err);
    if (rank->status == HLM_OK) {
        rank->status = run_rank(arena, rank, backend);
    }
    if (rank->status != HLM_OK) {
        rank->comm->ops->abort(rank->comm);
    }
    hlm_comm_free(rank->comm);
    hlm_backend_free(backend);
    hlm_arena_free(arena);
    return NULL;
}

static void run_profile(const char *folder, int32_t num, double budget_s)
{
    const struct hlm_strategy strategy = hlm_profiler_world(num, num);
    const struct hlm_comm_config comm_config = {
        .strategy = &strategy, .timeout_s = 300.0, .max_bytes = 1 << 20};
    struct hlm_comm *comms[MAX_RANKS];
    struct rank ranks[MAX_RANKS];
    struct hlm_err err = {0};
    check_ok(hlm_comm_queue_new(&comm_config, comms, &err), &err);
    for (int32_t i = 0; i < num; i++) {
        ranks[i] = (struct rank){.comm = comms[i],
                                 .config = {.directory = folder,
                                            .quick = true,
                                            .cuda = module_of_device(),
                                            .strategy = &strategy,
                                            .max_bytes = 1 << 16,
                                            .budget_s = budget_s,
                                            .tiny = device_is_emulated()}};
        assert_int_equal(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]), 0);
    }
    for (int32_t i = 0; i < num; i++) {
        pthread_join(ranks[i].thread, NULL);
    }
    for (int32_t i = 0; i < num; i++) {
        check_ok(ranks[i].status, &ranks[i].err);
    }
}

/* --- tests --- */

static void check_device(const struct hlm_device *device)
{
    assert_int_equal(device->backend, HLM_BACKEND_CUDA);
    assert_true(device->num_sms > 0 && device->launch_overhead_s > 0.0);
    assert_true(device->memory_bytes > device->fixed_memory_bytes);
    const struct hlm_device_dtype *bf16 = hlm_device_dtype(device, HLM_DTYPE_BF16);
    assert_non_null(bf16);
    assert_true(bf16->num_gemm > 0 && bf16->peak_flops_per_s > 0.0);
    assert_int_equal(bf16->gemm[0].source.kind, HLM_SOURCE_MEASURED);
    /* Emulated attention is too slow for the four shapes that a curve needs. */
    assert_true(device_is_emulated() || bf16->num_attention == 4);
    assert_true(device->num_ops > 10);
    assert_non_null(device->meta);
    assert_non_null(device->meta->host);
    assert_non_null(device->meta->driver);
    assert_true(device->meta->num_fits > 10 && device->meta->product_s > 0.0);
}

static void remove_folder(struct hlm_arena *arena, const char *folder)
{
    static const char *const names[] = {"device.json", "cluster.json", "products.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_equal(unlink(hlm_arena_printf(arena, "%s/%s", folder, names[i])), 0);
    }
    rmdir(folder);
}

static void one_device_has_a_profile(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err = {0};
    const struct hlm_cluster *cluster = NULL;
    struct hlm_cuda_choices choices;
    char folder[] = "/tmp/test_cuda_profile_XXXXXX";
    assert_non_null(mkdtemp(folder));
    run_profile(folder, 1, 0.0);
    check_ok(hlm_cluster_load(arena, folder, &cluster, &err), &err);
    assert_int_equal(cluster->groups[0].devices_per_node, 1);
    assert_int_equal(cluster->groups[0].intra_node.source.kind, HLM_SOURCE_ASSUMED);
    check_device(&cluster->groups[0].device);
    check_ok(hlm_profiler_choices_read(arena, hlm_arena_printf(arena, "%s/products.json", folder),
                                       &choices, &err),
             &err);
    remove_folder(arena, folder);
    hlm_arena_free(arena);
}

/* Two ranks on one device: links are measured over its memory, the device by rank 0 alone. */
static void two_ranks_have_links(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err = {0};
    const struct hlm_cluster *cluster = NULL;
    char folder[] = "/tmp/test_cuda_profile_XXXXXX";
    assert_non_null(mkdtemp(folder));
    run_profile(folder, 2, 0.0);
    check_ok(hlm_cluster_load(arena, folder, &cluster, &err), &err);
    const struct hlm_device_group *group = &cluster->groups[0];
    assert_int_equal(group->devices_per_node, 2);
    assert_int_equal(group->num_collectives, 3);
    assert_int_equal(group->intra_node.source.kind, HLM_SOURCE_MEASURED);
    assert_false(group->intra_node.needs_both_sides);
    check_device(&group->device);
    remove_folder(arena, folder);
    hlm_arena_free(arena);
}

int main(void)
{
    if (!device_is_there()) {
        return EXIT_SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_device_has_a_profile),
        cmocka_unit_test(two_ranks_have_links),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
