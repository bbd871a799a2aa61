/* Runs tests where a build found no cmocka. */
#include <cmocka.h>
#include <string.h>

/* Where an assertion of the running test goes to. Assertions carry no argument for it, so it is
 * state of the thread; threads that a test starts have none. */
static _Thread_local jmp_buf *running;

enum outcome { PASSED, FAILED, SKIPPED }; /* what setjmp returns: 0 at first */
static const char *const outcome_texts[] = {"       OK", "  FAILED ", "  SKIPPED"};

_Noreturn static void leave(enum outcome outcome)
{
    fflush(stdout);
    if (running == NULL) {
        exit(EXIT_FAILURE);
    }
    longjmp(*running, (int)outcome);
}

_Noreturn void plain_cmocka_fail(const char *file, int line)
{
    fprintf(stderr, "\n%s:%d: error: Failure!\n", file, line);
    leave(FAILED);
}

_Noreturn void plain_cmocka_skip(void)
{
    leave(SKIPPED);
}

void plain_cmocka_true(bool holds, const char *what, const char *file, int line)
{
    if (!holds) {
        print_error("%s\n", what);
        plain_cmocka_fail(file, line);
    }
}

void plain_cmocka_int(uintmax_t a, uintmax_t b, bool equal, const char *file, int line)
{
    if ((a == b) != equal) {
        print_error("%#jx %s %#jx\n", a, equal ? "!=" : "==", b);
        plain_cmocka_fail(file, line);
    }
}

void plain_cmocka_range(uintmax_t value, uintmax_t least, uintmax_t most, const char *file,
                        int line)
{
    if (value < least || value > most) {
        print_error("%ju is not in [%ju, %ju]\n", value, least, most);
        plain_cmocka_fail(file, line);
    }
}

void plain_cmocka_string(const char *a, const char *b, bool equal, const char *file, int line)
{
    if ((strcmp(a, b) == 0) != equal) {
        print_error("\"%s\" %s \"%s\"\n", a, equal ? "!=" : "==", b);
        plain_cmocka_fail(file, line);
    }
}

void plain_cmocka_memory(const void *a, const void *b, size_t size, bool equal, const char *file,
                         int line)
{
    if ((memcmp(a, b, size) == 0) != equal) {
        print_error("%zu bytes are %s\n", size, equal ? "different" : "equal");
        plain_cmocka_fail(file, line);
    }
}

/* The part of a test that an assertion may leave. */
static enum outcome run_body(const struct CMUnitTest *test, void **state)
{
    jmp_buf here;
    running = &here;
    const enum outcome outcome = (enum outcome)setjmp(here);
    if (outcome == PASSED) {
        test->test_func(state);
    }
    running = NULL;
    return outcome;
}

static enum outcome run_fixture(CMFixtureFunction fixture, void **state)
{
    jmp_buf here;
    running = &here;
    const enum outcome outcome = (enum outcome)setjmp(here);
    const bool good = outcome == PASSED && (fixture == NULL || fixture(state) == 0);
    running = NULL;
    return good ? PASSED : outcome == SKIPPED ? SKIPPED : FAILED;
}

static enum outcome run_test(const struct CMUnitTest *test, void *group_state)
{
    void *state = test->initial_state != NULL ? test->initial_state : group_state;
    printf("[ RUN      ] %s\n", test->name);
    fflush(stdout);
    enum outcome outcome = run_fixture(test->setup_func, &state);
    if (outcome == PASSED) {
        outcome = run_body(test, &state);
        const enum outcome after = run_fixture(test->teardown_func, &state);
        outcome = outcome == PASSED ? after : outcome;
    }
    printf("[%s ] %s\n", outcome_texts[outcome], test->name);
    return outcome;
}

int plain_cmocka_run(const char *group, const struct CMUnitTest *tests, size_t num_tests,
                     CMFixtureFunction group_setup, CMFixtureFunction group_teardown)
{
    void *state = NULL;
    int counts[] = {[PASSED] = 0, [FAILED] = 0, [SKIPPED] = 0};
    printf("[==========] %s: Running %zu test(s).\n", group, num_tests);
    if (run_fixture(group_setup, &state) != PASSED) {
        printf("[  FAILED  ] GROUP SETUP\n");
        return -1;
    }
    for (size_t i = 0; i < num_tests; i++) {
        counts[run_test(&tests[i], state)]++;
    }
    const bool ended = run_fixture(group_teardown, &state) == PASSED;
    printf("[==========] %s: %d passed, %d failed, %d skipped.\n", group, counts[PASSED],
           counts[FAILED], counts[SKIPPED]);
    return ended ? counts[FAILED] : -1;
}
