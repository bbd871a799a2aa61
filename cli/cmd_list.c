/* list: what is built in. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/fmt.h"
#include "cli/cli.h"
#include "cli/text_table.h"
#include "planner/plan.h"

struct list_options {
    const char *what;
    bool json;
};

/* One kind of thing: how to load the index-th as one row of cells and one JSON object. */
struct listing {
    struct hlm_arena *arena;
    struct hlm_text_table table;
    struct hlm_json_writer *writer; /* NULL: for people */
};

static void add_text(struct listing *listing, const char *key, const char *value)
{
    hlm_json_key(listing->writer, key);
    hlm_json_string(listing->writer, value);
}

static void add_number(struct listing *listing, const char *key, double value)
{
    hlm_json_key(listing->writer, key);
    hlm_json_double(listing->writer, value);
}

/* ---- models ---- */

static const char *const model_headers[] = {"name",    "kind",   ">params", ">active",  ">layers",
                                            ">hidden", ">heads", ">kv",     ">seq_len", NULL};

static void model_json(struct listing *listing, const struct hlm_model *model)
{
    hlm_json_begin_object(listing->writer);
    add_text(listing, "name", model->name);
    add_number(listing, "num_params", hlm_model_num_params(model));
    add_number(listing, "num_active_params", hlm_model_num_active_params(model));
    add_number(listing, "num_layers", model->num_layers);
    add_number(listing, "hidden_size", (double)model->hidden_size);
    add_number(listing, "num_heads", model->num_heads);
    add_number(listing, "num_kv_heads", model->num_kv_heads);
    add_number(listing, "seq_len", (double)model->seq_len);
    hlm_json_end_object(listing->writer);
}

static const char *model_kind(const struct hlm_model *model)
{
    static const char *const texts[] = {
#define X(name, text) text,
        HLM_MODEL_KIND_MAP(X)
#undef X
    };
    return model->moe.num_experts > 0 ? "decoder, experts" : texts[model->kind];
}

static void model_row(struct listing *listing, const struct hlm_model *model)
{
    struct hlm_arena *arena = listing->arena;
    const char *const cells[] = {
        model->name,
        model_kind(model),
        hlm_arena_strdup(arena, hlm_fmt_count(hlm_model_num_params(model)).text),
        hlm_arena_strdup(arena, hlm_fmt_count(hlm_model_num_active_params(model)).text),
        hlm_arena_printf(arena, "%d", model->num_layers),
        hlm_arena_printf(arena, "%lld", (long long)model->hidden_size),
        hlm_arena_printf(arena, "%d", model->num_heads),
        hlm_arena_printf(arena, "%d", model->num_kv_heads),
        hlm_arena_printf(arena, "%lld", (long long)model->seq_len)};
    hlm_text_table_add(&listing->table, cells);
}

static enum hlm_status list_models(struct listing *listing, struct hlm_err *err)
{
    for (int i = 0; hlm_model_builtin_name(i) != NULL; i++) {
        const struct hlm_model *model = NULL;
        HLM_TRY(hlm_model_load(listing->arena, hlm_model_builtin_name(i), &model, err));
        (listing->writer == NULL ? model_row : model_json)(listing, model);
    }
    return HLM_OK;
}

/* ---- devices ---- */

static const char *const device_headers[] = {"name",    "backend",     ">memory", ">bandwidth",
                                             ">launch", "dense peaks", NULL};

static void device_json(struct listing *listing, const struct hlm_device *device)
{
    hlm_json_begin_object(listing->writer);
    add_text(listing, "name", device->name);
    add_number(listing, "memory_bytes", (double)device->memory_bytes);
    add_number(listing, "memory_bytes_per_s", device->memory.peak_bytes_per_s);
    add_number(listing, "launch_overhead_s", device->launch_overhead_s);
    hlm_json_key(listing->writer, "peak_flops_per_s");
    hlm_json_begin_object(listing->writer);
    for (int32_t i = 0; i < device->num_dtypes; i++) {
        add_number(listing, hlm_dtype_texts[device->dtypes[i].dtype],
                   device->dtypes[i].peak_flops_per_s);
    }
    hlm_json_end_object(listing->writer);
    hlm_json_end_object(listing->writer);
}

static void device_row(struct listing *listing, const struct hlm_device *device)
{
    struct hlm_text peaks;
    hlm_text_init(&peaks, listing->arena);
    for (int32_t i = 0; i < device->num_dtypes; i++) {
        hlm_text_printf(&peaks, "%s%s %s", i > 0 ? ", " : "",
                        hlm_dtype_texts[device->dtypes[i].dtype],
                        hlm_fmt_flops_per_s(device->dtypes[i].peak_flops_per_s).text);
    }
    const struct hlm_fmt memory = hlm_fmt_bytes((double)device->memory_bytes);
    const struct hlm_fmt bandwidth = hlm_fmt_bytes_per_s(device->memory.peak_bytes_per_s);
    const struct hlm_fmt launch = hlm_fmt_seconds(device->launch_overhead_s);
    const char *const cells[] = {device->name, device->backend == HLM_BACKEND_CPU ? "cpu" : "cuda",
                                 memory.text,  bandwidth.text,
                                 launch.text,  peaks.text};
    hlm_text_table_add(&listing->table, cells);
}

static enum hlm_status list_devices(struct listing *listing, struct hlm_err *err)
{
    for (int i = 0; hlm_device_builtin_name(i) != NULL; i++) {
        const struct hlm_device *device = NULL;
        HLM_TRY(hlm_device_load(listing->arena, hlm_device_builtin_name(i), &device, err));
        (listing->writer == NULL ? device_row : device_json)(listing, device);
    }
    return HLM_OK;
}

/* ---- clusters: node types ---- */

static const char *const cluster_headers[] = {"name",  "device",   ">devices", ">inside a node",
                                              ">NICs", ">per NIC", NULL};

static void cluster_json(struct listing *listing, const struct hlm_cluster *cluster)
{
    const struct hlm_device_group *group = &cluster->groups[0];
    hlm_json_begin_object(listing->writer);
    add_text(listing, "name", cluster->name);
    add_text(listing, "device", group->device.name);
    add_number(listing, "devices_per_node", group->devices_per_node);
    add_number(listing, "intra_node_bytes_per_s", group->intra_node.bandwidth_bytes_per_s);
    add_number(listing, "nics_per_node", group->nics_per_node);
    add_number(listing, "nic_bytes_per_s", group->nic_bandwidth_bytes_per_s);
    hlm_json_end_object(listing->writer);
}

static void cluster_row(struct listing *listing, const struct hlm_cluster *cluster)
{
    const struct hlm_device_group *group = &cluster->groups[0];
    const struct hlm_fmt inside = hlm_fmt_bytes_per_s(group->intra_node.bandwidth_bytes_per_s);
    const struct hlm_fmt nic = hlm_fmt_bytes_per_s(group->nic_bandwidth_bytes_per_s);
    const char *const cells[] = {cluster->name,
                                 group->device.name,
                                 hlm_arena_printf(listing->arena, "%d", group->devices_per_node),
                                 inside.text,
                                 hlm_arena_printf(listing->arena, "%d", group->nics_per_node),
                                 nic.text};
    hlm_text_table_add(&listing->table, cells);
}

static enum hlm_status list_clusters(struct listing *listing, struct hlm_err *err)
{
    for (int i = 0; hlm_cluster_builtin_name(i) != NULL; i++) {
        const struct hlm_cluster *cluster = NULL;
        HLM_TRY(hlm_cluster_load(listing->arena, hlm_cluster_builtin_name(i), &cluster, err));
        (listing->writer == NULL ? cluster_row : cluster_json)(listing, cluster);
    }
    return HLM_OK;
}

/* ---- schedules and lowerings: names that X-macros hold, with a word on each ---- */

struct word {
    const char *name, *text;
};

static const char *const schedule_headers[] = {"name", "in flight on stage s of p, m microbatches",
                                               "order", NULL};
static const char *const lowering_headers[] = {"name", "run", "what it launches", NULL};

static const struct word schedule_flights[HLM_NUM_SCHEDULES] = {
    [HLM_SCHEDULE_GPIPE] = {"m", "all forwards, then all backwards"},
    [HLM_SCHEDULE_1F1B] = {"min(m, p - s)", "as few forwards ahead as keep the last stage busy"},
    [HLM_SCHEDULE_1F1B_OVERLAP] = {"min(m, 2 (p - s) - 1)",
                                   "1f1b with twice as many forwards ahead: hides latency"},
    [HLM_SCHEDULE_INTERLEAVED] = {"by its lists", "1f1b over several chunks a rank, in groups"},
    [HLM_SCHEDULE_ZB_H1] = {"min(m, p)", "1f1b, weight gradients put off into its bubbles"},
    [HLM_SCHEDULE_ZB_H2] = {"min(m, 2 p - 1)", "more forwards ahead: no bubble when F = I = W"},
    [HLM_SCHEDULE_ZB_V] = {"by its lists", "two chunks a rank: no bubble when F = I = W"},
    [HLM_SCHEDULE_V_HALF] = {"by its lists", "two chunks a rank, half the activations of 1f1b"},
    [HLM_SCHEDULE_V_MIN] = {"by its lists", "two chunks a rank, a third of the activations"},
    [HLM_SCHEDULE_DUALPIPE_V] = {"by its lists",
                                 "two chunks a rank, a forward and a backward as one"}};

static const struct word lowering_words[HLM_NUM_LOWERINGS] = {
    [HLM_LOWERING_HLMPLAN] = {"yes", "what hlmplan run executes"},
    [HLM_LOWERING_MEGATRON] = {"priced only",
                               "Megatron-Core with Transformer Engine: fused attention, fused "
                               "gradient accumulation, gradient all-reduce behind the weight "
                               "gradient"},
    [HLM_LOWERING_MEGATRON_2023] = {"priced only",
                                    "Megatron-LM and NeMo of 2023: FlashAttention 2, no "
                                    "data-parallel collective beside compute"},
    [HLM_LOWERING_MEGATRON_2021] =
        {"priced only", "Megatron-LM and Megatron-DeepSpeed of 2020 to 2022: attention of separate "
                        "products, softmax and dropout, nothing behind anything"},
    [HLM_LOWERING_PYTORCH] = {"priced only", "PyTorch with FSDP or tensor parallelism, eager, "
                                             "FlashAttention 2"},
    [HLM_LOWERING_PYTORCH_2023] = {"priced only",
                                   "the same with the attention kernels of 2023 (FlashAttention 1, "
                                   "Triton)"}};

static void add_word(struct listing *listing, const char *name, const struct word *word,
                     const char *first_key, const char *second_key)
{
    if (listing->writer == NULL) {
        const char *const cells[] = {name, word->name, word->text};
        hlm_text_table_add(&listing->table, cells);
        return;
    }
    hlm_json_begin_object(listing->writer);
    add_text(listing, "name", name);
    add_text(listing, first_key, word->name);
    add_text(listing, second_key, word->text);
    hlm_json_end_object(listing->writer);
}

static enum hlm_status list_schedules(struct listing *listing, struct hlm_err *err)
{
    (void)err;
    for (int kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        add_word(listing, hlm_schedule_texts[kind], &schedule_flights[kind], "in_flight", "order");
    }
    return HLM_OK;
}

static enum hlm_status list_lowerings(struct listing *listing, struct hlm_err *err)
{
    (void)err;
    for (int set = 0; set < HLM_NUM_LOWERINGS; set++) {
        add_word(listing, hlm_lowering_texts[set], &lowering_words[set], "run", "launches");
    }
    return HLM_OK;
}

/* ---- the command ---- */

static const struct kind {
    const char *name;
    const char *const *headers;
    enum hlm_status (*list)(struct listing *listing, struct hlm_err *err);
} kinds[] = {{"models", model_headers, list_models},
             {"devices", device_headers, list_devices},
             {"clusters", cluster_headers, list_clusters},
             {"schedules", schedule_headers, list_schedules},
             {"lowerings", lowering_headers, list_lowerings}};
enum { NUM_KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static enum hlm_status find_kind(const char *name, const struct kind **out, struct hlm_err *err)
{
    const char *names[NUM_KINDS + 1] = {NULL};
    for (int i = 0; i < NUM_KINDS; i++) {
        names[i] = kinds[i].name;
        if (strcmp(kinds[i].name, name) == 0) {
            *out = &kinds[i];
            return HLM_OK;
        }
    }
    const char *nearest = hlm_opt_nearest(name, names);
    return hlm_fail(
        err, HLM_USAGE,
        "expected models, devices, clusters, schedules or lowerings, found \"%s\"%s%s%s", name,
        nearest == NULL ? "" : " (did you mean ", nearest == NULL ? "" : nearest,
        nearest == NULL ? "" : "?)");
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct list_options *options = pointer;
    const struct kind *kind = NULL;
    HLM_TRY(find_kind(options->what, &kind, err));
    struct hlm_json_writer writer;
    struct listing listing = {.arena = arena, .writer = options->json ? &writer : NULL};
    hlm_text_table_init(&listing.table, arena, kind->headers);
    if (options->json) {
        hlm_json_writer_init(&writer, arena, false);
        hlm_json_begin_array(&writer);
    }
    HLM_TRY(kind->list(&listing, err));
    if (options->json) {
        hlm_json_end_array(&writer);
        return hlm_print_text(hlm_arena_printf(arena, "%s\n", writer.text.text), err);
    }
    hlm_text_table_print(&listing.table, stdout, 0);
    return HLM_OK;
}

static const struct hlm_opt opts[] = {{.name = "json",
                                       .type = HLM_OPT_FLAG,
                                       .offset = offsetof(struct list_options, json),
                                       .help = "Print the list as JSON."},
                                      {.name = NULL}};
static const struct hlm_positional positionals[] = {
    {"what", offsetof(struct list_options, what), true,
     "models, devices, clusters (node types), schedules, or lowerings."},
    {.name = NULL}};
const struct hlm_command hlm_cmd_list = {
    .name = "list",
    .summary = "list what is built in",
    .description = "Lists the built-in models, devices, node types, pipeline schedules or lowering "
                   "sets with their key numbers. Their names are what --model, --cluster, "
                   "schedule= and --framework take.",
    .example = "hlmplan list models",
    .opts = opts,
    .positionals = positionals,
    .options_size = sizeof(struct list_options),
    .run = run};
