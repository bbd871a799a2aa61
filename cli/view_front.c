#include "cli/view_front.h"

#include "base/fmt.h"
#include "cli/text_table.h"
#include "cli/view.h"

static const char *copy(struct hlm_arena *arena, struct hlm_fmt text)
{
    return hlm_arena_strdup(arena, text.text);
}

/* "2.31" for a million tokens. */
static const char *price_text(struct hlm_arena *arena, double cost_per_token)
{
    return hlm_arena_printf(arena, "%.4g", 1e6 * cost_per_token);
}

static int64_t devices_of(const struct hlm_plan_offer *offer,
                          const struct hlm_plan_subcluster *subcluster, int32_t group)
{
    return (int64_t)subcluster->num_nodes[group] * offer->cluster.groups[group].devices_per_node;
}

/* "16 h100-sxm-80g + 8 a100-sxm-80g". */
static const char *subcluster_text(struct hlm_arena *arena, const struct hlm_plan_offer *offer,
                                   const struct hlm_plan_subcluster *subcluster)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t g = 0; g < subcluster->num_groups; g++) {
        if (subcluster->num_nodes[g] > 0) {
            hlm_text_printf(&text, "%s%s %s", text.length > 0 ? " + " : "",
                            hlm_fmt_int(devices_of(offer, subcluster, g)).text,
                            offer->cluster.groups[g].name);
        }
    }
    return text.text;
}

static const char *count_subclusters(struct hlm_arena *arena, const struct hlm_plan_offer *offer)
{
    static const char *const texts[] = {
        [HLM_SUBCLUSTER_PLANNED] = "planned",
        [HLM_SUBCLUSTER_BEATEN] = "lost by a bound",
        [HLM_SUBCLUSTER_OPEN] = "whose fastest plan needs more of the hosts than they have",
        [HLM_SUBCLUSTER_INFEASIBLE] = "on which nothing fits"};
    struct hlm_text text;
    hlm_text_init(&text, arena);
    hlm_text_printf(&text, "%s subclusters:", hlm_fmt_int(offer->num_subclusters).text);
    const char *before = "";
    for (int32_t outcome = 0; outcome <= HLM_SUBCLUSTER_INFEASIBLE; outcome++) {
        int32_t count = 0;
        for (int32_t i = 0; i < offer->num_subclusters; i++) {
            count += (int32_t)offer->subclusters[i].outcome == outcome ? 1 : 0;
        }
        if (count > 0) {
            hlm_text_printf(&text, "%s %s %s", before, hlm_fmt_int(count).text, texts[outcome]);
            before = ",";
        }
    }
    return text.text;
}

/* --- the cheapest plan --- */

static double plan_tokens(const struct hlm_plan *plan)
{
    return (double)plan->strategy.global_batch_size * (double)plan->strategy.seq_len;
}

/* Parts with a plan by its price: at most MAX_SHOWN, indices into the offer. */
enum { MAX_SHOWN = 6 };
static int32_t find_shown(const struct hlm_plan_offer *offer, int32_t shown[MAX_SHOWN])
{
    int32_t num = 0;
    for (int32_t i = 0; i < offer->num_subclusters; i++) {
        const struct hlm_plan_subcluster *subcluster = &offer->subclusters[i];
        const double cost = subcluster->price_per_hour * subcluster->step_time_s;
        if (subcluster->outcome != HLM_SUBCLUSTER_PLANNED) {
            continue;
        }
        int32_t at = num < MAX_SHOWN ? num++ : MAX_SHOWN;
        for (; at > 0; at--) {
            const struct hlm_plan_subcluster *before = &offer->subclusters[shown[at - 1]];
            if (before->price_per_hour * before->step_time_s <= cost) {
                break;
            }
            if (at < MAX_SHOWN) {
                shown[at] = shown[at - 1];
            }
        }
        if (at < MAX_SHOWN) {
            shown[at] = i;
        }
    }
    return num;
}

static void print_subclusters(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan)
{
    static const char *const headers[] = {"devices", ">step time", ">price",
                                          ">dearer", "certain",    NULL};
    const struct hlm_plan_offer *offer = plan->certificate->offer;
    const double own = plan->prediction.cost_per_token;
    int32_t shown[MAX_SHOWN];
    bool any_uncertain = false;
    const int32_t num = find_shown(offer, shown);
    struct hlm_text_table table;
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < num; i++) {
        const struct hlm_plan_subcluster *subcluster = &offer->subclusters[shown[i]];
        const double cost = hlm_plan_cost_per_token(subcluster->price_per_hour,
                                                    subcluster->step_time_s, plan_tokens(plan));
        const bool is_plan = cost <= own * (1 + 1e-9);
        const bool uncertain = !is_plan && hlm_plan_may_be_cheaper(subcluster, plan);
        const char *certain = is_plan ? "the plan" : uncertain ? "no" : "yes";
        any_uncertain = any_uncertain || uncertain;
        const char *const cells[] = {
            subcluster_text(arena, offer, subcluster),
            copy(arena, hlm_fmt_seconds(subcluster->step_time_s)), price_text(arena, cost),
            is_plan ? "" : copy(arena, hlm_fmt_percent(cost / own - 1)), certain};
        hlm_text_table_add(&table, cells);
    }
    hlm_text_table_print(&table, out, 2);
    if (any_uncertain) {
        fprintf(out, "  certain no: within the profile's uncertainty it may be the cheaper one\n");
    }
}

static void print_kept(FILE *out, const struct hlm_plan_offer *offer, double own)
{
    for (int32_t i = 0; i < offer->num_kept; i++) {
        const struct hlm_plan_kept *kept = &offer->kept[i];
        fprintf(out,
                "  without %s; the cheapest plan with it costs %.4g, %s more (at least %s more)\n",
                offer->cluster.groups[kept->group].name, 1e6 * kept->cost_per_token,
                hlm_fmt_percent(kept->cost_per_token / own - 1).text,
                hlm_fmt_percent(kept->least_cost_per_token / own - 1).text);
    }
}

void hlm_view_offer(FILE *out, struct hlm_arena *arena, const struct hlm_plan *plan)
{
    if (plan->certificate == NULL || plan->certificate->offer == NULL) {
        return;
    }
    const struct hlm_plan_offer *offer = plan->certificate->offer;
    fprintf(out, "by price (per million tokens), out of %s\n", offer->cluster.name);
    fprintf(out, "  no plan on any subcluster is cheaper than %.4g: gap %.3f %%\n",
            1e6 * offer->least_cost_per_token, 100.0 * offer->gap_frac);
    fprintf(out, "  %s\n", count_subclusters(arena, offer));
    print_kept(out, offer, plan->prediction.cost_per_token);
    print_subclusters(out, arena, plan);
}

/* --- the front --- */

static void add_point(struct hlm_text_table *table, struct hlm_arena *arena,
                      const struct hlm_front *front, int32_t index)
{
    const struct hlm_front_point *point = &front->points[index];
    const char *const cells[] = {
        hlm_arena_printf(arena, "%d", index + 1),
        subcluster_text(arena, &front->offer, &front->offer.subclusters[point->subcluster]),
        copy(arena, hlm_fmt_seconds(point->step_time_s)),
        copy(arena, hlm_fmt_count(point->tokens_per_s)),
        price_text(arena, point->cost_per_token),
        hlm_arena_printf(arena, "%.3f %%", 100.0 * point->gap_frac),
        point->within_uncertainty ? "no" : "yes",
        hlm_view_strategy(arena, &point->strategy)};
    hlm_text_table_add(table, cells);
}

void hlm_view_front(FILE *out, struct hlm_arena *arena, const struct hlm_front *front)
{
    static const char *const headers[] = {">#",   "devices", ">step time", ">tokens/s", ">price",
                                          ">gap", "certain", "strategy",   NULL};
    const struct hlm_strategy *given = &front->points[0].strategy;
    struct hlm_text_table table;
    bool uncertain = false;
    fprintf(out, "%s on subclusters of %s, global batch %s, sequence length %s, lowering %s\n\n",
            front->model.name, front->offer.cluster.name,
            hlm_fmt_int(given->global_batch_size).text, hlm_fmt_int(given->seq_len).text,
            hlm_lowering_texts[given->lowering]);
    fprintf(out, "step time against price (per million tokens): none of these is beaten in both\n");
    hlm_text_table_init(&table, arena, headers);
    for (int32_t i = 0; i < front->num_points; i++) {
        add_point(&table, arena, front, i);
        uncertain = uncertain || front->points[i].within_uncertainty;
    }
    hlm_text_table_print(&table, out, 2);
    if (uncertain) {
        fprintf(out, "  certain no: within the profile's uncertainty another point may be both "
                     "faster and cheaper\n");
    }
    fprintf(
        out,
        "\ncertificate\n  no plan on any subcluster is faster than %s, none is cheaper than %.4g\n",
        hlm_fmt_seconds(front->least_step_s).text, 1e6 * front->offer.least_cost_per_token);
    fprintf(out,
            "  none is both faster and cheaper than a point by more than the point's gap, and none "
            "is missing by more than %.3f %%, asked for at most %.3g %%\n",
            100.0 * front->gap_frac, 100.0 * front->max_gap_frac);
    fprintf(out, "  %s\n", count_subclusters(arena, &front->offer));
}

enum hlm_status hlm_view_front_answer(struct hlm_arena *arena, const struct hlm_front *front,
                                      double search_cpu_s, const char *output, bool json,
                                      struct hlm_err *err)
{
    struct hlm_front stamped = *front;
    bool shown = false;
    stamped.meta = hlm_view_stamp(arena, search_cpu_s);
    HLM_TRY(hlm_view_deliver(hlm_json_write(arena, &hlm_front_table, &stamped, false), output, json,
                             &shown, err));
    if (!shown) {
        hlm_view_front(stdout, arena, &stamped);
    }
    return HLM_OK;
}
