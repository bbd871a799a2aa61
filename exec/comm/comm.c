#include "exec/comm/comm.h"

#include <inttypes.h>
#include <stdlib.h>

#include "exec/comm/comm_internal.h"

void hlm_comm_free(struct hlm_comm *comm)
{
    if (comm != NULL) {
        comm->ops->release(comm);
    }
}

/* ---- groups ---- */

enum hlm_status hlm_comm_groups_init(struct hlm_comm_groups *out,
                                     const struct hlm_strategy *strategy, int32_t rank,
                                     struct hlm_err *err)
{
    const struct hlm_strategy at = hlm_strategy_at(strategy, hlm_layout_coords(strategy, rank).pp);
    size_t total = 0;
    for (int kind = 0; kind < HLM_NUM_GROUPS; kind++) {
        total += (size_t)hlm_layout_group_size(&at, (enum hlm_group)kind);
    }
    int32_t *storage = calloc(total, sizeof *storage);
    if (storage == NULL) {
        return hlm_fail(err, HLM_FAILED, "out of memory for the groups of rank %" PRId32, rank);
    }
    *out = (struct hlm_comm_groups){.storage = storage};
    for (int kind = 0; kind < HLM_NUM_GROUPS; kind++) {
        struct hlm_comm_group *group = &out->of[kind];
        group->kind = (enum hlm_group)kind;
        group->size = hlm_layout_group_size(&at, group->kind);
        group->members = storage;
        storage += group->size;
        hlm_layout_group(strategy, group->kind, rank, group->members, &group->position);
        if (group->position < 0 || !hlm_layout_group_is_mutual(strategy, group->kind)) {
            group->size = 1;
            group->position = 0;
            group->members[0] = rank;
        }
        HLM_ASSERT(group->members[group->position] == rank);
    }
    return HLM_OK;
}

void hlm_comm_groups_release(struct hlm_comm_groups *groups)
{
    free(groups->storage);
    groups->storage = NULL;
}
