/* The reader of plans, and pricing. An input that starts with '{' is the text of a plan: whatever
 * is accepted must be written, read back to the same text, and be simulated. Any other input is a
 * list of edits of a problem (model, cluster and strategy, see base_problem): each replaces one
 * number by one of a list of awkward ones. What passes validation then must be priced, or refused
 * with a reason, and the plan must survive its own file. */
#include <math.h>
#include <string.h>

#include "planner/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Larger plans are legal but take too long here. */
enum { MAX_LAYERS = 512, MAX_RANKS = 4096, MAX_PASSES = 20000 };

static bool is_small(const struct hlm_model *model, const struct hlm_strategy *strategy)
{
    return model->num_layers <= MAX_LAYERS && hlm_strategy_world_size(strategy) <= MAX_RANKS &&
           strategy->num_microbatches * strategy->pp <= MAX_PASSES;
}

static void use(struct hlm_arena *arena, const struct hlm_plan *plan)
{
    struct hlm_err err;
    const struct hlm_plan *again = NULL;
    const char *text = hlm_json_write(arena, &hlm_plan_table, plan, false);
    HLM_ASSERT(hlm_plan_read_text(arena, "again", text, strlen(text), &again, &err) == HLM_OK);
    HLM_ASSERT(strcmp(hlm_json_write(arena, &hlm_plan_table, again, false), text) == 0);
    const bool intact = hlm_plan_check_digests(arena, plan, "input", &err) == HLM_OK;
    HLM_ASSERT((hlm_plan_check_digests(arena, again, "again", &err) == HLM_OK) == intact);
    struct hlm_plan_simulation simulation;
    if (is_small(&plan->model, &plan->strategy) &&
        hlm_plan_simulate(arena, plan, &simulation, &err) == HLM_OK) {
        HLM_ASSERT(isfinite(simulation.result.step_s) && simulation.result.step_s >= 0.0);
    }
}

/* ---- problems ---- */

struct problem {
    struct hlm_model model;
    struct hlm_cluster cluster;
    struct hlm_strategy strategy;
};
#define PART(member, part_table)                                                                   \
    {                                                                                              \
        .name = #member, .type = HLM_JSON_OBJECT, .offset = offsetof(struct problem, member),      \
        .flags = HLM_FIELD_REQUIRED, .table = &(part_table)                                        \
    }
static const struct hlm_json_field problem_fields[] = {PART(model, hlm_model_table),
                                                       PART(cluster, hlm_cluster_table),
                                                       PART(strategy, hlm_strategy_table),
                                                       {0}};
static const struct hlm_json_table problem_table = {"problem", sizeof(struct problem),
                                                    problem_fields};

#define SOURCE "\"source\":{\"kind\":\"measured\"}"
static const char base_problem[] =
    "{\"schema\":\"hlmplan.problem\",\"version\":1,"
    "\"model\":{\"name\":\"m\",\"kind\":\"decoder\",\"seq_len\":32,\"hidden_size\":16,"
    "\"ffn_size\":64,\"num_layers\":4,\"num_heads\":4,\"num_kv_heads\":4,\"head_dim\":4,"
    "\"vocab_size\":64,\"norm_eps\":1e-05,\"rotary_frac\":1,\"rope_theta\":10000,"
    "\"attention_window\":0,\"dropout\":0.5,\"vocab_pad_multiple\":8,\"position\":\"rope\","
    "\"moe\":{\"num_experts\":0,\"top_k\":0,\"ffn_size\":0,\"shared_ffn_size\":0,"
    "\"num_dense_layers\":0,\"layer_period\":1},\"mtp_layers\":0,\"token_types\":0},"
    "\"cluster\":{\"name\":\"c\",\"groups\":[{\"name\":\"g\",\"device\":{\"name\":\"d\","
    "\"backend\":\"cpu\",\"memory_bytes\":1e9,\"dtypes\":[{\"dtype\":\"fp32\","
    "\"peak_flops_per_s\":1e11,\"gemm\":[{\"layout\":\"any\",\"form\":\"linear\",\"t0_s\":1e-06,"
    "\"flops_per_s\":5e10,\"bytes_per_s\":1e10," SOURCE "}]," SOURCE
    "}],\"memory\":{\"t0_s\":1e-06,\"bytes_per_s\":1e10,\"peak_bytes_per_s\":2e10," SOURCE
    "},\"launch_overhead_s\":1e-06,\"launch_source\":{\"kind\":\"measured\"},"
    "\"memory_source\":{\"kind\":\"measured\"},\"fixed_memory_bytes\":0,\"shared_memory_slowdown\":"
    "1},\"num_nodes\":2,"
    "\"devices_per_node\":4,\"intra_node\":{\"alpha_s\":1e-06,\"alpha_rendezvous_s\":2e-06,"
    "\"eager_limit_bytes\":4096,\"bandwidth_bytes_per_s\":5e9,\"needs_both_sides\":true," SOURCE
    "},\"nics_per_node\":1,\"nic_bandwidth_bytes_per_s\":1e9,\"nic_source\":{\"kind\":\"measured\"}"
    ",\"nvlink_domain\":4,"
    "\"price_per_device_hour\":1}],\"links\":[{\"from\":0,\"to\":0,\"link\":{\"alpha_s\":1e-05,"
    "\"needs_both_sides\":false,\"bandwidth_bytes_per_s\":1e9," SOURCE
    "}}],\"oversubscription\":1},"
    "\"strategy\":{\"dp\":1,\"tp\":1,\"pp\":1,\"cp\":1,\"ep\":1,\"etp\":0,\"vpp\":1,"
    "\"sp\":false,\"zero\":0,\"zero_group\":0,\"schedule\":\"1f1b\",\"microbatch_size\":1,"
    "\"num_microbatches\":0,\"global_batch_size\":8,\"seq_len\":32}}";

static const char *const awkward[] = {"0",         "1",
                                      "2",         "3",
                                      "4",         "7",
                                      "8",         "16",
                                      "64",        "100",
                                      "512",       "1000",
                                      "4096",      "65536",
                                      "1048576",   "16777216",
                                      "268435456", "1073741824",
                                      "4194304",   "2147483647",
                                      "1e15",      "9007199254740992",
                                      "1e18",      "1e21",
                                      "1e300",     "-1",
                                      "-0.5",      "0.5",
                                      "1e-09",     "1e-300",
                                      "5e-324",    "2147483648"};
enum { NUM_AWKWARD = sizeof(awkward) / sizeof(awkward[0]), NUM_NUMBERS = 64, MAX_EDITS = 16 };

/* One edit: the how many-eth number of the text becomes awkward[value]. */
struct edit {
    uint8_t number, value;
};

static const char *edit_text(struct hlm_arena *arena, const struct edit *edits, size_t num_edits)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    uint8_t number = 0;
    for (const char *at = base_problem; *at != '\0';) {
        const size_t length = at > base_problem && at[-1] == ':' ? strspn(at, "0123456789.e-") : 0;
        const char *value = NULL;
        for (size_t i = 0; i < num_edits && length > 0; i++) {
            value = edits[i].number % NUM_NUMBERS == number ? awkward[edits[i].value % NUM_AWKWARD]
                                                            : value;
        }
        if (value != NULL) {
            hlm_text_printf(&text, "%s", value);
        } else {
            hlm_text_printf(&text, "%.*s", length > 0 ? (int)length : 1, at);
        }
        number = (uint8_t)(number + (length > 0 ? 1 : 0));
        at += length > 0 ? length : 1;
    }
    return text.text;
}

static bool is_valid(struct problem *problem)
{
    struct hlm_err err;
    hlm_model_complete(&problem->model);
    if (hlm_model_validate(&problem->model, "model", &err) != HLM_OK ||
        hlm_cluster_validate(&problem->cluster, "cluster", &err) != HLM_OK) {
        return false;
    }
    hlm_strategy_complete(&problem->strategy);
    return hlm_strategy_check(&problem->strategy, &problem->model, &err) == HLM_OK;
}

static bool price(struct hlm_arena *arena, const struct problem *problem)
{
    struct hlm_err err;
    const struct hlm_plan_stage *stages = NULL;
    int32_t num_stages = 0;
    const struct hlm_plan *plan = NULL;
    if (hlm_plan_even_stages(arena, &problem->model, &problem->cluster, &problem->strategy, -1,
                             &stages, &num_stages, &err) == HLM_OK &&
        hlm_plan_price(arena, &problem->model, &problem->cluster, &problem->strategy, stages,
                       num_stages, &plan, NULL, &err) == HLM_OK) {
        HLM_ASSERT(isfinite(plan->prediction.step_time_s) && plan->prediction.step_time_s > 0.0);
        HLM_ASSERT(hlm_plan_check_digests(arena, plan, "priced", &err) == HLM_OK);
        use(arena, plan);
        return true;
    }
    return false;
}

static void fuzz_problem(struct hlm_arena *arena, const uint8_t *data, size_t size)
{
    struct edit edits[MAX_EDITS];
    const size_t num_edits = size / 2 < MAX_EDITS ? size / 2 : MAX_EDITS;
    for (size_t i = 0; i < num_edits; i++) {
        edits[i] = (struct edit){data[2 * i], data[2 * i + 1]};
    }
    const char *text = edit_text(arena, edits, num_edits);
    struct problem problem;
    struct hlm_err err;
    const bool priced = hlm_json_read_text(arena, "problem", text, strlen(text), &problem_table,
                                           &problem, &err) == HLM_OK &&
                        is_valid(&problem) && is_small(&problem.model, &problem.strategy) &&
                        price(arena, &problem);
    HLM_ASSERT(priced || num_edits > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err;
    const struct hlm_plan *plan = NULL;
    if (size == 0 || data[0] != '{') {
        fuzz_problem(arena, data, size);
    } else if (hlm_plan_read_text(arena, "input", (const char *)data, size, &plan, &err) ==
               HLM_OK) {
        use(arena, plan);
    }
    hlm_arena_free(arena);
    return 0;
}
