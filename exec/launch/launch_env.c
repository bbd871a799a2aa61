#include "exec/launch/launch_env.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "exec/launch/control.h"
#include "exec/launch/launch_meeting.h"
#include "exec/launch/launch_nodelist.h"

const char *const hlm_launcher_texts[] = {
#define X(name, text) text,
    HLM_LAUNCHER_MAP(X)
#undef X
};

static const struct launcher {
    enum hlm_launcher launcher;
    const char *rank, *size, *local_rank;
} launchers[] = {
    {HLM_LAUNCHER_OPEN_MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK"},
    {HLM_LAUNCHER_MPICH, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"},
    {HLM_LAUNCHER_SLURM, "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"},
    {HLM_LAUNCHER_TORCHRUN, "RANK", "WORLD_SIZE", "LOCAL_RANK"},
};
enum { NUM_LAUNCHERS = sizeof launchers / sizeof launchers[0] };

/* ---- variables ---- */

static bool is_set(const char *variable)
{
    return getenv(variable) != NULL;
}

/* The variable is set. */
static enum hlm_status read_number(const char *variable, int64_t low, int64_t high, int64_t *out,
                                   struct hlm_err *err)
{
    const char *text = getenv(variable);
    char *end = NULL;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (errno != 0 || *text == '\0' || *end != '\0' || value < low || value > high) {
        return hlm_fail(err, HLM_ENV,
                        "the environment has %s=%s; expected a whole number from %" PRId64
                        " to %" PRId64,
                        variable, text, low, high);
    }
    *out = value;
    return HLM_OK;
}

/* ---- launchers ---- */

/* One task of Slurm, or of MPICH's manager that Slurm can imitate, is a shell to work in, and Slurm
 * sets SLURM_PROCID in batch scripts too, which are no steps. */
static bool is_shell(const struct launcher *launcher)
{
    const char *size = getenv(launcher->size);
    const bool is_slurm = launcher->launcher == HLM_LAUNCHER_SLURM;
    const bool single = size != NULL && strcmp(size, "1") == 0;
    const bool step =
        is_set("SLURM_STEP_ID") || is_set("SLURM_STEPID") || is_set("SLURM_STEP_NODELIST");
    return (is_slurm && (single || !step || !is_set(launcher->rank))) ||
           (launcher->launcher == HLM_LAUNCHER_MPICH && single);
}

/* *out keeps launcher NONE where this one has set nothing. */
static enum hlm_status read_launcher(const struct launcher *launcher, struct hlm_rank_env *out,
                                     struct hlm_err *err)
{
    const bool has_rank = is_set(launcher->rank), has_size = is_set(launcher->size);
    int64_t rank = 0, size = 1, local_rank = -1;
    if (is_shell(launcher) || (!has_rank && !has_size)) {
        return HLM_OK;
    }
    if (has_rank != has_size) {
        return hlm_fail(err, HLM_ENV, "the environment has %s but no %s (%s sets both)",
                        has_rank ? launcher->rank : launcher->size,
                        has_rank ? launcher->size : launcher->rank,
                        hlm_launcher_texts[launcher->launcher]);
    }
    HLM_TRY(read_number(launcher->size, 1, INT32_MAX, &size, err));
    HLM_TRY(read_number(launcher->rank, 0, size - 1, &rank, err));
    if (is_set(launcher->local_rank)) {
        HLM_TRY(read_number(launcher->local_rank, 0, size - 1, &local_rank, err));
    }
    *out = (struct hlm_rank_env){.launcher = launcher->launcher,
                                 .rank = (int32_t)rank,
                                 .world_size = (int32_t)size,
                                 .local_rank = (int32_t)local_rank};
    return HLM_OK;
}

/* Whether `inner` counts without a look at what `outer` has set. */
static bool is_inside(enum hlm_launcher inner, enum hlm_launcher outer)
{
    const bool inner_is_mpi = inner == HLM_LAUNCHER_OPEN_MPI || inner == HLM_LAUNCHER_MPICH;
    return is_set(HLM_CONTROL_VARIABLE) || (inner_is_mpi && outer == HLM_LAUNCHER_SLURM) ||
           (inner == HLM_LAUNCHER_TORCHRUN && is_set("TORCHELASTIC_RUN_ID"));
}

static enum hlm_status check_agreement(const struct launcher *first, const struct hlm_rank_env *a,
                                       const struct launcher *second, const struct hlm_rank_env *b,
                                       struct hlm_err *err)
{
    if ((a->rank == b->rank && a->world_size == b->world_size) ||
        is_inside(a->launcher, b->launcher)) {
        return HLM_OK;
    }
    return hlm_fail(err, HLM_ENV,
                    "the environment contradicts itself: %s=%" PRId32 " of %s=%" PRId32
                    ", but %s=%" PRId32 " of %s=%" PRId32 "; unset those that this run is not of",
                    first->rank, a->rank, first->size, a->world_size, second->rank, b->rank,
                    second->size, b->world_size);
}

/* The one that counts: torchrun's where it is a real one, else the first. */
static int choose(const struct hlm_rank_env found[NUM_LAUNCHERS])
{
    const int last = NUM_LAUNCHERS - 1;
    if (found[last].launcher == HLM_LAUNCHER_TORCHRUN && !is_set(HLM_CONTROL_VARIABLE) &&
        is_set("TORCHELASTIC_RUN_ID")) {
        return last;
    }
    for (int i = 0; i < NUM_LAUNCHERS; i++) {
        const bool skipped =
            is_set(HLM_CONTROL_VARIABLE) && found[i].launcher == HLM_LAUNCHER_SLURM;
        if (found[i].launcher != HLM_LAUNCHER_NONE && !skipped) {
            return i;
        }
    }
    return -1;
}

enum hlm_status hlm_rank_env_read(struct hlm_rank_env *out, struct hlm_err *err)
{
    struct hlm_rank_env found[NUM_LAUNCHERS] = {{0}};
    for (int i = 0; i < NUM_LAUNCHERS; i++) {
        HLM_TRY(read_launcher(&launchers[i], &found[i], err));
    }
    const int chosen = choose(found);
    if (chosen < 0) {
        *out = (struct hlm_rank_env){
            .world_size = 1, .local_rank = -1, .ours = is_set(HLM_CONTROL_VARIABLE)};
        return HLM_OK;
    }
    for (int i = 0; i < NUM_LAUNCHERS; i++) {
        if (found[i].launcher != HLM_LAUNCHER_NONE) {
            HLM_TRY(
                check_agreement(&launchers[chosen], &found[chosen], &launchers[i], &found[i], err));
        }
    }
    struct hlm_rank_env env = found[chosen];
    env.ours = is_set(HLM_CONTROL_VARIABLE);
    env.has_mpi = env.launcher == HLM_LAUNCHER_OPEN_MPI || env.launcher == HLM_LAUNCHER_MPICH ||
                  (env.launcher == HLM_LAUNCHER_SLURM && is_set("PMIX_RANK"));
    *out = env;
    return HLM_OK;
}

/* ---- the meeting ---- */

static enum hlm_status master_address(const char **out, struct hlm_err *err)
{
    const char *address = getenv("MASTER_ADDR");
    if (address == NULL || *address == '\0') {
        return hlm_fail(err, HLM_ENV,
                        "the environment has no MASTER_ADDR, where rank 0 can be reached");
    }
    *out = address;
    return HLM_OK;
}

/* An empty MASTER_ADDR is none. */
static enum hlm_status slurm_address(struct hlm_arena *arena, const char **out, struct hlm_err *err)
{
    static const char *const lists[] = {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"};
    struct hlm_err ignored;
    if (master_address(out, &ignored) == HLM_OK) {
        return HLM_OK;
    }
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        if (is_set(lists[i])) {
            struct hlm_nodelist nodes;
            const enum hlm_status status = hlm_nodelist_parse(arena, getenv(lists[i]), &nodes, err);
            if (status != HLM_OK) {
                hlm_err_prefix(err, "%s", lists[i]);
                return status;
            }
            *out = nodes.names[0];
            return HLM_OK;
        }
    }
    *out = getenv("SLURM_LAUNCH_NODE_IPADDR");
    return *out != NULL ? HLM_OK
                        : hlm_fail(err, HLM_ENV,
                                   "the environment says not where rank 0 is: no MASTER_ADDR, "
                                   "SLURM_STEP_NODELIST or SLURM_LAUNCH_NODE_IPADDR");
}

static enum hlm_status find_port(enum hlm_launcher launcher, int32_t *out, struct hlm_err *err)
{
    int64_t master = 0, job = 0, step = 0;
    if (is_set("MASTER_PORT")) {
        HLM_TRY(read_number("MASTER_PORT", 1, 65535, &master, err));
        *out = hlm_meeting_port_of_master(master);
        return HLM_OK;
    }
    if (launcher != HLM_LAUNCHER_SLURM || !is_set("SLURM_JOB_ID")) {
        return hlm_fail(err, HLM_ENV, "the environment has no MASTER_PORT%s",
                        launcher == HLM_LAUNCHER_SLURM ? " and no SLURM_JOB_ID" : "");
    }
    HLM_TRY(read_number("SLURM_JOB_ID", 0, INT64_MAX / 16, &job, err));
    if (is_set("SLURM_STEP_ID")) {
        HLM_TRY(read_number("SLURM_STEP_ID", 0, INT64_MAX / 16, &step, err));
    }
    *out = hlm_meeting_port_of_slurm(job, step);
    return HLM_OK;
}

static const char *value_of(const char *variable)
{
    return is_set(variable) ? getenv(variable) : "";
}

static const char *name_run(struct hlm_arena *arena, const struct hlm_rank_env *env)
{
    if (env->ours) {
        const char *word = strchr(getenv(HLM_CONTROL_VARIABLE), ':');
        word = word != NULL ? word + 1 : "";
        return hlm_arena_strndup(arena, word, strcspn(word, ":"));
    }
    return env->launcher == HLM_LAUNCHER_SLURM
               ? hlm_arena_printf(arena, "%s.%s", value_of("SLURM_JOB_ID"),
                                  value_of("SLURM_STEP_ID"))
               : hlm_arena_printf(arena, "%s.%s", value_of("TORCHELASTIC_RUN_ID"),
                                  value_of("TORCHELASTIC_RESTART_COUNT"));
}

enum hlm_status hlm_rank_env_meeting(struct hlm_arena *arena, const struct hlm_rank_env *env,
                                     struct hlm_meeting *out, struct hlm_err *err)
{
    struct hlm_meeting meeting = {.listener = -1};
    int64_t listener = -1;
    if (env->launcher == HLM_LAUNCHER_NONE) {
        return hlm_fail(err, HLM_ENV,
                        "the environment names no launcher: RANK, WORLD_SIZE, MASTER_ADDR and "
                        "MASTER_PORT are missing");
    }
    HLM_TRY(env->launcher == HLM_LAUNCHER_SLURM ? slurm_address(arena, &meeting.address, err)
                                                : master_address(&meeting.address, err));
    HLM_TRY(find_port(env->launcher, &meeting.port, err));
    if (env->ours && env->rank == 0 && is_set(HLM_MEETING_VARIABLE)) {
        HLM_TRY(read_number(HLM_MEETING_VARIABLE, 0, INT32_MAX, &listener, err));
    }
    meeting.listener = (int)listener;
    meeting.run = name_run(arena, env);
    *out = meeting;
    return HLM_OK;
}
