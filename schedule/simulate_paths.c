#include "schedule/simulate_paths.h"

#include "schedule/simulate_graph.h"

/* A row is the mean over the chunks through which the rank's longest path is within this. */
static const double near_frac = 2e-3;

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* ---- one row ---- */

/* Where the longest path enters the rank's list with a forward of a chunk, or leaves it behind a
 * gradient of one: the place, and the length of the path outside less what the list has in front
 * (behind). */
struct gate {
    int32_t place;
    double value_s;
};

struct row_maker {
    struct hlm_arena *arena;
    const struct hlm_sim_graph *graph;
    double *share_in, *share_out; /* [num_places]: of the flow that comes from, goes to, outside */
    uint64_t *marks;              /* [num_places / 64 + 1] bits: places with a share to pass on */
    double *actions, *transfers, *ends;
};

static void take_gate(struct gate *gate, int32_t place, double value_s, bool later, double slack_s)
{
    if (gate->place == HLM_SIM_NOBODY || value_s > gate->value_s + slack_s ||
        (later && value_s >= gate->value_s - slack_s)) {
        *gate = (struct gate){place, larger(value_s, gate->value_s)};
    }
}

/* The gates of a rank: ins and outs [num_stages] by stage, HLM_SIM_NOBODY where the stage is
 * another's. */
static void find_gates(const struct hlm_sim_graph *graph, int32_t rank, struct gate *ins,
                       struct gate *outs)
{
    const struct hlm_sim_order *order = graph->order;
    const double slack_s = hlm_sim_tie_frac * graph->total_s;
    double before_s = 0.0;
    for (int32_t stage = 0; stage < order->num_stages; stage++) {
        ins[stage] = outs[stage] = (struct gate){HLM_SIM_NOBODY, 0.0};
    }
    for (int32_t i = graph->first[rank]; i != HLM_SIM_NOBODY; i = graph->next[i]) {
        const int32_t stage = order->places[i].action / HLM_SIM_NUM_KINDS;
        if (order->places[i].action % HLM_SIM_NUM_KINDS == HLM_ACTION_F) {
            take_gate(&ins[stage], i, graph->head_s[i] - before_s, false, slack_s);
        } else {
            take_gate(&outs[stage], i, before_s + graph->duration_s[i] + graph->tail_s[i], true,
                      slack_s);
        }
        before_s += graph->duration_s[i];
    }
}

/* Shares 1 among the gates that are as good as the best, or nearly; *out_edge: the last of the ways
 * in, or the first of the ways out. */
static void open_gates(const struct hlm_sim_graph *graph, const struct gate *gates, double *shares,
                       bool in, int32_t *out_edge)
{
    const int32_t num_stages = graph->order->num_stages;
    int32_t num = 0;
    double best_s = 0.0;
    for (int32_t stage = 0; stage < num_stages; stage++) {
        if (gates[stage].place != HLM_SIM_NOBODY && (num++ == 0 || gates[stage].value_s > best_s)) {
            best_s = gates[stage].value_s;
        }
    }
    const double least_s = best_s - near_frac * graph->total_s;
    num = 0;
    for (int32_t stage = 0; stage < num_stages; stage++) {
        num += gates[stage].place != HLM_SIM_NOBODY && gates[stage].value_s >= least_s ? 1 : 0;
    }
    *out_edge = HLM_SIM_NOBODY;
    for (int32_t stage = 0; stage < num_stages; stage++) {
        const int32_t place = gates[stage].place;
        if (place != HLM_SIM_NOBODY && gates[stage].value_s >= least_s) {
            shares[place] = 1.0 / num;
            if (*out_edge == HLM_SIM_NOBODY || (in ? place > *out_edge : place < *out_edge)) {
                *out_edge = place;
            }
        }
    }
}

static void count_place(const struct row_maker *maker, int32_t place, double share)
{
    const struct hlm_sim_place *at_place = &maker->graph->order->places[place];
    maker->actions[at_place->action] += share;
    if (at_place->other != HLM_SIM_NOBODY) {
        maker->actions[at_place->other] += share;
    }
}

static void count_link(const struct row_maker *maker, int32_t link, double share)
{
    if (link > 0) {
        maker->transfers[(link - 1) / 2] += share;
    }
}

/* Whether the longest path to the start of the place comes over the edge. */
static bool is_tight(const struct hlm_sim_graph *graph, int32_t place,
                     const struct hlm_sim_edge *edge)
{
    return edge->from != HLM_SIM_NOBODY &&
           graph->head_s[edge->from] + graph->duration_s[edge->from] +
                   graph->transfer_s[edge->link] >=
               graph->head_s[place] - hlm_sim_tie_frac * graph->total_s;
}

/* Places that have a share to pass on are marked: a path has few of all. */
enum { BITS = 64 };

static void mark(uint64_t *marks, int32_t place)
{
    marks[place / BITS] |= (uint64_t)1 << (place % BITS);
}

static void pass_in(const struct row_maker *maker, int32_t place)
{
    const struct hlm_sim_graph *graph = maker->graph;
    int num = 0;
    for (int k = 0; k < HLM_SIM_MAX_INPUTS; k++) {
        num += is_tight(graph, place, &graph->inputs[place][k]) ? 1 : 0;
    }
    for (int k = 0; k < HLM_SIM_MAX_INPUTS; k++) {
        const struct hlm_sim_edge *edge = &graph->inputs[place][k];
        if (is_tight(graph, place, edge)) {
            const double share = maker->share_in[place] / num;
            maker->share_in[edge->from] += share;
            mark(maker->marks, edge->from);
            count_place(maker, edge->from, share);
            count_link(maker, edge->link, share);
        }
    }
    maker->share_in[place] = 0.0;
}

/* From the places that have a share in, the last of them last_in, back to the start of the step,
 * along longest paths, shared equally: inputs stand in front. Leaves no share behind. */
static void flow_in(const struct row_maker *maker, int32_t last_in)
{
    for (int32_t word = last_in / BITS; word >= 0; word--) {
        while (maker->marks[word] != 0) {
            const int32_t bit = BITS - 1 - __builtin_clzll(maker->marks[word]);
            maker->marks[word] &= ~((uint64_t)1 << bit);
            pass_in(maker, word * BITS + bit);
        }
    }
}

static void pass_out(const struct row_maker *maker, int32_t place)
{
    const struct hlm_sim_graph *graph = maker->graph;
    const int32_t begin = graph->ways_begin[place], end = graph->ways_begin[place + 1];
    for (int32_t i = begin; i < end; i++) {
        const struct hlm_sim_way *way = &graph->ways[i];
        const double share = maker->share_out[place] / (end - begin);
        maker->share_out[way->to] += share;
        mark(maker->marks, way->to);
        count_place(maker, way->to, share);
        count_link(maker, way->link, share);
    }
    if (begin == end) {
        maker->ends[graph->rank[place]] += maker->share_out[place];
    }
    maker->share_out[place] = 0.0;
}

/* The same from the places that have a share out, the first of them first_out, to the end. */
static void flow_out(const struct row_maker *maker, int32_t first_out)
{
    const int32_t num_words = maker->graph->order->num_places / BITS + 1;
    for (int32_t word = first_out / BITS; word < num_words; word++) {
        while (maker->marks[word] != 0) {
            const int32_t bit = __builtin_ctzll(maker->marks[word]);
            maker->marks[word] &= ~((uint64_t)1 << bit);
            pass_out(maker, word * BITS + bit);
        }
    }
}

/* Marks the rank's places with a share. */
static void mark_shares(const struct row_maker *maker, int32_t rank, const double *shares)
{
    for (int32_t i = maker->graph->first[rank]; i != HLM_SIM_NOBODY; i = maker->graph->next[i]) {
        if (shares[i] > 0.0) {
            mark(maker->marks, i);
        }
    }
}

static void count_list(const struct row_maker *maker, int32_t rank)
{
    double share = 0.0;
    for (int32_t i = maker->graph->first[rank]; i != HLM_SIM_NOBODY; i = maker->graph->next[i]) {
        share += maker->share_in[i];
        count_place(maker, i, share);
        share -= maker->share_out[i];
    }
}

static int32_t last_place(const struct hlm_sim_graph *graph, int32_t rank)
{
    int32_t last = graph->first[rank];
    while (graph->next[last] != HLM_SIM_NOBODY) {
        last = graph->next[last];
    }
    return last;
}

static void clear_gates(const struct row_maker *maker, const struct gate *gates, double *shares)
{
    for (int32_t stage = 0; stage < maker->graph->order->num_stages; stage++) {
        if (gates[stage].place != HLM_SIM_NOBODY) {
            shares[gates[stage].place] = 0.0;
        }
    }
}

static struct row_maker start_row(const struct row_maker *base)
{
    const struct hlm_sim_order *order = base->graph->order;
    struct row_maker maker = *base;
    maker.actions =
        HLM_ARENA_ARRAY(maker.arena, double, (size_t)order->num_stages *HLM_SIM_NUM_KINDS);
    maker.transfers = HLM_ARENA_ARRAY(maker.arena, double, order->num_stages);
    maker.ends = HLM_ARENA_ARRAY(maker.arena, double, order->num_ranks);
    return maker;
}

static void finish_row(const struct row_maker *maker, int32_t rank, struct hlm_path_row *out)
{
    *out = (struct hlm_path_row){.rank = rank,
                                 .actions = maker->actions,
                                 .transfers = maker->transfers,
                                 .ends = maker->ends};
}

/* whole: the path has all of the rank's list, else what lies between the best gates. */
static void make_row(const struct row_maker *base, int32_t rank, bool whole, struct gate *ins,
                     struct gate *outs, struct hlm_path_row *out)
{
    const struct row_maker maker = start_row(base);
    int32_t last_in = base->graph->first[rank], first_out = last_place(base->graph, rank);
    if (!whole) {
        find_gates(base->graph, rank, ins, outs);
        open_gates(base->graph, ins, maker.share_in, true, &last_in);
        open_gates(base->graph, outs, maker.share_out, false, &first_out);
        HLM_ASSERT(last_in != HLM_SIM_NOBODY && first_out != HLM_SIM_NOBODY);
    }
    if (last_in > first_out) {
        /* Of a mean over ways in and out some would leave before they enter: one path then. */
        clear_gates(&maker, ins, maker.share_in);
        clear_gates(&maker, outs, maker.share_out);
        last_in = base->graph->first[rank];
        first_out = last_place(base->graph, rank);
        whole = true;
    }
    if (whole) {
        maker.share_in[last_in] = 1.0;
        maker.share_out[first_out] = 1.0;
    }
    count_list(&maker, rank);
    mark_shares(&maker, rank, maker.share_in);
    flow_in(&maker, last_in);
    mark_shares(&maker, rank, maker.share_out);
    flow_out(&maker, first_out);
    finish_row(&maker, rank, out);
}

static bool is_end(const struct hlm_sim_graph *graph, int32_t place)
{
    return graph->next[place] == HLM_SIM_NOBODY &&
           graph->head_s[place] + graph->duration_s[place] + graph->reduce_s[graph->rank[place]] >=
               graph->total_s - hlm_sim_tie_frac * graph->total_s;
}

/* The longest paths of all, shared equally wherever they part. */
static void make_longest_row(const struct row_maker *base, struct hlm_path_row *out)
{
    const struct hlm_sim_order *order = base->graph->order;
    const struct row_maker maker = start_row(base);
    int32_t num = 0;
    for (int32_t i = 0; i < order->num_places; i++) {
        num += is_end(base->graph, i) ? 1 : 0;
    }
    for (int32_t i = 0; i < order->num_places; i++) {
        if (is_end(base->graph, i)) {
            maker.share_in[i] = 1.0 / num;
            mark(maker.marks, i);
            count_place(&maker, i, 1.0 / num);
            maker.ends[base->graph->rank[i]] += 1.0 / num;
        }
    }
    flow_in(&maker, order->num_places - 1);
    finish_row(&maker, -1, out);
}

const struct hlm_path_row *hlm_sim_path_rows(struct hlm_arena *arena,
                                             const struct hlm_sim_order *order,
                                             const struct hlm_sim_costs *reference)
{
    struct hlm_arena *scratch = hlm_arena_new();
    struct hlm_path_row *rows =
        HLM_ARENA_ARRAY(arena, struct hlm_path_row, hlm_sim_num_path_rows(order));
    const struct hlm_sim_graph graph = hlm_sim_graph_new(scratch, order, reference);
    struct gate *ins = HLM_ARENA_ARRAY(scratch, struct gate, order->num_stages);
    struct gate *outs = HLM_ARENA_ARRAY(scratch, struct gate, order->num_stages);
    const struct row_maker maker = {
        .arena = arena,
        .graph = &graph,
        .share_in = HLM_ARENA_ARRAY(scratch, double, order->num_places),
        .share_out = HLM_ARENA_ARRAY(scratch, double, order->num_places),
        .marks = HLM_ARENA_ARRAY(scratch, uint64_t, order->num_places / BITS + 1)};
    for (int32_t rank = 0; rank < order->num_ranks; rank++) {
        make_row(&maker, rank, true, ins, outs, &rows[rank]);
        make_row(&maker, rank, false, ins, outs, &rows[order->num_ranks + rank]);
    }
    make_longest_row(&maker, &rows[2 * order->num_ranks]);
    hlm_arena_free(scratch);
    return rows;
}

const struct hlm_path_row *hlm_sim_ramp_rows(struct hlm_arena *arena,
                                             const struct hlm_sim_order *order)
{
    const int32_t p = order->num_ranks;
    const size_t size = (size_t)order->num_stages * HLM_SIM_NUM_KINDS;
    const double ways = order->splits_backward ? 1.0 : 2.0;
    struct hlm_path_row *rows = HLM_ARENA_ARRAY(arena, struct hlm_path_row, p);
    double **actions = HLM_ARENA_ARRAY(arena, double *, p);
    for (int32_t r = 0; r < p; r++) {
        double *transfers = HLM_ARENA_ARRAY(arena, double, order->num_stages);
        double *ends = HLM_ARENA_ARRAY(arena, double, p);
        actions[r] = HLM_ARENA_ARRAY(arena, double, size);
        for (int32_t u = 0; u < r; u++) {
            HLM_ASSERT(order->stage_rank[u] == u);
            actions[r][u * HLM_SIM_NUM_KINDS + HLM_ACTION_F] = 1.0;
            actions[r][u * HLM_SIM_NUM_KINDS + HLM_ACTION_B] = ways - 1.0;
            transfers[u] = ways;
        }
        ends[order->splits_backward ? r : 0] = 1.0;
        rows[r] = (struct hlm_path_row){
            .rank = r, .actions = actions[r], .transfers = transfers, .ends = ends};
    }
    for (int32_t i = 0; i < order->num_places; i++) {
        const struct hlm_sim_place *place = &order->places[i];
        double *own = actions[order->stage_rank[place->action / HLM_SIM_NUM_KINDS]];
        own[place->action] += 1.0;
        if (place->other != HLM_SIM_NOBODY) {
            own[place->other] += 1.0;
        }
    }
    return rows;
}

double hlm_sim_slowest_optimizer_s(const struct hlm_sim_order *order,
                                   const struct hlm_sim_costs *costs)
{
    double slowest_s = 0.0;
    for (int32_t rank = 0; rank < order->num_ranks; rank++) {
        double own_s = 0.0;
        for (int32_t stage = 0; stage < order->num_stages; stage++) {
            own_s += order->stage_rank[stage] == rank ? hlm_sim_at(costs->optimizer_s, stage) : 0.0;
        }
        slowest_s = larger(slowest_s, own_s);
    }
    return slowest_s;
}

double hlm_path_row_ways_s(const struct hlm_sim_order *order, const struct hlm_path_row *row,
                           const struct hlm_sim_costs *costs)
{
    double seconds = costs->sync_s;
    for (int32_t i = 0; i < order->num_stages * HLM_SIM_NUM_KINDS; i++) {
        seconds += row->actions[i] == 0.0 ? 0.0 : row->actions[i] * hlm_sim_action_s(costs, i);
    }
    for (int32_t stage = 0; stage < order->num_stages; stage++) {
        const double down_s = hlm_sim_at(costs->send_forward_s, stage);
        const double up_s =
            stage + 1 < order->num_stages ? hlm_sim_at(costs->send_backward_s, stage + 1) : down_s;
        seconds += row->transfers[stage] * (down_s < up_s ? down_s : up_s);
        seconds += row->ends[order->stage_rank[stage]] * hlm_sim_at(costs->reduce_s, stage);
    }
    return seconds;
}

double hlm_path_row_s(const struct hlm_sim_order *order, const struct hlm_path_row *row,
                      const struct hlm_sim_costs *costs)
{
    return hlm_path_row_ways_s(order, row, costs) + hlm_sim_slowest_optimizer_s(order, costs);
}
