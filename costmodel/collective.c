#include "costmodel/collective.h"

#include <math.h>
#include <stddef.h>

/* NCCL 2.30 src/graph/tuning.cc: part of its bandwidth that a Simple-protocol tree reaches, by log2
 * of the bytes from 2^6 on, and what pipelining adds to the latency of a multi-node ring
 * all-reduce. */
static const double tree_fracs[] = {0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.6, 0.6,
                                    0.5, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.8, 0.9};
enum { TREE_FIRST_LOG2 = 6, NUM_TREE_FRACS = sizeof tree_fracs / sizeof tree_fracs[0] };
static const double ring_plateau = 1.4;

/* What both the ring and the tree across nodes need to know. */
struct path {
    double start_s; /* of the first message, beyond its hop */
    double intra_hop_s, inter_hop_s;
    double bytes_per_s;       /* of a ring through all ranks */
    double intra_bytes_per_s; /* of a rank inside its node */
    double net_bytes_per_s;   /* of this group through one node's network */
};

double hlm_collective_factor(enum hlm_collective op, int32_t num_ranks)
{
    const double n = (double)num_ranks;
    return (op == HLM_ALL_REDUCE ? 2.0 : 1.0) * (n - 1.0) / n;
}

static double num_rounds(enum hlm_collective op)
{
    return op == HLM_ALL_REDUCE ? 2.0 : 1.0;
}

static double hop_s(const struct hlm_link *link)
{
    return link->hop_alpha_s > 0.0 ? link->hop_alpha_s : link->alpha_s;
}

static bool steps_wait(const struct hlm_link *link)
{
    return link->needs_both_sides || link->num_points > 0;
}

/* Pieces were fitted one by one; at their seams a larger buffer may not become faster. */
static double curve_seconds(const struct hlm_collective_curve *curve, double bytes, double factor,
                            double alpha_scale)
{
    double floor_s = 0.0;
    for (int32_t i = 0; i < curve->num_pieces; i++) {
        const struct hlm_collective_piece *piece = &curve->pieces[i];
        const bool inside = piece->max_bytes == 0.0 || bytes <= piece->max_bytes;
        const double size = inside ? bytes : piece->max_bytes;
        const double rate = piece->bus_bandwidth_bytes_per_s;
        const double transfer_s = rate > 0.0 ? size * factor / rate : 0.0;
        floor_s = fmax(floor_s, piece->alpha_s * alpha_scale + transfer_s);
        if (inside) {
            break;
        }
    }
    return floor_s;
}

static const struct hlm_collective_curve *find_exact(const struct hlm_device_group *group,
                                                     enum hlm_collective op, int32_t num_ranks,
                                                     int32_t num_nodes)
{
    for (int32_t i = 0; i < group->num_collectives; i++) {
        const struct hlm_collective_curve *curve = &group->collectives[i];
        if (curve->op == op && curve->num_ranks == num_ranks && curve->num_nodes == num_nodes) {
            return curve;
        }
    }
    return NULL;
}

/* The measured size inside a node that is nearest by ratio; the smaller one of two equally near. */
static const struct hlm_collective_curve *find_nearest(const struct hlm_device_group *group,
                                                       enum hlm_collective op, int32_t num_ranks)
{
    const struct hlm_collective_curve *best = NULL;
    double best_ratio = 0.0;
    for (int32_t i = 0; i < group->num_collectives; i++) {
        const struct hlm_collective_curve *curve = &group->collectives[i];
        if (curve->op != op || curve->num_nodes != 1) {
            continue;
        }
        const double a = (double)num_ranks, b = (double)curve->num_ranks;
        const double ratio = a > b ? a / b : b / a;
        if (best == NULL || ratio < best_ratio) {
            best = curve;
            best_ratio = ratio;
        }
    }
    return best;
}

static double ring_inside(const struct hlm_link *link, enum hlm_collective op, double bytes,
                          int32_t num_ranks)
{
    const double steps = num_rounds(op) * (double)(num_ranks - 1);
    if (steps_wait(link)) {
        return steps * hlm_link_seconds(link, bytes / (double)num_ranks);
    }
    return link->alpha_s + (steps - 1.0) * hop_s(link) +
           bytes * hlm_collective_factor(op, num_ranks) / link->bandwidth_bytes_per_s;
}

static double inside_node(const struct hlm_device_group *group, enum hlm_collective op,
                          double bytes, int32_t num_ranks)
{
    const double factor = hlm_collective_factor(op, num_ranks);
    const struct hlm_collective_curve *curve = find_exact(group, op, num_ranks, 1);
    if (curve != NULL) {
        return curve_seconds(curve, bytes, factor, 1.0);
    }
    curve = find_nearest(group, op, num_ranks);
    if (curve != NULL) {
        const double scale = (double)(num_ranks - 1) / (double)(curve->num_ranks - 1);
        return curve_seconds(curve, bytes, factor, scale);
    }
    return ring_inside(&group->intra_node, op, bytes, num_ranks);
}

static double link_rate(const struct hlm_link *link)
{
    if (link->num_points > 0) {
        const struct hlm_curve_point *last = &link->points[link->num_points - 1];
        return last->bytes / last->seconds;
    }
    return link->bandwidth_bytes_per_s;
}

static double intra_rate(const struct hlm_device_group *group, enum hlm_collective op,
                         int32_t num_ranks)
{
    const struct hlm_collective_curve *curve = find_nearest(group, op, num_ranks);
    if (curve != NULL) {
        const double rate = curve->pieces[curve->num_pieces - 1].bus_bandwidth_bytes_per_s;
        if (rate > 0.0) {
            return rate;
        }
    }
    return link_rate(&group->intra_node);
}

/* A group uses the cards nearest to its ranks (at least one), and no more than its share of the
 * node's. */
static double net_rate(const struct hlm_cluster *cluster, const struct hlm_device_group *group,
                       const struct hlm_link *link, struct hlm_group_shape shape)
{
    const double sharing = (double)shape.groups_per_node;
    if (group->nics_per_node == 0) {
        return link_rate(link) / (sharing * cluster->oversubscription);
    }
    const double domain = (double)hlm_device_group_domain(group);
    const double cards = (double)group->nics_per_node * domain / (double)group->devices_per_node;
    const double near = fmax(1.0, (double)shape.ranks_per_node * cards / domain);
    return group->nic_bandwidth_bytes_per_s * fmin(near, cards / sharing) /
           cluster->oversubscription;
}

static struct path make_path(const struct hlm_cluster *cluster, int32_t device_group,
                             const struct hlm_link *inter, enum hlm_collective op,
                             struct hlm_group_shape shape)
{
    const struct hlm_device_group *group = &cluster->groups[device_group];
    struct path path = {0};
    path.intra_hop_s = shape.ranks_per_node > 1 ? hop_s(&group->intra_node) : 0.0;
    path.inter_hop_s = hop_s(inter);
    path.start_s = fmax(0.0, inter->alpha_s - path.inter_hop_s);
    path.net_bytes_per_s = net_rate(cluster, group, inter, shape);
    path.bytes_per_s = path.net_bytes_per_s;
    path.intra_bytes_per_s = path.net_bytes_per_s;
    if (shape.ranks_per_node > 1) {
        path.intra_bytes_per_s = intra_rate(group, op, shape.ranks_per_node);
        path.bytes_per_s = fmin(path.net_bytes_per_s, path.intra_bytes_per_s);
    }
    return path;
}

/* Each step of a ring whose sends wait for their receives lasts as long as its slowest message. */
static double waiting_ring(const struct hlm_cluster *cluster, int32_t device_group,
                           const struct hlm_link *inter, enum hlm_collective op, double bytes,
                           struct hlm_group_shape shape)
{
    const struct hlm_device_group *group = &cluster->groups[device_group];
    const double message = bytes / (double)shape.num_ranks;
    const double shared_s =
        hlm_link_seconds(inter, 0.0) + message / net_rate(cluster, group, inter, shape);
    double step_s = fmax(hlm_link_seconds(inter, message), shared_s);
    if (shape.ranks_per_node > 1) {
        step_s = fmax(step_s, hlm_link_seconds(&group->intra_node, message));
    }
    return num_rounds(op) * (double)(shape.num_ranks - 1) * step_s;
}

static double all_to_all(const struct path *path, double bytes, double crossing_frac,
                         struct hlm_group_shape shape)
{
    const double n = (double)shape.num_ranks, inside = (double)shape.ranks_per_node;
    const double outside = fmax(0.0, n - inside);
    const double latency_s =
        path->start_s + (inside - 1.0) * path->intra_hop_s + outside * path->inter_hop_s;
    const double intra_s = bytes * (inside - 1.0) / n / path->intra_bytes_per_s;
    const double inter_s = crossing_frac * bytes * outside / n * inside / path->net_bytes_per_s;
    return latency_s + fmax(intra_s, inter_s);
}

/* Between the table's sizes linear in log2, so that more bytes never take less time. */
static double tree_frac(double bytes)
{
    const double at = log2(fmax(bytes, 1.0)) - (double)TREE_FIRST_LOG2;
    if (at <= 0.0) {
        return tree_fracs[0];
    }
    if (at >= (double)(NUM_TREE_FRACS - 1)) {
        return tree_fracs[NUM_TREE_FRACS - 1];
    }
    const int left = (int)at;
    const double frac = at - (double)left;
    return (1.0 - frac) * tree_fracs[left] + frac * tree_fracs[left + 1];
}

static double tree_all_reduce(const struct path *path, double bytes, struct hlm_group_shape shape)
{
    const double nodes = (double)shape.num_nodes, inside = (double)shape.ranks_per_node;
    const double latency_s =
        2.0 * ((inside - 1.0) * path->intra_hop_s + ceil(log2(nodes)) * path->inter_hop_s);
    /* Two nodes are each other's only peer: every byte crosses once, where a ring sends it twice.
     */
    const double net = (nodes == 2.0 ? 2.0 : 1.0) * path->net_bytes_per_s;
    const double rate = inside > 1.0 ? fmin(net, path->intra_bytes_per_s) : net;
    return latency_s + bytes * hlm_collective_factor(HLM_ALL_REDUCE, shape.num_ranks) /
                           (rate * tree_frac(bytes));
}

static double ring_across(const struct path *path, enum hlm_collective op, double bytes,
                          struct hlm_group_shape shape)
{
    const double n = (double)shape.num_ranks, nodes = (double)shape.num_nodes;
    const double rounds = op == HLM_ALL_REDUCE ? ring_plateau * num_rounds(op) : num_rounds(op);
    const double round_s =
        fmax(0.0, n - nodes) * path->intra_hop_s + (nodes - 1.0) * path->inter_hop_s;
    return rounds * round_s +
           bytes * hlm_collective_factor(op, shape.num_ranks) / path->bytes_per_s;
}

double hlm_collective_seconds_over(const struct hlm_cluster *cluster, int32_t device_group,
                                   const struct hlm_link *link, enum hlm_collective op,
                                   double bytes, struct hlm_group_shape shape)
{
    HLM_ASSERT(shape.num_nodes > 1);
    if (steps_wait(link)) {
        return waiting_ring(cluster, device_group, link, op, bytes, shape);
    }
    const struct path path = make_path(cluster, device_group, link, op, shape);
    if (op == HLM_ALL_TO_ALL) {
        return all_to_all(&path, bytes, 1.0, shape);
    }
    double seconds = ring_across(&path, op, bytes, shape);
    if (op == HLM_ALL_REDUCE) {
        seconds = fmin(seconds, tree_all_reduce(&path, bytes, shape));
    }
    return path.start_s + seconds;
}

double hlm_collective_seconds(const struct hlm_cluster *cluster, int32_t device_group,
                              enum hlm_collective op, double bytes, struct hlm_group_shape shape)
{
    if (shape.num_ranks <= 1) {
        return 0.0;
    }
    HLM_ASSERT(device_group >= 0 && device_group < cluster->num_groups);
    HLM_ASSERT(shape.num_nodes >= 1 && shape.ranks_per_node >= 1 && shape.groups_per_node >= 1);
    const struct hlm_device_group *group = &cluster->groups[device_group];
    if (shape.num_nodes == 1) {
        return inside_node(group, op, bytes, shape.num_ranks);
    }
    if (shape.groups_per_node == 1) {
        const struct hlm_collective_curve *curve =
            find_exact(group, op, shape.num_ranks, shape.num_nodes);
        if (curve != NULL) {
            return curve_seconds(curve, bytes, hlm_collective_factor(op, shape.num_ranks), 1.0);
        }
    }
    return hlm_collective_seconds_over(cluster, device_group,
                                       hlm_cluster_inter_link(cluster, device_group, device_group),
                                       op, bytes, shape);
}

double hlm_collective_dispatch_seconds(const struct hlm_cluster *cluster, int32_t device_group,
                                       double bytes, int32_t copies, struct hlm_group_shape shape)
{
    const struct hlm_link *inter = hlm_cluster_inter_link(cluster, device_group, device_group);
    if (copies <= 1 || shape.num_nodes <= 1 || steps_wait(inter)) {
        return hlm_collective_seconds(cluster, device_group, HLM_ALL_TO_ALL, bytes, shape);
    }
    const double nodes = (double)shape.num_nodes, k = (double)copies;
    const double crossing_frac = nodes * (1.0 - pow(1.0 - 1.0 / nodes, k)) / k;
    const struct path path = make_path(cluster, device_group, inter, HLM_ALL_TO_ALL, shape);
    return all_to_all(&path, bytes, crossing_frac, shape);
}
