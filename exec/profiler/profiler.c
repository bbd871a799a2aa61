#include "exec/profiler/profiler.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/fmt.h"
#include "exec/machine.h"
#include "exec/profiler/profiler_cuda.h"
#include "exec/profiler/profiler_device.h"
#include "exec/profiler/profiler_link.h"
#include "exec/profiler/profiler_machine.h"
#include "exec/profiler/profiler_slab.h"
#include "planner/measurement.h"
#include "profiles/cluster.h"

/* Changes of the calibration from which on the profile is doubtful. What memory gives to one core
 * moves by a tenth on any shared machine, and is a small part of a step. */
static const double steady_gemm_frac = 0.05, steady_memory_frac = 0.25;

struct profiler {
    struct hlm_arena *arena;
    const struct hlm_profiler_config *config;
    struct hlm_backend *backend;
    struct hlm_comm *comm;
    struct hlm_heartbeat *heartbeat;
    int32_t num_cores;
    struct hlm_source source;
    const char *slug;
};

static void describe(struct profiler *profiler)
{
    struct hlm_arena *arena = profiler->arena;
    const char *blas = hlm_profiler_blas(arena);
    const struct hlm_measured_machine machine =
        hlm_machine_describe(arena, profiler->num_cores, blas);
    profiler->source = (struct hlm_source){
        .kind = HLM_SOURCE_MEASURED,
        .reference = hlm_arena_printf(arena, "%s, %d cores, %s; transport %s", machine.cpu_model,
                                      (int)profiler->num_cores, blas, profiler->comm->ops->name),
        .date = hlm_machine_date(arena)};
    profiler->slug = hlm_profiler_slug(arena, machine.cpu_model);
    if (profiler->config->repeat_operators > 1) {
        profiler->slug = hlm_arena_printf(arena, "%s-repeats-%d", profiler->slug,
                                          (int)profiler->config->repeat_operators);
    }
}

/* --- calibration --- */

static void warn_load(const struct profiler *profiler, const struct hlm_profiler_probe *probe)
{
    const double pressure = hlm_profiler_cpu_pressure(profiler->arena);
    if (probe->availability_frac < HLM_CLEAN_AVAILABILITY) {
        hlm_heartbeat_progress(profiler->heartbeat,
                               "warning: the machine is loaded: this program had its core for %s "
                               "of the time (CPU pressure %s); operators are timed by CPU time, "
                               "links by the wall clock",
                               hlm_fmt_percent(probe->availability_frac).text,
                               pressure < 0.0 ? "unknown" : hlm_fmt_percent(pressure).text);
    }
}

static double drift(double before, double after)
{
    return fabs(after / before - 1.0);
}

static void warn_drift(const struct profiler *profiler, const struct hlm_profiler_probe *before,
                       const struct hlm_profiler_probe *after)
{
    const double gemm = drift(before->gemm_s, after->gemm_s);
    const double memory = drift(before->memory_s, after->memory_s);
    if (gemm > steady_gemm_frac || memory > steady_memory_frac) {
        hlm_heartbeat_progress(profiler->heartbeat,
                               "warning: the machine changed its pace while it was measured: "
                               "matrix products by %s, memory by %s; better measure again",
                               hlm_fmt_percent(gemm).text, hlm_fmt_percent(memory).text);
    }
}

/* --- parts --- */

static void stamp(struct hlm_source *source, const struct hlm_source *what)
{
    const int32_t num_samples = source->num_samples;
    *source = *what;
    source->num_samples = num_samples;
}

static enum hlm_status measure_links(struct profiler *profiler, struct hlm_profiler_links *out,
                                     struct hlm_err *err)
{
    if (profiler->comm->rank == 0) {
        hlm_heartbeat_progress(profiler->heartbeat, "links and collectives over %s",
                               profiler->comm->ops->name);
    }
    if (profiler->comm->world_size > 1) {
        HLM_TRY(hlm_profiler_links_measure(profiler->arena, profiler->comm, out, err));
    } else {
        HLM_TRY(hlm_profiler_thread_links_measure(profiler->arena, profiler->num_cores, out, err));
    }
    stamp(&out->link.source, &profiler->source);
    for (int32_t i = 0; i < out->num_collectives; i++) {
        stamp(&out->collectives[i].source, &profiler->source);
    }
    return HLM_OK;
}

/* What an update of parameters takes longer while every core runs one. Ranks of other processes are
 * other cores; in one process threads are. collective over the world */
static enum hlm_status measure_slowdown(struct profiler *profiler, double *out, struct hlm_err *err)
{
    struct hlm_comm *comm = profiler->comm;
    const int32_t threads = comm->world_size > 1 ? 1 : profiler->num_cores;
    const int32_t sharers = comm->world_size > 1 ? comm->world_size : profiler->num_cores;
    double alone_s = 0.0, together_s = 0.0;
    if (comm->rank == 0) {
        HLM_TRY(hlm_profiler_update_measure(profiler->arena, 1, 1, &alone_s, err));
    }
    HLM_TRY(comm->ops->barrier(comm, HLM_GROUP_WORLD, err));
    HLM_TRY(hlm_profiler_update_measure(profiler->arena, threads, sharers, &together_s, err));
    *out = alone_s > 0.0 && sharers > 1 ? fmax(1.0, together_s / alone_s) : 1.0;
    return HLM_OK;
}

/* A core's share of the memory that is free, with what this process needs before any model: code,
 * libraries and their buffers. */
static void set_memory(const struct profiler *profiler, int64_t available, int64_t resident,
                       struct hlm_device *device)
{
    const int64_t share = (available + resident) / profiler->num_cores;
    device->memory_bytes = share > 1 ? share : 1;
    device->fixed_memory_bytes = resident < device->memory_bytes ? resident : 0;
    device->memory_source = profiler->source;
}

static enum hlm_status measure_device(struct profiler *profiler, struct hlm_device *out,
                                      struct hlm_err *err)
{
    const struct hlm_profiler_device_config config = {.kind = HLM_BACKEND_CPU,
                                                      .quick = profiler->config->quick,
                                                      .source = profiler->source,
                                                      .heartbeat = profiler->heartbeat};
    struct hlm_profiler_probe before, after;
    const int32_t times = profiler->config->repeat_operators;
    *out = (struct hlm_device){
        .name = profiler->slug, .backend = config.kind, .repeat_operators = times > 1 ? times : 0};
    HLM_TRY(hlm_profiler_probe_measure(profiler->backend, &before, err));
    warn_load(profiler, &before);
    set_memory(profiler, hlm_profiler_available_bytes(profiler->arena),
               hlm_profiler_resident_bytes(profiler->arena), out);
    HLM_TRY(hlm_profiler_device_measure(profiler->arena, profiler->backend, &config, out, err));
    HLM_TRY(hlm_profiler_probe_measure(profiler->backend, &after, err));
    warn_drift(profiler, &before, &after);
    return hlm_device_validate(out, "profile", err);
}

static struct hlm_cluster *make_cluster(const struct profiler *profiler,
                                        const struct hlm_device *device,
                                        const struct hlm_profiler_links *links)
{
    struct hlm_device_group *group = HLM_ARENA_NEW(profiler->arena, struct hlm_device_group);
    *group = (struct hlm_device_group){
        .name = "cores",
        .device = *device,
        .num_nodes = 1,
        .devices_per_node = profiler->num_cores,
        .intra_node = links->link,
        .nic_source = {.kind = HLM_SOURCE_ASSUMED, .reference = "one machine: no network"},
        .collectives = links->collectives,
        .num_collectives = links->num_collectives};
    struct hlm_cluster *cluster = HLM_ARENA_NEW(profiler->arena, struct hlm_cluster);
    *cluster =
        (struct hlm_cluster){.name = hlm_arena_printf(profiler->arena, "%s x %d", profiler->slug,
                                                      (int)profiler->num_cores),
                             .groups = group,
                             .num_groups = 1,
                             .oversubscription = 1.0};
    return cluster;
}

static enum hlm_status write_json(const struct profiler *profiler, const char *name,
                                  const struct hlm_json_table *table, const void *object,
                                  struct hlm_err *err)
{
    const char *path =
        hlm_arena_printf(profiler->arena, "%s/%s", profiler->config->directory, name);
    const char *text = hlm_json_write(profiler->arena, table, object, false);
    return hlm_file_write(path, text, strlen(text), err);
}

double hlm_profiler_budget_s(const struct hlm_profiler_config *config)
{
    static const double full_s = 600.0, quick_s = 120.0;
    return config->budget_s > 0.0 ? config->budget_s : config->quick ? quick_s : full_s;
}

enum hlm_status hlm_profiler_run(struct hlm_arena *arena, const struct hlm_profiler_config *config,
                                 struct hlm_backend *backend, struct hlm_comm *comm,
                                 struct hlm_heartbeat *heartbeat, struct hlm_err *err)
{
    if (config->cuda != NULL) {
        return hlm_profiler_cuda_run(arena, config, backend, comm, heartbeat, err);
    }
    struct profiler profiler = {.arena = arena,
                                .config = config,
                                .backend = backend,
                                .comm = comm,
                                .heartbeat = heartbeat,
                                .num_cores = hlm_profiler_num_cores(comm->world_size)};
    struct hlm_profiler_links links = {0};
    struct hlm_device device;
    double slowdown = 1.0;
    describe(&profiler);
    if (comm->rank == 0) {
        HLM_TRY(hlm_file_make_folder(config->directory, err));
    }
    HLM_TRY(measure_links(&profiler, &links, err));
    HLM_TRY(measure_slowdown(&profiler, &slowdown, err));
    if (comm->rank != 0) {
        hlm_heartbeat_set(heartbeat, -1, NULL, "the device, which rank 0 measures", true);
        return HLM_OK;
    }
    HLM_TRY(measure_device(&profiler, &device, err));
    device.shared_memory_slowdown = slowdown;
    const struct hlm_cluster *cluster = make_cluster(&profiler, &device, &links);
    HLM_TRY(hlm_cluster_validate(cluster, "profile", err));
    HLM_TRY(write_json(&profiler, "device.json", &hlm_device_table, &device, err));
    return write_json(&profiler, "cluster.json", &hlm_cluster_table, cluster, err);
}
