#include "tests/support/check.h"

#include "exec/profiler/profiler_cases.h"
#include "exec/profiler/profiler_rates.h"

static struct hlm_profiler_case copy_of(int64_t bytes)
{
    return (struct hlm_profiler_case){.op = {.m = bytes, .bytes = 2.0 * (double)bytes},
                                      .is_copy = true};
}

/* The best rate of a kind holds, and of its dtype. */
static void foretells_by_kind(void **state)
{
    (void)state;
    struct hlm_profiler_rates rates = {0};
    const struct hlm_profiler_case small =
        hlm_profiler_product(HLM_DTYPE_BF16, HLM_GEMM_TN, 128, 128, 128, false);
    const struct hlm_profiler_case large =
        hlm_profiler_product(HLM_DTYPE_BF16, HLM_GEMM_NT, 256, 256, 256, true);
    hlm_profiler_rates_learn(&rates, &small, 2e-6);
    check_close(hlm_profiler_rates_foretell_s(&rates, &large), 16e-6, 1e-12);
    hlm_profiler_rates_learn(&rates, &large, 4e-6);
    check_close(hlm_profiler_rates_foretell_s(&rates, &small), 0.5e-6, 1e-12);
    hlm_profiler_rates_learn(&rates, &small, 2e-6); /* slower than the best: forgotten */
    check_close(hlm_profiler_rates_foretell_s(&rates, &small), 0.5e-6, 1e-12);
}

/* Operators that were not seen are as slow as the slowest that were. */
static void unknown_kinds_are_slow(void **state)
{
    (void)state;
    struct hlm_profiler_rates rates = {0};
    const struct hlm_profiler_case copy = copy_of(1000), sum = hlm_profiler_sum(1000);
    struct hlm_profiler_case other = sum;
    other.op.kind = HLM_OP_SUM_SQUARES;
    hlm_profiler_rates_learn(&rates, &copy, 1e-6); /* 2e9 bytes/s */
    check_close(hlm_profiler_rates_foretell_s(&rates, &other), other.op.bytes / 2e9, 1e-12);
    hlm_profiler_rates_learn(&rates, &sum, 12e-6); /* 1e9 bytes/s */
    check_close(hlm_profiler_rates_foretell_s(&rates, &other), other.op.bytes / 1e9, 1e-12);
    check_close(hlm_profiler_rates_foretell_s(&rates, &copy), 1e-6, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(foretells_by_kind),
        cmocka_unit_test(unknown_kinds_are_slow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
