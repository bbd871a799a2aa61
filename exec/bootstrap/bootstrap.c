#include "exec/bootstrap/bootstrap.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exec/bootstrap/bootstrap_internal.h"

/* ---- what a rank says of itself ---- */

struct hlm_hello hlm_hello_of(const struct hlm_bootstrap_config *config)
{
    struct hlm_hello hello = {.version = HLM_BOOTSTRAP_VERSION,
                              .rank = config->rank,
                              .world_size = config->world_size,
                              .process = (int32_t)getpid()};
    snprintf(hello.plan, sizeof hello.plan, "%s", config->plan);
    snprintf(hello.settings, sizeof hello.settings, "%s", config->settings);
    gethostname(hello.host, sizeof hello.host - 1);
    return hello;
}

enum hlm_status hlm_hello_check(const struct hlm_hello *first, const struct hlm_hello *other,
                                struct hlm_err *err)
{
    const int32_t rank = other->rank;
    if (other->world_size != first->world_size) {
        return hlm_fail(err, HLM_ENV,
                        "rank %" PRId32 " on %s was started as one of %" PRId32
                        " ranks, rank 0 on %s as one of %" PRId32,
                        rank, other->host, other->world_size, first->host, first->world_size);
    }
    if (rank < 0 || rank >= first->world_size) {
        return hlm_fail(err, HLM_ENV, "%s has a rank %" PRId32 " of %" PRId32, other->host, rank,
                        first->world_size);
    }
    if (strcmp(other->plan, first->plan) != 0) {
        return hlm_fail(err, HLM_INPUT,
                        "rank %" PRId32 " on %s has another plan (digests %s) than rank 0 on %s "
                        "(%s)",
                        rank, other->host, other->plan, first->host, first->plan);
    }
    if (strcmp(other->settings, first->settings) != 0) {
        return hlm_fail(err, HLM_USAGE,
                        "rank %" PRId32 " on %s was asked for %s, rank 0 on %s for %s", rank,
                        other->host, other->settings, first->host, first->settings);
    }
    return HLM_OK;
}

/* ---- over a host transport ---- */

struct over_comm {
    struct hlm_bootstrap base;
    struct hlm_comm *comm;
    void *space; /* [capacity], what all ranks have said */
    int64_t capacity;
};

static void comm_release(struct hlm_bootstrap *bootstrap)
{
    free(((struct over_comm *)bootstrap)->space);
    free(bootstrap);
}

static void comm_abort(struct hlm_bootstrap *bootstrap, const struct hlm_err *failure)
{
    (void)bootstrap;
    (void)failure;
}

/* What all say, in self->space. */
static enum hlm_status gather_space(struct over_comm *self, const void *in, int64_t bytes,
                                    struct hlm_err *err)
{
    const int64_t wanted = bytes * self->base.world_size;
    if (wanted > self->capacity) {
        void *larger = realloc(self->space, (size_t)wanted);
        if (larger == NULL) {
            return hlm_fail(err, HLM_FAILED, "out of memory for what %" PRId32 " ranks say",
                            self->base.world_size);
        }
        self->space = larger;
        self->capacity = wanted;
    }
    return self->comm->ops->all_gather(self->comm, HLM_GROUP_WORLD, in, self->space, bytes,
                                       HLM_WIRE_BYTE, err);
}

static enum hlm_status comm_gather(struct hlm_bootstrap *bootstrap, const void *in, int64_t bytes,
                                   void *all, struct hlm_err *err)
{
    struct over_comm *self = (struct over_comm *)bootstrap;
    HLM_TRY(gather_space(self, in, bytes, err));
    if (bootstrap->rank == 0) {
        memcpy(all, self->space, (size_t)(bytes * bootstrap->world_size));
    }
    return HLM_OK;
}

static enum hlm_status comm_broadcast(struct hlm_bootstrap *bootstrap, void *data, int64_t bytes,
                                      struct hlm_err *err)
{
    struct over_comm *self = (struct over_comm *)bootstrap;
    HLM_TRY(gather_space(self, data, bytes, err));
    memcpy(data, self->space, (size_t)bytes);
    return HLM_OK;
}

static const struct hlm_bootstrap_ops comm_ops = {.release = comm_release,
                                                  .abort = comm_abort,
                                                  .gather = comm_gather,
                                                  .broadcast = comm_broadcast};

/* Every rank sees what all have said, so all come to the same end. */
static enum hlm_status check_all(struct hlm_bootstrap *bootstrap, const struct hlm_hello *mine,
                                 struct hlm_hello *all, struct hlm_err *err)
{
    HLM_TRY(hlm_bootstrap_all_gather(bootstrap, mine, sizeof *mine, all, err));
    for (int32_t rank = 1; rank < bootstrap->world_size; rank++) {
        HLM_TRY(hlm_hello_check(&all[0], &all[rank], err));
    }
    return HLM_OK;
}

enum hlm_status hlm_bootstrap_comm_new(const struct hlm_bootstrap_config *config,
                                       struct hlm_comm *comm, struct hlm_bootstrap **out,
                                       struct hlm_err *err)
{
    HLM_ASSERT(!comm->ops->stream_ordered && config->rank == comm->rank &&
               config->world_size == comm->world_size);
    const struct hlm_hello mine = hlm_hello_of(config);
    struct over_comm *self = calloc(1, sizeof *self);
    struct hlm_hello *all = calloc((size_t)comm->world_size, sizeof *all);
    if (self == NULL || all == NULL) {
        free(self);
        free(all);
        return hlm_fail(err, HLM_FAILED, "out of memory for the start of the ranks");
    }
    self->base = (struct hlm_bootstrap){&comm_ops, comm->rank, comm->world_size};
    self->comm = comm;
    const enum hlm_status status = check_all(&self->base, &mine, all, err);
    free(all);
    if (status != HLM_OK) {
        comm_release(&self->base);
        return status;
    }
    *out = &self->base;
    return HLM_OK;
}

/* ---- for both ---- */

void hlm_bootstrap_free(struct hlm_bootstrap *bootstrap)
{
    if (bootstrap != NULL) {
        bootstrap->ops->release(bootstrap);
    }
}

void hlm_bootstrap_abort(struct hlm_bootstrap *bootstrap, const struct hlm_err *failure)
{
    bootstrap->ops->abort(bootstrap, failure);
}

enum hlm_status hlm_bootstrap_broadcast(struct hlm_bootstrap *bootstrap, void *data, int64_t bytes,
                                        struct hlm_err *err)
{
    return bootstrap->ops->broadcast(bootstrap, data, bytes, err);
}

enum hlm_status hlm_bootstrap_all_gather(struct hlm_bootstrap *bootstrap, const void *in,
                                         int64_t bytes, void *out, struct hlm_err *err)
{
    HLM_TRY(bootstrap->ops->gather(bootstrap, in, bytes, out, err));
    return bootstrap->ops->broadcast(bootstrap, out, bytes * bootstrap->world_size, err);
}

enum hlm_status hlm_bootstrap_barrier(struct hlm_bootstrap *bootstrap, struct hlm_err *err)
{
    return hlm_bootstrap_agree(bootstrap, HLM_OK, err);
}

struct verdict {
    int32_t status, rank;
    char host[HLM_BOOTSTRAP_HOST];
    char text[sizeof(((struct hlm_err *)NULL)->text)];
};

enum hlm_status hlm_bootstrap_agree(struct hlm_bootstrap *bootstrap, enum hlm_status mine,
                                    struct hlm_err *err)
{
    struct verdict verdict = {.status = (int32_t)mine, .rank = bootstrap->rank};
    gethostname(verdict.host, sizeof verdict.host - 1);
    snprintf(verdict.text, sizeof verdict.text, "%s", mine == HLM_OK ? "" : err->text);
    struct verdict *all = NULL;
    if (bootstrap->rank == 0) {
        all = calloc((size_t)bootstrap->world_size, sizeof *all);
        if (all == NULL) {
            return hlm_fail(err, HLM_FAILED, "out of memory for what the ranks say");
        }
    }
    struct hlm_err other;
    enum hlm_status status =
        bootstrap->ops->gather(bootstrap, &verdict, sizeof verdict, all, &other);
    for (int32_t rank = 0; status == HLM_OK && all != NULL && rank < bootstrap->world_size;
         rank++) {
        if (all[rank].status != HLM_OK) {
            verdict = all[rank];
            break;
        }
    }
    free(all);
    if (status == HLM_OK) {
        status = bootstrap->ops->broadcast(bootstrap, &verdict, sizeof verdict, &other);
    }
    if (mine != HLM_OK) {
        return mine;
    }
    if (status != HLM_OK) {
        *err = other;
        return status;
    }
    return verdict.status == HLM_OK
               ? HLM_OK
               : hlm_fail(err, (enum hlm_status)verdict.status, "rank %" PRId32 " on %s: %s",
                          verdict.rank, verdict.host, verdict.text);
}
