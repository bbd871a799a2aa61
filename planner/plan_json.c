/* The field tables of the kind "plan". */
#include "planner/plan_offer.h"

static const struct hlm_json_field recompute_fields[] = {
    {.name = "none",
     .type = HLM_JSON_INT,
     .offset = offsetof(struct hlm_plan_recompute, none),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e6,
     .doc = "layers that keep all activations"},
    {.name = "selective",
     .type = HLM_JSON_INT,
     .offset = offsetof(struct hlm_plan_recompute, selective),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e6,
     .doc = "layers that recompute memory-bound operators"},
    {.name = "full",
     .type = HLM_JSON_INT,
     .offset = offsetof(struct hlm_plan_recompute, full),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e6,
     .doc = "layers that keep their input only"},
    {0}};
static const struct hlm_json_table recompute_table = {
    "recompute", sizeof(struct hlm_plan_recompute), recompute_fields};

#define STAGE(member) .offset = offsetof(struct hlm_plan_stage, member)
static const struct hlm_json_field stage_fields[] = {
    {.name = "rank_group",
     .type = HLM_JSON_INT,
     STAGE(rank_group),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e6,
     .doc = "pipeline rank that runs the stage"},
    {.name = "first_layer",
     .type = HLM_JSON_INT,
     STAGE(first_layer),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e6,
     .doc = "index of its first layer"},
    {.name = "num_layers",
     .type = HLM_JSON_INT,
     STAGE(num_layers),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e6,
     .doc = "number of its layers"},
    {.name = "device_group",
     .type = HLM_JSON_INT,
     STAGE(device_group),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e6,
     .doc = "index into cluster.groups"},
    {.name = "tp",
     .type = HLM_JSON_INT,
     STAGE(tp),
     .flags = HLM_FIELD_REQUIRED,
     .min = 1,
     .max = 1e6,
     .doc = "tensor-parallel degree of the stage"},
    {.name = "recompute",
     .type = HLM_JSON_OBJECT,
     STAGE(recompute),
     .flags = HLM_FIELD_REQUIRED,
     .table = &recompute_table,
     .doc = "layers by recompute mode; full ones come first"},
    {0}};
const struct hlm_json_table hlm_plan_stage_table = {"stage", sizeof(struct hlm_plan_stage),
                                                    stage_fields};

#define MEMORY(kind, text)                                                                         \
    {.name = text,                                                                                 \
     .type = HLM_JSON_INT64,                                                                       \
     .offset = offsetof(struct hlm_stage_memory, bytes[HLM_MEMORY_##kind]),                        \
     .flags = HLM_FIELD_REQUIRED,                                                                  \
     .min = 0,                                                                                     \
     .max = 9e15,                                                                                  \
     .doc = "bytes of one rank of the stage"},
static const struct hlm_json_field memory_fields[] = {
    {.name = "stage",
     .type = HLM_JSON_INT,
     .offset = offsetof(struct hlm_stage_memory, stage),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e6,
     .doc = "stage"},
    HLM_MEMORY_KIND_MAP(MEMORY){.name = "peak_bytes",
                                .type = HLM_JSON_INT64,
                                .offset = offsetof(struct hlm_stage_memory, peak_bytes),
                                .flags = HLM_FIELD_REQUIRED,
                                .min = 0,
                                .max = 9e15,
                                .doc = "sum of the kinds"},
    {.name = "limit_bytes",
     .type = HLM_JSON_INT64,
     .offset = offsetof(struct hlm_stage_memory, limit_bytes),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 9e15,
     .doc = "memory of the device"},
    {.name = "host_bytes",
     .type = HLM_JSON_INT64,
     .offset = offsetof(struct hlm_stage_memory, host_bytes),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .min = 0,
     .max = 9e15,
     .doc = "in the host's memory, no part of the peak"},
    {0}};
const struct hlm_json_table hlm_stage_memory_table = {"memory", sizeof(struct hlm_stage_memory),
                                                      memory_fields};

static const struct hlm_json_field node_fields[] = {
    {.name = "name",
     .type = HLM_JSON_STRING,
     .offset = offsetof(struct hlm_time_node, name),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "what the time is spent on"},
    {.name = "seconds",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_time_node, seconds),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "seconds; the sum of the parts"},
    {.name = "parts",
     .type = HLM_JSON_ARRAY,
     .offset = offsetof(struct hlm_time_node, parts),
     .count_offset = offsetof(struct hlm_time_node, num_parts),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .table = &hlm_time_node_table,
     .doc = "named parts"},
    {0}};
const struct hlm_json_table hlm_time_node_table = {"time", sizeof(struct hlm_time_node),
                                                   node_fields};

static const struct hlm_json_field interval_fields[] = {
    {.name = "low_s",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_plan_interval, low_s),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "seconds"},
    {.name = "high_s",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_plan_interval, high_s),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "seconds"},
    {0}};
const struct hlm_json_table hlm_plan_interval_table = {"interval", sizeof(struct hlm_plan_interval),
                                                       interval_fields};

#define PREDICTION(member) .offset = offsetof(struct hlm_plan_prediction, member)
static const struct hlm_json_field prediction_fields[] = {
    {.name = "step_time_s",
     .type = HLM_JSON_DOUBLE,
     PREDICTION(step_time_s),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "seconds of one training step, simulated"},
    {.name = "parts",
     .type = HLM_JSON_OBJECT,
     PREDICTION(parts),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_time_node_table,
     .doc = "where the step's time goes on the rank that ends last"},
    {.name = "mfu",
     .type = HLM_JSON_DOUBLE,
     PREDICTION(mfu),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "model flops (causal attention counted half) over the dense peak of dtype"},
    {.name = "tokens_per_s",
     .type = HLM_JSON_DOUBLE,
     PREDICTION(tokens_per_s),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "tokens of the global batch per second"},
    {.name = "cost_per_token",
     .type = HLM_JSON_DOUBLE,
     PREDICTION(cost_per_token),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "in the currency of price_per_device_hour; 0: no prices"},
    {.name = "memory",
     .type = HLM_JSON_ARRAY,
     PREDICTION(memory),
     .count_offset = offsetof(struct hlm_plan_prediction, num_memory),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_stage_memory_table,
     .doc = "bytes per stage and rank"},
    {.name = "interval",
     .type = HLM_JSON_OBJECT,
     PREDICTION(interval),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_plan_interval_table,
     .doc = "step time within the spread of the profile's fits"},
    {0}};
static const struct hlm_json_table prediction_table = {
    "prediction", sizeof(struct hlm_plan_prediction), prediction_fields};

const char *const hlm_proof_texts[] = {
#define X(name, text) text,
    HLM_PROOF_MAP(X)
#undef X
        NULL};

#define MASTER(member) .offset = offsetof(struct hlm_plan_master, member)
static const struct hlm_json_field master_fields[] = {
    {.name = "status",
     .type = HLM_JSON_ENUM,
     MASTER(status),
     .flags = HLM_FIELD_REQUIRED,
     .enums = hlm_proof_texts,
     .doc = "outcome of the one ILP over all surviving columns"},
    {.name = "objective_s",
     .type = HLM_JSON_DOUBLE,
     MASTER(objective_s),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "least bound over its columns, seconds"},
    {.name = "num_columns",
     .type = HLM_JSON_INT,
     MASTER(num_columns),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e9,
     .doc = "columns in the master ILP"},
    {0}};
static const struct hlm_json_table master_table = {"master", sizeof(struct hlm_plan_master),
                                                   master_fields};

/* 0 (or -1 where 0 means something) leaves a choice free. */
#define REQUIRE(member, free_value, text)                                                          \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_INT,                                                     \
        .offset = offsetof(struct hlm_search_require, member), .min = (free_value), .max = 1e9,    \
        .def = (free_value), .doc = text                                                           \
    }
static const struct hlm_json_field require_fields[] = {
    REQUIRE(dp, 0, "data-parallel degree, 0: free"),
    REQUIRE(tp, 0, "tensor-parallel degree, 0: free"),
    REQUIRE(pp, 0, "pipeline-parallel degree, 0: free"),
    REQUIRE(cp, 0, "context-parallel degree, 0: free"),
    REQUIRE(vpp, 0, "model chunks per rank, 0: free"),
    REQUIRE(ep, 0, "expert-parallel degree, 0: free"),
    REQUIRE(sp, -1, "sequence parallelism 0 or 1, -1: free"),
    REQUIRE(zero, -1, "ZeRO stage, -1: free"),
    REQUIRE(schedule, -1, "index of the schedule in the strategy's list, from 0; -1: free"),
    REQUIRE(recompute, -1, "mode of all layers (none 0, selective 1, full 2), -1: free"),
    {.name = "microbatch_size",
     .type = HLM_JSON_INT64,
     .offset = offsetof(struct hlm_search_require, microbatch_size),
     .min = 0,
     .max = 9e15,
     .doc = "sequences, 0: free"},
    {.name = "offload",
     .type = HLM_JSON_INT,
     .offset = offsetof(struct hlm_search_require, offload),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .min = -1,
     .max = HLM_NUM_OFFLOADS - 1,
     .def = -1,
     .doc = "index of the offload in the strategy's list, from 0; -1: not required, and none"},
    {0}};
const struct hlm_json_table hlm_search_require_table = {
    "require", sizeof(struct hlm_search_require), require_fields};

#define CERTIFICATE(member) .offset = offsetof(struct hlm_plan_certificate, member)
#define CERTIFICATE_COUNT(member, text)                                                            \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_INT64, CERTIFICATE(member), .flags = HLM_FIELD_REQUIRED, \
        .min = 0, .max = 9e15, .doc = text                                                         \
    }
/* That plans of older versions do not have. */
#define CERTIFICATE_TALLY(member, text)                                                            \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_INT64, CERTIFICATE(member), .min = 0, .max = 9e15,       \
        .doc = text                                                                                \
    }
static const struct hlm_json_field certificate_fields[] = {
    {.name = "require",
     .type = HLM_JSON_OBJECT,
     CERTIFICATE(require),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_search_require_table,
     .doc = "what the search was restricted to"},
    {.name = "runnable_only",
     .type = HLM_JSON_BOOL,
     CERTIFICATE(runnable_only),
     .doc = "whether it left out what the executor does not run"},
    {.name = "all_groups",
     .type = HLM_JSON_BOOL,
     CERTIFICATE(all_groups),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .doc = "whether it left out what lets a device group idle"},
    {.name = "lower_bound_s",
     .type = HLM_JSON_DOUBLE,
     CERTIFICATE(lower_bound_s),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "no legal plan is faster, seconds"},
    {.name = "gap_frac",
     .type = HLM_JSON_DOUBLE,
     CERTIFICATE(gap_frac),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "(step time - lower bound) / step time"},
    {.name = "max_gap_frac",
     .type = HLM_JSON_DOUBLE,
     CERTIFICATE(max_gap_frac),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1,
     .doc = "the gap that was asked for"},
    CERTIFICATE_COUNT(num_columns, "legal strategies"),
    CERTIFICATE_COUNT(num_pruned_by_bound, "of these, lost by a bound"),
    CERTIFICATE_COUNT(num_infeasible, "of these, fit in no partition"),
    CERTIFICATE_COUNT(num_ilps, "partition ILPs solved"),
    CERTIFICATE_COUNT(num_simulated, "plans simulated"),
    CERTIFICATE_TALLY(num_bounds,
                      "bounds computed before any ILP, of families of strategies and of one"),
    CERTIFICATE_TALLY(num_nodes, "nodes of branch and bound, in all ILPs"),
    {.name = "master",
     .type = HLM_JSON_OBJECT,
     CERTIFICATE(master),
     .flags = HLM_FIELD_REQUIRED,
     .table = &master_table,
     .doc = "the ILP that picks among all surviving columns at once"},
    {.name = "offer",
     .type = HLM_JSON_POINTER,
     CERTIFICATE(offer),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .table = &hlm_plan_offer_table,
     .doc =
         "of a plan that was chosen by price: what else could be rented, and what it would cost"},
    {0}};
static const struct hlm_json_table certificate_table = {
    "certificate", sizeof(struct hlm_plan_certificate), certificate_fields};

#define RUNNER(member) .offset = offsetof(struct hlm_plan_runner_up, member)
static const struct hlm_json_field runner_fields[] = {
    {.name = "strategy",
     .type = HLM_JSON_OBJECT,
     RUNNER(strategy),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_strategy_table,
     .doc = "degrees and switches"},
    {.name = "stages",
     .type = HLM_JSON_ARRAY,
     RUNNER(stages),
     .count_offset = offsetof(struct hlm_plan_runner_up, num_stages),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_plan_stage_table,
     .doc = "its placement of layers"},
    {.name = "step_time_s",
     .type = HLM_JSON_DOUBLE,
     RUNNER(step_time_s),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "seconds, simulated"},
    {.name = "interval",
     .type = HLM_JSON_OBJECT,
     RUNNER(interval),
     .table = &hlm_plan_interval_table,
     .doc = "step time within the spread of the profile's fits"},
    {.name = "within_uncertainty",
     .type = HLM_JSON_BOOL,
     RUNNER(within_uncertainty),
     .doc = "the intervals of plan and runner-up overlap: the profile can't tell which is faster"},
    {0}};
static const struct hlm_json_table runner_table = {"runner_up", sizeof(struct hlm_plan_runner_up),
                                                   runner_fields};

#define DIGEST(member)                                                                             \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_STRING,                                                  \
        .offset = offsetof(struct hlm_plan_digests, member), .flags = HLM_FIELD_REQUIRED,          \
        .doc = "16 hex digits"                                                                     \
    }
static const struct hlm_json_field digests_fields[] = {
    DIGEST(model), DIGEST(cluster), DIGEST(strategy), DIGEST(stages), {0}};
const struct hlm_json_table hlm_plan_digests_table = {"digests", sizeof(struct hlm_plan_digests),
                                                      digests_fields};

#define META(member, text)                                                                         \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_STRING,                                                  \
        .offset = offsetof(struct hlm_plan_meta, member),                                          \
        .flags = HLM_FIELD_META | HLM_FIELD_OMIT_DEFAULT, .doc = text                              \
    }
static const struct hlm_json_field meta_fields[] = {
    {.name = "search_cpu_s",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(struct hlm_plan_meta, search_cpu_s),
     .flags = HLM_FIELD_META,
     .doc = "CPU seconds of the search"},
    META(date, "when the plan was made"),
    META(host, "where"),
    META(hlmplan_version, "by which version"),
    {0}};
const struct hlm_json_table hlm_plan_meta_table = {"meta", sizeof(struct hlm_plan_meta),
                                                   meta_fields};

#define PLAN(member) .offset = offsetof(struct hlm_plan, member)
static const struct hlm_json_field plan_fields[] = {
    {.name = "model",
     .type = HLM_JSON_OBJECT,
     PLAN(model),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_model_table,
     .doc = "what is trained"},
    {.name = "cluster",
     .type = HLM_JSON_OBJECT,
     PLAN(cluster),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_cluster_table,
     .doc = "on what, with its devices, in full"},
    {.name = "strategy",
     .type = HLM_JSON_OBJECT,
     PLAN(strategy),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_strategy_table,
     .doc = "degrees and switches"},
    {.name = "stages",
     .type = HLM_JSON_ARRAY,
     PLAN(stages),
     .count_offset = offsetof(struct hlm_plan, num_stages),
     .flags = HLM_FIELD_REQUIRED,
     .min = 1,
     .max = 1e5,
     .table = &hlm_plan_stage_table,
     .doc = "placement of the layers"},
    {.name = "rank_map",
     .type = HLM_JSON_INTS,
     PLAN(rank_map),
     .count_offset = offsetof(struct hlm_plan, num_ranks),
     .flags = HLM_FIELD_REQUIRED,
     .min = 0,
     .max = 1e8,
     .doc = "device of each rank"},
    {.name = "prediction",
     .type = HLM_JSON_OBJECT,
     PLAN(prediction),
     .flags = HLM_FIELD_REQUIRED,
     .table = &prediction_table,
     .doc = "what the plan promises"},
    {.name = "certificate",
     .type = HLM_JSON_POINTER,
     PLAN(certificate),
     .table = &certificate_table,
     .doc = "how close to the best it is; null: priced, not searched"},
    {.name = "runners_up",
     .type = HLM_JSON_ARRAY,
     PLAN(runners_up),
     .count_offset = offsetof(struct hlm_plan, num_runners_up),
     .table = &runner_table,
     .doc = "the best of the other columns"},
    {.name = "digests",
     .type = HLM_JSON_OBJECT,
     PLAN(digests),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_plan_digests_table,
     .doc = "hashes by which an edited plan is noticed"},
    {.name = "meta",
     .type = HLM_JSON_OBJECT,
     PLAN(meta),
     .flags = HLM_FIELD_META,
     .table = &hlm_plan_meta_table,
     .doc = "what varies between equal runs"},
    {0}};
const struct hlm_json_table hlm_plan_table = {"plan", sizeof(struct hlm_plan), plan_fields};

struct stage_list {
    const struct hlm_plan_stage *stages;
    int32_t num_stages;
};
static const struct hlm_json_field stage_list_fields[] = {
    {.name = "stages",
     .type = HLM_JSON_ARRAY,
     .offset = offsetof(struct stage_list, stages),
     .count_offset = offsetof(struct stage_list, num_stages),
     .flags = HLM_FIELD_REQUIRED,
     .table = &hlm_plan_stage_table,
     .doc = "placement of the layers"},
    {0}};
static const struct hlm_json_table stage_list_table = {"stages", sizeof(struct stage_list),
                                                       stage_list_fields};

struct hlm_plan_digests hlm_plan_digests(struct hlm_arena *arena, const struct hlm_plan *plan)
{
    const struct stage_list list = {plan->stages, plan->num_stages};
    return (struct hlm_plan_digests){
        .model = hlm_json_digest(arena, &hlm_model_table, &plan->model),
        .cluster = hlm_json_digest(arena, &hlm_cluster_table, &plan->cluster),
        .strategy = hlm_json_digest(arena, &hlm_strategy_table, &plan->strategy),
        .stages = hlm_json_digest(arena, &stage_list_table, &list)};
}
