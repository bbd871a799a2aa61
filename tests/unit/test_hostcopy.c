#include "exec/comm/hostcopy.h"

#include "tests/support/check.h"
#include "tests/support/late_backend.h"

enum { SMALL = 1000, LARGE = 100000 };

/* A backend with a queue and two pieces of its memory. */
struct fixture {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    char *memory[2];
    struct hlm_hostcopy copy;
};

static void fixture_init(struct fixture *fixture, struct hlm_backend *backend)
{
    struct hlm_err err;
    *fixture = (struct fixture){.backend = backend};
    check_ok(backend->ops->queue_new(backend, &fixture->queue, &err), &err);
    for (int i = 0; i < 2; i++) {
        void *memory = NULL;
        check_ok(backend->ops->alloc(backend, LARGE, &memory, &err), &err);
        fixture->memory[i] = memory;
    }
    hlm_hostcopy_init(&fixture->copy, backend, fixture->queue);
}

static void fixture_release(struct fixture *fixture)
{
    hlm_hostcopy_release(&fixture->copy);
    for (int i = 0; i < 2; i++) {
        fixture->backend->ops->free(fixture->backend, fixture->memory[i]);
    }
    fixture->backend->ops->queue_free(fixture->queue);
    hlm_backend_free(fixture->backend);
}

static int enter_near(void **state)
{
    static struct fixture fixture;
    struct hlm_err err;
    struct hlm_backend *backend = NULL;
    check_ok(hlm_backend_cpu_new(&backend, &err), &err);
    fixture_init(&fixture, backend);
    *state = &fixture;
    return 0;
}

static int enter_far(void **state)
{
    static struct fixture fixture;
    struct hlm_err err;
    struct hlm_backend *backend = NULL;
    check_ok(late_backend_new(&backend, 5, 1e-4, &err), &err);
    fixture_init(&fixture, backend);
    *state = &fixture;
    return 0;
}

static int leave(void **state)
{
    fixture_release(*state);
    return 0;
}

/* Where the host reaches the memory, every address is the device's own and staging is not
 * touched. */
static void test_near(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    void *out = NULL;
    check_ok(hlm_hostcopy_space(&fixture->copy, 0, fixture->memory[0], SMALL, &out, &err), &err);
    assert_ptr_equal(out, fixture->memory[0]);
    check_ok(hlm_hostcopy_in(&fixture->copy, 1, fixture->memory[1], SMALL, &out, &err), &err);
    assert_ptr_equal(out, fixture->memory[1]);
    fixture->memory[1][3] = 'x';
    check_ok(hlm_hostcopy_out(&fixture->copy, fixture->memory[1], out, SMALL, &err), &err);
    assert_int_equal(fixture->memory[1][3], 'x');
    check_ok(hlm_hostcopy_stage(&fixture->copy, NULL, fixture->memory[0], SMALL, &err), &err);
    assert_int_equal(fixture->copy.capacity[0] + fixture->copy.capacity[1], 0);
}

static void fill(char *bytes, int64_t count, int start)
{
    for (int64_t i = 0; i < count; i++) {
        bytes[i] = (char)(i * 31 + start);
    }
}

/* Writes through one staging buffer and reads back through the other. */
static void round_trip(struct fixture *fixture, int64_t bytes, int start)
{
    struct hlm_err err;
    void *out = NULL, *in = NULL;
    check_ok(hlm_hostcopy_space(&fixture->copy, 0, fixture->memory[0], bytes, &out, &err), &err);
    assert_ptr_not_equal(out, fixture->memory[0]);
    fill(out, bytes, start);
    check_ok(hlm_hostcopy_out(&fixture->copy, fixture->memory[0], out, bytes, &err), &err);
    check_ok(hlm_hostcopy_in(&fixture->copy, 1, fixture->memory[0], bytes, &in, &err), &err);
    assert_ptr_not_equal(in, out);
    assert_memory_equal(in, out, (size_t)bytes);
}

static void test_far(void **state)
{
    struct fixture *fixture = *state;
    round_trip(fixture, SMALL, 1);
    round_trip(fixture, LARGE, 2);
    round_trip(fixture, SMALL, 3);
    /* Buffers keep the largest size that was asked for. */
    assert_int_equal(fixture->copy.capacity[0], LARGE);
    assert_int_equal(fixture->copy.capacity[1], LARGE);
}

/* A collective has one buffer for what goes in and another for what comes out. */
static void test_two_buffers(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    void *first = NULL, *second = NULL;
    check_ok(hlm_hostcopy_space(&fixture->copy, 0, fixture->memory[0], SMALL, &first, &err), &err);
    fill(first, SMALL, 10);
    check_ok(hlm_hostcopy_out(&fixture->copy, fixture->memory[0], first, SMALL, &err), &err);
    check_ok(hlm_hostcopy_in(&fixture->copy, 0, fixture->memory[0], SMALL, &first, &err), &err);
    check_ok(hlm_hostcopy_space(&fixture->copy, 1, fixture->memory[1], SMALL, &second, &err), &err);
    fill(second, SMALL, 20);
    check_ok(hlm_hostcopy_out(&fixture->copy, fixture->memory[1], second, SMALL, &err), &err);
    char expected[SMALL];
    fill(expected, SMALL, 10);
    assert_memory_equal(first, expected, SMALL);
}

static void test_stage(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_err err;
    void *out = NULL;
    char staging[SMALL] = {0}, expected[SMALL];
    check_ok(hlm_hostcopy_space(&fixture->copy, 0, fixture->memory[0], SMALL, &out, &err), &err);
    fill(out, SMALL, 4);
    check_ok(hlm_hostcopy_out(&fixture->copy, fixture->memory[0], out, SMALL, &err), &err);
    check_ok(hlm_hostcopy_stage(&fixture->copy, staging, fixture->memory[0], SMALL, &err), &err);
    fill(expected, SMALL, 4);
    assert_memory_equal(staging, expected, SMALL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_near, enter_near, leave),
        cmocka_unit_test_setup_teardown(test_far, enter_far, leave),
        cmocka_unit_test_setup_teardown(test_two_buffers, enter_far, leave),
        cmocka_unit_test_setup_teardown(test_stage, enter_far, leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
