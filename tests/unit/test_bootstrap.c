/* The meeting of ranks, with a process each, over loopback, and over threads. */
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/bootstrap/bootstrap.h"
#include "exec/bootstrap/bootstrap_frame.h"
#include "exec/bootstrap/bootstrap_internal.h"
#include "exec/launch/launch_meeting.h"
#include "tests/support/check.h"
#include "tests/support/comm_body.h"

enum { MAX_RANKS = 8, ID_BYTES = 128 };

/* What a rank does after it has met the others. */
typedef enum hlm_status act_fn(struct hlm_bootstrap *bootstrap, struct hlm_err *err);

/* One process. Zeros mean: as the others. */
struct rank {
    int32_t rank, world_size;
    const char *plan, *settings, *run;
    act_fn *act; /* NULL: a barrier */
    int start_ms;
    double timeout_s;
};

/* What became of it: its status and its words, or the signal that ended it. */
struct fate {
    int32_t status;
    int signal;
    char text[1000];
};

struct world {
    struct rank ranks[MAX_RANKS];
    int num_processes;
    int listener, port;
};

static void world_open(struct world *world)
{
    struct hlm_err err;
    check_ok(hlm_meeting_listen("127.0.0.1", 0, &world->listener, &err), &err);
    world->port = hlm_meeting_port(world->listener);
}

static void act_as(const struct world *world, const struct rank *rank, struct fate *fate)
{
    const struct hlm_bootstrap_config config = {
        .rank = rank->rank,
        .world_size = rank->world_size,
        .plan = rank->plan != NULL ? rank->plan : "1111-2222",
        .settings = rank->settings != NULL ? rank->settings : "10 steps",
        .timeout_s = rank->timeout_s > 0 ? rank->timeout_s : 30};
    const struct hlm_meeting meeting = {.address = "127.0.0.1",
                                        .port = world->port,
                                        .listener = rank->rank == 0 ? world->listener : -1,
                                        .run = rank->run != NULL ? rank->run : "this"};
    struct hlm_bootstrap *bootstrap = NULL;
    struct hlm_err err = {0};
    poll(NULL, 0, rank->start_ms);
    if (rank->rank != 0) {
        close(world->listener);
    }
    enum hlm_status status = hlm_bootstrap_tcp_new(&config, &meeting, &bootstrap, &err);
    if (status == HLM_OK) {
        status =
            rank->act != NULL ? rank->act(bootstrap, &err) : hlm_bootstrap_barrier(bootstrap, &err);
    }
    hlm_bootstrap_free(bootstrap);
    fate->status = (int32_t)status;
    memcpy(fate->text, err.text, sizeof fate->text);
}

static pid_t start(const struct world *world, const struct rank *rank, int *out_fd)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        struct fate fate = {0};
        close(ends[0]);
        act_as(world, rank, &fate);
        _exit(write(ends[1], &fate, sizeof fate) == sizeof fate ? 0 : 99);
    }
    close(ends[1]);
    *out_fd = ends[0];
    return pid;
}

/* Runs all processes to their ends; closes the world. */
static void world_run(struct world *world, struct fate fates[MAX_RANKS])
{
    pid_t pids[MAX_RANKS];
    int fds[MAX_RANKS];
    for (int i = 0; i < world->num_processes; i++) {
        pids[i] = start(world, &world->ranks[i], &fds[i]);
    }
    close(world->listener);
    for (int i = 0; i < world->num_processes; i++) {
        int ended = 0;
        fates[i] = (struct fate){.status = -1};
        if (read(fds[i], &fates[i], sizeof fates[i]) < 0) {
            fail_msg("nothing from process %d", i);
        }
        close(fds[i]);
        assert_int_equal(waitpid(pids[i], &ended, 0), pids[i]);
        fates[i].signal = WIFSIGNALED(ended) ? WTERMSIG(ended) : 0;
    }
}

/* num_ranks ranks, all with this act. */
static struct world world_of(int num_ranks, act_fn *act)
{
    struct world world = {.num_processes = num_ranks};
    for (int i = 0; i < num_ranks; i++) {
        world.ranks[i] = (struct rank){.rank = i, .world_size = num_ranks, .act = act};
    }
    world_open(&world);
    return world;
}

static void check_fate(const struct fate *fate, enum hlm_status status, const char *part)
{
    if (fate->signal != 0 || fate->status != (int32_t)status || strstr(fate->text, part) == NULL) {
        fail_msg("status %d, signal %d, \"%s\"; expected status %d with \"%s\"", (int)fate->status,
                 fate->signal, fate->text, (int)status, part);
    }
}

static void check_all(const struct fate *fates, int count, enum hlm_status status, const char *part)
{
    for (int i = 0; i < count; i++) {
        check_fate(&fates[i], status, part);
    }
}

/* ---- ranks that do well ---- */

static enum hlm_status exchange(struct hlm_bootstrap *bootstrap, struct hlm_err *err)
{
    int64_t mine[3] = {bootstrap->rank, 10 * bootstrap->rank, -1}, all[MAX_RANKS][3] = {{0}};
    unsigned char id[ID_BYTES], expected[ID_BYTES];
    memset(expected, 0xa5, sizeof expected);
    memset(id, bootstrap->rank == 0 ? 0xa5 : 0, sizeof id);
    HLM_TRY(hlm_bootstrap_all_gather(bootstrap, mine, sizeof mine, all, err));
    HLM_TRY(hlm_bootstrap_broadcast(bootstrap, id, sizeof id, err));
    for (int64_t rank = 0; rank < bootstrap->world_size; rank++) {
        if (all[rank][0] != rank || all[rank][1] != 10 * rank || all[rank][2] != -1) {
            return hlm_fail(err, HLM_NO, "rank %d has the wrong word of another", bootstrap->rank);
        }
    }
    if (memcmp(id, expected, sizeof id) != 0) {
        return hlm_fail(err, HLM_NO, "rank %d has another id", bootstrap->rank);
    }
    HLM_TRY(hlm_bootstrap_barrier(bootstrap, err));
    return hlm_bootstrap_agree(bootstrap, HLM_OK, err);
}

static void test_exchange(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    for (int num_ranks = 1; num_ranks <= 5; num_ranks += 2) {
        struct world world = world_of(num_ranks, exchange);
        world_run(&world, fates);
        check_all(fates, num_ranks, HLM_OK, "");
    }
}

static enum hlm_status exchange_much(struct hlm_bootstrap *bootstrap, struct hlm_err *err)
{
    enum { MANY = 1 << 18 };
    const int32_t world_size = bootstrap->world_size;
    int32_t *mine = calloc(MANY, sizeof *mine);
    int32_t *all = calloc((size_t)(MANY * world_size), sizeof *all);
    assert_true(mine != NULL && all != NULL);
    for (int32_t i = 0; i < MANY; i++) {
        mine[i] = i ^ bootstrap->rank;
    }
    enum hlm_status status =
        hlm_bootstrap_all_gather(bootstrap, mine, MANY * (int64_t)sizeof *mine, all, err);
    for (int32_t i = 0; status == HLM_OK && i < MANY * world_size; i++) {
        if (all[i] != (i % MANY ^ i / MANY)) {
            status = hlm_fail(err, HLM_NO, "element %d is wrong", i);
        }
    }
    free(mine);
    free(all);
    return status;
}

/* A megabyte a rank, more than the buffers of a connection. */
static void test_much(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(3, exchange_much);
    world_run(&world, fates);
    check_all(fates, 3, HLM_OK, "");
}

/* Rank 0 listens only when the others have tried already. */
static void test_late_first_rank(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(3, exchange);
    close(world.listener);
    world.listener = -1;
    world.ranks[0].start_ms = 300;
    world_run(&world, fates);
    check_all(fates, 3, HLM_OK, "");
}

/* ---- ranks that should not be there, or are not ---- */

static void test_missing(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(7, NULL);
    world.num_processes = 2;
    world.ranks[1].rank = 3;
    world.ranks[0].timeout_s = world.ranks[1].timeout_s = 0.4;
    world_run(&world, fates);
    check_all(fates, 2, HLM_FAILED,
              "ranks 1-2, 4-6 of 7 did not come to rank 0 at 127.0.0.1 port ");
    check_all(fates, 2, HLM_FAILED, " within 0.4 s");
    struct world single = world_of(2, NULL);
    single.num_processes = 1;
    single.ranks[0].timeout_s = 0.2;
    world_run(&single, fates);
    check_fate(&fates[0], HLM_FAILED, "rank 1 of 2 did not come to rank 0 at ");
}

static void test_twice(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(4, NULL);
    world.num_processes = 3;
    world.ranks[2].rank = 1;
    world_run(&world, fates);
    check_all(fates, 3, HLM_FAILED, "rank 1 is there twice: on ");
}

static void test_disagreement(void **state)
{
    (void)state;
    static const struct {
        struct rank odd;
        enum hlm_status status;
        const char *part, *other_part;
    } cases[] = {
        {{.rank = 1, .world_size = 4},
         HLM_ENV,
         "rank 1 on ",
         "was started as one of 4 ranks, rank 0 on "},
        {{.rank = 1, .world_size = 2, .plan = "1111-3333"},
         HLM_INPUT,
         "rank 1 on ",
         "has another plan (digests 1111-3333) than rank 0 on "},
        {{.rank = 1, .world_size = 2, .settings = "5 steps"},
         HLM_USAGE,
         "rank 1 on ",
         "was asked for 5 steps, rank 0 on "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fate fates[MAX_RANKS];
        struct world world = world_of(2, NULL);
        world.ranks[1] = cases[i].odd;
        world_run(&world, fates);
        check_all(fates, 2, cases[i].status, cases[i].part);
        check_all(fates, 2, cases[i].status, cases[i].other_part);
    }
}

/* A rank of another run that finds the port is sent away, and this run goes on. */
static void test_other_run(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(3, exchange);
    world.ranks[1].start_ms = world.ranks[2].start_ms = 300;
    world.ranks[3] = (struct rank){.rank = 1, .world_size = 3, .run = "another"};
    world.num_processes = 4;
    world_run(&world, fates);
    check_all(fates, 3, HLM_OK, "");
    check_fate(&fates[3], HLM_FAILED,
               "closed the connection to rank 1: rank 0 left, or it is no "
               "rank of this run");
}

static int connect_raw(int port)
{
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons((uint16_t)port),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* Whatever else finds the port: one that speaks HTTP, one that says nothing, one that leaves in the
 * middle of a frame, one that announces too much. */
static void test_strangers(void **state)
{
    (void)state;
    static const char http[] = "GET / HTTP/1.1\r\n\r\n", half[] = "hlmp\0\0\0\0";
    static const char huge[] = "hlmp\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f";
    struct fate fates[MAX_RANKS];
    struct world world = world_of(2, exchange);
    int fds[4];
    for (int i = 0; i < 4; i++) {
        fds[i] = connect_raw(world.port);
    }
    assert_true(send(fds[0], http, sizeof http, MSG_NOSIGNAL) > 0);
    assert_true(send(fds[1], half, 8, MSG_NOSIGNAL) > 0);
    close(fds[1]);
    assert_true(send(fds[2], huge, 16, MSG_NOSIGNAL) > 0);
    world.ranks[1].start_ms = 200;
    world_run(&world, fates);
    check_all(fates, 2, HLM_OK, "");
    close(fds[0]);
    close(fds[2]);
    close(fds[3]);
}

static void test_other_version(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(3, NULL);
    world.num_processes = 1;
    const struct {
        int32_t version, more[3];
    } hello = {.version = HLM_BOOTSTRAP_VERSION + 1};
    const int fd = connect_raw(world.port);
    assert_true(hlm_frame_send(fd, HLM_FRAME_HELLO, &hello, sizeof hello, hlm_frame_clock_s() + 5));
    world_run(&world, fates);
    check_fate(&fates[0], HLM_ENV, "a rank is of another version of hlmplan than rank 0 on ");
    check_fate(&fates[0], HLM_ENV, "(it speaks version 2 of the meeting, here 1)");
    close(fd);
}

/* ---- ports ---- */

static void test_port_in_use(void **state)
{
    (void)state;
    struct world world = world_of(2, NULL);
    const struct hlm_bootstrap_config config = {
        .rank = 0, .world_size = 2, .plan = "", .settings = "", .timeout_s = 5};
    const struct hlm_meeting meeting = {
        .address = "127.0.0.1", .port = world.port, .listener = -1, .run = ""};
    struct hlm_bootstrap *bootstrap = NULL;
    struct hlm_err err;
    char expected[100];
    snprintf(expected, sizeof expected,
             "rank 0 cannot listen for the other ranks: port %d: Address already in use",
             world.port);
    check_fails(hlm_bootstrap_tcp_new(&config, &meeting, &bootstrap, &err), HLM_ENV, &err,
                expected);
    close(world.listener);
    struct hlm_bootstrap_config other = config;
    other.rank = 1;
    other.timeout_s = 0.1;
    check_fails(hlm_bootstrap_tcp_new(&other, &meeting, &bootstrap, &err), HLM_FAILED, &err,
                "rank 1 could not reach rank 0 at 127.0.0.1 port ");
    assert_non_null(strstr(err.text, " within 0.1 s: Connection refused"));
}

static void *answer_wrongly(void *argument)
{
    const int listener = *(const int *)argument;
    struct pollfd readable = {.fd = listener, .events = POLLIN};
    poll(&readable, 1, 10000);
    const int fd = accept(listener, NULL, NULL);
    if (fd >= 0 && send(fd, "SSH-2.0-OpenSSH_9.9 here\n", 25, MSG_NOSIGNAL) == 25) {
        poll(NULL, 0, 300);
    }
    close(fd);
    return NULL;
}

static void test_other_server(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(2, NULL);
    pthread_t thread;
    int listener = dup(world.listener);
    world.ranks[0] = world.ranks[1];
    world.num_processes = 1;
    assert_int_equal(pthread_create(&thread, NULL, answer_wrongly, &listener), 0);
    world_run(&world, fates);
    pthread_join(thread, NULL);
    close(listener);
    check_fate(&fates[0], HLM_FAILED, "to rank 1 is no rank of this run");
}

static void test_port_numbers(void **state)
{
    (void)state;
    assert_int_equal(hlm_meeting_port_of_master(29500), 29517);
    assert_int_equal(hlm_meeting_port_of_master(65518), 65535);
    assert_int_equal(hlm_meeting_port_of_master(65519), 65502);
    assert_int_equal(hlm_meeting_port_of_slurm(1, 0), 20008);
    assert_int_equal(hlm_meeting_port_of_slurm(1499, 8), 20000);
    assert_int_equal(hlm_meeting_port_of_slurm((int64_t)1 << 40, 3),
                     20000 + (((int64_t)1 << 43) + 3) % 12000);
}

/* ---- ranks that end ---- */

static enum hlm_status die_as_1(struct hlm_bootstrap *bootstrap, struct hlm_err *err)
{
    if (bootstrap->rank == 1) {
        kill(getpid(), SIGKILL);
    }
    return hlm_bootstrap_barrier(bootstrap, err);
}

static enum hlm_status die_as_0(struct hlm_bootstrap *bootstrap, struct hlm_err *err)
{
    if (bootstrap->rank == 0) {
        kill(getpid(), SIGKILL);
    }
    return hlm_bootstrap_barrier(bootstrap, err);
}

static void test_killed_after_meeting(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(3, die_as_1);
    world_run(&world, fates);
    assert_int_equal(fates[1].signal, SIGKILL);
    check_fate(&fates[0], HLM_FAILED, "rank 1 on ");
    check_fate(&fates[0], HLM_FAILED, "left before the ranks had agreed on how to run");
    assert_string_equal(fates[2].text, fates[0].text);
    world = world_of(3, die_as_0);
    world_run(&world, fates);
    assert_int_equal(fates[0].signal, SIGKILL);
    check_all(fates + 1, 2, HLM_FAILED, "rank 0 at 127.0.0.1 port ");
    check_all(fates + 1, 2, HLM_FAILED, "left before the ranks had agreed on how to run");
}

/* Rank 1 comes, is killed, and rank 2 comes never. */
static void test_killed_before_meeting(void **state)
{
    (void)state;
    struct fate fate = {0};
    struct world world = world_of(3, NULL);
    int first_fd = -1, second_fd = -1, ended = 0;
    const pid_t first = start(&world, &world.ranks[0], &first_fd);
    const pid_t second = start(&world, &world.ranks[1], &second_fd);
    close(world.listener);
    poll(NULL, 0, 500); /* time for its hello; without it rank 0 would name rank 1 as missing */
    kill(second, SIGKILL);
    assert_int_equal(waitpid(second, &ended, 0), second);
    assert_true(read(first_fd, &fate, sizeof fate) == sizeof fate);
    assert_int_equal(waitpid(first, &ended, 0), first);
    close(first_fd);
    close(second_fd);
    char part[64];
    snprintf(part, sizeof part, "(process %ld) left before all ranks had come", (long)second);
    check_fate(&fate, HLM_FAILED, part);
}

static enum hlm_status hesitate_as_2(struct hlm_bootstrap *bootstrap, struct hlm_err *err)
{
    if (bootstrap->rank == 2) {
        poll(NULL, 0, 1500);
        return HLM_OK;
    }
    return hlm_bootstrap_barrier(bootstrap, err);
}

static void test_silence(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(4, hesitate_as_2);
    for (int i = 0; i < 4; i++) {
        world.ranks[i].timeout_s = 0.5;
    }
    world_run(&world, fates);
    check_fate(&fates[0], HLM_FAILED, "rank 0 has waited 0.5 s for a word from rank 2");
    assert_string_equal(fates[1].text, fates[0].text);
    assert_string_equal(fates[3].text, fates[0].text);
}

static enum hlm_status fail_as_2(struct hlm_bootstrap *bootstrap, struct hlm_err *err)
{
    const enum hlm_status mine = bootstrap->rank == 2   ? hlm_fail(err, HLM_ENV, "no CUDA here")
                                 : bootstrap->rank == 3 ? hlm_fail(err, HLM_INPUT, "no file")
                                                        : HLM_OK;
    return hlm_bootstrap_agree(bootstrap, mine, err);
}

static void test_agree(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    char host[256] = "", expected[300];
    gethostname(host, sizeof host - 1);
    snprintf(expected, sizeof expected, "rank 2 on %.63s: no CUDA here", host);
    struct world world = world_of(4, fail_as_2);
    world_run(&world, fates);
    check_all(fates, 2, HLM_ENV, expected);
    check_fate(&fates[2], HLM_ENV, "no CUDA here");
    assert_string_equal(fates[2].text, "no CUDA here");
    check_fate(&fates[3], HLM_INPUT, "no file");
}

static enum hlm_status abort_as_1(struct hlm_bootstrap *bootstrap, struct hlm_err *err)
{
    if (bootstrap->rank == 1) {
        const enum hlm_status status = hlm_fail(err, HLM_INPUT, "plan.json: cannot be read");
        hlm_bootstrap_abort(bootstrap, err);
        return status;
    }
    return hlm_bootstrap_barrier(bootstrap, err);
}

/* Rank 2 looks for an answer only when rank 0 has long failed, with what rank 2 said unread. */
static enum hlm_status abort_as_1_read_late(struct hlm_bootstrap *bootstrap, struct hlm_err *err)
{
    if (bootstrap->rank != 2) {
        poll(NULL, 0, bootstrap->rank == 0 ? 300 : 0);
        return abort_as_1(bootstrap, err);
    }
    char byte = 0;
    HLM_TRY(bootstrap->ops->gather(bootstrap, &byte, 1, NULL, err));
    poll(NULL, 0, 700);
    return bootstrap->ops->broadcast(bootstrap, &byte, 1, err);
}

static void test_last_words(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(3, abort_as_1_read_late);
    world_run(&world, fates);
    check_all(fates, 3, HLM_INPUT, "plan.json: cannot be read");
}

static void test_frames(void **state)
{
    (void)state;
    struct hlm_frame frame = {.got = 0};
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    assert_int_equal(hlm_frame_read(ends[0], &frame, 100), HLM_FRAME_PARTIAL);
    assert_true(hlm_frame_send(ends[1], HLM_FRAME_DATA, "0123456789", 10, 1e300));
    assert_true(hlm_frame_send(ends[1], HLM_FRAME_WELCOME, NULL, 0, 1e300));
    assert_int_equal(hlm_frame_read(ends[0], &frame, 10), HLM_FRAME_WHOLE);
    assert_int_equal(frame.kind, HLM_FRAME_DATA);
    assert_int_equal(frame.bytes, 10);
    assert_memory_equal(frame.data, "0123456789", 10);
    hlm_frame_release(&frame);
    assert_int_equal(hlm_frame_read(ends[0], &frame, 10), HLM_FRAME_WHOLE);
    assert_int_equal(frame.kind, HLM_FRAME_WELCOME);
    hlm_frame_release(&frame);
    assert_true(hlm_frame_send(ends[1], HLM_FRAME_DATA, "0123456789", 10, 1e300));
    assert_int_equal(hlm_frame_read(ends[0], &frame, 9),
                     HLM_FRAME_BROKEN); /* more than is wanted */
    hlm_frame_release(&frame);
    close(ends[1]);
    close(ends[0]);
}

static void test_abort(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS];
    struct world world = world_of(3, abort_as_1);
    world_run(&world, fates);
    check_all(fates, 3, HLM_INPUT, "plan.json: cannot be read");
    check_fate(&fates[0], HLM_INPUT, "rank 1 on ");
    assert_string_equal(fates[2].text, fates[0].text);
}

/* ---- over a host transport ---- */

struct member {
    struct hlm_comm *comm;
    const char *plan;
    act_fn *act;
    pthread_t thread;
    struct fate fate;
};

static void *run_member(void *argument)
{
    struct member *member = argument;
    const struct hlm_bootstrap_config config = {.rank = member->comm->rank,
                                                .world_size = member->comm->world_size,
                                                .plan = member->plan,
                                                .settings = "",
                                                .timeout_s = 30};
    struct hlm_bootstrap *bootstrap = NULL;
    struct hlm_err err = {0};
    enum hlm_status status = hlm_bootstrap_comm_new(&config, member->comm, &bootstrap, &err);
    if (status == HLM_OK) {
        status = member->act(bootstrap, &err);
    }
    hlm_bootstrap_free(bootstrap);
    member->fate.status = (int32_t)status;
    memcpy(member->fate.text, err.text, sizeof member->fate.text);
    return NULL;
}

static void run_over_threads(const char *plan_of_1, act_fn *act, struct fate fates[MAX_RANKS])
{
    enum { NUM_RANKS = 4 };
    const struct hlm_strategy strategy = comm_body_strategy(2, 1, 2);
    const struct hlm_comm_config config = {
        .strategy = &strategy, .timeout_s = 30, .max_bytes = COMM_BODY_MAX_BYTES};
    struct hlm_comm *comms[NUM_RANKS];
    struct member members[NUM_RANKS];
    struct hlm_err err;
    check_ok(hlm_comm_thread_new(&config, comms, &err), &err);
    for (int i = 0; i < NUM_RANKS; i++) {
        members[i] =
            (struct member){.comm = comms[i], .plan = i == 1 ? plan_of_1 : "1111", .act = act};
        assert_int_equal(pthread_create(&members[i].thread, NULL, run_member, &members[i]), 0);
    }
    for (int i = 0; i < NUM_RANKS; i++) {
        pthread_join(members[i].thread, NULL);
        hlm_comm_free(comms[i]);
        fates[i] = members[i].fate;
    }
}

static void test_over_comm(void **state)
{
    (void)state;
    struct fate fates[MAX_RANKS] = {{0}};
    run_over_threads("1111", exchange, fates);
    check_all(fates, 4, HLM_OK, "");
    run_over_threads("1111", fail_as_2, fates);
    check_all(fates, 2, HLM_ENV, ": no CUDA here");
    check_fate(&fates[3], HLM_INPUT, "no file");
    run_over_threads("2222", exchange, fates);
    check_all(fates, 4, HLM_INPUT, "has another plan (digests 2222) than rank 0 on ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exchange),
        cmocka_unit_test(test_much),
        cmocka_unit_test(test_late_first_rank),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_twice),
        cmocka_unit_test(test_disagreement),
        cmocka_unit_test(test_other_run),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_other_version),
        cmocka_unit_test(test_port_in_use),
        cmocka_unit_test(test_other_server),
        cmocka_unit_test(test_port_numbers),
        cmocka_unit_test(test_killed_after_meeting),
        cmocka_unit_test(test_killed_before_meeting),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_agree),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_over_comm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
