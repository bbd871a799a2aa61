#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char cut_mark[] = "...";

/* A message that did not fit says so at its end, so that nobody takes half a path for a whole one.
 */
static void mark_cut(struct hlm_err *err, int wanted)
{
    if (wanted >= (int)sizeof err->text) {
        memcpy(err->text + sizeof err->text - sizeof cut_mark, cut_mark, sizeof cut_mark);
    }
}

enum hlm_status hlm_fail_v(struct hlm_err *err, enum hlm_status status, const char *format,
                           va_list args)
{
    if (err != NULL) {
        err->status = status;
        mark_cut(err, vsnprintf(err->text, sizeof err->text, format, args));
    }
    return status;
}

enum hlm_status hlm_fail(struct hlm_err *err, enum hlm_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    hlm_fail_v(err, status, format, args);
    va_end(args);
    return status;
}

void hlm_err_prefix(struct hlm_err *err, const char *format, ...)
{
    char old[sizeof err->text];
    memcpy(old, err->text, sizeof old);

    va_list args;
    va_start(args, format);
    int length = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);

    if (length < (int)sizeof err->text) {
        const size_t used = (size_t)length;
        length += snprintf(err->text + used, sizeof err->text - used, ": %s", old);
    }
    mark_cut(err, length);
}

_Noreturn void hlm_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "hlmplan: %s:%d: broken invariant: %s\n", file, line, condition);
    abort();
}
