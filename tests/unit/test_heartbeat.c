#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "exec/launch/control.h"
#include "exec/launch/heartbeat.h"
#include "exec/launch/launch_control.h"
#include "exec/launch/launch_peer.h"
#include "tests/support/check.h"

static void clear_environment(void)
{
    unsetenv(HLM_CONTROL_VARIABLE);
}

static void test_without_launcher(void **state)
{
    (void)state;
    struct hlm_heartbeat *heartbeat = (struct hlm_heartbeat *)&heartbeat;
    struct hlm_err err = {.status = HLM_FAILED};
    clear_environment();
    check_ok(hlm_heartbeat_start(0, &heartbeat, &err), &err);
    assert_null(heartbeat);
    hlm_heartbeat_set(heartbeat, 0, "0F0", "gemm", false);
    hlm_heartbeat_progress(heartbeat, "step %d", 1);
    hlm_heartbeat_report(heartbeat, &err);
    hlm_heartbeat_stop(heartbeat, true);
}

static void test_bad_address(void **state)
{
    (void)state;
    static const char *const malformed[] = {"", "unix", "unix:word", "udp:word:/tmp/x"};
    struct hlm_heartbeat *heartbeat = NULL;
    struct hlm_err err;
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        setenv(HLM_CONTROL_VARIABLE, malformed[i], 1);
        check_fails(hlm_heartbeat_start(0, &heartbeat, &err), HLM_ENV, &err,
                    "HLM_CONTROL: expected unix:<word>:<path>");
    }
    setenv(HLM_CONTROL_VARIABLE, "unix:word:/no/such/socket", 1);
    check_fails(hlm_heartbeat_start(7, &heartbeat, &err), HLM_ENV, &err,
                "rank 7 cannot reach its launcher: No such file or directory");
    clear_environment();
}

/* ---- a rank in a process of its own ---- */

struct launcher {
    struct hlm_arena *arena;
    struct hlm_control control;
};

static void launcher_init(struct launcher *launcher)
{
    struct hlm_err err;
    launcher->arena = hlm_arena_new();
    check_ok(hlm_control_init(&launcher->control, launcher->arena, false, false, &err), &err);
    setenv(HLM_CONTROL_VARIABLE, strchr(launcher->control.variable, '=') + 1, 1);
}

static void launcher_release(struct launcher *launcher)
{
    hlm_control_release(&launcher->control);
    hlm_arena_free(launcher->arena);
    clear_environment();
}

static int accept_rank(const struct launcher *launcher)
{
    for (int i = 0; i < 1000; i++) {
        const int fd = accept(launcher->control.listener, NULL, NULL);
        if (fd >= 0) {
            return fd;
        }
        usleep(10000);
    }
    fail_msg("the rank did not connect");
    return -1;
}

/* The next line of the wanted kind; beats come in between. */
static void expect_line(struct hlm_peer *peer, enum hlm_control_message kind,
                        char storage[HLM_CONTROL_LINE], struct hlm_peer_line *out)
{
    for (int i = 0; i < 1000; i++) {
        int taken;
        (void)hlm_peer_read(peer);
        while ((taken = hlm_peer_take(peer, storage, out)) != 0) {
            assert_int_equal(taken, 1);
            if (out->kind == kind) {
                return;
            }
            assert_int_equal(out->kind, HLM_CONTROL_BEAT);
        }
        usleep(10000);
    }
    fail_msg("no line of kind %d", (int)kind);
}

static void welcome(struct hlm_peer *peer)
{
    const size_t length = strlen(HLM_CONTROL_WELCOME);
    assert_int_equal(send(peer->fd, HLM_CONTROL_WELCOME, length, MSG_NOSIGNAL), length);
}

static void act_as_rank(void)
{
    struct hlm_heartbeat *heartbeat = NULL;
    struct hlm_err err;
    if (hlm_heartbeat_start(5, &heartbeat, &err) != HLM_OK) {
        _exit(99);
    }
    hlm_heartbeat_set(heartbeat, 3, "0F1", "all_reduce over tp", true);
    hlm_heartbeat_progress(heartbeat, "loss\n%g", 4.5);
    hlm_fail(&err, HLM_INPUT, "train.bin: too short");
    hlm_heartbeat_report(heartbeat, &err);
    hlm_heartbeat_stop(heartbeat, true);
    _exit(0);
}

static void test_lines(void **state)
{
    (void)state;
    struct launcher launcher;
    launcher_init(&launcher);
    const pid_t pid = fork();
    if (pid == 0) {
        act_as_rank();
    }
    struct hlm_peer peer = {.fd = accept_rank(&launcher)};
    char storage[HLM_CONTROL_LINE];
    struct hlm_peer_line line;
    expect_line(&peer, HLM_CONTROL_HELLO, storage, &line);
    assert_string_equal(line.word, launcher.control.word);
    assert_int_equal(line.rank, 5);
    assert_int_equal(line.pid, pid);
    welcome(&peer);
    expect_line(&peer, HLM_CONTROL_PROGRESS, storage, &line);
    assert_string_equal(line.text, "loss 4.5");
    expect_line(&peer, HLM_CONTROL_BEAT, storage, &line);
    assert_string_equal(line.text, "step 3, 0F1, all_reduce over tp");
    assert_true(line.waiting);
    assert_int_equal(line.counter, 2);
    expect_line(&peer, HLM_CONTROL_ERROR, storage, &line);
    assert_int_equal(line.status, HLM_INPUT);
    assert_string_equal(line.text, "train.bin: too short");
    expect_line(&peer, HLM_CONTROL_DONE, storage, &line);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(peer.fd);
    launcher_release(&launcher);
}

/* No rank outlives its launcher. */
static void test_launcher_vanishes(void **state)
{
    (void)state;
    struct launcher launcher;
    launcher_init(&launcher);
    const pid_t pid = fork();
    if (pid == 0) {
        struct hlm_heartbeat *heartbeat = NULL;
        struct hlm_err err;
        if (hlm_heartbeat_start(0, &heartbeat, &err) == HLM_OK) {
            sleep(60);
        }
        _exit(99);
    }
    struct hlm_peer peer = {.fd = accept_rank(&launcher)};
    char storage[HLM_CONTROL_LINE];
    struct hlm_peer_line line;
    expect_line(&peer, HLM_CONTROL_HELLO, storage, &line);
    welcome(&peer);
    expect_line(&peer, HLM_CONTROL_BEAT, storage, &line);
    close(peer.fd);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), HLM_FAILED);
    launcher_release(&launcher);
}

static void test_lines_that_are_not_ours(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "GET / HTTP/1.1\n",
        "hello word\n",
        "hello word x 5 host\n",
        "hello word -1 5 host\n",
        "beat\n",
        "beat 5 2 what\n",
        "error 5 0 done\n",
        "error 5 9 text\n",
        "beat 99999999999999999999 0 what\n",
        "\n",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct hlm_peer peer = {.fd = -1, .used = strlen(wrong[i])};
        char storage[HLM_CONTROL_LINE];
        struct hlm_peer_line line;
        memcpy(peer.buffer, wrong[i], peer.used);
        assert_int_equal(hlm_peer_take(&peer, storage, &line), -1);
    }
    struct hlm_peer endless = {.fd = -1, .used = sizeof endless.buffer};
    char storage[HLM_CONTROL_LINE];
    struct hlm_peer_line line;
    memset(endless.buffer, 'x', sizeof endless.buffer);
    assert_int_equal(hlm_peer_take(&endless, storage, &line), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_launcher),
        cmocka_unit_test(test_bad_address),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_launcher_vanishes),
        cmocka_unit_test(test_lines_that_are_not_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
