#include "tests/support/golden.h"

#include "tests/support/check.h"

static const struct hlm_gemm_curve gemm = {.layout = HLM_GEMM_ANY,
                                           .form = HLM_GEMM_FORM_LINEAR,
                                           .t0_s = 1e-6,
                                           .flops_per_s = 50e9,
                                           .bytes_per_s = 10e9};

static const struct hlm_device_dtype dtypes[] = {
    {.dtype = HLM_DTYPE_FP32, .peak_flops_per_s = 100e9, .gemm = &gemm, .num_gemm = 1},
    {.dtype = HLM_DTYPE_BF16, .peak_flops_per_s = 200e9, .gemm = &gemm, .num_gemm = 1}};

const struct hlm_cluster *golden_cluster(struct hlm_arena *arena, int32_t num_devices)
{
    struct hlm_device_group *group = HLM_ARENA_NEW(arena, struct hlm_device_group);
    *group = (struct hlm_device_group){
        .name = "cores",
        .device = {.name = "imaginary-core",
                   .repeat_operators = 1,
                   .backend = HLM_BACKEND_CPU,
                   .memory_bytes = 1 << 30,
                   .dtypes = dtypes,
                   .num_dtypes = 2,
                   .memory = {.t0_s = 1e-6, .bytes_per_s = 10e9, .peak_bytes_per_s = 20e9},
                   .shared_memory_slowdown = 1.0},
        .num_nodes = 1,
        .devices_per_node = num_devices,
        .intra_node = {.alpha_s = 1e-6,
                       .alpha_rendezvous_s = 2e-6,
                       .eager_limit_bytes = 4096,
                       .bandwidth_bytes_per_s = 5e9,
                       .needs_both_sides = true},
        .nics_per_node = 1,
        .nic_bandwidth_bytes_per_s = 1e9,
        .nvlink_domain = num_devices};
    struct hlm_cluster *cluster = HLM_ARENA_NEW(arena, struct hlm_cluster);
    *cluster = (struct hlm_cluster){
        .name = "imaginary", .groups = group, .num_groups = 1, .oversubscription = 1.0};
    return cluster;
}

#define PARAM(member) .offset = offsetof(struct golden_param, member)
#define REQUIRED .flags = HLM_FIELD_REQUIRED
static const struct hlm_json_field param_fields[] = {
    {.name = "name", .type = HLM_JSON_STRING, PARAM(name), REQUIRED},
    {.name = "shape",
     .type = HLM_JSON_INTS,
     PARAM(shape),
     .count_offset = offsetof(struct golden_param, num_dims),
     REQUIRED},
    {.name = "decay", .type = HLM_JSON_BOOL, PARAM(decay), REQUIRED},
    {.name = "digest", .type = HLM_JSON_STRING, PARAM(digest), REQUIRED},
    {.name = "update_norm", .type = HLM_JSON_DOUBLE, PARAM(update_norm), REQUIRED},
    {.name = "grad",
     .type = HLM_JSON_DOUBLES,
     PARAM(grad),
     .count_offset = offsetof(struct golden_param, num_grad),
     REQUIRED},
    {0}};
static const struct hlm_json_table param_table = {"parameter", sizeof(struct golden_param),
                                                  param_fields};

/* Parts of the file that no test reads; the strict reader wants them described all the same. */
struct golden_file {
    struct golden golden;
    const char *python, *numpy, *torch, *rules;
    double lr, beta1, beta2, eps, weight_decay, max_norm;
    const double *inputs;
    int32_t num_inputs;
    const int32_t *targets;
    int32_t num_targets;
};
#define FILE_AT(member) .offset = offsetof(struct golden_file, member)
#define FILE_COUNT(member) .count_offset = offsetof(struct golden_file, member)
static const struct hlm_json_field made_fields[] = {
    {.name = "python", .type = HLM_JSON_STRING, .offset = 0, REQUIRED},
    {.name = "numpy", .type = HLM_JSON_STRING, .offset = sizeof(char *), REQUIRED},
    {.name = "torch", .type = HLM_JSON_STRING, .offset = 2 * sizeof(char *), REQUIRED},
    {0}};
static const struct hlm_json_table made_table = {"made_with", 3 * sizeof(char *), made_fields};
static const struct hlm_json_field adamw_fields[] = {
    {.name = "lr", .type = HLM_JSON_DOUBLE, .offset = 0, REQUIRED},
    {.name = "beta1", .type = HLM_JSON_DOUBLE, .offset = sizeof(double), REQUIRED},
    {.name = "beta2", .type = HLM_JSON_DOUBLE, .offset = 2 * sizeof(double), REQUIRED},
    {.name = "eps", .type = HLM_JSON_DOUBLE, .offset = 3 * sizeof(double), REQUIRED},
    {.name = "weight_decay", .type = HLM_JSON_DOUBLE, .offset = 4 * sizeof(double), REQUIRED},
    {.name = "max_norm", .type = HLM_JSON_DOUBLE, .offset = 5 * sizeof(double), REQUIRED},
    {0}};
static const struct hlm_json_table adamw_table = {"adamw", 6 * sizeof(double), adamw_fields};
static const struct hlm_json_field golden_fields[] = {
    {.name = "made_with", .type = HLM_JSON_OBJECT, FILE_AT(python), .table = &made_table, REQUIRED},
    {.name = "rules", .type = HLM_JSON_STRING, FILE_AT(rules), REQUIRED},
    {.name = "model",
     .type = HLM_JSON_OBJECT,
     FILE_AT(golden.model),
     .table = &hlm_model_table,
     REQUIRED},
    {.name = "global_batch_size",
     .type = HLM_JSON_INT64,
     FILE_AT(golden.global_batch_size),
     REQUIRED},
    {.name = "seq_len", .type = HLM_JSON_INT64, FILE_AT(golden.seq_len), REQUIRED},
    {.name = "seed", .type = HLM_JSON_INT64, FILE_AT(golden.seed), REQUIRED},
    {.name = "adamw", .type = HLM_JSON_OBJECT, FILE_AT(lr), .table = &adamw_table, REQUIRED},
    {.name = "inputs", .type = HLM_JSON_DOUBLES, FILE_AT(inputs), FILE_COUNT(num_inputs), REQUIRED},
    {.name = "targets", .type = HLM_JSON_INTS, FILE_AT(targets), FILE_COUNT(num_targets), REQUIRED},
    {.name = "loss", .type = HLM_JSON_DOUBLE, FILE_AT(golden.loss), REQUIRED},
    {.name = "losses",
     .type = HLM_JSON_DOUBLES,
     FILE_AT(golden.losses),
     FILE_COUNT(golden.num_losses),
     REQUIRED},
    {.name = "grad_norms",
     .type = HLM_JSON_DOUBLES,
     FILE_AT(golden.grad_norms),
     FILE_COUNT(golden.num_norms),
     REQUIRED},
    {.name = "parameters",
     .type = HLM_JSON_ARRAY,
     FILE_AT(golden.params),
     FILE_COUNT(golden.num_params),
     .table = &param_table,
     REQUIRED},
    {0}};
static const struct hlm_json_table golden_table = {"golden", sizeof(struct golden_file),
                                                   golden_fields};

const struct golden *golden_read(struct hlm_arena *arena, const char *name)
{
    struct hlm_err err = {0};
    struct golden_file *file = HLM_ARENA_NEW(arena, struct golden_file);
    const char *path = hlm_arena_printf(arena, "tests/reference/golden-%s.json", name);
    check_ok(hlm_json_read_file(arena, path, &golden_table, file, &err), &err);
    hlm_model_complete(&file->golden.model);
    check_ok(hlm_model_validate(&file->golden.model, path, &err), &err);
    return &file->golden;
}

static int32_t at_least_one(int32_t value)
{
    return value > 0 ? value : 1;
}

/* The stages, each with the tp of its pipeline rank. */
static const struct hlm_plan_stage *with_tp_of(struct hlm_arena *arena,
                                               const struct golden_layout *layout,
                                               const struct hlm_plan_stage *stages,
                                               int32_t num_stages)
{
    struct hlm_plan_stage *changed =
        hlm_arena_memdup(arena, stages, (size_t)num_stages * sizeof(*stages));
    for (int32_t s = 0; s < num_stages; s++) {
        const int32_t tp = layout->tp_at[stages[s].rank_group % GOLDEN_MAX_PP];
        changed[s].tp = tp > 0 ? tp : stages[s].tp;
    }
    return changed;
}

/* A device group for each of the replicas, all on one machine's terms. */
static const struct hlm_cluster *with_groups(struct hlm_arena *arena,
                                             const struct hlm_cluster *cluster,
                                             const struct hlm_strategy *strategy)
{
    const int32_t num = strategy->num_replicas;
    struct hlm_cluster *split = hlm_arena_memdup(arena, cluster, sizeof(*cluster));
    struct hlm_device_group *groups = HLM_ARENA_ARRAY(arena, struct hlm_device_group, num);
    struct hlm_inter_link *links = HLM_ARENA_ARRAY(arena, struct hlm_inter_link, num * num);
    split->num_links = 0;
    for (int32_t i = 0; i < num; i++) {
        struct hlm_device_group *group = &groups[strategy->replicas[i].device_group];
        *group = cluster->groups[0];
        group->name = hlm_arena_printf(arena, "group-%d", strategy->replicas[i].device_group);
        group->devices_per_node = strategy->replicas[i].dp * strategy->tp * strategy->pp;
        group->nvlink_domain = 0;
        for (int32_t k = 0; k < i; k++) {
            links[split->num_links++] =
                (struct hlm_inter_link){.from = k, .to = i, .link = cluster->groups[0].intra_node};
        }
    }
    split->groups = groups;
    split->num_groups = num;
    split->links = links;
    return split;
}

const struct hlm_plan *golden_plan(struct hlm_arena *arena, const struct hlm_model *model,
                                   int64_t global_batch_size, int64_t seq_len,
                                   const struct golden_layout *layout)
{
    struct hlm_err err = {0};
    struct hlm_strategy strategy = {.dp = at_least_one(layout->dp),
                                    .tp = at_least_one(layout->tp),
                                    .pp = at_least_one(layout->pp),
                                    .cp = at_least_one(layout->cp),
                                    .vpp = at_least_one(layout->vpp),
                                    .ep = at_least_one(layout->ep),
                                    .etp = at_least_one(layout->etp),
                                    .sp = layout->sp,
                                    .zero = layout->zero,
                                    .schedule = layout->schedule,
                                    .microbatch_size =
                                        layout->microbatch_size > 0 ? layout->microbatch_size : 1,
                                    .global_batch_size = global_batch_size,
                                    .seq_len = seq_len,
                                    .dtype = layout->dtype,
                                    .lowering = HLM_LOWERING_HLMPLAN};
    strategy.replicas = layout->replicas;
    while (strategy.num_replicas < GOLDEN_MAX_REPLICAS &&
           layout->replicas[strategy.num_replicas].dp > 0) {
        strategy.num_replicas++;
    }
    hlm_strategy_complete(&strategy);
    if (hlm_strategy_check(&strategy, model, &err) != HLM_OK) {
        return NULL;
    }
    const struct hlm_cluster *cluster =
        golden_cluster(arena, (int32_t)hlm_strategy_world_size(&strategy));
    if (strategy.num_replicas > 0) {
        cluster = with_groups(arena, cluster, &strategy);
    }
    const struct hlm_plan_stage *stages = NULL;
    int32_t num_stages = 0;
    const struct hlm_plan *plan = NULL;
    check_ok(hlm_plan_even_stages(arena, model, cluster, &strategy, (int32_t)layout->recompute,
                                  &stages, &num_stages, &err),
             &err);
    stages = with_tp_of(arena, layout, stages, num_stages);
    const enum hlm_status status =
        hlm_plan_price(arena, model, cluster, &strategy, stages, num_stages, &plan, NULL, &err);
    if (status != HLM_NO || layout->tp_at[0] == 0) {
        check_ok(status, &err);
    }
    return plan;
}

static const char *tp_text(struct hlm_arena *arena, const struct golden_layout *layout)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    hlm_text_printf(&text, "%d",
                    at_least_one(layout->tp_at[0] > 0 ? layout->tp_at[0] : layout->tp));
    for (int32_t pp = 1; pp < layout->pp && pp < GOLDEN_MAX_PP && layout->tp_at[pp] > 0; pp++) {
        hlm_text_printf(&text, "/%d", layout->tp_at[pp]);
    }
    return text.text;
}

const char *golden_layout_text(struct hlm_arena *arena, const struct golden_layout *layout)
{
    return hlm_arena_printf(
        arena, "dp%d tp%s%s pp%d cp%d vpp%d ep%d etp%d %s %s zero%d mbs%lld %s",
        at_least_one(layout->dp), tp_text(arena, layout), layout->sp ? " sp" : "",
        at_least_one(layout->pp), at_least_one(layout->cp), at_least_one(layout->vpp),
        at_least_one(layout->ep), at_least_one(layout->etp), hlm_schedule_texts[layout->schedule],
        hlm_recompute_texts[layout->recompute], layout->zero,
        (long long)(layout->microbatch_size > 0 ? layout->microbatch_size : 1),
        hlm_dtype_texts[layout->dtype]);
}
