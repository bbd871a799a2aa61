#include "exec/profiler/profiler_cuda.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/fmt.h"
#include "base/rng.h"
#include "exec/machine.h"
#include "exec/profiler/nvml.h"
#include "exec/profiler/profiler_choices.h"
#include "exec/profiler/profiler_fit.h"
#include "exec/profiler/profiler_gpu.h"
#include "exec/profiler/profiler_link.h"
#include "exec/profiler/profiler_link_queue.h"
#include "exec/profiler/profiler_machine.h"
#include "profiles/cluster.h"

enum { HOST_NAME_BYTES = 256, HOST_STAGED_BYTES = 16 << 20 };

/* Of the budget, for the links of several ranks. */
static const double link_frac = 0.3;
/* A device that is slower than this is worth a warning. */
static const double slow_frac = 1.05;

struct cuda_profiler {
    struct hlm_arena *arena;
    const struct hlm_profiler_config *config;
    struct hlm_backend *backend;
    struct hlm_comm *comm;
    struct hlm_heartbeat *heartbeat;
    struct hlm_cuda_device facts;
    struct hlm_cuda_versions versions;
    struct hlm_nvml *nvml;
    struct hlm_source source;
    struct hlm_device_meta meta;
    double start_s, budget_s;
};

/* --- what it is --- */

/* CUDA counts 1000 to a major version and 10 to a minor one. */
static const char *cuda_version(struct hlm_arena *arena, int64_t version)
{
    return hlm_arena_printf(arena, "%lld.%lld", (long long)(version / 1000),
                            (long long)(version % 1000 / 10));
}

/* cuBLAS and NCCL count 10000 to a major version and 100 to a minor one. */
static const char *library_version(struct hlm_arena *arena, int64_t version)
{
    return hlm_arena_printf(arena, "%lld.%lld.%lld", (long long)(version / 10000),
                            (long long)(version / 100 % 100), (long long)(version % 100));
}

static const char *host_name(struct hlm_arena *arena)
{
    char name[HOST_NAME_BYTES] = "";
    return gethostname(name, sizeof name - 1) == 0 ? hlm_arena_strdup(arena, name) : NULL;
}

/* A machine without the management library is measured all the same. */
static void open_nvml(struct cuda_profiler *profiler)
{
    struct hlm_err why = {0};
    if (hlm_nvml_open(profiler->config->nvml_library, profiler->facts.pci_bus_id,
                      profiler->config->cuda_device, &profiler->nvml, &why) != HLM_OK) {
        hlm_heartbeat_progress(profiler->heartbeat, "clocks and temperature stay unknown: %s",
                               why.text);
    }
}

static void describe(struct cuda_profiler *profiler)
{
    struct hlm_arena *arena = profiler->arena;
    const struct hlm_cuda_versions *versions = &profiler->versions;
    const char *driver = hlm_nvml_driver(arena, profiler->nvml);
    const char *runtime = cuda_version(arena, versions->runtime);
    const char *blas = library_version(arena, versions->cublas);
    const bool over_nccl = strcmp(profiler->comm->ops->name, "nccl") == 0;
    const char *transport =
        over_nccl ? hlm_arena_printf(arena, "nccl %s", library_version(arena, versions->nccl))
                  : profiler->comm->ops->name;
    profiler->meta.host = host_name(arena);
    profiler->meta.hardware = hlm_arena_strdup(arena, profiler->facts.name);
    profiler->meta.driver = driver != NULL ? driver : cuda_version(arena, versions->driver);
    profiler->meta.runtime = runtime;
    profiler->meta.blas = blas;
    profiler->meta.transport = transport;
    profiler->source = (struct hlm_source){
        .kind = HLM_SOURCE_MEASURED,
        .reference =
            hlm_arena_printf(arena, "%s, driver %s, CUDA %s, cuBLAS %s; transport %s",
                             profiler->facts.name, profiler->meta.driver, runtime, blas, transport),
        .date = hlm_machine_date(arena)};
}

/* --- links --- */

static void stamp(struct hlm_arena *arena, struct hlm_source *source, const struct hlm_source *what)
{
    const struct hlm_source fit = *source;
    *source = *what;
    source->num_samples = fit.num_samples;
    source->spread_frac = fit.spread_frac;
    if (fit.reference != NULL) {
        source->reference = hlm_arena_printf(arena, "%s; %s", what->reference, fit.reference);
    }
}

/* Host transports move host memory, as the runner stages it for them. */
static enum hlm_status measure_host_links(struct cuda_profiler *profiler,
                                          struct hlm_profiler_queue_links *out, struct hlm_err *err)
{
    struct hlm_profiler_links links = {0};
    HLM_TRY(hlm_profiler_links_measure(profiler->arena, profiler->comm, &links, err));
    *out = (struct hlm_profiler_queue_links){.num_nodes = 1,
                                             .ranks_per_node = profiler->comm->world_size,
                                             .has_intra = true,
                                             .intra = links.link,
                                             .collectives = links.collectives,
                                             .num_collectives = links.num_collectives};
    return HLM_OK;
}

static enum hlm_status measure_links(struct cuda_profiler *profiler,
                                     struct hlm_profiler_queue_links *out, struct hlm_err *err)
{
    *out = (struct hlm_profiler_queue_links){.num_nodes = 1, .ranks_per_node = 1};
    if (profiler->comm->world_size < 2) {
        return HLM_OK;
    }
    const struct hlm_profiler_queue_links_config config = {
        .comm = profiler->comm,
        .backend = profiler->backend,
        .strategy = profiler->config->strategy,
        .device_id = hlm_hash(0, profiler->facts.pci_bus_id, strlen(profiler->facts.pci_bus_id)),
        .max_bytes =
            profiler->config->max_bytes > 0 ? profiler->config->max_bytes : HOST_STAGED_BYTES,
        .quick = profiler->config->quick,
        .budget_s = link_frac * profiler->budget_s,
        .clock = profiler->config->clock,
        .heartbeat = profiler->heartbeat};
    HLM_TRY(profiler->comm->ops->stream_ordered
                ? hlm_profiler_queue_links_measure(profiler->arena, &config, out, err)
                : measure_host_links(profiler, out, err));
    stamp(profiler->arena, &out->intra.source, &profiler->source);
    stamp(profiler->arena, &out->inter.source, &profiler->source);
    for (int32_t i = 0; i < out->num_collectives; i++) {
        stamp(profiler->arena, &out->collectives[i].source, &profiler->source);
    }
    return HLM_OK;
}

/* One device, or one on each node: nothing was measured, so a message is a copy in memory. */
static struct hlm_link assumed_link(const struct hlm_device *device)
{
    return (struct hlm_link){
        .alpha_s = device->launch_overhead_s,
        .bandwidth_bytes_per_s = 0.5 * device->memory.bytes_per_s,
        .source = {.kind = HLM_SOURCE_ASSUMED,
                   .reference = "one rank on each node: no link inside of one was measured; a copy "
                                "in the memory of the device"}};
}

static const struct hlm_cluster *make_cluster(struct cuda_profiler *profiler,
                                              const struct hlm_device *device,
                                              const struct hlm_profiler_queue_links *links)
{
    struct hlm_arena *arena = profiler->arena;
    struct hlm_device_group *group = HLM_ARENA_NEW(arena, struct hlm_device_group);
    *group = (struct hlm_device_group){
        .name = "gpus",
        .device = *device,
        .num_nodes = links->num_nodes,
        .devices_per_node = links->ranks_per_node,
        .intra_node = links->has_intra ? links->intra : assumed_link(device),
        .nics_per_node = links->nics_per_node,
        .nic_bandwidth_bytes_per_s = links->nic_bandwidth_bytes_per_s,
        .nic_source = links->nics_per_node > 0
                          ? profiler->source
                          : (struct hlm_source){.kind = HLM_SOURCE_ASSUMED,
                                                .reference = "no group spans nodes beside others: "
                                                             "the link between nodes holds"},
        .collectives = links->collectives,
        .num_collectives = links->num_collectives};
    struct hlm_inter_link *inter = HLM_ARENA_NEW(arena, struct hlm_inter_link);
    inter->link = links->inter;
    struct hlm_cluster *cluster = HLM_ARENA_NEW(arena, struct hlm_cluster);
    *cluster = (struct hlm_cluster){.name = hlm_arena_printf(arena, "%s %d x %d", device->name,
                                                             (int)links->num_nodes,
                                                             (int)links->ranks_per_node),
                                    .groups = group,
                                    .num_groups = 1,
                                    .links = inter,
                                    .num_links = links->has_inter ? 1 : 0,
                                    .oversubscription = 1.0};
    return cluster;
}

/* --- the device --- */

static enum hlm_status measure_device(struct cuda_profiler *profiler, struct hlm_device *out,
                                      struct hlm_err *err)
{
    struct hlm_profiler_gpu_config config = hlm_profiler_gpu_defaults(profiler->config->quick);
    config.budget_s =
        profiler->budget_s - (hlm_profiler_now(&profiler->config->clock) - profiler->start_s);
    config.free_bytes = profiler->facts.free_bytes;
    config.silent = profiler->comm->rank != 0;
    config.nvml = profiler->nvml;
    config.clock = profiler->config->clock;
    config.source = profiler->source;
    config.heartbeat = profiler->heartbeat;
    config.tiny = profiler->config->tiny;
    if (config.tiny) {
        config.flush_bytes = 1 << 20;
        config.hot_s = 0.0;
        config.ramp_s = 0.0;
    }
    *out = (struct hlm_device){.name = hlm_profiler_slug(profiler->arena, profiler->facts.name),
                               .backend = HLM_BACKEND_CUDA,
                               .memory_bytes = profiler->facts.memory_bytes,
                               .num_sms = profiler->facts.num_sms};
    return hlm_profiler_gpu_measure(profiler->arena, profiler->backend, &config, out,
                                    &profiler->meta, err);
}

/* With a device for each rank all are measured at the same time, as they train: in the heat and
 * power of their neighbours, and the slowest shows. */
static enum hlm_status compare_devices(struct cuda_profiler *profiler, struct hlm_err *err)
{
    const int32_t num = profiler->comm->world_size;
    double *times = HLM_ARENA_ARRAY(profiler->arena, double, num);
    HLM_TRY(hlm_profiler_gather(profiler->comm, profiler->backend, profiler->meta.product_s, times,
                                err));
    int32_t slowest = 0;
    for (int32_t i = 1; i < num; i++) {
        slowest = times[i] > times[slowest] ? i : slowest;
    }
    const double slowest_s = times[slowest];
    profiler->meta.slowest_frac = slowest_s / hlm_fit_median(times, num);
    if (profiler->comm->rank == 0 && profiler->meta.slowest_frac > slow_frac) {
        hlm_heartbeat_progress(profiler->heartbeat,
                               "warning: the device of rank %d takes %.2f times as long as the "
                               "middle one for the same product; the profile is of rank 0's",
                               (int)slowest, profiler->meta.slowest_frac);
    }
    return HLM_OK;
}

/* All kernels have run and everything was freed: what is missing now is the context, the libraries
 * and their workspaces, and what other programs have. */
static enum hlm_status set_fixed_memory(struct cuda_profiler *profiler, struct hlm_device *device,
                                        struct hlm_err *err)
{
    struct hlm_cuda_device now;
    HLM_TRY(profiler->config->cuda->device(profiler->config->cuda_device, &now, err));
    const int64_t taken = now.memory_bytes - now.free_bytes;
    device->fixed_memory_bytes = taken > 0 && taken < device->memory_bytes ? taken : 0;
    device->memory_source = profiler->source;
    return HLM_OK;
}

/* --- files --- */

static enum hlm_status write_json(struct cuda_profiler *profiler, const char *name,
                                  const struct hlm_json_table *table, const void *object,
                                  struct hlm_err *err)
{
    const char *path =
        hlm_arena_printf(profiler->arena, "%s/%s", profiler->config->directory, name);
    const char *text = hlm_json_write(profiler->arena, table, object, false);
    return hlm_file_write(path, text, strlen(text), err);
}

static enum hlm_status write_choices(struct cuda_profiler *profiler, struct hlm_err *err)
{
    struct hlm_cuda_choices choices;
    profiler->config->cuda->choices(profiler->backend, profiler->arena, &choices);
    return hlm_profiler_choices_write(
        profiler->arena, &choices,
        hlm_arena_printf(profiler->arena, "%s/products.json", profiler->config->directory), err);
}

static void add_left_out(struct cuda_profiler *profiler,
                         const struct hlm_profiler_queue_links *links)
{
    struct hlm_device_meta *meta = &profiler->meta;
    const int32_t num = meta->num_left_out + links->num_left_out;
    const char **all = HLM_ARENA_ARRAY(profiler->arena, const char *, num + 1);
    for (int32_t i = 0; i < num; i++) {
        all[i] =
            i < meta->num_left_out ? meta->left_out[i] : links->left_out[i - meta->num_left_out];
    }
    meta->left_out = all;
    meta->num_left_out = num;
}

/* --- all --- */

static enum hlm_status measure(struct cuda_profiler *profiler, struct hlm_err *err)
{
    struct hlm_profiler_queue_links links;
    struct hlm_device device;
    HLM_TRY(measure_links(profiler, &links, err));
    const bool all = profiler->comm->world_size > 1 && profiler->comm->ops->stream_ordered &&
                     !links.shares_devices;
    if (profiler->comm->rank == 0 || all) {
        HLM_TRY(measure_device(profiler, &device, err));
    }
    if (all) {
        HLM_TRY(compare_devices(profiler, err));
    }
    if (profiler->comm->rank != 0) {
        hlm_heartbeat_set(profiler->heartbeat, -1, NULL, "the device, which rank 0 measures", true);
        return HLM_OK;
    }
    HLM_TRY(set_fixed_memory(profiler, &device, err));
    add_left_out(profiler, &links);
    device.meta = &profiler->meta;
    const struct hlm_cluster *cluster = make_cluster(profiler, &device, &links);
    HLM_TRY(hlm_device_validate(&device, "profile", err));
    HLM_TRY(hlm_cluster_validate(cluster, "profile", err));
    HLM_TRY(write_json(profiler, "device.json", &hlm_device_table, &device, err));
    HLM_TRY(write_json(profiler, "cluster.json", &hlm_cluster_table, cluster, err));
    HLM_TRY(write_choices(profiler, err));
    hlm_profiler_gpu_tell(profiler->heartbeat, &profiler->meta);
    return HLM_OK;
}

enum hlm_status hlm_profiler_cuda_run(struct hlm_arena *arena,
                                      const struct hlm_profiler_config *config,
                                      struct hlm_backend *backend, struct hlm_comm *comm,
                                      struct hlm_heartbeat *heartbeat, struct hlm_err *err)
{
    struct cuda_profiler profiler = {.arena = arena,
                                     .config = config,
                                     .backend = backend,
                                     .comm = comm,
                                     .heartbeat = heartbeat,
                                     .versions = config->cuda->versions(),
                                     .start_s = hlm_profiler_now(&config->clock),
                                     .budget_s = hlm_profiler_budget_s(config)};
    HLM_TRY(config->cuda->device(config->cuda_device, &profiler.facts, err));
    if (comm->rank == 0) {
        HLM_TRY(hlm_file_make_folder(config->directory, err));
        open_nvml(&profiler);
    }
    describe(&profiler);
    const enum hlm_status status = measure(&profiler, err);
    hlm_nvml_close(profiler.nvml);
    return status;
}
