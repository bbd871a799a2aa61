/* The two forms of a cluster, file and one line: whatever is accepted must price collectives with
 * finite times, be written, and read back to the same text. */
#include <math.h>
#include <string.h>

#include "costmodel/collective.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct hlm_arena *arena, const struct hlm_cluster *cluster)
{
    HLM_ASSERT(hlm_cluster_num_devices(cluster) > 0);
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        const int32_t nodes = cluster->groups[g].num_nodes;
        const int32_t each = cluster->groups[g].devices_per_node;
        for (int op = 0; op < HLM_NUM_COLLECTIVES; op++) {
            const struct hlm_group_shape inside = {each, 1, each, 1};
            const struct hlm_group_shape across = {nodes, nodes, 1, each};
            HLM_ASSERT(
                isfinite(hlm_collective_seconds(cluster, g, (enum hlm_collective)op, 1e6, inside)));
            HLM_ASSERT(
                isfinite(hlm_collective_seconds(cluster, g, (enum hlm_collective)op, 1e6, across)));
        }
    }
    struct hlm_err err;
    struct hlm_cluster again;
    const char *text = hlm_json_write(arena, &hlm_cluster_table, cluster, false);
    HLM_ASSERT(hlm_json_read_text(arena, "again", text, strlen(text), &hlm_cluster_table, &again,
                                  &err) == HLM_OK);
    HLM_ASSERT(hlm_cluster_validate(&again, "again", &err) == HLM_OK);
    HLM_ASSERT(strcmp(hlm_json_write(arena, &hlm_cluster_table, &again, false), text) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    struct hlm_cluster own;
    if (hlm_json_read_text(arena, "own", (const char *)data, size, &hlm_cluster_table, &own,
                           &err) == HLM_OK &&
        hlm_cluster_validate(&own, "own", &err) == HLM_OK) {
        use(arena, &own);
    }
    /* As a one-line text only where it can't be taken for a path. */
    const char *text = hlm_arena_strndup(arena, (const char *)data, size);
    const struct hlm_cluster *cluster = NULL;
    if (strchr(text, '/') == NULL && strchr(text, ':') != NULL &&
        hlm_cluster_load(arena, text, &cluster, &err) == HLM_OK) {
        use(arena, cluster);
    }
    hlm_arena_free(arena);
    return 0;
}
