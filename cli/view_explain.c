#include "cli/view_explain.h"

#include <math.h>
#include <string.h>

#include "base/fmt.h"
#include "cli/text_table.h"
#include "cli/view.h"

/* Parts of the step that differ by less are left out. */
static const double shown_frac = 0.0005;

static const char *seconds_text(struct hlm_arena *arena, double seconds)
{
    return hlm_arena_strdup(arena, hlm_fmt_seconds(seconds).text);
}

static const char *bytes_text(struct hlm_arena *arena, int64_t bytes)
{
    return hlm_arena_strdup(arena, hlm_fmt_bytes((double)bytes).text);
}

static const char *signed_seconds(struct hlm_arena *arena, double seconds)
{
    return hlm_arena_printf(arena, "%s%s", seconds > 0.0 ? "+" : "", hlm_fmt_seconds(seconds).text);
}

static const char *signed_bytes(struct hlm_arena *arena, int64_t bytes)
{
    return hlm_arena_printf(arena, "%s%s", bytes > 0 ? "+" : "", hlm_fmt_bytes((double)bytes).text);
}

/* "parameters_bytes" is "parameters". */
static const char *memory_kind_text(struct hlm_arena *arena, enum hlm_memory_kind kind)
{
    const char *text = hlm_memory_kind_texts[kind];
    const char *unit = strstr(text, "_bytes");
    return hlm_arena_strndup(arena, text, unit != NULL ? (size_t)(unit - text) : strlen(text));
}

/* ---- what limits it ---- */

static void print_shares(FILE *out, struct hlm_arena *arena,
                         const struct hlm_explain_limits *limits)
{
    fprintf(out, "what limits it: ");
    for (int32_t i = 0; i < limits->num_shares; i++) {
        const struct hlm_explain_share *share = &limits->shares[i];
        if (share->frac >= shown_frac) {
            fprintf(out, "%s%s %.1f %%", i > 0 ? ", " : "",
                    hlm_view_part_name(arena, hlm_explain_limit_texts[share->limit]),
                    100.0 * share->frac);
        }
    }
    fprintf(out, "\n");
}

static void print_stages(FILE *out, struct hlm_arena *arena,
                         const struct hlm_explanation *explanation)
{
    const struct hlm_explain_limits *limits = explanation->limits;
    if (explanation->strategy.pp > 1) {
        fprintf(out, "  slowest stage: %d, %s a microbatch; pipeline rank %d ends last\n",
                limits->slowest_stage, hlm_fmt_seconds(limits->slowest_stage_s).text,
                limits->last_rank);
    }
    fprintf(out, "  fullest stage: %d, %s of memory left; it holds most in %s\n",
            limits->fullest_stage, hlm_fmt_bytes((double)limits->headroom_bytes).text,
            memory_kind_text(arena, limits->most));
}

static void print_traffic(FILE *out, struct hlm_arena *arena,
                          const struct hlm_explanation *explanation)
{
    static const char *const headers[] = {"traffic",  "link",   ">ranks", ">nodes",
                                          ">exposed", ">share", NULL};
    const struct hlm_explain_limits *limits = explanation->limits;
    if (limits->num_traffic == 0) {
        return;
    }
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < limits->num_traffic; i++) {
        const struct hlm_explain_traffic *traffic = &limits->traffic[i];
        const char *const cells[] = {
            traffic->limit == HLM_EXPLAIN_LIMIT_TRANSFER
                ? "pipeline"
                : hlm_view_part_name(arena, hlm_explain_limit_texts[traffic->limit]),
            traffic->link == HLM_EXPLAIN_LINK_INTRA_NODE ? "inside a node" : "between nodes",
            hlm_arena_printf(arena, "%d", traffic->num_ranks),
            hlm_arena_printf(arena, "%d", traffic->num_nodes),
            seconds_text(arena, traffic->exposed_s),
            hlm_arena_printf(arena, "%.1f %%",
                             100.0 * traffic->exposed_s / explanation->step_time_s)};
        hlm_text_table_add(&table, cells);
    }
    fprintf(out, "\nlinks\n");
    hlm_text_table_print(&table, out, 2);
}

/* ---- what would help ---- */

static const char *gain_text(struct hlm_arena *arena, double frac)
{
    return fabs(frac) < shown_frac ? "none" : hlm_arena_printf(arena, "%+.1f %%", 100.0 * frac);
}

/* "x 2", "+ 10 %", "x 0.5" */
static const char *input_text(struct hlm_arena *arena, const struct hlm_explain_gain *gain)
{
    const char *name = hlm_view_part_name(arena, hlm_explain_input_texts[gain->input]);
    return gain->factor > 1.0 && gain->factor < 2.0
               ? hlm_arena_printf(arena, "%s + %.3g %%", name, 100.0 * (gain->factor - 1.0))
               : hlm_arena_printf(arena, "%s x %.3g", name, gain->factor);
}

static void add_gain(struct hlm_text_table *table, struct hlm_arena *arena,
                     const struct hlm_explain_gain *gain)
{
    const char *const cells[] = {
        input_text(arena, gain), hlm_arena_strdup(arena, hlm_fmt_count(gain->tokens_per_s).text),
        gain_text(arena, gain->gain_frac), gain_text(arena, gain->most_gain_frac),
        gain->same_strategy ? "the same" : hlm_view_strategy(arena, &gain->strategy)};
    hlm_text_table_add(table, cells);
}

static void print_gains(FILE *out, struct hlm_arena *arena,
                        const struct hlm_explanation *explanation)
{
    static const char *const headers[] = {"with",     ">tokens/s", ">gain",
                                          ">at most", "strategy",  NULL};
    const struct hlm_explain_limits *limits = explanation->limits;
    fprintf(out, "\nwhat would help (the best plan for each change)\n");
    if (limits->not_searched != NULL) {
        fprintf(out, "  not known: %s\n", limits->not_searched);
        return;
    }
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < limits->num_gains; i++) {
        add_gain(&table, arena, &limits->gains[i]);
    }
    hlm_text_table_print(&table, out, 2);
    if (limits->best_step_time_s < explanation->step_time_s * (1 - shown_frac)) {
        fprintf(out, "  gains are over the best plan as things are, which takes %s a step\n",
                hlm_fmt_seconds(limits->best_step_time_s).text);
    }
}

void hlm_view_explain_limits(FILE *out, struct hlm_arena *arena,
                             const struct hlm_explanation *explanation)
{
    print_shares(out, arena, explanation->limits);
    print_stages(out, arena, explanation);
    print_traffic(out, arena, explanation);
    print_gains(out, arena, explanation);
}

/* ---- why not: does not fit ---- */

static const char *against_text(struct hlm_arena *arena, double slower_frac)
{
    return fabs(slower_frac) < shown_frac
               ? "as fast as"
               : hlm_arena_printf(arena, "%.1f %% %s than", 100.0 * fabs(slower_frac),
                                  slower_frac < 0.0 ? "faster" : "slower");
}

static void print_misfit(FILE *out, struct hlm_arena *arena,
                         const struct hlm_explanation *explanation,
                         const struct hlm_explain_misfit *misfit)
{
    const struct hlm_stage_memory *memory = &misfit->memory;
    fprintf(out, "  does not fit: the closest misses %s on stage %d of %d\n",
            hlm_fmt_bytes((double)misfit->missing_bytes).text, memory->stage, misfit->strategy.pp);
    fprintf(out, "  closest: %s\n  needs %s, a device has %s:",
            hlm_view_strategy(arena, &misfit->strategy),
            hlm_fmt_bytes((double)memory->peak_bytes).text,
            hlm_fmt_bytes((double)memory->limit_bytes).text);
    for (int32_t kind = 0; kind < HLM_NUM_MEMORY_KINDS; kind++) {
        fprintf(out, "%s%s %s%s", kind > 0 ? ", " : " ",
                memory_kind_text(arena, (enum hlm_memory_kind)kind),
                hlm_fmt_bytes((double)memory->bytes[kind]).text,
                kind == (int32_t)misfit->most ? " (most)" : "");
    }
    fprintf(out, "\n");
    for (int32_t i = 0; i < misfit->num_changes; i++) {
        const struct hlm_explain_change *change = &misfit->changes[i];
        const char *what = change->memory_bytes > 0
                               ? hlm_arena_printf(arena, "devices of %s",
                                                  hlm_fmt_bytes((double)change->memory_bytes).text)
                               : change->change;
        fprintf(out, "  %s %s: %s a step, %s the plan\n",
                i == 0 ? "fits at the least cost with" : "or with", what,
                hlm_fmt_seconds(change->step_time_s).text,
                against_text(arena, change->step_time_s / explanation->step_time_s - 1.0));
    }
}

/* ---- why not: another step ---- */

static void add_delta(struct hlm_text_table *table, struct hlm_arena *arena,
                      const struct hlm_explain_delta *delta, double step_s, int depth)
{
    if (depth > 0 && fabs(delta->delta_s) < shown_frac * step_s) {
        return;
    }
    const char *const cells[] = {
        hlm_arena_printf(arena, "%*s%s", 2 * depth, "", hlm_view_part_name(arena, delta->name)),
        seconds_text(arena, delta->plan_s), seconds_text(arena, delta->alternative_s),
        signed_seconds(arena, delta->delta_s)};
    hlm_text_table_add(table, cells);
    for (int32_t i = 0; i < delta->num_parts; i++) {
        add_delta(table, arena, &delta->parts[i], step_s, depth + 1);
    }
}

static void print_parts(FILE *out, struct hlm_arena *arena, const struct hlm_explain_delta *step)
{
    static const char *const headers[] = {"part", ">plan", ">alternative", ">difference", NULL};
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    add_delta(&table, arena, step, step->plan_s, 0);
    fprintf(out, "\nwhere it differs\n");
    hlm_text_table_print(&table, out, 2);
}

static int64_t largest_peak(const struct hlm_explain_difference *difference, bool of_plan)
{
    int64_t largest = 0;
    for (int32_t s = 0; s < difference->num_memory; s++) {
        const struct hlm_explain_memory *memory = &difference->memory[s];
        const int64_t peak = of_plan ? memory->plan_peak_bytes : memory->alternative_peak_bytes;
        largest = peak > largest ? peak : largest;
    }
    return largest;
}

static void print_memory(FILE *out, struct hlm_arena *arena,
                         const struct hlm_explain_difference *difference, bool same_pp)
{
    static const char *const headers[] = {
        ">stage", ">plan", ">alternative", ">difference", ">states", ">activations", NULL};
    fprintf(out, "\nmemory: fullest stage %s, of the plan %s\n",
            hlm_fmt_bytes((double)largest_peak(difference, false)).text,
            hlm_fmt_bytes((double)largest_peak(difference, true)).text);
    if (!same_pp) {
        return; /* stages hold other layers */
    }
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t s = 0; s < difference->num_memory; s++) {
        const struct hlm_explain_memory *memory = &difference->memory[s];
        const int64_t *delta = memory->delta_bytes;
        const char *const cells[] = {
            hlm_arena_printf(arena, "%d", memory->stage),
            bytes_text(arena, memory->plan_peak_bytes),
            bytes_text(arena, memory->alternative_peak_bytes),
            signed_bytes(arena, memory->alternative_peak_bytes - memory->plan_peak_bytes),
            signed_bytes(arena, delta[HLM_MEMORY_PARAMETERS] + delta[HLM_MEMORY_GRADIENTS] +
                                    delta[HLM_MEMORY_OPTIMIZER]),
            signed_bytes(arena, delta[HLM_MEMORY_ACTIVATIONS])};
        hlm_text_table_add(&table, cells);
    }
    hlm_text_table_print(&table, out, 2);
}

static const char *slower_text(struct hlm_arena *arena, double step_s, double plan_step_s)
{
    const double delta_s = step_s - plan_step_s;
    return hlm_arena_printf(arena, "%s (%.2f %%) %s", hlm_fmt_seconds(fabs(delta_s)).text,
                            100.0 * fabs(delta_s) / plan_step_s, delta_s < 0 ? "faster" : "slower");
}

static void print_difference(FILE *out, struct hlm_arena *arena,
                             const struct hlm_explanation *explanation,
                             const struct hlm_explain_difference *difference)
{
    fprintf(out, "  best: %s, recompute %s\n", hlm_view_strategy(arena, &difference->strategy),
            hlm_view_recompute(arena, difference->stages, difference->num_stages));
    fprintf(out, "  %s a step, %s than the plan's %s\n",
            hlm_fmt_seconds(difference->step_time_s).text,
            slower_text(arena, difference->step_time_s, explanation->step_time_s),
            hlm_fmt_seconds(explanation->step_time_s).text);
    if (difference->lower_bound_s > 0.0) {
        fprintf(out, "  nothing of this kind is faster than %s\n",
                hlm_fmt_seconds(difference->lower_bound_s).text);
    }
    if (difference->within_uncertainty) {
        fprintf(out,
                "  within the profile's uncertainty (%s to %s against %s to %s): a measurement "
                "may say otherwise\n",
                hlm_fmt_seconds(difference->interval.low_s).text,
                hlm_fmt_seconds(difference->interval.high_s).text,
                hlm_fmt_seconds(explanation->interval.low_s).text,
                hlm_fmt_seconds(explanation->interval.high_s).text);
    }
    print_parts(out, arena, &difference->parts);
    print_memory(out, arena, difference, difference->strategy.pp == explanation->strategy.pp);
}

void hlm_view_explain_alternative(FILE *out, struct hlm_arena *arena,
                                  const struct hlm_explanation *explanation,
                                  const struct hlm_explain_alternative *alternative)
{
    fprintf(out, "why not %s?\n", alternative->asked);
    switch (alternative->verdict) {
    case HLM_EXPLAIN_ILLEGAL:
        fprintf(out, "  not legal: %s\n", alternative->rule);
        return;
    case HLM_EXPLAIN_DOES_NOT_FIT:
        print_misfit(out, arena, explanation, alternative->misfit);
        return;
    case HLM_EXPLAIN_SAME:
        fprintf(out, "  the plan is the best of this kind already\n");
        return;
    default:
        print_difference(out, arena, explanation, alternative->difference);
    }
}

/* ---- runners-up ---- */

/* The leaf that differs most towards the difference of the whole. */
static void find_main_part(struct hlm_arena *arena, const struct hlm_explain_delta *delta,
                           const char *path, double sign, double *most_s, const char **out)
{
    if (delta->num_parts == 0 && sign * delta->delta_s > *most_s) {
        *most_s = sign * delta->delta_s;
        *out = path;
    }
    for (int32_t i = 0; i < delta->num_parts; i++) {
        const char *name = hlm_view_part_name(arena, delta->parts[i].name);
        find_main_part(arena, &delta->parts[i],
                       path[0] == '\0' ? name : hlm_arena_printf(arena, "%s: %s", path, name), sign,
                       most_s, out);
    }
}

static const char *main_part(struct hlm_arena *arena, const struct hlm_explain_delta *step)
{
    const char *path = "-";
    double most_s = 0.0;
    const double sign = step->delta_s < 0.0 ? -1.0 : 1.0;
    find_main_part(arena, step, "", sign, &most_s, &path);
    return most_s > 0.0
               ? hlm_arena_printf(arena, "%s %s", path, signed_seconds(arena, sign * most_s))
               : path;
}

void hlm_view_explain_runners_up(FILE *out, struct hlm_arena *arena,
                                 const struct hlm_explanation *explanation)
{
    static const char *const headers[] = {">step time", ">slower",  "mostly",
                                          "certain",    "strategy", NULL};
    if (explanation->num_alternatives == 0) {
        return;
    }
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < explanation->num_alternatives; i++) {
        const struct hlm_explain_difference *difference = explanation->alternatives[i].difference;
        const char *const cells[] = {
            seconds_text(arena, difference->step_time_s),
            hlm_arena_strdup(
                arena,
                hlm_fmt_percent(difference->step_time_s / explanation->step_time_s - 1).text),
            main_part(arena, &difference->parts),
            difference->within_uncertainty ? "no: within the profile's uncertainty" : "yes",
            hlm_view_strategy(arena, &difference->strategy)};
        hlm_text_table_add(&table, cells);
    }
    fprintf(out, "\nwhy not the runners-up\n");
    hlm_text_table_print(&table, out, 2);
}
