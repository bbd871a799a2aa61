/* The ranks, devices and groups of a measurement of links, and its start and end. */
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "exec/profiler/profiler_link_queue_internal.h"

enum { HOST_NAME_BYTES = 256 };

/* --- waiting --- */

/* A queue whose peers may have left is asked again and again, not waited for. */
enum hlm_status hlm_link_bench_wait(struct hlm_link_bench *links, struct hlm_err *err)
{
    const struct hlm_backend_ops *backend = links->backend->ops;
    bool done = false;
    HLM_TRY(backend->event_record(links->queue, links->end, err));
    while (!done) {
        HLM_TRY(backend->event_done(links->end, &done, err));
        if (!done) {
            HLM_TRY(links->comm->ops->check(links->comm, err));
            sched_yield();
        }
    }
    HLM_TRY(links->comm->ops->check(links->comm, err));
    return backend->queue_sync(links->queue, err);
}

/* What rank 0 thinks of the time, told to all: they must stop together. */
enum hlm_status hlm_link_bench_agree(struct hlm_link_bench *links, struct hlm_err *err)
{
    const struct hlm_backend_ops *backend = links->backend->ops;
    const bool late = hlm_profiler_now(&links->config->clock) > links->deadline_s;
    float flag = links->comm->rank == 0 && late ? 1.0f : 0.0f;
    HLM_TRY(backend->upload(links->queue, links->data, &flag, sizeof flag, err));
    HLM_TRY(links->comm->ops->all_reduce(links->comm, HLM_GROUP_WORLD, links->data, 1, HLM_WIRE_F32,
                                         HLM_REDUCE_SUM, err));
    HLM_TRY(backend->download(links->queue, &flag, links->data, sizeof flag, err));
    HLM_TRY(hlm_link_bench_wait(links, err));
    links->stopped = flag > 0.5f;
    return HLM_OK;
}

/* --- nodes --- */

enum hlm_status hlm_link_bench_gather(struct hlm_link_bench *links, const void *own, int64_t bytes,
                                      void *all, struct hlm_err *err)
{
    const struct hlm_backend_ops *backend = links->backend->ops;
    char *place = links->data + bytes * links->comm->rank;
    HLM_TRY(backend->upload(links->queue, place, own, bytes, err));
    HLM_TRY(links->comm->ops->all_gather(links->comm, HLM_GROUP_WORLD, place, links->data, bytes,
                                         HLM_WIRE_BYTE, err));
    HLM_TRY(
        backend->download(links->queue, all, links->data, bytes * links->comm->world_size, err));
    return hlm_link_bench_wait(links, err);
}

struct place {
    uint64_t host, device;
};

static enum hlm_status gather_places(struct hlm_link_bench *links, struct place *places,
                                     struct hlm_err *err)
{
    char name[HOST_NAME_BYTES] = "";
    if (gethostname(name, sizeof name - 1) != 0) {
        return hlm_fail(err, HLM_ENV, "profiler: this machine has no host name");
    }
    const struct place own = {hlm_hash(0, name, strlen(name)), links->config->device_id};
    HLM_TRY(hlm_link_bench_gather(links, &own, (int64_t)sizeof own, places, err));
    for (int32_t i = 0; i < links->comm->world_size; i++) {
        for (int32_t j = 0; j < i; j++) {
            links->out->shares_devices =
                links->out->shares_devices ||
                (places[i].host == places[j].host && places[i].device == places[j].device);
        }
    }
    return HLM_OK;
}

/* Nodes in the order of their first ranks. */
static void name_nodes(struct hlm_link_bench *links, const struct place *places)
{
    int32_t num = 0;
    for (int32_t i = 0; i < links->comm->world_size; i++) {
        links->nodes[i] = num;
        for (int32_t j = 0; j < i; j++) {
            links->nodes[i] = places[j].host == places[i].host ? links->nodes[j] : links->nodes[i];
        }
        num += links->nodes[i] == num;
    }
}

static enum hlm_status check_nodes(const struct hlm_link_bench *links, struct hlm_err *err)
{
    for (int32_t node = 0; node < links->out->num_nodes; node++) {
        int32_t count = 0;
        for (int32_t i = 0; i < links->comm->world_size; i++) {
            count += links->nodes[i] == node;
        }
        if (count != links->out->ranks_per_node) {
            return hlm_fail(err, HLM_ENV,
                            "profiler: nodes with equal numbers of ranks are needed: node %d has "
                            "%d of %d",
                            (int)node, (int)count, (int)links->comm->world_size);
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_link_bench_find_nodes(struct hlm_link_bench *links, struct hlm_err *err)
{
    const int32_t world = links->comm->world_size;
    struct place *places = HLM_ARENA_ARRAY(links->arena, struct place, world);
    links->nodes = HLM_ARENA_ARRAY(links->arena, int32_t, world);
    HLM_TRY(gather_places(links, places, err));
    name_nodes(links, places);
    if (links->config->nodes != NULL) {
        memcpy(links->nodes, links->config->nodes, (size_t)world * sizeof *links->nodes);
    }
    for (int32_t i = 0; i < world; i++) {
        const int32_t node = links->nodes[i];
        links->out->num_nodes = node < links->out->num_nodes ? links->out->num_nodes : node + 1;
    }
    links->out->ranks_per_node = world / links->out->num_nodes;
    return check_nodes(links, err);
}

struct hlm_link_shape hlm_link_bench_shape(const struct hlm_link_bench *links, enum hlm_group group)
{
    const struct hlm_strategy *strategy = links->config->strategy;
    const int32_t size = hlm_layout_group_size(strategy, group);
    int32_t *members = HLM_ARENA_ARRAY(links->arena, int32_t, size < 2 ? 2 : size);
    int32_t position = 0;
    struct hlm_link_shape shape = {.group = group, .num_ranks = size};
    hlm_layout_group(strategy, group, 0, members, &position);
    shape.num_groups = links->comm->world_size / size;
    for (int32_t i = 0; i < size; i++) {
        bool seen = false;
        for (int32_t j = 0; j < i; j++) {
            seen = seen || links->nodes[members[j]] == links->nodes[members[i]];
        }
        shape.num_nodes += !seen;
        shape.is_mine = shape.is_mine || members[i] == links->comm->rank;
    }
    return shape;
}

/* --- start and end --- */

/* Zeros, so that sums of sums stay finite however often they are made. */
static enum hlm_status make_data(struct hlm_link_bench *links, struct hlm_err *err)
{
    void *memory = NULL;
    /* Room for a word of each rank, and for sizes that were rounded up. */
    const int64_t bytes = links->config->max_bytes + 64 * (int64_t)links->comm->world_size;
    HLM_TRY(links->backend->ops->alloc(links->backend, bytes, &memory, err));
    links->data = memory;
    const struct hlm_op zero = {.kind = HLM_OP_FILL_ZERO,
                                .dtype = HLM_DTYPE_FP32,
                                .m = bytes / (int64_t)sizeof(float),
                                .n = 1};
    void *const operands[HLM_OP_MAX_OPERANDS] = {memory};
    HLM_TRY(links->backend->ops->launch(links->queue, &zero, operands, NULL, err));
    return links->backend->ops->queue_sync(links->queue, err);
}

enum hlm_status hlm_link_bench_init(struct hlm_link_bench *links, struct hlm_err *err)
{
    const struct hlm_backend_ops *backend = links->backend->ops;
    HLM_TRY(backend->queue_new(links->backend, &links->queue, err));
    HLM_TRY(backend->event_new(links->backend, &links->begin, err));
    HLM_TRY(backend->event_new(links->backend, &links->end, err));
    HLM_TRY(make_data(links, err));
    links->comm->ops->use_queue(links->comm, links->queue);
    return HLM_OK;
}

/* After a failure the transport's operations must let go of the queue first. */
void hlm_link_bench_release(struct hlm_link_bench *links, enum hlm_status status)
{
    if (status != HLM_OK) {
        links->comm->ops->abort(links->comm);
    }
    const struct hlm_backend_ops *backend = links->backend->ops;
    links->comm->ops->use_queue(links->comm, NULL);
    if (links->begin != NULL) {
        backend->event_free(links->begin);
    }
    if (links->end != NULL) {
        backend->event_free(links->end);
    }
    if (links->queue != NULL) {
        backend->queue_free(links->queue);
    }
    if (links->data != NULL) {
        backend->free(links->backend, links->data);
    }
}

enum hlm_status hlm_profiler_gather(struct hlm_comm *comm, struct hlm_backend *backend,
                                    double value, double *values, struct hlm_err *err)
{
    const struct hlm_profiler_queue_links_config config = {.comm = comm, .backend = backend};
    struct hlm_link_bench links = {.config = &config, .comm = comm, .backend = backend};
    enum hlm_status status = hlm_link_bench_init(&links, err);
    if (status == HLM_OK) {
        status = hlm_link_bench_gather(&links, &value, (int64_t)sizeof value, values, err);
    }
    hlm_link_bench_release(&links, status);
    return status;
}

struct hlm_strategy hlm_profiler_world(int32_t num_ranks, int32_t num_ranks_per_node)
{
    const bool even = num_ranks_per_node > 0 && num_ranks % num_ranks_per_node == 0;
    const int32_t per_node = even ? num_ranks_per_node : num_ranks;
    struct hlm_strategy strategy = {.dp = num_ranks / per_node,
                                    .tp = per_node,
                                    .pp = 1,
                                    .microbatch_size = 1,
                                    .num_microbatches = 1,
                                    .seq_len = 1,
                                    .schedule = HLM_SCHEDULE_1F1B};
    if (per_node == num_ranks) {
        strategy.tp = num_ranks % 2 == 0 && num_ranks > 2 ? 2 : 1;
        strategy.pp = num_ranks % 8 == 0 ? 2 : 1;
        strategy.dp = num_ranks / (strategy.tp * strategy.pp);
    }
    strategy.num_microbatches = strategy.pp;
    strategy.global_batch_size = (int64_t)strategy.dp * strategy.num_microbatches;
    hlm_strategy_complete(&strategy);
    return strategy;
}
