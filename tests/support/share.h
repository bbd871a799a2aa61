/* share: the part of many like cases that this build runs, one of every HLM_TEST_SHARE. A release
 * build runs all. The sanitizer build (CMakePresets.json) has the same results to find, and looks
 * for what a sanitizer sees, which the cases of one kind have in common: it runs some of each. The
 * number is prime, so that the cases run fall into step with no loop that makes them. */
#ifndef HLM_TESTS_SUPPORT_SHARE_H
#define HLM_TESTS_SUPPORT_SHARE_H

#include <stdbool.h>
#include <stdint.h>

/* How many of `num` cases to run. */
static inline int32_t share_of(int32_t num)
{
    return (num + HLM_TEST_SHARE - 1) / HLM_TEST_SHARE;
}

/* Whether to run a case, counted from 0. */
static inline bool share_has(int64_t index)
{
    return index % HLM_TEST_SHARE == 0;
}

/* Whether all are run: what only many random cases bring about is asserted then alone. */
static inline bool share_is_whole(void)
{
    return HLM_TEST_SHARE == 1;
}

#endif
