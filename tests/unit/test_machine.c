#include "exec/machine.h"

#include <pthread.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "tests/support/check.h"

static int32_t count_allowed(void)
{
    cpu_set_t allowed;
    assert_int_equal(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    return CPU_COUNT(&allowed);
}

static void test_num_cores(void **state)
{
    (void)state;
    assert_int_equal(hlm_machine_num_cores(), count_allowed());
}

/* Pinning is of the calling thread, so each trial has one of its own. */
struct trial {
    int32_t index;
    bool pinned;
    int32_t num_cores; /* afterwards */
};

static void *run_trial(void *argument)
{
    struct trial *trial = argument;
    trial->pinned = hlm_machine_pin(trial->index);
    trial->num_cores = hlm_machine_num_cores();
    return NULL;
}

static void test_pin(void **state)
{
    (void)state;
    const int32_t before = count_allowed();
    struct trial trials[] = {{.index = 0}, {.index = before - 1}, {.index = before}};
    for (size_t i = 0; i < sizeof(trials) / sizeof(trials[0]); i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, run_trial, &trials[i]), 0);
        pthread_join(thread, NULL);
        assert_int_equal(trials[i].pinned, trials[i].index < before);
        assert_int_equal(trials[i].num_cores, trials[i].pinned ? 1 : before);
    }
    assert_int_equal(count_allowed(), before);
}

static void test_describe(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct utsname system;
    assert_int_equal(uname(&system), 0);
    const struct hlm_measured_machine machine = hlm_machine_describe(arena, 3, "some BLAS");
    assert_string_equal(machine.host, system.nodename);
    assert_string_equal(machine.kernel, system.release);
    assert_int_equal(machine.num_cores, 3);
    assert_string_equal(machine.backend_library, "some BLAS");
    assert_true(strlen(machine.cpu_model) > 0 && strchr(machine.cpu_model, '\n') == NULL);
    hlm_arena_free(arena);
}

static void test_date(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    const char *date = hlm_machine_date(arena);
    int year = 0, month = 0, day = 0;
    assert_int_equal(strlen(date), 10);
    assert_int_equal(sscanf(date, "%4d-%2d-%2d", &year, &month, &day), 3);
    assert_true(year >= 2024 && month >= 1 && month <= 12 && day >= 1 && day <= 31);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_num_cores), cmocka_unit_test(test_pin),
                                       cmocka_unit_test(test_describe),
                                       cmocka_unit_test(test_date)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
