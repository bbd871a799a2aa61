#include "costmodel/offload.h"

#include <math.h>

#include "costmodel/lowering.h"
#include "costmodel/memory.h"
#include "costmodel/stage_cost.h"

enum hlm_status hlm_offload_check(const struct hlm_strategy *strategy,
                                  const struct hlm_device_group *group, struct hlm_err *err)
{
    if (strategy->offload == HLM_OFFLOAD_NONE || group->host != NULL) {
        return HLM_OK;
    }
    return hlm_fail(err, HLM_NO,
                    "offload = %s needs the host's memory and link, but device group %s has no "
                    "\"host\"",
                    hlm_offload_texts[strategy->offload], group->name);
}

/* Of the host's memory bandwidth, what each device of a node has. */
static double memory_share(const struct hlm_device_group *group)
{
    return group->host->memory_bandwidth_bytes_per_s / (double)group->devices_per_node;
}

double hlm_offload_copy_s(const struct hlm_device_group *group, double bytes)
{
    return bytes / fmin(group->host->link_bandwidth_bytes_per_s, memory_share(group));
}

static struct hlm_offload_update update_on_host(const struct hlm_strategy *strategy,
                                                const struct hlm_device_group *group,
                                                double num_elements)
{
    const double link = group->host->link_bandwidth_bytes_per_s;
    const double grad = hlm_dtype_bytes(strategy->grad_dtype);
    const double param = hlm_dtype_bytes(hlm_dtype_storage(strategy->dtype));
    return (struct hlm_offload_update){
        .to_host_s = num_elements * grad / link,
        .update_s = num_elements * (hlm_adamw_bytes_per_element(strategy) + grad + param) /
                    memory_share(group),
        .to_device_s = num_elements * param / link};
}

static struct hlm_offload_update update_on_device(const struct hlm_strategy *strategy,
                                                  const struct hlm_device_group *group,
                                                  double num_elements, double device_update_s)
{
    const double rate = fmin(group->host->link_bandwidth_bytes_per_s, memory_share(group) / 2.0);
    const double copy_s = num_elements * hlm_memory_state_bytes(strategy) / rate;
    return (struct hlm_offload_update){copy_s, device_update_s, copy_s};
}

struct hlm_offload_update hlm_offload_update(const struct hlm_strategy *strategy,
                                             const struct hlm_device_group *group,
                                             double num_elements, double device_update_s,
                                             int32_t num_pieces)
{
    struct hlm_offload_update update =
        hlm_lowering_framework(strategy->lowering)->updates_on_device
            ? update_on_device(strategy, group, num_elements, device_update_s)
            : update_on_host(strategy, group, num_elements);
    double *const stations[] = {&update.to_host_s, &update.update_s, &update.to_device_s};
    double *slowest = stations[0];
    for (int32_t i = 1; i < 3; i++) {
        slowest = *stations[i] > *slowest ? stations[i] : slowest;
    }
    for (int32_t i = 0; i < 3; i++) {
        *stations[i] /= stations[i] == slowest ? 1.0 : (double)num_pieces;
    }
    return update;
}
