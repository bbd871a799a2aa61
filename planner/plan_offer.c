#include "planner/plan_offer.h"

const char *const hlm_subcluster_outcome_texts[] = {
#define X(name, text) text,
    HLM_SUBCLUSTER_OUTCOME_MAP(X)
#undef X
        NULL};

#define ROW(type_name, member, json_type, text)                                                    \
    .name = #member, .type = (json_type), .offset = offsetof(struct type_name, member),            \
    .flags = HLM_FIELD_REQUIRED, .doc = (text)
#define NUMBER(type_name, member, text)                                                            \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_DOUBLE, text), .max = 1e300                                \
    }
#define INDEX(type_name, member, text)                                                             \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_INT, text), .max = 1e6                                     \
    }

static const struct hlm_json_field subcluster_fields[] = {
    {ROW(hlm_plan_subcluster, num_nodes, HLM_JSON_INTS,
         "nodes that it takes of each device group of the offer"),
     .count_offset = offsetof(struct hlm_plan_subcluster, num_groups), .max = 1e6},
    NUMBER(hlm_plan_subcluster, price_per_hour, "of all its devices, per hour"),
    {ROW(hlm_plan_subcluster, outcome, HLM_JSON_ENUM, "what its search came to"),
     .enums = hlm_subcluster_outcome_texts},
    NUMBER(hlm_plan_subcluster, lower_bound_s,
           "no plan that uses all of it is faster, seconds; 0: nothing fits"),
    NUMBER(hlm_plan_subcluster, step_time_s, "of the best plan found on it, seconds; 0: none"),
    {ROW(hlm_plan_subcluster, interval, HLM_JSON_OBJECT,
         "that step time within the spread of the profile's fits"),
     .table = &hlm_plan_interval_table},
    {0}};
static const struct hlm_json_table subcluster_table = {
    "subcluster", sizeof(struct hlm_plan_subcluster), subcluster_fields};

static const struct hlm_json_field kept_fields[] = {
    INDEX(hlm_plan_kept, group, "device group of the offer that the plan leaves out"),
    INDEX(hlm_plan_kept, subcluster,
          "subcluster of the offer that the cheapest plan with it takes"),
    {ROW(hlm_plan_kept, strategy, HLM_JSON_OBJECT, "degrees and switches"),
     .table = &hlm_strategy_table},
    {ROW(hlm_plan_kept, stages, HLM_JSON_ARRAY, "its placement of layers"),
     .count_offset = offsetof(struct hlm_plan_kept, num_stages), .table = &hlm_plan_stage_table},
    NUMBER(hlm_plan_kept, step_time_s, "seconds, simulated"),
    NUMBER(hlm_plan_kept, cost_per_token, "in the currency of price_per_device_hour"),
    NUMBER(hlm_plan_kept, least_cost_per_token, "no plan with the group is cheaper"),
    {0}};
static const struct hlm_json_table kept_table = {"kept", sizeof(struct hlm_plan_kept), kept_fields};

static const struct hlm_json_field offer_fields[] = {
    {ROW(hlm_plan_offer, cluster, HLM_JSON_OBJECT, "the whole cluster that could be rented"),
     .table = &hlm_cluster_table},
    {ROW(hlm_plan_offer, subclusters, HLM_JSON_ARRAY,
         "all its subclusters, cheapest per hour first"),
     .count_offset = offsetof(struct hlm_plan_offer, num_subclusters), .min = 1, .max = 1e5,
     .table = &subcluster_table},
    NUMBER(hlm_plan_offer, least_cost_per_token,
           "no plan on any subcluster is cheaper, in the currency of price_per_device_hour"),
    NUMBER(hlm_plan_offer, gap_frac, "(cost per token - least) / cost per token"),
    {.name = "kept",
     .type = HLM_JSON_ARRAY,
     .offset = offsetof(struct hlm_plan_offer, kept),
     .count_offset = offsetof(struct hlm_plan_offer, num_kept),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .table = &kept_table,
     .doc = "device groups that the plan leaves out, and the cheapest plan with each"},
    {0}};
const struct hlm_json_table hlm_plan_offer_table = {"offer", sizeof(struct hlm_plan_offer),
                                                    offer_fields};

static enum hlm_status check_subcluster(const struct hlm_plan_offer *offer, int32_t index,
                                        const char *where, const char *path, struct hlm_err *err)
{
    const struct hlm_plan_subcluster *subcluster = &offer->subclusters[index];
    if (subcluster->num_groups != offer->cluster.num_groups) {
        return hlm_fail(err, HLM_INPUT,
                        "%s: %s.subclusters[%d].num_nodes: expected nodes of %d groups, found %d",
                        where, path, index, offer->cluster.num_groups, subcluster->num_groups);
    }
    int32_t taken = 0;
    for (int32_t g = 0; g < subcluster->num_groups; g++) {
        const int32_t all = offer->cluster.groups[g].num_nodes, nodes = subcluster->num_nodes[g];
        if (nodes < 0 || nodes > all) {
            return hlm_fail(
                err, HLM_INPUT,
                "%s: %s.subclusters[%d].num_nodes[%d]: expected a number in [0, %d], found "
                "%d",
                where, path, index, g, all, nodes);
        }
        taken += nodes;
    }
    return taken > 0 ? HLM_OK
                     : hlm_fail(err, HLM_INPUT,
                                "%s: %s.subclusters[%d].num_nodes: expected at least one node",
                                where, path, index);
}

enum hlm_status hlm_plan_offer_check(const struct hlm_plan_offer *offer, const char *where,
                                     const char *path, struct hlm_err *err)
{
    HLM_TRY(hlm_cluster_validate(&offer->cluster, where, err));
    for (int32_t i = 0; i < offer->num_subclusters; i++) {
        HLM_TRY(check_subcluster(offer, i, where, path, err));
    }
    for (int32_t i = 0; i < offer->num_kept; i++) {
        const struct hlm_plan_kept *kept = &offer->kept[i];
        if (kept->subcluster >= offer->num_subclusters ||
            kept->group >= offer->cluster.num_groups) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: %s.kept[%d]: subcluster %d or group %d is not in the offer", where,
                            path, i, kept->subcluster, kept->group);
        }
    }
    return HLM_OK;
}

bool hlm_plan_may_be_cheaper(const struct hlm_plan_subcluster *subcluster,
                             const struct hlm_plan *plan)
{
    const double tokens = (double)plan->strategy.global_batch_size * (double)plan->strategy.seq_len;
    const double least =
        hlm_plan_cost_per_token(subcluster->price_per_hour, subcluster->interval.low_s, tokens);
    const double most = plan->prediction.cost_per_token * plan->prediction.interval.high_s /
                        plan->prediction.step_time_s;
    return subcluster->outcome == HLM_SUBCLUSTER_PLANNED && least <= most;
}
