#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/arena.h"
#include "exec/launch/launch.h"
#include "exec/launch/launch_control.h"
#include "tests/support/check.h"

/* Whatever a run leaves would be found by these: every process of it has the mark in its
 * environment, every file is in the folder. */
struct fixture {
    char mark[64], folder[64];
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool has_mark(const char *pid, const char *mark)
{
    char path[300], text[65536];
    snprintf(path, sizeof path, "/proc/%s/environ", pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd >= 0 ? read(fd, text, sizeof text) : -1;
    if (fd >= 0) {
        close(fd);
    }
    return n > 0 && memmem(text, (size_t)n, mark, strlen(mark)) != NULL;
}

static int count_processes(const char *mark)
{
    DIR *folder = opendir("/proc");
    assert_non_null(folder);
    int count = 0;
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        count += isdigit((unsigned char)entry->d_name[0]) && has_mark(entry->d_name, mark);
    }
    closedir(folder);
    return count;
}

static int count_files(const char *path, const char *prefix)
{
    DIR *folder = opendir(path);
    int count = 0;
    if (folder == NULL) {
        return 0;
    }
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    }
    closedir(folder);
    return count;
}

static int setup(void **state)
{
    static struct fixture fixture;
    snprintf(fixture.mark, sizeof fixture.mark, "hlm-launch-test-%ld", (long)getpid());
    snprintf(fixture.folder, sizeof fixture.folder, "/tmp/hlm-launch-test-XXXXXX");
    if (mkdtemp(fixture.folder) == NULL) {
        return -1;
    }
    setenv("HLM_TEST_MARK", fixture.mark, 1);
    setenv("TMPDIR", fixture.folder, 1);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    return rmdir(fixture->folder);
}

static void check_nothing_left(const struct fixture *fixture)
{
    assert_int_equal(count_processes(fixture->mark), 0);
    char ours[64];
    snprintf(ours, sizeof ours, "hlmplan-%ld-", (long)getpid());
    assert_int_equal(count_files(fixture->folder, "hlmplan-"), 0);
    assert_int_equal(count_files("/dev/shm", ours), 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child, not even a zombie */
}

static bool have_mpirun(void)
{
    return system("command -v mpirun >/dev/null 2>&1") == 0;
}

struct dummy {
    enum hlm_launch_kind kind;
    const char *how, *bad_rank;
    int32_t num_ranks;
    const char *hosts;
    double watchdog_s, silence_s, start_s;
    void (*on_progress)(void *context, int32_t rank, const char *text);
    void *context;
};

/* A dummy that misbehaves, and what the error must be and say. */
struct fault {
    struct dummy dummy;
    enum hlm_status status;
    const char *parts[4];
};

static enum hlm_status run_dummy(const struct dummy *dummy, struct hlm_err *err)
{
    char threads[16];
    snprintf(threads, sizeof threads, "%d",
             dummy->kind == HLM_LAUNCH_THREADS ? (int)dummy->num_ranks : 0);
    const char *const args[] = {dummy->how, dummy->bad_rank, threads, NULL};
    const struct hlm_launch_config config = {
        .kind = dummy->kind,
        .program = HLM_LAUNCH_DUMMY,
        .args = args,
        .num_ranks = dummy->num_ranks,
        .hosts = dummy->hosts,
        .watchdog_s = dummy->watchdog_s,
        .silence_s = dummy->silence_s,
        .start_s = dummy->start_s,
        .on_progress = dummy->on_progress,
        .context = dummy->context,
    };
    return hlm_launch_run(&config, err);
}

/* Ten seconds from noticing are the contract; noticing takes up to three, starting MPI a few. */
static void check_fault(const struct fixture *fixture, enum hlm_launch_kind kind,
                        const struct fault *fault)
{
    struct hlm_err err = {0};
    struct dummy dummy = fault->dummy;
    dummy.kind = kind;
    const double start_s = now_s();
    const enum hlm_status status = run_dummy(&dummy, &err);
    const double took_s = now_s() - start_s;
    if (status != fault->status) {
        fail_msg("%s: status %d, expected %d: %s", dummy.how, (int)status, (int)fault->status,
                 err.text);
    }
    for (int i = 0; i < 4 && fault->parts[i] != NULL; i++) {
        if (strstr(err.text, fault->parts[i]) == NULL) {
            fail_msg("%s: \"%s\" is not in \"%s\"", dummy.how, fault->parts[i], err.text);
        }
    }
    if (took_s > 20) {
        fail_msg("%s: took %.1f s", dummy.how, took_s);
    }
    check_nothing_left(fixture);
}

static void count_progress(void *context, int32_t rank, const char *text)
{
    int *counts = context;
    char expected[32];
    snprintf(expected, sizeof expected, "step %d of 3", counts[rank]++);
    assert_string_equal(text, expected); /* in order; the line end in it has become a space */
}

static void check_success(const struct fixture *fixture, enum hlm_launch_kind kind)
{
    int counts[3] = {0};
    struct hlm_err err;
    const struct dummy dummy = {.kind = kind,
                                .how = "ok",
                                .bad_rank = "-1",
                                .num_ranks = 3,
                                .on_progress = count_progress,
                                .context = counts};
    check_ok(run_dummy(&dummy, &err), &err);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(counts[i], 3);
    }
    check_nothing_left(fixture);
}

static void test_threads_succeed(void **state)
{
    check_success(*state, HLM_LAUNCH_THREADS);
}

/* With variables of torchrun that the user's shell has left, too. */
static void test_processes_succeed(void **state)
{
    setenv("RANK", "7", 1);
    setenv("MASTER_PORT", "1", 1);
    check_success(*state, HLM_LAUNCH_PROCESSES);
    const struct dummy dummy = {
        .kind = HLM_LAUNCH_PROCESSES, .how = "meet", .bad_rank = "-1", .num_ranks = 3};
    struct hlm_err err;
    check_ok(run_dummy(&dummy, &err), &err);
    check_nothing_left(*state);
    unsetenv("RANK");
    unsetenv("MASTER_PORT");
}

static void test_mpi_succeeds(void **state)
{
    if (!have_mpirun()) {
        skip();
    }
    check_success(*state, HLM_LAUNCH_MPI);
}

static const struct fault thread_faults[] = {
    {{.how = "kill", .bad_rank = "1", .num_ranks = 2},
     HLM_FAILED,
     {"rank ", "killed by signal 9 (Killed)", "step 1, 0F0, all_reduce over tp"}},
    {{.how = "exit", .bad_rank = "1", .num_ranks = 2},
     HLM_INPUT,
     {"exit code 3", "without finishing", "the dummy leaves early"}},
    {{.how = "stop", .bad_rank = "0", .num_ranks = 2},
     HLM_FAILED,
     {"its process is stopped", "no sign of life"}},
    {{.how = "report", .bad_rank = "1", .num_ranks = 2},
     HLM_INPUT,
     {"rank 1 on ", "train.bin: expected 4096 tokens, found 7"}},
    {{.how = "full-disk", .bad_rank = "0", .num_ranks = 1},
     HLM_FAILED,
     {"rank 0 on ", "measured.json: No space left on device"}},
    {{.how = "hang", .bad_rank = "1", .num_ranks = 3, .watchdog_s = 2},
     HLM_FAILED,
     {"rank 1 on ", "has made no progress for", "step 2, 0B1, endless loop"}},
    {{.how = "deadlock", .bad_rank = "-1", .num_ranks = 2, .watchdog_s = 2},
     HLM_FAILED,
     {"all wait for each other", "rank 0: step 2, 0B1, receive; rank 1: step 2, 0B1, receive"}},
    {{.how = "early-exit", .bad_rank = "0", .num_ranks = 1},
     HLM_INPUT,
     {"the rank program ended with exit code 3 before any rank had started",
      "no such file: plan.json"}},
    {{.how = "early-hang", .bad_rank = "1", .num_ranks = 2, .start_s = 2},
     HLM_FAILED,
     {"rank 1 did not start within 2 s"}},
};

static const struct fault process_faults[] = {
    {{.how = "kill", .bad_rank = "1", .num_ranks = 3},
     HLM_FAILED,
     {"rank 1 on ", "was killed by signal 9 (Killed) without finishing",
      "step 1, 0F0, all_reduce over tp"}},
    {{.how = "exit", .bad_rank = "2", .num_ranks = 3},
     HLM_INPUT,
     {"rank 2 on ", "ended with exit code 3 without finishing", "the dummy leaves early"}},
    {{.how = "stop", .bad_rank = "1", .num_ranks = 2},
     HLM_FAILED,
     {"rank 1 on ", "its process is stopped", "no sign of life"}},
    {{.how = "report", .bad_rank = "0", .num_ranks = 2},
     HLM_INPUT,
     {"rank 0 on ", "train.bin: expected 4096 tokens, found 7"}},
    {{.how = "hang", .bad_rank = "1", .num_ranks = 2, .watchdog_s = 2},
     HLM_FAILED,
     {"rank 1 on ", "has made no progress for", "step 2, 0B1, endless loop"}},
    {{.how = "early-exit", .bad_rank = "1", .num_ranks = 3},
     HLM_INPUT,
     {"rank 1 ended with exit code 3 before it had started", "no such file: plan.json"}},
    {{.how = "early-hang", .bad_rank = "1", .num_ranks = 2, .start_s = 2},
     HLM_FAILED,
     {"rank 1 did not start within 2 s"}},
};

static const struct fault mpi_faults[] = {
    {{.how = "kill", .bad_rank = "1", .num_ranks = 3},
     HLM_FAILED,
     {"rank 1 on ", "was killed by signal 9 (Killed)", "step 1, 0F0, all_reduce over tp"}},
    {{.how = "exit", .bad_rank = "2", .num_ranks = 3},
     HLM_INPUT,
     {"rank 2 on ", "ended with exit code 3 without finishing", "the dummy leaves early"}},
    {{.how = "stop", .bad_rank = "1", .num_ranks = 3, .watchdog_s = 2},
     HLM_FAILED,
     {"rank 1 on ", "its process is stopped"}},
    {{.how = "hang", .bad_rank = "1", .num_ranks = 2, .watchdog_s = 2},
     HLM_FAILED,
     {"rank 1 on ", "step 2, 0B1, endless loop"}},
    {{.how = "report", .bad_rank = "1", .num_ranks = 3}, HLM_INPUT, {"rank 1 on ", "train.bin"}},
    {{.how = "kill-parent", .bad_rank = "0", .num_ranks = 2},
     HLM_FAILED,
     {"mpirun was killed by signal 9 (Killed)"}},
    {{.how = "early-hang", .bad_rank = "1", .num_ranks = 2, .start_s = 4},
     HLM_FAILED,
     {"rank 1 did not start within 4 s"}},
    {{.how = "early-exit", .bad_rank = "0", .num_ranks = 1},
     HLM_INPUT,
     {"ended with exit code 3 before", "no such file: plan.json"}}, /* mpirun may not name it */
    {{.how = "early-exit", .bad_rank = "1", .num_ranks = 2},
     HLM_INPUT,
     {"ended with exit code 3 before", "no such file: plan.json"}},
};

static void test_threads_faults(void **state)
{
    for (size_t i = 0; i < sizeof thread_faults / sizeof thread_faults[0]; i++) {
        check_fault(*state, HLM_LAUNCH_THREADS, &thread_faults[i]);
    }
}

static void test_process_faults(void **state)
{
    for (size_t i = 0; i < sizeof process_faults / sizeof process_faults[0]; i++) {
        check_fault(*state, HLM_LAUNCH_PROCESSES, &process_faults[i]);
    }
}

static void test_mpi_faults(void **state)
{
    if (!have_mpirun()) {
        skip();
    }
    for (size_t i = 0; i < sizeof mpi_faults / sizeof mpi_faults[0]; i++) {
        check_fault(*state, HLM_LAUNCH_MPI, &mpi_faults[i]);
    }
}

static void test_cannot_start(void **state)
{
    struct hlm_err err;
    const char *const args[] = {"ok", "-1", "1", NULL};
    struct hlm_launch_config config = {
        .kind = HLM_LAUNCH_MPI, .program = HLM_LAUNCH_DUMMY, .args = args, .num_ranks = 1};
    config.mpirun = "no-such-mpirun";
    check_fails(hlm_launch_run(&config, &err), HLM_ENV, &err,
                "cannot start no-such-mpirun: No such file or directory");
    config.program = "/no/such/hlmplan-rank";
    check_fails(hlm_launch_run(&config, &err), HLM_ENV, &err,
                "cannot start /no/such/hlmplan-rank: No such file or directory");
    check_nothing_left(*state);
}

/* mpirun's explanation reaches the user when there is nothing else. */
static void test_mpirun_refuses(void **state)
{
    if (!have_mpirun()) {
        skip();
    }
    struct hlm_err err;
    const char *const args[] = {"ok", "-1", "0", NULL};
    const struct hlm_launch_config config = {.kind = HLM_LAUNCH_MPI,
                                             .program = HLM_LAUNCH_DUMMY,
                                             .args = args,
                                             .num_ranks = 2,
                                             .hosts = "localhost:2"};
    setenv("OMPI_MCA_rmaps_base_ranking_policy", "no-such-policy", 1);
    check_fails(hlm_launch_run(&config, &err), HLM_ENV, &err, "before any rank had started");
    assert_non_null(strstr(err.text, "policy"));
    unsetenv("OMPI_MCA_rmaps_base_ranking_policy");
    check_ok(hlm_launch_run(&config, &err), &err);
    check_nothing_left(*state);
}

/* An address of this machine other than loopback, or false. */
static bool find_address(char out[INET_ADDRSTRLEN])
{
    struct ifaddrs *list = NULL;
    bool found = false;
    assert_int_equal(getifaddrs(&list), 0);
    for (const struct ifaddrs *i = list; i != NULL && !found; i = i->ifa_next) {
        if (i->ifa_addr != NULL && i->ifa_addr->sa_family == AF_INET &&
            (i->ifa_flags & IFF_LOOPBACK) == 0) {
            struct sockaddr_in address;
            memcpy(&address, i->ifa_addr, sizeof address);
            found = inet_ntop(AF_INET, &address.sin_addr, out, INET_ADDRSTRLEN) != NULL;
        }
    }
    freeifaddrs(list);
    return found;
}

/* A host that is not known by name as this machine takes the way of other machines: TCP. */
static void test_control_over_tcp(void **state)
{
    char address[INET_ADDRSTRLEN], hosts[INET_ADDRSTRLEN + 8];
    if (!have_mpirun() || !find_address(address)) {
        skip();
    }
    snprintf(hosts, sizeof hosts, "%s:3", address);
    int counts[3] = {0};
    struct hlm_err err;
    const struct dummy good = {.kind = HLM_LAUNCH_MPI,
                               .how = "ok",
                               .bad_rank = "-1",
                               .num_ranks = 3,
                               .hosts = hosts,
                               .on_progress = count_progress,
                               .context = counts};
    check_ok(run_dummy(&good, &err), &err);
    assert_int_equal(counts[0] + counts[1] + counts[2], 9);
    check_nothing_left(*state);
    const struct fault killed = {
        {.how = "kill", .bad_rank = "1", .num_ranks = 3, .hosts = hosts},
        HLM_FAILED,
        {"rank 1 on ", "without finishing", "all_reduce over tp"},
    };
    check_fault(*state, HLM_LAUNCH_MPI, &killed);
}

/* ---- the launcher's own end ---- */

static void wait_for_processes(const struct fixture *fixture, int at_least)
{
    for (int i = 0; i < 1000 && count_processes(fixture->mark) < at_least; i++) {
        usleep(20000);
    }
    assert_true(count_processes(fixture->mark) >= at_least);
}

/* Runs a dummy in a process of its own, which writes the error's text to *out_fd. */
static pid_t fork_launcher(const struct dummy *dummy, int *out_fd)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        struct hlm_err err = {0};
        const enum hlm_status status = run_dummy(dummy, &err);
        const size_t length = strlen(err.text);
        _exit(write(ends[1], err.text, length) == (ssize_t)length ? (int)status : 99);
    }
    close(ends[1]);
    *out_fd = ends[0];
    return pid;
}

/* Of a run of two ranks. */
static int num_processes(enum hlm_launch_kind kind)
{
    return kind == HLM_LAUNCH_MPI ? 3 : kind == HLM_LAUNCH_PROCESSES ? 2 : 1;
}

static void check_interrupt(const struct fixture *fixture, enum hlm_launch_kind kind, int number,
                            const char *name)
{
    const struct dummy dummy = {.kind = kind, .how = "hang", .bad_rank = "1", .num_ranks = 2};
    int fd = -1, status = 0;
    const pid_t pid = fork_launcher(&dummy, &fd);
    wait_for_processes(fixture, num_processes(kind));
    usleep(300000);
    kill(pid, number);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), HLM_FAILED);
    char text[1000] = "";
    assert_true(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    assert_non_null(strstr(text, "interrupted by"));
    assert_non_null(strstr(text, name));
    check_nothing_left(fixture);
}

static void test_interrupts(void **state)
{
    check_interrupt(*state, HLM_LAUNCH_THREADS, SIGINT, "Ctrl-C (SIGINT)");
    check_interrupt(*state, HLM_LAUNCH_THREADS, SIGTERM, "Terminated");
    check_interrupt(*state, HLM_LAUNCH_PROCESSES, SIGINT, "Ctrl-C (SIGINT)");
    if (have_mpirun()) {
        check_interrupt(*state, HLM_LAUNCH_MPI, SIGINT, "Ctrl-C (SIGINT)");
    }
}

/* Nobody is left to remove the folders of a launcher that was killed. */
static void remove_left_folders(const struct fixture *fixture, pid_t launcher)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf %s/hlmplan-%ld-* /dev/shm/hlmplan-%ld-*",
             fixture->folder, (long)launcher, (long)launcher);
    assert_int_equal(system(command), 0);
}

/* Killed with -9 the launcher can do nothing, and yet no rank outlives it by more than a moment,
 * not even a stopped one. */
static void check_murder(const struct fixture *fixture, enum hlm_launch_kind kind, const char *how)
{
    const struct dummy dummy = {
        .kind = kind, .how = how, .bad_rank = "1", .num_ranks = 2, .silence_s = 60};
    int fd = -1, status = 0;
    const pid_t pid = fork_launcher(&dummy, &fd);
    wait_for_processes(fixture, num_processes(kind));
    usleep(1000000);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    close(fd);
    for (int i = 0; i < 500 && count_processes(fixture->mark) > 0; i++) {
        usleep(20000);
    }
    assert_int_equal(count_processes(fixture->mark), 0);
    remove_left_folders(fixture, pid);
}

static void test_launcher_killed(void **state)
{
    check_murder(*state, HLM_LAUNCH_THREADS, "hang");
    check_murder(*state, HLM_LAUNCH_THREADS, "stop");
    check_murder(*state, HLM_LAUNCH_PROCESSES, "hang");
    check_murder(*state, HLM_LAUNCH_PROCESSES, "stop");
    if (have_mpirun()) {
        check_murder(*state, HLM_LAUNCH_MPI, "hang");
        check_murder(*state, HLM_LAUNCH_MPI, "stop");
    }
}

/* The signals that a run borrows work again afterwards. */
static void test_signals_are_returned(void **state)
{
    (void)state;
    sigset_t before, after;
    struct hlm_err err;
    sigprocmask(SIG_SETMASK, NULL, &before);
    const struct dummy dummy = {
        .kind = HLM_LAUNCH_THREADS, .how = "ok", .bad_rank = "-1", .num_ranks = 1};
    check_ok(run_dummy(&dummy, &err), &err);
    sigprocmask(SIG_SETMASK, NULL, &after);
    for (int number = 1; number < 32; number++) {
        assert_int_equal(sigismember(&before, number), sigismember(&after, number));
    }
}

static void test_hosts(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_launch_hosts hosts;
    struct hlm_err err;
    check_ok(hlm_launch_hosts_parse(&hosts, arena, "localhost:2,127.0.0.1", 3, &err), &err);
    assert_string_equal(hosts.hostfile, "localhost slots=2\n127.0.0.1 slots=1\n");
    assert_int_equal(hosts.num, 2);
    assert_string_equal(hosts.names[1], "127.0.0.1");
    assert_int_equal(hosts.num_ranks[1], 1);
    assert_false(hosts.remote);
    check_ok(hlm_launch_hosts_parse(&hosts, arena, "node-1.example:8,[fe80::2]:4", 12, &err), &err);
    assert_string_equal(hosts.hostfile, "node-1.example slots=8\nfe80::2 slots=4\n");
    assert_true(hosts.remote);
    check_ok(hlm_launch_hosts_parse(&hosts, arena, "a:4,b:4,c:4", 6, &err), &err);
    assert_int_equal(hosts.num, 2); /* the last has no rank */
    assert_int_equal(hosts.num_ranks[1], 2);
    check_fails(hlm_launch_hosts_parse(&hosts, arena, "a:2,b:1", 4, &err), HLM_USAGE, &err,
                "has slots for 3 ranks, but 4 are needed");
    static const char *const wrong[] = {
        "a:",   "a:0", "a:-1", "a:x", "a:2x", ":2", "a b:2", "-oProxyCommand=x:1", "a:99999999999",
        "[::1", "a:+1"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        check_fails(hlm_launch_hosts_parse(&hosts, arena, wrong[i], 1, &err), HLM_USAGE, &err,
                    wrong[i]);
    }
    hlm_arena_free(arena);
}

static void test_hosts_of_ranks(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    static const char text[] = "a:2,[fe80::2]:1,c:2";
    static const int32_t in_order[] = {0, 1, 2}, turned[] = {3, 4, 0, 2}, torn[] = {0, 2, 1};
    const char *hosts = NULL;
    struct hlm_err err;
    check_ok(hlm_launch_hosts_place(arena, text, in_order, 3, &hosts, &err), &err);
    assert_string_equal(hosts, text);
    check_ok(hlm_launch_hosts_place(arena, text, turned, 4, &hosts, &err), &err);
    assert_string_equal(hosts, "c:2,a:1,[fe80::2]:1");
    check_fails(hlm_launch_hosts_place(arena, text, torn, 3, &hosts, &err), HLM_ENV, &err,
                "the plan's ranks on a are not in a row");
    check_fails(hlm_launch_hosts_place(arena, "a:2,c", turned, 4, &hosts, &err), HLM_USAGE, &err,
                "--hosts has no slot for device 3 of the plan, where rank 0 belongs");
    check_fails(hlm_launch_hosts_place(arena, "a:x", turned, 4, &hosts, &err), HLM_USAGE, &err,
                "expected host:slots,..., found \"a:x\"");
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_hosts_of_ranks),
        cmocka_unit_test(test_threads_succeed),
        cmocka_unit_test(test_processes_succeed),
        cmocka_unit_test(test_mpi_succeeds),
        cmocka_unit_test(test_threads_faults),
        cmocka_unit_test(test_process_faults),
        cmocka_unit_test(test_mpi_faults),
        cmocka_unit_test(test_cannot_start),
        cmocka_unit_test(test_mpirun_refuses),
        cmocka_unit_test(test_control_over_tcp),
        cmocka_unit_test(test_interrupts),
        cmocka_unit_test(test_launcher_killed),
        cmocka_unit_test(test_signals_are_returned),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
