/* A rank program that does nothing, or misbehaves on demand, for the tests of the launcher:
 *
 *     launch_dummy <how> <bad rank> <ranks as threads, 0: processes under mpirun>
 *
 * Every other rank behaves as if it waited for the bad one, for a minute at most.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "exec/launch/heartbeat.h"
#include "exec/launch/launch_env.h"
#include "exec/launch/launch_meeting.h"

struct rank {
    pthread_t thread;
    struct hlm_heartbeat *heartbeat;
    const char *how;
    int32_t rank, bad_rank;
    int status;
};

static void wait_for_the_end(void)
{
    sleep(60);
}

static void do_ok(struct rank *rank)
{
    for (int64_t step = 0; step < 3; step++) {
        hlm_heartbeat_set(rank->heartbeat, step, "0F0", "gemm", false);
        hlm_heartbeat_progress(rank->heartbeat, "step %" PRId64 "\nof 3", step);
    }
}

/* The meeting that the launcher has prepared for processes: rank 0 has the listening socket, the
 * others can come. */
static void do_meet(struct rank *rank)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_rank_env env;
    struct hlm_meeting meeting = {.listener = -1};
    struct hlm_err err = {0};
    enum hlm_status status = hlm_rank_env_read(&env, &err);
    if (status == HLM_OK) {
        status = hlm_rank_env_meeting(arena, &env, &meeting, &err);
    }
    if (status == HLM_OK && env.rank == 0 &&
        (meeting.listener < 0 || hlm_meeting_port(meeting.listener) != meeting.port)) {
        status = hlm_fail(&err, HLM_NO, "rank 0 has no listening socket");
    }
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons((uint16_t)meeting.port),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (status == HLM_OK && env.rank > 0 &&
        (meeting.listener >= 0 ||
         connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)) {
        status = hlm_fail(&err, HLM_NO, "rank %" PRId32 " can't come to rank 0", env.rank);
    }
    if (status != HLM_OK) {
        hlm_heartbeat_report(rank->heartbeat, &err);
    }
    usleep(500000); /* rank 0 must not leave before the others have come */
    close(fd);
    hlm_arena_free(arena);
}

static void do_exit(struct rank *rank)
{
    (void)rank;
    fprintf(stderr, "the dummy leaves early\n");
    exit(3);
}

static void do_kill(struct rank *rank)
{
    (void)rank;
    kill(getpid(), SIGKILL);
}

static void do_stop(struct rank *rank)
{
    (void)rank;
    kill(getpid(), SIGSTOP);
}

static void do_hang(struct rank *rank)
{
    hlm_heartbeat_set(rank->heartbeat, 2, "0B1", "endless loop", false);
    wait_for_the_end();
}

static void do_deadlock(struct rank *rank)
{
    hlm_heartbeat_set(rank->heartbeat, 2, "0B1", "receive", true);
    wait_for_the_end();
}

static void do_report(struct rank *rank)
{
    struct hlm_err err;
    hlm_fail(&err, HLM_INPUT, "train.bin: expected 4096 tokens,\nfound 7");
    hlm_heartbeat_report(rank->heartbeat, &err);
    rank->status = HLM_INPUT;
}

static void do_full_disk(struct rank *rank)
{
    struct hlm_err err;
    FILE *full = fopen("/dev/full", "we");
    if (full != NULL && fputs("measurement", full) >= 0 && fclose(full) != 0) {
        hlm_fail(&err, HLM_FAILED, "measured.json: No space left on device");
        hlm_heartbeat_report(rank->heartbeat, &err);
    }
    rank->status = HLM_FAILED;
}

static void do_kill_parent(struct rank *rank)
{
    (void)rank;
    kill(getppid(), SIGKILL);
    wait_for_the_end();
}

static const struct {
    const char *how;
    void (*act)(struct rank *rank);
    bool finishes;
} actions[] = {
    {"ok", do_ok, true},
    {"meet", do_meet, true},
    {"exit", do_exit, false},
    {"kill", do_kill, false},
    {"stop", do_stop, false},
    {"hang", do_hang, false},
    {"deadlock", do_deadlock, false},
    {"report", do_report, false},
    {"full-disk", do_full_disk, false},
    {"kill-parent", do_kill_parent, false},
};

/* Before the connection: what a rank does wrong that never says hello. */
static void misbehave_early(const struct rank *rank)
{
    if (rank->rank != rank->bad_rank) {
        return;
    }
    if (strcmp(rank->how, "early-exit") == 0) {
        fprintf(stderr, "no such file: plan.json\n");
        exit(3);
    }
    if (strcmp(rank->how, "early-hang") == 0) {
        signal(SIGTERM, SIG_IGN);
        wait_for_the_end();
    }
}

static void *run_rank(void *argument)
{
    struct rank *rank = argument;
    struct hlm_err err;
    misbehave_early(rank);
    if (hlm_heartbeat_start(rank->rank, &rank->heartbeat, &err) != HLM_OK) {
        fprintf(stderr, "%s\n", err.text);
        rank->status = (int)err.status;
        return NULL;
    }
    hlm_heartbeat_set(rank->heartbeat, 1, "0F0", "all_reduce over tp", true);
    usleep(800000); /* longer than a beat, so that the launcher knows */
    const bool good = rank->rank != rank->bad_rank;
    bool finished = false;
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        if (strcmp(actions[i].how, rank->how) == 0 &&
            (!good || actions[i].finishes || actions[i].act == do_deadlock)) {
            actions[i].act(rank);
            finished = actions[i].finishes;
        }
    }
    if (good && !finished) {
        wait_for_the_end();
    }
    hlm_heartbeat_stop(rank->heartbeat, finished);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        return HLM_USAGE;
    }
    struct hlm_rank_env place;
    struct hlm_err err;
    if (hlm_rank_env_read(&place, &err) != HLM_OK) {
        fprintf(stderr, "%s\n", err.text);
        return (int)err.status;
    }
    const int32_t threads = (int32_t)strtol(argv[3], NULL, 10);
    const int32_t count = threads > 0 ? threads : 1;
    struct rank ranks[16] = {0};
    if (count > 16) {
        return HLM_USAGE;
    }
    for (int32_t i = 0; i < count; i++) {
        ranks[i] = (struct rank){.how = argv[1],
                                 .rank = threads > 0 ? i : place.rank,
                                 .bad_rank = (int32_t)strtol(argv[2], NULL, 10)};
        if (pthread_create(&ranks[i].thread, NULL, run_rank, &ranks[i]) != 0) {
            return HLM_ENV;
        }
    }
    int status = 0;
    for (int32_t i = 0; i < count; i++) {
        pthread_join(ranks[i].thread, NULL);
        status = ranks[i].status > status ? ranks[i].status : status;
    }
    return status;
}
