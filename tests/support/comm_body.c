#include "tests/support/comm_body.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tests/support/share.h"

/* A rank's own view of one group, from the layout and not from the transport. */
struct group {
    enum hlm_group kind;
    int32_t size, position;
    int32_t members[64];
};

struct body {
    struct hlm_comm *comm;
    const struct hlm_strategy *strategy;
    unsigned char *in, *out;
};

struct hlm_strategy comm_body_strategy(int32_t dp, int32_t tp, int32_t pp)
{
    return (struct hlm_strategy){
        .dp = dp, .tp = tp, .pp = pp, .cp = 1, .ep = 1, .etp = tp, .vpp = 1, .zero_group = 1};
}

static struct group group_of(const struct body *body, enum hlm_group kind)
{
    struct group group = {.kind = kind};
    const struct hlm_strategy at =
        hlm_strategy_at(body->strategy, hlm_layout_coords(body->strategy, body->comm->rank).pp);
    group.size = hlm_layout_group_size(&at, kind);
    HLM_ASSERT(group.size <= 64);
    hlm_layout_group(body->strategy, kind, body->comm->rank, group.members, &group.position);
    if (group.position < 0 || !hlm_layout_group_is_mutual(body->strategy, kind)) {
        group = (struct group){kind, 1, 0, {body->comm->rank}};
    }
    return group;
}

/* Small integers: every sum is exact in every type, in whatever order. */
static int value_of(int32_t rank, int64_t i)
{
    return (int)((i * 7 + rank * 13) % 31) - 15;
}

static double read_element(const unsigned char *data, int64_t i, enum hlm_wire type)
{
    float f32;
    double f64;
    uint16_t half;
    uint32_t wide;
    switch (type) {
    case HLM_WIRE_F32:
        memcpy(&f32, data + 4 * i, sizeof f32);
        return (double)f32;
    case HLM_WIRE_F64:
        memcpy(&f64, data + 8 * i, sizeof f64);
        return f64;
    case HLM_WIRE_BF16:
        memcpy(&half, data + 2 * i, sizeof half);
        wide = (uint32_t)half << 16;
        memcpy(&f32, &wide, sizeof f32);
        return (double)f32;
    case HLM_WIRE_BYTE:
        return (double)data[i];
    }
    return 0;
}

static void write_element(unsigned char *data, int64_t i, enum hlm_wire type, int value)
{
    const float f32 = (float)value;
    const double f64 = value;
    uint32_t wide;
    uint16_t half;
    switch (type) {
    case HLM_WIRE_F32:
        memcpy(data + 4 * i, &f32, sizeof f32);
        return;
    case HLM_WIRE_F64:
        memcpy(data + 8 * i, &f64, sizeof f64);
        return;
    case HLM_WIRE_BF16:
        memcpy(&wide, &f32, sizeof wide);
        half = (uint16_t)(wide >> 16); /* small integers fit */
        memcpy(data + 2 * i, &half, sizeof half);
        return;
    case HLM_WIRE_BYTE:
        data[i] = (unsigned char)value;
        return;
    }
}

static int64_t element_bytes(enum hlm_wire type)
{
    static const int64_t bytes[] = {
#define X(name, text, size) size,
        HLM_WIRE_MAP(X)
#undef X
    };
    return bytes[type];
}

/* What a byte holds of an integer. */
static double as_stored(int value, enum hlm_wire type)
{
    return type == HLM_WIRE_BYTE ? (double)(unsigned char)value : (double)value;
}

static double expected_sum(const struct group *group, int64_t i, enum hlm_wire type)
{
    int sum = 0;
    for (int32_t k = 0; k < group->size; k++) {
        sum += value_of(group->members[k], i);
    }
    return as_stored(sum, type);
}

static double expected_max(const struct group *group, int64_t i, enum hlm_wire type)
{
    double most = as_stored(value_of(group->members[0], i), type);
    for (int32_t k = 1; k < group->size; k++) {
        const double value = as_stored(value_of(group->members[k], i), type);
        most = value > most ? value : most;
    }
    return most;
}

static double expected_piece(const struct group *group, int64_t i, int64_t count,
                             enum hlm_wire type)
{
    return as_stored(value_of(group->members[i / count], i % count), type);
}

static enum hlm_status check_element(const struct body *body, const struct group *group,
                                     const char *what, enum hlm_wire type, int64_t count, int64_t i,
                                     double found, double expected, struct hlm_err *err)
{
    static const char *const types[] = {
#define X(name, text, size) text,
        HLM_WIRE_MAP(X)
#undef X
    };
    if (found == expected) {
        return HLM_OK;
    }
    return hlm_fail(err, HLM_NO,
                    "rank %" PRId32 ": %s of %" PRId64 " %s over %s: element %" PRId64
                    " is %g, expected %g",
                    body->comm->rank, what, count, types[type], hlm_group_texts[group->kind], i,
                    found, expected);
}

static void fill(unsigned char *data, int32_t rank, int64_t count, enum hlm_wire type)
{
    for (int64_t i = 0; i < count; i++) {
        write_element(data, i, type, value_of(rank, i));
    }
}

static enum hlm_status check_all_reduce(const struct body *body, const struct group *group,
                                        int64_t count, enum hlm_wire type, enum hlm_reduce op,
                                        struct hlm_err *err)
{
    fill(body->in, body->comm->rank, count, type);
    HLM_TRY(body->comm->ops->all_reduce(body->comm, group->kind, body->in, count, type, op, err));
    for (int64_t i = 0; i < count; i++) {
        HLM_TRY(check_element(
            body, group, "all_reduce", type, count, i, read_element(body->in, i, type),
            (op == HLM_REDUCE_SUM ? expected_sum : expected_max)(group, i, type), err));
    }
    return HLM_OK;
}

static enum hlm_status check_all_gather(const struct body *body, const struct group *group,
                                        int64_t count, enum hlm_wire type, bool in_place,
                                        struct hlm_err *err)
{
    unsigned char *in =
        in_place ? body->out + group->position * count * element_bytes(type) : body->in;
    memset(body->out, 0x5a, (size_t)(count * group->size * element_bytes(type)));
    fill(in, body->comm->rank, count, type);
    HLM_TRY(body->comm->ops->all_gather(body->comm, group->kind, in, body->out, count, type, err));
    for (int64_t i = 0; i < count * group->size; i++) {
        HLM_TRY(check_element(body, group, "all_gather", type, count, i,
                              read_element(body->out, i, type),
                              expected_piece(group, i, count, type), err));
    }
    return HLM_OK;
}

static enum hlm_status check_reduce_scatter(const struct body *body, const struct group *group,
                                            int64_t count, enum hlm_wire type, bool in_place,
                                            struct hlm_err *err)
{
    unsigned char *out =
        in_place ? body->in + group->position * count * element_bytes(type) : body->out;
    fill(body->in, body->comm->rank, count * group->size, type);
    HLM_TRY(
        body->comm->ops->reduce_scatter(body->comm, group->kind, body->in, out, count, type, err));
    for (int64_t i = 0; i < count; i++) {
        HLM_TRY(check_element(body, group, "reduce_scatter", type, count, i,
                              read_element(out, i, type),
                              expected_sum(group, group->position * count + i, type), err));
    }
    return HLM_OK;
}

/* `total` elements of the whole buffer, or as many as the group divides. */
static enum hlm_status check_collectives(const struct body *body, const struct group *group,
                                         int64_t total, enum hlm_wire type, struct hlm_err *err)
{
    const int64_t part = total / group->size > 0 ? total / group->size : 1;
    HLM_TRY(check_all_reduce(body, group, total, type, HLM_REDUCE_SUM, err));
    HLM_TRY(check_all_reduce(body, group, total, type, HLM_REDUCE_MAX, err));
    for (int in_place = 0; in_place < 2; in_place++) {
        HLM_TRY(check_all_gather(body, group, part, type, in_place == 1, err));
        HLM_TRY(check_reduce_scatter(body, group, part, type, in_place == 1, err));
    }
    return body->comm->ops->barrier(body->comm, group->kind, err);
}

/* Elements, from which on most of the time goes into making and comparing numbers. */
enum { LARGE_TOTAL = 5000 };

/* One element, odd numbers, both sides of 16 KiB, chunks that do not divide, 1 MiB. */
static enum hlm_status check_sizes(const struct body *body, struct hlm_err *err)
{
    static const int64_t totals[] = {1, 7, 1023, 4096, 4097, 70001, 262144};
    static const enum hlm_wire others[] = {HLM_WIRE_BF16, HLM_WIRE_BYTE};
    for (int kind = HLM_GROUP_NONE; kind < HLM_NUM_GROUPS; kind++) {
        const struct group group = group_of(body, (enum hlm_group)kind);
        for (size_t i = 0; i < sizeof totals / sizeof totals[0]; i++) {
            const int64_t index = kind * (int64_t)(sizeof totals / sizeof totals[0]) + (int64_t)i;
            if (totals[i] > LARGE_TOTAL && !share_has(index)) {
                continue; /* the same on all ranks */
            }
            HLM_TRY(check_collectives(body, &group, totals[i], HLM_WIRE_F32, err));
            HLM_TRY(check_collectives(body, &group, totals[i] / 2 + 1, HLM_WIRE_F64, err));
        }
        for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
            HLM_TRY(check_collectives(body, &group, 13, others[i], err));
            HLM_TRY(check_collectives(body, &group, 40001, others[i], err));
        }
    }
    return HLM_OK;
}

/* Several blocks of the ring. */
static enum hlm_status check_large(const struct body *body, struct hlm_err *err)
{
    const struct group group = group_of(body, HLM_GROUP_WORLD);
    const int64_t bytes = COMM_BODY_MAX_BYTES;
    HLM_TRY(check_all_reduce(body, &group, bytes / 4, HLM_WIRE_F32, HLM_REDUCE_SUM, err));
    HLM_TRY(check_all_gather(body, &group, bytes / 8 / group.size, HLM_WIRE_F64, true, err));
    return check_reduce_scatter(body, &group, bytes / 4 / group.size, HLM_WIRE_F32, false, err);
}

/* Sums that round: all ranks must have the same bits, and the same again. */
static enum hlm_status check_same_bits(const struct body *body, int64_t count, struct hlm_err *err)
{
    const struct group group = group_of(body, HLM_GROUP_WORLD);
    uint64_t first[64], all[64];
    for (int repeat = 0; repeat < 2; repeat++) {
        for (int64_t i = 0; i < count; i++) {
            const float value =
                (float)(hlm_rng_uniform((uint64_t)body->comm->rank, (uint64_t)i) - 0.5);
            memcpy(body->in + 4 * i, &value, sizeof value);
        }
        HLM_TRY(body->comm->ops->all_reduce(body->comm, HLM_GROUP_WORLD, body->in, count,
                                            HLM_WIRE_F32, HLM_REDUCE_SUM, err));
        const uint64_t own = hlm_hash(0, body->in, 4 * (size_t)count);
        HLM_TRY(body->comm->ops->all_gather(body->comm, HLM_GROUP_WORLD, &own, all, sizeof own,
                                            HLM_WIRE_BYTE, err));
        for (int32_t i = 0; i < group.size; i++) {
            if (all[i] != own || (repeat > 0 && all[i] != first[i])) {
                return hlm_fail(err, HLM_NO, "ranks %" PRId32 " and %" PRId32 " differ in a sum", i,
                                body->comm->rank);
            }
            first[i] = all[i];
        }
    }
    return HLM_OK;
}

/* Not a number may not vanish in a maximum. */
static enum hlm_status check_nan(const struct body *body, int64_t count, struct hlm_err *err)
{
    fill(body->in, body->comm->rank, count, HLM_WIRE_F32);
    const float nan = __builtin_nanf("");
    if (body->comm->rank == body->comm->world_size - 1) {
        memcpy(body->in + 4 * (count / 2), &nan, sizeof nan);
    }
    HLM_TRY(body->comm->ops->all_reduce(body->comm, HLM_GROUP_WORLD, body->in, count, HLM_WIRE_F32,
                                        HLM_REDUCE_MAX, err));
    const double found = read_element(body->in, count / 2, HLM_WIRE_F32);
    return found != found ? HLM_OK
                          : hlm_fail(err, HLM_NO, "a maximum with NaN is %g, expected NaN", found);
}

/* ---- all to all ---- */

/* From nothing to more than a small message, different both ways. */
static int64_t bytes_between(int32_t from, int32_t to, int round)
{
    const int64_t unit = round == 0 ? 1 : round == 1 ? 4099 : 40000;
    return (from * 3 + to * 5 + round) % 4 * unit;
}

static unsigned char byte_between(int32_t from, int32_t to, int64_t i)
{
    return (unsigned char)(i * 13 + from * 29 + to * 71);
}

static enum hlm_status check_received(const struct body *body, const struct group *group,
                                      const int64_t *out_bytes, struct hlm_err *err)
{
    const unsigned char *at = body->out;
    for (int32_t from = 0; from < group->size; from++) {
        for (int64_t i = 0; i < out_bytes[from]; i++) {
            if (at[i] != byte_between(group->members[from], body->comm->rank, i)) {
                return hlm_fail(err, HLM_NO,
                                "rank %" PRId32 ": all_to_all over %s: byte %" PRId64
                                " from rank %" PRId32 " is wrong",
                                body->comm->rank, hlm_group_texts[group->kind], i,
                                group->members[from]);
            }
        }
        at += out_bytes[from];
    }
    return at[0] == 0x5a ? HLM_OK
                         : hlm_fail(err, HLM_NO, "all_to_all writes behind what it receives");
}

static enum hlm_status check_all_to_all(const struct body *body, const struct group *group,
                                        int round, struct hlm_err *err)
{
    int64_t in_bytes[64], out_bytes[64], in_total = 0, out_total = 0;
    for (int32_t i = 0; i < group->size; i++) {
        in_bytes[i] = bytes_between(body->comm->rank, group->members[i], round);
        out_bytes[i] = bytes_between(group->members[i], body->comm->rank, round);
        for (int64_t k = 0; k < in_bytes[i]; k++) {
            body->in[in_total + k] = byte_between(body->comm->rank, group->members[i], k);
        }
        in_total += in_bytes[i];
        out_total += out_bytes[i];
    }
    HLM_ASSERT(in_total < COMM_BODY_MAX_BYTES && out_total < COMM_BODY_MAX_BYTES);
    memset(body->out, 0x5a, (size_t)out_total + 1);
    HLM_TRY(body->comm->ops->all_to_all(body->comm, group->kind, body->in, in_bytes, body->out,
                                        out_bytes, err));
    return check_received(body, group, out_bytes, err);
}

/* Between other collectives of the same groups. */
static enum hlm_status check_all_to_alls(const struct body *body, struct hlm_err *err)
{
    for (int kind = HLM_GROUP_NONE; body->comm->ops->all_to_all != NULL && kind < HLM_NUM_GROUPS;
         kind++) {
        const struct group group = group_of(body, (enum hlm_group)kind);
        for (int round = 0; round < 3; round++) {
            HLM_TRY(check_all_to_all(body, &group, round, err));
            HLM_TRY(check_all_reduce(body, &group, 70001, HLM_WIRE_F32, HLM_REDUCE_SUM, err));
        }
    }
    return HLM_OK;
}

/* ---- messages ---- */

enum { NUM_ROUNDS = 12 };

static int64_t message_bytes(int round)
{
    static const int64_t sizes[] = {1, 0, 4096, 4097, 100003, 1 << 20};
    return sizes[(size_t)round % (sizeof sizes / sizeof sizes[0])];
}

static void fill_message(unsigned char *data, int64_t bytes, int32_t from, int32_t channel,
                         int round)
{
    for (int64_t i = 0; i < bytes; i++) {
        data[i] = (unsigned char)(i * 31 + from * 7 + channel * 101 + round * 17);
    }
}

static enum hlm_status check_message(const struct body *body, const unsigned char *data,
                                     int64_t bytes, int32_t from, int32_t channel, int round,
                                     struct hlm_err *err)
{
    for (int64_t i = 0; i < bytes; i++) {
        const unsigned char expected =
            (unsigned char)(i * 31 + from * 7 + channel * 101 + round * 17);
        if (data[i] != expected) {
            return hlm_fail(err, HLM_NO,
                            "rank %" PRId32 ": message %d of channel %" PRId32 " from rank %" PRId32
                            ": byte %" PRId64 " is %d, expected %d",
                            body->comm->rank, round, channel, from, i, data[i], expected);
        }
    }
    return HLM_OK;
}

/* All sends of a rank are posted before its first receive, on two channels; the receives take
 * channel 1 first, and the sends are waited for backwards. */
static enum hlm_status check_messages_in_order(const struct body *body, struct hlm_err *err)
{
    struct hlm_comm *comm = body->comm;
    const int32_t next = (comm->rank + 1) % comm->world_size;
    const int32_t previous = (comm->rank + comm->world_size - 1) % comm->world_size;
    struct hlm_request *sends[2 * NUM_ROUNDS];
    int64_t used = 0;
    for (int i = 0; i < 2 * NUM_ROUNDS; i++) {
        const int64_t bytes = message_bytes(i / 2);
        fill_message(body->in + used, bytes, comm->rank, i % 2, i / 2);
        HLM_TRY(comm->ops->send(comm, next, i % 2, body->in + used, bytes, &sends[i], err));
        used += bytes;
    }
    for (int channel = 1; channel >= 0; channel--) {
        for (int round = 0; round < NUM_ROUNDS; round++) {
            struct hlm_request *request = NULL;
            const int64_t bytes = message_bytes(round);
            HLM_TRY(comm->ops->receive(comm, previous, channel, body->out, bytes, &request, err));
            HLM_TRY(comm->ops->wait(comm, request, err));
            HLM_TRY(check_message(body, body->out, bytes, previous, channel, round, err));
        }
    }
    for (int i = 2 * NUM_ROUNDS - 1; i >= 0; i--) {
        HLM_TRY(comm->ops->wait(comm, sends[i], err));
    }
    return HLM_OK;
}

/* Both ways at once, each side waiting for its send first, as 1F1B would have it at worst. */
static enum hlm_status check_exchange(const struct body *body, struct hlm_err *err)
{
    struct hlm_comm *comm = body->comm;
    const int32_t peer = comm->rank ^ 1;
    const int64_t bytes = 4 << 20;
    for (int round = 0; round < 4 && peer < comm->world_size; round++) {
        struct hlm_request *send = NULL, *receive = NULL;
        const int32_t channel = comm->rank % 2;
        fill_message(body->in, bytes, comm->rank, channel, round);
        HLM_TRY(comm->ops->send(comm, peer, channel, body->in, bytes, &send, err));
        HLM_TRY(comm->ops->receive(comm, peer, 1 - channel, body->out, bytes, &receive, err));
        HLM_TRY(comm->ops->wait(comm, send, err));
        HLM_TRY(comm->ops->wait(comm, receive, err));
        HLM_TRY(check_message(body, body->out, bytes, peer, 1 - channel, round, err));
    }
    return HLM_OK;
}

static enum hlm_status run(const struct body *body, struct hlm_err *err)
{
    HLM_TRY(check_sizes(body, err));
    HLM_TRY(check_large(body, err));
    HLM_TRY(check_all_to_alls(body, err));
    HLM_TRY(check_same_bits(body, 1000, err));
    HLM_TRY(check_same_bits(body, 100003, err));
    HLM_TRY(check_nan(body, 11, err));
    HLM_TRY(check_nan(body, 50000, err));
    HLM_TRY(check_messages_in_order(body, err));
    HLM_TRY(check_exchange(body, err));
    return body->comm->ops->barrier(body->comm, HLM_GROUP_WORLD, err);
}

enum hlm_status comm_body_run(struct hlm_comm *comm, const struct hlm_strategy *strategy,
                              struct hlm_err *err)
{
    struct body body = {.comm = comm, .strategy = strategy};
    body.in = malloc(COMM_BODY_MAX_BYTES);
    body.out = malloc(COMM_BODY_MAX_BYTES);
    const enum hlm_status status = body.in != NULL && body.out != NULL
                                       ? run(&body, err)
                                       : hlm_fail(err, HLM_FAILED, "out of memory");
    free(body.in);
    free(body.out);
    return status;
}
