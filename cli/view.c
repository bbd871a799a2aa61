#include "cli/view.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/fmt.h"
#include "cli/cli.h"
#include "cli/text_table.h"
#include "cli/view_front.h"

/* ---- one line ---- */

static void add_degree(struct hlm_text *text, const char *name, int32_t degree, int32_t normal)
{
    if (degree != normal) {
        hlm_text_printf(text, ", %s %d", name, degree);
    }
}

/* "8", or where it differs that of each pipeline rank, those alike once: "4/8". */
static const char *tp_text(struct hlm_arena *arena, const struct hlm_strategy *strategy)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        const int32_t tp = hlm_strategy_at(strategy, pp).tp;
        if (pp == 0 || tp != hlm_strategy_at(strategy, pp - 1).tp) {
            hlm_text_printf(&text, "%s%d", pp > 0 ? "/" : "", tp);
        }
    }
    return text.text;
}

/* "24", or of replicas that are not alike "24/12". */
static const char *microbatches_text(struct hlm_arena *arena, const struct hlm_strategy *strategy)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t i = 0; i < strategy->num_replicas; i++) {
        hlm_text_printf(&text, "%s%lld", i > 0 ? "/" : "",
                        (long long)strategy->replicas[i].num_microbatches);
    }
    if (strategy->num_replicas == 0) {
        hlm_text_printf(&text, "%lld", (long long)strategy->num_microbatches);
    }
    return text.text;
}

const char *hlm_view_replicas(struct hlm_arena *arena, const struct hlm_strategy *strategy,
                              const struct hlm_cluster *cluster)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t i = 0; i < strategy->num_replicas; i++) {
        const struct hlm_replicas *replicas = &strategy->replicas[i];
        hlm_text_printf(&text, "%s%d on %s: %lld%s%s", i > 0 ? "; " : "", replicas->dp,
                        cluster->groups[replicas->device_group].name,
                        (long long)replicas->num_microbatches,
                        i > 0                             ? ""
                        : replicas->num_microbatches == 1 ? " microbatch"
                                                          : " microbatches",
                        replicas->dp > 1 ? " each" : "");
    }
    return text.text;
}

const char *hlm_view_strategy(struct hlm_arena *arena, const struct hlm_strategy *strategy)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    hlm_text_printf(&text, "dp %d, tp %s, pp %d", strategy->dp, tp_text(arena, strategy),
                    strategy->pp);
    add_degree(&text, "cp", strategy->cp, 1);
    add_degree(&text, "ep", strategy->ep, 1);
    add_degree(&text, "vpp", strategy->vpp, 1);
    hlm_text_printf(&text, "%s", strategy->sp ? ", sp" : "");
    add_degree(&text, "zero", strategy->zero, 0);
    hlm_text_printf(&text, ", %s, %s %s of %lld, %s", hlm_schedule_texts[strategy->schedule],
                    microbatches_text(arena, strategy),
                    strategy->num_microbatches == 1 ? "microbatch" : "microbatches",
                    (long long)strategy->microbatch_size, hlm_dtype_texts[strategy->dtype]);
    if (strategy->offload != HLM_OFFLOAD_NONE) {
        hlm_text_printf(&text, ", offload %s", hlm_offload_texts[strategy->offload]);
    }
    if (strategy->offload_layers > 0) {
        hlm_text_printf(&text, " of %d layers", strategy->offload_layers);
    }
    return text.text;
}

static const char *recompute_text(struct hlm_arena *arena, struct hlm_plan_recompute counts)
{
    const int32_t num_layers = counts.none + counts.selective + counts.full;
    if (counts.none == num_layers) {
        return "none";
    }
    if (counts.full == num_layers) {
        return "full";
    }
    if (counts.selective == num_layers) {
        return "selective";
    }
    struct hlm_text text;
    hlm_text_init(&text, arena);
    if (counts.selective > 0) {
        hlm_text_printf(&text, "selective in %d", counts.selective);
    }
    if (counts.full > 0) {
        hlm_text_printf(&text, "%sfull in %d", text.length > 0 ? ", " : "", counts.full);
    }
    hlm_text_printf(&text, " of %d", num_layers);
    return text.text;
}

const char *hlm_view_recompute(struct hlm_arena *arena, const struct hlm_plan_stage *stages,
                               int32_t num_stages)
{
    struct hlm_plan_recompute sum = {0};
    for (int32_t s = 0; s < num_stages; s++) {
        sum.none += stages[s].recompute.none;
        sum.selective += stages[s].recompute.selective;
        sum.full += stages[s].recompute.full;
    }
    return recompute_text(arena, sum);
}

/* ---- summary ---- */

static void print_line(FILE *out, const char *name, const char *text)
{
    fprintf(out, "  %-12s %s\n", name, text);
}

/* The first stage of the fullest rank, by share: device groups differ in size. */
struct fullest {
    int32_t stage;
    int64_t peak_bytes, limit_bytes;
};

static struct fullest find_fullest(const struct hlm_plan *plan)
{
    struct fullest fullest = {.limit_bytes = 1};
    double most_frac = 0.0;
    int32_t dp = 0;
    for (int32_t i = 0; i < plan->prediction.num_memory; i++) {
        const struct hlm_coords coords = {.dp = dp,
                                          .pp = plan->stages[i % plan->num_stages].rank_group};
        const int64_t limit_bytes = plan->prediction.memory[i].limit_bytes;
        const int64_t peak_bytes =
            hlm_plan_world_rank_peak_bytes(plan, hlm_layout_rank(&plan->strategy, coords));
        if ((double)peak_bytes / (double)limit_bytes > most_frac) {
            most_frac = (double)peak_bytes / (double)limit_bytes;
            fullest = (struct fullest){i % plan->num_stages, peak_bytes, limit_bytes};
        }
        if ((i + 1) % plan->num_stages == 0 && plan->strategy.num_replicas > 0) {
            dp += plan->strategy.replicas[i / plan->num_stages].dp;
        }
    }
    return fullest;
}

static void print_rates(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan)
{
    const struct hlm_plan_prediction *prediction = &plan->prediction;
    print_line(out, "step time",
               hlm_arena_printf(arena, "%s (%s to %s within the spread of the profile)",
                                hlm_fmt_seconds(prediction->step_time_s).text,
                                hlm_fmt_seconds(prediction->interval.low_s).text,
                                hlm_fmt_seconds(prediction->interval.high_s).text));
    print_line(out, "throughput",
               hlm_arena_printf(arena, "%s tokens/s, MFU %s (%s)",
                                hlm_fmt_count(prediction->tokens_per_s).text,
                                hlm_fmt_percent(prediction->mfu).text,
                                hlm_model_is_causal(&plan->model) ? "causal attention counted half"
                                                                  : "full attention"));
    if (prediction->cost_per_token > 0.0) {
        print_line(
            out, "price",
            hlm_arena_printf(arena, "%.3g per million tokens", 1e6 * prediction->cost_per_token));
    }
}

/* Device groups that the plan leaves out, and what the best plan with all of them would take. */
static void print_idle(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan)
{
    const int32_t num_groups = plan->cluster.num_groups;
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t g = 0; g < num_groups; g++) {
        const struct hlm_device_group *group = &plan->cluster.groups[g];
        bool used = false;
        for (int32_t s = 0; s < plan->num_stages; s++) {
            used = used || plan->stages[s].device_group == g;
        }
        for (int32_t i = 0; i < plan->strategy.num_replicas; i++) {
            used = used || plan->strategy.replicas[i].device_group == g;
        }
        if (!used) {
            hlm_text_printf(&text, "%s%s (%s devices)", text.length > 0 ? ", " : "", group->name,
                            hlm_fmt_int((int64_t)group->num_nodes * group->devices_per_node).text);
        }
    }
    for (int32_t i = 0; text.length > 0 && i < plan->num_runners_up; i++) {
        const struct hlm_plan_runner_up *runner = &plan->runners_up[i];
        if (hlm_plan_groups_used(&runner->strategy, runner->stages, runner->num_stages) ==
            num_groups) {
            hlm_text_printf(
                &text, "; the best plan with all groups takes %s, %s longer",
                hlm_fmt_seconds(runner->step_time_s).text,
                hlm_fmt_percent(runner->step_time_s / plan->prediction.step_time_s - 1).text);
            break;
        }
    }
    if (text.length > 0) {
        print_line(out, "idle", text.text);
    }
}

void hlm_view_summary(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan)
{
    const struct hlm_strategy *strategy = &plan->strategy;
    fprintf(out, "%s on %s (%s devices), global batch %s, sequence length %s, lowering %s\n\n",
            plan->model.name, plan->cluster.name,
            hlm_fmt_int(hlm_cluster_num_devices(&plan->cluster)).text,
            hlm_fmt_int(strategy->global_batch_size).text, hlm_fmt_int(strategy->seq_len).text,
            hlm_lowering_texts[strategy->lowering]);
    print_line(out, "strategy", hlm_view_strategy(arena, strategy));
    if (strategy->num_replicas > 0) {
        print_line(out, "replicas", hlm_view_replicas(arena, strategy, &plan->cluster));
    }
    print_line(out, "recompute", hlm_view_recompute(arena, plan->stages, plan->num_stages));
    print_idle(out, arena, plan);
    print_rates(out, arena, plan);
    const struct fullest fullest = find_fullest(plan);
    print_line(out, "memory",
               hlm_arena_printf(arena, "%s of %s on %sstage %d, the fullest",
                                hlm_fmt_bytes((double)fullest.peak_bytes).text,
                                hlm_fmt_bytes((double)fullest.limit_bytes).text,
                                strategy->vpp > 1 ? "the rank of " : "", fullest.stage));
    const char *refusal = hlm_lowering_refusal(&plan->model, strategy);
    if (refusal != NULL) {
        print_line(out, "run", hlm_arena_printf(arena, "priced only: %s", refusal));
    }
}

/* ---- stages ---- */

/* Stages of one row: alike and next to each other. Tables of few stages have a row each. */
struct stage_run {
    int32_t first, num;
    int32_t replicas; /* index; 0 where all are alike */
};
enum { MAX_SINGLE_ROWS = 16 };

static const struct hlm_stage_memory *memory_of(const struct hlm_plan *plan, int32_t replicas,
                                                int32_t stage)
{
    return &plan->prediction.memory[replicas * plan->num_stages + stage];
}

static bool is_alike(const struct hlm_plan *plan, int32_t replicas, int32_t a, int32_t b)
{
    const struct hlm_plan_stage *x = &plan->stages[a], *y = &plan->stages[b];
    const struct hlm_stage_memory *m = memory_of(plan, replicas, a);
    const struct hlm_stage_memory *n = memory_of(plan, replicas, b);
    bool alike = x->num_layers == y->num_layers && x->device_group == y->device_group &&
                 x->tp == y->tp && x->recompute.none == y->recompute.none &&
                 x->recompute.selective == y->recompute.selective &&
                 x->recompute.full == y->recompute.full;
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        alike = alike && m->bytes[kind] == n->bytes[kind];
    }
    return alike;
}

static struct stage_run find_run(const struct hlm_plan *plan, int32_t replicas, int32_t first)
{
    struct stage_run run = {first, 1, replicas};
    while (plan->num_stages > MAX_SINGLE_ROWS && first + run.num < plan->num_stages &&
           is_alike(plan, replicas, first, first + run.num)) {
        run.num++;
    }
    return run;
}

static const char *run_text(struct hlm_arena *arena, struct stage_run run)
{
    return run.num == 1 ? hlm_arena_printf(arena, "%d", run.first)
                        : hlm_arena_printf(arena, "%d-%d", run.first, run.first + run.num - 1);
}

/* "0-11", "24-47, 12 each", or "-" for stages without layers. */
static const char *layers_text(struct hlm_arena *arena, const struct hlm_plan *plan,
                               struct stage_run run)
{
    const struct hlm_plan_stage *first = &plan->stages[run.first];
    const struct hlm_plan_stage *last = &plan->stages[run.first + run.num - 1];
    if (first->num_layers == 0) {
        return "-";
    }
    const char *range = hlm_arena_printf(arena, "%d-%d", first->first_layer,
                                         last->first_layer + last->num_layers - 1);
    return run.num == 1 ? range : hlm_arena_printf(arena, "%s, %d each", range, first->num_layers);
}

static const char *bytes_text(struct hlm_arena *arena, int64_t bytes)
{
    return hlm_arena_strdup(arena, hlm_fmt_bytes((double)bytes).text);
}

/* With its tp where that differs from stage to stage. */
static const char *device_text(struct hlm_arena *arena, const struct hlm_plan *plan,
                               const struct stage_run *run)
{
    const struct hlm_plan_stage *stage = &plan->stages[run->first];
    const int32_t group = plan->strategy.num_replicas > 0
                              ? plan->strategy.replicas[run->replicas].device_group
                              : stage->device_group;
    const char *name = plan->cluster.groups[group].device.name;
    bool differs = false;
    for (int32_t s = 0; s < plan->num_stages; s++) {
        differs = differs || plan->stages[s].tp != plan->strategy.tp;
    }
    return differs ? hlm_arena_printf(arena, "%s, tp %d", name, stage->tp) : name;
}

void hlm_view_stages(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan)
{
    static const char *const headers[] = {">stage",  ">layers",      "recompute",  "device",
                                          ">states", ">activations", ">transient", ">fixed",
                                          ">peak",   ">limit",       ">host",      NULL};
    static const char *const headers_without_host[] = {
        ">stage",     ">layers", "recompute", "device", ">states", ">activations",
        ">transient", ">fixed",  ">peak",     ">limit", NULL};
    const bool has_host = plan->strategy.offload != HLM_OFFLOAD_NONE;
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, has_host ? headers : headers_without_host);
    for (int32_t i = 0; i < plan->prediction.num_memory;) {
        const int32_t s = i % plan->num_stages;
        const struct stage_run run = find_run(plan, i / plan->num_stages, s);
        const struct hlm_plan_stage *stage = &plan->stages[s];
        const struct hlm_stage_memory *memory = memory_of(plan, run.replicas, s);
        const int64_t states = memory->bytes[HLM_MEMORY_PARAMETERS] +
                               memory->bytes[HLM_MEMORY_GRADIENTS] +
                               memory->bytes[HLM_MEMORY_OPTIMIZER];
        const char *const cells[] = {run_text(arena, run),
                                     layers_text(arena, plan, run),
                                     recompute_text(arena, stage->recompute),
                                     device_text(arena, plan, &run),
                                     bytes_text(arena, states),
                                     bytes_text(arena, memory->bytes[HLM_MEMORY_ACTIVATIONS]),
                                     bytes_text(arena, memory->bytes[HLM_MEMORY_TRANSIENT]),
                                     bytes_text(arena, memory->bytes[HLM_MEMORY_FIXED]),
                                     bytes_text(arena, memory->peak_bytes),
                                     bytes_text(arena, memory->limit_bytes),
                                     bytes_text(arena, memory->host_bytes)};
        hlm_text_table_add(&table, cells);
        i += run.num;
    }
    fprintf(out, "stages\n");
    hlm_text_table_print(&table, out, 2);
}

/* ---- where the time goes ---- */

const char *hlm_view_part_name(struct hlm_arena *arena, const char *name)
{
    const size_t length = strlen(name);
    const bool has_unit = length > 2 && strcmp(name + length - 2, "_s") == 0;
    char *text = hlm_arena_strndup(arena, name, has_unit ? length - 2 : length);
    for (char *c = text; *c != '\0'; c++) {
        *c = *c == '_' ? ' ' : *c;
    }
    return text;
}

static void add_part(struct hlm_text_table *table, struct hlm_arena *arena,
                     const struct hlm_time_node *node, double step_s, int depth)
{
    const char *const cells[] = {
        hlm_arena_printf(arena, "%*s%s", 2 * depth, "", hlm_view_part_name(arena, node->name)),
        hlm_arena_strdup(arena, hlm_fmt_seconds(node->seconds).text),
        hlm_arena_printf(arena, "%.1f %%", 100.0 * node->seconds / step_s)};
    hlm_text_table_add(table, cells);
    for (int32_t i = 0; i < node->num_parts; i++) {
        add_part(table, arena, &node->parts[i], step_s, depth + 1);
    }
}

void hlm_view_parts(FILE *out, struct hlm_arena *arena, const struct hlm_time_node *step)
{
    static const char *const headers[] = {"part", ">time", ">share", NULL};
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    add_part(&table, arena, step, step->seconds, 0);
    fprintf(out, "where the time goes (the rank that ends last)\n");
    hlm_text_table_print(&table, out, 2);
}

struct leaf {
    const char *path;
    double seconds;
};

static int32_t count_leaves(const struct hlm_time_node *node)
{
    int32_t count = node->num_parts == 0 ? 1 : 0;
    for (int32_t i = 0; i < node->num_parts; i++) {
        count += count_leaves(&node->parts[i]);
    }
    return count;
}

static void collect_leaves(struct hlm_arena *arena, const struct hlm_time_node *node,
                           const char *path, struct leaf *leaves, int32_t *count)
{
    if (node->num_parts == 0) {
        leaves[(*count)++] = (struct leaf){path, node->seconds};
    }
    for (int32_t i = 0; i < node->num_parts; i++) {
        const struct hlm_time_node *part = &node->parts[i];
        const char *name = hlm_view_part_name(arena, part->name);
        collect_leaves(arena, part, hlm_arena_printf(arena, "%s: %s", path, name), leaves, count);
    }
}

static int longest_first(const void *left, const void *right)
{
    const struct leaf *a = left, *b = right;
    const int by_time = (a->seconds < b->seconds) - (a->seconds > b->seconds);
    return by_time != 0 ? by_time : strcmp(a->path, b->path);
}

void hlm_view_limits(FILE *out, struct hlm_arena *arena, const struct hlm_time_node *step)
{
    enum { NUM_SHOWN = 4 };
    struct leaf *leaves = HLM_ARENA_ARRAY(arena, struct leaf, count_leaves(step));
    int32_t count = 0;
    for (int32_t i = 0; i < step->num_parts; i++) {
        collect_leaves(arena, &step->parts[i], hlm_view_part_name(arena, step->parts[i].name),
                       leaves, &count);
    }
    if (count == 0) {
        return;
    }
    qsort(leaves, (size_t)count, sizeof(*leaves), longest_first);
    fprintf(out, "what limits it: ");
    for (int32_t i = 0; i < count && i < NUM_SHOWN; i++) {
        fprintf(out, "%s%s %.1f %%", i > 0 ? ", " : "", leaves[i].path,
                100.0 * leaves[i].seconds / step->seconds);
    }
    fprintf(out, "\n");
}

/* ---- certificate ---- */

void hlm_view_certificate(FILE *out, const struct hlm_plan_certificate *certificate)
{
    if (certificate == NULL) {
        return;
    }
    fprintf(out, "certificate\n");
    fprintf(out, "  no legal plan%s is faster than %s: gap %.3f %%, asked for at most %.3g %%\n",
            certificate->all_groups ? " on all groups" : "",
            hlm_fmt_seconds(certificate->lower_bound_s).text, 100.0 * certificate->gap_frac,
            100.0 * certificate->max_gap_frac);
    fprintf(out, "  %s strategies: %s lost by a bound, %s fit nowhere; %s ILPs, %s simulations\n",
            hlm_fmt_int(certificate->num_columns).text,
            hlm_fmt_int(certificate->num_pruned_by_bound).text,
            hlm_fmt_int(certificate->num_infeasible).text, hlm_fmt_int(certificate->num_ilps).text,
            hlm_fmt_int(certificate->num_simulated).text);
    fprintf(out, "  master ILP over %s %s: %s, bound %s\n",
            hlm_fmt_int(certificate->master.num_columns).text,
            certificate->master.num_columns == 1 ? "strategy" : "strategies",
            hlm_proof_texts[certificate->master.status],
            hlm_fmt_seconds(certificate->master.objective_s).text);
}

void hlm_view_runners_up(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan)
{
    static const char *const headers[] = {">step time", ">slower",   "certain",
                                          "strategy",   "recompute", NULL};
    int32_t num_uncertain = 0;
    if (plan->num_runners_up == 0) {
        return;
    }
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < plan->num_runners_up; i++) {
        const struct hlm_plan_runner_up *runner = &plan->runners_up[i];
        const double slower = runner->step_time_s / plan->prediction.step_time_s - 1.0;
        const char *const cells[] = {
            hlm_arena_strdup(arena, hlm_fmt_seconds(runner->step_time_s).text),
            hlm_arena_strdup(arena, hlm_fmt_percent(slower).text),
            runner->within_uncertainty ? "no" : "yes", hlm_view_strategy(arena, &runner->strategy),
            hlm_view_recompute(arena, runner->stages, runner->num_stages)};
        hlm_text_table_add(&table, cells);
        num_uncertain += runner->within_uncertainty ? 1 : 0;
    }
    fprintf(out, "runners-up\n");
    hlm_text_table_print(&table, out, 2);
    if (num_uncertain > 0) {
        fprintf(out,
                "  certain no: within the profile's uncertainty (%s to %s for the plan) it may be "
                "the faster one; a measurement decides\n",
                hlm_fmt_seconds(plan->prediction.interval.low_s).text,
                hlm_fmt_seconds(plan->prediction.interval.high_s).text);
    }
}

void hlm_view_plan(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan)
{
    hlm_view_summary(out, arena, plan);
    fprintf(out, "\n");
    hlm_view_stages(out, arena, plan);
    fprintf(out, "\n");
    hlm_view_parts(out, arena, &plan->prediction.parts);
    fprintf(out, "\n");
    hlm_view_limits(out, arena, &plan->prediction.parts);
    if (plan->certificate != NULL) {
        fprintf(out, "\n");
        hlm_view_certificate(out, plan->certificate);
    }
    if (plan->certificate != NULL && plan->certificate->offer != NULL) {
        fprintf(out, "\n");
        hlm_view_offer(out, arena, plan);
    }
    if (plan->num_runners_up > 0) {
        fprintf(out, "\n");
        hlm_view_runners_up(out, arena, plan);
    }
}

struct hlm_plan_meta hlm_view_stamp(struct hlm_arena *arena, double search_cpu_s)
{
    return (struct hlm_plan_meta){.search_cpu_s = search_cpu_s,
                                  .date = hlm_cli_date(arena),
                                  .host = hlm_cli_host(arena),
                                  .hlmplan_version = HLM_VERSION};
}

enum hlm_status hlm_view_deliver(const char *text, const char *output, bool json, bool *out_shown,
                                 struct hlm_err *err)
{
    if (output != NULL) {
        HLM_TRY(hlm_file_write(output, text, strlen(text), err));
    }
    *out_shown = json || (output != NULL && strcmp(output, "-") == 0);
    return json && (output == NULL || strcmp(output, "-") != 0) ? hlm_print_text(text, err)
                                                                : HLM_OK;
}

enum hlm_status hlm_view_answer(struct hlm_arena *arena, const struct hlm_plan *plan,
                                double search_cpu_s, const char *output, bool json,
                                struct hlm_err *err)
{
    struct hlm_plan stamped = *plan;
    bool shown = false;
    stamped.meta = hlm_view_stamp(arena, search_cpu_s);
    HLM_TRY(hlm_view_deliver(hlm_json_write(arena, &hlm_plan_table, &stamped, false), output, json,
                             &shown, err));
    if (!shown) {
        hlm_view_plan(stdout, arena, &stamped);
    }
    return HLM_OK;
}
