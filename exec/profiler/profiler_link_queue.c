#include "exec/profiler/profiler_link_queue_internal.h"

#include <math.h>

#include "costmodel/collective.h"
#include "exec/profiler/profiler_fit.h"
#include "exec/profiler/profiler_link.h"

enum {
    MIN_BYTES = 1 << 10,
    SIZE_STEP = 4,
    MAX_SIZES = 16,
    MAX_REPEATS = 9,
    BURST_BYTES = 1 << 24, /* smaller transfers are timed several at a time */
    MAX_BURST = 16,
    MAX_CURVES = 64,
    MAX_LEFT_OUT = 64
};

static const enum hlm_collective ops[] = {HLM_ALL_REDUCE, HLM_ALL_GATHER, HLM_REDUCE_SCATTER};
enum { NUM_OPS = sizeof ops / sizeof ops[0] };
static const char *const op_texts[] = {
#define X(name, text) text,
    HLM_COLLECTIVE_MAP(X)
#undef X
};

/* Groups that transports have, the widest last. */
static const enum hlm_group groups[] = {HLM_GROUP_TP, HLM_GROUP_DP, HLM_GROUP_PP, HLM_GROUP_MODEL,
                                        HLM_GROUP_WORLD};
enum { NUM_GROUPS = sizeof groups / sizeof groups[0] };

static double gap_s(const struct hlm_link_bench *links)
{
    const struct hlm_backend_ops *backend = links->backend->ops;
    return fmax(backend->event_time(links->end).wall_s - backend->event_time(links->begin).wall_s,
                1e-9);
}

static void leave_out(struct hlm_link_bench *links, const char *text)
{
    if (links->out->num_left_out < MAX_LEFT_OUT) {
        links->out->left_out[links->out->num_left_out++] = text;
    }
}

/* --- timing --- */

static int32_t burst_of(int64_t bytes)
{
    const int64_t count = BURST_BYTES / bytes;
    return (int32_t)(count < 1 ? 1 : count > MAX_BURST ? MAX_BURST : count);
}

static int32_t num_repeats(const struct hlm_link_bench *links)
{
    return links->config->quick ? 5 : MAX_REPEATS;
}

/* Sizes from the least to the largest; returns their number. */
static int32_t make_sizes(const struct hlm_link_bench *links, int64_t *sizes)
{
    int32_t num = 0;
    const int64_t step = links->config->quick ? SIZE_STEP * SIZE_STEP : SIZE_STEP;
    for (int64_t bytes = MIN_BYTES; bytes <= links->config->max_bytes && num < MAX_SIZES;
         bytes *= step) {
        sizes[num++] = bytes;
    }
    return num;
}

struct transfer {
    enum hlm_collective op;
    const struct hlm_link_shape *shape; /* NULL: a message there and back */
    int32_t first, peer;                /* of a message: first sends it, and times it */
    int64_t bytes;
    bool takes_part; /* this rank */
};

static enum hlm_status collective(struct hlm_link_bench *links, const struct transfer *what,
                                  struct hlm_err *err)
{
    const struct hlm_comm_ops *comm = links->comm->ops;
    const enum hlm_group group = what->shape->group;
    const int64_t elements = what->bytes / (int64_t)sizeof(float);
    const int64_t part = elements / what->shape->num_ranks;
    int32_t position = 0;
    int32_t *members = HLM_ARENA_ARRAY(links->arena, int32_t, links->comm->world_size + 2);
    hlm_layout_group(links->config->strategy, group, links->comm->rank, members, &position);
    char *own = links->data + position * part * (int64_t)sizeof(float);
    switch (what->op) {
    case HLM_ALL_GATHER:
        return comm->all_gather(links->comm, group, own, links->data, part, HLM_WIRE_F32, err);
    case HLM_REDUCE_SCATTER:
        return comm->reduce_scatter(links->comm, group, links->data, own, part, HLM_WIRE_F32, err);
    default:
        return comm->all_reduce(links->comm, group, links->data, elements, HLM_WIRE_F32,
                                HLM_REDUCE_SUM, err);
    }
}

static enum hlm_status there_and_back(struct hlm_link_bench *links, const struct transfer *what,
                                      struct hlm_err *err)
{
    const struct hlm_comm_ops *comm = links->comm->ops;
    const bool is_first = links->comm->rank == what->first;
    const int32_t other = is_first ? what->peer : what->first;
    for (int32_t turn = 0; turn < 2; turn++) {
        struct hlm_request *request = NULL;
        if ((turn == 0) == is_first) {
            HLM_TRY(comm->send(links->comm, other, 0, links->data, what->bytes, &request, err));
        } else {
            HLM_TRY(comm->receive(links->comm, other, 0, links->data, what->bytes, &request, err));
        }
        HLM_TRY(comm->wait(links->comm, request, err));
    }
    return HLM_OK;
}

static enum hlm_status run(struct hlm_link_bench *links, const struct transfer *what,
                           struct hlm_err *err)
{
    return what->shape != NULL ? collective(links, what, err) : there_and_back(links, what, err);
}

/* Seconds of one transfer; every rank comes along, those that take no part to the barriers. */
static enum hlm_status measure_once(struct hlm_link_bench *links, const struct transfer *what,
                                    double *out, struct hlm_err *err)
{
    const int32_t burst = burst_of(what->bytes);
    HLM_TRY(links->comm->ops->barrier(links->comm, HLM_GROUP_WORLD, err));
    if (!what->takes_part) {
        return HLM_OK;
    }
    const struct hlm_arena_mark mark = hlm_arena_mark(links->arena);
    HLM_TRY(run(links, what, err)); /* the ranks meet */
    HLM_TRY(links->backend->ops->event_record(links->queue, links->begin, err));
    for (int32_t i = 0; i < burst; i++) {
        HLM_TRY(run(links, what, err));
    }
    HLM_TRY(hlm_link_bench_wait(links, err));
    hlm_arena_rewind(links->arena, mark);
    *out = gap_s(links) / (double)burst / (what->shape == NULL ? 2.0 : 1.0);
    return HLM_OK;
}

/* Median over repetitions, behind one that does not count. */
static enum hlm_status measure(struct hlm_link_bench *links, const struct transfer *what,
                               double *out, double *spread_frac, struct hlm_err *err)
{
    double seconds[MAX_REPEATS] = {0.0}, ignored = 0.0;
    const int32_t num = num_repeats(links);
    HLM_TRY(measure_once(links, what, &ignored, err));
    for (int32_t i = 0; i < num; i++) {
        HLM_TRY(measure_once(links, what, &seconds[i], err));
    }
    *out = hlm_fit_median(seconds, num);
    const double spread_s = seconds[3 * num / 4] - seconds[num / 4];
    *spread_frac = *out > 0.0 ? fmin(spread_s / *out, HLM_SOURCE_MAX_SPREAD) : 0.0;
    return HLM_OK;
}

/* --- messages --- */

static struct hlm_link link_of(struct hlm_link_bench *links, const struct hlm_fit_sample *rows,
                               int32_t num)
{
    const struct hlm_fit fit = hlm_fit_relative(rows, num, 2, links->arena);
    const struct hlm_fit_sample *last = &rows[num - 1];
    return (struct hlm_link){
        .alpha_s = fit.coefficient[0],
        .bandwidth_bytes_per_s =
            fit.coefficient[1] > 0.0 ? 1.0 / fit.coefficient[1] : last->term[1] / last->seconds,
        .source = {.num_samples = num * num_repeats(links),
                   .spread_frac = fmin(fit.spread_frac, HLM_SOURCE_MAX_SPREAD)}};
}

/* *out is set on rank `first`. */
static enum hlm_status measure_link(struct hlm_link_bench *links, int32_t first, int32_t peer,
                                    struct hlm_link *out, struct hlm_err *err)
{
    int64_t sizes[MAX_SIZES];
    struct hlm_fit_sample rows[MAX_SIZES];
    const int32_t num = make_sizes(links, sizes);
    for (int32_t i = 0; i < num; i++) {
        const struct transfer message = {.first = first,
                                         .peer = peer,
                                         .bytes = sizes[i],
                                         .takes_part = links->comm->rank == first ||
                                                       links->comm->rank == peer};
        double seconds = 0.0, spread_frac = 0.0;
        HLM_TRY(measure(links, &message, &seconds, &spread_frac, err));
        rows[i] = (struct hlm_fit_sample){.term = {1.0, (double)sizes[i]},
                                          .seconds = fmax(seconds, 1e-9)};
    }
    if (links->comm->rank == first) {
        *out = link_of(links, rows, num);
    }
    return HLM_OK;
}

/* The first rank of rank 0's node, or of another; -1: none. */
static int32_t find_peer(const struct hlm_link_bench *links, bool same_node)
{
    for (int32_t i = 1; i < links->comm->world_size; i++) {
        if ((links->nodes[i] == links->nodes[0]) == same_node) {
            return i;
        }
    }
    return -1;
}

static enum hlm_status measure_messages(struct hlm_link_bench *links, struct hlm_err *err)
{
    struct hlm_profiler_queue_links *out = links->out;
    const int32_t near = find_peer(links, true), far = find_peer(links, false);
    hlm_heartbeat_set(links->config->heartbeat, -1, NULL, "messages between ranks", true);
    if (near > 0) {
        HLM_TRY(measure_link(links, 0, near, &out->intra, err));
        out->has_intra = true;
    }
    if (far > 0) {
        HLM_TRY(measure_link(links, 0, far, &out->inter, err));
        out->has_inter = true;
    }
    return hlm_link_bench_agree(links, err);
}

/* --- collectives --- */

static bool has_curve(const struct hlm_profiler_queue_links *out, enum hlm_collective op,
                      const struct hlm_link_shape *shape)
{
    for (int32_t i = 0; i < out->num_collectives; i++) {
        const struct hlm_collective_curve *curve = &out->collectives[i];
        if (curve->op == op && curve->num_ranks == shape->num_ranks &&
            curve->num_nodes == shape->num_nodes) {
            return true;
        }
    }
    return false;
}

/* One collective of one kind of group by size, alone or all groups of the kind at once. */
static enum hlm_status measure_sizes(struct hlm_link_bench *links, enum hlm_collective op,
                                     const struct hlm_link_shape *shape, bool together,
                                     struct hlm_curve_point *points, int32_t *out_num,
                                     double *spread_frac, struct hlm_err *err)
{
    int64_t sizes[MAX_SIZES];
    double spreads[MAX_SIZES];
    const int64_t unit = shape->num_ranks * (int64_t)sizeof(float);
    const int32_t num = make_sizes(links, sizes);
    for (int32_t i = 0; i < num; i++) {
        /* A whole number of elements for each rank. */
        const int64_t bytes = (sizes[i] + unit - 1) / unit * unit;
        const struct transfer what = {
            .op = op, .shape = shape, .bytes = bytes, .takes_part = together || shape->is_mine};
        points[i].bytes = (double)bytes;
        HLM_TRY(measure(links, &what, &points[i].seconds, &spreads[i], err));
        points[i].seconds = fmax(points[i].seconds, 1e-9);
    }
    *out_num = num;
    *spread_frac = hlm_fit_median(spreads, num);
    return HLM_OK;
}

static void add_curve(struct hlm_link_bench *links, enum hlm_collective op,
                      const struct hlm_link_shape *shape, bool together,
                      const struct hlm_curve_point *points, int32_t num, double spread_frac)
{
    struct hlm_profiler_queue_links *out = links->out;
    struct hlm_collective_piece *pieces =
        HLM_ARENA_ARRAY(links->arena, struct hlm_collective_piece, num + 1);
    HLM_ASSERT(out->num_collectives < MAX_CURVES);
    out->collectives[out->num_collectives++] = (struct hlm_collective_curve){
        .op = op,
        .num_ranks = shape->num_ranks,
        .num_nodes = shape->num_nodes,
        .pieces = pieces,
        .num_pieces = hlm_profiler_make_pieces(points, num,
                                               hlm_collective_factor(op, shape->num_ranks), pieces),
        .source = {.reference = together ? "all groups of the kind at once" : "one group alone",
                   .num_samples = num * num_repeats(links),
                   .spread_frac = spread_frac}};
}

/* From the largest size alone and with all groups: bus bandwidth of one, and as many cards as let
 * all together have what they had. A card for each group: nobody is slower for the others. */
static void set_cards(struct hlm_link_bench *links, const struct hlm_link_shape *shape,
                      const struct hlm_curve_point *alone, const struct hlm_curve_point *together)
{
    const double slowdown = fmax(1.0, together->seconds / alone->seconds);
    const double cards = round((double)shape->num_groups / slowdown);
    links->out->nics_per_node = (int32_t)fmax(1.0, fmin(cards, shape->num_groups));
    links->out->nic_bandwidth_bytes_per_s =
        alone->bytes * hlm_collective_factor(HLM_ALL_REDUCE, shape->num_ranks) / alone->seconds;
}

static bool shares_network(const struct hlm_link_bench *links, const struct hlm_link_shape *shape)
{
    return shape->num_groups == links->out->ranks_per_node && shape->num_groups > 1 &&
           shape->num_ranks == shape->num_nodes && shape->num_nodes > 1;
}

static enum hlm_status measure_collective(struct hlm_link_bench *links, enum hlm_collective op,
                                          const struct hlm_link_shape *shape, struct hlm_err *err)
{
    struct hlm_curve_point alone[MAX_SIZES], together[MAX_SIZES];
    double alone_spread = 0.0, together_spread = 0.0;
    int32_t num = 0;
    const bool inside = shape->num_nodes == 1;
    HLM_TRY(measure_sizes(links, op, shape, false, alone, &num, &alone_spread, err));
    if (shape->num_groups > 1) {
        HLM_TRY(measure_sizes(links, op, shape, true, together, &num, &together_spread, err));
    }
    if (links->comm->rank != 0) {
        return HLM_OK;
    }
    const bool at_once = inside && shape->num_groups > 1;
    add_curve(links, op, shape, at_once, at_once ? together : alone, num,
              at_once ? together_spread : alone_spread);
    if (op == HLM_ALL_REDUCE && shares_network(links, shape)) {
        set_cards(links, shape, &alone[num - 1], &together[num - 1]);
    }
    return HLM_OK;
}

/* The same on all ranks: which shapes were measured does not depend on times. */
static bool is_measured_before(const struct hlm_link_bench *links, const enum hlm_group *list,
                               int32_t index, const struct hlm_link_shape *shape)
{
    for (int32_t i = 0; i < index; i++) {
        const struct hlm_link_shape other = hlm_link_bench_shape(links, list[i]);
        if (other.num_ranks == shape->num_ranks && other.num_nodes == shape->num_nodes) {
            return true;
        }
    }
    return false;
}

static enum hlm_status measure_collectives(struct hlm_link_bench *links, struct hlm_err *err)
{
    for (int32_t i = 0; i < NUM_GROUPS * NUM_OPS; i++) {
        const enum hlm_collective op = ops[i % NUM_OPS];
        const struct hlm_link_shape shape = hlm_link_bench_shape(links, groups[i / NUM_OPS]);
        if (shape.num_ranks < 2 || is_measured_before(links, groups, i / NUM_OPS, &shape)) {
            continue;
        }
        if (links->stopped) {
            leave_out(links, hlm_arena_printf(links->arena, "%s of %d ranks on %d nodes: %s",
                                              op_texts[op], (int)shape.num_ranks,
                                              (int)shape.num_nodes, "no time was left"));
            continue;
        }
        hlm_heartbeat_set(links->config->heartbeat, -1, NULL, op_texts[op], true);
        if (links->comm->rank == 0) {
            hlm_heartbeat_progress(links->config->heartbeat, "%s of %d ranks on %d nodes",
                                   op_texts[op], (int)shape.num_ranks, (int)shape.num_nodes);
            HLM_ASSERT(!has_curve(links->out, op, &shape));
        }
        HLM_TRY(measure_collective(links, op, &shape, err));
        HLM_TRY(hlm_link_bench_agree(links, err));
    }
    return HLM_OK;
}

/* --- all --- */

static enum hlm_status measure_all(struct hlm_link_bench *links, struct hlm_err *err)
{
    HLM_TRY(hlm_link_bench_init(links, err));
    HLM_TRY(hlm_link_bench_find_nodes(links, err));
    HLM_TRY(measure_messages(links, err));
    HLM_TRY(measure_collectives(links, err));
    return links->comm->ops->barrier(links->comm, HLM_GROUP_WORLD, err);
}

enum hlm_status
hlm_profiler_queue_links_measure(struct hlm_arena *arena,
                                 const struct hlm_profiler_queue_links_config *config,
                                 struct hlm_profiler_queue_links *out, struct hlm_err *err)
{
    HLM_ASSERT(config->comm->ops->stream_ordered && config->comm->world_size >= 2);
    *out = (struct hlm_profiler_queue_links){
        .collectives = HLM_ARENA_ARRAY(arena, struct hlm_collective_curve, MAX_CURVES),
        .left_out = HLM_ARENA_ARRAY(arena, const char *, MAX_LEFT_OUT)};
    struct hlm_link_bench links = {.arena = arena,
                                   .config = config,
                                   .comm = config->comm,
                                   .backend = config->backend,
                                   .deadline_s =
                                       hlm_profiler_now(&config->clock) + config->budget_s,
                                   .out = out};
    const enum hlm_status status = measure_all(&links, err);
    hlm_link_bench_release(&links, status);
    return status;
}

/* --- pairs --- */

/* What rank `first` has measured, to all. */
static enum hlm_status share_link(struct hlm_link_bench *links, int32_t first,
                                  struct hlm_link *link, struct hlm_err *err)
{
    const double own[] = {link->alpha_s, link->bandwidth_bytes_per_s, link->source.spread_frac};
    double(*told)[3] = hlm_arena_alloc(links->arena, (size_t)links->comm->world_size, sizeof own);
    HLM_TRY(hlm_link_bench_gather(links, own, (int64_t)sizeof own, told, err));
    link->alpha_s = told[first][0];
    link->bandwidth_bytes_per_s = told[first][1];
    link->source.spread_frac = told[first][2];
    return HLM_OK;
}

static enum hlm_status measure_pairs(struct hlm_link_bench *links, struct hlm_link *out,
                                     struct hlm_err *err)
{
    HLM_TRY(hlm_link_bench_init(links, err));
    for (int32_t first = 0; first < links->comm->world_size; first++) {
        for (int32_t second = first + 1; second < links->comm->world_size; second++) {
            int64_t sizes[MAX_SIZES];
            const int32_t num_samples = make_sizes(links, sizes) * num_repeats(links);
            *out = (struct hlm_link){.source = {.num_samples = num_samples}};
            HLM_TRY(measure_link(links, first, second, out, err));
            HLM_TRY(share_link(links, first, out, err));
            out++;
        }
    }
    return links->comm->ops->barrier(links->comm, HLM_GROUP_WORLD, err);
}

enum hlm_status
hlm_profiler_queue_pairs_measure(struct hlm_arena *arena,
                                 const struct hlm_profiler_queue_links_config *config,
                                 struct hlm_link *out, struct hlm_err *err)
{
    HLM_ASSERT(config->comm->ops->stream_ordered && config->comm->world_size >= 2);
    struct hlm_link_bench links = {
        .arena = arena, .config = config, .comm = config->comm, .backend = config->backend};
    const enum hlm_status status = measure_pairs(&links, out, err);
    hlm_link_bench_release(&links, status);
    return status;
}
