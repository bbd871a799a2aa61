/* From a published point to a problem of ours. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compare/validate.h"

/* ---- network ---- */

static double gbit(double gbit_per_s)
{
    return gbit_per_s * 1e9 / 8.0;
}

/* The number that ends just before `at` (blanks between them skipped), 0 when there is none. */
static double number_before(const char *text, const char *at, const char **out_start)
{
    const char *end = at;
    while (end > text && end[-1] == ' ') {
        end--;
    }
    const char *start = end;
    while (start > text && (isdigit((unsigned char)start[-1]) || start[-1] == '.')) {
        start--;
    }
    *out_start = start;
    return start < end ? strtod(start, NULL) : 0.0;
}

/* The count of "8x 400 Gb/s" or "4 Omni-Path links (100 Gb/s each": the number in front of an "x",
 * or of a word that ends in "s (" with its adjectives. */
static int32_t count_before(const char *text, const char *speed)
{
    const char *at = speed, *start = NULL;
    while (at > text && at[-1] == ' ') {
        at--;
    }
    if (at > text && at[-1] == 'x') {
        return (int32_t)number_before(text, at - 1, &start);
    }
    const bool plural = at - text >= 3 && strncmp(at - 3, "s (", 3) == 0;
    while (at > text && strchr(",;:.", at[-1]) == NULL && !isdigit((unsigned char)at[-1])) {
        at--;
    }
    return plural ? (int32_t)number_before(text, at, &start) : 0;
}

struct hlm_validate_network hlm_validate_network(const char *interconnect, int32_t devices_per_node)
{
    static const struct {
        const char *text;
        double gbit_per_s; /* of a unit; 0: the name says the speed itself */
    } units[] = {{"Gb/s", 1.0}, {"GB/s", 8.0}};
    const struct hlm_validate_network none = {0};
    if (interconnect == NULL) {
        return none;
    }
    const char *hdr = strstr(interconnect, "HDR200");
    if (hdr != NULL) {
        const int32_t num = count_before(interconnect, hdr);
        return num > 0 ? (struct hlm_validate_network){num, gbit(200.0)} : none;
    }
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
        for (const char *at = strstr(interconnect, units[u].text); at != NULL;
             at = strstr(at + 1, units[u].text)) {
            const char *start = NULL;
            const double rate = gbit(number_before(interconnect, at, &start) * units[u].gbit_per_s);
            const int32_t num = rate > 0.0 ? count_before(interconnect, start) : 0;
            if (num > 0) {
                return (struct hlm_validate_network){num, rate};
            }
            const char *stop = strpbrk(at, ";,)");
            const char *per_gpu = strstr(at, "per GPU");
            if (rate > 0.0 && per_gpu != NULL && (stop == NULL || per_gpu < stop)) {
                return (struct hlm_validate_network){devices_per_node, rate};
            }
            const bool node =
                strncmp(at + 4, " per node", 9) == 0 || strncmp(at + 4, " node-to-node", 13) == 0;
            if (rate > 0.0 && node) {
                /* A node's whole rate: as many cards as its GPUs, which collectives can use at
                 * once. */
                return (struct hlm_validate_network){devices_per_node,
                                                     rate / (double)devices_per_node};
            }
        }
    }
    return none;
}

/* ---- devices ---- */

/* GPU of the file to a built-in device. Below min_gb only an earlier row fits. line_gbit: the cards
 * of the built-in node type, to scale its rates by. */
struct gpu {
    const char *family;
    double max_gb; /* of the GPU's memory; 0: any */
    const char *device;
    double line_gbit_per_s;
};
static const struct gpu gpus[] = {
    {"A100", 40.0, "a100-sxm-40g", 200.0},
    {"A100", 0.0, "a100-sxm-80g", 200.0},
    {"A800", 0.0, "a100-sxm-80g", 200.0},
    {"H100", 80.0, "h100-sxm-80g", 400.0},
    {"H100", 96.0, "grand-teton-h100-96g", 400.0},
    {"H100", 0.0, "h100-sxm-80g", 400.0},
    {"H200", 0.0, "h200-sxm-141g", 400.0},
    {"V100", 0.0, "v100-sxm2-32g", 100.0},
    {"B200", 0.0, "b200-sxm-180g", 400.0},
    {"B300", 0.0, "b300-sxm-270g", 800.0},
    {"GB200", 0.0, "gb200-nvl-186g", 400.0},
    {"GB300", 0.0, "gb300-nvl-284g", 800.0},
    {"GH200", 0.0, "gh200-96g", 200.0},
    {"RTX-4090", 0.0, "rtx-4090-24g", 100.0},
    {"RTX-5090", 0.0, "rtx-5090-32g", 100.0},
    {"RTX-PRO-6000", 0.0, "rtx-pro-6000-96g", 100.0},
};

static const struct gpu *find_gpu(const struct hlm_truth_hardware *hardware)
{
    for (size_t i = 0; i < sizeof gpus / sizeof gpus[0]; i++) {
        const bool small = hardware->gpu_mem_gb > 0.0 && hardware->gpu_mem_gb <= gpus[i].max_gb;
        if (strcmp(gpus[i].family, hardware->gpu_family) == 0 && (gpus[i].max_gb == 0.0 || small)) {
            return &gpus[i];
        }
    }
    return NULL;
}

static void set_network(struct hlm_arena *arena, struct hlm_cluster *cluster,
                        const struct hlm_truth_hardware *hardware, double line_gbit_per_s)
{
    const struct hlm_validate_network network =
        hlm_validate_network(hardware->interconnect, hardware->gpus_per_node);
    if (network.nics_per_node == 0 || cluster->num_links == 0) {
        return;
    }
    const double scale = network.line_bytes_per_s / gbit(line_gbit_per_s);
    struct hlm_device_group *group =
        hlm_arena_memdup(arena, cluster->groups, sizeof cluster->groups[0]);
    group->nics_per_node = network.nics_per_node;
    group->nic_bandwidth_bytes_per_s *= scale;
    struct hlm_inter_link *link = hlm_arena_memdup(arena, cluster->links, sizeof cluster->links[0]);
    link->link.bandwidth_bytes_per_s *= scale;
    /* Curves that were measured over other cards. */
    struct hlm_collective_curve *curves =
        HLM_ARENA_ARRAY(arena, struct hlm_collective_curve, group->num_collectives);
    int32_t num = 0;
    for (int32_t i = 0; i < group->num_collectives; i++) {
        if (group->collectives[i].num_nodes == 1) {
            curves[num++] = group->collectives[i];
        }
    }
    if (scale != 1.0) {
        group->collectives = curves;
        group->num_collectives = num;
    }
    cluster->groups = group;
    cluster->links = link;
}

static enum hlm_status make_cluster(struct hlm_arena *arena,
                                    const struct hlm_truth_hardware *hardware,
                                    const struct hlm_cluster **out, struct hlm_err *err)
{
    const struct gpu *gpu = find_gpu(hardware);
    if (gpu == NULL) {
        return hlm_fail(err, HLM_NO, "device %s", hardware->gpu_family);
    }
    const int32_t per_node = hardware->gpus < hardware->gpus_per_node || hardware->gpus_per_node < 1
                                 ? hardware->gpus
                                 : hardware->gpus_per_node;
    const int32_t nodes = (hardware->gpus + per_node - 1) / per_node;
    const struct hlm_cluster *built_in = NULL;
    HLM_TRY(hlm_cluster_load(
        arena, hlm_arena_printf(arena, "%s:%dx%d", gpu->device, nodes, per_node), &built_in, err));
    struct hlm_cluster *cluster = hlm_arena_memdup(arena, built_in, sizeof *built_in);
    set_network(arena, cluster, hardware, gpu->line_gbit_per_s);
    *out = cluster;
    return HLM_OK;
}

/* ---- model ---- */

static bool is(const char *text, const char *expected)
{
    return text != NULL && strcmp(text, expected) == 0;
}

static enum hlm_status make_model(struct hlm_arena *arena, const struct hlm_truth_model *truth,
                                  const struct hlm_model **out, struct hlm_err *err)
{
    struct hlm_model *model = HLM_ARENA_NEW(arena, struct hlm_model);
    const bool learned = is(truth->pos_emb, "learned") || (truth->pos_emb == NULL && !truth->gated);
    *model = (struct hlm_model){
        .name = truth->name,
        .kind = HLM_MODEL_DECODER,
        .seq_len = truth->seq_len,
        .hidden_size = truth->hidden,
        .ffn_size = truth->ffn_hidden,
        .num_layers = truth->layers,
        .num_heads = truth->heads,
        .num_kv_heads = truth->kv_heads,
        .head_dim = truth->head_dim,
        .vocab_size = truth->vocab,
        .activation = truth->gated ? HLM_ACTIVATION_SWIGLU : HLM_ACTIVATION_GELU,
        .norm = truth->gated ? HLM_NORM_RMSNORM : HLM_NORM_LAYERNORM,
        .norm_placement = HLM_NORM_PLACEMENT_PRE,
        .norm_eps = 1e-5,
        .residual = is(truth->block, "parallel") ? HLM_RESIDUAL_PARALLEL : HLM_RESIDUAL_SEQUENTIAL,
        .position = learned                           ? HLM_POSITION_LEARNED
                    : truth->pos_emb == NULL          ? HLM_POSITION_ROPE
                    : strstr(truth->pos_emb, "alibi") ? HLM_POSITION_NONE
                                                      : HLM_POSITION_ROPE,
        .rotary_frac = 1.0,
        .rope_theta = 10000.0,
        .bias = {.qkv = truth->qkv_bias || !truth->gated,
                 .out = !truth->gated,
                 .mlp = !truth->gated},
        .tied_embeddings = truth->tied_embeddings,
        .vocab_pad_multiple = 128, /* Megatron's make-vocab-size-divisible-by */
        .mtp_layers = truth->mtp_layers,
    };
    /* A window in some of the layers only is left out: our layers are alike. */
    if (truth->window > 0 && truth->window_layers == truth->layers) {
        model->attention_window = truth->window;
    }
    if (truth->moe != NULL) {
        model->moe = (struct hlm_model_moe){.num_experts = truth->moe->experts,
                                            .top_k = truth->moe->top_k,
                                            .ffn_size = truth->moe->ffn_hidden,
                                            .shared_ffn_size = truth->moe->shared_ffn_hidden,
                                            .num_dense_layers = truth->moe->dense_layers,
                                            .layer_period = 1};
    }
    if (truth->mla != NULL) {
        model->mla = (struct hlm_model_mla){.q_lora_rank = truth->mla->q_lora,
                                            .kv_lora_rank = truth->mla->kv_lora,
                                            .qk_nope_head_dim = truth->mla->qk_nope,
                                            .qk_rope_head_dim = truth->mla->qk_rope,
                                            .v_head_dim = truth->mla->v};
        model->head_dim = truth->mla->qk_nope + truth->mla->qk_rope;
    }
    hlm_model_complete(model);
    HLM_TRY(hlm_model_validate(model, truth->name, err));
    *out = model;
    return HLM_OK;
}

/* ---- strategy ---- */

/* Words of the file, and ours (by name, since not every build has every schedule). */
static const struct {
    const char *prefix, *schedule;
} schedules[] = {{"none", "1f1b"},
                 {"1f1b", "1f1b"},
                 {"unstated", "1f1b"},
                 {"zb-1p", "zb-h1"},
                 {"zb-2p", "zb-h2"},
                 {"zb-v", "zb-v"},
                 {"interleaved-1f1b", "interleaved"}};

static enum hlm_status find_schedule(const char *text, enum hlm_schedule_kind *out,
                                     struct hlm_err *err)
{
    for (size_t i = 0; i < sizeof schedules / sizeof schedules[0]; i++) {
        if (strncmp(text, schedules[i].prefix, strlen(schedules[i].prefix)) != 0) {
            continue;
        }
        for (int kind = 0; hlm_schedule_texts[kind] != NULL; kind++) {
            if (strcmp(hlm_schedule_texts[kind], schedules[i].schedule) == 0) {
                *out = (enum hlm_schedule_kind)kind;
                return HLM_OK;
            }
        }
        return hlm_fail(err, HLM_NO, "schedule %s", schedules[i].schedule);
    }
    return hlm_fail(err, HLM_NO, "schedule \"%s\"", text);
}

static enum hlm_status find_dtype(const struct hlm_cluster *cluster, const char *precision,
                                  enum hlm_dtype *out, struct hlm_err *err)
{
    const struct hlm_device *device = &cluster->groups[0].device;
    if (is(precision, "unstated") || precision == NULL) {
        *out = HLM_DTYPE_FP32; /* what PyTorch does when it is not told */
        return HLM_OK;
    }
    for (int dtype = 0; dtype < HLM_NUM_DTYPES; dtype++) {
        if (strcmp(precision, hlm_dtype_texts[dtype]) == 0) {
            *out = (enum hlm_dtype)dtype;
            return hlm_device_dtype(device, *out) != NULL
                       ? HLM_OK
                       : hlm_fail(err, HLM_NO, "%s on %s", precision, device->name);
        }
    }
    return hlm_fail(err, HLM_NO, "precision \"%s\"", precision);
}

static int32_t find_recompute(const char *text)
{
    for (int32_t mode = 0; text != NULL && hlm_recompute_texts[mode] != NULL; mode++) {
        if (strcmp(text, hlm_recompute_texts[mode]) == 0) {
            return mode;
        }
    }
    return -1;
}

/* Which set prices a framework, by how its name starts, and the format of its gradients: fp32, or
 * that of the parameters for fp16 (Megatron's local data parallelism before the distributed
 * optimizer) or always. */
enum grads { GRADS_FP32, GRADS_FP16, GRADS_STORED };
static const struct framework {
    const char *prefix;
    enum hlm_lowering lowering;
    enum grads grads;
} frameworks[] = {
    {"Megatron-LM, 20", HLM_LOWERING_MEGATRON_2021, GRADS_FP16},
    {"Megatron-LM, April 2021", HLM_LOWERING_MEGATRON_2021, GRADS_FP16},
    {"Megatron-DeepSpeed", HLM_LOWERING_MEGATRON_2021, GRADS_FP16},
    {"DeepSpeed ZeRO-3, 2021", HLM_LOWERING_MEGATRON_2021, GRADS_FP16},
    {"Sailor (Megatron-DeepSpeed", HLM_LOWERING_MEGATRON_2021, GRADS_FP16},
    {"Megatron-LM commit 285068c8", HLM_LOWERING_MEGATRON_2023, GRADS_FP32},
    {"Megatron-LM fork (zero-bubble)", HLM_LOWERING_MEGATRON_2021, GRADS_FP32},
    {"NeMo 24.03", HLM_LOWERING_MEGATRON_2023, GRADS_FP32},
    {"llm-foundry", HLM_LOWERING_PYTORCH_2023, GRADS_STORED},
    {"InternEvo", HLM_LOWERING_PYTORCH_2023, GRADS_STORED},
    {"nanotron", HLM_LOWERING_PYTORCH, GRADS_FP32},
    {"torchtitan", HLM_LOWERING_PYTORCH, GRADS_FP32},
    {"PyTorch FSDP", HLM_LOWERING_PYTORCH, GRADS_STORED},
    {"llm.q", HLM_LOWERING_HLMPLAN, GRADS_STORED}, /* hand-written kernels, no Python */
    {"llm.c", HLM_LOWERING_HLMPLAN, GRADS_STORED},
    {"", HLM_LOWERING_MEGATRON, GRADS_FP32},
};

static const struct framework *find_framework(const char *software)
{
    const struct framework *framework = frameworks;
    while (strncmp(software == NULL ? "" : software, framework->prefix,
                   strlen(framework->prefix)) != 0) {
        framework++;
    }
    return framework;
}

/* What the file says of offload, by words in it: sentences, and flags of llm.q, each of which moves
 * a tensor. Moments or master copies alone count as all of them. */
static const struct offload_word {
    const char *word;
    struct hlm_offload_parts parts;
    const char *refusal; /* NULL: one of ours */
} offload_words[] = {
    {"offload-gradients", {0}, "offload of gradients"},
    {"offload-quants", {0}, "offload of parameters"},
    {"offload-opt-m", {.optimizer = true}, NULL},
    {"offload-opt-v", {.optimizer = true}, NULL},
    {"offload-master", {.optimizer = true}, NULL},
    {"offload-residual", {.inputs = true}, NULL},
    {"activation offload (", {0}, "offload of some activations of a layer"},
    {"activation", {.inputs = true, .activations = true}, NULL},
};

static enum hlm_status add_offload(const char *text, struct hlm_offload_parts *parts,
                                   struct hlm_err *err)
{
    for (size_t i = 0; i < sizeof offload_words / sizeof offload_words[0]; i++) {
        const struct offload_word *row = &offload_words[i];
        if (strstr(text, row->word) == NULL) {
            continue;
        }
        parts->optimizer = parts->optimizer || row->parts.optimizer;
        parts->inputs = parts->inputs || row->parts.inputs;
        parts->activations = parts->activations || row->parts.activations;
        return row->refusal == NULL ? HLM_OK : hlm_fail(err, HLM_NO, "%s", row->refusal);
    }
    return hlm_fail(err, HLM_NO, "offload \"%s\"", text);
}

static enum hlm_status find_offload(const struct hlm_truth_point *point,
                                    struct hlm_strategy *strategy, struct hlm_err *err)
{
    struct hlm_offload_parts parts = {0};
    for (int32_t i = 0; i < point->num_offload; i++) {
        const char *layers = strstr(point->offload[i], " layers"), *start = NULL;
        HLM_TRY(add_offload(point->offload[i], &parts, err));
        if (layers != NULL) {
            strategy->offload_layers = (int32_t)number_before(point->offload[i], layers, &start);
        }
    }
    for (int offload = 0; offload < HLM_NUM_OFFLOADS; offload++) {
        const struct hlm_offload_parts own = hlm_offload_parts((enum hlm_offload)offload);
        if (own.optimizer == parts.optimizer && own.inputs == parts.inputs &&
            own.activations == parts.activations) {
            strategy->offload = (enum hlm_offload)offload;
        }
    }
    return HLM_OK;
}

/* What no strategy of ours can say, in the order in which it is looked for. */
static enum hlm_status check_expressible(const struct hlm_truth_point *point, struct hlm_err *err)
{
    if (point->parallel.tp < 1 || point->parallel.pp < 1) {
        return hlm_fail(err, HLM_INPUT, "tp and pp must be at least 1");
    }
    return HLM_OK;
}

/* Chunks per rank where the source does not say how many: of two layers, as most recipes have. */
static int32_t default_chunks(const struct hlm_truth_point *point, enum hlm_schedule_kind kind)
{
    const struct hlm_schedule_chunks chunks = hlm_schedule_chunks(kind);
    const int32_t pairs = point->model.layers / point->parallel.pp / 2;
    return pairs < chunks.min ? chunks.min : pairs > chunks.max ? chunks.max : pairs;
}

static enum hlm_status make_strategy(const struct hlm_truth_point *point,
                                     struct hlm_validate_problem *problem, struct hlm_err *err)
{
    const struct hlm_truth_parallel *parallel = &point->parallel;
    const struct framework *framework = find_framework(point->software);
    struct hlm_strategy strategy = {
        .dp = parallel->dp,
        .tp = parallel->tp,
        .pp = parallel->pp,
        .cp = parallel->cp,
        .ep = parallel->ep,
        .etp = parallel->etp,
        .vpp = parallel->vpp,
        .sp = parallel->sp && parallel->tp > 1,
        /* reports of stage 2 with pipelines (MegaScale, Llama 3) reduce once a step, as stage 1 */
        .zero = parallel->zero == 2 ? 1 : parallel->zero,
        .zero_group = parallel->zero > 0 ? parallel->zero_group : 0,
        .microbatch_size = point->batch.micro > 0 ? point->batch.micro : 1,
        .global_batch_size = point->batch.global,
        .seq_len = point->model.seq_len,
        .grad_dtype = HLM_DTYPE_FP32,
        .master_dtype = HLM_DTYPE_FP32,
        .lowering = framework->lowering,
    };
    HLM_TRY(find_schedule(point->schedule != NULL ? point->schedule : "unstated",
                          &strategy.schedule, err));
    if (strategy.vpp < hlm_schedule_chunks(strategy.schedule).min) {
        strategy.vpp = default_chunks(point, strategy.schedule);
    }
    HLM_TRY(find_offload(point, &strategy, err));
    HLM_TRY(find_dtype(problem->cluster, point->precision, &strategy.dtype, err));
    if (framework->grads == GRADS_STORED ||
        (framework->grads == GRADS_FP16 && strategy.dtype == HLM_DTYPE_FP16)) {
        strategy.grad_dtype = hlm_dtype_storage(strategy.dtype);
    }
    hlm_strategy_complete(&strategy);
    problem->strategy = strategy;
    problem->recompute = find_recompute(point->recompute);
    return hlm_strategy_check(&strategy, problem->model, err);
}

enum hlm_status hlm_validate_problem(struct hlm_arena *arena, const struct hlm_truth_point *point,
                                     struct hlm_validate_problem *out, struct hlm_err *err)
{
    struct hlm_validate_problem problem = {.recompute = -1};
    if (point->unreadable != NULL) {
        return hlm_fail(err, HLM_INPUT, "%s", point->unreadable);
    }
    HLM_TRY(check_expressible(point, err));
    HLM_TRY(make_cluster(arena, &point->hardware, &problem.cluster, err));
    HLM_TRY(make_model(arena, &point->model, &problem.model, err));
    HLM_TRY(make_strategy(point, &problem, err));
    *out = problem;
    return HLM_OK;
}
