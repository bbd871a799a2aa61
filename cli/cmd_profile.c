/* profile: measures this machine. */
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/fmt.h"
#include "cli/cli.h"
#include "cli/ranks.h"
#include "exec/launch/launch_env.h"
#include "profiles/cluster.h"

struct profile_options {
    const char *output, *join, *hosts;
    int backend, transport;
    int64_t repeat_operators;
    bool quick, json;
};

static int32_t num_cores(void)
{
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
}

/* GPUs: a rank for each of this machine. Over MPI the ranks are the cores, at least two of them;
 * threads need one rank, which starts more for the links. */
static int32_t num_ranks(const struct hlm_ranks_choice *choice)
{
    const int32_t cores = num_cores();
    if (choice->num_gpus > 0) {
        return choice->num_gpus;
    }
    return choice->transport != HLM_TRANSPORT_MPI ? 1 : cores < 2 ? 2 : cores;
}

/* What there is decides how many ranks, which decide how they talk. Inside of mpirun, srun or
 * torchrun the ranks are there already. */
static enum hlm_status choose(struct hlm_arena *arena, const struct profile_options *options,
                              struct hlm_ranks_choice *out, struct hlm_err *err)
{
    const struct hlm_ranks_choice wish = {.backend = (enum hlm_backend_choice)options->backend,
                                          .transport = (enum hlm_transport)options->transport,
                                          .num_ranks = 1};
    struct hlm_rank_env env;
    *out = wish;
    HLM_TRY(hlm_rank_env_read(&env, err));
    if (env.launcher != HLM_LAUNCHER_NONE) {
        out->num_ranks = env.world_size;
        return hlm_ranks_choose(arena, out, err);
    }
    HLM_TRY(hlm_ranks_choose(arena, out, err));
    const int32_t ranks = num_ranks(out);
    if (out->num_gpus > 1) {
        *out = wish;
        out->num_ranks = ranks;
        return hlm_ranks_choose(arena, out, err);
    }
    out->num_ranks = ranks;
    return HLM_OK;
}

static enum hlm_status measure(struct hlm_arena *arena, const struct profile_options *options,
                               const struct hlm_ranks_choice *choice, struct hlm_err *err)
{
    const char *args[16] = {NULL};
    int n = 0;
    args[n++] = "--profile";
    args[n++] = options->output;
    args[n++] = "--ranks";
    args[n++] = hlm_arena_printf(arena, "%d", (int)choice->num_ranks);
    args[n++] = "--backend";
    args[n++] = hlm_run_backend_texts[choice->backend];
    args[n++] = "--repeat-operators";
    args[n++] = hlm_arena_printf(arena, "%d", (int)options->repeat_operators);
    if (options->quick) {
        args[n++] = "--quick";
    }
    if (options->join != NULL) {
        args[n++] = "--join";
        args[n++] = options->join;
    }
    const struct hlm_ranks_job job = {.transport = choice->transport,
                                      .num_ranks = choice->num_ranks,
                                      .hosts = choice->hosts,
                                      .args = args};
    return hlm_ranks_run(arena, &job, err);
}

/* --- several groups --- */

static const char *cluster_path(struct hlm_arena *arena, const struct profile_options *options)
{
    return hlm_arena_printf(arena, "%s/cluster.json", options->output);
}

/* Without a machine of each group at hand: from their profiles alone. */
static enum hlm_status join_files(struct hlm_arena *arena, const struct profile_options *options,
                                  const struct hlm_cluster_part *parts, int32_t num_parts,
                                  struct hlm_err *err)
{
    const struct hlm_cluster *joined = NULL;
    const char *path = cluster_path(arena, options);
    if (hlm_cluster_join(arena, parts, num_parts, NULL, &joined, err) != HLM_OK) {
        hlm_err_prefix(err, "--join without --hosts");
        return err->status;
    }
    const char *text = hlm_json_write(arena, &hlm_cluster_table, joined, false);
    return hlm_file_write(path, text, strlen(text), err);
}

/* With --hosts, or inside of a launcher, a rank of each group measures the links. */
static enum hlm_status join_groups(struct hlm_arena *arena, const struct profile_options *options,
                                   struct hlm_err *err)
{
    const struct hlm_cluster_part *parts = NULL;
    struct hlm_ranks_choice choice = {.backend = (enum hlm_backend_choice)options->backend,
                                      .transport = (enum hlm_transport)options->transport,
                                      .hosts = options->hosts};
    int32_t rank = 0;
    HLM_TRY(hlm_cluster_load_parts(arena, options->join, &parts, &choice.num_ranks, err));
    if (options->hosts == NULL && !hlm_ranks_inside(&rank)) {
        return join_files(arena, options, parts, choice.num_ranks, err);
    }
    if (choice.num_ranks == 1) {
        return hlm_fail(err, HLM_USAGE,
                        "--join %.200s: one cluster has no links to others that could be measured",
                        options->join);
    }
    HLM_TRY(hlm_ranks_choose(arena, &choice, err));
    return measure(arena, options, &choice, err);
}

static enum hlm_status measure_machine(struct hlm_arena *arena,
                                       const struct profile_options *options, struct hlm_err *err)
{
    struct hlm_ranks_choice choice;
    HLM_TRY(choose(arena, options, &choice, err));
    return measure(arena, options, &choice, err);
}

static enum hlm_status check_options(const struct profile_options *options, struct hlm_err *err)
{
    if (options->hosts != NULL && options->join == NULL) {
        return hlm_fail(err, HLM_USAGE,
                        "--hosts names a machine of each group for --join; nothing else takes it");
    }
    if (options->join != NULL && options->repeat_operators > 1) {
        return hlm_fail(err, HLM_USAGE,
                        "--join measures no device; --repeat-operators has no part in it");
    }
    return HLM_OK;
}

static void print_products(const struct hlm_device_dtype *row)
{
    static const char *const layouts[] = {"any", "forward", "input gradient", "weight gradient"};
    for (int32_t i = 0; i < row->num_gemm; i++) {
        const struct hlm_gemm_curve *curve = &row->gemm[i];
        printf("  products, %-16s %s, fit within %s (median of %d)\n", layouts[curve->layout],
               hlm_fmt_flops_per_s(curve->flops_per_s).text,
               hlm_fmt_percent(curve->source.spread_frac).text, (int)curve->source.num_samples);
    }
}

static void print_joined(const char *folder, const struct hlm_cluster *cluster)
{
    printf("%s: %d %s\n", folder, (int)cluster->num_groups,
           cluster->num_groups == 1 ? "group" : "groups");
    for (int32_t i = 0; i < cluster->num_groups; i++) {
        const struct hlm_device_group *group = &cluster->groups[i];
        printf("  %s: %d x %d devices %s\n", group->name, (int)group->num_nodes,
               (int)group->devices_per_node, group->device.name);
    }
    for (int32_t i = 0; i < cluster->num_links; i++) {
        const struct hlm_inter_link *link = &cluster->links[i];
        printf("  %s to %s: %s and %s (%s)\n", cluster->groups[link->from].name,
               cluster->groups[link->to].name, hlm_fmt_seconds(link->link.alpha_s).text,
               hlm_fmt_bytes_per_s(link->link.bandwidth_bytes_per_s).text,
               hlm_source_kind_texts[link->link.source.kind]);
    }
}

static void print_device(const char *folder, const struct hlm_cluster *cluster)
{
    const struct hlm_device_group *group = &cluster->groups[0];
    const struct hlm_device *device = &group->device;
    printf("%s: %d devices %s of %s each\n", folder,
           (int)(group->num_nodes * group->devices_per_node), device->name,
           hlm_fmt_bytes((double)device->memory_bytes).text);
    for (int32_t i = 0; i < device->num_dtypes; i++) {
        printf("  %s peak %s\n", hlm_dtype_texts[device->dtypes[i].dtype],
               hlm_fmt_flops_per_s(device->dtypes[i].peak_flops_per_s).text);
        print_products(&device->dtypes[i]);
    }
    printf("  memory %s alone, ", hlm_fmt_bytes_per_s(device->memory.bytes_per_s).text);
    if (device->backend == HLM_BACKEND_CPU) {
        printf("%.2f times slower with all busy; ", device->shared_memory_slowdown);
    } else {
        printf("%s to launch a kernel; ", hlm_fmt_seconds(device->launch_overhead_s).text);
    }
    printf("%d operator curves\n", (int)device->num_ops);
    printf("  links %s and %s, %d collective curves\n",
           hlm_fmt_seconds(group->intra_node.alpha_s).text,
           hlm_fmt_bytes_per_s(group->intra_node.bandwidth_bytes_per_s).text,
           (int)group->num_collectives);
    printf("measured on %s\n", device->memory.source.reference);
}

static enum hlm_status run(struct hlm_arena *arena, const void *pointer, struct hlm_err *err)
{
    const struct profile_options *options = pointer;
    const struct hlm_cluster *cluster = NULL;
    int32_t rank = 0;
    HLM_TRY(check_options(options, err));
    HLM_TRY(hlm_file_make_folder(options->output, err));
    HLM_TRY(options->join != NULL ? join_groups(arena, options, err)
                                  : measure_machine(arena, options, err));
    if (hlm_ranks_inside(&rank) && rank != 0) {
        return HLM_OK;
    }
    HLM_TRY(hlm_cluster_load(arena, cluster_path(arena, options), &cluster, err));
    if (options->json) {
        return hlm_print_json(arena, &hlm_cluster_table, cluster, err);
    }
    if (options->join != NULL) {
        print_joined(options->output, cluster);
    } else {
        print_device(options->output, cluster);
    }
    return HLM_OK;
}

#define AT(member) .offset = offsetof(struct profile_options, member)
static const struct hlm_opt opts[] = {
    {.name = "backend",
     .type = HLM_OPT_ENUM,
     AT(backend),
     .def = "auto",
     .arg = "BACKEND",
     .enums = hlm_run_backend_texts,
     .help = "What to measure; auto: the best that is there."},
    {.name = "transport",
     .type = HLM_OPT_ENUM,
     AT(transport),
     .def = "auto",
     .arg = "TRANSPORT",
     .enums = hlm_transport_texts,
     .help =
         "How ranks talk, as later in run; auto: threads of one process, several GPUs over NCCL."},
    {.name = "join",
     .type = HLM_OPT_STRING,
     AT(join),
     .arg = "A,B,...",
     .help =
         "Join the profiles of several kinds of machines to one mixed cluster: folders that "
         "profile wrote, or whatever --cluster takes. Of one, writes its file, to be edited, such "
         "as with prices."},
    {.name = "hosts",
     .type = HLM_OPT_STRING,
     AT(hosts),
     .arg = "H,H,...",
     .help = "With --join: a machine of each group, in the same order; the links between them are "
             "measured. Without, links between groups are as the worse of those inside of them."},
    {.name = "repeat-operators",
     .type = HLM_OPT_INT64,
     AT(repeat_operators),
     .def = "1",
     .arg = "K",
     .min = 1,
     .max = 1000,
     .help = "Make a slow device out of this one, to try mixed clusters on one machine: it runs "
             "every operator K times, with the result of once, here and in run."},
    {.name = "output",
     .letter = 'o',
     .type = HLM_OPT_STRING,
     AT(output),
     .def = "profile",
     .arg = "DIR",
     .help = "Write device.json and cluster.json to DIR."},
    {.name = "quick",
     .type = HLM_OPT_FLAG,
     AT(quick),
     .help = "Measure less, in half of the time; GPUs: in two minutes instead of ten."},
    {.name = "json", .type = HLM_OPT_FLAG, AT(json), .help = "Print the cluster as JSON."},
    {.name = NULL}};
const struct hlm_command hlm_cmd_profile = {
    .name = "profile",
    .summary = "measure this machine",
    .description =
        "Measures this machine: small models in training, operator by operator, the optimizer, "
        "memory, and the links between its devices. The folder that it writes is what plan takes "
        "as --cluster. A CPU counts as one device a core. Operators are timed by CPU time and the "
        "least of several steps, so other programs disturb little; links are timed by the wall "
        "clock. A GPU is measured kernel by kernel by its own clock, with cold inputs, within ten "
        "minutes at most; all GPUs of the machine take part, and inside of mpirun, srun or "
        "torchrun those of all machines. Tells on stderr how well the profile gives the "
        "measurements back, and when the machine was busy, ran slower than it could or changed "
        "its pace meanwhile.",
    .example = "hlmplan profile -o here && hlmplan plan --cluster here --model gpt2-small "
               "--global-batch 8",
    .opts = opts,
    .options_size = sizeof(struct profile_options),
    .run = run};
