/* cmocka: what our tests use of the library of this name, for machines that have no cmocka.
 *
 * Same names, same meaning: each test runs between its setup and its teardown, a failed assertion
 * ends it and prints where, the group returns how many failed. No mocks, and no checks of
 * test_malloc for leaks (the sanitizer build has those). tests/CMakeLists.txt puts this folder on
 * the include path only where cmocka is not found.
 */
#ifndef HLM_TESTS_SUPPORT_PLAIN_CMOCKA_H
#define HLM_TESTS_SUPPORT_PLAIN_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef void (*CMUnitTestFunction)(void **state); /* the library's names */
typedef int (*CMFixtureFunction)(void **state);

struct CMUnitTest {
    const char *name;
    CMUnitTestFunction test_func;
    CMFixtureFunction setup_func, teardown_func;
    void *initial_state;
};

#define cmocka_unit_test(f)                                                                        \
    {                                                                                              \
#f, f, NULL, NULL, NULL                                                                    \
    }
#define cmocka_unit_test_setup(f, setup)                                                           \
    {                                                                                              \
#f, f, setup, NULL, NULL                                                                   \
    }
#define cmocka_unit_test_teardown(f, teardown)                                                     \
    {                                                                                              \
#f, f, NULL, teardown, NULL                                                                \
    }
#define cmocka_unit_test_setup_teardown(f, setup, teardown)                                        \
    {                                                                                              \
#f, f, setup, teardown, NULL                                                               \
    }

/* Runs all tests of the group and prints a line for each; returns how many failed. */
int plain_cmocka_run(const char *group, const struct CMUnitTest *tests, size_t num_tests,
                     CMFixtureFunction group_setup, CMFixtureFunction group_teardown);
#define cmocka_run_group_tests_name(name, tests, setup, teardown)                                  \
    plain_cmocka_run(name, tests, sizeof(tests) / sizeof((tests)[0]), setup, teardown)
#define cmocka_run_group_tests(tests, setup, teardown)                                             \
    cmocka_run_group_tests_name(#tests, tests, setup, teardown)

/* End the running test. A failure on a thread that runs no test ends the program. */
_Noreturn void plain_cmocka_fail(const char *file, int line);
_Noreturn void plain_cmocka_skip(void);
#define fail() plain_cmocka_fail(__FILE__, __LINE__)
#define skip() plain_cmocka_skip()
#define print_message(...) ((void)printf(__VA_ARGS__))
#define print_error(...) ((void)fprintf(stderr, __VA_ARGS__))
#define fail_msg(...)                                                                              \
    do {                                                                                           \
        print_error("ERROR: " __VA_ARGS__);                                                        \
        fail();                                                                                    \
    } while (0)

void plain_cmocka_true(bool holds, const char *what, const char *file, int line);
#define assert_true(c) plain_cmocka_true((uintmax_t)(c) != 0, #c, __FILE__, __LINE__)
#define assert_false(c) plain_cmocka_true((uintmax_t)(c) == 0, "!(" #c ")", __FILE__, __LINE__)
#define assert_null(p) plain_cmocka_true((p) == NULL, #p " == NULL", __FILE__, __LINE__)
#define assert_non_null(p) plain_cmocka_true((p) != NULL, #p " != NULL", __FILE__, __LINE__)
#define assert_ptr_equal(a, b)                                                                     \
    plain_cmocka_true((const void *)(a) == (const void *)(b), #a " == " #b, __FILE__, __LINE__)
#define assert_ptr_not_equal(a, b)                                                                 \
    plain_cmocka_true((const void *)(a) != (const void *)(b), #a " != " #b, __FILE__, __LINE__)

void plain_cmocka_int(uintmax_t a, uintmax_t b, bool equal, const char *file, int line);
#define assert_int_equal(a, b)                                                                     \
    plain_cmocka_int((uintmax_t)(a), (uintmax_t)(b), true, __FILE__, __LINE__)
#define assert_int_not_equal(a, b)                                                                 \
    plain_cmocka_int((uintmax_t)(a), (uintmax_t)(b), false, __FILE__, __LINE__)

void plain_cmocka_range(uintmax_t value, uintmax_t least, uintmax_t most, const char *file,
                        int line);
#define assert_in_range(value, least, most)                                                        \
    plain_cmocka_range((uintmax_t)(value), (uintmax_t)(least), (uintmax_t)(most), __FILE__,        \
                       __LINE__)

void plain_cmocka_string(const char *a, const char *b, bool equal, const char *file, int line);
#define assert_string_equal(a, b) plain_cmocka_string(a, b, true, __FILE__, __LINE__)
#define assert_string_not_equal(a, b) plain_cmocka_string(a, b, false, __FILE__, __LINE__)

void plain_cmocka_memory(const void *a, const void *b, size_t size, bool equal, const char *file,
                         int line);
#define assert_memory_equal(a, b, size) plain_cmocka_memory(a, b, size, true, __FILE__, __LINE__)
#define assert_memory_not_equal(a, b, size)                                                        \
    plain_cmocka_memory(a, b, size, false, __FILE__, __LINE__)

#define test_malloc(size) malloc(size)
#define test_calloc(count, size) calloc(count, size)
#define test_free(memory) free(memory)

#endif
