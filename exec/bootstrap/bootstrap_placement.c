#include "exec/bootstrap/bootstrap_placement.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- one seat ---- */

/* Two containers of one machine have one kernel, and two machines may have one name. */
static void read_machine(char *out, size_t size)
{
    const int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd >= 0 ? read(fd, out, size - 1) : -1;
    if (fd >= 0) {
        close(fd);
    }
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    if (out[0] == '\0') {
        gethostname(out, size - 1);
    }
}

struct hlm_seat hlm_seat_here(const struct hlm_rank_env *env)
{
    struct hlm_seat seat = {.local_rank = env->local_rank};
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    read_machine(seat.machine, sizeof seat.machine);
    gethostname(seat.host, sizeof seat.host - 1);
    snprintf(seat.visible, sizeof seat.visible, "%s", visible != NULL ? visible : "");
    return seat;
}

/* ---- all seats ---- */

struct seating {
    const struct hlm_plan *plan; /* NULL: none */
    const struct hlm_seat *seats;
    int32_t num_ranks;
};

static bool share_machine(const struct seating *all, int32_t a, int32_t b)
{
    return strcmp(all->seats[a].machine, all->seats[b].machine) == 0;
}

static int32_t device_of(const struct seating *all, int32_t rank)
{
    return all->plan != NULL ? all->plan->rank_map[rank] : rank;
}

/* Node of the whole cluster that holds the device. */
static int32_t node_of(const struct seating *all, int32_t rank)
{
    int32_t device = device_of(all, rank), node = 0;
    for (int32_t i = 0; all->plan != NULL && i < all->plan->cluster.num_groups; i++) {
        const struct hlm_device_group *group = &all->plan->cluster.groups[i];
        const int32_t size = group->num_nodes * group->devices_per_node;
        if (device < size) {
            return node + device / group->devices_per_node;
        }
        device -= size;
        node += group->num_nodes;
    }
    return node;
}

/* The lowest rank of the same node. */
static int32_t first_of_node(const struct seating *all, int32_t rank)
{
    const int32_t node = node_of(all, rank);
    int32_t first = 0;
    while (node_of(all, first) != node) {
        first++;
    }
    return first;
}

/* The lowest rank on the same machine of another node; num_ranks: none. */
static int32_t first_stranger(const struct seating *all, int32_t rank)
{
    const int32_t node = node_of(all, rank);
    int32_t first = 0;
    while (first < all->num_ranks &&
           (!share_machine(all, first, rank) || node_of(all, first) == node)) {
        first++;
    }
    return first;
}

static bool is_one_machine(const struct seating *all)
{
    for (int32_t rank = 1; rank < all->num_ranks; rank++) {
        if (!share_machine(all, 0, rank)) {
            return false;
        }
    }
    return true;
}

static enum hlm_status check_torn_nodes(const struct seating *all, struct hlm_err *err)
{
    for (int32_t rank = 0; rank < all->num_ranks; rank++) {
        const int32_t first = first_of_node(all, rank);
        if (!share_machine(all, first, rank)) {
            return hlm_fail(err, HLM_ENV,
                            "rank %" PRId32 " belongs on node %" PRId32
                            " of the plan, as rank %" PRId32 " on %s does, but runs on %s; start "
                            "the ranks one machine after the other (mpirun --map-by slot, "
                            "srun -m block)",
                            rank, node_of(all, rank), first, all->seats[first].host,
                            all->seats[rank].host);
        }
    }
    return HLM_OK;
}

static enum hlm_status check_shared_machines(struct hlm_arena *arena, const struct seating *all,
                                             bool by_user, const char **warning,
                                             struct hlm_err *err)
{
    const bool may_share = by_user || is_one_machine(all);
    for (int32_t rank = 0; rank < all->num_ranks; rank++) {
        const int32_t node = node_of(all, rank), stranger = first_stranger(all, rank);
        const char *host = all->seats[rank].host;
        if (stranger < all->num_ranks && !may_share) {
            return hlm_fail(err, HLM_ENV,
                            "rank %" PRId32 " belongs on node %" PRId32
                            " of the plan, but runs on %s, where rank %" PRId32 " of node %" PRId32
                            " is",
                            rank, node, host, stranger, node_of(all, stranger));
        }
        if (stranger < all->num_ranks) {
            *warning = hlm_arena_printf(arena,
                                        "nodes %" PRId32 " and %" PRId32
                                        " of the plan are both on %s: their link is not the one "
                                        "that the plan counts on",
                                        node, node_of(all, stranger), host);
            return HLM_OK;
        }
    }
    return HLM_OK;
}

/* Of ranks that somebody else has started. Ours count by the names of hosts, and one machine may
 * have several. */
static enum hlm_status check_local_ranks(const struct seating *all, struct hlm_err *err)
{
    for (int32_t rank = 1; rank < all->num_ranks; rank++) {
        const int32_t local_rank = all->seats[rank].local_rank;
        for (int32_t other = 0; local_rank >= 0 && other < rank; other++) {
            if (all->seats[other].local_rank == local_rank && share_machine(all, rank, other)) {
                return hlm_fail(err, HLM_ENV,
                                "ranks %" PRId32 " and %" PRId32
                                " on %s both have the local rank %" PRId32,
                                other, rank, all->seats[rank].host, local_rank);
            }
        }
    }
    return HLM_OK;
}

/* Ranks of the same machine whose devices come before. */
static int32_t local_index(const struct seating *all, int32_t rank)
{
    int32_t index = 0;
    for (int32_t other = 0; other < all->num_ranks; other++) {
        index += share_machine(all, other, rank) && device_of(all, other) < device_of(all, rank);
    }
    return index;
}

static int32_t local_size(const struct seating *all, int32_t rank)
{
    int32_t size = 0;
    for (int32_t other = 0; other < all->num_ranks; other++) {
        size += share_machine(all, other, rank);
    }
    return size;
}

/* ---- GPUs ---- */

/* What names the GPU that a rank takes among those of its machine: its entry of
 * CUDA_VISIBLE_DEVICES, where there is one. */
struct gpu {
    char name[48];
};

static struct gpu gpu_of(const struct seating *all, int32_t rank)
{
    const struct hlm_seat *seat = &all->seats[rank];
    const int32_t index = local_index(all, rank) % seat->num_gpus;
    const char *entry = seat->visible;
    struct gpu gpu;
    for (int32_t i = 0; i < index && entry[0] != '\0'; i++) {
        entry += strcspn(entry, ",");
        entry += entry[0] == ',';
    }
    if (entry[0] == '\0') {
        snprintf(gpu.name, sizeof gpu.name, "%" PRId32, index);
    } else {
        snprintf(gpu.name, sizeof gpu.name, "%.*s", (int)strcspn(entry, ","), entry);
    }
    return gpu;
}

/* NULL: every rank has one of its own. */
static const char *why_shared(struct hlm_arena *arena, const struct seating *all)
{
    struct gpu *gpus = HLM_ARENA_ARRAY(arena, struct gpu, all->num_ranks);
    for (int32_t rank = 0; rank < all->num_ranks; rank++) {
        const struct hlm_seat *seat = &all->seats[rank];
        if (seat->num_gpus == 0) {
            return hlm_arena_printf(arena, "rank %" PRId32 " on %s has no GPU%s%s", rank,
                                    seat->host, seat->why_no_gpu[0] != '\0' ? ": " : "",
                                    seat->why_no_gpu);
        }
        gpus[rank] = gpu_of(all, rank);
        for (int32_t other = 0; other < rank; other++) {
            if (share_machine(all, other, rank) && strcmp(gpus[other].name, gpus[rank].name) == 0) {
                return hlm_arena_printf(
                    arena, "ranks %" PRId32 " and %" PRId32 " on %s would share the GPU %s", other,
                    rank, seat->host, gpus[rank].name);
            }
        }
    }
    return NULL;
}

enum hlm_status hlm_placement_check(struct hlm_arena *arena, const struct hlm_plan *plan,
                                    const struct hlm_seat *seats, int32_t num_ranks, int32_t rank,
                                    bool by_user, struct hlm_placement *out, struct hlm_err *err)
{
    const struct seating all = {plan, seats, num_ranks};
    struct hlm_placement placement = {.local_index = local_index(&all, rank),
                                      .local_size = local_size(&all, rank)};
    if (plan != NULL) {
        HLM_TRY(check_torn_nodes(&all, err));
        HLM_TRY(check_shared_machines(arena, &all, by_user, &placement.warning, err));
    }
    HLM_TRY(by_user ? HLM_OK : check_local_ranks(&all, err));
    placement.why_shared = why_shared(arena, &all);
    placement.own_gpus = placement.why_shared == NULL;
    placement.all_have_gpus = true;
    for (int32_t i = 0; i < num_ranks; i++) {
        placement.all_have_gpus = placement.all_have_gpus && seats[i].num_gpus > 0;
    }
    *out = placement;
    return HLM_OK;
}
