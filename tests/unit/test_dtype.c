#include "tests/support/check.h"

#include "profiles/dtype.h"

static void texts_match_the_constants(void **state)
{
    (void)state;
    assert_string_equal(hlm_dtype_texts[HLM_DTYPE_FP32], "fp32");
    assert_string_equal(hlm_dtype_texts[HLM_DTYPE_BF16], "bf16");
    assert_string_equal(hlm_dtype_texts[HLM_DTYPE_NVFP4], "nvfp4");
    int count = 0;
    while (hlm_dtype_texts[count] != NULL) {
        count++;
    }
    assert_int_equal(count, HLM_NUM_DTYPES);
}

static void block_formats_count_their_scales(void **state)
{
    (void)state;
    check_near(hlm_dtype_bytes(HLM_DTYPE_FP32), 4.0, 0.0);
    check_near(hlm_dtype_bytes(HLM_DTYPE_TF32), 4.0, 0.0);
    check_near(hlm_dtype_bytes(HLM_DTYPE_FP16), 2.0, 0.0);
    check_near(hlm_dtype_bytes(HLM_DTYPE_BF16), 2.0, 0.0);
    check_near(hlm_dtype_bytes(HLM_DTYPE_FP8), 1.0, 0.0);
    check_near(hlm_dtype_bytes(HLM_DTYPE_MXFP8), 1.0 + 1.0 / 32.0, 0.0);
    check_near(hlm_dtype_bytes(HLM_DTYPE_NVFP4), 0.5 + 1.0 / 16.0, 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_match_the_constants),
        cmocka_unit_test(block_formats_count_their_scales),
    };
    return cmocka_run_group_tests_name("dtype", tests, NULL, NULL);
}
