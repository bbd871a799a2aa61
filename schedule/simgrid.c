/* Texts for SimGrid. The numbers of the trace format (MPI_BYTE is 6) and the options that switch
 * every correction factor off are those of SimGrid 3.32. */
#include "schedule/simgrid.h"

#include "base/json.h"

static const struct {
    bool is_collective;
    int rounds_per_peer; /* ring rounds = this * (n - 1) */
} kinds[HLM_SIMGRID_NUM_KINDS] = {
    [HLM_SIMGRID_ALL_REDUCE] = {true, 2},
    [HLM_SIMGRID_ALL_GATHER] = {true, 1},
    [HLM_SIMGRID_REDUCE_SCATTER] = {true, 1},
};

static const double flops_per_s = 1e9;

/* ---- traces ---- */

static int32_t position_of(const struct hlm_simgrid_item *item, int32_t rank)
{
    int32_t position = 0;
    while (position < item->num_members && item->members[position] != rank) {
        position++;
    }
    HLM_ASSERT(position < item->num_members);
    return position;
}

/* Chunk i of n: whole bytes that sum to the buffer. */
static int64_t chunk_bytes(int64_t bytes, int32_t i, int32_t n)
{
    return bytes / n + (i < bytes % n ? 1 : 0);
}

/* In round r, the member at position p passes chunk p - r on and receives chunk p - 1 - r: after n
 * - 1 rounds each chunk has been everywhere (all-gather) or has collected everything
 * (reduce-scatter). */
static void write_ring(struct hlm_text *text, int32_t rank, const struct hlm_simgrid_item *item)
{
    const int32_t n = item->num_members;
    const int32_t position = position_of(item, rank);
    const int32_t next = item->members[(position + 1) % n];
    const int32_t previous = item->members[(position + n - 1) % n];
    const int32_t rounds = kinds[item->kind].rounds_per_peer * (n - 1);
    for (int32_t round = 0; round < rounds; round++) {
        const int32_t sent = (position + 2 * n - round) % n;
        const int32_t received = (sent + n - 1) % n;
        hlm_text_printf(text, "%d isend %d %d %lld 6\n", rank, next, item->tag,
                        (long long)chunk_bytes(item->bytes, sent, n));
        hlm_text_printf(text, "%d recv %d %d %lld 6\n", rank, previous, item->tag,
                        (long long)chunk_bytes(item->bytes, received, n));
        hlm_text_printf(text, "%d wait %d %d %d\n", rank, rank, next, item->tag);
    }
}

static void write_item(struct hlm_text *text, int32_t rank, const struct hlm_simgrid_item *item)
{
    char flops[32];
    switch (item->kind) {
    case HLM_SIMGRID_COMPUTE:
        hlm_json_format_double(item->seconds * flops_per_s, flops);
        hlm_text_printf(text, "%d compute %s\n", rank, flops);
        break;
    case HLM_SIMGRID_SEND:
        hlm_text_printf(text, "%d isend %d %d %lld 6\n", rank, item->peer, item->tag,
                        (long long)item->bytes);
        break;
    case HLM_SIMGRID_RECV:
        hlm_text_printf(text, "%d recv %d %d %lld 6\n", rank, item->peer, item->tag,
                        (long long)item->bytes);
        break;
    case HLM_SIMGRID_ALL_REDUCE:
    case HLM_SIMGRID_ALL_GATHER:
    case HLM_SIMGRID_REDUCE_SCATTER:
        write_ring(text, rank, item);
        break;
    case HLM_SIMGRID_NUM_KINDS:
        HLM_ASSERT(item->kind != HLM_SIMGRID_NUM_KINDS);
        break;
    }
}

const char *hlm_simgrid_trace(struct hlm_arena *arena, int32_t rank,
                              const struct hlm_simgrid_program *program)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    hlm_text_printf(&text, "%d init\n", rank);
    for (int32_t i = 0; i < program->num_items; i++) {
        write_item(&text, rank, &program->items[i]);
    }
    hlm_text_printf(&text, "%d waitall\n%d finalize\n", rank, rank);
    return text.text;
}

double hlm_simgrid_ring_seconds(const struct hlm_simgrid_cluster *cluster,
                                enum hlm_simgrid_kind kind, int32_t num_members, double bytes)
{
    HLM_ASSERT(kinds[kind].is_collective);
    const double rounds = kinds[kind].rounds_per_peer * (num_members - 1);
    return rounds * (cluster->alpha_s + bytes / num_members / cluster->bytes_per_s);
}

/* ---- the files beside the traces ---- */

const char *hlm_simgrid_platform(struct hlm_arena *arena, const struct hlm_simgrid_cluster *cluster)
{
    /* A path crosses the sender's and the receiver's link: half of alpha each. */
    char latency[32], bandwidth[32];
    hlm_json_format_double(cluster->alpha_s / 2, latency);
    hlm_json_format_double(cluster->bytes_per_s, bandwidth);
    return hlm_arena_printf(
        arena,
        "<?xml version='1.0'?>\n"
        "<!DOCTYPE platform SYSTEM \"https://simgrid.org/simgrid.dtd\">\n"
        "<platform version=\"4.1\">\n"
        "  <cluster id=\"cluster\" prefix=\"node-\" suffix=\"\" radical=\"0-%d\" speed=\"1Gf\"\n"
        "           bw=\"%sBps\" lat=\"%ss\" sharing_policy=\"SPLITDUPLEX\"/>\n"
        "</platform>\n",
        cluster->num_ranks - 1, bandwidth, latency);
}

const char *hlm_simgrid_hosts(struct hlm_arena *arena, int32_t num_ranks)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        hlm_text_printf(&text, "node-%d\n", rank);
    }
    return text.text;
}

const char *hlm_simgrid_trace_name(struct hlm_arena *arena, int32_t rank)
{
    return hlm_arena_printf(arena, "rank-%d.txt", rank);
}

const char *hlm_simgrid_ranks(struct hlm_arena *arena, int32_t num_ranks)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        hlm_text_printf(&text, "%s\n", hlm_simgrid_trace_name(arena, rank));
    }
    return text.text;
}

const char *hlm_simgrid_command(struct hlm_arena *arena, int32_t num_ranks, const char *replay_main)
{
    return hlm_arena_printf(
        arena,
        "smpirun -quiet -np %d -platform platform.xml -hostfile hosts.txt"
        " --cfg=network/model:CM02 --cfg=network/latency-factor:1"
        " --cfg=network/bandwidth-factor:1 --cfg=network/weight-S:0 --cfg=network/TCP-gamma:0"
        " --cfg=network/crosstraffic:0 --log=root.thresh:critical --log=smpi_replay.thresh:info"
        " -replay ranks.txt %s",
        num_ranks, replay_main);
}
