#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/check.h"

static void fail_writes_message_and_returns_status(void **state)
{
    (void)state;
    struct hlm_err err = {.status = HLM_OK, .text = "old"};
    assert_int_equal(hlm_fail(&err, HLM_INPUT, "%s: expected %d", "x.json", 3), HLM_INPUT);
    assert_int_equal(err.status, HLM_INPUT);
    assert_string_equal(err.text, "x.json: expected 3");
}

static void fail_marks_a_cut_message(void **state)
{
    (void)state;
    char text[3000];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    struct hlm_err err;
    hlm_fail(&err, HLM_FAILED, "%s", text);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_string_equal(err.text + sizeof err.text - 5, "a...");

    text[sizeof err.text - 1] = '\0'; /* just fits */
    hlm_fail(&err, HLM_FAILED, "%s", text);
    assert_string_equal(err.text, text);
}

static void prefix_stands_before_the_message(void **state)
{
    (void)state;
    struct hlm_err err;
    hlm_fail(&err, HLM_ENV, "no GPU");
    hlm_err_prefix(&err, "rank %d", 3);
    assert_string_equal(err.text, "rank 3: no GPU");
    assert_int_equal(err.status, HLM_ENV);
}

static void prefix_cuts_what_does_not_fit(void **state)
{
    (void)state;
    struct hlm_err err;
    char text[sizeof err.text];
    memset(text, 'b', sizeof text);
    text[sizeof text - 1] = '\0';
    hlm_fail(&err, HLM_ENV, "%s", text);
    hlm_err_prefix(&err, "rank %d", 3);
    assert_memory_equal(err.text, "rank 3: bbb", 11);
    assert_string_equal(err.text + sizeof err.text - 5, "b...");

    hlm_fail(&err, HLM_ENV, "short");
    hlm_err_prefix(&err, "%s%s", text, text); /* the prefix alone is too long */
    assert_string_equal(err.text + sizeof err.text - 5, "b...");
}

static void statuses_are_the_exit_codes_of_the_manual(void **state)
{
    (void)state;
    assert_int_equal(HLM_OK, 0);
    assert_int_equal(HLM_NO, 1);
    assert_int_equal(HLM_USAGE, 2);
    assert_int_equal(HLM_INPUT, 3);
    assert_int_equal(HLM_ENV, 4);
    assert_int_equal(HLM_FAILED, 5);
}

static enum hlm_status pass_on(enum hlm_status status, int *out_reached)
{
    HLM_TRY(status);
    *out_reached = 1;
    return HLM_OK;
}

static void try_leaves_on_failure_only(void **state)
{
    (void)state;
    int reached = 0;
    assert_int_equal(pass_on(HLM_NO, &reached), HLM_NO);
    assert_int_equal(reached, 0);
    assert_int_equal(pass_on(HLM_OK, &reached), HLM_OK);
    assert_int_equal(reached, 1);
}

static void broken_invariant_aborts_and_says_where(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        HLM_ASSERT(1 + 1 == 3);
        _exit(0);
    }
    close(ends[1]);
    char text[500] = {0};
    assert_true(read(ends[0], text, sizeof text - 1) > 0);
    close(ends[0]);
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGABRT);
    assert_non_null(strstr(text, "test_err.c:"));
    assert_non_null(strstr(text, "broken invariant: 1 + 1 == 3"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fail_writes_message_and_returns_status),
        cmocka_unit_test(fail_marks_a_cut_message),
        cmocka_unit_test(prefix_stands_before_the_message),
        cmocka_unit_test(prefix_cuts_what_does_not_fit),
        cmocka_unit_test(statuses_are_the_exit_codes_of_the_manual),
        cmocka_unit_test(try_leaves_on_failure_only),
        cmocka_unit_test(broken_invariant_aborts_and_says_where),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
