#include "schedule/simulate_graph.h"

#include <string.h>

double hlm_sim_action_s(const struct hlm_sim_costs *costs, int32_t action)
{
    const double *const durations[HLM_SIM_NUM_KINDS] = {
        [HLM_ACTION_F] = costs->forward_s,
        [HLM_ACTION_B] = costs->backward_s,
        [HLM_ACTION_I] = costs->input_grad_s,
        [HLM_ACTION_W] = costs->weight_grad_s,
    };
    return hlm_sim_at(durations[action % HLM_SIM_NUM_KINDS], action / HLM_SIM_NUM_KINDS);
}

static struct hlm_sim_edge edge_into(const struct hlm_sim_graph *graph, int32_t action,
                                     int32_t need)
{
    struct hlm_sim_edge edge = {.from = need};
    const struct hlm_sim_order *order = graph->order;
    const int32_t stage = action / HLM_SIM_NUM_KINDS, kind = action % HLM_SIM_NUM_KINDS;
    const int32_t giver = stage + (kind == HLM_ACTION_F ? -1 : 1);
    if (need != HLM_SIM_NOBODY && order->stage_rank[giver] != order->stage_rank[stage]) {
        edge.link = giver < stage ? 2 * giver + 1 : 2 * stage + 2;
    }
    return edge;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static void fill_times(struct hlm_arena *scratch, struct hlm_sim_graph *graph,
                       const struct hlm_sim_costs *costs)
{
    const int32_t n = graph->order->num_stages;
    graph->action_s = HLM_ARENA_ARRAY(scratch, double, (size_t)n *HLM_SIM_NUM_KINDS);
    graph->transfer_s = HLM_ARENA_ARRAY(scratch, double, 2 * (size_t)n + 1);
    for (int32_t i = 0; i < n * HLM_SIM_NUM_KINDS; i++) {
        graph->action_s[i] = hlm_sim_action_s(costs, i);
    }
    for (int32_t s = 0; s + 1 < n; s++) {
        graph->transfer_s[2 * s + 1] = hlm_sim_at(costs->send_forward_s, s);
        graph->transfer_s[2 * s + 2] = hlm_sim_at(costs->send_backward_s, s + 1);
    }
}

static void fill_heads(struct hlm_arena *scratch, struct hlm_sim_graph *graph)
{
    const struct hlm_sim_order *order = graph->order;
    int32_t *before = HLM_ARENA_ARRAY(scratch, int32_t, order->num_ranks);
    for (int32_t rank = 0; rank < order->num_ranks; rank++) {
        before[rank] = HLM_SIM_NOBODY;
    }
    for (int32_t i = 0; i < order->num_places; i++) {
        const struct hlm_sim_place *place = &order->places[i];
        const int32_t rank = order->stage_rank[place->action / HLM_SIM_NUM_KINDS];
        struct hlm_sim_edge *inputs = graph->inputs[i];
        inputs[0] = (struct hlm_sim_edge){.from = before[rank]};
        inputs[1] = edge_into(graph, place->action, place->need);
        inputs[2] = place->other == HLM_SIM_NOBODY
                        ? (struct hlm_sim_edge){.from = HLM_SIM_NOBODY}
                        : edge_into(graph, place->other, place->other_need);
        graph->duration_s[i] =
            graph->action_s[place->action] +
            (place->other == HLM_SIM_NOBODY ? 0.0 : graph->action_s[place->other]);
        graph->rank[i] = rank;
        for (int k = 0; k < HLM_SIM_MAX_INPUTS; k++) {
            const int32_t from = inputs[k].from;
            if (from != HLM_SIM_NOBODY) {
                graph->head_s[i] =
                    larger(graph->head_s[i], graph->head_s[from] + graph->duration_s[from] +
                                                 graph->transfer_s[inputs[k].link]);
            }
        }
        *(before[rank] == HLM_SIM_NOBODY ? &graph->first[rank] : &graph->next[before[rank]]) = i;
        graph->next[i] = HLM_SIM_NOBODY;
        before[rank] = i;
    }
}

static void fill_tails(struct hlm_sim_graph *graph, const struct hlm_sim_costs *costs)
{
    for (int32_t stage = 0; stage < graph->order->num_stages; stage++) {
        graph->reduce_s[graph->order->stage_rank[stage]] += hlm_sim_at(costs->reduce_s, stage);
    }
    for (int32_t i = 0; i < graph->order->num_places; i++) {
        if (graph->next[i] == HLM_SIM_NOBODY) {
            const double reduce_s = graph->reduce_s[graph->rank[i]];
            graph->tail_s[i] = reduce_s;
            graph->total_s =
                larger(graph->total_s, graph->head_s[i] + graph->duration_s[i] + reduce_s);
        }
    }
    for (int32_t i = graph->order->num_places - 1; i >= 0; i--) {
        for (int k = 0; k < HLM_SIM_MAX_INPUTS; k++) {
            const struct hlm_sim_edge *edge = &graph->inputs[i][k];
            if (edge->from != HLM_SIM_NOBODY) {
                graph->tail_s[edge->from] =
                    larger(graph->tail_s[edge->from],
                           graph->transfer_s[edge->link] + graph->duration_s[i] + graph->tail_s[i]);
            }
        }
    }
}

/* Whether the longest path from the end of edge->from goes over the edge. */
static bool leaves_tight(const struct hlm_sim_graph *graph, int32_t place,
                         const struct hlm_sim_edge *edge)
{
    return edge->from != HLM_SIM_NOBODY &&
           graph->transfer_s[edge->link] + graph->duration_s[place] + graph->tail_s[place] >=
               graph->tail_s[edge->from] - hlm_sim_tie_frac * graph->total_s;
}

static void fill_ways(struct hlm_arena *scratch, struct hlm_sim_graph *graph)
{
    const int32_t num_places = graph->order->num_places;
    int32_t *begin = HLM_ARENA_ARRAY(scratch, int32_t, num_places + 1);
    graph->ways =
        HLM_ARENA_ARRAY(scratch, struct hlm_sim_way, (size_t)num_places * HLM_SIM_MAX_INPUTS);
    for (int32_t i = 0; i < num_places; i++) {
        for (int k = 0; k < HLM_SIM_MAX_INPUTS; k++) {
            if (leaves_tight(graph, i, &graph->inputs[i][k])) {
                begin[graph->inputs[i][k].from + 1]++;
            }
        }
    }
    for (int32_t i = 0; i < num_places; i++) {
        begin[i + 1] += begin[i];
    }
    graph->ways_begin = HLM_ARENA_ARRAY(scratch, int32_t, num_places + 1);
    memcpy(graph->ways_begin, begin, ((size_t)num_places + 1) * sizeof(*begin));
    for (int32_t i = 0; i < num_places; i++) {
        for (int k = 0; k < HLM_SIM_MAX_INPUTS; k++) {
            const struct hlm_sim_edge *edge = &graph->inputs[i][k];
            if (leaves_tight(graph, i, edge)) {
                graph->ways[begin[edge->from]++] = (struct hlm_sim_way){i, edge->link};
            }
        }
    }
}

struct hlm_sim_graph hlm_sim_graph_new(struct hlm_arena *scratch, const struct hlm_sim_order *order,
                                       const struct hlm_sim_costs *costs)
{
    struct hlm_sim_graph graph = {.order = order,
                                  .duration_s = HLM_ARENA_ARRAY(scratch, double, order->num_places),
                                  .head_s = HLM_ARENA_ARRAY(scratch, double, order->num_places),
                                  .tail_s = HLM_ARENA_ARRAY(scratch, double, order->num_places),
                                  .rank = HLM_ARENA_ARRAY(scratch, int32_t, order->num_places),
                                  .reduce_s = HLM_ARENA_ARRAY(scratch, double, order->num_ranks),
                                  .first = HLM_ARENA_ARRAY(scratch, int32_t, order->num_ranks),
                                  .next = HLM_ARENA_ARRAY(scratch, int32_t, order->num_places)};
    graph.inputs = hlm_arena_alloc(scratch, (size_t)order->num_places,
                                   sizeof(struct hlm_sim_edge[HLM_SIM_MAX_INPUTS]));
    fill_times(scratch, &graph, costs);
    fill_heads(scratch, &graph);
    fill_tails(&graph, costs);
    fill_ways(scratch, &graph);
    return graph;
}
