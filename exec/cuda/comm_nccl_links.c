/* The communicators of a rank: made, watched, given up, closed. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "exec/cuda/comm_nccl_internal.h"

static const enum hlm_group link_groups[HLM_NCCL_NUM_LINKS] = {
#define X(name, group) [HLM_NCCL_LINK_##name] = (group),
    HLM_NCCL_LINK_MAP(X)
#undef X
};

/* --- failures --- */

void hlm_nccl_links_abort(struct hlm_nccl_comm *self)
{
    for (int link = HLM_NCCL_NUM_LINKS - 1; link >= 0; link--) {
        if (self->links[link] != NULL) {
            (void)ncclCommAbort(self->links[link]);
            self->links[link] = NULL;
        }
    }
    self->failed = true;
}

static enum hlm_status fail(struct hlm_nccl_comm *self, ncclResult_t result, const char *what,
                            struct hlm_err *err)
{
    (void)hlm_fail(err, HLM_FAILED, "rank %d: NCCL: %s: %s (%s)", self->base.rank, what,
                   ncclGetErrorString(result), ncclGetLastError(NULL));
    hlm_nccl_links_abort(self);
    return HLM_FAILED;
}

enum hlm_status hlm_nccl_check_alive(struct hlm_nccl_comm *self, struct hlm_err *err)
{
    if (atomic_load(&self->stopped) && !self->failed) {
        hlm_nccl_links_abort(self);
    }
    return self->failed
               ? hlm_fail(err, HLM_FAILED, "rank %d: the transport was stopped", self->base.rank)
               : HLM_OK;
}

static ncclResult_t state_of(ncclComm_t link)
{
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(link, &state);
    return asked == ncclSuccess ? state : asked;
}

enum hlm_status hlm_nccl_links_check(struct hlm_nccl_comm *self, struct hlm_err *err)
{
    for (int link = 0; link < HLM_NCCL_NUM_LINKS; link++) {
        if (self->links[link] == NULL) {
            continue;
        }
        const ncclResult_t state = state_of(self->links[link]);
        if (state != ncclSuccess && state != ncclInProgress) {
            return fail(self, state, hlm_group_texts[link_groups[link]], err);
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_nccl_settle(struct hlm_nccl_comm *self, ncclComm_t link, ncclResult_t result,
                                const char *what, struct hlm_err *err)
{
    const double start_s = hlm_cuda_wall_s();
    while (result == ncclInProgress) {
        HLM_TRY(hlm_nccl_check_alive(self, err));
        if (hlm_cuda_wall_s() - start_s > self->timeout_s) {
            (void)hlm_fail(err, HLM_FAILED, "rank %d has waited %.1f s for NCCL: %s",
                           self->base.rank, self->timeout_s, what);
            hlm_nccl_links_abort(self);
            return HLM_FAILED;
        }
        sched_yield();
        result = state_of(link);
    }
    return result == ncclSuccess ? HLM_OK : fail(self, result, what, err);
}

void hlm_nccl_links_close(struct hlm_nccl_comm *self)
{
    struct hlm_err ignored = {0};
    for (int link = HLM_NCCL_NUM_LINKS - 1; link >= 0; link--) {
        const ncclComm_t comm = self->links[link];
        if (comm != NULL &&
            hlm_nccl_settle(self, comm, ncclCommFinalize(comm), "finalize", &ignored) == HLM_OK) {
            (void)ncclCommDestroy(comm);
            self->links[link] = NULL;
        }
    }
}

/* --- making them --- */

enum hlm_status hlm_cuda_comm_id(unsigned char id[HLM_CUDA_COMM_ID_BYTES], struct hlm_err *err)
{
    _Static_assert(sizeof(ncclUniqueId) == HLM_CUDA_COMM_ID_BYTES, "the module's interface");
    ncclUniqueId made;
    const ncclResult_t result = ncclGetUniqueId(&made);
    if (result != ncclSuccess) {
        return hlm_fail(err, HLM_ENV, "NCCL: making an id: %s", ncclGetErrorString(result));
    }
    memcpy(id, &made, sizeof made);
    return HLM_OK;
}

/* A rank's view of a group: position -1 where it is no member. */
struct view {
    int32_t size, position, *members; /* [size] */
    int32_t largest;                  /* size of any rank's group of the kind */
};

/* Where tp differs between stages, so do the sizes of groups. */
static int32_t largest_size(const struct hlm_strategy *strategy, enum hlm_group group)
{
    int32_t largest = 1;
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        const struct hlm_strategy at = hlm_strategy_at(strategy, pp);
        const int32_t size = hlm_layout_group_size(&at, group);
        largest = size > largest ? size : largest;
    }
    return largest;
}

/* views: [HLM_NUM_GROUPS], members in `storage` [HLM_NUM_GROUPS * world_size]. */
static void view_groups(const struct hlm_strategy *strategy, int32_t rank, int32_t world_size,
                        int32_t *storage, struct view *views)
{
    const struct hlm_strategy at = hlm_strategy_at(strategy, hlm_layout_coords(strategy, rank).pp);
    for (int kind = 0; kind < HLM_NUM_GROUPS; kind++) {
        const enum hlm_group group = (enum hlm_group)kind;
        struct view *view = &views[kind];
        *view = (struct view){.size = 1, .members = storage + kind * world_size, .largest = 1};
        if (group != HLM_GROUP_NONE && hlm_layout_group_is_mutual(strategy, group)) {
            view->size = hlm_layout_group_size(&at, group);
            view->largest = largest_size(strategy, group);
            hlm_layout_group(strategy, group, rank, view->members, &view->position);
        }
    }
}

static bool is_same(const struct view *a, const struct view *b)
{
    return a->size == b->size && a->position == b->position && a->position >= 0 &&
           memcmp(a->members, b->members, (size_t)a->size * sizeof *a->members) == 0;
}

static bool carries_messages(int link)
{
    return link >= HLM_NCCL_LINK_FORWARD_EVEN && link <= HLM_NCCL_LINK_BACKWARD_ODD;
}

/* Links that some ranks are no members of, or that carry messages, are never shared: all ranks must
 * find the same. */
static bool can_share(int link)
{
    return !carries_messages(link) && link != HLM_NCCL_LINK_EMBEDDING;
}

/* An earlier link with the same members in the same order, HLM_NCCL_NUM_LINKS where there is none.
 * Where groups of one kind differ in size, ranks would not find the same. */
static enum hlm_nccl_link shared_link(const struct hlm_strategy *strategy, const struct view *views,
                                      enum hlm_nccl_link link)
{
    const bool has_one_tp = hlm_layout_group_is_mutual(strategy, HLM_GROUP_PP);
    for (int earlier = 0; can_share((int)link) && earlier < (int)link; earlier++) {
        if (can_share(earlier) && has_one_tp &&
            is_same(&views[link_groups[earlier]], &views[link_groups[link]])) {
            return (enum hlm_nccl_link)earlier;
        }
    }
    return HLM_NCCL_NUM_LINKS;
}

static enum hlm_status make_world(struct hlm_nccl_comm *self,
                                  const struct hlm_cuda_comm_config *config, struct hlm_err *err)
{
    ncclConfig_t options = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    options.blocking = 0;
    memcpy(&id, config->id, sizeof id);
    ncclComm_t *world = &self->links[HLM_NCCL_LINK_WORLD];
    const ncclResult_t result =
        ncclCommInitRankConfig(world, self->base.world_size, id, self->base.rank, &options);
    self->of_group[HLM_GROUP_WORLD] = HLM_NCCL_LINK_WORLD;
    return hlm_nccl_settle(self, *world, result, "joining the world", err);
}

/* Members have a colour in common, the least of their ranks; numbers follow positions. */
static enum hlm_status split(struct hlm_nccl_comm *self, enum hlm_nccl_link link,
                             const struct view *view, struct hlm_err *err)
{
    ncclConfig_t options = NCCL_CONFIG_INITIALIZER;
    options.blocking = 0;
    const bool member = view->position >= 0 && view->size > 1;
    int color = view->members[0];
    for (int32_t i = 1; i < view->size; i++) {
        color = view->members[i] < color ? view->members[i] : color;
    }
    const ncclComm_t world = self->links[HLM_NCCL_LINK_WORLD];
    const ncclResult_t result =
        ncclCommSplit(world, member ? color : NCCL_SPLIT_NOCOLOR, member ? view->position : 0,
                      &self->links[link], &options);
    HLM_TRY(hlm_nccl_settle(self, world, result, "splitting the world", err));
    if (!member) {
        self->links[link] = NULL;
        return HLM_OK;
    }
    if (!carries_messages(link)) {
        self->of_group[link_groups[link]] = link;
    }
    return hlm_nccl_settle(self, self->links[link], ncclInProgress,
                           hlm_group_texts[link_groups[link]], err);
}

static enum hlm_status make_all(struct hlm_nccl_comm *self,
                                const struct hlm_cuda_comm_config *config, const struct view *views,
                                struct hlm_err *err)
{
    HLM_TRY(make_world(self, config, err));
    const struct hlm_strategy *strategy = config->comm->strategy;
    const bool one_stage = strategy->pp == 1;
    for (int i = HLM_NCCL_LINK_WORLD + 1; i < HLM_NCCL_NUM_LINKS; i++) {
        const enum hlm_nccl_link link = (enum hlm_nccl_link)i;
        if (one_stage &&
            (link == HLM_NCCL_LINK_FORWARD_ODD || link == HLM_NCCL_LINK_BACKWARD_ODD)) {
            continue; /* nobody stands at an odd stage */
        }
        const struct view *view = &views[link_groups[link]];
        const enum hlm_nccl_link shared = shared_link(strategy, views, link);
        if (shared != HLM_NCCL_NUM_LINKS && view->largest > 1) {
            self->of_group[link_groups[link]] = shared;
        } else if (view->largest > 1) {
            HLM_TRY(split(self, link, view, err));
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_nccl_links_make(struct hlm_nccl_comm *self,
                                    const struct hlm_cuda_comm_config *config, struct hlm_err *err)
{
    const int32_t world_size = self->base.world_size;
    struct view views[HLM_NUM_GROUPS];
    int32_t *storage = malloc((size_t)world_size * HLM_NUM_GROUPS * sizeof *storage);
    if (storage == NULL) {
        return hlm_fail(err, HLM_ENV, "cuda backend: no memory for communicators");
    }
    view_groups(config->comm->strategy, self->base.rank, world_size, storage, views);
    for (int group = 0; group < HLM_NUM_GROUPS; group++) {
        self->of_group[group] = HLM_NCCL_NUM_LINKS;
    }
    const enum hlm_status status = make_all(self, config, views, err);
    free(storage);
    return status;
}
