#include "tests/support/check.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "exec/profiler/profiler_choices.h"

static struct hlm_cuda_choices some_choices(struct hlm_cuda_choice *list)
{
    for (int i = 0; i < 2; i++) {
        list[i] = (struct hlm_cuda_choice){
            .shape = {.epilogue = i == 0 ? HLM_CUDA_EPILOGUE_NONE : HLM_CUDA_EPILOGUE_GELU_AUX_BIAS,
                      .layout = i == 0 ? HLM_GEMM_NT : HLM_GEMM_TN,
                      .dtype = HLM_DTYPE_BF16,
                      .fp32_result = i == 0,
                      .accumulate = i == 0,
                      .m = 4096,
                      .n = 1024 + i,
                      .k = 768,
                      .alignment = {16, 8, 4}},
            .fused = i == 1,
            .time_s = 1.25e-4};
        for (int b = 0; b < HLM_CUDA_ALGORITHM_BYTES; b++) {
            list[i].algorithm[b] = (unsigned char)(37 * b + i);
        }
    }
    return (struct hlm_cuda_choices){.version = HLM_CUDA_CHOICES_VERSION,
                                     .cublas = 130100,
                                     .device = "NVIDIA H100 80GB HBM3",
                                     .major = 9,
                                     .num_sms = 132,
                                     .list = list,
                                     .num = 2};
}

static void check_equal(const struct hlm_cuda_choice *a, const struct hlm_cuda_choice *b)
{
    assert_int_equal(a->shape.epilogue, b->shape.epilogue);
    assert_int_equal(a->shape.layout, b->shape.layout);
    assert_int_equal(a->shape.dtype, b->shape.dtype);
    assert_true(a->shape.fp32_result == b->shape.fp32_result);
    assert_true(a->shape.accumulate == b->shape.accumulate && a->fused == b->fused);
    assert_true(a->shape.m == b->shape.m && a->shape.n == b->shape.n && a->shape.k == b->shape.k);
    assert_memory_equal(a->shape.alignment, b->shape.alignment, sizeof a->shape.alignment);
    assert_memory_equal(a->algorithm, b->algorithm, sizeof a->algorithm);
    check_close(a->time_s, b->time_s, 0.0);
}

struct fixture {
    struct hlm_arena *arena;
    struct hlm_err err;
    char folder[32];
    const char *path;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->arena = hlm_arena_new();
    strcpy(fixture->folder, "/tmp/test_choices_XXXXXX");
    *state = fixture;
    if (mkdtemp(fixture->folder) == NULL) {
        return -1;
    }
    fixture->path = hlm_arena_printf(fixture->arena, "%s/products.json", fixture->folder);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    unlink(fixture->path);
    rmdir(fixture->folder);
    hlm_arena_free(fixture->arena);
    free(fixture);
    return 0;
}

static void come_back_as_they_were(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_cuda_choice list[2];
    const struct hlm_cuda_choices choices = some_choices(list);
    struct hlm_cuda_choices again;
    check_ok(hlm_profiler_choices_write(fixture->arena, &choices, fixture->path, &fixture->err),
             &fixture->err);
    check_ok(hlm_profiler_choices_read(fixture->arena, fixture->path, &again, &fixture->err),
             &fixture->err);
    assert_int_equal(again.num, 2);
    assert_int_equal(again.version, choices.version);
    assert_true(again.cublas == choices.cublas);
    assert_string_equal(again.device, choices.device);
    assert_int_equal(again.major, 9);
    assert_int_equal(again.num_sms, 132);
    for (int i = 0; i < 2; i++) {
        check_equal(&again.list[i], &list[i]);
    }
}

/* Bytes that are no bytes are refused with their place. */
static void refuses_other_digits(void **state)
{
    struct fixture *fixture = *state;
    struct hlm_cuda_choice list[2];
    const struct hlm_cuda_choices choices = some_choices(list);
    struct hlm_cuda_choices again = {0};
    const char *text = NULL;
    size_t length = 0;
    check_ok(hlm_profiler_choices_write(fixture->arena, &choices, fixture->path, &fixture->err),
             &fixture->err);
    check_ok(hlm_file_read(fixture->arena, fixture->path, 1 << 20, &text, &length, &fixture->err),
             &fixture->err);
    char *spoiled = hlm_arena_strdup(fixture->arena, text);
    strstr(strstr(spoiled, "algorithm") + 9, "0025")[0] = 'g';
    check_ok(hlm_file_write(fixture->path, spoiled, strlen(spoiled), &fixture->err), &fixture->err);
    check_fails(hlm_profiler_choices_read(fixture->arena, fixture->path, &again, &fixture->err),
                HLM_INPUT, &fixture->err, "$.list[0].algorithm: expected 128 hexadecimal digits");
    assert_int_equal(again.num, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(come_back_as_they_were, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_other_digits, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
