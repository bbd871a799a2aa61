/* check: cmocka plus the few assertions that it lacks. */
#ifndef HLM_TESTS_SUPPORT_CHECK_H
#define HLM_TESTS_SUPPORT_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"

/* |actual - expected| <= tolerance * max(1e-300, |expected|) */
#define check_close(actual, expected, tolerance)                                                   \
    do {                                                                                           \
        const double check_a_ = (actual), check_e_ = (expected);                                   \
        if (!(fabs(check_a_ - check_e_) <= (tolerance)*fmax(1e-300, fabs(check_e_)))) {            \
            fail_msg("%s is %.17g, expected %.17g (relative %.3g)", #actual, check_a_, check_e_,   \
                     (double)(tolerance));                                                         \
        }                                                                                          \
    } while (0)

#define check_near(actual, expected, absolute)                                                     \
    do {                                                                                           \
        const double check_a_ = (actual), check_e_ = (expected);                                   \
        if (!(fabs(check_a_ - check_e_) <= (absolute))) {                                          \
            fail_msg("%s is %.17g, expected %.17g +- %.3g", #actual, check_a_, check_e_,           \
                     (double)(absolute));                                                          \
        }                                                                                          \
    } while (0)

/* The call succeeds; its message is printed when it does not. */
#define check_ok(call, err)                                                                        \
    do {                                                                                           \
        if ((call) != HLM_OK) {                                                                    \
            fail_msg("%s: %s", #call, (err)->text);                                                \
        }                                                                                          \
    } while (0)

/* The call fails with this status, and its message holds `part`. */
#define check_fails(call, expected_status, err, part)                                              \
    do {                                                                                           \
        const enum hlm_status check_s_ = (call);                                                   \
        if (check_s_ != (expected_status) || strstr((err)->text, (part)) == NULL) {                \
            fail_msg("%s: status %d, message \"%s\"; expected status %d with \"%s\"", #call,       \
                     (int)check_s_, (err)->text, (int)(expected_status), (part));                  \
        }                                                                                          \
    } while (0)

#endif
