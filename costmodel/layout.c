#include "costmodel/layout.h"

#include <stddef.h>

/* Groups of one stage as a lattice: with ranks of the stage numbered from 0, group (q, r) has the
 * ranks q * stride * count + r + i * stride, 0 <= i < count, 0 <= r < stride. The stage's first
 * rank is device `base` of a device group with `node` devices a node. */
struct lattice {
    int64_t base, size, stride, count, node;
};

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Ranks of one pipeline rank. */
static int64_t place_size(const struct hlm_strategy *strategy, int32_t pp)
{
    const int64_t tp = strategy->places != NULL ? strategy->places[pp].tp : strategy->tp;
    return tp * strategy->cp * strategy->dp;
}

static int64_t first_rank(const struct hlm_strategy *strategy, int32_t pp)
{
    return strategy->places != NULL ? strategy->places[pp].first_rank
                                    : pp * place_size(strategy, pp);
}

static int64_t first_device(const struct hlm_strategy *strategy, int32_t pp)
{
    if (strategy->num_replicas > 0) {
        const int32_t index = strategy->seen_replicas > 0 ? strategy->seen_replicas - 1 : 0;
        const struct hlm_replicas *replicas = &strategy->replicas[index];
        return replicas->first_device + (int64_t)pp * strategy->tp * strategy->cp * replicas->dp;
    }
    return strategy->places != NULL ? strategy->places[pp].first_device : first_rank(strategy, pp);
}

int32_t hlm_layout_stage_rank(const struct hlm_strategy *strategy, int32_t stage)
{
    HLM_ASSERT(stage >= 0);
    const bool v_shaped = hlm_schedule_chunks(strategy->schedule).max == 2;
    return v_shaped && stage >= strategy->pp ? 2 * strategy->pp - 1 - stage : stage % strategy->pp;
}

bool hlm_layout_ends_apart(const struct hlm_strategy *strategy)
{
    return hlm_layout_stage_rank(strategy, strategy->pp * strategy->vpp - 1) != 0;
}

static int32_t pipeline_rank(const struct hlm_strategy *strategy, int32_t rank)
{
    if (strategy->places == NULL) {
        return (int32_t)(rank / place_size(strategy, 0));
    }
    int32_t pp = strategy->pp - 1;
    while (pp > 0 && rank < strategy->places[pp].first_rank) {
        pp--;
    }
    return pp;
}

int64_t hlm_layout_device(const struct hlm_strategy *strategy, int32_t rank)
{
    if (strategy->num_replicas > 0 && strategy->seen_replicas == 0) {
        struct hlm_coords coords = hlm_layout_coords(strategy, rank);
        int32_t index = 0;
        for (; coords.dp >= strategy->replicas[index].dp; index++) {
            coords.dp -= strategy->replicas[index].dp;
        }
        const struct hlm_strategy seen = hlm_strategy_of_replicas(strategy, index);
        return hlm_layout_device(&seen, hlm_layout_rank(&seen, coords));
    }
    const int32_t pp = pipeline_rank(strategy, rank);
    return first_device(strategy, pp) + rank - first_rank(strategy, pp);
}

struct hlm_coords hlm_layout_coords(const struct hlm_strategy *strategy, int32_t rank)
{
    const int32_t pp = pipeline_rank(strategy, rank);
    const struct hlm_strategy at = hlm_strategy_at(strategy, pp);
    struct hlm_coords coords = {.pp = pp};
    rank -= (int32_t)first_rank(strategy, pp);
    coords.tp = rank % at.tp;
    rank /= at.tp;
    coords.cp = rank % at.cp;
    coords.dp = rank / at.cp;
    return coords;
}

int32_t hlm_layout_rank(const struct hlm_strategy *strategy, struct hlm_coords coords)
{
    const struct hlm_strategy at = hlm_strategy_at(strategy, coords.pp);
    return (int32_t)first_rank(strategy, coords.pp) + (coords.dp * at.cp + coords.cp) * at.tp +
           coords.tp;
}

static int32_t expert_data_parallel(const struct hlm_strategy *strategy)
{
    return strategy->tp * strategy->cp * strategy->dp / (strategy->ep * strategy->etp);
}

/* Stride and count of the groups that lie inside a stage, as its ranks see the strategy; count 0
 * for those that do not. */
static void stage_group(const struct hlm_strategy *strategy, enum hlm_group group, int64_t *stride,
                        int64_t *count)
{
    const int64_t tp = strategy->tp, cp = strategy->cp, ep = strategy->ep, etp = strategy->etp;
    const struct {
        int64_t stride, count;
    } rows[HLM_NUM_GROUPS] = {
        [HLM_GROUP_NONE] = {1, 1},  [HLM_GROUP_TP] = {1, tp},
        [HLM_GROUP_CP] = {tp, cp},  [HLM_GROUP_DP] = {tp, cp * strategy->dp},
        [HLM_GROUP_EP] = {etp, ep}, [HLM_GROUP_EDP] = {etp * ep, expert_data_parallel(strategy)},
    };
    *stride = rows[group].stride;
    *count = rows[group].count;
}

int32_t hlm_layout_group_size(const struct hlm_strategy *strategy, enum hlm_group group)
{
    int64_t stride = 0, count = 0;
    stage_group(strategy, group, &stride, &count);
    if (count > 0) {
        return (int32_t)count;
    }
    switch (group) {
    case HLM_GROUP_PP:
        return strategy->pp;
    case HLM_GROUP_EMBEDDING:
        return strategy->pp > 1 ? 2 : 1;
    case HLM_GROUP_MODEL:
        return (int32_t)(hlm_strategy_world_size(strategy) / strategy->dp / strategy->cp);
    default:
        return (int32_t)hlm_strategy_world_size(strategy);
    }
}

/* The members of a group that spans pipeline ranks: those of every `step`-th one, in each a run of
 * neighbours beside `coords`. Where tp differs, the member is the one that holds the same part. */
struct span {
    int32_t step;
    enum hlm_group group;
    struct hlm_coords coords;
    int32_t tp; /* of coords */
};

static struct span make_span(const struct hlm_strategy *strategy, enum hlm_group group,
                             int32_t rank)
{
    struct span span = {.step = 1, .group = group, .coords = hlm_layout_coords(strategy, rank)};
    span.tp = hlm_strategy_at(strategy, span.coords.pp).tp;
    if (group == HLM_GROUP_EMBEDDING && strategy->pp > 1) {
        span.step = strategy->pp - 1;
    }
    return span;
}

/* First member in pipeline rank pp, and how many follow each other there. */
static int64_t span_start(const struct hlm_strategy *strategy, const struct span *span, int32_t pp,
                          int32_t *width)
{
    const int32_t tp = hlm_strategy_at(strategy, pp).tp;
    struct hlm_coords coords = span->coords;
    coords.pp = pp;
    coords.tp = (int32_t)((int64_t)coords.tp * tp / span->tp);
    *width = 1;
    if (span->group == HLM_GROUP_MODEL) {
        coords.tp = 0;
        *width = tp;
    } else if (span->group == HLM_GROUP_WORLD) {
        *width = (int32_t)place_size(strategy, pp);
        return first_rank(strategy, pp);
    }
    return hlm_layout_rank(strategy, coords);
}

bool hlm_layout_group_is_mutual(const struct hlm_strategy *strategy, enum hlm_group group)
{
    const int32_t last = strategy->pp - 1;
    const int32_t step = group == HLM_GROUP_PP || last == 0 ? 1 : last;
    const int32_t tp = hlm_strategy_at(strategy, 0).tp;
    const bool takes_parts = group == HLM_GROUP_PP || group == HLM_GROUP_EMBEDDING;
    for (int32_t pp = 0; takes_parts && pp <= last; pp += step) {
        if (hlm_strategy_at(strategy, pp).tp != tp) {
            return false;
        }
    }
    return true;
}

void hlm_layout_group(const struct hlm_strategy *strategy, enum hlm_group group, int32_t rank,
                      int32_t *members, int32_t *out_position)
{
    const int32_t own = pipeline_rank(strategy, rank);
    const struct hlm_strategy at = hlm_strategy_at(strategy, own);
    int64_t stride = 0, count = 0, num = 0;
    stage_group(&at, group, &stride, &count);
    if (count > 0) {
        const int64_t local = rank - first_rank(strategy, own);
        const int64_t start =
            rank - local + local / (stride * count) * (stride * count) + local % stride;
        for (; num < count; num++) {
            members[num] = (int32_t)(start + num * stride);
        }
    } else {
        const struct span span = make_span(strategy, group, rank);
        for (int32_t pp = 0; pp < strategy->pp; pp += span.step) {
            int32_t width = 0;
            const int64_t start = span_start(strategy, &span, pp, &width);
            for (int32_t i = 0; i < width; i++) {
                members[num++] = (int32_t)(start + i);
            }
        }
    }
    *out_position = -1;
    for (int32_t i = 0; i < num; i++) {
        *out_position = members[i] == rank ? i : *out_position;
    }
}

/* Device group of a device, and the device's index inside it. */
static int32_t locate(const struct hlm_cluster *cluster, int64_t device, int64_t *out_index)
{
    for (int32_t i = 0; i < cluster->num_groups; i++) {
        const struct hlm_device_group *group = &cluster->groups[i];
        const int64_t devices = (int64_t)group->num_nodes * group->devices_per_node;
        if (device < devices) {
            *out_index = device;
            return i;
        }
        device -= devices;
    }
    HLM_ASSERT(false && "the cluster has a device for every rank");
    return 0;
}

enum hlm_status hlm_layout_locate_replicas(const struct hlm_strategy *strategy,
                                           const struct hlm_cluster *cluster,
                                           struct hlm_replicas *located, struct hlm_err *err)
{
    for (int32_t i = 0; i < strategy->num_replicas; i++) {
        const int32_t group = strategy->replicas[i].device_group;
        if (group < 0 || group >= cluster->num_groups) {
            return hlm_fail(err, HLM_NO,
                            "replicas[%d].device_group: expected less than %d groups, found %d", i,
                            cluster->num_groups, group);
        }
        int64_t first = 0;
        for (int32_t g = 0; g < group; g++) {
            first += (int64_t)cluster->groups[g].num_nodes * cluster->groups[g].devices_per_node;
        }
        const struct hlm_device_group *own = &cluster->groups[group];
        const int64_t devices = (int64_t)own->num_nodes * own->devices_per_node;
        const int64_t needed =
            (int64_t)strategy->replicas[i].dp * strategy->tp * strategy->cp * strategy->pp;
        if (needed > devices) {
            return hlm_fail(err, HLM_NO,
                            "replicas[%d] need %lld devices of group %s, which has %lld", i,
                            (long long)needed, own->name, (long long)devices);
        }
        located[i] = strategy->replicas[i];
        located[i].first_device = first;
    }
    return HLM_OK;
}

int32_t hlm_layout_device_group(const struct hlm_strategy *strategy,
                                const struct hlm_cluster *cluster, int32_t stage)
{
    int64_t index = 0;
    return locate(cluster, first_device(strategy, hlm_layout_stage_rank(strategy, stage)), &index);
}

bool hlm_layout_stage_fits(const struct hlm_strategy *strategy, const struct hlm_cluster *cluster,
                           int32_t stage)
{
    int64_t index = 0;
    const int32_t pp = hlm_layout_stage_rank(strategy, stage);
    const int64_t first = first_device(strategy, pp);
    return locate(cluster, first, &index) ==
           locate(cluster, first + place_size(strategy, pp) - 1, &index);
}

static struct lattice make_lattice(const struct hlm_strategy *strategy,
                                   const struct hlm_cluster *cluster, int32_t stage)
{
    const int32_t pp = hlm_layout_stage_rank(strategy, stage);
    struct lattice lattice = {.size = place_size(strategy, pp), .stride = 1, .count = 1};
    const int32_t group = locate(cluster, first_device(strategy, pp), &lattice.base);
    lattice.node = hlm_device_group_domain(&cluster->groups[group]);
    return lattice;
}

static int64_t gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Starts of groups repeat modulo the node after so many runs of stride * count ranks. */
static int64_t num_phases(const struct lattice *lattice)
{
    const int64_t run = lattice->stride * lattice->count;
    return min_of(lattice->size / run, lattice->node / gcd(run, lattice->node));
}

/* Nodes of the group that spans most. */
static int64_t most_nodes(const struct lattice *lattice)
{
    if (lattice->count == 1 || lattice->stride >= lattice->node) {
        return lattice->count;
    }
    /* Strides shorter than a node skip none, so the ends decide; the best start is the one furthest
     * into its node. */
    const int64_t run = lattice->stride * lattice->count, span = run - lattice->stride;
    int64_t most = 1;
    for (int64_t q = 0; q < num_phases(lattice); q++) {
        const int64_t low = (lattice->base + q * run) % lattice->node;
        const int64_t furthest = min_of(low + lattice->stride, lattice->node) - 1;
        most = max_of(most, (furthest + span) / lattice->node + 1);
    }
    return most;
}

/* Groups with ranks on node number `node` of the device group. */
static int64_t groups_on(const struct lattice *lattice, int64_t node)
{
    const int64_t run = lattice->stride * lattice->count;
    const int64_t first = max_of(0, node * lattice->node - lattice->base);
    const int64_t end = min_of(lattice->size, (node + 1) * lattice->node - lattice->base);
    int64_t groups = 0;
    for (int64_t start = first; start < end;) {
        const int64_t next = min_of(end, (start / run + 1) * run);
        groups += min_of(lattice->stride, next - start);
        start = next;
    }
    return groups;
}

/* Groups on the node where most meet. Nodes in which a run starts have at least as many as those
 * inside of one, and repeat after num_phases runs; the first node may be cut off by the stage's
 * start. */
static int64_t most_groups(const struct lattice *lattice)
{
    const int64_t run = lattice->stride * lattice->count;
    const int64_t num_runs = lattice->size / run;
    const int64_t first = lattice->base / lattice->node;
    const int64_t last = (lattice->base + lattice->size - 1) / lattice->node;
    if (first == last && lattice->size % run == 0) {
        return lattice->size / lattice->count;
    }
    if (lattice->base % lattice->node == 0 && lattice->size % lattice->node == 0) {
        /* Whole nodes: where runs fill nodes, or nodes runs, all nodes are alike. */
        if (lattice->node % run == 0) {
            return lattice->node / lattice->count;
        }
        if (run % lattice->node == 0) {
            return min_of(lattice->stride, lattice->node);
        }
    }
    int64_t most = max_of(groups_on(lattice, first), groups_on(lattice, last));
    if (last > first) {
        most = max_of(most, groups_on(lattice, first + 1));
    }
    const int64_t tries = min_of(num_runs, num_phases(lattice) + 1);
    for (int64_t q = 0; q < tries; q++) {
        most = max_of(most, groups_on(lattice, (lattice->base + q * run) / lattice->node));
    }
    return most;
}

/* Number of the node that holds a device, counted over the whole cluster. */
static int64_t node_of(const struct hlm_cluster *cluster, int64_t device)
{
    int64_t index = 0, before = 0;
    const int32_t group = locate(cluster, device, &index);
    for (int32_t i = 0; i < group; i++) {
        const int64_t devices =
            (int64_t)cluster->groups[i].num_nodes * cluster->groups[i].devices_per_node;
        const int64_t domain = hlm_device_group_domain(&cluster->groups[i]);
        before += (devices + domain - 1) / domain;
    }
    return before + index / hlm_device_group_domain(&cluster->groups[group]);
}

/* Nodes of a group that spans stages. Devices ascend inside a device group, so only neighbours can
 * share a node. */
static int64_t spanned_nodes(const struct hlm_strategy *strategy, const struct span *span,
                             const struct hlm_cluster *cluster)
{
    int64_t nodes = 0, last = -1;
    for (int32_t pp = 0; pp < strategy->pp; pp += span->step) {
        int32_t width = 0;
        const int64_t start = span_start(strategy, span, pp, &width);
        const int64_t device = hlm_layout_device(strategy, (int32_t)start);
        const int64_t from = node_of(cluster, device), to = node_of(cluster, device + width - 1);
        nodes += to - from + (from == last ? 0 : 1);
        last = to;
    }
    return nodes;
}

struct hlm_group_shape hlm_layout_shape(const struct hlm_strategy *strategy, enum hlm_group group,
                                        const struct hlm_cluster *cluster, int32_t stage)
{
    const int32_t pp = hlm_layout_stage_rank(strategy, stage);
    const struct hlm_strategy at = hlm_strategy_at(strategy, pp);
    struct lattice lattice = make_lattice(strategy, cluster, stage);
    int64_t stride = 0, count = 0, nodes = 0;
    stage_group(&at, group, &stride, &count);
    if (count > 0) {
        lattice.stride = stride;
        lattice.count = count;
        nodes = most_nodes(&lattice);
    } else {
        const struct span span = make_span(strategy, group, (int32_t)first_rank(strategy, pp));
        int32_t width = 0;
        (void)span_start(strategy, &span, pp, &width);
        lattice.count = width;
        nodes = spanned_nodes(strategy, &span, cluster);
    }
    const int64_t num_ranks = hlm_layout_group_size(&at, group);
    return (struct hlm_group_shape){.num_ranks = (int32_t)num_ranks,
                                    .num_nodes = (int32_t)nodes,
                                    .ranks_per_node = (int32_t)((num_ranks + nodes - 1) / nodes),
                                    .groups_per_node = (int32_t)most_groups(&lattice)};
}

/* Devices of a stage that exchange with another node: the most of any node. `shift` is how far away
 * the partner of each is, in the same device group; 0: all partners are in another one. */
static int64_t most_crossing(const struct lattice *stage, int64_t shift)
{
    const bool all = shift == 0 || shift >= stage->node || -shift >= stage->node;
    if (all) {
        return most_groups(stage);
    }
    /* Here the stage is smaller than a node, so there are few devices. */
    int64_t most = 0, here = 0, node = -1;
    for (int64_t device = stage->base; device < stage->base + stage->size; device++) {
        here = device / stage->node == node ? here : 0;
        node = device / stage->node;
        here += (device + shift) / stage->node != node ? 1 : 0;
        most = max_of(most, here);
    }
    return most;
}

const struct hlm_link *hlm_layout_stage_link(const struct hlm_strategy *strategy,
                                             const struct hlm_cluster *cluster, int32_t stage,
                                             int32_t *out_sharing)
{
    const struct lattice from = make_lattice(strategy, cluster, stage);
    const struct lattice to = make_lattice(strategy, cluster, stage + 1);
    const int32_t from_group = hlm_layout_device_group(strategy, cluster, stage);
    const int32_t to_group = hlm_layout_device_group(strategy, cluster, stage + 1);
    const int64_t shift = from_group == to_group ? to.base - from.base : 0;
    *out_sharing = 1;
    if (from_group == to_group && shift == 0) {
        return &cluster->groups[from_group].intra_node; /* the same ranks */
    }
    const int64_t crossing = max_of(most_crossing(&from, shift), most_crossing(&to, -shift));
    if (crossing == 0) {
        return &cluster->groups[from_group].intra_node;
    }
    *out_sharing = (int32_t)crossing;
    return hlm_cluster_inter_link(cluster, from_group, to_group);
}
