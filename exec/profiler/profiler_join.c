#include "exec/profiler/profiler_join.h"

#include <string.h>

#include "base/file.h"
#include "exec/machine.h"
#include "exec/profiler/profiler_link.h"
#include "exec/profiler/profiler_link_queue.h"
#include "profiles/cluster.h"

enum { NUM_REPEATS = 9, QUICK_REPEATS = 3 };

static enum hlm_status load_parts(struct hlm_arena *arena,
                                  const struct hlm_profiler_join_config *config, int32_t num_ranks,
                                  const struct hlm_cluster_part **out, struct hlm_err *err)
{
    int32_t num = 0;
    HLM_TRY(hlm_cluster_load_parts(arena, config->parts, out, &num, err));
    return num == num_ranks ? HLM_OK
                            : hlm_fail(err, HLM_INPUT,
                                       "\"%.200s\": expected a cluster for each of %d ranks, found "
                                       "%d",
                                       config->parts, (int)num_ranks, (int)num);
}

static enum hlm_status measure_pairs(struct hlm_arena *arena,
                                     const struct hlm_profiler_join_config *config,
                                     struct hlm_backend *backend, struct hlm_comm *comm,
                                     struct hlm_link *out, struct hlm_err *err)
{
    const struct hlm_profiler_queue_links_config on_queues = {.comm = comm,
                                                              .backend = backend,
                                                              .max_bytes =
                                                                  HLM_PROFILER_MAX_MESSAGE_BYTES,
                                                              .quick = config->quick};
    return comm->ops->stream_ordered
               ? hlm_profiler_queue_pairs_measure(arena, &on_queues, out, err)
               : hlm_profiler_pairs_measure(arena, comm,
                                            config->quick ? QUICK_REPEATS : NUM_REPEATS, out, err);
}

static void stamp(struct hlm_arena *arena, const struct hlm_comm *comm, struct hlm_link *links,
                  int32_t num_links)
{
    for (int32_t i = 0; i < num_links; i++) {
        links[i].source.kind = HLM_SOURCE_MEASURED;
        links[i].source.reference =
            hlm_arena_printf(arena, "between a node of each group; transport %s", comm->ops->name);
        links[i].source.date = hlm_machine_date(arena);
    }
}

static enum hlm_status write_cluster(struct hlm_arena *arena, const char *directory,
                                     const struct hlm_cluster *cluster, struct hlm_err *err)
{
    const char *path = hlm_arena_printf(arena, "%s/cluster.json", directory);
    const char *text = hlm_json_write(arena, &hlm_cluster_table, cluster, false);
    HLM_TRY(hlm_file_make_folder(directory, err));
    return hlm_file_write(path, text, strlen(text), err);
}

enum hlm_status hlm_profiler_join_run(struct hlm_arena *arena,
                                      const struct hlm_profiler_join_config *config,
                                      struct hlm_backend *backend, struct hlm_comm *comm,
                                      struct hlm_heartbeat *heartbeat, struct hlm_err *err)
{
    const int32_t num = comm->world_size, num_links = num * (num - 1) / 2;
    struct hlm_link *links = HLM_ARENA_ARRAY(arena, struct hlm_link, num_links);
    const struct hlm_cluster_part *parts = NULL;
    const struct hlm_cluster *joined = NULL;
    if (comm->rank == 0) {
        HLM_TRY(load_parts(arena, config, num, &parts, err));
        hlm_heartbeat_progress(heartbeat, "links between %d groups over %s", (int)num,
                               comm->ops->name);
    }
    hlm_heartbeat_set(heartbeat, -1, NULL, "messages between ranks", true);
    HLM_TRY(measure_pairs(arena, config, backend, comm, links, err));
    if (comm->rank != 0) {
        return HLM_OK;
    }
    stamp(arena, comm, links, num_links);
    HLM_TRY(hlm_cluster_join(arena, parts, num, links, &joined, err));
    return write_cluster(arena, config->directory, joined, err);
}
