#include "profiles/cluster.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const char *const collective_texts[] = {
#define X(name, text) text,
    HLM_COLLECTIVE_MAP(X)
#undef X
        NULL,
};
static const char *const fabric_texts[] = {
#define X(name, text) text,
    HLM_FABRIC_MAP(X)
#undef X
        NULL,
};

#define MAX_SECONDS 1e3
#define MIN_RATE 1e3
#define MAX_RATE 1e18

#define NUMBER(type_, member_, flags_, min_, max_, doc_)                                           \
    {                                                                                              \
        .name = #member_, .type = HLM_JSON_DOUBLE, .offset = offsetof(type_, member_),             \
        .flags = (flags_), .min = (min_), .max = (max_), .doc = (doc_)                             \
    }
#define WHOLE(type_, member_, flags_, min_, max_, doc_)                                            \
    {                                                                                              \
        .name = #member_, .type = HLM_JSON_INT, .offset = offsetof(type_, member_),                \
        .flags = (flags_), .min = (min_), .max = (max_), .doc = (doc_)                             \
    }
#define OBJECT(type_, member_, table_, doc_)                                                       \
    {                                                                                              \
        .name = #member_, .type = HLM_JSON_OBJECT, .offset = offsetof(type_, member_),             \
        .flags = HLM_FIELD_REQUIRED, .table = (table_), .doc = (doc_)                              \
    }
#define ROWS(type_, member_, count_, flags_, min_, max_, table_, doc_)                             \
    {                                                                                              \
        .name = #member_, .type = HLM_JSON_ARRAY, .offset = offsetof(type_, member_),              \
        .flags = (flags_), .min = (min_), .max = (max_), .table = (table_),                        \
        .count_offset = offsetof(type_, count_), .doc = (doc_)                                     \
    }
#define TEXT(type_, member_, doc_)                                                                 \
    {                                                                                              \
        .name = #member_, .type = HLM_JSON_STRING, .offset = offsetof(type_, member_),             \
        .flags = HLM_FIELD_REQUIRED, .doc = (doc_)                                                 \
    }

enum { REQUIRED = HLM_FIELD_REQUIRED, OPTIONAL = HLM_FIELD_OMIT_DEFAULT };

#define T struct hlm_link
static const struct hlm_json_field link_fields[] = {
    NUMBER(T, alpha_s, REQUIRED, 0.0, MAX_SECONDS, "Latency of a message, in seconds."),
    NUMBER(T, alpha_rendezvous_s, OPTIONAL, 0.0, MAX_SECONDS,
           "Latency of a message above eager_limit_bytes, in seconds; 0: as alpha_s."),
    NUMBER(T, hop_alpha_s, OPTIONAL, 0.0, MAX_SECONDS,
           "Latency of each further step of a pipelined collective, in seconds; 0: as alpha_s."),
    {.name = "eager_limit_bytes",
     .type = HLM_JSON_INT64,
     .offset = offsetof(T, eager_limit_bytes),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .min = 0.0,
     .max = 1e15,
     .doc = "Largest message that is sent without waiting for the receiver, in bytes."},
    NUMBER(T, bandwidth_bytes_per_s, REQUIRED, MIN_RATE, MAX_RATE,
           "Per direction and device, in bytes/s."),
    {.name = "needs_both_sides",
     .type = HLM_JSON_BOOL,
     .offset = offsetof(T, needs_both_sides),
     .flags = HLM_FIELD_REQUIRED,
     .doc = "true: a transfer starts when both sides are there (MPI); false: buffered at the "
            "receiver (NCCL)."},
    ROWS(T, points, num_points, OPTIONAL, 0.0, 4096.0, &hlm_curve_point_table,
         "Measured time by message size, instead of latency and bandwidth."),
    OBJECT(T, source, &hlm_source_table, "Where the figures come from."),
    {.name = NULL},
};
static const struct hlm_json_table link_table = {"link", sizeof(T), link_fields};
#undef T

#define T struct hlm_collective_piece
static const struct hlm_json_field piece_fields[] = {
    NUMBER(T, max_bytes, REQUIRED, 0.0, 1e18,
           "Largest buffer that the piece is for, in bytes; 0 in the last: no limit."),
    NUMBER(T, alpha_s, REQUIRED, 0.0, MAX_SECONDS, "Constant part, in seconds."),
    NUMBER(T, bus_bandwidth_bytes_per_s, REQUIRED, 0.0, MAX_RATE,
           "Bus bandwidth as nccl-tests defines it, in bytes/s; 0: size does not matter."),
    {.name = NULL},
};
static const struct hlm_json_table piece_table = {"collective_piece", sizeof(T), piece_fields};
#undef T

#define T struct hlm_collective_curve
static const struct hlm_json_field curve_fields[] = {
    {.name = "op",
     .type = HLM_JSON_ENUM,
     .offset = offsetof(T, op),
     .flags = HLM_FIELD_REQUIRED,
     .enums = collective_texts,
     .doc = "Collective."},
    WHOLE(T, num_ranks, REQUIRED, 2.0, 1e6, "Ranks."),
    WHOLE(T, num_nodes, REQUIRED, 1.0, 1e6, "Nodes that the ranks fill evenly."),
    ROWS(T, pieces, num_pieces, REQUIRED, 1.0, 64.0, &piece_table, "Pieces, ascending in size."),
    OBJECT(T, source, &hlm_source_table, "Where the curve comes from."),
    {.name = NULL},
};
static const struct hlm_json_table curve_table = {"collective_curve", sizeof(T), curve_fields};
#undef T

#define T struct hlm_host
static const struct hlm_json_field host_fields[] = {
    NUMBER(T, memory_bytes, REQUIRED, 0.0, 1e18, "Memory of a node's host, in bytes."),
    NUMBER(T, memory_bandwidth_bytes_per_s, REQUIRED, MIN_RATE, MAX_RATE,
           "Rate of that memory, of a node, as STREAM reaches it, in bytes/s."),
    NUMBER(T, link_bandwidth_bytes_per_s, REQUIRED, MIN_RATE, MAX_RATE,
           "Between a device and page-locked memory of the host, per direction, while all devices "
           "of the node copy, in bytes/s."),
    OBJECT(T, source, &hlm_source_table, "Where the figures come from."),
    {.name = NULL},
};
static const struct hlm_json_table host_table = {"host", sizeof(T), host_fields};
#undef T

#define T struct hlm_device_group
static const struct hlm_json_field group_fields[] = {
    TEXT(T, name, "Name, unique in the cluster."),
    OBJECT(T, device, &hlm_device_table, "The device, in full."),
    WHOLE(T, num_nodes, REQUIRED, 1.0, 1e6, "Nodes."),
    WHOLE(T, devices_per_node, REQUIRED, 1.0, 1024.0, "Devices in each node."),
    OBJECT(T, intra_node, &link_table, "Link between two devices of a node."),
    WHOLE(T, nics_per_node, 0u, 0.0, 1024.0,
          "Network cards, shared by the devices of a node; 0: the inter-node link's bandwidth "
          "holds."),
    NUMBER(T, nic_bandwidth_bytes_per_s, 0u, 0.0, MAX_RATE,
           "Per card and direction, as collectives reach it, in bytes/s."),
    OBJECT(T, nic_source, &hlm_source_table, "Where nic_bandwidth_bytes_per_s comes from."),
    WHOLE(T, nvlink_domain, OPTIONAL, 0.0, 1024.0,
          "Devices that the intra-node link joins, a multiple of devices_per_node; 0: "
          "devices_per_node."),
    NUMBER(T, price_per_device_hour, OPTIONAL, 0.0, 1e6, "Price; 0: unknown."),
    ROWS(T, collectives, num_collectives, OPTIONAL, 0.0, 4096.0, &curve_table,
         "Measured collectives."),
    {.name = "host",
     .type = HLM_JSON_POINTER,
     .offset = offsetof(T, host),
     .flags = HLM_FIELD_OMIT_DEFAULT,
     .table = &host_table,
     .doc = "The host of a node, which offload needs."},
    {.name = NULL},
};
static const struct hlm_json_table group_table = {"device_group", sizeof(T), group_fields};
#undef T

#define T struct hlm_inter_link
static const struct hlm_json_field inter_fields[] = {
    WHOLE(T, from, REQUIRED, 0.0, 1e6, "Index of a group."),
    WHOLE(T, to, REQUIRED, 0.0, 1e6, "Index of a group, the same one for links inside it."),
    OBJECT(T, link, &link_table, "Link between a node of one and a node of the other."),
    {.name = NULL},
};
static const struct hlm_json_table inter_table = {"inter_link", sizeof(T), inter_fields};
#undef T

#define T struct hlm_cluster
static const struct hlm_json_field cluster_fields[] = {
    TEXT(T, name, "Name of the cluster."),
    ROWS(T, groups, num_groups, HLM_FIELD_REQUIRED, 1.0, 256.0, &group_table,
         "Groups of equal nodes; devices are numbered group by group, node by node."),
    ROWS(T, links, num_links, HLM_FIELD_OMIT_DEFAULT, 0.0, 65536.0, &inter_table,
         "Links between nodes: one for every pair of groups with more than one node between them."),
    {.name = "fabric",
     .type = HLM_JSON_ENUM,
     .offset = offsetof(T, fabric),
     .enums = fabric_texts,
     .doc = "Shape of the network."},
    {.name = "oversubscription",
     .type = HLM_JSON_DOUBLE,
     .offset = offsetof(T, oversubscription),
     .min = 1.0,
     .max = 1000.0,
     .def = 1.0,
     .doc = "Bandwidth at the nodes over that of the bisection; 1: full bisection."},
    {.name = NULL},
};
const struct hlm_json_table hlm_cluster_table = {"cluster", sizeof(T), cluster_fields};
#undef T

static enum hlm_status check_link(const struct hlm_link *link, const char *where,
                                  struct hlm_err *err)
{
    const struct hlm_curve curve = {link->points, link->num_points};
    const enum hlm_status status = hlm_curve_validate(&curve, "points", err);
    if (status != HLM_OK) {
        hlm_err_prefix(err, "%s", where);
    }
    return status;
}

static enum hlm_status check_pieces(const struct hlm_collective_curve *curve, const char *where,
                                    struct hlm_err *err)
{
    for (int32_t i = 0; i < curve->num_pieces; i++) {
        const double max_bytes = curve->pieces[i].max_bytes;
        const bool last = i == curve->num_pieces - 1;
        const double before = i == 0 ? 0.0 : curve->pieces[i - 1].max_bytes;
        if (last && max_bytes != 0.0) {
            return hlm_fail(err, HLM_INPUT,
                            "%s.pieces[%d].max_bytes: expected 0 (no limit) in the last piece, "
                            "found %.17g",
                            where, (int)i, max_bytes);
        }
        if (!last && !(max_bytes > before)) {
            return hlm_fail(err, HLM_INPUT,
                            "%s.pieces[%d].max_bytes: expected more than %.17g, found %.17g", where,
                            (int)i, before, max_bytes);
        }
    }
    return HLM_OK;
}

static enum hlm_status check_group(const struct hlm_device_group *group, const char *where,
                                   struct hlm_err *err)
{
    if (group->nvlink_domain % group->devices_per_node != 0) {
        return hlm_fail(err, HLM_INPUT,
                        "%s.nvlink_domain: expected a multiple of devices_per_node (%d), found %d",
                        where, (int)group->devices_per_node, (int)group->nvlink_domain);
    }
    if (group->nics_per_node > 0 && group->nic_bandwidth_bytes_per_s < MIN_RATE) {
        return hlm_fail(err, HLM_INPUT,
                        "%s.nic_bandwidth_bytes_per_s: expected at least %g with %d network "
                        "cards, found %g",
                        where, MIN_RATE, (int)group->nics_per_node,
                        group->nic_bandwidth_bytes_per_s);
    }
    HLM_TRY(check_link(&group->intra_node, where, err));
    for (int32_t i = 0; i < group->num_collectives; i++) {
        enum hlm_status status = check_pieces(&group->collectives[i], "collectives", err);
        if (status != HLM_OK) {
            hlm_err_prefix(err, "%s, curve %d", where, (int)i);
            return status;
        }
    }
    return hlm_device_validate(&group->device, where, err);
}

static const struct hlm_inter_link *find_link(const struct hlm_cluster *cluster, int32_t from,
                                              int32_t to)
{
    for (int32_t i = 0; i < cluster->num_links; i++) {
        const struct hlm_inter_link *link = &cluster->links[i];
        if ((link->from == from && link->to == to) || (link->from == to && link->to == from)) {
            return link;
        }
    }
    return NULL;
}

static enum hlm_status check_links(const struct hlm_cluster *cluster, const char *where,
                                   struct hlm_err *err)
{
    for (int32_t i = 0; i < cluster->num_links; i++) {
        const struct hlm_inter_link *link = &cluster->links[i];
        if (link->from >= cluster->num_groups || link->to >= cluster->num_groups) {
            return hlm_fail(
                err, HLM_INPUT, "%s: $.links[%d]: expected group indices below %d, found %d and %d",
                where, (int)i, (int)cluster->num_groups, (int)link->from, (int)link->to);
        }
        if (find_link(cluster, link->from, link->to) != link) {
            return hlm_fail(err, HLM_INPUT, "%s: $.links[%d]: a second link between groups %d, %d",
                            where, (int)i, (int)link->from, (int)link->to);
        }
        HLM_TRY(check_link(&link->link, where, err));
    }
    for (int32_t a = 0; a < cluster->num_groups; a++) {
        for (int32_t b = a; b < cluster->num_groups; b++) {
            const bool needed = a != b || cluster->groups[a].num_nodes > 1;
            if (needed && find_link(cluster, a, b) == NULL) {
                return hlm_fail(err, HLM_INPUT,
                                "%s: $.links: expected a link between nodes of groups %d and %d, "
                                "found none",
                                where, (int)a, (int)b);
            }
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_cluster_validate(const struct hlm_cluster *cluster, const char *where,
                                     struct hlm_err *err)
{
    for (int32_t i = 0; i < cluster->num_groups; i++) {
        for (int32_t j = 0; j < i; j++) {
            if (strcmp(cluster->groups[i].name, cluster->groups[j].name) == 0) {
                return hlm_fail(err, HLM_INPUT, "%s: $.groups[%d].name: \"%.100s\" is there twice",
                                where, (int)i, cluster->groups[i].name);
            }
        }
        char path[400];
        snprintf(path, sizeof path, "%.300s: $.groups[%d]", where, (int)i);
        HLM_TRY(check_group(&cluster->groups[i], path, err));
    }
    /* Rank and device indices are int32_t everywhere. */
    if (hlm_cluster_num_devices(cluster) > INT32_MAX / 2) {
        return hlm_fail(err, HLM_INPUT, "%s: expected at most %d devices, found %lld", where,
                        INT32_MAX / 2, (long long)hlm_cluster_num_devices(cluster));
    }
    return check_links(cluster, where, err);
}

int64_t hlm_cluster_num_devices(const struct hlm_cluster *cluster)
{
    int64_t count = 0;
    for (int32_t i = 0; i < cluster->num_groups; i++) {
        count += (int64_t)cluster->groups[i].num_nodes * cluster->groups[i].devices_per_node;
    }
    return count;
}

int32_t hlm_device_group_domain(const struct hlm_device_group *group)
{
    return group->nvlink_domain > 0 ? group->nvlink_domain : group->devices_per_node;
}

const struct hlm_link *hlm_cluster_inter_link(const struct hlm_cluster *cluster, int32_t from,
                                              int32_t to)
{
    const struct hlm_inter_link *link = find_link(cluster, from, to);
    if (link != NULL) {
        return &link->link;
    }
    /* Only a group of one node may lack its own link: all its paths are inside the node. */
    HLM_ASSERT(from == to && cluster->groups[from].num_nodes == 1);
    return &cluster->groups[from].intra_node;
}

double hlm_link_seconds(const struct hlm_link *link, double bytes)
{
    if (link->num_points > 0) {
        const struct hlm_curve curve = {link->points, link->num_points};
        return hlm_curve_seconds(&curve, bytes);
    }
    const bool eager = bytes <= (double)link->eager_limit_bytes || link->alpha_rendezvous_s == 0.0;
    const double alpha_s = eager ? link->alpha_s : fmax(link->alpha_s, link->alpha_rendezvous_s);
    return alpha_s + bytes / link->bandwidth_bytes_per_s;
}

enum hlm_dtype hlm_cluster_best_dtype(const struct hlm_cluster *cluster)
{
    static const enum hlm_dtype order[] = {HLM_DTYPE_BF16, HLM_DTYPE_FP16};
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        bool all = true;
        for (int32_t g = 0; g < cluster->num_groups; g++) {
            all = all && hlm_device_dtype(&cluster->groups[g].device, order[i]) != NULL;
        }
        if (all) {
            return order[i];
        }
    }
    return HLM_DTYPE_FP32;
}
