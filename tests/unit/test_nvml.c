#include "tests/support/check.h"

#include <dlfcn.h>

#include "exec/profiler/nvml.h"

/* tests/support/fake_nvml.c */
struct nvml_device {
    unsigned sm_mhz, memory_mhz, milliwatts, degrees;
    unsigned long long reasons;
};

struct fake {
    void *handle;
    void (*set)(const struct nvml_device *state);
    int (*num_open)(void);
};

static const struct nvml_device busy = {1980, 2619, 690500, 66, 0x4 | 0x20 | 0x2};

static int setup(void **state)
{
    static struct fake fake; /* of this program, for all its tests */
    fake.handle = dlopen(HLM_FAKE_NVML, RTLD_NOW | RTLD_LOCAL);
    if (fake.handle == NULL) {
        return -1;
    }
    void *set = dlsym(fake.handle, "fake_nvml_set");
    void *num_open = dlsym(fake.handle, "fake_nvml_num_open");
    memcpy(&fake.set, &set, sizeof set);
    memcpy(&fake.num_open, &num_open, sizeof num_open);
    fake.set(&busy);
    *state = &fake;
    return 0;
}

static int teardown(void **state)
{
    return dlclose(((struct fake *)*state)->handle);
}

static void reads_a_device(void **state)
{
    const struct fake *fake = *state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err = {0};
    struct hlm_nvml *nvml = NULL;
    check_ok(hlm_nvml_open(HLM_FAKE_NVML, "00000000:1B:00.0", 7, &nvml, &err), &err);
    assert_int_equal(fake->num_open(), 1);
    const struct hlm_nvml_state now = hlm_nvml_read(nvml);
    check_close(now.sm_clock_hz, 1.98e9, 1e-12);
    check_close(now.memory_clock_hz, 2.619e9, 1e-12);
    check_close(now.power_w, 690.5, 1e-12);
    check_close(now.temperature_c, 66.0, 1e-12);
    assert_true(now.knows_reasons);
    assert_string_equal(hlm_nvml_reasons_text(arena, &now, true), "power cap, heat");
    assert_string_equal(hlm_nvml_reasons_text(arena, &now, false),
                        "clock setting, power cap, heat");
    assert_string_equal(hlm_nvml_driver(arena, nvml), "550.54.15");
    hlm_nvml_close(nvml);
    assert_int_equal(fake->num_open(), 0);
    hlm_arena_free(arena);
}

static void what_is_not_told_is_unknown(void **state)
{
    const struct fake *fake = *state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err = {0};
    struct hlm_nvml *nvml = NULL;
    const struct nvml_device mute = {0, 1000, 0, 30, 0x1};
    fake->set(&mute);
    check_ok(hlm_nvml_open(HLM_FAKE_NVML, NULL, 0, &nvml, &err), &err);
    const struct hlm_nvml_state now = hlm_nvml_read(nvml);
    check_near(now.sm_clock_hz, 0.0, 0.0);
    check_close(now.memory_clock_hz, 1e9, 1e-12);
    assert_string_equal(hlm_nvml_reasons_text(arena, &now, true), "none"); /* idle slows nobody */
    assert_string_equal(hlm_nvml_reasons_text(arena, &now, false), "idle");
    hlm_nvml_close(nvml);
    fake->set(&busy);
    hlm_arena_free(arena);
}

static void no_library_no_device(void **state)
{
    (void)state;
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err = {0};
    struct hlm_nvml *nvml = NULL;
    check_fails(hlm_nvml_open("libno-such-thing.so.1", NULL, 0, &nvml, &err), HLM_ENV, &err,
                "no management library");
    check_fails(hlm_nvml_open("libm.so.6", NULL, 0, &nvml, &err), HLM_ENV, &err, "lacks functions");
    check_fails(hlm_nvml_open(HLM_FAKE_NVML, "00000000:FF:00.0", 0, &nvml, &err), HLM_ENV, &err,
                "knows no device 00000000:FF:00.0");
    check_fails(hlm_nvml_open(HLM_FAKE_NVML, "", 3, &nvml, &err), HLM_ENV, &err, "knows no device");
    assert_null(nvml);
    const struct hlm_nvml_state unknown = hlm_nvml_read(NULL);
    assert_false(unknown.knows_reasons);
    check_near(unknown.sm_clock_hz + unknown.power_w, 0.0, 0.0);
    assert_null(hlm_nvml_reasons_text(arena, &unknown, true));
    assert_null(hlm_nvml_driver(arena, NULL));
    hlm_nvml_close(NULL);
    hlm_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_device),
        cmocka_unit_test(what_is_not_told_is_unknown),
        cmocka_unit_test(no_library_no_device),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
