/* err: how a function says that it failed, and why.
 *
 * A fallible function returns enum hlm_status and takes a `struct hlm_err *err` last. On HLM_OK its
 * outputs are set and err is untouched; on any other status its outputs are untouched and err holds
 * one sentence that names what was expected and what was found (for input: the file and the JSON
 * path too). Whoever detects the problem writes the sentence; callers pass it on with HLM_TRY, and
 * only `main` prints it. Statuses are the exit codes of the program.
 */
#ifndef HLM_BASE_ERR_H
#define HLM_BASE_ERR_H

#include <stdarg.h>

#define HLM_MUST_CHECK __attribute__((warn_unused_result))
#define HLM_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))

/* X(constant, exit code, meaning) */
#define HLM_STATUS_MAP(X)                                                                          \
    X(HLM_OK, 0, "done")                                                                           \
    X(HLM_NO, 1, "the answer is no")                                                               \
    X(HLM_USAGE, 2, "bad usage")                                                                   \
    X(HLM_INPUT, 3, "bad input")                                                                   \
    X(HLM_ENV, 4, "environment")                                                                   \
    X(HLM_FAILED, 5, "failure while running")

enum hlm_status {
#define HLM_STATUS_ENUM(name, code, text) name = code,
    HLM_STATUS_MAP(HLM_STATUS_ENUM)
#undef HLM_STATUS_ENUM
};

struct hlm_err {
    enum hlm_status status;
    char text[1000]; /* cut with "..." where longer */
};

/* Writes the message (without a final newline) and returns `status`, so that a caller can
 * `return hlm_fail(err, HLM_INPUT, "%s: expected ..., found ...", path)`. err NULL: who asks wants
 * the status alone, and no message is made (functions that take NULL say so). */
enum hlm_status hlm_fail(struct hlm_err *err, enum hlm_status status, const char *format, ...)
    HLM_PRINTF(3, 4);
enum hlm_status hlm_fail_v(struct hlm_err *err, enum hlm_status status, const char *format,
                           va_list args) HLM_PRINTF(3, 0);

/* Puts "<context>: " before the message that err holds. */
void hlm_err_prefix(struct hlm_err *err, const char *format, ...) HLM_PRINTF(2, 3);

/* Leaves the function with the callee's status unless that is HLM_OK. */
#define HLM_TRY(call)                                                                              \
    do {                                                                                           \
        const enum hlm_status hlm_try_status_ = (call);                                            \
        if (hlm_try_status_ != HLM_OK) {                                                           \
            return hlm_try_status_;                                                                \
        }                                                                                          \
    } while (0)

/* A broken invariant of ours: prints file, line and condition to stderr and aborts. Stays on in
 * release builds; never used for input. */
#define HLM_ASSERT(condition)                                                                      \
    ((condition) ? (void)0 : hlm_assert_failed(#condition, __FILE__, __LINE__))
_Noreturn void hlm_assert_failed(const char *condition, const char *file, int line);

#endif
