/* simgrid: time-independent traces for SimGrid's SMPI, an independent referee of the simulator.
 *
 * A program per world rank says what it computes, sends, receives and reduces; this file writes it
 * as a trace that `smpirun -replay` runs on a simulated cluster, together with the platform, the
 * host file and the command line. Everything is text in memory: who has a folder writes the files.
 *
 * The cluster is a pure alpha-beta network: a message of n bytes takes alpha + n / bandwidth, links
 * are full duplex, one host a rank, speed 1 Gflop/s (so a nanosecond is a flop). In replay a
 * message starts when its sender has ended and its receiver waits for it: simulate.h's
 * needs_both_sides link. Collectives are written out as rings of n - 1 (or 2 (n - 1)) rounds of
 * isend, recv, wait, so that they cost rounds * (alpha + bytes / n / bandwidth) and nothing that
 * SimGrid assumes about algorithms.
 */
#ifndef HLM_SCHEDULE_SIMGRID_H
#define HLM_SCHEDULE_SIMGRID_H

#include "base/arena.h"
#include "schedule/simulate.h"

enum hlm_simgrid_kind {
    HLM_SIMGRID_COMPUTE,        /* seconds */
    HLM_SIMGRID_SEND,           /* bytes to peer with tag; does not wait */
    HLM_SIMGRID_RECV,           /* bytes from peer with tag; waits */
    HLM_SIMGRID_ALL_REDUCE,     /* bytes: the whole buffer; members in ring order, tag */
    HLM_SIMGRID_ALL_GATHER,     /* bytes: the gathered buffer */
    HLM_SIMGRID_REDUCE_SCATTER, /* bytes: the buffer before scattering */
    HLM_SIMGRID_NUM_KINDS
};

struct hlm_simgrid_item {
    enum hlm_simgrid_kind kind;
    double seconds;
    int64_t bytes;
    int32_t peer, tag; /* >= 0; two sends to one peer that may both be under way need two tags */
    const int32_t *members; /* [num_members] world ranks, the owner of the program among them */
    int32_t num_members;
};

struct hlm_simgrid_program {
    const struct hlm_simgrid_item *items;
    int32_t num_items;
};

struct hlm_simgrid_cluster {
    int32_t num_ranks;
    double alpha_s;     /* of a message from any host to any other */
    double bytes_per_s; /* per host and direction */
};

/* The trace of one rank ("0 init\n0 compute 1e7\n..."), ending with a wait for all its sends. */
const char *hlm_simgrid_trace(struct hlm_arena *arena, int32_t rank,
                              const struct hlm_simgrid_program *program);

/* Seconds that one of the three collectives takes when all members start at once: the ring formula.
 */
double hlm_simgrid_ring_seconds(const struct hlm_simgrid_cluster *cluster,
                                enum hlm_simgrid_kind kind, int32_t num_members, double bytes);

/* platform.xml: one cluster of num_ranks hosts "node-<i>". */
const char *hlm_simgrid_platform(struct hlm_arena *arena,
                                 const struct hlm_simgrid_cluster *cluster);
/* hosts.txt: the host of each rank. ranks.txt: the trace file of each rank, "rank-<i>.txt". */
const char *hlm_simgrid_hosts(struct hlm_arena *arena, int32_t num_ranks);
const char *hlm_simgrid_ranks(struct hlm_arena *arena, int32_t num_ranks);
const char *hlm_simgrid_trace_name(struct hlm_arena *arena, int32_t rank);

/* The command that replays these files, to be run in their folder. replay_main: the path of
 * SimGrid's smpireplaymain. It prints "Simulation time <seconds>" on stderr. */
const char *hlm_simgrid_command(struct hlm_arena *arena, int32_t num_ranks,
                                const char *replay_main);

/* A schedule with tensor and data parallelism around it. World rank = (pipeline rank * dp + dp
 * index) * tp + tp index. */
struct hlm_simgrid_job {
    /* Messages in its lists are ignored, as in hlm_simulate; no pairs. */
    const struct hlm_schedule *schedule;
    /* Durations of F, B, I, W (or action_s) without the collectives below; nothing else is used. */
    const struct hlm_sim_costs *costs;
    const int64_t *send_forward_bytes,
        *send_backward_bytes; /* [num_stages], from a rank to its like */
    int32_t tp, dp;           /* >= 1 */
    /* F is cut into forward_all_reduces equal parts with an all-reduce behind each, B and I into
     * backward_all_reduces; none where tp is 1. */
    int32_t forward_all_reduces, backward_all_reduces;
    const int64_t *tp_bytes; /* [num_stages]: of each of them */
    const int64_t
        *dp_bytes; /* [num_stages]: gradients, reduced behind the last action; NULL: none */
};

/* The programs of all world ranks, [num_ranks * dp * tp]. They end with the gradient reduction:
 * compare with hlm_sim_result.reduce_end_s (no overlap_reduce). */
const struct hlm_simgrid_program *hlm_simgrid_programs(struct hlm_arena *arena,
                                                       const struct hlm_simgrid_job *job);

#endif
